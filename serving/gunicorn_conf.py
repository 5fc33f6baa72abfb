"""gunicorn -c python:serving.gunicorn_conf 'serving.app:create_app()'

One process, since streams and recordings live in it, and threads enough for every viewer. Settings come from FER_KERAS_*.
Where gunicorn itself speaks TLS, clients are waited for as long as it likes.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import Any

from serving.server import SEND_BUFFER_BYTES
from serving.settings import config_from_environment

_config = config_from_environment()

bind = f"{_config.host}:{_config.port}" if ":" not in _config.host else f"[{_config.host}]:{_config.port}"
workers = 1
worker_class = "serving.gunicorn_worker.PatientWorker"
threads = _config.threads
timeout = 60
# After a signal gunicorn waits so long for viewers who read nothing, then kills. Engine.close needs less.
graceful_timeout = 1
sendfile = False  # it would wait for the client elsewhere than in the worker's sockets


def when_ready(server: Any) -> None:
    """Hold little back for slow viewers; what the system would by itself is seconds of the stream."""
    for listener in server.LISTENERS:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)


def post_worker_init(worker: Any) -> None:
    """Load the model at once, and let a signal end the endless answers, which gunicorn would wait for."""
    engine = worker.app.wsgi().extensions["fer_keras"]
    engine.start()
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        before = signal.getsignal(name)

        def stop(number: int, frame: FrameType | None, before: Any = before) -> None:
            # At once: where a viewer holds a thread until gunicorn kills, worker_exit is never reached.
            threading.Thread(target=engine.close, daemon=True).start()
            before(number, frame)

        signal.signal(name, stop)


def worker_exit(server: Any, worker: Any) -> None:
    """Stop what still runs, and end the process: a thread that waits for a client would keep it.

    One that could not begin ends as it would, with a code that says so.
    """
    if not worker.booted or worker.pid != os.getpid():  # gunicorn's main process calls this too, for one that is gone already
        return
    worker.app.wsgi().extensions["fer_keras"].close()
    leaving = sys.exc_info()[1]
    code = leaving.code if isinstance(leaving, SystemExit) else 0
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))
