"""The server over real HTTP: its answers, its stream, and what it refuses."""

import base64
import concurrent.futures
import contextlib
import csv
import html
import http.client
import io
import itertools
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests
from films import damaged_film, edited_film, grey_film, uneven_film
from live_server import (
    MODEL,
    ROOT,
    TWIN_LABELS,
    camera,
    encoded,
    events_of,
    free_port,
    no_room,
    overlap,
    serving,
    switch_off,
    wait_until,
)

from fer_keras.detectors import create_detector
from fer_keras.errors import ConfigError
from fer_keras.inference.recognizer import Recognizer
from serving import decoder, security, uploads
from serving.server import address

FACE_BOX = (178, 66, 268, 175)  # of the astronaut, by eye


def post(server, path="/api/predict", **given):
    return requests.post(server.url + path, timeout=60, **given)


def message(answer):
    assert answer.headers["Content-Type"] == "application/json", answer.text
    error = answer.json()["error"]
    assert error["status"] == answer.status_code
    return error["message"]


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_a_face_is_found_and_read_as_the_library_reads_it(server, astronaut):
    answer = post(server, files={"image": encoded(astronaut)}).json()
    assert (answer["width"], answer["height"], answer["model"]) == (512, 512, "ferplus-cnn")
    (face,) = answer["faces"]
    assert overlap(face["box"], FACE_BOX) > 0.5
    recognizer = Recognizer(MODEL)
    (found,) = create_detector("mtcnn", 20).detect(astronaut)
    expected = recognizer.recognize(astronaut, [found.box_xyxy_px])[0]
    assert np.allclose(list(face["probabilities"].values()), expected, atol=1e-3)
    assert list(face["probabilities"]) == list(recognizer.labels)
    assert face["label"] == recognizer.labels[int(expected.argmax())]
    assert face["confidence"] == pytest.approx(expected.max(), abs=1e-3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_the_usual_kinds_of_pictures_are_read(server, astronaut, kind):
    assert len(post(server, files={"image": encoded(astronaut, kind)}).json()["faces"]) == 1


def test_a_picture_may_come_as_file_as_base64_or_alone(server, astronaut):
    data = encoded(astronaut, "JPEG")
    text = base64.b64encode(data).decode()
    answers = [
        post(server, files={"image": ("../../etc/passwd", data, "text/html")}),
        post(server, json={"image": text}),
        post(server, json={"image": f"DATA:image/jpeg;base64,{text}"}),
        post(server, json={"image": base64.encodebytes(data).decode()}),  # lines, as of the command `base64`
        post(server, data=data, headers={"Content-Type": "image/jpeg"}),
    ]
    assert [answer.status_code for answer in answers] == [200] * 5
    assert len({answer.text for answer in answers}) == 1


def test_uploads_are_searched_for_smaller_faces_than_streams(server, astronaut):
    small = cv2.resize(astronaut[:256, 110:366], (44, 44), interpolation=cv2.INTER_AREA)  # its face is 14 pixels across
    picture = np.full((480, 640, 3), 128, np.uint8)
    picture[200:244, 300:344] = small
    data = encoded(picture)
    (face,) = post(server, files={"image": data}).json()["faces"]
    assert 300 < face["box"][0] < face["box"][2] < 344 and 200 < face["box"][1] < face["box"][3] < 244
    session = "/api/webcam?session=0123456789abcdee"
    assert post(server, session, data=data, headers={"Content-Type": "image/png"}).json()["faces"] == []


def test_a_picture_that_is_a_face_is_taken_whole(server, astronaut):
    crop = astronaut[60:220, 170:285]
    for given in (
        {"files": {"image": encoded(crop)}, "data": {"faces": "full"}},
        {"files": {"image": encoded(crop)}, "params": {"faces": "full"}},
        {"json": {"image": base64.b64encode(encoded(crop)).decode(), "faces": "full"}},
    ):
        (face,) = post(server, **given).json()["faces"]
        assert face["box"] == [0, 0, 115, 160] and face["score"] is None
        assert sum(face["probabilities"].values()) == pytest.approx(1, abs=2e-3)


def test_a_picture_without_a_face_has_none(server):
    assert post(server, files={"image": encoded(np.full((80, 90, 3), 128, np.uint8))}).json()["faces"] == []


def test_boxes_of_a_large_picture_are_in_its_own_pixels(server, astronaut):
    large = np.repeat(np.repeat(astronaut, 4, axis=0), 4, axis=1)
    (face,) = post(server, files={"image": encoded(large, "JPEG")}).json()["faces"]
    assert overlap(face["box"], [4 * edge for edge in FACE_BOX]) > 0.5


def test_model_and_detector_can_be_chosen(server, astronaut):
    data = encoded(astronaut)
    (face,) = post(server, files={"image": data}, data={"model": "twin", "detector": "haar"}).json()["faces"]
    assert list(face["probabilities"]) == TWIN_LABELS and float(face["box"][0]).is_integer()


def test_a_batch_answers_in_order_with_an_error_in_the_place_of_what_can_not_be_read(server, astronaut):
    blank = np.full((60, 60, 3), 9, np.uint8)
    pictures = [encoded(blank), b"not a picture", encoded(astronaut), encoded(astronaut)[:2000]]
    results = post(server, "/api/predict/batch", files=[("images", data) for data in pictures]).json()["results"]
    assert [len(result["faces"]) if "faces" in result else result["error"]["status"] for result in results] == [0, 415, 1, 422]
    texts = [base64.b64encode(data).decode() for data in pictures]
    assert post(server, "/api/predict/batch", json={"images": texts}).json()["results"] == results


@pytest.mark.parametrize("count", [0, 33])
def test_a_batch_has_1_to_32_pictures(server, count):
    answer = post(server, "/api/predict/batch", json={"images": ["aGk="] * count})
    assert answer.status_code == 422 and f"expected 1 to 32 pictures in the field images, got {count}" in message(answer)


def test_the_faces_of_a_webcam_keep_their_ids(server):
    from serving.sources import DemoSource

    demo = DemoSource(cast=DemoSource.CAST[:2])
    seen = []
    for turn in range(4):
        data = encoded(demo.picture(1 + 0.1 * turn), "JPEG")
        answer = post(server, "/api/webcam?session=0123456789abcdef", data=data, headers={"Content-Type": "image/jpeg"}).json()
        seen.append({face["id"]: face["box"] for face in answer["faces"]})
    assert set(seen[-1]) == set(seen[-2]) and len(seen[-1]) == 2
    for face_id, box in seen[-1].items():
        assert overlap(box, seen[-2][face_id]) > 0.7
    assert "16 to 64 hexadecimal digits" in message(post(server, "/api/webcam?session=me", data=b"x"))
    whole = post(server, "/api/webcam?session=0123456789abcdef&faces=full", data=data, headers={"Content-Type": "image/jpeg"})
    assert whole.status_code == 422 and "unknown entry 'faces'" in message(whole)


def test_a_video_is_answered_frame_by_frame_and_leaves_nothing_behind(server, tmp_path, monkeypatch):
    import tempfile

    import cv2

    from serving.sources import DemoSource

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    demo = DemoSource(cast=DemoSource.CAST[:2], size_wh=(420, 240))
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 30, (420, 240))
    for number in range(20):
        writer.write(cv2.cvtColor(demo.picture(number / 30), cv2.COLOR_RGB2BGR))
    writer.release()
    answer = post(server, "/api/video", files={"video": ("../clip.mp4", (tmp_path / "clip.mp4").read_bytes())})
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    head, *frames, end = map(json.loads, answer.text.splitlines())
    assert (head["type"], head["width"], head["height"], head["duration_s"]) == ("video", 420, 240, 0.667)
    times = [frame["time_s"] for frame in frames]
    assert times == pytest.approx([2 * number / 30 for number in range(10)], abs=2e-3)  # 15 of the 30 in a second
    assert end == {"type": "end", "frames": 10, "analysed_s": times[-1], "truncated": False, "missing": None}
    assert {face["id"] for frame in frames for face in frame["faces"]} == {1, 2}
    assert list((tmp_path / "temporary").iterdir()) == []


def test_times_in_a_video_are_those_of_its_frames(server, tmp_path):
    film = uneven_film(tmp_path / "film.mp4").read_bytes()
    head, *frames, end = map(json.loads, post(server, "/api/video", files={"video": film}).text.splitlines())
    # 15 a second: of the first, which are 0.04 s apart, some are left out.
    assert [frame["time_s"] for frame in frames] == pytest.approx([0, 0.08, 0.16, 0.2, 1.2, 2.2, 3.2, 4.2])
    assert head["duration_s"] == pytest.approx(5.2) and end["analysed_s"] == pytest.approx(4.2)
    assert (end["truncated"], end["missing"]) == (False, None)


def test_the_duration_of_a_video_is_told_on_the_clock_of_its_frames_or_as_unknown(server, tmp_path):
    def told(film):
        head, *frames, _ = map(json.loads, post(server, "/api/video", files={"video": film.read_bytes()}).text.splitlines())
        return head["duration_s"], frames[-1]["time_s"]

    assert told(edited_film(tmp_path / "late.mp4", late_s=3)) == pytest.approx((4, 3.92), abs=0.05)
    whole = grey_film(tmp_path / "film.webm", codec="VP80")
    assert told(whole) == pytest.approx((1, 0.92), abs=0.05)
    data = whole.read_bytes()
    assert data.count(b"\x44\x89\x88") == 1
    whole.write_bytes(data.replace(b"\x44\x89\x88", b"\x44\x88\x88"))  # something else in place of its length
    assert told(whole) == (None, pytest.approx(0.92, abs=0.05))


def test_the_end_of_a_video_says_what_was_not_read(long_video, tmp_path):
    def end_of(path, max_s):
        frames = uploads.read_video(path, 10**6, max_s, 15)
        while True:
            try:
                next(frames)
            except StopIteration as stop:
                return stop.value

    assert end_of(long_video, 5) == uploads.VideoEnd(truncated=True, missing=None)
    assert end_of(long_video, 60) == uploads.VideoEnd(truncated=False, missing=None)
    (tmp_path / "half.avi").write_bytes(long_video.read_bytes()[: long_video.stat().st_size // 2])
    half = end_of(tmp_path / "half.avi", 60)
    assert not half.truncated and re.match(r"it ends after \d+ of 600 frames; the file is damaged", half.missing)


def test_in_videos_faces_are_always_looked_for(server, long_video):
    for given in ({"params": {"faces": "full"}}, {"data": {"faces": "full"}}):
        answer = post(server, "/api/video", files={"video": long_video.read_bytes()}, **given)
        assert answer.status_code == 422 and "faces" in message(answer)


def decoders():
    """The processes that this one has started to decode videos."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (
                b"serving.decoder" in (folder / "cmdline").read_bytes()
                and f"PPid:\t{os.getpid()}\n" in (folder / "status").read_text()
            ):
                found.append(int(folder.name))
    return found


@pytest.fixture
def long_video(tmp_path):
    """So much that an answer is far from its end when its first line is there."""
    import cv2

    noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    writer = cv2.VideoWriter(str(tmp_path / "long.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 15, (320, 240))
    for _ in range(600):
        writer.write(noise)
    writer.release()
    return tmp_path / "long.avi"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="children are looked for in /proc")
@pytest.mark.parametrize("what", ["the decoder crashes", "the visitor leaves"])
def test_a_video_is_decoded_in_a_process_that_may_break_and_ends(server, long_video, what):
    with (
        long_video.open("rb") as file,
        requests.post(server.url + "/api/video", files={"video": file}, stream=True, timeout=60) as answer,
    ):
        lines = answer.iter_lines()
        assert json.loads(next(lines))["type"] == "video"
        [child] = decoders()
        limits = Path(f"/proc/{child}/limits").read_text()
        assert re.search(r"Max file size +0 ", limits) and re.search(r"Max address space +4294967296 ", limits)
        if what == "the decoder crashes":
            os.kill(child, signal.SIGSEGV)
            *_, last = map(json.loads, lines)
            assert (last["type"], last["message"]) == ("error", "the video can't be read to its end; is the file damaged?")
    wait_until(lambda: not decoders())
    assert requests.get(server.url + "/healthz", timeout=10).json() == {"status": "ok"}


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a file can be without a name where there is /proc")
@pytest.mark.parametrize("user", ["as started", "changed"])
def test_a_video_is_not_left_on_the_disk_when_the_server_ends_meanwhile(long_video, tmp_path, monkeypatch, user):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    if user == "changed":  # then other processes, such as the decoder, can't see what this one has open
        monkeypatch.setattr(os, "geteuid", lambda: -1)
    with (
        serving(detector="haar") as running,
        long_video.open("rb") as file,
        requests.post(running.url + "/api/video", files={"video": file}, stream=True, timeout=60) as answer,
    ):
        assert json.loads(next(answer.iter_lines()))["type"] == "video"
        on_disk = [path.lstat().st_size for path in folder.glob("*/*.avi") if not path.is_symlink()]
        # What is not there needs no time to be deleted, however the process ends.
        assert on_disk == ([long_video.stat().st_size] if user == "changed" else [])
        running.engine.close()
        assert list(folder.iterdir()) == []


def sent(*messages):
    stream = io.BytesIO()
    for values, pixels in messages:
        decoder.write_message(stream, values, pixels)
    stream.seek(0)
    return stream


FRAME = ({"time_s": 0.1, "duration_s": 1.0, "size_hw": [2, 3]}, bytes(18))


@pytest.mark.parametrize("duration_s", [1.0, None])
def test_what_the_decoder_sends_is_taken_where_it_can_be(duration_s):
    frame = ({**FRAME[0], "duration_s": duration_s}, FRAME[1])
    [(time_s, told_s, image)] = uploads._believed(sent(frame, ({"end": True}, b"")), max_pixels=6, max_s=1)
    assert (time_s, told_s, image.shape, image.dtype) == (0.1, duration_s, (2, 3, 3), np.uint8)


@pytest.mark.parametrize(
    "message",
    [
        {**FRAME[0], "size_hw": [-2, -3]},
        {**FRAME[0], "size_hw": [4, 3]},
        {**FRAME[0], "size_hw": "large"},
        {**FRAME[0], "size_hw": [float("inf"), 1]},
        {**FRAME[0], "time_s": 7},
        {**FRAME[0], "time_s": float("nan")},
        {**FRAME[0], "time_s": 0.05},
        {**FRAME[0], "time_s": 0.2, "duration_s": 0},
        {**FRAME[0], "time_s": 0.2, "duration_s": float("inf")},
        {"status": 200, "message": "all is well"},
        {"status": [422]},
        [],
        {},
    ],
)
def test_what_can_not_be_is_not_believed_of_the_decoder(message):
    frames = uploads._believed(sent(FRAME, (message, bytes(18)), ({"end": True}, b"")), max_pixels=6, max_s=1)
    next(frames)
    with pytest.raises(uploads._BrokenVideoError):
        next(frames)


def test_a_decoder_that_can_not_begin_is_no_fault_of_the_video(server, long_video, monkeypatch, caplog):
    monkeypatch.setattr(decoder, "environment", lambda: {"PYTHONHOME": "/nowhere"})
    with long_video.open("rb") as file:
        answer = post(server, "/api/video", files={"video": file})
    assert answer.status_code == 500 and "the server's log says why" in message(answer)
    assert "ended with code 1" in caplog.text


def test_the_decoder_knows_no_secret(monkeypatch):
    monkeypatch.setenv("FER_KERAS_TOKEN", "a" * 30)
    assert not any("a" * 30 in value for value in decoder.environment().values())


def test_slow_senders_keep_nobody_from_a_turn(server, astronaut):
    slow = []
    for path in ("/api/predict", "/api/webcam?session=0123456789abcdef") * 2:
        sender = socket.create_connection(("127.0.0.1", server.port))
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: 99999\r\n\r\n"
        sender.sendall(head.encode() + encoded(astronaut, "JPEG")[:1000])
        slow.append(sender)
    try:
        time.sleep(0.5)  # until they are being read
        answer = requests.post(server.url + "/api/predict", files={"image": encoded(astronaut)}, timeout=8)
        assert len(answer.json()["faces"]) == 1
    finally:
        for sender in slow:
            sender.close()


# --- what is refused --------------------------------------------------------------------------------------------------


def png(width, height, body=b""):
    """A PNG that says that it is so large, whatever is in it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", body) + chunk(b"IEND", b"")


HOSTILE = {
    "a zip bomb": (png(50_000, 50_000, zlib.compress(bytes(10_000_000), 9)), 413),
    "huge dimensions": (png(2**31 - 1, 2**31 - 1), 413),
    "more pixels than allowed": (png(5001, 5000), 413),
    "no dimensions": (png(0, 0), 422),
    "pixels that are missing": (png(400, 400, zlib.compress(bytes(100))), 422),
    "nothing": (b"", 422),
    "a start alone": (b"\xff\xd8\xff", 422),
    "text": (b"hello", 415),
    "a web page": (b"<html><script>alert(1)</script></html>", 415),
    "a vector picture": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415),
    "a TIFF": (b"II*\x00" + bytes(100), 415),
    "noise after a JPEG's start": (b"\xff\xd8\xff\xe0" + os.urandom(5000), 422),
    "a GIF of nothing": (b"GIF89a" + bytes(20), 422),
    "a BMP of nothing": (b"BM" + bytes(60), 422),
    "a WebP of nothing": (b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(30), 422),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_pictures_are_refused(server, what):
    data, status = HOSTILE[what]
    answers = [post(server, files={"image": data}), post(server, json={"image": base64.b64encode(data).decode()})]
    for answer in answers:
        assert answer.status_code == status, answer.text
        assert message(answer)


def test_a_truncated_picture_is_refused(server, astronaut):
    for kind in ("PNG", "JPEG", "WEBP"):
        data = encoded(astronaut, kind)
        for share in (0.1, 0.5, 0.9):
            answer = post(server, files={"image": data[: int(share * len(data))]})
            assert answer.status_code == 422, (kind, share, answer.text)


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ({"data": b"x", "headers": {"Content-Type": "text/plain"}}, 415, "expected multipart/form-data, application/json"),
        ({}, 415, "no content type"),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, "the body is not JSON"),
        ({"data": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 400, "the body is not JSON"),
        ({"json": []}, 422, "a JSON object"),
        ({"json": {}}, 422, "image is a picture in base64"),
        ({"json": {"image": 5}}, 422, "image is a picture in base64"),
        ({"json": {"image": "!!"}}, 422, "not base64"),
        ({"json": {"image": "aGk=", "path": "/etc/passwd"}}, 422, "unknown entry 'path'; expected image, faces, model, detector"),
        ({"json": {"image": "aGk=", "faces": "some"}}, 422, "faces is one of auto, full; got 'some'"),
        ({"json": {"image": "aGk=", "model": ["x"]}}, 422, "model is one of ferplus-cnn, twin; got"),
        ({"json": {"image": "aGk=", "model": "../../etc"}}, 422, "model is one of ferplus-cnn, twin; got"),
        ({"files": {"picture": b"x"}}, 422, "unknown entry 'picture'; expected image"),
        ({"json": {"image": "aGk="}, "params": {"modle": "twin"}}, 422, "unknown entry 'modle'; expected faces, model, detector"),
        ({"files": {"image": (None, "text")}}, 422, "image came as text; send it as a file"),
        ({"files": [("image", b"x"), ("image", b"y")]}, 422, "got 2"),
    ],
)
def test_a_request_that_does_not_fit_is_told_what_was_expected(server, given, status, words):
    answer = post(server, **given)
    assert answer.status_code == status and words in message(answer)


def test_an_upload_above_the_limit_is_refused_before_it_is_read_into_memory(server):
    limit = server.engine.config.max_image_mb * 2**20
    answer = post(server, files={"image": bytes(int(1.5 * limit))})
    assert answer.status_code == 413
    answer = post(server, files={"image": b"\x89PNG\r\n\x1a\n" + bytes(int(limit))})
    assert answer.status_code == 413 and "expected at most" in message(answer)
    # A length that is only promised is refused as well, and a body without length ends at the limit.
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("POST", "/api/predict")
    connection.putheader("Content-Type", "image/png")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def test_a_form_of_too_many_parts_or_too_much_text_is_told_what_is_too_much(server):
    many = post(server, "/api/predict/batch", files=[("images", b"x")] * 70)
    assert many.status_code == 413 and "a form has at most 64 parts" in message(many)
    text = post(server, files={"image": (None, "x" * 600_000)})
    assert text.status_code == 413 and "pictures and videos are sent as files" in message(text)


def test_headers_without_end_are_refused(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
        with contextlib.suppress(OSError):  # it hangs up while we send
            for _ in range(40):
                client.sendall(b"x" * 10_000)
            client.sendall(b"\r\n\r\n")
        try:
            answer = client.recv(100)
        except OSError:
            answer = b""
    assert not answer or answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 414", b"HTTP/1.1 431")), answer
    assert requests.get(server.url + "/healthz", timeout=10).json() == {"status": "ok"}


def test_an_origin_that_is_no_address_is_refused(server):
    answer = requests.get(server.url + "/healthz", headers={"Origin": "http://["}, timeout=10)
    assert answer.status_code == 403 and "another site" in message(answer)


def test_methods_that_visitors_make_up_are_counted_as_one(server):
    for number in range(3):
        assert requests.request(f"MADEUP{number}", server.url + "/healthz", timeout=10).status_code == 405
    metrics = requests.get(server.url + "/metrics", timeout=10).text
    assert "MADEUP" not in metrics and 'method="other"' in metrics


def test_a_chunked_upload_without_end_is_refused(server):
    piece = bytes(2**20)
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        client.sendall(
            b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        try:
            for _ in range(80):
                client.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        except OSError:
            pass  # it hung up, as it should
        try:
            answer = client.recv(100)
        except OSError:
            answer = b""
    assert not answer or answer.startswith(b"HTTP/1.1 413")
    assert requests.get(server.url + "/healthz", timeout=10).json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 422),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 415),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", 415),
        (b"\x00\x00\x00\x18ftypmp42" + bytes(200), 422),
        (b"\x1a\x45\xdf\xa3" + bytes(200), 422),
        (b"RIFF\x00\x00\x00\x00AVI " + bytes(200), 422),
    ],
)
def test_hostile_videos_are_refused(server, data, status):
    answer = post(server, "/api/video", files={"video": data})
    assert answer.status_code == status, answer.text


def test_paths_do_not_lead_out_of_the_folders_that_are_shown(server, twin):
    (twin / "report.html").write_text("<h1>for whom</h1>")
    (twin / "secret.txt").write_text("secret")
    (twin / "link.png").symlink_to("/etc/passwd")
    try:
        report = requests.get(f"{server.url}/models/twin/report.html", timeout=10)
        assert report.status_code == 200 and report.headers["Content-Security-Policy"].startswith("sandbox; default-src 'none'")
        overlong = f"twin/{'a' * 300}.png"  # no name that a file could have
        assert requests.get(f"{server.url}/models/{overlong}", timeout=10).status_code == 404
        assert requests.get(f"{server.url}/static/{'a' * 300}.png", timeout=10).status_code == 404
        assert requests.get(f"{server.url}/models/{'a' * 300}", timeout=10).status_code == 404
        for path in ("twin/secret.txt", "twin/link.png", "twin/metadata.json", "twin/saved_model.pb", "twin/.hidden.png", "none"):
            assert requests.get(f"{server.url}/models/{path}", timeout=10).status_code == 404, path
        for path in ("/models/twin/..%2f..%2fsaved_model.pb", "/models/..%2f..%2fetc%2fpasswd", "/static/..%2fapp.py"):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
            connection.request("GET", path)
            assert connection.getresponse().status == 404, path
            connection.close()
    finally:
        for name in ("report.html", "secret.txt", "link.png"):
            (twin / name).unlink()


def test_fifty_requests_at_once_are_all_answered(server, astronaut):
    data = encoded(astronaut, "JPEG")
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: post(server, files={"image": data}), range(50)))
    assert [answer.status_code for answer in answers] == [200] * 50
    assert len({answer.text for answer in answers}) == 1


# --- the stream -------------------------------------------------------------------------------------------------------


def parts_of(response, boundary=b"--frame"):
    """(headers, JPEG) of an MJPEG stream, parsed by the lengths that it tells, and held to its boundaries."""
    stream = response.raw
    assert stream.readline() == boundary + b"\r\n"
    while True:
        headers = {}
        while (line := stream.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        jpeg = stream.read(int(headers["Content-Length"]))
        assert stream.readline() == b"\r\n"
        end = stream.readline()
        yield headers, jpeg
        assert end in (boundary + b"\r\n", boundary + b"--\r\n")
        if end.endswith(b"--\r\n"):
            return


def test_the_stream_is_mjpeg_with_drawn_boxes(server):
    from PIL import Image

    response = requests.get(f"{server.url}/api/stream/video?limit=12", stream=True, timeout=20)
    assert response.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=frame"
    parts = list(parts_of(response))
    assert len(parts) == 12
    numbers = [int(headers["X-Sequence"]) for headers, _ in parts]
    assert numbers == sorted(set(numbers))
    for headers, jpeg in parts:
        assert headers["Content-Type"] == "image/jpeg"
        assert abs(time.time() - float(headers["X-Captured-At"])) < 60
        image = Image.open(io.BytesIO(jpeg))
        image.load()
        assert image.size == (640, 480)


def test_events_tell_the_faces_and_the_state(server):
    events = events_of(server, 12, "&max_hz=100")
    assert len(events) == 12
    last = events[-1]
    assert last["status"]["state"] == "live" and last["status"]["listeners"] >= 1
    faces = last["result"]["faces"]
    assert 3 <= len(faces) <= 5
    for face in faces:
        assert sum(face["probabilities"].values()) == pytest.approx(1, abs=2e-3)
        assert 0 <= face["box"][0] < face["box"][2] <= 660
    assert set(last["result"]["stages_ms"]) >= {"detect", "recognize", "track", "total"}


def test_a_listener_is_told_as_often_as_it_asks(server):
    events_of(server, 3)  # the stream runs
    start = time.monotonic()
    events_of(server, 4, "&max_hz=4")
    assert time.monotonic() - start >= 0.75


def test_the_model_is_switched_while_the_stream_runs_and_back(server):
    response = requests.get(f"{server.url}/api/stream/video", stream=True, timeout=20)  # somebody watches all the time
    try:
        for model, labels in (("twin", TWIN_LABELS), ("ferplus-cnn", None)):
            status = post(server, "/api/stream/settings", json={"source": "demo", "model": model, "detector": "mtcnn"}).json()
            assert status["model"] == model

            def switched(model=model):
                result = events_of(server, 1)[0]["result"]
                return result and result["model"] == model and result["faces"] and result

            result = wait_until(switched)
            if labels:
                assert all(list(face["probabilities"]) == labels for face in result["faces"])
    finally:
        post(server, "/api/stream/settings", json={"model": "ferplus-cnn"})
        response.close()


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "nobody"}, 422, "model is one of ferplus-cnn, twin; got 'nobody'"),
        ({"source": "attic"}, 404, "there is no source 'attic'; there is demo"),
        ({"detector": 5}, 422, "detector is one of"),
        ({"brightness": 1}, 422, "unknown entry 'brightness'"),
    ],
)
def test_settings_that_are_not_there_are_refused(server, body, status, words):
    answer = post(server, "/api/stream/settings", json=body)
    assert answer.status_code == status and words in message(answer)


def test_results_are_recorded_shown_and_fetched_as_csv(server):
    assert post(server, "/api/recording", json={"recording": True}).json()["recording"]["active"]
    wait_until(lambda: requests.get(server.url + "/api/stream", timeout=10).json()["sources"][0]["recording"]["rows"] > 8)
    status = post(server, "/api/recording", json={"recording": False}).json()
    assert not status["recording"]["active"]
    answer = requests.get(server.url + "/api/results.csv", timeout=10)
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert re.fullmatch(r'attachment; filename="demo-\d{8}-\d{6}\.csv"', answer.headers["Content-Disposition"])
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == status["recording"]["rows"]
    with_face = [row for row in rows if row["track_id"]]
    labels = Recognizer(MODEL).labels
    for row in with_face:
        values = [float(row[f"p_{label}"]) for label in labels]
        assert sum(values) == pytest.approx(1, abs=2e-3) and row["p_calm"] == ""
        assert row["model"] == "ferplus-cnn" and row["label"] in labels


def recording_of(server):
    return requests.get(server.url + "/api/stream", timeout=10).json()["sources"][0]["recording"]


@pytest.mark.skipif(os.name == "nt", reason="Windows can't limit files")
def test_a_full_disk_ends_a_recording_and_nothing_else(server, caplog):
    """The stream goes on, and what was written until then can be fetched."""
    with no_room(12_000), requests.get(server.url + "/api/stream/events", stream=True, timeout=20) as watching:
        lines = watching.iter_lines()
        assert post(server, "/api/recording", json={"recording": True}).json()["recording"]["active"]
        ended = wait_until(lambda: (now := recording_of(server)) and not now["active"] and now)
        assert ended["message"].startswith("no more can be written: ") and ended["rows"] > 8
        counts = [stream.status()["analysed"] for stream in server.engine.streams.values()]
        told = [json.loads(line[6:]) for line in itertools.islice((each for each in lines if each[:6] == b"data: "), 30)]
        assert sum(event["result"] is not None for event in told) > 20 and told[-1]["status"]["state"] == "live"
        assert server.engine.streams["demo"].status()["analysed"] > counts[0]
        table = list(csv.DictReader(io.StringIO(requests.get(server.url + "/api/results.csv", timeout=10).text)))
    assert len(table) == ended["rows"] == recording_of(server)["fetched_rows"]
    assert all(row["p_put off"] is not None for row in table)  # whole rows alone
    assert [record.getMessage() for record in caplog.records if record.levelno > 20] == [
        f"the recording of demo ended: {ended['message']}"
    ]
    again = post(server, "/api/recording", json={"recording": True}).json()["recording"]
    assert again["active"] and again["message"] == ""
    post(server, "/api/recording", json={"recording": False})


@pytest.mark.skipif(os.name == "nt", reason="Windows can't limit files")
def test_what_has_no_room_on_the_disk_is_refused_in_words(server, caplog):
    film = b"RIFF\0\0\0\0AVI " + bytes(700_000)
    errors = server.engine.metrics.errors.labels("request")._value.get()
    before = recording_of(server)
    with no_room(200):
        answers = [
            post(server, "/api/video", files={"video": film}),
            post(server, files={"image": film}),
            post(server, "/api/recording", json={"recording": True}),
        ]
    for answer in answers:
        assert answer.status_code == 507 and "no room left on the server's disk" in message(answer)
    assert recording_of(server) == before  # the last one is still there
    assert server.engine.metrics.errors.labels("request")._value.get() == errors
    assert [record.levelname for record in caplog.records if record.levelno > 20 or record.exc_info] == ["WARNING"] * 3
    described = requests.get(server.url + "/api/openapi.json", timeout=10).json()["paths"]
    assert all("507" in described[path]["post"]["responses"] for path in ("/api/video", "/api/predict", "/api/recording"))


def test_a_snapshot_is_one_picture(server):
    answer = requests.get(server.url + "/api/stream/snapshot.jpg", timeout=20)
    assert answer.headers["Content-Type"] == "image/jpeg" and answer.content.startswith(b"\xff\xd8")


def test_a_client_that_reads_nothing_slows_nobody(server):
    """Its socket is full after some pictures; the others go on, and it is dropped in the end."""
    stuck = socket.create_connection(("127.0.0.1", server.port))
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.sendall(b"GET /api/stream/video HTTP/1.1\r\nHost: localhost\r\n\r\n")
    try:
        response = requests.get(f"{server.url}/api/stream/video?limit=40", stream=True, timeout=30)
        numbers = [int(headers["X-Sequence"]) for headers, _ in parts_of(response)]
        assert len(numbers) == 40
        assert np.median(np.diff(numbers)) == 1
    finally:
        stuck.close()


def test_viewers_above_the_limit_are_sent_away_politely():
    with serving(max_viewers=1, detector="haar") as running:
        running.ready()
        with requests.get(running.url + "/api/stream/video", stream=True, timeout=20):
            answer = requests.get(running.url + "/api/stream/video", timeout=20)
            assert answer.status_code == 503 and answer.headers["Retry-After"] == "5"
            assert "which is the most allowed" in message(answer)

            def metric():
                text = requests.get(running.url + "/metrics", timeout=10).text
                return 'fer_viewers{kind="picture",source="demo"} 1.0' in text

            assert metric()


def test_metrics_count_frames_faces_stages_and_requests(server, astronaut):
    post(server, files={"image": encoded(astronaut)})
    events_of(server, 3)
    text = requests.get(server.url + "/metrics", timeout=10).text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    for name in (
        'fer_frames_total{outcome="captured",source="demo"}',
        'fer_frames_total{outcome="analysed",source="demo"}',
        'fer_faces_total{origin="stream"}',
        'fer_faces_total{origin="upload"}',
        'fer_stage_seconds_count{stage="detect"}',
        'fer_stage_seconds_count{stage="recognize"}',
        'fer_http_requests_total{method="POST",route="/api/predict",status="200"}',
    ):
        assert float(values[name]) > 0, name


# --- who is let in ----------------------------------------------------------------------------------------------------


def test_every_answer_has_the_headers_that_bind_a_browser(server):
    for path in ("/", "/api/models", "/static/main.js", "/nowhere", "/models/ferplus-cnn"):
        answer = requests.get(server.url + path, timeout=10)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_pages_have_no_inline_scripts_or_styles_and_load_nothing_from_elsewhere(server):
    for path in ("/", "/models", "/models/ferplus-cnn"):
        text = requests.get(server.url + path, timeout=10).text
        assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=|<style", text)
        assert not re.search(r"(src|href)=\"(https?:)?//", text.split('<article class="card">')[0])


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", ""])
def test_without_a_token_other_names_of_this_machine_are_not_answered(server, host):
    answer = requests.get(server.url + "/api/models", headers={"Host": host}, timeout=10)
    assert answer.status_code in (400, 421)
    assert requests.get(server.url + "/api/models", headers={"Host": "localhost:99"}, timeout=10).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
def test_what_pages_of_other_sites_cause_is_refused(server, headers):
    answer = post(server, "/api/recording", json={"recording": True}, headers=headers)
    assert answer.status_code == 403 and "another site" in message(answer)
    origin = headers.get("Origin", "").removeprefix("http://").removeprefix("https://")
    # Both hosts are told: behind a proxy that keeps Host to itself, they are what shows its fault.
    assert not origin or f"({origin}, and 127.0.0.1:{server.port} was asked); where both are this server, the proxy" in message(
        answer
    )
    if headers.get("Sec-Fetch-Mode") != "navigate" and headers.get("Origin") != "null":
        assert requests.get(server.url + "/api/stream/snapshot.jpg", headers=headers, timeout=10).status_code == 403


def test_our_own_page_and_programs_are_let_through(server):
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert post(server, "/api/recording", json={"recording": False}, headers=own).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert requests.get(server.url, headers=link, timeout=10).status_code == 200


@pytest.fixture(scope="module")
def guarded():
    token = "correct-horse-battery"  # noqa: S105 - of this test
    with serving(token=token, detector="haar") as running:
        yield running, token


def test_a_token_is_asked_for_everywhere_but_at_the_health_check(guarded):
    running, token = guarded
    for path in ("/api/models", "/api/stream/video", "/api/stream/events", "/metrics", "/api/openapi.json", "/api/nowhere"):
        answer = requests.get(running.url + path, timeout=10)
        assert answer.status_code == 401 and answer.headers["WWW-Authenticate"] == "Bearer", path
        wrong = requests.get(running.url + path, headers={"Authorization": f"Bearer {token}x"}, timeout=10)
        assert wrong.status_code == 401
    assert post(running, json={"image": "aGk="}).status_code == 401
    assert requests.get(running.url + "/healthz", timeout=10).status_code == 200
    right = requests.get(running.url + "/api/models", headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert right.status_code == 200


def test_a_token_in_the_address_becomes_a_cookie_and_leaves_the_address(guarded):
    running, token = guarded
    browser = requests.Session()
    assert browser.get(running.url + "/?token=wrong", timeout=10).status_code == 401
    answer = browser.get(f"{running.url}/models?token={token}", timeout=10, allow_redirects=False)
    assert answer.status_code == 302 and answer.headers["Location"] == "/models"
    # Words that Flask's url_for has a meaning for are words like others in an address.
    for query, kept in (
        ("endpoint=y&name=z&_method=FOO", "endpoint=y&name=z&_method=FOO"),
        ("a=%C3%BC%26&a=2", "a=%C3%BC%26&a=2"),
    ):
        other = browser.get(f"{running.url}/models?token={token}&{query}", timeout=10, allow_redirects=False)
        assert other.status_code == 302 and other.headers["Location"] == f"/models?{kept}"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and token not in cookie
    assert browser.get(running.url + "/api/models", timeout=10).status_code == 200
    cookies = {security.cookie_name(token): token}
    assert requests.get(running.url + "/api/models", cookies=cookies, timeout=10).status_code == 401


def test_servers_on_one_host_do_not_log_each_other_out(guarded):
    running, token = guarded
    browser = requests.Session()  # which, as all browsers, sends a cookie to every port of the host that set it
    with serving(token=token + "s", detector="haar") as other:
        for server, its_token in ((running, token), (other, token + "s")):
            assert browser.post(server.url + "/login", data={"token": its_token}, timeout=10).status_code == 200
        assert [browser.get(server.url + "/api/models", timeout=10).status_code for server in (running, other)] == [200, 200]
    assert len(browser.cookies) == 2


def test_a_browser_without_a_token_is_asked_for_it(guarded):
    running, token = guarded
    browser = requests.Session()
    page = browser.get(running.url, timeout=10)
    assert page.status_code == 401 and 'name="token"' in page.text
    assert browser.post(running.url + "/login", data={"token": "no"}, timeout=10).status_code == 401
    page = browser.post(running.url + "/login", data={"token": token}, timeout=10)
    assert page.status_code == 200 and 'id="picture"' in page.text
    answer = browser.post(running.url + "/login", data={"token": token}, headers={"Origin": "https://e.example"}, timeout=10)
    assert answer.status_code == 403


def test_who_gives_the_token_gets_the_page_that_was_asked_for(guarded):
    running, token = guarded
    browser = requests.Session()
    page = browser.get(running.url + "/models/ferplus-cnn?a=%C3%BC%22&token=wrong", timeout=10)
    for given, status in (("no", 401), (token, 302)):
        onward = html.unescape(re.search(r'name="next" value="([^"]*)"', page.text)[1])
        assert onward == "/models/ferplus-cnn?a=%C3%BC%22"
        sent = {"token": given, "next": onward}
        page = browser.post(running.url + "/login", data=sent, timeout=10, allow_redirects=False)
        assert page.status_code == status
    assert page.headers["Location"] == onward
    assert browser.get(running.url + "/login", timeout=10).url == running.url + "/"  # nothing more is asked of them


@pytest.mark.parametrize(
    "onward",
    [
        "",
        "models",
        "//evil.example",
        "///evil.example",
        "https://evil.example/",
        "https:evil.example",
        "javascript:alert(1)",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "\t//evil.example",
        " //evil.example",
        "/\n/evil.example",
        "/models\r\nSet-Cookie: a=b",
        "/models\n",
        "/models\0",
        "/modèles",
    ],
)
def test_a_login_leads_nowhere_but_to_pages_here(guarded, onward):
    running, token = guarded
    answer = post(running, "/login", data={"token": token, "next": onward}, allow_redirects=False)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")


def test_with_a_token_other_names_are_answered(guarded):
    running, token = guarded
    headers = {"Host": "camera.example", "Authorization": f"Bearer {token}"}
    assert requests.get(running.url + "/api/models", headers=headers, timeout=10).status_code == 200


# --- pages ------------------------------------------------------------------------------------------------------------


def test_the_page_of_a_model_shows_its_figures_its_card_and_what_lies_beside_it(server, twin, astronaut):
    (twin / "confusion.csv").write_text("true,calm,glad\ncalm,8,2\nglad,0,5\n")
    (twin / "confusion.png").write_bytes(encoded(astronaut[:20, :20]))
    try:
        text = requests.get(server.url + "/models/twin", timeout=10).text
        assert '<td class="number heat-8">8</td><td class="number heat-2">2</td>' in text
        assert 'src="/models/twin/confusion.png"' in text
        accuracy = json.loads((twin / "metadata.json").read_text())["figures"][0]["accuracy"]
        assert f"{accuracy:.4f}" in text and "Not for: inferring emotions" in text and "Article 5(1)(f)" in text
        assert requests.get(server.url + "/models/twin/confusion.png", timeout=10).headers["Content-Type"] == "image/png"
        for damaged in (
            b"",
            b"\n",
            b"true,calm\n\ncalm,8\n",
            b"true,calm,glad\ncalm,8\nglad,0,5\n",
            b"true,calm\ncalm,inf\n",
            b"\xff",
        ):
            (twin / "confusion.csv").write_bytes(damaged)
            page = requests.get(server.url + "/models/twin", timeout=10)
            assert page.status_code == 200 and "heat-" not in page.text, damaged
    finally:
        (twin / "confusion.csv").unlink()
        (twin / "confusion.png").unlink()


def test_a_page_that_is_not_there_is_told_to_people_in_words_and_to_programs_in_json(server):
    # The header of Chrome 156.
    accepted = (
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,"
        "application/signed-exchange;v=b3;q=0.7"
    )
    page = requests.get(server.url + "/nope", headers={"Accept": accepted}, timeout=10)
    assert page.status_code == 404 and "There is no such page." in page.text
    for headers in ({}, {"Accept": "application/json"}):
        assert "not found" in message(requests.get(server.url + "/nope", headers=headers, timeout=10))


def test_the_law_is_told_on_every_page(server):
    for path in ("/", "/models", "/models/ferplus-cnn"):
        assert "AI Act, Article 5(1)(f)" in requests.get(server.url + path, timeout=10).text


# --- the command ------------------------------------------------------------------------------------------------------


def start(command, **environment):
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    )
    return process


def stop_while_watched(process, url, before_the_end=lambda: None):
    """Seconds from SIGTERM to the end, with viewers and listeners attached."""
    try:

        def up():
            assert process.poll() is None, process.communicate()[0]
            try:
                return requests.get(url + "/readyz", timeout=5).status_code == 200
            except requests.RequestException:
                return False

        wait_until(up, 90)
        watching = [requests.get(url + path, stream=True, timeout=20) for path in ("/api/stream/video", "/api/stream/events") * 3]
        assert watching[0].raw.read(2000)
        before_the_end()
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        return time.monotonic() - started
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
@pytest.mark.parametrize("source", ["demo", "a camera that hangs"])
def test_the_command_serves_and_ends_within_three_seconds_of_sigterm(source, astronaut):
    hanging = camera(encoded(astronaut, "JPEG"))

    def hang():
        hanging.silent.set()
        time.sleep(0.5)  # the capture waits inside FFmpeg now, for longer than the server has

    address = "demo" if source == "demo" else f"http://127.0.0.1:{hanging.server_address[1]}/"
    process = start([sys.executable, "-m", "serving.app", "--port", "0", "--detector", "haar", "--source", address])
    try:
        url = process.stdout.readline().split()[0].rstrip("/")
        assert re.fullmatch(r"http://localhost:\d+", url)
        assert stop_while_watched(process, url, hang) < 3
        assert process.returncode == 0
    finally:
        process.kill()
        switch_off(hanging)


@pytest.mark.skipif(os.name == "nt", reason="gunicorn runs on Unix")
@pytest.mark.parametrize("server", ["serving.app", "gunicorn"])
def test_a_damaged_film_does_not_flood_the_terminal(server, tmp_path):
    film, port = damaged_film(grey_film(tmp_path / "film.mp4"), *range(5, 15)), free_port()
    command = [sys.executable, "-m", server]
    if server == "gunicorn":
        command += ["-c", "python:serving.gunicorn_conf", "serving.app:create_app()"]
    settings = {"FER_KERAS_SOURCES": str(film), "FER_KERAS_PORT": str(port), "FER_KERAS_DETECTOR": "haar"}
    process = start(command, **settings)
    url = f"http://127.0.0.1:{port}"
    stop_while_watched(process, url, lambda: requests.get(f"{url}/api/stream/events?limit=60&max_hz=50", timeout=60))
    said = process.stdout.read()
    assert "header damaged" not in said and "mpeg4" not in said, said  # FFmpeg's words for it


@pytest.mark.skipif(os.name == "nt", reason="gunicorn runs on Unix")
def test_gunicorn_serves_it_and_ends_within_three_seconds_of_sigterm():
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-c", "python:serving.gunicorn_conf", "serving.app:create_app()"]
    process = start(command, FER_KERAS_PORT=str(port), FER_KERAS_DETECTOR="haar")
    assert stop_while_watched(process, f"http://127.0.0.1:{port}") < 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "192.168.7.7"], "lets a network in, which needs a token; set --token or FER_KERAS_TOKEN"),
        (["--source", "nowhere.mp4"], "there is no file 'nowhere.mp4'"),
        (["--model", "nobody"], "there is no model nobody"),
        (["--detector", "eyes"], "invalid choice: 'eyes'"),
    ],
)
def test_the_command_refuses_in_one_line_what_does_not_fit(capsys, options, words):
    from serving.app import main

    try:
        code = main(options)
    except SystemExit as error:
        code = error.code
    out, err = capsys.readouterr()
    assert code == 2 and out == "" and err.count("\n") == 1 and words in err


def test_a_port_that_is_taken_is_told(capsys):
    from serving.app import main

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert main(["--port", str(other.getsockname()[1])]) == 2
    assert "can't be listened on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "url"),
    [
        *((host, "http://localhost:8000/") for host in ("127.0.0.1", "::1", "0.0.0.0", "::", "")),  # noqa: S104
        ("192.168.1.5", "http://192.168.1.5:8000/"),
        ("fe80::5", "http://[fe80::5]:8000/"),
    ],
)
def test_the_address_that_is_printed_can_be_opened_on_this_machine(host, url):
    assert address(host, 8000) == url


def test_the_server_answers_below_script_name_as_gunicorn_does(monkeypatch):
    monkeypatch.setenv("SCRIPT_NAME", "/our/fer")
    with serving(detector="haar") as running:

        def ask(path):
            return requests.get(running.url + path, timeout=20, allow_redirects=False)

        assert ask("/our/fer/healthz").status_code == 200
        page = ask("/our/fer/")
        assert page.status_code == 200 and ' data-root="/our/fer"' in page.text
        [script] = re.findall(r'src="([^"]+[.]js)"', page.text)
        assert script.startswith("/our/fer/") and ask(script).status_code == 200
        assert ask("/our/fer").headers["Location"] == f"{running.url}/our/fer/"
        assert ask("/our/fer/api/openapi.json").json()["servers"] == [{"url": "/our/fer"}]
        assert ask("/our/fer/nowhere").status_code == 404
        for path in ("/", "/healthz", "/our", "/our/ferry/healthz", "/other/our/fer/healthz"):
            answer = ask(path)
            assert answer.status_code == 404 and "below /our/fer/" in answer.text, path
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        refused = post(running, data=b"0" * 2**20)
        assert refused.status_code == 404 and "below /our/fer/" in refused.text
    assert address("127.0.0.1", 8000, "/our/fer") == "http://localhost:8000/our/fer/"


@pytest.mark.parametrize("path", ["fer", "/fer/", "/", "//fer", "/fer//x", "/a b", "/fer?x"])
def test_a_script_name_that_is_no_path_is_refused(monkeypatch, path):
    monkeypatch.setenv("SCRIPT_NAME", path)
    with pytest.raises(ConfigError, match=re.escape(f"such as /fer, got {path!r}")), serving(detector="haar"):
        pass


def test_flask_finds_the_application_and_environment(monkeypatch):
    from flask.cli import ScriptInfo

    monkeypatch.setenv("FER_KERAS_SOURCES", "demo,0")
    app = ScriptInfo(app_import_path="serving.app").load_app()
    assert list(app.extensions["fer_keras"].streams) == ["demo", "camera-0"]


LOADING = """
import itertools, threading
from serving.app import create_app
app = create_app()
asked, kept = app.extensions["fer_keras"].recognizers, []
def load(name):
    for number in itertools.count():
        asked(name)
        kept.append(asked._made.pop(name))
        if not number:
            print("loaded", name, flush=True)
for name in asked.names:  # as many as make sure that one is at it when the server ends
    threading.Thread(target=load, args=(name,), daemon=True).start()
"""


def test_flask_ends_in_order_while_models_are_loaded(tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "busy.py").write_text(LOADING)
    # What runs in the background, as these tests may, starts with Ctrl-C switched off.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from flask.cli import main; main()"
    command = [sys.executable, "-c", code, "--app", "busy", "run", "--port", "0"]
    models = "ferplus-cnn,fer2013-cnn,ferplus-densenet121,ferplus-ensemble"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "FER_KERAS_MODELS": models}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            while "loaded" not in process.stdout.readline():
                assert process.poll() is None, process.stderr.read()
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 0 and "terminate called" not in errors, errors[-500:]
