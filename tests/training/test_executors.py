"""Tasks in this process and in others, with one that fails and one whose process dies."""

import os
import signal
import time

import pytest

from fer_keras.errors import TrainingError
from training.executors import ProcessExecutor, SerialExecutor


def work(task):
    """What the processes do; they find it by its name."""
    if task == "fail":
        raise TrainingError("the loss became nan;\nlower the learning rate")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
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


def test_who_stops_listening_stops_what_is_under_way(tmp_path):
    running = ProcessExecutor(2, tmp_path / "log").run(work, ["sleep", "a", "sleep"])
    assert next(running).task == "a"
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 20
    with pytest.raises(StopIteration):
        next(running)
