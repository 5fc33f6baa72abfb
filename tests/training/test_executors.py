"""Tasks in this process and in others, with one that fails and one whose process dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from fer_keras.errors import TrainingError
from training.executors import ProcessExecutor, SerialExecutor


def work(task):
    """What the processes do; they find it by its name."""
    if task == "fail":
        raise TrainingError("the loss became nan;\nlower the learning rate")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(task, Path):
        task.write_text(str(os.getpid()))
        time.sleep(60)
    if task == "sleep":
        time.sleep(60)
    return task, os.environ.get("OMP_NUM_THREADS")


def outcomes(executor, tasks):
    return {outcome.task: outcome for outcome in executor.run(work, tasks)}


def test_a_task_that_fails_is_one_line_and_the_others_go_on():
    found = outcomes(SerialExecutor(), ["a", "fail", "b"])
    assert found["a"].result[0] == "a" and found["b"].result[0] == "b"
    assert found["fail"].error == "the loss became nan; lower the learning rate"
    assert found["fail"].result is None and found["a"].error is None


def test_a_process_that_dies_costs_its_own_task_only(tmp_path):
    found = outcomes(ProcessExecutor(2, tmp_path / "log"), ["a", "die", "b", "fail", "c"])
    assert {task for task, outcome in found.items() if outcome.error is None} == {"a", "b", "c"}
    assert "signal 9" in found["die"].error and "memory" in found["die"].error
    assert found["fail"].error == "the loss became nan; lower the learning rate"
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {found[task].result[1] for task in "abc"} == {str(share)}


@contextmanager
def few_files(free):
    """This process may open so many files more."""
    resource = pytest.importorskip("resource")  # Windows has none
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    there = {int(name) for name in os.listdir("/dev/fd")}
    lowest = [number for number in range(len(there) + free + 1) if number not in there]
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest[free], before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def outcomes_in_time(executor, tasks):
    """`outcomes`, or {} where they do not come: in a thread, so that waiting for ever is a failure and not a hang."""
    found = {}
    thread = threading.Thread(target=lambda: found.update(outcomes(executor, tasks)), daemon=True)
    thread.start()
    thread.join(20)
    return found


@pytest.mark.parametrize("free", [0, 3])  # none for the connection; enough for it, but not for the process
def test_a_process_that_cannot_be_started_is_an_error_of_its_task(tmp_path, free):
    outcomes_in_time(ProcessExecutor(1, tmp_path / "log"), ["a"])  # what multiprocessing opens once is open now
    with few_files(free):
        found = outcomes_in_time(ProcessExecutor(2, tmp_path / "log"), ["a", "b", "c"])
    assert set(found) == {"a", "b", "c"}
    for outcome in found.values():
        assert "no process could be started" in outcome.error and "Too many open files" in outcome.error


def test_a_task_that_cannot_be_pickled_is_an_error_and_the_others_go_on(tmp_path):
    unknown = lambda: None  # noqa: E731
    found = outcomes_in_time(ProcessExecutor(1, tmp_path / "log"), ["a", unknown, "b"])
    assert found["a"].result[0] == "a" and found["b"].result[0] == "b"
    assert "pickle" in found[unknown].error


def test_who_stops_listening_stops_what_is_under_way(tmp_path):
    running = ProcessExecutor(2, tmp_path / "log").run(work, ["sleep", "a", "sleep"])
    assert next(running).task == "a"
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 20
    with pytest.raises(StopIteration):
        next(running)


ALONE = """
import sys
from pathlib import Path
from test_executors import ProcessExecutor, work

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    try:
        list(ProcessExecutor(2, folder / "log").run(work, [folder / "one", folder / "two"]))
    except KeyboardInterrupt:
        sys.exit("stopped")
"""


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid):
    """A zombie, which a container may keep, is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_who_is_ended_by_another_leaves_no_process_at_work(tmp_path, name):
    (tmp_path / "alone.py").write_text(ALONE)
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent.parent)])}
    command = [sys.executable, str(tmp_path / "alone.py"), str(tmp_path)]
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        started = [tmp_path / "one", tmp_path / "two"]
        wait_until(lambda: all(file.is_file() and file.read_text() for file in started) or process.poll() is not None)
        workers = [int(file.read_text()) for file in started]
        process.send_signal(getattr(signal, name))
        said = process.communicate(timeout=30)[1]
    wait_until(lambda: not any(map(is_running, workers)))
    assert name == "SIGKILL" or (process.returncode, said) == (1, "stopped\n")


def test_sigterm_means_what_it_did_once_the_tasks_are_done(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    running = ProcessExecutor(1, tmp_path / "log").run(work, ["a", "b"])
    next(running)
    assert signal.getsignal(signal.SIGTERM) != before
    running.close()
    assert signal.getsignal(signal.SIGTERM) == before
