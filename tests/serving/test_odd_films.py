"""Films whose times leap, films that can't be drawn as they are, and disks that are full: one must not cost the others."""

import csv
import itertools
import os
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import commandline
import films
import numpy as np
import pytest
from films import grey_film, killed_run

from fer_keras.errors import DataError
from fer_keras.labels import EMOTIONS
from serving import decoder, predict, sources, uploads, videos

ROOT = Path(__file__).parent.parent.parent
QUICK = ["--model", ROOT / "saved_models" / "ferplus-cnn", "--detector", "haar", "--min-face", "40", "--detect-every", "1"]
#: A step of 13 hours and 53 minutes.
FAR_S = 49_980.0
FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")

run = partial(commandline.run, predict.main)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def broadcast(folder, *starts_s):
    """A film of MPEG-TS, as recorders make them and dash cams' files are joined: parts of 25 frames that start at these times."""
    part = grey_film(folder / "part.ts", codec="MPG2")
    data = b"".join(_later(part.read_bytes(), start_s) for start_s in starts_s)
    part.unlink()
    (folder / "film.ts").write_bytes(data)
    return folder / "film.ts"


def _later(data, by_s):
    """The packets of a stream with so many seconds added to all its times."""
    data = bytearray(data)
    for at in range(0, len(data), 188):
        body = at + 4
        if data[at + 3] & 0x20:  # more of a head
            body += 1 + data[at + 4]
        if not (data[at + 1] & 0x40 and data[at + 3] & 0x10 and data[body : body + 3] == b"\0\0\1"):
            continue
        for number in range((data[body + 7] >> 6 & 1) + (data[body + 7] >> 7)):  # when it is shown, and when decoded
            place = body + 9 + 5 * number
            one, two, three = struct.unpack_from(">BHH", data, place)
            ticks = ((one >> 1 & 7) << 30 | two >> 1 << 15 | three >> 1) + round(90_000 * by_s)
            one = one & 0xF1 | (ticks >> 30 & 7) << 1
            struct.pack_into(">BHH", data, place, one, (ticks >> 15 & 0x7FFF) << 1 | 1, (ticks & 0x7FFF) << 1 | 1)
    return bytes(data)


def halting(path, *steps):
    """An MP4 whose frames follow each other by these: (frames, seconds until the next)."""
    grey_film(path, sum(frames for frames, _ in steps))
    data = bytearray(path.read_bytes())
    start = data.index(b"stts") - 4
    _, kind, _, _, _, delta = struct.unpack(">I4sIIII", data[start : start + 24])
    table = b"".join(struct.pack(">II", frames, round(25 * delta * seconds)) for frames, seconds in steps)
    box = struct.pack(">I4sII", 16 + len(table), kind, 0, len(steps)) + table
    films._put(data, start, 24, box, "trak", "mdia", "minf", "stbl")
    data[data.index(b"edts") : data.index(b"edts") + 4] = b"free"  # it says how long the film is to be shown
    path.write_bytes(data)
    return path


def read(path):
    """The times of the frames, and the clock when all were read."""
    with videos.VideoReader(path) as reader:
        return [time_s for _, time_s, _ in reader.frames()], reader.clock


def drawn_frames(path):
    import cv2

    capture, found = cv2.VideoCapture(str(path)), []
    while (frame := capture.read())[0]:
        found.append(frame[1])
    return found


def test_the_times_of_joined_recordings_go_on_by_one_frame_where_their_clock_leaps(tmp_path):
    film = broadcast(tmp_path, 0, FAR_S)
    times, clock = read(film)
    assert times == pytest.approx([number / 25 for number in range(50)], abs=1e-3)
    assert clock.leaps == "its times leap by 13 h 53 min at 1.0 s; counted on without it" and clock.missing is None
    assert clock.end_s == pytest.approx(2.0, abs=0.1) and clock.expected == pytest.approx(50, abs=2)
    assert [time_s for time_s, _, _ in uploads.read_video(film, 10**6, 60, 100)] == pytest.approx(times)
    source = sources.CaptureSource(str(film), "film", live=False)
    source.open()
    assert [source.read().time_s for _ in range(50)][-1] == pytest.approx(49 / 25, abs=1e-3)
    source.close()


def test_joined_recordings_may_leap_back_and_more_than_once(tmp_path):
    times, clock = read(broadcast(tmp_path, 0, FAR_S, 0))
    assert times == pytest.approx([number / 25 for number in range(75)], abs=1e-3)
    assert clock.leaps == "its times leap 2 times, first by 13 h 53 min at 1.0 s; counted on without that"


def test_table_report_and_drawn_copy_of_joined_recordings_agree_also_after_a_kill(tmp_path, capsys):
    film = broadcast(tmp_path, 0, FAR_S)

    def words(name):
        outputs = ["--csv", tmp_path / f"{name}.csv", "--report", tmp_path / f"{name}.html", "--draw", tmp_path / name]
        return [str(word) for word in [film, *QUICK, *outputs]]

    code, lines, errors = run(capsys, *words("whole"))
    assert code == 0 and not errors
    assert f"{film}: 50 frames analysed, 2.0 s, 0 people, 50 without a face" in lines
    told = "its times leap by 13 h 53 min at 1.0 s; counted on without it"
    assert lines.count(f"  warning: {told}") == 1
    page = (tmp_path / "whole.html").read_text()
    assert page.count(told) == 1 and "2.0 seconds, 50 frames analysed" in page
    table = rows(tmp_path / "whole.csv")
    assert [row["status"] for row in table] == ["no face"] * 50
    assert [float(row["time_s"]) for row in table] == pytest.approx([number / 25 for number in range(50)], abs=1e-3)
    assert len(drawn_frames(tmp_path / "whole" / "film.mp4")) == 50

    killed_run(words("rows"), 30, 40)
    code, lines, _ = run(capsys, *words("rows"))
    assert code == 0 and "at frame 30 of" in lines[0] and f"  warning: {told}" in lines
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert (tmp_path / "rows.html").read_text() == page


def test_a_film_that_was_broken_off_for_hours_is_not_drawn_for_hours(tmp_path):
    film = halting(tmp_path / "film.mp4", (19, 0.04), (1, 6 * 3600), (20, 0.04))
    times, clock = read(film)
    assert times == pytest.approx([number / 25 for number in range(40)], abs=1e-3)
    assert clock.leaps == "its times leap by 6 h 0 min at 0.8 s; counted on without it" and clock.missing is None
    assert clock.step_s == pytest.approx(0.04)  # that of the file is nine minutes
    videos.draw_video(film, [], EMOTIONS, tmp_path / "drawn.mp4")
    assert len(drawn_frames(tmp_path / "drawn.mp4")) == pytest.approx(1.6 * 10, abs=1)


@pytest.mark.parametrize(
    "steps",
    [
        [(20, 60.0)],  # a time lapse
        [(10, 0.5), (1, 50 * 60.0), (10, 0.5), (1, 20 * 60.0), (5, 2.0)],  # a screen on which nothing happens
        [(3, 2 * 3600.0), (1, 5 * 3600.0), (4, 2 * 3600.0)],  # a plant
    ],
)
def test_pictures_that_stand_long_keep_their_times(tmp_path, steps):
    times, clock = read(halting(tmp_path / "film.mp4", *steps))
    expected = [0.0, *itertools.accumulate(seconds for frames, seconds in steps for _ in range(frames))][:-1]
    assert times == pytest.approx(expected, abs=1e-3) and clock.leaps is None and clock.missing is None


def test_signals_that_were_lost_for_a_while_keep_their_times(tmp_path):
    times, clock = read(broadcast(tmp_path, 0, 100))
    assert times == pytest.approx([n / 25 for n in range(25)] + [100 + n / 25 for n in range(25)], abs=1e-3)
    assert clock.leaps is None


def clock_of(times_s, path="film.ts", fps=25.0):
    """What the clock makes of a film that tells these times; None: a frame that can't be read."""
    import cv2

    told, now = iter([*times_s, *[None] * 20_000]), {cv2.CAP_PROP_FPS: fps}

    def grab():
        time_s = next(told)
        now[cv2.CAP_PROP_POS_MSEC] = 1000 * (time_s or 0.0)
        return time_s is not None

    clock = decoder.FilmClock(SimpleNamespace(get=lambda what: now.get(what, 0.0), grab=grab), path)
    found = []
    while clock.grab():
        found.append(clock.time_s)
    return found, clock


def test_one_time_that_is_damaged_leaves_the_others_as_they_are():
    even = [number / 25 for number in range(100)]
    for wrong_s, by in ((FAR_S, "by"), (-FAR_S, "back by")):
        times, clock = clock_of([*even[:50], wrong_s, *even[51:]])
        told = f"its times leap 2 times, first {by} 13 h 53 min at 2.0 s; counted on without that"
        assert times == pytest.approx(even) and clock.leaps == told
    times, clock = clock_of([*even[:50], 1.5, *even[51:]])  # what is near is caught up with
    assert times == pytest.approx(even) and clock.leaps is None


def test_a_frame_without_a_time_is_no_leap(tmp_path):
    even = [number / 25 for number in range(130 * 25)]
    times, clock = clock_of([*even[:-20], 0.0, *even[-19:]])
    assert times == pytest.approx(even) and clock.leaps is None
    times, clock = read(grey_film(tmp_path / "film.mpg", len(even), codec="PIM1"))  # of whose last frame OpenCV tells none
    assert len(times) == len(even) and np.diff(times).max() < 0.1
    assert clock.leaps is None and clock.missing is None


def test_what_is_between_two_frames_and_damaged_is_no_leap():
    lost = 150 * 25
    even = [number / 25 for number in range(lost + 20)]
    times, clock = clock_of([*even[:10], *[None] * lost, *even[10 + lost :]])
    assert times == pytest.approx(even[:10] + even[10 + lost :]) and clock.leaps is None and clock.damaged == lost


def film_of(path, width, height, frames=5):
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 25, (width, height))
    assert writer.isOpened()
    for _ in range(frames):
        writer.write(np.full((height, width, 3), 90, np.uint8))
    writer.release()
    return path


def test_a_film_of_a_size_that_the_format_has_not_is_drawn_smaller_or_larger(tmp_path):
    assert videos._drawn_size(1, 1) == (2, 2) and videos._drawn_size(16_380, 9000) == (8190, 4500)
    assert videos._drawn_size(1, 20_000) == (2, 8190) and videos._drawn_size(85, 97) == (85, 97)
    film = film_of(tmp_path / "wide.mkv", 8200, 64)
    videos.draw_video(film, [], EMOTIONS, tmp_path / "drawn.mp4")
    assert [frame.shape for frame in drawn_frames(tmp_path / "drawn.mp4")] == [(64, 8190, 3)] * 5
    tiny = raw_film(tmp_path / "tiny.avi", 1, -1)
    videos.draw_video(tiny, [], EMOTIONS, tmp_path / "drawn.mp4")
    assert [frame.shape for frame in drawn_frames(tmp_path / "drawn.mp4")] == [(2, 2, 3)] * 5


def raw_film(path, width, height):
    """An AVI of 5 frames without compression, 24 bits a pixel. height: below 0 where the uppermost row is the first."""

    def chunk(kind, body):
        return struct.pack("<4sI", kind, len(body)) + body

    size = (3 * width + 3) // 4 * 4 * abs(height)
    film = struct.pack("<14I", 40_000, 0, 0, 0, 5, 0, 1, size, width, abs(height), *[0] * 4)
    stream = struct.pack("<4s4sIHHIIIIIIIIHHHH", b"vids", b"DIB ", 0, 0, 0, 0, 1, 25, 0, 5, size, 0, size, 0, 0, 1, 1)
    picture = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, size, 0, 0, 0, 0)
    head = chunk(b"avih", film) + chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", picture))
    frames = chunk(b"00db", bytes(size)) * 5
    path.write_bytes(chunk(b"RIFF", b"AVI " + chunk(b"LIST", b"hdrl" + head) + chunk(b"LIST", b"movi" + frames)))
    return path


def test_a_film_that_opencv_would_die_of_is_told(tmp_path):
    with videos.VideoReader(raw_film(tmp_path / "film.avi", 40, -30)) as reader:
        assert len([image for _, _, image in reader.frames()]) == 5
    film = raw_film(tmp_path / "film.avi", 40, 30)
    with pytest.raises(DataError, match="without compression from its lowest row up, which OpenCV can't read; convert it"):
        videos.VideoReader(film)
    with pytest.raises(uploads.RequestError, match="the video is stored without compression from its lowest row up"):
        next(uploads.read_video(film, 10**6, 60, 15))
    with pytest.raises(sources.SourceLostError, match="is stored without compression from its lowest row up"):
        sources.CaptureSource(str(film), "film", live=False).open()


@pytest.fixture
def batch(tmp_path, monkeypatch):
    """A folder with a film between two others that OpenCV can't draw."""
    (tmp_path / "batch").mkdir()
    for name in ("a.mp4", "c.mp4"):
        grey_film(tmp_path / "batch" / name)
    film_of(tmp_path / "batch" / "b.mkv", 8200, 64)
    monkeypatch.setattr(videos, "_DRAWN_SIDE", (2, 100_000))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_film_that_can_not_be_drawn_is_told_and_the_others_are(batch, capsys):
    code, lines, errors = run(capsys, "batch", *QUICK, "--csv", "rows.csv", "--report", "page.html", "--draw", "drawn")
    assert code == 0
    told = "warning: batch/b.mkv could not be drawn: drawn/b.mp4 can't be written; can this OpenCV write MP4 of 8200x64?"
    assert [line for line in errors if "b.mkv" in line] == [told]
    assert [line for line in lines if line.startswith("written")] == [
        f"written: {name}" for name in ("rows.csv", "page.html", "drawn")
    ]
    assert lines[-1] == "1 video could not be drawn; the warnings above say why"
    assert sorted(os.listdir("drawn")) == [".fer-keras-drawn", "a.mp4", "c.mp4"]
    assert sorted(os.listdir()) == ["batch", "drawn", "page.html", "rows.csv"]
    assert {row["path"] for row in rows("rows.csv")} == {f"batch/{name}" for name in ("a.mp4", "b.mkv", "c.mp4")}


def test_where_no_film_can_be_drawn_the_table_is_there_and_the_command_fails(batch, capsys):
    code, lines, errors = run(capsys, "batch/b.mkv", *QUICK, "--csv", "rows.csv", "--draw", "drawn")
    assert code == 2 and "no video could be drawn (1 tried); the warnings above say why" in errors[-1]
    assert len(rows("rows.csv")) == 5 and "written: rows.csv" in lines and "written: drawn" not in lines
    assert sorted(os.listdir()) == ["batch", "drawn", "rows.csv"]


@FULL
def test_a_full_disk_stops_the_drawing_by_name_with_the_table_there_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        grey_film(Path(name))
    frames_in = videos._frames_in

    def full(film):
        if film.name != ".b.part.mp4":
            return frames_in(film)
        film.unlink()
        film.symlink_to("/dev/full")
        return 0

    monkeypatch.setattr(videos, "_frames_in", full)  # OpenCV tells of no error, and removes what it can't begin to write
    words = ["a.mp4", "b.mp4", "c.mp4", *QUICK, "--csv", "rows.csv", "--report", "page.html", "--draw", "drawn"]
    code, _, errors = run(capsys, *words)
    assert code == 2 and errors[-1].endswith("error: [Errno 28] No space left on device: 'drawn/b.mp4'")
    assert f"the rows so far are in {tmp_path / 'rows.csv'}; the same command goes on from there" in errors
    assert (
        len(rows("rows.csv")) == 75
        and Path("page.html").is_file()
        and sorted(os.listdir("drawn")) == [".fer-keras-drawn", "a.mp4"]
    )

    table = Path("rows.csv").read_bytes()
    monkeypatch.setattr(videos, "_frames_in", frames_in)
    code, lines, _ = run(capsys, *words)
    assert code == 0 and lines[0] == f"going on with {tmp_path / 'rows.csv'}: all frames are analysed"
    assert (
        sorted(os.listdir("drawn")) == [".fer-keras-drawn", "a.mp4", "b.mp4", "c.mp4"] and Path("rows.csv").read_bytes() == table
    )
    assert sorted(os.listdir()) == ["a.mp4", "b.mp4", "c.mp4", "drawn", "page.html", "rows.csv"]


@FULL
def test_another_command_does_not_touch_a_table_of_which_not_all_was_made(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey_film(Path("a.mp4"))
    os.symlink("/dev/full", f"page.html.{os.getpid()}.part")
    words = ["a.mp4", *QUICK, "--csv", "rows.csv", "--report", "page.html"]
    code, _, errors = run(capsys, *words)
    assert code == 2 and errors[-1].endswith("[Errno 28] No space left on device: 'page.html'")
    table = Path("rows.csv").read_bytes()
    assert len(rows("rows.csv")) == 25
    code, _, [error] = run(capsys, *words, "--every", 2)
    assert code == 2 and "rows.csv has what another command did not finish (every differ)" in error
    assert Path("rows.csv").read_bytes() == table

    with open("rows.csv", "ab") as file:
        file.write(b"mine\n")
    code, _, [error] = run(capsys, *words)
    assert code == 2 and "does not fit rows.csv; --restart begins anew" in error
    assert run(capsys, *words, "--restart")[0] == 0
    assert Path("rows.csv").read_bytes() == table and sorted(os.listdir()) == ["a.mp4", "page.html", "rows.csv"]


@FULL
@pytest.mark.parametrize("name", ["rows.csv", "rows.json", "drawn/a.png"])
def test_a_full_disk_is_told_with_the_name_of_the_picture_s_output(tmp_path, capsys, monkeypatch, name):
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("a.png")
    os.mkdir("drawn")
    os.symlink("/dev/full", f"{name}.{os.getpid()}.part")
    outputs = ["--csv", "rows.csv", "--json", "rows.json", "--draw", "drawn"]
    code, _, [error] = run(capsys, "a.png", "--crop", "none", *QUICK[:2], *outputs)
    assert code == 2 and error.endswith(f"[Errno 28] No space left on device: '{name}'")
    assert not Path(name).exists()


@FULL
def test_lines_that_find_no_room_are_not_blamed_on_the_table(tmp_path):
    from PIL import Image

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    words = ["-u", "-m", "serving.predict", "a.png", "--crop", "none", *QUICK[:2], "--csv", "rows.csv"]
    with open("/dev/full", "w") as full:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, *words], stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, env=environment)
    assert done.returncode == 2 and done.stderr.decode().endswith("error: [Errno 28] No space left on device\n")
    assert os.listdir(tmp_path) == ["a.png"]


@FULL
def test_a_full_disk_is_told_with_the_name_of_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grey_film(Path("a.mp4"))
    os.symlink("/dev/full", "rows.csv.unfinished.csv")
    code, _, errors = run(capsys, "a.mp4", *QUICK, "--csv", "rows.csv")
    assert code == 2 and errors[-1].endswith(f"[Errno 28] No space left on device: '{tmp_path / 'rows.csv.unfinished.csv'}'")
