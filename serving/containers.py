"""What a video file says of itself that OpenCV does not tell: whether it was cut short, and whether its count of frames is true.

Only sizes and durations are read, of MP4 and its kin, Matroska and WebM, and AVI; of other formats nothing is known.
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

#: Less of a film than this is shown where an edit list hides frames of it; times are rounded.
_ALL_SHOWN = 0.99


@dataclass(frozen=True)
class FileFacts:
    """cut: the file ends before its parts do. counted: its head has a count of frames, none of which is hidden."""

    cut: bool = False
    counted: bool = False


#: What a part is called, where its content starts, and where it ends.
_Part = tuple[bytes, int, int]


def facts(path: str | os.PathLike) -> FileFacts:
    """Read them; both False where nothing is known, as of a file that is none of these formats, or damaged."""
    try:
        with Path(path).open("rb") as file:
            start, size = file.read(12), file.seek(0, os.SEEK_END)
            if start[4:8] == b"ftyp":
                return FileFacts(_cut(_boxes(file, 0, size), size), _all_shown(file, size))
            if start[:4] == b"RIFF":
                return FileFacts(_cut(_chunks(file, size), size), counted=True)
            # Matroska has no count: what OpenCV tells is reckoned from the length, which may be that of the sound.
            return FileFacts(start[:4] == _EBML and _cut(_elements(file, size), size))
    except (OSError, ValueError, ArithmeticError, struct.error):
        return FileFacts()


def _cut(parts: Iterator[_Part], size: int) -> bool:
    return any(end > size for _, _, end in parts)


def _boxes(file: IO[bytes], at: int, end: int) -> Iterator[_Part]:
    """The boxes of an MP4 that begin between two places."""
    while at + 8 <= end:
        file.seek(at)
        head = file.read(16)
        size, kind = struct.unpack(">I4s", head[:8])
        body = 16 if size == 1 else 8
        if size == 1:
            size = struct.unpack(">Q", head[8:])[0]
        elif size == 0:  # it goes on to the end
            size = end - at
        if size < body:
            return
        yield kind, at + body, at + size
        at += size


def _chunks(file: IO[bytes], end: int) -> Iterator[_Part]:
    """The outermost chunks of an AVI; one of more than a gigabyte has several."""
    at = 0
    while at + 8 <= end:
        file.seek(at)
        kind, size = struct.unpack("<4sI", file.read(8))
        yield kind, at + 8, at + 8 + size
        at += 8 + size + size % 2


_EBML = b"\x1a\x45\xdf\xa3"


def _elements(file: IO[bytes], end: int) -> Iterator[_Part]:
    """The outermost elements of a Matroska file, until one whose size is not known, as of what is written to a pipe."""
    at = 0
    while at + 12 <= end:
        file.seek(at)
        head = file.read(12)
        long = 9 - head[4].bit_length()  # all kinds of the outermost have four bytes
        size = int.from_bytes(head[4 : 4 + long], "big") & ((1 << 7 * long) - 1)
        if long > 8 or size == (1 << 7 * long) - 1:
            return
        yield head[:4], at + 4 + long, at + 4 + long + size
        at += 4 + long + size


def _all_shown(file: IO[bytes], size: int) -> bool:
    """Whether an MP4's head lists all frames, and no edit list hides some, as after a cut without coding anew."""

    def inside(start: int, end: int, *path: bytes) -> Iterator[tuple[int, int]]:
        found = [each[1:] for each in _boxes(file, start, end) if each[0] == path[0]]
        return itertools.chain.from_iterable(inside(*each, *path[1:]) for each in found) if path[1:] else iter(found)

    def read(at: int, form: str) -> tuple[int, ...]:
        file.seek(at)
        return struct.unpack(form, file.read(struct.calcsize(form)))

    counted = False
    for moov in inside(0, size, b"moov"):
        if any(inside(*moov, b"mvex")):  # the frames are listed piece by piece, all over the file
            return False
        [(mvhd, _)] = inside(*moov, b"mvhd")
        tick_hz, _ = _timing(read, mvhd)
        for trak in inside(*moov, b"trak"):
            for hdlr, _ in inside(*trak, b"mdia", b"hdlr"):
                if read(hdlr, ">8x4s") != (b"vide",):
                    continue
                [(mdhd, _)] = inside(*trak, b"mdia", b"mdhd")
                media_hz, duration = _timing(read, mdhd)
                counted = True
                for elst, _ in inside(*trak, b"edts", b"elst"):
                    version, count = read(elst, ">B3xI")
                    form, step = (">Qq", 20) if version else (">Ii", 12)
                    edits = [read(elst + 8 + number * step, form) for number in range(count)]
                    shown = sum(length for length, begin in edits if begin >= 0)
                    if shown / tick_hz < _ALL_SHOWN * duration / media_hz:
                        return False
    return counted


def _timing(read: Callable[[int, str], tuple[int, ...]], at: int) -> tuple[int, ...]:
    """(ticks a second, duration in ticks) of a box mvhd or mdhd."""
    return read(at + 20, ">IQ") if read(at, ">B")[0] else read(at + 12, ">II")
