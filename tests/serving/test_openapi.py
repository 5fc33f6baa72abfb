import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import pytest
import requests
from films import damaged_film, grey_film
from live_server import events_of, serving

#: A fuzzer can't know that "binary" must be a picture: what fits the description may still be no picture, and is told so.
CONFIG = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 413, 415, 422, 503]
"""


def test_a_fuzzer_finds_nothing_that_the_description_does_not_say(tmp_path):
    (tmp_path / "schemathesis.toml").write_text(CONFIG)
    command = [Path(sys.executable).with_name("schemathesis"), "--config-file", tmp_path / "schemathesis.toml", "run"]
    command += ["--exclude-tag", "endless", "--phases", "coverage,fuzzing", "-n", "8", "--generation-deterministic"]
    if sys.version_info < (3, 11):
        # The last schemathesis for Python 3.10 can't send a body that may only be a picture, and counts that as an error.
        command += ["--exclude-path", "/api/webcam"]
    with serving(detector="haar") as running:  # its own: a fuzzer switches and records whatever it can
        running.ready()
        command += ["--request-timeout", "30", f"{running.url}/api/openapi.json"]
        done = subprocess.run([str(word) for word in command], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_address_of_the_api_is_described(server):
    described = requests.get(server.url + "/api/openapi.json", timeout=10).json()["paths"]
    there = {
        (rule.rule, method.lower())
        for rule in server.app.url_map.iter_rules()
        if rule.endpoint.startswith("api.")
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert there == {(path, method) for path, methods in described.items() for method in methods}


def test_the_description_names_what_this_server_has_and_whether_it_wants_a_token(server):
    described = requests.get(server.url + "/api/openapi.json", timeout=10).json()
    (model,) = [each for each in described["paths"]["/api/predict"]["post"]["parameters"] if each["name"] == "model"]
    assert model["schema"]["enum"] == ["ferplus-cnn", "twin"]
    assert "security" not in described
    assert re.fullmatch(r"3\.1\.\d", described["openapi"])


def checker(server, path, method, kind):
    """What holds one item of a streamed answer to the description."""
    described = requests.get(server.url + "/api/openapi.json", timeout=10).json()
    content = described["paths"][path][method]["responses"]["200"]["content"]
    schema = content[kind]["x-itemSchema"]
    if kind == "text/event-stream":
        schema = schema["properties"]["data"]["contentSchema"]
    return jsonschema_rs.Draft202012Validator({**schema, "components": described["components"]})


def test_the_lines_of_a_video_are_as_described(server, astronaut, tmp_path):
    import cv2

    writer = cv2.VideoWriter(str(tmp_path / "face.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, astronaut.shape[1::-1])
    for _ in range(4):
        writer.write(astronaut[:, :, ::-1])
    writer.release()
    damaged = damaged_film(grey_film(tmp_path / "film.mp4"), 5)
    check = checker(server, "/api/video", "post", "application/x-ndjson")
    kinds, faces, missing = set(), 0, set()
    for film in (tmp_path / "face.avi", damaged):
        answer = requests.post(server.url + "/api/video", files={"video": film.read_bytes()}, timeout=60)
        for line in map(json.loads, answer.text.splitlines()):
            check.validate(line)
            kinds.add(line["type"])
            faces += len(line.get("faces", []))
            missing.add(line.get("missing"))
    assert kinds == {"video", "frame", "end"} and faces and len(missing) == 2
    check.validate({"type": "error", "message": "the server is stopping"})
    head = {"type": "video", "width": 2, "height": 2, "duration_s": -1, "model": "a", "labels": [], "limit_s": 9}
    for wrong in ({"type": "end"}, {**line, "type": "frame"}, {**line, "more": 1}, head, "end"):
        with pytest.raises(jsonschema_rs.ValidationError):
            check.validate(wrong)
    check.validate({**head, "duration_s": None})


def test_the_events_of_a_stream_are_as_described(server):
    check = checker(server, "/api/stream/events", "get", "text/event-stream")
    events = events_of(server, 12, "&max_hz=100")
    for event in events:
        check.validate(event)
    assert any(event["result"] and event["result"]["faces"] for event in events)
    check.validate({**events[0], "result": None})
    for name in ("sequence", "result", "status"):
        with pytest.raises(jsonschema_rs.ValidationError):
            check.validate({key: value for key, value in events[0].items() if key != name})
