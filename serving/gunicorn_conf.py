"""gunicorn -c python:serving.gunicorn_conf 'serving.app:create_app()'

One process, since streams and recordings live in it, and threads enough for every viewer. Settings come from FER_KERAS_*.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from serving.settings import config_from_environment

_config = config_from_environment()

bind = f"{_config.host}:{_config.port}" if ":" not in _config.host else f"[{_config.host}]:{_config.port}"
workers = 1
worker_class = "gthread"
threads = _config.threads
timeout = 60
# After a signal gunicorn waits so long for viewers who read nothing, then kills. Engine.close needs less.
graceful_timeout = 1


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
    """Stop what still runs."""
    worker.app.wsgi().extensions["fer_keras"].close()
