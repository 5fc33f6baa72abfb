"""Films that OpenCV can't write, and a run over films that is killed."""

import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np

#: Saves its place in each frame up to one, and is killed behind another, in the midst of a line.
KILLED = """
import os, signal, sys
from serving import predict, videos
saved, last = map(int, sys.argv[1:3])
videos.CHECKPOINT_S = 0
save = videos.GrowingTable.checkpoint
def checkpoint(table, frame, analyzer):
    if frame <= saved:
        save(table, frame, analyzer)
    elif frame == last:
        table._file.write(b"half a li")
        table._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
videos.GrowingTable.checkpoint = checkpoint
predict.main(sys.argv[3:])
"""
#: When the frames of `uneven_film` are due, in seconds: an even start at 25 a second, then one a second.
UNEVEN_S = [0.0, 0.04, 0.08, 0.12, 0.16, 0.2, 1.2, 2.2, 3.2, 4.2]


def killed_run(words, saved, last):
    """`serving.predict` in a process of its own, which is killed behind frame `last`, where its place is that of `saved`.

    Returns what it said of errors.
    """
    command = [sys.executable, "-c", KILLED, str(saved), str(last), *words]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    return done.stderr


def uneven_film(path):
    """An MP4 as telephones and recorders of screens make them, whose frame number n is grey of 20 n; see UNEVEN_S."""
    grey_film(path, len(UNEVEN_S))
    data = bytearray(path.read_bytes())
    start = data.index(b"stts") - 4
    size, kind, flags, count, frames, delta = struct.unpack(">I4sIIII", data[start : start + 24])
    assert (size, flags, count, frames) == (24, 0, 1, len(UNEVEN_S))
    _put(data, start, 24, struct.pack(">I4sIIIIII", 32, kind, 0, 2, 5, delta, 5, 25 * delta), "trak", "mdia", "minf", "stbl")
    data[data.index(b"edts") : data.index(b"edts") + 4] = b"free"  # it says how long the film is to be shown
    path.write_bytes(data)
    return path


def grey_film(path, frames=25, codec="mp4v"):
    """A film of 96x64 at 25 a second, whose frame number n is grey of 20 n."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), 25, (96, 64))
    for number in range(frames):
        writer.write(np.full((64, 96, 3), 20 * number % 256, np.uint8))
    writer.release()
    return path


def edited_film(path, late_s=0.0, shown=1.0):
    """An MP4 as cuts without coding anew leave it: its picture begins late, and of its frames a share is shown."""
    data = bytearray(grey_film(path).read_bytes())
    start = data.index(b"elst") - 4
    _, _, _, count, length, begin, rate = struct.unpack(">I4sIIIiI", data[start : start + 28])
    assert (count, begin) == (1, 0)
    edits = struct.pack(">IiI", round(length * shown), 0, rate)
    if late_s:
        edits = struct.pack(">IiI", round(1000 * late_s), -1, rate) + edits
    _put(data, start, 28, struct.pack(">I4sII", 16 + len(edits), b"elst", 0, len(edits) // 12) + edits, "trak", "edts")
    path.write_bytes(data)
    return path


def squeezed_film(path, wide, high, turned=False):
    """An MP4 whose pixels are to be shown so wide by so high; turned: and the picture by a quarter."""
    data = bytearray(grey_film(path).read_bytes())
    table = data.index(b"stsd") - 4
    entry = table + 16
    end = entry + struct.unpack(">I", data[entry : entry + 4])[0]
    aspect = struct.pack(">I4sII", 16, b"pasp", wide, high)
    _put(data, end, 0, aspect, "trak", "mdia", "minf", "stbl", "stsd", "mp4v")
    if turned:
        at = data.index(b"tkhd") + 44
        data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def longer_sounding_film(path):
    """A WebM that says it lasts longer by half than its picture, as where the sound goes on."""
    data = bytearray(grey_film(path, codec="VP80").read_bytes())
    at = data.index(b"\x44\x89\x88") + 3  # its duration
    data[at : at + 8] = struct.pack(">d", 1.5 * struct.unpack(">d", data[at : at + 8])[0])
    path.write_bytes(data)
    return path


def damaged_film(path, *frames):
    """The same MP4 with zeros in place of these frames, as a damaged disk leaves it. What builds on them is not as it was."""
    data = bytearray(path.read_bytes())
    start = data.index(b"stsz") - 4
    of_each, count = struct.unpack(">II", data[start + 12 : start + 20])
    sizes = [of_each] * count if of_each else struct.unpack_from(f">{count}I", data, start + 20)
    first = data.index(b"mdat") + 4
    assert first + sum(sizes) == data.index(b"moov") - 4
    for number in frames:
        at = first + sum(sizes[:number])
        data[at : at + sizes[number]] = bytes(sizes[number])
    path.write_bytes(data)
    return path


def _put(data, start, size, box, *within):
    """Other bytes in place of these, of the head of a film, which lies at its end so that no frame moves."""
    assert data.index(b"moov") > data.index(b"mdat")
    data[start : start + size] = box
    for name in ("moov", *within):
        at = data.index(name.encode(), data.index(b"moov")) - 4
        data[at : at + 4] = struct.pack(">I", struct.unpack(">I", data[at : at + 4])[0] + len(box) - size)
