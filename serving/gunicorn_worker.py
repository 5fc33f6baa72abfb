"""gunicorn's threaded worker, over connections that are not waited for without end."""

from __future__ import annotations

from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from serving.patience import PatientSocket
from serving.settings import config_from_environment


class PatientWorker(ThreadWorker):
    """As `gthread`, with PatientSocket as its connections, save where gunicorn itself speaks TLS.

    gunicorn's sockets wait for ever, and the timeout of a worker is none of a client. What is overridden here is the same in the
    versions that are allowed, of which 24 to 27 were tried; 23 hands its connections about otherwise.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._config = config_from_environment()

    def enqueue_req(self, conn: Any) -> None:
        """A request is about to be read from a connection."""
        if not self.cfg.is_ssl:
            if not isinstance(conn.sock, PatientSocket):
                conn.sock = PatientSocket.take_over(conn.sock, self._config.client_timeout_s, self._config.min_kb_per_s * 2**10)
            conn.sock.begin()
        super().enqueue_req(conn)

    def handle_request(self, req: Any, conn: Any) -> Any:
        """The headers of a request are there."""
        if isinstance(conn.sock, PatientSocket):
            conn.sock.go_on()
        return super().handle_request(req, conn)

    def handle(self, conn: Any) -> Any:
        """Read and answer a request, in a thread of its own."""
        kept = super().handle(conn)
        # What the client still sends is read away here; gunicorn would do so in the one thread that accepts connections.
        if kept is False and isinstance(conn.sock, PatientSocket):
            conn.sock.linger()
        return kept
