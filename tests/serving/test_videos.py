"""Videos in; tables, drawn videos and a page out; with a real face that moves, a real detector and the shipped model."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import commandline
import numpy as np
import pytest
from films import UNEVEN_S, damaged_film, edited_film, grey_film, killed_run, longer_sounding_film, squeezed_film, uneven_film

from fer_keras.inference.recognizer import Recognizer
from fer_keras.labels import EMOTIONS
from fer_keras.types import TrackedFace
from serving import containers, decoder, predict, uploads, video_report, videos
from serving.sources import CaptureSource

ROOT = Path(__file__).parent.parent.parent
MODEL = ROOT / "saved_models" / "ferplus-cnn"
FRAMES, FPS, SIZE = 36, 12, (320, 240)
SHOWN = range(6, 30)  # frames in which there is a face
FACE = 150
KERNEL = pytest.mark.skipif(sys.platform != "linux", reason="needs folders of the kernel, where nobody makes anything")
#: Haar is quicker than MTCNN on small frames and finds this face in all of them.
QUICK = ["--model", MODEL, "--detector", "haar", "--min-face", "40", "--detect-every", "0"]


def place(number):
    """Left and top of the pasted picture."""
    return 10 + 5 * (number - SHOWN.start), 30 + 2 * (number - SHOWN.start)


def write_clip(path, codec="mp4v", frames=FRAMES):
    import cv2

    face = cv2.resize(pytest.importorskip("skimage.data").astronaut()[0:240, 100:340], (FACE, FACE), interpolation=cv2.INTER_AREA)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*codec), FPS, SIZE)
    assert writer.isOpened()
    for number in range(frames):
        picture = np.full((SIZE[1], SIZE[0], 3), 120, np.uint8)
        if number in SHOWN:
            x, y = place(number)
            picture[y : y + FACE, x : x + FACE] = face
        writer.write(picture[:, :, ::-1])
    writer.release()
    return path


def frames_of(path):
    """All frames, RGB, read by other means than those under test."""
    import cv2

    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1][:, :, ::-1].copy())
    return frames


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture(scope="module")
def whole(clip, tmp_path_factory):
    """A folder with everything that one run writes."""
    folder = tmp_path_factory.mktemp("whole")
    outputs = ["--csv", folder / "rows.csv", "--draw", folder / "drawn", "--report", folder / "page.html"]
    assert predict.main([str(word) for word in [clip, *QUICK, *outputs]]) == 0
    return folder


run = partial(commandline.run, predict.main)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def box(row):
    return [float(row[edge]) for edge in ("x1", "y1", "x2", "y2")]


def test_each_frame_has_a_row_for_its_face_and_one_where_there_is_none(whole, clip):
    table = rows(whole / "rows.csv")
    assert [int(row["frame"]) for row in table] == list(range(FRAMES))
    assert {row["path"] for row in table} == {str(clip)}
    for number, row in enumerate(table):
        assert float(row["time_s"]) == pytest.approx(number / FPS, abs=1e-4)
        if number in SHOWN[2:-2]:  # a new face is believed when it is seen again
            assert (row["status"], row["track_id"]) == ("ok", "1"), row
            x1, y1, x2, y2 = box(row)
            x, y = place(number)
            # The face of the photograph is about (215, 115) of 512, so (115, 115) of the 240 that were pasted.
            assert abs((x1 + x2) / 2 - (x + 115 / 240 * FACE)) < 15 and abs((y1 + y2) / 2 - (y + 115 / 240 * FACE)) < 15
            chances = [float(row[f"p_{label}"]) for label in EMOTIONS]
            assert sum(chances) == pytest.approx(1, abs=1e-4)
            assert float(row["confidence"]) == pytest.approx(chances[EMOTIONS.index(row["label"])])
            assert row["uncertain"] == str(float(row["confidence"]) < 0.5)
    gone = [row for number, row in enumerate(table) if number not in SHOWN]
    assert gone and all(row["status"] == "no face" and not row["track_id"] and not row["p_fear"] for row in gone)


def test_a_table_asked_for_by_a_link_to_another_disk_stands_there_and_the_link_stays_one(clip, tmp_path, capsys):
    memory = Path("/dev/shm")  # noqa: S108
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip(f"needs {memory}, on another disk than temporary files")
    with tempfile.TemporaryDirectory(dir=memory) as there:
        (tmp_path / "rows.csv").symlink_to(Path(there) / "real.csv")
        code, _, error = run(capsys, clip, *QUICK, "--every", 18, "--csv", tmp_path / "rows.csv")
        assert code == 0, error
        assert [path.name for path in Path(there).iterdir()] == ["real.csv"]
        assert (tmp_path / "rows.csv").is_symlink() and len(rows(tmp_path / "rows.csv")) == FRAMES // 18


def test_without_smoothing_rows_are_what_the_model_says_of_each_frame(clip, tmp_path, capsys):
    code, _, _ = run(capsys, clip, *QUICK, "--smoothing", 0, "--every", 4, "--csv", tmp_path / "rows.csv")
    assert code == 0
    table = rows(tmp_path / "rows.csv")
    assert [int(row["frame"]) for row in table] == list(range(0, FRAMES, 4))
    recognizer, frames, compared = Recognizer(MODEL), frames_of(clip), 0
    for row in table:
        if row["status"] == "ok" and row["detected"] == "True":
            [expected] = recognizer.recognize(frames[int(row["frame"])], [box(row)])
            np.testing.assert_allclose([float(row[f"p_{label}"]) for label in EMOTIONS], expected, atol=0.02)
            compared += 1
    assert compared >= 4


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_table(clip, whole, tmp_path, capsys, monkeypatch):
    words = [str(word) for word in [clip, *QUICK, "--csv", tmp_path / "rows.csv", "--draw", tmp_path / "drawn"]]
    killed_run(words, 15, 21)
    left = ["drawn", *(f"rows.csv.unfinished.{ending}" for ending in ("csv", "json", "lock"))]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    assert b"half a li" in (tmp_path / "rows.csv.unfinished.csv").read_bytes()

    code, _, [error] = run(capsys, *words, "--every", 2)
    assert code == 2 and "another command did not finish (every differ)" in error and "--restart" in error

    monkeypatch.chdir(clip.parent)
    words[0] = clip.name  # the same, named from elsewhere
    code, lines, _ = run(capsys, *words)
    assert code == 0
    assert f"at frame 15 of {clip.name}" in lines[0]
    assert (tmp_path / "rows.csv").read_bytes() == (whole / "rows.csv").read_bytes()  # the path too, as it was begun
    assert (tmp_path / "drawn" / "clip.mp4").read_bytes() == (whole / "drawn" / "clip.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn", "rows.csv"]


def test_two_runs_do_not_write_one_table(clip, tmp_path, capsys):
    words = [clip, *QUICK, "--every", 18, "--csv", tmp_path / "rows.csv"]
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / "rows.csv.unfinished.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as the other run does
        code, _, [error] = run(capsys, *words)
        assert code == 2 and "another process is writing" in error and "rows.csv" in error
        assert [path.name for path in tmp_path.iterdir()] == ["rows.csv.unfinished.lock"]
    assert run(capsys, *words)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


HELD = """
import sys
from serving import predict, videos
def checkpoint(table, frame, analyzer):
    print("under way", file=sys.stderr, flush=True)
    sys.stdin.read()
videos.GrowingTable.checkpoint = checkpoint
predict.main(sys.argv[1:])
"""


def test_two_runs_do_not_draw_one_copy(clip, tmp_path, capsys):
    def words(name):
        return [str(word) for word in [clip, *QUICK, "--every", 18, "--csv", tmp_path / name, "--draw", tmp_path / "drawn"]]

    first = subprocess.Popen(
        [sys.executable, "-c", HELD, *words("a.csv")], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert any("under way" in line for line in first.stderr)
        before = sorted(path.name for path in tmp_path.iterdir())
        code, lines, errors = run(capsys, *words("b.csv"))
        assert code == 2 and not lines and len(errors) == 1
        assert f"another process is drawing {tmp_path / 'drawn' / 'clip.mp4'}" in errors[0]
        assert sorted(path.name for path in tmp_path.iterdir()) == before
    finally:
        first.kill()
        first.communicate()
    assert run(capsys, *words("b.csv"))[0] == 0
    assert [path.name for path in (tmp_path / "drawn").glob("[!.]*")] == ["clip.mp4"]


def test_the_copy_of_a_video_that_is_no_mp4_leaves_that_of_one_its_name(tmp_path, capsys):
    grey_film(tmp_path / "clip.avi", 5, "MJPG")
    grey_film(tmp_path / "clip.mp4", 9)
    assert run(capsys, tmp_path, *QUICK, "--draw", tmp_path / "drawn")[0] == 0
    assert {path.name: len(frames_of(path)) for path in (tmp_path / "drawn").glob("[!.]*")} == {"clip.mp4": 9, "clip-2.mp4": 5}


def test_restart_throws_away_what_another_command_left(clip, tmp_path, capsys):
    (tmp_path / "rows.csv.unfinished.csv").write_text("path\n")
    (tmp_path / "rows.csv.unfinished.json").write_text("{broken")
    words = [clip, *QUICK, "--every", 18, "--csv", tmp_path / "rows.csv"]
    code, _, [error] = run(capsys, *words)
    assert code == 2 and "does not fit" in error and "--restart" in error
    code, _, _ = run(capsys, *words, "--restart")
    assert code == 0
    assert [row["frame"] for row in rows(tmp_path / "rows.csv")] == ["0", "18"]


def test_rows_of_pictures_that_a_stopped_run_left_are_not_overwritten_unasked(clip, tmp_path, capsys):
    left = tmp_path / "rows.csv.unfinished.csv"
    left.write_text("path,status,face\none.png,ok,0\n")
    words = [clip, *QUICK, "--every", 18, "--csv", tmp_path / "rows.csv"]
    code, _, [error] = run(capsys, *words)
    assert code == 2 and "is no table of videos, rows of pictures perhaps; --restart" in error
    assert left.read_text().endswith("one.png,ok,0\n")
    assert run(capsys, *words, "--restart")[0] == 0 and not left.exists()


def test_the_drawn_video_has_every_frame_with_its_box(whole, clip):
    drawn, plain = frames_of(whole / "drawn" / "clip.mp4"), frames_of(clip)
    assert len(drawn) == FRAMES
    for row in rows(whole / "rows.csv"):
        number = int(row["frame"])
        changed = np.abs(drawn[number].astype(int) - plain[number]).max(axis=2)
        if row["status"] == "ok":
            x1, y1, _, y2 = (round(edge) for edge in box(row))
            assert np.median(changed[y1 : y2 - 1, x1 : x1 + 2]) > 25  # its left side
        elif number < SHOWN.start:
            assert changed.max() < 25  # compression alone


def test_the_drawn_copy_of_an_uneven_video_lasts_as_long(tmp_path):
    film = uneven_film(tmp_path / "film.mp4")
    videos.draw_video(film, [], EMOTIONS, tmp_path / "drawn.mp4")
    frames = frames_of(tmp_path / "drawn.mp4")
    assert len(frames) == pytest.approx(10 * (UNEVEN_S[-1] + 0.52), abs=1)  # 10 a second; the last as long as most
    for second in (1.5, 2.5, 3.5, 4.5):
        number = max(number for number, at in enumerate(UNEVEN_S) if at <= second)
        assert abs(float(frames[round(10 * second)].mean()) - 20 * number) < 9


def missing(path):
    """What both readers say is missing of a video: that of files, and that of uploads."""
    with videos.VideoReader(path) as reader:
        for _ in reader.frames():
            pass
    frames = uploads.read_video(path, 10**6, 60, 100)
    try:
        while True:
            next(frames)
    except StopIteration as stop:
        assert stop.value.missing == reader.clock.missing and not stop.value.truncated
    return reader.clock.missing


def test_a_whole_film_is_not_called_damaged_though_fewer_frames_are_shown_than_its_head_says(tmp_path):
    hidden = edited_film(tmp_path / "hidden.mp4", shown=0.6)
    sounding = longer_sounding_film(tmp_path / "sounding.webm")
    for film, frames in ((hidden, 15), (sounding, 25)):
        with videos.VideoReader(film) as reader:
            assert len(list(reader.frames())) == frames < 0.9 * reader.clock.expected
        assert missing(film) is None


def test_a_film_is_called_damaged_where_the_file_bears_it_out(tmp_path):
    sounding = longer_sounding_film(tmp_path / "sounding.webm").read_bytes()
    (tmp_path / "cut.webm").write_bytes(sounding[: len(sounding) // 2])
    assert "of 38 frames; the file is damaged or was cut short" in missing(tmp_path / "cut.webm")

    data = bytearray(grey_film(tmp_path / "whole.mp4").read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    assert containers.facts(tmp_path / "whole.mp4") == containers.FileFacts(cut=False, counted=True)
    data[(start + end) // 2 : end] = bytes(end - (start + end) // 2)  # as what a download has not filled
    (tmp_path / "zeros.mp4").write_bytes(data)
    assert "of 25 frames; the file is damaged or was cut short" in missing(tmp_path / "zeros.mp4")
    assert containers.facts(tmp_path / "zeros.mp4") == containers.FileFacts(cut=False, counted=True)

    fragmented = (tmp_path / "whole.mp4").read_bytes().replace(b"udta", b"mvex")  # its frames are listed elsewhere
    (tmp_path / "fragmented.mp4").write_bytes(fragmented)
    assert containers.facts(tmp_path / "fragmented.mp4") == containers.FileFacts()
    (tmp_path / "fragmented.mp4").write_bytes(fragmented[:-5])
    assert containers.facts(tmp_path / "fragmented.mp4").cut


def test_behind_a_damaged_spot_a_film_goes_on_at_its_own_times(tmp_path):
    film = damaged_film(grey_film(tmp_path / "film.mp4"), 5, 6, 7, 15)
    with videos.VideoReader(film) as reader:
        numbers, times, images = zip(*reader.frames(), strict=True)
    left = [number for number in range(25) if number not in (5, 6, 7, 15)]
    assert numbers == tuple(range(21)) and np.allclose(times, np.array(left) / 25)
    levels = np.array([float(image.mean()) for image in images])
    assert np.abs(levels - [20 * number % 256 for number in left]).max() < 9
    assert missing(film) == "4 of 25 frames can't be read; the file is damaged"

    start = uploads.read_video(film, 10**6, 0.5, 100)
    with pytest.raises(StopIteration) as stop:
        while True:
            next(start)
    assert stop.value.value == uploads.VideoEnd(truncated=True, missing="3 of its frames can't be read; the file is damaged")

    uncounted = tmp_path / "uncounted.mp4"
    uncounted.write_bytes(film.read_bytes().replace(b"udta", b"mvex"))  # its frames are listed elsewhere too
    assert missing(uncounted) == "4 of its frames can't be read; the file is damaged"


def test_a_film_may_be_damaged_at_its_start_and_at_its_end(tmp_path):
    film = damaged_film(grey_film(tmp_path / "film.mp4"), 0, 1, *range(15, 25))
    with videos.VideoReader(film) as reader:
        times = [time_s for _, time_s, _ in reader.frames()]
    assert np.allclose(times, np.arange(2, 15) / 25)
    assert missing(film) == "12 of 25 frames can't be read; the file is damaged"


def test_a_run_over_a_damaged_film_that_was_killed_ends_with_the_same_table(tmp_path, capsys):
    film = damaged_film(write_clip(tmp_path / "film.mp4"), 3, 4, 18, 19)
    words = [str(word) for word in [film, *QUICK, "--csv"]]
    code, lines, _ = run(capsys, *words, tmp_path / "whole.csv")
    assert code == 0 and "  warning: 4 of 36 frames can't be read; the file is damaged" in lines
    assert not killed_run([*words, str(tmp_path / "rows.csv")], 15, 21)
    code, lines, _ = run(capsys, *words, tmp_path / "rows.csv")
    assert code == 0 and "at frame 15 of" in lines[0]
    assert (tmp_path / "rows.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    times = [float(row["time_s"]) for row in rows(tmp_path / "rows.csv") if row["frame"]]
    assert times == pytest.approx([number / FPS for number in range(FRAMES) if number not in (3, 4, 18, 19)], abs=1e-4)


@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        *((ending, "MPG2") for ending in (".ts", ".MTS", ".m2ts", ".VOB")),
        *((".flv", "FLV1"), (".ogv", "VP80"), (".asf", "WMV2"), (".3g2", "mp4v")),
    ],
)
def test_films_of_camcorders_and_discs_are_taken_for_films(tmp_path, ending, codec):
    film = tmp_path / f"00001{ending}"
    grey_film(tmp_path / f"film{ending.lower()}", codec=codec).rename(film)
    assert videos.is_video(film)
    with videos.VideoReader(film) as reader:
        levels = [float(image.mean()) for _, _, image in reader.frames()]
    assert np.abs(np.array(levels) - [20 * number % 256 for number in range(25)]).max() < 9


@pytest.mark.parametrize("data", [b"", b"RIFF", b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x08moov", b"\x1a\x45\xdf\xa3" + bytes(20)])
def test_of_what_is_no_film_nothing_is_known(tmp_path, data):
    (tmp_path / "film").write_bytes(data)
    assert not containers.facts(tmp_path / "film").cut and not containers.facts(tmp_path / "none").counted


def test_the_first_frame_of_a_picture_that_begins_after_the_sound_is_not_at_0(tmp_path):
    film = edited_film(tmp_path / "late.mp4", late_s=1.52)
    with videos.VideoReader(film) as reader:
        times = [time_s for _, time_s, _ in reader.frames()]
    assert times == pytest.approx([1.52 + number / 25 for number in range(25)])
    assert [time_s for time_s, _, _ in uploads.read_video(film, 10**6, 60, 100)] == pytest.approx(times)
    assert missing(film) is None


@pytest.mark.parametrize(
    ("pixel", "turned", "size_wh"),
    [((4, 3), False, (128, 64)), ((3, 4), False, (96, 85)), ((4, 3), True, (64, 128)), ((1000, 1), False, (96, 64))],
)
def test_squeezed_pixels_are_made_square(tmp_path, pixel, turned, size_wh):
    film = squeezed_film(tmp_path / "film.mp4", *pixel, turned)
    with videos.VideoReader(film) as reader:
        assert reader.size_wh == size_wh
        assert {image.shape for _, _, image in reader.frames()} == {(*size_wh[::-1], 3)}
    videos.draw_video(film, [], EMOTIONS, tmp_path / "drawn.mp4")
    drawn = frames_of(tmp_path / "drawn.mp4")
    assert len(drawn) == 25 and drawn[0].shape[1::-1] == tuple(side - side % 2 for side in size_wh)  # MPEG-4 has even sides
    _, _, image = next(uploads.read_video(film, 10**6, 60, 15))
    assert image.shape == (*size_wh[::-1], 3)
    source = CaptureSource(str(film), "film", live=False)
    source.open()
    assert source.read().rgb.shape == image.shape
    source.close()


def test_a_squeezed_video_that_is_too_large_as_it_is_shown_is_refused(tmp_path):
    film = squeezed_film(tmp_path / "film.mp4", 4, 3)
    with pytest.raises(uploads.RequestError, match="the video is 128x64; expected at most 7000 pixels a frame"):
        next(uploads.read_video(film, 7000, 60, 15))


@pytest.mark.parametrize(("wide", "high"), [(0, 0), (0, 1), (1, 0), (1, 1), (-1, -1), (1, 5), (9, 1), (1280, 1281)])
def test_a_shape_of_pixels_that_is_none_or_not_seen_is_left_out(wide, high):
    import cv2

    told = {cv2.CAP_PROP_SAR_NUM: wide, cv2.CAP_PROP_SAR_DEN: high}
    assert decoder.pixel_aspect(SimpleNamespace(get=lambda what: told.get(what, 0.0))) == 1


def test_a_video_whose_name_opencv_would_die_of_is_told_and_the_next_one_read(clip, tmp_path, capsys):
    for name in (b"a\xfe.mp4", b"a\xff.mp4", b"a?.mp4", b"b.mp4"):  # the first three look alike
        shutil.copy(clip, tmp_path / os.fsdecode(name))
    words = [tmp_path, "--csv", tmp_path / "f.csv", "--draw", tmp_path / "drawn", "--every", 12, *QUICK]
    code, lines, _ = run(capsys, *words)
    assert code == 0
    table = rows(tmp_path / "f.csv")
    told = "has a name that is not UTF-8, which OpenCV can't open; rename it"
    assert [row["error"] for row in table if row["status"] == "error"] == [told] * 2
    assert [row["path"][-6:] for row in table if row["status"] != "error"] == ["a?.mp4"] * 3 + ["/b.mp4"] * 3
    assert sorted(path.name for path in (tmp_path / "drawn").glob("[!.]*")) == ["a?.mp4", "b.mp4"]
    counts = [int(found[1]) for line in lines if (found := re.search(r"\.mp4: (\d+) frames analysed", line))]
    assert sorted(counts) == [0, 0, 3, 3]


def test_the_page_tells_the_persons_timeline(whole):
    page = (whole / "page.html").read_text()
    assert "data:image/png;base64," in page and "1 people" not in page
    assert re.search(r"3\.0 seconds, 36 frames analysed, 1 person, \d+ frames without a face", page)
    table = [row for row in rows(whole / "rows.csv") if row["status"] == "ok"]
    mean = np.mean([float(row["p_neutral"]) for row in table])
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", page)
    names = re.findall(r"<th>([^<]*)</th>", page)
    line = dict(zip(names, cells, strict=True))
    assert (line["person"], line["frames"]) == ("1", str(len(table)))
    assert float(line["mean neutral"]) == pytest.approx(mean, abs=0.006)


def drawn_at(stairs, *times_s):
    values, edges, _ = stairs.get_data()
    return [bool(np.isfinite(values[np.searchsorted(edges, time_s) - 1])) for time_s in times_s]


def test_the_timeline_of_an_uneven_film_has_everybody_at_their_times():
    def face(track_id, frame):
        return TrackedFace(track_id, (0, 0, 9, 9), 0.9, (0.7, 0.3), "glad", 0.7, uncertain=frame == 7)

    # Person 1 is in frames 2 to 7, that is from 0.08 s on and until the frame that is due at 3.2 s; person 2 in the last.
    film = [
        videos.FrameRows(number, time_s, (face(1, number),) * (2 <= number <= 7) + (face(2, number),) * (number == 9))
        for number, time_s in enumerate(UNEVEN_S)
    ]
    [summary] = video_report.summarise([film], [videos.VideoFacts("film", len(film), UNEVEN_S[-1] + 0.52)])
    first, second = video_report.plot_timelines(summary, ("glad", "sad")).axes
    assert drawn_at(first.patches[0], 0.05, 0.1, 0.5, 1.1, 3.1, 3.3, 4.3) == [False, True, True, True, True, False, False]
    assert drawn_at(first.patches[-1], 2.1, 2.3, 3.1, 3.3) == [False, True, True, False]  # uncertain
    assert drawn_at(second.patches[0], 0.1, 4.1, 4.3, 4.7) == [False, False, True, True]


def test_times_in_a_long_film_are_told_by_the_clock():
    def film(step_s):
        seen = TrackedFace(1, (0, 0, 9, 9), 0.9, (0.7, 0.3), "glad", 0.7, uncertain=False)
        rows = [videos.FrameRows(number, number * step_s, (seen,) * (number > 5)) for number in range(30)]
        [summary] = video_report.summarise([rows], [videos.VideoFacts("film", 30, 30 * step_s)])
        [axes] = video_report.plot_timelines(summary, ("glad", "sad")).axes
        page = video_report.page_of([summary], ("glad", "sad"), [])
        return [label.get_text() for label in axes.get_xticklabels()], page, "\n".join(video_report.lines_of(summary))

    ticks, page, lines = film(180.0)  # an hour and a half
    assert ticks[:2] == ["0:00", "10:00"] and ticks[-1] == "1:20:00"
    assert "1:30:00 long" in page and ">18:00<" in page and ">1:27:00<" in page and "18:00-1:27:00" in lines
    _, page, lines = film(0.1)
    assert "3.0 seconds" in page and "0.6-2.9 s" in lines


def test_parquet_has_what_csv_has(clip, whole, tmp_path, capsys):
    pytest.importorskip("pyarrow", reason="needs pyarrow, the extra parquet")
    import pandas as pd

    code, lines, _ = run(capsys, clip, *QUICK, "--parquet", tmp_path / "rows.parquet")
    assert code == 0 and f"written: {tmp_path / 'rows.parquet'}" in lines
    assert [path.name for path in tmp_path.iterdir()] == ["rows.parquet"]
    table = pd.read_parquet(tmp_path / "rows.parquet")
    expected = rows(whole / "rows.csv")
    assert list(table.columns) == list(expected[0])
    assert table["frame"].tolist() == list(range(FRAMES))
    seen = table[table["status"] == "ok"]
    assert seen["uncertain"].astype(bool).tolist() == [row["uncertain"] == "True" for row in expected if row["status"] == "ok"]
    np.testing.assert_allclose(seen["p_anger"], [float(row["p_anger"]) for row in expected if row["status"] == "ok"])
    assert table["label"].isna().tolist() == [row["status"] != "ok" for row in expected]


def test_parquet_without_pyarrow_says_what_to_install(clip, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, [error] = run(capsys, clip, *QUICK, "--parquet", tmp_path / "rows.parquet")
    assert code == 2 and "pip install pyarrow" in error and "--csv" in error
    assert not list(tmp_path.iterdir())


def test_what_can_be_read_of_a_damaged_video_is_kept(tmp_path, capsys):
    data = write_clip(tmp_path / "film.avi", "MJPG").read_bytes()
    (tmp_path / "film.avi").write_bytes(data[: len(data) // 2])
    (tmp_path / "no-film.mp4").write_bytes(b"nothing of the kind")
    (tmp_path / "gone.mp4").symlink_to("nowhere.mp4")
    code, lines, errors = run(capsys, tmp_path, *QUICK, "--csv", tmp_path / "rows.csv", "--draw", tmp_path / "drawn")
    assert code == 0 and not errors
    half, gone, none = [row for row in rows(tmp_path / "rows.csv") if row["status"] == "error"]
    frames = [int(row["frame"]) for row in rows(tmp_path / "rows.csv") if row["frame"]]
    assert frames == list(range(len(frames))) and 5 < len(frames) < 30
    assert half["error"] == f"it ends after {len(frames)} of 36 frames; the file is damaged or was cut short"
    assert gone["error"] == none["error"] == "can't be read as a video; is the file complete, and its codec a usual one?"
    assert any(line == f"  warning: {half['error']}" for line in lines)
    assert [path.name for path in (tmp_path / "drawn").glob("[!.]*")] == ["film.mp4"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a.mp4"], "no video could be read (1 tried)"),
        (["a.mp4", "b.png"], "1 picture and 1 video give different tables; run once with --only pictures"),
        (["a.mp4", "--json", "o.json"], "--json is for pictures; of a video write --csv or --parquet"),
        (["a.mp4", "--crop", "none"], "--crop none is for pictures that are faces already"),
        (["a.mp4", "--csv", "a.mp4"], "a.mp4 is one of the videos and would be overwritten"),
        (["a.mp4", "--draw", "."], "would write over the video a.mp4"),
        (["a.mp4", "--csv", "o", "--draw", "a.mp4/x"], "--draw names a folder, a.mp4 is a file"),
        (["a.mp4", "--csv", "d/a.mp4", "--draw", "./d"], "--draw and --csv name the same file d/a.mp4"),
        pytest.param(["a.mp4", "--csv", "o", "--draw", "/proc/no"], "--draw can't be written: nothing can be made", marks=KERNEL),
        pytest.param(["a.mp4", "--report", "/sys/o"], "--report can't be written: nothing can be made", marks=KERNEL),
        (["a.mp4", "--csv", "o", "--report", "o"], "--csv and --report name the same file o"),
        (["a.mp4", "--smoothing", "-1"], "--smoothing"),
        (["b.png", "--report", "o.html"], "--report is for videos, and b.png is none"),
        (["a.mp4", "--only", "pictures"], "--only pictures, but there is no picture in a.mp4"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(tmp_path, capsys, monkeypatch, words, expected):
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.png"):
        (tmp_path / name).write_bytes(b"neither")
    code, _, errors = run(capsys, *words, *QUICK)
    assert code == 2 and len(errors) == 1 and expected in errors[0], errors
    assert sorted(os.listdir()) == ["a.mp4", "b.png"]


@pytest.mark.shared
def test_the_four_people_of_a_real_clip_keep_their_ids(shared_dir, tmp_path, capsys):
    clip = shared_dir / "data" / "video" / "classroom.mp4"
    code, lines, _ = run(capsys, clip, "--csv", tmp_path / "rows.csv", "--model", MODEL)
    assert code == 0 and "45 frames analysed, 3.8 s, 4 people, 0 without a face" in lines[0]
    table = rows(tmp_path / "rows.csv")
    assert {row["track_id"] for row in table} == {"1", "2", "3", "4"}
    for number in "1234":  # who sits still stays where they are
        boxes = np.array([box(row) for row in table if row["track_id"] == number])
        assert len(boxes) >= 40
        assert np.ptp((boxes[:, :2] + boxes[:, 2:]) / 2, axis=0).max() < 40


def test_the_state_that_is_kept_is_plain_json(tmp_path):
    """No pickle: a state file from elsewhere must not be able to run anything."""
    table = videos.GrowingTable(tmp_path / "t", EMOTIONS, {"videos": ["a"]}, ["a"])
    table.close()
    state = json.loads((tmp_path / "t.unfinished.json").read_text())
    assert (state["video"], state["frame"], state["analyzer"], state["settings"]["videos"]) == (0, 0, None, ["a"])
