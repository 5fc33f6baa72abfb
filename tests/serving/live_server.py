"""A real server on loopback, in a thread of the test's process, and what asks it."""

import contextlib
import http.server
import io
import json
import re
import socket
import threading
import time
from pathlib import Path

import requests

ROOT = Path(__file__).parent.parent.parent
MODEL = ROOT / "saved_models" / "ferplus-cnn"
TWIN_LABELS = ["calm", "glad", "amazed", "low", "cross", "put off", "afraid", "scornful"]


class Running:
    """A server that runs: its address, and what is inside."""

    def __init__(self, app, server):
        self.app, self.server, self.engine = app, server, app.extensions["fer_keras"]
        self.port = server.bind_addr[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def ready(self):
        assert self.engine.ready.wait(90), self.engine.failure


@contextlib.contextmanager
def serving(sources=None, **settings):
    from serving.app import create_app
    from serving.server import make_server
    from serving.settings import ServerConfig

    config = ServerConfig(**{"models": (str(MODEL),), "port": 0, "max_viewers": 8, "idle_stop_s": 0.5, **settings})
    app = create_app(config, sources=sources)
    running = Running(app, make_server(app, config))
    thread = threading.Thread(target=running.server.serve, daemon=True)
    thread.start()
    running.engine.start()
    try:
        yield running
    finally:
        running.engine.close()
        running.server.stop()
        thread.join(5)


class _Mjpeg(http.server.BaseHTTPRequestHandler):
    """A network camera, as simple ones are."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=b")
        self.end_headers()
        try:
            while not self.server.off.is_set():
                if not self.server.silent.is_set():
                    self.wfile.write(b"--b\r\nContent-Type: image/jpeg\r\n\r\n" + self.server.jpeg + b"\r\n")
                time.sleep(0.03)
        except OSError:
            pass

    def log_message(self, *ignored):
        pass


def camera(jpeg, port=0):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), _Mjpeg)
    server.daemon_threads, server.jpeg, server.off, server.silent = True, jpeg, threading.Event(), threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def switch_off(server):
    server.off.set()
    server.shutdown()
    server.server_close()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def encoded(image, kind="PNG"):
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def events_of(running, count, query=""):
    """What listeners to the first source are told."""
    response = requests.get(f"{running.url}/api/stream/events?limit={count}{query}", timeout=60)
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    blocks = [block for block in response.text.split("\n\n") if "data: " in block]
    return [json.loads(re.search(r"^data: (.*)$", block, re.MULTILINE)[1]) for block in blocks]


def wait_until(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"did not happen within {seconds} s")


@contextlib.contextmanager
def no_room(most_bytes):
    """No file of this process can be written beyond so many bytes, as where a disk is full."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def overlap(one, other):
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0, width) * max(0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)
