"""The HTTP server of `python -m serving.app`: cheroot, a threaded server in plain Python that runs wherever Python does.

Flask's own is for development (unbounded threads, no time limits), waitress keeps megabytes of an endless answer in memory
before a slow viewer holds it back, and gunicorn runs on Unix only and decides itself how it stops.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import socket
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

from fer_keras.errors import ConfigError
from serving.patience import PatientSocket
from serving.settings import ServerConfig, is_loopback, path_below

if TYPE_CHECKING:
    from flask import Flask

log = logging.getLogger("fer_keras.serving")

#: After a signal the process is gone in this time, whatever a driver or a client does.
STOP_S = 1.8
#: What the system may hold back for a slow viewer, who would else see what was seconds ago.
SEND_BUFFER_BYTES = 192 * 1024
_DRAIN_BYTES = 1 << 16
#: An answer that is there before the body waits so long for the rest of it.
_DRAIN_S = 2.0
#: Of a request's line and headers together.
MAX_HEADER_BYTES = 1 << 16


def serve(app: Flask, config: ServerConfig) -> int:
    """Serve until SIGTERM or SIGINT, then close everything within STOP_S. Returns the exit code.

    Raises ConfigError where the address can't be listened on.
    """
    server = make_server(app, config)
    engine = app.extensions["fer_keras"]
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)
    threading.Thread(target=server.serve, name="accept", daemon=True).start()
    if not is_loopback(config.host):
        log.warning("this is plain HTTP: on a network that others use, put a proxy with TLS in front")
    print(f"{address(config.host, server.bind_addr[1], path_below())}  (Ctrl-C stops)", flush=True)
    engine.start()
    while not stopping.wait(0.5):  # a wait without end would not see signals on Windows
        pass
    # The rest is done by a thread that this one does not wait for longer than promised.
    closing = threading.Thread(target=lambda: (engine.close(), server.stop()), daemon=True)
    closing.start()
    closing.join(STOP_S)
    log.info("stopped")
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads inside a camera driver or a model can't be ended, and would crash a Python that winds down around them.
    os._exit(0)


def address(host: str, port: int, below: str = "") -> str:
    """The URL at which a browser on this machine finds a server that listens there. below: as `path_below` tells it."""
    if host in ("127.0.0.1", "::1", "0.0.0.0", "::", ""):  # noqa: S104
        host = "localhost"
    return f"http://[{host}]:{port}{below}/" if ":" in host else f"http://{host}:{port}{below}/"


def make_server(app: Flask, config: ServerConfig) -> Any:
    """A cheroot server that listens already; `serve()` answers, below SCRIPT_NAME where that is set.

    Raises ConfigError where the address can't be taken, or SCRIPT_NAME is no path.
    """
    below = path_below()
    from cheroot import wsgi
    from cheroot.server import HTTPConnection, HTTPRequest

    class Request(HTTPRequest):
        """Reads away what an early answer left unread, in small pieces; cheroot would take it into memory at once."""

        def parse_request(self) -> None:
            self.conn.socket.begin()
            super().parse_request()
            self.conn.socket.go_on()

        def send_headers(self) -> None:
            if self.chunked_read and self.status[:1] in (b"4", b"5"):
                self.close_connection = True  # where the body of such a request ends is not known without reading it
            self.conn.socket.hurry(_DRAIN_S)
            try:
                while not self.close_connection and not self.chunked_read and getattr(self.rfile, "remaining", 0) > 0:
                    if not self.rfile.read(min(_DRAIN_BYTES, self.rfile.remaining)):
                        self.close_connection = True
            except OSError:  # the client is too slow or gone
                self.close_connection = True
            super().send_headers()

    class Connection(HTTPConnection):
        RequestHandlerClass = Request

        def __init__(self, server: Any, accepted: socket.socket, *args: Any) -> None:
            patient = PatientSocket.take_over(accepted, config.client_timeout_s, config.min_kb_per_s * 2**10)
            super().__init__(server, patient, *args)

        def close(self) -> None:
            super().close()
            # What was still to be written to a client that left: Python 3.13 would complain of it when the writer is collected.
            self.wfile.raw.close()

    server = wsgi.Server(
        (config.host, config.port),
        _mounted(app, below) if below else app,
        numthreads=config.threads,
        server_name="fer_keras",
        request_queue_size=128,
        timeout=config.client_timeout_s,
        shutdown_timeout=0.5,
    )
    server.ConnectionClass = Connection
    server.max_request_body_size = config.largest_body
    server.max_request_header_size = MAX_HEADER_BYTES  # without it cheroot takes headers of any size into memory
    server.error_log = _log
    try:
        server.prepare()
    except OSError as error:
        told = re.search(r"\[Errno -?\d+\] ([^()]+)", str(error))  # cheroot puts the system's words into its own
        reason = told[1].strip() if told else error.strerror or error
        raise ConfigError(
            f"{config.host}:{config.port} can't be listened on ({reason}); choose another --port, or a --host of this machine"
        ) from error
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return server


def _mounted(app: Flask, below: str) -> Any:
    """The application below a path; what is asked elsewhere is not there."""
    from werkzeug.middleware.dispatcher import DispatcherMiddleware
    from werkzeug.wrappers import Response

    from serving.security import HEADERS

    elsewhere = Response(f"this server answers below {below}/ (SCRIPT_NAME)\n", 404, HEADERS)
    return DispatcherMiddleware(elsewhere, {below: app})


#: What a system says of a client that can't be reached, beside ConnectionError and TimeoutError.
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH)


def _log(message: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
    # Clients that go away or get stuck are no news.
    error = sys.exc_info()[1]
    gone = isinstance(error, (ConnectionError, TimeoutError)) or getattr(error, "errno", None) in _UNREACHABLE
    log.log(level if level >= logging.WARNING and not gone else logging.DEBUG, message, exc_info=traceback and not gone)
