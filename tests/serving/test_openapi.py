import re
import subprocess
import sys
from pathlib import Path

import requests
from live_server import serving

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
