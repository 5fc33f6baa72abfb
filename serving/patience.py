"""Connections to clients that must get on: who gives or takes nothing, or next to nothing, is dropped.

A request has a thread from its first byte to the last byte of its answer, in both servers. cheroot knows how long a client may be
silent, so that one byte now and then keeps a thread for days; gunicorn's threads wait without end.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import time
from collections.abc import Callable
from typing import Any

_LINGER_S, _LINGER_BYTES = 2.0, 1 << 16


class TooSlowError(ConnectionResetError):
    """A client gave or took too little. To the servers it is one that hung up, of which they make no fuss."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the client is too slow")


class _Patience:
    """Seconds that a client may still be waited for. What it moves earns it time, up to what it had at first."""

    def __init__(self, most_s: float, least_bytes_per_s: float) -> None:
        self.most_s, self.least_bytes_per_s = most_s, least_bytes_per_s
        self.left_s, self.earns = most_s, True

    def count(self, waited_s: float, moved_bytes: int) -> None:
        earned_s = moved_bytes / self.least_bytes_per_s if self.earns else 0.0
        self.left_s = min(self.most_s, self.left_s - waited_s + earned_s)


class PatientSocket(socket.socket):
    """A client's connection, whose reads and writes raise TooSlowError once it has been waited for long enough.

    A request's line and headers have to be there after `timeout_s` seconds. Of its body and its answer at least
    `least_bytes_per_s` must move, over any such time. Only time counts in which a read or a write waits for the client. Used
    by one thread at a time.
    """

    timeout_s: float
    least_bytes_per_s: float

    @classmethod
    def take_over(cls, accepted: socket.socket, timeout_s: float, least_bytes_per_s: float) -> PatientSocket:
        """The connection of a plain socket, which is of no use any more."""
        family, kind, protocol = accepted.family, accepted.type, accepted.proto
        taken = cls(family, kind, protocol, fileno=accepted.detach())
        taken.timeout_s, taken.least_bytes_per_s, taken._asked_s = timeout_s, least_bytes_per_s, None
        taken.begin()
        return taken

    def begin(self) -> None:
        """A request is about to be read."""
        self._coming, self._going = (_Patience(self.timeout_s, self.least_bytes_per_s) for _ in range(2))
        self._coming.earns = False

    def go_on(self) -> None:
        """Its headers are there; a body may follow."""
        self._coming = _Patience(self.timeout_s, self.least_bytes_per_s)

    def hurry(self, seconds: float) -> None:
        """What still comes is of no interest; wait no longer than that for all of it."""
        self._coming.left_s, self._coming.earns = min(self._coming.left_s, seconds), False

    def linger(self) -> None:
        """Say that nothing more follows, and read away what still comes, for a moment: else the end of an answer can be lost."""
        if self._coming.left_s > 0 and self._going.left_s > 0:
            with contextlib.suppress(OSError):
                self.shutdown(socket.SHUT_WR)
                self.hurry(_LINGER_S)
                count = 0
                while count < _LINGER_BYTES and (piece := self.recv(4096)):
                    count += len(piece)
        self.hurry(0)

    def settimeout(self, seconds: float | None) -> None:
        """As of any socket, but the client's patience still holds."""
        self._asked_s = seconds
        super().settimeout(seconds)

    def setblocking(self, blocking: bool) -> None:
        """As of any socket, but the client's patience still holds."""
        self.settimeout(None if blocking else 0.0)

    def recv(self, *args: Any) -> bytes:
        """As of any socket. Raises TooSlowError."""
        return self._timed(self._coming, super().recv, *args)

    def recv_into(self, *args: Any) -> int:
        """As of any socket. Raises TooSlowError."""
        return self._timed(self._coming, super().recv_into, *args)

    def send(self, *args: Any) -> int:
        """As of any socket. Raises TooSlowError."""
        return self._timed(self._going, super().send, *args)

    def sendall(self, data: Any, *flags: int) -> None:
        """As of any socket. Raises TooSlowError."""
        left = memoryview(data).cast("B")
        while left:
            left = left[self.send(left, *flags) :]

    def _timed(self, patience: _Patience, operation: Callable[..., Any], *args: Any) -> Any:
        if patience.left_s <= 0:
            raise TooSlowError
        asked_s = self._asked_s
        super().settimeout(patience.left_s if asked_s is None else min(patience.left_s, asked_s))
        start = time.monotonic()
        try:
            moved = operation(*args)
        except TimeoutError:
            if asked_s is not None and asked_s < patience.left_s:
                patience.count(time.monotonic() - start, 0)
                raise
            patience.left_s = 0.0
            raise TooSlowError from None
        patience.count(time.monotonic() - start, moved if isinstance(moved, int) else len(moved))
        return moved
