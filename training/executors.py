"""Where tasks run: one after the other here, or side by side in processes of this machine.

An executor has one method, `run(function, tasks)`, which yields an Outcome for each task as it ends. function: importable by
name, and tasks and results plain values that pickle, so that the same call works on another machine. A task that fails, or
whose process dies, is an Outcome with an error; the others go on. Closing the generator stops what is under way.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

from fer_keras.cli import one_line
from fer_keras.runtime import usable_cores

_FAREWELL_S = 15


@dataclass(frozen=True)
class Outcome:
    """How a task ended: `result`, or `error` as one line."""

    task: Any
    result: Any = None
    error: str | None = None


class Executor(Protocol):
    """What runs tasks."""

    def run(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Outcome]:
        """Run function(task) for each task; outcomes come in the order in which they end."""


class SerialExecutor:
    """One task after the other, in this process."""

    def run(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Outcome]:
        """Run function(task) for each task."""
        for task in tasks:
            try:
                outcome = Outcome(task, result=function(task))
            except Exception as error:
                outcome = Outcome(task, error=one_line(error))
            yield outcome


class ProcessExecutor:
    """Tasks side by side in processes, each of which takes one after the other.

    jobs: how many processes. The processor's threads are divided among them, and with their number rounding changes. log: what
    they print is appended here. Ctrl-C ends them at once, so tasks must be such that they can be gone on with. SIGTERM does as
    Ctrl-C; where this process is killed they end too.
    """

    def __init__(self, jobs: int, log: Path) -> None:
        self.jobs, self.log = jobs, log

    def run(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[Outcome]:
        """Run function(task) for each task; a process that dies is replaced, and its task has an error."""
        waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for task in tasks:
            waiting.put(task)
        ended: queue.Queue[Outcome] = queue.Queue()
        lanes: list[_Lane] = []
        with _sigterm_as_ctrl_c():
            try:
                for _ in range(min(self.jobs, len(tasks))):
                    lanes.append(_Lane(function, waiting, ended, self._threads(), self.log))
                for _ in tasks:
                    yield ended.get()
            finally:
                for lane in lanes:
                    lane.stop()

    def _threads(self) -> int:
        return max(1, usable_cores() // self.jobs)


class _Lane:
    """A process, and the thread that hands it one task after the other."""

    def __init__(self, function: Callable, waiting: queue.SimpleQueue, ended: queue.Queue, threads: int, log: Path) -> None:
        self._function, self._waiting, self._ended = function, waiting, ended
        self._threads, self._log = threads, log
        self._process: Any = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            if self._process is not None:
                self._process.kill()
        self._thread.join()

    def _serve(self) -> None:
        while not self._stopped:
            try:
                task = self._waiting.get_nowait()
            except queue.Empty:
                break
            self._ended.put(self._done(task))
        if self._process is not None:
            self._connection.close()  # it has nobody to work for any more, and ends
            self._process.join(_FAREWELL_S)
            self._process.kill()
            self._process.join()

    def _done(self, task: Any) -> Outcome:
        try:
            with self._lock:
                if self._stopped:
                    return Outcome(task, error="stopped")
                if self._process is None or not self._process.is_alive():
                    self._start()
        except Exception as error:  # too little memory for one more process, for one
            return Outcome(task, error=f"no process could be started: {one_line(error)}; try fewer --jobs")
        try:
            self._connection.send((self._function, task))
            result, error = self._connection.recv()
            return Outcome(task, result, error)
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            hint = ", as it is when memory runs out; try fewer --jobs" if code == -signal.SIGKILL else ""
            return Outcome(task, error=f"its process {how}{hint}; its last words, if any, are in {self._log}")
        except Exception as error:  # a task that can't be pickled; the process goes on
            return Outcome(task, error=one_line(error))

    def _start(self) -> None:
        # "spawn": a forked copy of a process that has run TensorFlow hangs.
        context = multiprocessing.get_context("spawn")
        connection, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self._threads, str(self._log)), daemon=True)
        try:
            process.start()
        except BaseException:
            connection.close()
            raise
        finally:
            theirs.close()  # else its end would not be noticed
        self._connection, self._process = connection, process  # only now: one that never started can't be joined


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt: by default it would end this process at once, with nobody left to stop the others."""
    if threading.current_thread() is not threading.main_thread():  # signals reach that one only
        yield
        return

    def asked(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would break off the stopping
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, asked)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end_with_parent() -> None:
    """Wait in a thread for the end of the process that started this one, then end: nobody would take the result."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(connection: Connection, threads: int, log: str) -> None:
    """What a process does: tasks, until there is nobody to give any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(threads)
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # else the first one takes the whole memory of a GPU
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    while True:
        try:
            function, task = connection.recv()
        except EOFError:
            return
        try:
            answer = (function(task), None)
        except Exception as error:
            answer = (None, one_line(error))
        connection.send(answer)
