"""Bodies of requests while they come: how many at once, and how much memory all of them take together."""

from __future__ import annotations

import ctypes
import functools
import json
import mmap
import random
import sys
import threading
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any

from fer_keras import runtime
from serving.patience import TooSlowError
from serving.settings import RECEIVED_AT_ONCE
from serving.uploads import RequestError

if TYPE_CHECKING:
    from flask import Request

    from serving.settings import ServerConfig

#: How long a request waits for others to make room, before it is sent away.
WAIT_S = 2.0
#: A file of a form is kept in memory up to this size, and above it on the disk; all that is text in it together is no longer.
FORM_PART_BYTES = 2**19
_PIECE_BYTES = 2**16
#: So much of each body is let in though there is no memory left for more: else nobody could log in or end a recording.
_SMALL_BYTES = 2**16
#: Memory of bodies this large is given back to the system, so long after the last one.
_LARGE_BYTES, _GIVE_BACK_S = 2**20, 3.0


class Reception:
    """Lets bodies in. Thread-safe.

    A body has one of a few places while it is read, so that who sends slowly can't hold all threads; and it counts against
    the memory that all may take together, as it comes, until its request is over.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.most_bytes, self.largest_bytes = config.bodies_bytes, config.largest_body
        self._parsing = threading.Lock()
        self._places = threading.BoundedSemaphore(RECEIVED_AT_ONCE)
        self._held_bytes = 0
        self._freed = threading.Condition()
        self._giving_back = False

    def body_of(self, request: Request) -> Body | None:
        """Read this request's body through here from now on. None where it has none; else close what is returned in the end."""
        length = request.content_length
        if not length and "chunked" not in request.headers.get("Transfer-Encoding", "").lower():
            return None
        body = Body(self, request.environ["wsgi.input"], length)
        if request.mimetype == "multipart/form-data":
            body.kept_bytes = FORM_PART_BYTES
        request.environ["wsgi.input"] = body
        return body

    def json_of(self, request: Request) -> Any:
        """What is in a body of JSON. Raises ValueError or RecursionError where it is none.

        It is gathered outside of what `malloc` gives, where it would be copied while it grows and leave its memory behind. Bodies
        are taken apart one at a time, since each takes three times its own memory meanwhile.
        """
        stream = request.stream  # which is not there for a body that is too large
        most = request.content_length or request.max_content_length or 0
        with mmap.mmap(-1, most + 1) as gathered:
            while piece := stream.read(_PIECE_BYTES):
                gathered.write(piece)
            with self._parsing, memoryview(gathered) as all_of_it, all_of_it[: gathered.tell()] as sent:
                return json.loads(str(sent, json.detect_encoding(bytes(sent[:4])), "surrogatepass"))

    def enter(self) -> None:
        """Take a place. Raises RequestError (503) where none is free for WAIT_S."""
        if not self._places.acquire(timeout=WAIT_S):
            raise RequestError(503, f"{RECEIVED_AT_ONCE} requests are being received already; try again later")

    def leave(self) -> None:
        """Give a place back."""
        self._places.release()

    def grow(self, more_bytes: int, wait_s: float) -> None:
        """Take some memory. Raises RequestError (503) where there is none within `wait_s`."""
        with self._freed:
            if not self._freed.wait_for(lambda: self._held_bytes + more_bytes <= self.most_bytes, wait_s):
                raise RequestError(503, f"requests of {self.most_bytes} bytes are being answered already; try again later")
            self._held_bytes += more_bytes

    def shrink(self, fewer_bytes: int) -> None:
        """Give memory back."""
        with self._freed:
            self._held_bytes -= fewer_bytes
            self._freed.notify_all()
            if fewer_bytes < _LARGE_BYTES:
                return
            soon = not self._giving_back
            self._giving_back = True
        trim_thread()
        if soon:
            timer = threading.Timer(_GIVE_BACK_S, self._give_back)
            timer.daemon = True
            timer.start()

    def _give_back(self) -> None:
        with self._freed:
            self._giving_back = False
        trim_process()


class Body:
    """The body of one request, as the application reads it.

    stream: where it comes from. length: in bytes; None where it is not told, and the server may take all of it at once.
    kept_bytes: how much of it is kept in memory at most; None: all of it.
    """

    def __init__(self, reception: Reception, stream: IO[bytes], length: int | None) -> None:
        self._reception, self._stream, self._length = reception, stream, length
        self.kept_bytes: int | None = None
        self._received = self._held_bytes = 0
        # Not the same for all, who would all be sent away at one moment though one of them would be enough.
        self._wait_s = random.uniform(WAIT_S / 2, WAIT_S)
        self._has_place = self._ended = False

    def read(self, size: int = -1) -> bytes:
        """Some bytes, none at the end. Raises RequestError: 408 where they come too slowly, 503 where there is no room."""
        if self._ended:
            return self._stream.read(size)
        if not self._has_place:
            self._reception.enter()
            self._has_place = True
            if self._length is None:
                self._hold(self._reception.largest_bytes)
        try:
            data = self._stream.read(size)
        except TooSlowError:
            raise RequestError(408, "the request came too slowly; try again over a better connection") from None
        self._received += len(data)
        kept_bytes = self._received if self.kept_bytes is None else min(self._received, self.kept_bytes)
        self._hold(kept_bytes - _SMALL_BYTES)
        if not data or self._received == self._length:
            self._end()
        return data

    def readline(self, size: int = -1) -> bytes:
        """WSGI wants it; nothing here reads lines."""
        raise NotImplementedError

    def close(self) -> None:
        """The request is over."""
        self._end()
        held, self._held_bytes = self._held_bytes, 0
        self._reception.shrink(held)

    def _hold(self, wanted_bytes: int) -> None:
        if wanted_bytes > self._held_bytes:
            start = time.monotonic()
            self._reception.grow(wanted_bytes - self._held_bytes, max(0.0, self._wait_s))
            self._wait_s -= time.monotonic() - start
            self._held_bytes = wanted_bytes

    def _end(self) -> None:
        self._ended = True
        if self._has_place:
            self._has_place = False
            self._reception.leave()


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        return libc if libc.gnu_get_libc_version and libc.malloc_trim else None
    return None


_M_TRIM_THRESHOLD = -1  # of malloc.h
_one_at_a_time = threading.Lock()


def trim_thread() -> None:
    """Give the free end of the memory that this thread allocates from back to the system, where the C library can be told to.

    Of itself glibc keeps up to 64 MB for each of many threads (fer_keras.runtime.keep_freed_memory), which the analysis of frames
    wants, and requests do not. It looks at that end when something large is freed, and at no other time.
    """
    libc = _glibc()
    if libc is None:
        return
    runtime.keep_freed_memory()  # which could not change what is set here
    with _one_at_a_time:
        libc.mallopt(_M_TRIM_THRESHOLD, 2**20)
        bytes(2**17)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**26)


def trim_process() -> None:
    """Give what is free between all that is in use back to the system. The analysis of the next frame takes some ms longer."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)
