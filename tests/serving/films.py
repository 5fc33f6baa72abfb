"""Films that OpenCV can't write."""

import struct

import numpy as np

#: When the frames of `uneven_film` are due, in seconds: an even start at 25 a second, then one a second.
UNEVEN_S = [0.0, 0.04, 0.08, 0.12, 0.16, 0.2, 1.2, 2.2, 3.2, 4.2]


def uneven_film(path):
    """An MP4 as telephones and recorders of screens make them, whose frame number n is grey of 20 n; see UNEVEN_S.

    OpenCV writes it evenly; then its table of durations is replaced: a box that grows with all that it lies in, at the end of
    the file, so that no place of a frame moves.
    """
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"mp4v"), 25, (96, 64))
    for number in range(len(UNEVEN_S)):
        writer.write(np.full((64, 96, 3), 20 * number, np.uint8))
    writer.release()
    data = bytearray(path.read_bytes())
    start = data.index(b"stts") - 4
    size, kind, flags, count, frames, delta = struct.unpack(">I4sIIII", data[start : start + 24])
    assert (size, flags, count, frames) == (24, 0, 1, len(UNEVEN_S)) and data.index(b"moov") > data.index(b"mdat")
    data[start : start + 24] = struct.pack(">I4sIIIIII", 32, kind, 0, 2, 5, delta, 5, 25 * delta)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl"):
        at = data.index(name) - 4
        data[at : at + 4] = struct.pack(">I", struct.unpack(">I", data[at : at + 4])[0] + 8)
    data[data.index(b"edts") : data.index(b"edts") + 4] = b"free"  # it says how long the film is to be shown
    path.write_bytes(data)
    return path
