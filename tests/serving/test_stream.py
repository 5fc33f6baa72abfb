import contextlib
import csv
import io
import os
import re
import threading
import time

import numpy as np
import pytest
import requests
from films import damaged_film, grey_film
from live_server import camera, encoded, no_room, overlap, serving, switch_off, wait_until

from fer_keras.errors import DataError
from fer_keras.types import TrackedFace
from serving.drawing import draw_faces
from serving.live_picture import draw_live, encode_jpeg, notice_jpeg
from serving.recording import Recording
from serving.sources import CaptureSource, DemoSource, Frame, SourceLostError, create_source
from serving.stream import Stream, TooManyError


class Watched(DemoSource):
    """The demo, which remembers when it was opened and read, and can be taken away."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.opened = self.closed = self.reads = 0
        self.away = False

    def open(self):
        if self.away:
            raise SourceLostError("the demo is unplugged")
        self.opened += 1
        super().open()

    def read(self):
        if self.away:
            raise SourceLostError("the demo is unplugged")
        self.reads += 1
        return super().read()

    def close(self):
        self.closed += 1


@pytest.fixture(scope="module")
def watched():
    source = Watched(cast=DemoSource.CAST[:2], size_wh=(400, 240), fps=60)
    with serving([source], detector="haar", max_viewers=4, picture_fps=60) as running:
        running.ready()
        yield running, source, running.engine.streams["demo"]


def live_update(following, seconds=20):
    return wait_until(lambda: (update := following(1)) and update.result and update, seconds)


def test_nothing_is_captured_until_somebody_watches_and_some_time_after(watched):
    _, source, stream = watched
    wait_until(lambda: stream.status()["state"] == "idle")
    before = source.reads
    time.sleep(0.3)
    assert source.reads == before
    with stream.watch("events") as following:
        live_update(following)
        assert source.reads > before
    wait_until(lambda: stream.status()["state"] == "idle")
    wait_until(lambda: source.closed >= source.opened)
    after = source.reads
    time.sleep(0.3)
    assert source.reads == after


def test_a_snapshot_is_of_the_source_though_it_has_to_be_opened_first(watched):
    from PIL import Image

    running, _, stream = watched
    wait_until(lambda: stream.status()["state"] == "idle")
    answer = requests.get(running.url + "/api/stream/snapshot.jpg", timeout=20)
    assert Image.open(io.BytesIO(answer.content)).size == (400, 240)  # notices are of another size


def test_a_source_that_gives_nothing_has_no_snapshot():
    source = Watched(cast=DemoSource.CAST[:1])
    source.away = True
    with serving([source], detector="haar") as running:
        assert running.engine.streams["demo"].snapshot(timeout_s=1.5) is None


def test_a_recording_alone_keeps_the_stream_going(watched):
    _, _, stream = watched
    stream.record(True)
    try:
        wait_until(lambda: stream.recording.rows > 3)
        time.sleep(0.8)  # longer than the grace
        assert stream.status()["state"] == "live"
    finally:
        stream.record(False)
    wait_until(lambda: stream.status()["state"] == "idle")


def test_pictures_are_encoded_for_viewers_of_pictures_only(watched):
    _, _, stream = watched
    wait_until(lambda: stream.status()["state"] == "idle")
    with stream.watch("events") as following:
        assert live_update(following).jpeg is None
        with stream.watch("picture") as pictures:
            assert pictures(20).jpeg.startswith(b"\xff\xd8")


def test_all_viewers_share_one_capture_and_one_picture(watched):
    _, source, stream = watched
    with stream.watch("picture") as one, stream.watch("picture") as other:
        live_update(one)
        opened = source.opened
        seen = {}
        for following in (one, other) * 8:
            update = following(5)
            seen.setdefault(update.sequence, []).append(id(update.jpeg))
        assert source.opened == opened
        shared = [ids for ids in seen.values() if len(ids) == 2]
        assert shared and all(len(set(ids)) == 1 for ids in shared)


def test_viewers_get_no_more_pictures_a_second_than_set_and_listeners_every_result():
    source = Watched(cast=DemoSource.CAST[:1], size_wh=(400, 240), fps=40)
    with serving([source], detector="haar", picture_fps=10) as running:
        running.ready()
        stream = running.engine.streams["demo"]
        with stream.watch("picture") as pictures, stream.watch("events") as events:
            live_update(pictures)
            ends, seen, results = time.monotonic() + 4, 0, 0
            while time.monotonic() < ends:
                results += bool(events(0.2))
                update = pictures(0)
                assert update is None or update.jpeg
                seen += update is not None
    assert 30 <= seen <= 42
    assert results > 1.5 * seen


def test_many_viewers_get_fewer_pictures_while_frames_are_skipped():
    source = Watched(cast=DemoSource.CAST[:1], size_wh=(400, 240), fps=1000)
    with serving([source], detector="haar", picture_fps=100, sent_per_s=30) as running, contextlib.ExitStack() as stack:
        running.ready()
        stream = running.engine.streams["demo"]
        one, *_ = (stack.enter_context(stream.watch("picture")) for _ in range(5))
        live_update(one)
        time.sleep(2)
        before, ends, seen = stream.status(), time.monotonic() + 3, 0
        while time.monotonic() < ends:
            seen += one(0.1) is not None
        after = stream.status()
        analysed = after["analysed"] - before["analysed"]
        assert after["skipped"] - before["skipped"] > 0.2 * analysed
        assert 15 <= seen <= 24  # 6 a second
        assert analysed > 1.5 * seen
        rates = []
        for share in (0.2, 0.05, 0.02, 0.05):  # of frames skipped: behind, still so, caught up, still so
            stream._behind = share
            rates.append(stream._picture_rate_hz())
    assert rates == [6, 6, 100, 100]


def test_of_two_choices_the_later_one_holds_though_it_is_loaded_sooner(watched):
    running, source, _ = watched
    begun, loaded = threading.Event(), threading.Event()

    def load(name):
        if name == "slow":
            begun.set()
            loaded.wait(5)
        elif name == "broken":
            raise DataError("it can't be loaded")

    config, metrics = running.engine.config, running.engine.metrics
    stream = Stream("k", source, config, metrics, model="a", recognizer=load, detector=load, all_labels=tuple)
    slow = threading.Thread(target=stream.choose, args=("slow",))
    slow.start()
    assert begun.wait(5)
    stream.choose(detector="haar")  # says nothing of the model
    for last in ("quick", "broken"):
        with contextlib.suppress(DataError):
            stream.choose(last)
    loaded.set()
    slow.join(5)
    assert (stream.model, stream.detector) == ("quick", "haar")
    stream.choose("slow")
    assert stream.model == "slow"


def test_a_slow_viewer_sees_fewer_pictures_and_delays_nobody(watched):
    _, _, stream = watched
    with stream.watch("picture") as quick, stream.watch("picture") as slow:
        live_update(quick)
        first = slow(5).sequence
        numbers, end = [], time.monotonic() + 1.5
        while time.monotonic() < end:  # slow does not ask for anything meanwhile
            numbers.append(quick(5).sequence)
        assert numbers[-1] - numbers[0] < 1.3 * len(numbers)  # few are missed, even where the machine is busy
        latest = slow(5).sequence
        assert latest >= numbers[-1] > first + 2


def test_no_more_viewers_than_allowed(watched):
    _, _, stream = watched
    with stream.watch("picture"), stream.watch("picture"), stream.watch("picture"), stream.watch("picture"):
        with pytest.raises(TooManyError, match="4 watch already"), stream.watch("picture"):
            pass
        with stream.watch("events"):
            pass
    with stream.watch("picture"):
        pass


def test_a_lost_source_is_told_in_the_picture_and_opened_again(watched):
    _, source, stream = watched
    with stream.watch("picture") as following:
        live_update(following)
        before = stream.status()["reconnects"]
        source.away = True
        lost = wait_until(lambda: (update := following(2)) and update.result is None and update)
        assert lost.status["state"] == "lost" and "the demo is unplugged; trying again in 0.5 s" in lost.status["message"]
        assert lost.jpeg == notice_jpeg("Source lost", lost.status["message"])
        wait_until(lambda: "trying again in 1 s" in stream.status()["message"])  # the second time
        assert stream.status()["reconnects"] == before
        source.away = False
        back = live_update(following).status
        assert (back["state"], back["reconnects"]) == ("live", before + 1)


def test_a_source_that_is_opened_after_it_was_not_there_was_not_lost():
    source = Watched(cast=DemoSource.CAST[:1])
    source.away = True
    with serving([source], detector="haar") as running:
        running.ready()
        stream = running.engine.streams["demo"]
        with stream.watch("events") as following:
            wait_until(lambda: "trying again in 1 s" in stream.status()["message"])
            source.away = False
            assert live_update(following).status["reconnects"] == 0
        assert b"fer_reconnects_total{" not in running.engine.metrics.exposition()[0]


def test_in_one_recording_an_id_is_one_person_though_the_source_was_lost(watched):
    _, source, stream = watched

    def table():
        return list(csv.DictReader(io.StringIO(b"".join(stream.recording.chunks()).decode())))

    def ids(rows):
        return {int(row["track_id"]) for row in rows if row["track_id"]}

    stream.record(True)
    try:
        wait_until(lambda: len(ids(table())) >= 2)
        source.away = True
        wait_until(lambda: stream.status()["state"] == "lost")
        before = table()
        source.away = False
        wait_until(lambda: ids(table()[len(before) + 4 :]))  # what was on its way when it was lost may still have come
    finally:
        stream.record(False)
        source.away = False
    rows = table()
    assert {(row["width"], row["height"]) for row in rows} == {("400", "240")}
    assert min(ids(rows[len(before) + 4 :])) > max(ids(before))


def test_a_network_camera_that_is_switched_off_and_on_again_comes_back(astronaut):
    jpeg = encoded(astronaut, "JPEG")
    first = camera(jpeg)
    port = first.server_address[1]
    source = CaptureSource(f"http://127.0.0.1:{port}/", "camera", live=True)
    with serving([source], detector="haar") as running:
        running.ready()
        stream = running.engine.streams["camera"]
        with stream.watch("events") as following:
            update = live_update(following)
            assert (update.result["width"], update.result["height"]) == (512, 512)
            switch_off(first)
            wait_until(lambda: stream.status()["state"] == "lost")
            second = camera(jpeg, port)
            try:
                wait_until(lambda: stream.status()["state"] == "live")
                assert live_update(following).status["reconnects"] >= 1
            finally:
                switch_off(second)


def test_who_is_in_a_picture_keeps_one_id(astronaut, tmp_path):
    (tmp_path / "picture.png").write_bytes(encoded(astronaut))
    with serving([create_source(str(tmp_path / "picture.png"))], detector="haar", min_face_px=80) as running:
        running.ready()
        with running.engine.streams["picture-png"].watch("events") as following:
            results = [live_update(following).result for _ in range(5)]
    assert {face["id"] for result in results for face in result["faces"]} == {1}


class Piled(Watched):
    """A film whose first frames are there at once, as where a model was loaded meanwhile."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.live = False

    def read(self):
        self._pace.set_rate(1000 if self.reads < 4 else self.fps)
        return super().read()


@pytest.mark.parametrize(("kind", "fps", "frames"), [(Piled, 12, 40), (Watched, 0.8, 3)])
def test_the_rate_is_told_as_it_is_at_the_start_and_where_frames_are_seldom(kind, fps, frames):
    source = kind(cast=DemoSource.CAST[:1], size_wh=(240, 240), fps=fps)
    with serving([source], detector="haar", min_face_px=100) as running:
        running.ready()
        stream = running.engine.streams["demo"]
        with stream.watch("events") as following:
            told = [live_update(following).status["fps"] for _ in range(frames)]
            time.sleep(0.7 / fps)
            told.append(stream.status()["fps"])
        assert max(told) < 1.5 * fps + 1
        assert all(0.6 * fps < rate < 1.3 * fps for rate in told[-2:]), told
        wait_until(lambda: stream.status()["state"] == "idle")
        assert stream.status()["fps"] == 0


def test_the_status_of_a_damaged_file_says_so_and_the_log_once(tmp_path, caplog):
    film = damaged_film(grey_film(tmp_path / "film.mp4"), 5, 15)
    with serving([create_source(str(film))], detector="haar") as running:
        running.ready()
        [stream] = running.engine.streams.values()
        with stream.watch("events") as following:
            status = wait_until(lambda: (update := following(1)) and "of 25 frames" in update.status["message"] and update.status)
    assert status["state"] == "live" and status["message"] == "2 of 25 frames can't be read; the file is damaged"
    told = [record.getMessage() for record in caplog.records if "can't be read" in record.getMessage()]
    assert told == ["film.mp4: 1 of its frames can't be read; the file is damaged"]


def test_a_frame_that_can_not_be_analysed_does_not_end_the_stream():
    class Odd(Watched):
        def picture(self, time_s):
            return super().picture(time_s) if self.reads > 5 else np.zeros((4, 4), np.uint8)

    with serving([Odd(cast=DemoSource.CAST[:1], size_wh=(240, 240))], detector="haar") as running:
        running.ready()
        with running.engine.streams["demo"].watch("events") as following:
            assert live_update(following).result["width"] == 240
    assert running.engine.metrics.errors.labels("analysis")._value.get() >= 1


def face(track_id=1, box=(60.0, 50.0, 120.0, 130.0), label="glad", values=(0.75, 0.25)):
    return TrackedFace(track_id, box, 0.9, values, label, max(values), uncertain=False)


def test_a_recording_has_a_row_a_face_and_one_for_a_frame_without():
    recording = Recording("demo", ("glad", "sad", "else"), max_rows=100)
    recording.add(0.0, 1.5, (640, 360), "m", ("sad", "glad"), [face(values=(0.25, 0.75)), face(2)])
    recording.add(1.0, 2.5, (640, 360), "m", ("sad", "glad"), [])
    rows = list(csv.DictReader(io.StringIO(b"".join(recording.chunks()).decode())))
    assert [(row["time"], row["track_id"], row["p_glad"], row["p_sad"], row["p_else"]) for row in rows] == [
        ("1970-01-01T00:00:00.000+00:00", "1", "0.7500", "0.2500", ""),
        ("1970-01-01T00:00:00.000+00:00", "2", "0.2500", "0.7500", ""),
        ("1970-01-01T00:00:01.000+00:00", "", "", "", ""),
    ]
    assert {(row["width"], row["height"]) for row in rows} == {("640", "360")}
    assert rows[0]["x1"] == "60.0" and rows[0]["label"] == "glad" and rows[0]["source"] == "demo"


def test_a_recording_ends_by_itself_and_can_be_read_while_it_grows():
    recording = Recording("demo", ("glad", "sad"), max_rows=5)
    recording.add(0.0, 0.0, (640, 360), "m", ("glad", "sad"), [face(1), face(2)])
    reading = recording.chunks()
    first = next(reading)
    recording.add(0.0, 0.1, (640, 360), "m", ("glad", "sad"), [face(1), face(2)])
    assert list(reading) == [] and first.count(b"\n") == 3
    assert recording.active
    recording.add(0.0, 0.2, (640, 360), "m", ("glad", "sad"), [face(1), face(2)])
    recording.add(0.0, 0.3, (640, 360), "m", ("glad", "sad"), [face(1), face(2)])
    assert not recording.active and recording.rows == 5 and recording.message == "5 rows are the most"
    assert b"".join(recording.chunks()).count(b"\n") == 6


@pytest.mark.skipif(os.name == "nt", reason="Windows can't limit files")
def test_a_recording_that_can_not_be_written_any_more_ends_and_keeps_its_rows():
    recording = Recording("demo", ("glad", "sad"), max_rows=1000)
    with no_room(2000):
        while recording.active:
            recording.add(0.0, 0.1 * recording.rows, (640, 360), "m", ("glad", "sad"), [face(1), face(2)])
        assert re.match("no more can be written: .+", recording.message)
        lines = b"".join(recording.chunks()).decode().splitlines()
    assert len(lines) == 1 + recording.rows and 4 < recording.rows < 40 and recording.rows % 2 == 0
    assert {line.count(",") for line in lines} == {lines[0].count(",")}
    recording.add(0.0, 9.0, (640, 360), "m", ("glad", "sad"), [face(1)])  # there is room again, but it has ended
    assert b"".join(recording.chunks()).decode().splitlines() == lines


def test_a_recording_knows_how_many_of_its_rows_were_fetched():
    recording = Recording("demo", ("glad", "sad"), max_rows=100)
    for _ in range(2):
        recording.add(0.0, 0.0, (640, 360), "m", ("glad", "sad"), [face(1), face(2)])
        assert recording.status()["fetched_rows"] == 0
    reading = recording.chunks()
    next(reading)
    recording.add(0.0, 0.1, (640, 360), "m", ("glad", "sad"), [face(1)])
    assert recording.status()["fetched_rows"] == 0  # whoever fetches may still leave
    assert list(reading) == []
    assert (recording.status()["fetched_rows"], recording.rows) == (4, 5)


def test_boxes_are_drawn_around_faces_and_nowhere_else():
    image = np.full((240, 320, 3), 90, np.uint8)
    drawn = draw_live(image, [face()], ("glad", "sad"))
    assert (image == 90).all()
    changed = np.argwhere((drawn != 90).any(axis=2))
    top, left = changed.min(axis=0)
    bottom, right = changed.max(axis=0)
    assert overlap((left, 50, 120, bottom), (60, 50, 120, 130)) > 0.9 and top >= 25 and right <= 200
    assert (drawn[60:120, 70:110] == 90).all()


def test_no_box_runs_through_the_label_of_another_face():
    image = np.full((240, 320, 3), 90, np.uint8)
    one, other = face(), face(2, box=(75.0, 22.0, 300.0, 230.0), label="sad")
    label = (slice(34, 50), slice(60, 120))
    alone = draw_live(image, [one], ("glad", "sad"))[label]
    assert (alone != 90).all(axis=2).mean() > 0.9
    for faces in ([one, other], [other, one]):
        assert np.array_equal(draw_live(image, faces, ("glad", "sad"))[label], alone)


def test_labels_of_faces_close_together_do_not_hide_each_other():
    boxes = [(60.0, 100.0, 110.0, 150.0), (115.0, 103.0, 165.0, 153.0), (60.0, 155.0, 110.0, 205.0)]
    plain = np.full((240, 640, 3), 90, np.uint8)

    def live(*some):
        return draw_live(plain, [face(one + 1, box=boxes[one], label="glad") for one in some], ("glad", "sad"))

    def copy(*some):
        texts, colours = ["1 happiness 81%", "2 surprise 82%", "3 contempt 83%"], ["#0072b2"] * 3
        return draw_faces(plain, *([each[one] for one in some] for each in (boxes, texts, colours)))

    for draw in (live, copy):
        # There are as many pale pixels of white letters together as one by one.
        counts = [(drawn.min(axis=2) > 150).sum() for drawn in (draw(0), draw(1), draw(2), draw(0, 1, 2))]
        assert min(counts) > 20
        assert sum(counts[:3]) == counts[3]


def test_labels_hide_no_small_faces_where_there_is_room_beside_them():
    row = [(60.0 + 60 * number, 100.0, 84.0 + 60 * number, 124.0) for number in range(3)]
    column = [(60.0, 30.0 + 30 * number, 84.0, 54.0 + 30 * number) for number in range(2)]
    plain = np.full((240, 640, 3), 90, np.uint8)
    for boxes in (row, column):
        live = draw_live(plain, [face(number + 1, box=box, label="glad") for number, box in enumerate(boxes)], ("glad", "sad"))
        copy = draw_faces(plain, boxes, [f"{number + 1} glad 81%" for number in range(len(boxes))], ["#0072b2"] * len(boxes))
        for drawn in (live, copy):
            for x1, y1, x2, y2 in ([round(edge) for edge in box] for box in boxes):
                assert (drawn[y1 + 3 : y2 - 3, x1 + 3 : x2 - 3] == 90).all()
            assert (drawn[:, 130:] != 90).any() or boxes is column  # labels are there


@pytest.mark.parametrize("label", ["colère", "Ärger", "гнев", "怒り"])
def test_labels_of_other_scripts_are_written_with_their_letters(label):
    image = np.full((240, 320, 3), 90, np.uint8)

    def above(written):
        return draw_live(image, [face(label=written)], (written, "sad"))[:50]

    assert (above(label) != 90).any(axis=2).sum() > 500  # the label's background
    if label != "怒り":  # whose font not every machine has
        others = [above(label[:place] + "□" + label[place + 1 :]) for place in range(len(label))]
        assert not any(np.array_equal(above(label), other) for other in others)


def test_a_label_at_the_border_stays_in_the_picture():
    image = np.full((60, 80, 3), 90, np.uint8)
    for box in [(-30.0, -30.0, 10.0, 10.0), (70.0, 50.0, 120.0, 90.0), (90.0, 70.0, 120.0, 90.0)]:
        for label in ("glad", "Überraschung, freudig oder erschrocken"):
            drawn = draw_live(image, [face(box=box, label=label)], (label, "sad"))
            assert drawn.shape == image.shape and (drawn != 90).any()


def test_blurred_faces_can_not_be_told_apart_and_the_rest_stays_sharp(astronaut):
    box = (170.0, 70.0, 280.0, 200.0)
    blurred = draw_live(astronaut, [face(box=box)], ("glad", "sad"), blur=[box])[:, :, ::-1]
    x1, y1, x2, y2 = (int(edge) for edge in box)
    inside = (slice(y1 + 8, y2 - 8), slice(x1 + 8, x2 - 8))
    sharpness = [np.abs(np.diff(picture[inside].astype(int), axis=1)).mean() for picture in (astronaut, blurred)]
    assert sharpness[1] < 0.2 * sharpness[0]
    assert np.array_equal(blurred[300:], astronaut[300:])


class Entering:
    """A live camera: from the fourth frame on two people are in the picture."""

    title, live = "entrance", True

    def __init__(self, astronaut):
        self.photograph = np.concatenate([astronaut[:300], astronaut[:300]], axis=1)
        self.read_frames = 0

    def open(self):
        self.read_frames = 0

    def read(self):
        time.sleep(0.03)
        self.read_frames += 1
        empty = np.full_like(self.photograph, 90)
        return Frame(self.photograph if self.read_frames > 3 else empty, self.read_frames / 30, time.time())

    def close(self):
        pass


def test_with_blur_no_face_is_ever_clear_not_even_a_new_one_or_one_too_many(astronaut):
    import cv2

    with serving([Entering(astronaut)], detector="mtcnn", blur=True, max_faces=1, picture_fps=60) as running:
        running.ready()
        with running.engine.streams["entrance"].watch("picture") as following:
            pictures = [live_update(following) for _ in range(12)]
    assert any(update.result["faces"] for update in pictures)
    assert all(len(update.result["faces"]) <= 1 for update in pictures)
    seen = 0
    for update in pictures:
        drawn = cv2.imdecode(np.frombuffer(update.jpeg, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        for left in (0, 512):
            eyes = drawn[95:125, left + 195 : left + 255].astype(int)
            if abs(eyes.mean() - 90) > 5:
                seen += 1
                sharp = np.abs(np.diff(astronaut[95:125, 195:255].astype(int), axis=1)).mean()
                assert np.abs(np.diff(eyes, axis=1)).mean() < 0.3 * sharp
    assert seen > 4


def test_a_face_that_reaches_out_of_the_picture_is_drawn_and_blurred_all_the_same():
    image = np.full((60, 60, 3), 90, np.uint8)
    for box in ((-30.0, -30.0, 20.0, 20.0), (50.0, 50.0, 90.0, 90.0), (100.0, 100.0, 120.0, 130.0)):
        assert draw_live(image, [face(box=box)], ("glad", "sad"), blur=[box]).shape == (60, 60, 3)


def test_a_jpeg_gives_back_what_was_drawn():
    from PIL import Image

    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, :, 2] = 200  # red, in BGR
    decoded = np.asarray(Image.open(io.BytesIO(encode_jpeg(picture, 90))))
    assert decoded.shape == (40, 60, 3) and np.abs(decoded.astype(int) - (200, 0, 0)).max() < 12
