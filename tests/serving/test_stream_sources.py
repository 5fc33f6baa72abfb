import os
import threading
import time
from collections import Counter

import numpy as np
import pytest
from films import UNEVEN_S, damaged_film, edited_film, grey_film, uneven_film

from fer_keras.detectors import create_detector
from fer_keras.errors import ConfigError, DataError
from serving.sources import CaptureSource, DemoSource, Pace, SourceLostError, create_source, shrunk
from serving.stream import Backoff, Slot


def write_clip(path, frames, fps=20, size=(96, 64)):
    """A video whose frame number n is grey of 10 n."""
    import cv2

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, size)
    for number in range(frames):
        writer.write(np.full((size[1], size[0], 3), 10 * number, np.uint8))
    writer.release()


def test_mtcnn_finds_the_people_of_the_demo_where_they_are():
    demo = DemoSource()
    detector = create_detector("mtcnn", 40)
    found = Counter(len(detector.detect(demo.picture(1.7 * turn))) for turn in range(12))
    assert sum(min(count, 4) * times for count, times in found.items()) >= 46, found


def test_the_demo_changes_expressions_and_places_and_gives_the_same_moment_twice():
    demo = DemoSource()
    first, later = demo.picture(0.0), demo.picture(4.0)
    assert first.shape == (480, 640, 3) and first.dtype == np.uint8
    assert np.array_equal(first, DemoSource().picture(0.0))
    assert np.mean(first != later) > 0.1


def test_the_demo_takes_one_to_four_people():
    with pytest.raises(ConfigError, match="1 to 4 people, got 5"):
        DemoSource(cast=DemoSource.CAST + DemoSource.CAST[:1])


def test_a_file_plays_every_frame_at_its_speed_and_starts_over(tmp_path):
    write_clip(tmp_path / "clip.mp4", 6)
    source = create_source(str(tmp_path / "clip.mp4"))
    assert not source.live and source.title == "clip.mp4"
    source.open()
    start = time.monotonic()
    frames = [source.read() for _ in range(14)]
    passed = time.monotonic() - start
    source.close()
    source.open()  # somebody watches again
    frames.append(source.read())
    source.close()
    levels = [round(float(frame.rgb.mean()) / 10) for frame in frames]
    assert levels == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 0, 1, 0]
    assert np.allclose([frame.time_s for frame in frames], np.arange(15) / 20)
    assert [number for number, frame in enumerate(frames) if frame.restarted] == [0, 6, 12, 14]
    assert passed > 0.6  # 13 steps of 50 ms


def test_a_file_plays_as_unevenly_as_it_was_taken(tmp_path):
    source = create_source(str(uneven_film(tmp_path / "film.mp4")))
    source.open()
    start, seen = time.monotonic(), []
    for _ in range(8):
        frame = source.read()
        seen.append((frame.time_s, time.monotonic() - start))
    source.close()
    assert np.allclose([time_s for time_s, _ in seen], UNEVEN_S[:8])
    assert all(passed_s > time_s - 0.1 for time_s, passed_s in seen)


def test_nobody_waits_for_a_picture_that_begins_after_the_sound(tmp_path):
    source = create_source(str(edited_film(tmp_path / "film.mp4", late_s=1.52)))
    source.open()
    times = [source.read().time_s for _ in range(27)]
    source.close()
    assert np.allclose(times, np.arange(27) / 25)  # nor where it starts over


def test_a_damaged_file_plays_to_its_end_and_says_what_is_missing(tmp_path):
    source = create_source(str(damaged_film(grey_film(tmp_path / "film.mp4"), 5, 6, 7)))
    source.open()
    frames = [source.read() for _ in range(24)]
    source.close()
    left = [number for number in range(25) if number not in (5, 6, 7)]
    assert np.allclose([frame.time_s for frame in frames], [*(np.array(left) / 25), 1.0, 1.04])
    levels = np.array([float(frame.rgb.mean()) for frame in frames])
    assert np.abs(levels - [20 * number % 256 for number in [*left, 0, 1]]).max() < 9
    assert [number for number, frame in enumerate(frames) if frame.restarted] == [0, 22]
    notes = ["", "3 of its frames can't be read; the file is damaged", "3 of 25 frames can't be read; the file is damaged"]
    assert [frame.note for frame in frames] == [notes[0]] * 5 + [notes[1]] * 17 + [notes[2]] * 2


def test_a_file_that_was_cut_short_says_so_once_it_was_played(tmp_path):
    film = grey_film(tmp_path / "film.avi", codec="MJPG")
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    source = create_source(str(film))
    source.open()
    frames = [source.read()]
    while not frames[-1].restarted or len(frames) == 1:
        frames.append(source.read())
    source.close()
    told = f"it ends after {len(frames) - 1} of 25 frames; the file is damaged or was cut short"
    assert [frame.note for frame in frames] == [""] * (len(frames) - 1) + [told]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_a_file_whose_name_looks_like_an_address_is_played(tmp_path, monkeypatch):
    write_clip(tmp_path / "clip.mp4", 3)
    (tmp_path / "clip.mp4").rename(tmp_path / "lecture-2026-01-01T12:30:00.mp4")
    monkeypatch.chdir(tmp_path)
    source = create_source("lecture-2026-01-01T12:30:00.mp4")
    source.open()
    assert source.title == "lecture-2026-01-01T12:30:00.mp4" and source.read().restarted
    source.close()


@pytest.mark.parametrize("name", ["picture.png", "clip.mp4"])
def test_a_file_of_one_frame_is_opened_once_and_lasts(tmp_path, name):
    import cv2

    path = tmp_path / name
    if path.suffix == ".png":
        cv2.imwrite(str(path), np.full((64, 96, 3), 90, np.uint8))
    else:
        write_clip(path, 1)
    source = create_source(str(path))
    source.open()
    path.rename(tmp_path / "away")
    start = time.monotonic()
    frames = [source.read() for _ in range(3)]
    passed = time.monotonic() - start
    source.close()
    (tmp_path / "away").rename(path)
    source.open()  # somebody watches again
    frames.append(source.read())
    source.close()
    assert [frame.restarted for frame in frames] == [True, False, False, True]
    assert np.allclose([frame.time_s for frame in frames[:3]], [0, 0.5, 1]) and frames[3].time_s > 1
    assert all(np.array_equal(frame.rgb, frames[0].rgb) for frame in frames)
    assert passed > 0.9


def test_a_file_that_goes_away_is_lost_and_comes_back(tmp_path):
    write_clip(tmp_path / "clip.mp4", 3, fps=100)
    source = create_source(str(tmp_path / "clip.mp4"))
    source.open()
    (tmp_path / "clip.mp4").rename(tmp_path / "away.mp4")
    with pytest.raises(SourceLostError, match=r"clip\.mp4 is gone"):
        for _ in range(5):
            source.read()
    source.close()
    (tmp_path / "away.mp4").rename(tmp_path / "clip.mp4")
    source.open()
    assert source.read().restarted
    source.close()


def test_a_file_that_is_no_video_is_lost(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    with pytest.raises(SourceLostError, match="can't be opened"):
        create_source(str(tmp_path / "clip.mp4")).open()


def test_a_camera_that_is_not_there_is_lost_and_not_an_error_at_start():
    source = create_source("99")
    assert source.live and source.title == "camera 99"
    with pytest.raises(SourceLostError, match="camera 99 can't be opened"):
        source.open()


def test_a_source_that_is_nothing_known_is_refused_with_what_it_may_be():
    with pytest.raises(ConfigError, match=r"there is no file 'nowhere\.mp4'; a source is demo, a camera's number"):
        create_source("nowhere.mp4")


def test_what_is_there_and_no_video_file_is_refused_as_such(tmp_path):
    with pytest.raises(ConfigError, match="is no video file; a source is"):
        create_source(str(tmp_path))


def test_a_name_that_opencv_would_die_of_is_refused(tmp_path):
    path = tmp_path / os.fsdecode(b"a\xff.mp4")
    write_clip(tmp_path / "a.mp4", 3)
    (tmp_path / "a.mp4").rename(path)
    with pytest.raises(DataError, match="not UTF-8, which OpenCV can't open; rename it"):
        create_source(str(path))


def test_no_password_of_a_camera_is_shown():
    source = create_source("rtsp://admin:secret@10.0.0.9:554/live?key=hidden")
    assert source.live and source.title == "rtsp://10.0.0.9:554/live"
    assert source.address == "rtsp://admin:secret@10.0.0.9:554/live?key=hidden"


def test_large_frames_are_shrunk_and_small_ones_are_not(tmp_path):
    assert shrunk(np.zeros((100, 400, 3), np.uint8), 200).shape == (50, 200, 3)
    small = np.zeros((100, 200, 3), np.uint8)
    assert shrunk(small, 200) is small
    write_clip(tmp_path / "clip.mp4", 1, size=(320, 160))
    source = CaptureSource(str(tmp_path / "clip.mp4"), "clip", live=False, max_side_px=80)
    source.open()
    assert source.read().rgb.shape == (40, 80, 3)
    source.close()


def test_a_pace_keeps_its_rate_and_does_not_hurry_after_a_delay():
    pace = Pace(50)
    start = time.monotonic()
    for _ in range(11):
        pace.wait()
    assert time.monotonic() - start >= 0.19
    time.sleep(0.3)
    start = time.monotonic()
    for _ in range(6):
        pace.wait()
    assert time.monotonic() - start >= 0.07


def test_the_wait_between_attempts_doubles_up_to_a_limit_and_starts_over():
    backoff = Backoff(0.5, 15)
    assert [backoff.next_s() for _ in range(7)] == [0.5, 1, 2, 4, 8, 15, 15]
    backoff.reset()
    assert backoff.next_s() == 0.5


def frame(number, restarted=False):
    from serving.sources import Frame

    return Frame(np.full((2, 2, 3), number, np.uint8), float(number), 0.0, restarted)


def test_a_live_slot_gives_the_newest_frame_and_counts_what_gave_way():
    slot, stop = Slot(keep_all=False), threading.Event()
    assert [slot.put(frame(number, restarted=number == 0), stop) for number in range(3)] == [False, True, True]
    taken = slot.take(0)
    assert taken.time_s == 2 and taken.restarted  # that a new take began is not lost with the frame that said so
    assert slot.take(0) is None


def test_a_file_slot_waits_until_each_frame_was_taken():
    slot, stop, taken = Slot(keep_all=True), threading.Event(), []
    writer = threading.Thread(target=lambda: [slot.put(frame(number), stop) for number in range(5)])
    writer.start()
    for _ in range(5):
        time.sleep(0.02)
        taken.append(slot.take(5).time_s)
    writer.join(5)
    assert taken == [0, 1, 2, 3, 4]
    slot.put(frame(5), stop)
    stop.set()
    assert slot.put(frame(6), stop) is False and slot.take(0).time_s == 5  # nothing is skipped at the end either
