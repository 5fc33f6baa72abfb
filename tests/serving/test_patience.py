"""Clients that stall, drip, or send much at once, against both servers."""

import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
from live_server import MODEL, ROOT, encoded, free_port, serving, wait_until

from serving.patience import PatientSocket, TooSlowError
from serving.settings import RECEIVED_AT_ONCE

HEAD = "POST /api/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: {}\r\n\r\n"
GUNICORN = ["-c", "python:serving.gunicorn_conf", "serving.app:create_app()"]


@pytest.fixture(scope="module")
def hasty():
    """A server that waits a second for its clients."""
    with serving(detector="haar", max_viewers=1, client_timeout_s=1, min_kb_per_s=4) as running:
        running.ready()
        yield running


def connected(port, start=b"", buffer=None):
    client = socket.socket()
    if buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.connect(("127.0.0.1", port))
    client.settimeout(20)
    client.sendall(start)
    return client


@contextlib.contextmanager
def many(number, port, start, **more):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connected(port, start, **more)) for _ in range(number)]


def drip(client, data, pause_s=0.1, at_once=1):
    """Send some bytes now and then; seconds until the server has had enough of it, or all was sent."""
    began = time.monotonic()
    for place in range(0, len(data), at_once):
        try:
            client.sendall(data[place : place + at_once])
        except OSError:
            break
        time.sleep(pause_s)
    return time.monotonic() - began


def status_of(client):
    """The status that a server answers with; None where it hangs up without a word."""
    try:
        answer = client.recv(4000)
    except OSError:
        return None
    return int(answer.split()[1]) if answer else None


def healthy(port, patience_s=5):
    return requests.get(f"http://127.0.0.1:{port}/healthz", timeout=patience_s).json() == {"status": "ok"}


@contextlib.contextmanager
def outside(module, tmp_path, **settings):
    """A server in a process of its own: the process, its port, and its log."""
    port, log = free_port(), tmp_path / "log.txt"
    names = {"models": MODEL, "port": port, "detector": "haar", "max_viewers": 2, **settings}
    environment = {**os.environ, **{f"FER_KERAS_{name.upper()}": str(value) for name, value in names.items()}}
    with log.open("w") as said:
        command = [sys.executable, "-m", module, *(GUNICORN if module == "gunicorn" else [])]
        process = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said, env=environment)
    try:

        def up():
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(requests.RequestException):
                return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200

        wait_until(up, 90)
        yield process, port, log
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


# --- a connection -----------------------------------------------------------------------------------------------------


@pytest.fixture
def pair():
    """A connection that is patient for a second and wants 4,000 bytes in each, and its client."""
    accepted, client = socket.socketpair()
    patient = PatientSocket.take_over(accepted, 1, 4000)
    yield patient, client
    patient.close()
    client.close()


def test_headers_have_to_be_there_in_time_however_they_drip(pair):
    patient, client = pair
    sending = threading.Thread(target=drip, args=(client, bytes(15), 0.1))
    sending.start()
    began = time.monotonic()
    with pytest.raises(TooSlowError):
        while patient.recv(100):
            pass
    assert 0.8 < time.monotonic() - began < 3
    with pytest.raises(TooSlowError):
        patient.recv(100)  # there may be bytes, but it is too late
    patient.begin()  # the next request
    assert patient.recv(100)
    sending.join()


@pytest.mark.parametrize(("at_once", "comes"), [(2000, True), (20, False)])
def test_a_body_may_take_long_where_enough_of_it_comes(pair, at_once, comes):
    patient, client = pair
    patient.go_on()
    sending = threading.Thread(target=drip, args=(client, bytes(22 * at_once), 0.1, at_once))
    sending.start()
    time.sleep(0.5)  # that we do something else is no fault of the client
    with contextlib.nullcontext() if comes else pytest.raises(TooSlowError):
        count = 0
        while count < 22 * at_once:
            count += len(patient.recv(50))
    sending.join()


@pytest.mark.parametrize(("at_once", "taken"), [(4000, True), (40, False), (0, False)])
def test_an_answer_has_to_be_taken(pair, at_once, taken):
    patient, client = pair
    for end, option in ((patient, socket.SO_SNDBUF), (client, socket.SO_RCVBUF)):
        end.setsockopt(socket.SOL_SOCKET, option, 4096)
    over = threading.Event()

    def take():
        client.settimeout(0.1)
        while at_once and not over.wait(0.1):
            with contextlib.suppress(TimeoutError):
                client.recv(at_once)

    taking = threading.Thread(target=take)
    taking.start()
    try:
        with contextlib.nullcontext() if taken else pytest.raises(TooSlowError):
            patient.sendall(bytes(40_000))
    finally:
        over.set()
        taking.join()


def test_a_timeout_that_a_server_sets_holds_too(pair):
    patient, _ = pair
    patient.settimeout(0.1)
    with pytest.raises(TimeoutError):
        patient.recv(1)
    patient.setblocking(False)
    with pytest.raises(BlockingIOError):
        patient.recv(1)
    patient.setblocking(True)
    with pytest.raises(TooSlowError):
        patient.recv(1)


# --- cheroot ----------------------------------------------------------------------------------------------------------


def test_who_sends_a_byte_now_and_then_is_dropped(hasty, caplog):
    caplog.set_level(logging.DEBUG, "fer_keras.serving")
    with connected(hasty.port) as client:
        assert drip(client, b"GET /healthz HTTP/1.1\r\nX-Long: " + b"x" * 100) < 4
    with connected(hasty.port, HEAD.format(500_000).encode()) as client:
        assert drip(client, b"\xff\xd8\xff" + bytes(100)) < 4
    with connected(hasty.port, HEAD.format(500_000).encode() + b"\xff\xd8\xff") as client:  # which sends nothing more at all
        began = time.monotonic()
        assert status_of(client) == 408 and time.monotonic() - began < 4
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING or record.exc_info]


def test_who_sends_slowly_but_steadily_is_answered(hasty, astronaut):
    data = encoded(astronaut[::2, ::2], "JPEG")
    with connected(hasty.port, HEAD.format(len(data)).encode()) as client:
        # In three seconds, of which one may go by in silence.
        assert drip(client, data, 0.1, len(data) // 25) > 2
        assert status_of(client) == 200


def test_those_who_stall_leave_room_for_others(hasty):
    started = HEAD.format(500_000).encode() + b"\xff\xd8\xff"
    assert hasty.engine.config.threads < RECEIVED_AT_ONCE + 30
    with serving(detector="haar", max_viewers=1) as running:  # it waits ten seconds for each
        running.ready()
        with many(RECEIVED_AT_ONCE + 10, running.port, started) as clients:
            assert healthy(running.port)
            assert requests.get(running.url + "/api/stream/video?limit=1", timeout=10).status_code == 200
            refused = requests.post(running.url + "/api/predict", files={"image": b"x"}, timeout=10)
            assert refused.status_code == 503 and refused.headers["Retry-After"] == "5"
            assert f"{RECEIVED_AT_ONCE} requests are being received already" in refused.json()["error"]["message"]
            for client in clients:
                client.close()
        wait_until(lambda: requests.post(running.url + "/api/predict", files={"image": b"x"}, timeout=10).status_code == 415)


def half_sent(port, count, size):
    """Several bodies of JSON that lack their end, sent at the same time: connections, and what each was told until then."""
    path = HEAD.replace("/api/predict", "/api/predict/batch").replace("image/jpeg", "application/json")
    clients, told = [connected(port) for _ in range(count)], {}

    def send(client):
        with contextlib.suppress(OSError):
            client.sendall(path.format(size + 1000).encode() + b'{"images":["' + bytes(size - 12))
        client.settimeout(5)
        told[client] = status_of(client)

    threads = [threading.Thread(target=send, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return clients, list(told.values())


def test_bodies_have_a_limit_together():
    with serving(detector="haar", max_viewers=1, max_image_mb=1, max_video_mb=3, max_bodies_mb=7) as running:
        running.ready()
        clients, told = half_sent(running.port, 5, 2 * 2**20)
        assert 2 <= told.count(503) <= 4, told
        with requests.post(running.url + "/api/predict/batch", json={"images": ["aGk="]}, timeout=10) as small:
            assert small.status_code == 200
        # In a form files are kept on the disk, of which there is more.
        form = {"video": b"RIFF\0\0\0\0AVI " + bytes(29 * 10**5)}
        assert requests.post(running.url + "/api/video", files=form, timeout=20).status_code == 422
        for client in clients:
            client.close()
        wait_until(lambda: running.engine.reception._held_bytes == 0)
        clients, told = half_sent(running.port, 1, 2 * 2**20)
        assert told == [None]
        clients[0].close()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="memory is looked up in /proc")
def test_the_memory_of_large_bodies_is_given_back(tmp_path):
    with outside("serving.app", tmp_path, detector="mtcnn", max_bodies_mb=64) as (process, port, _):

        def memory_mb():
            return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())[1]) / 2**10

        time.sleep(1)  # the second detector is loaded
        before_mb = memory_mb()
        clients, told = half_sent(port, 8, 30 * 2**20)
        assert told.count(503) >= 6, told
        assert memory_mb() - before_mb < 64 + 40
        for client in clients:
            client.close()
        texts = ["A" * (15 * 2**20)] * 3
        for _ in range(2):
            answer = requests.post(f"http://127.0.0.1:{port}/api/predict/batch", json={"images": texts}, timeout=20)
            assert [each["error"]["status"] for each in answer.json()["results"]] == [415] * 3
        wait_until(lambda: memory_mb() - before_mb < 40, 8)


# --- gunicorn ---------------------------------------------------------------------------------------------------------


def children(process):
    return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()


@pytest.mark.skipif(os.name == "nt", reason="gunicorn runs on Unix")
def test_gunicorn_drops_who_stalls_and_who_takes_nothing(tmp_path):
    with outside("gunicorn", tmp_path, client_timeout_s=1, min_kb_per_s=4) as (_, port, log):
        url = f"http://127.0.0.1:{port}"
        with many(70, port, HEAD.format(500_000).encode() + b"\xff\xd8\xff") as clients:  # there are 52 threads
            wait_until(lambda: healthy(port, 8))
            assert {status_of(client) for client in clients} <= {408, 503}
        with connected(port) as client:
            assert drip(client, b"GET /healthz HTTP/1.1\r\nX-Long: " + b"x" * 100) < 6
        deaf = b"GET /api/stream/video HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        with many(2, port, deaf, buffer=4096):
            wait_until(lambda: requests.get(f"{url}/api/stream", timeout=5).json()["sources"][0]["viewers"] == 2)
            assert requests.get(f"{url}/api/stream/video?limit=1", timeout=5).status_code == 503
            wait_until(lambda: requests.get(f"{url}/api/stream/video?limit=1", timeout=5).status_code == 200)
        status = requests.get(f"{url}/api/stream", timeout=5).json()["sources"][0]
        assert status["viewers"] == 0, json.dumps(status)
        assert "Traceback" not in log.read_text() and "rror" not in log.read_text()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are looked up in /proc")
def test_gunicorn_leaves_nothing_of_the_old_behind_when_it_is_reloaded(tmp_path):
    with outside("gunicorn", tmp_path, client_timeout_s=60) as (process, port, log):
        [old] = children(process)
        with connected(port, HEAD.format(500_000).encode() + b"\xff\xd8\xff"):
            time.sleep(0.5)
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: old not in children(process) and len(children(process)) == 1, 8)
            wait_until(lambda: healthy(port))
        assert "Traceback" not in log.read_text()
