"""How fast the server is end to end: frames a second, glass to glass, memory, many viewers; beside a naive pipeline.

python benchmarks/stream.py                     # a minute or two
python benchmarks/stream.py --minutes 10 --json stream.json
python benchmarks/stream.py --source clip.mp4 --size 640x480

A server is started as its command starts it, in a process of its own, on a source that gives frames faster than they can be
analysed. Viewers are connections of this process. What is told, each for one viewer and for many:

    frames/s        different frames that reached a viewer, boxes drawn and encoded
    analysed/s      by the server's own counter
    glass to glass  from when a frame was captured to when its JPEG was decoded by a viewer; 50 and 95 of 100
    processor       of the server for each analysed frame; the one figure that other work on the machine hardly moves
    memory          resident set of the server, over the run

The naive pipeline, on the same frames: `mtcnn.MTCNN().detect_faces`, and Keras `model.predict` for each face.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ROOT = Path(__file__).resolve().parent.parent
WARM_UP_S = 4.0


def main() -> None:
    """Run the benchmark and print what was measured."""
    from fer_keras.runtime import RUNTIMES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="a video to play as if it were a camera; default: the demo's four drawn faces")
    parser.add_argument("--size", default="640x480", help="frames are made this large (default %(default)s)")
    parser.add_argument("--camera-fps", type=float, default=60.0, help="frames a second of the source (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each kind, in turns (default %(default)s)")
    parser.add_argument("--minutes", type=float, default=0.0, help="watch the memory for so long (default: not)")
    parser.add_argument("--viewers", type=int, default=20, help="how many are many (default %(default)s)")
    parser.add_argument("--model", default="ferplus-cnn")
    parser.add_argument("--detector", default="mtcnn", choices=("mtcnn", "haar"))
    parser.add_argument("--runtime", default="auto", choices=("auto", *RUNTIMES))
    parser.add_argument("--no-naive", action="store_true", help="leave the naive pipeline out")
    parser.add_argument("--json", help="write the figures into this file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve_camera(args)
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"load of the machine before: {os.getloadavg()[0]:.1f} (should be near 0)\n")
    figures: dict = {"cores": os.cpu_count(), "load_before": os.getloadavg()[0], "settings": vars(args)}
    process, port = start_server(args)
    try:
        # In turns, so that other work on the machine meets both alike.
        rounds = [
            [measure(port, process.pid, viewers, args.seconds) for viewers in (1, args.viewers)] for _ in range(args.rounds)
        ]
        figures["one"], figures["many"] = (median_of(found) for found in zip(*rounds, strict=True))
        show("1 viewer", figures["one"])
        show(f"{args.viewers} viewers", figures["many"])
        slower = 1 - figures["many"]["analysed_per_s"] / figures["one"]["analysed_per_s"]
        figures["slower_share"] = slower
        print(f"analysis is {slower:+.1%} slower with {args.viewers} viewers\n")
        if args.minutes:
            figures["memory"] = watch_memory(port, process.pid, args.minutes)
    finally:
        process.terminate()
        process.wait(10)
    if not args.no_naive:
        figures["naive"] = naive(args)
        ratio = figures["one"]["analysed_per_s"] / figures["naive"]["frames_per_s"]
        print(f"the server analyses and streams {ratio:.1f} times as many frames as the naive pipeline only analyses")
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + "\n")


def median_of(found: tuple[dict, ...]) -> dict:
    """The median of each figure over some measurements."""
    return {
        key: median_of(tuple(one[key] for one in found))
        if isinstance(value, dict)
        else statistics.median(one.get(key, 0.0) for one in found)
        for key, value in found[0].items()
    }


def show(name: str, found: dict) -> None:
    """Print one measurement."""
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in found["stages_ms"].items())
    print(
        f"{name}: {found['frames_per_s']:.1f} frames/s, {found['analysed_per_s']:.1f} analysed/s, {found['faces']:.1f} faces; "
        f"glass to glass {found['latency_p50_ms']:.0f} ms (p95 {found['latency_p95_ms']:.0f}), {found['rss_mb']:.0f} MB, "
        f"server {found['cpu_ms_per_frame']:.1f} ms of processor a frame\n  stages, mean ms: {stages}"
    )


# --- the server -------------------------------------------------------------------------------------------------------


def serve_camera(args: argparse.Namespace) -> None:
    """Serve, in the other process: the application and server of the command, on a camera of a set speed."""
    from serving.app import create_app
    from serving.server import serve
    from serving.settings import ServerConfig

    config = ServerConfig(
        models=(args.model,), detector=args.detector, runtime=args.runtime, port=0, max_viewers=args.viewers + 2
    )
    serve(create_app(config, sources=[camera(args)]), config)


def camera(args: argparse.Namespace) -> object:
    """The source: the demo, or a video that plays as a camera does, frames being dropped where there is no time for them."""
    from serving.sources import DemoSource, Frame, Pace

    size = tuple(int(side) for side in args.size.split("x"))
    if not args.source:
        return DemoSource(size_wh=size, fps=args.camera_fps)
    frames = read_frames(args.source, size)

    class Film:
        title, live = "demo", True

        def open(self) -> None:
            self.number, self.pace = 0, Pace(args.camera_fps)

        def read(self) -> Frame:
            self.pace.wait()
            turn, place = divmod(self.number, len(frames))
            self.number += 1
            now = time.monotonic()
            return Frame(frames[place], now, time.time(), restarted=turn > 0 and place == 0)

        def close(self) -> None:
            pass

    return Film()


def read_frames(path: str, size: tuple[int, int], most: int = 200) -> list[np.ndarray]:
    """The first frames of a video as uint8 (h, w, 3) RGB of a size."""
    import cv2

    capture = cv2.VideoCapture(path)
    frames = []
    while len(frames) < most:
        found, bgr = capture.read()
        if not found:
            break
        frames.append(cv2.cvtColor(cv2.resize(bgr, size), cv2.COLOR_BGR2RGB))
    if not frames:
        raise SystemExit(f"{path} has no frame that can be read")
    return frames


def start_server(args: argparse.Namespace) -> tuple[subprocess.Popen, int]:
    """The server's process, ready, and its port."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", *[word for word in sys.argv[1:] if word != "--no-naive"]],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    port = int(process.stdout.readline().split("/  ")[0].rsplit(":", 1)[1])
    while get(port, "/readyz")[0] != 200:
        time.sleep(0.2)
    return process, port


def get(port: int, path: str) -> tuple[int, bytes]:
    """Status and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


# --- measuring --------------------------------------------------------------------------------------------------------


class Viewer(threading.Thread):
    """Watches the stream.

    decodes: decode what is seen, as a browser would. Else only count it: the other viewers stand for other machines, whose
    work is not to be done by the cores that are measured.
    """

    def __init__(self, port: int, decodes: bool) -> None:
        super().__init__(daemon=True)
        self.port, self.decodes = port, decodes
        self.seen: list[tuple[float, float]] = []  # (when it was there, when it was captured)
        self.stop = threading.Event()

    def run(self) -> None:
        """Read until told to stop, or until the server ends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as client:
            version = b"1.1" if self.decodes else b"1.0"  # an answer by 1.0 is not cut into chunks
            client.sendall(b"GET /api/stream/video HTTP/" + version + b"\r\nHost: localhost\r\n\r\n")
            self.decode(client) if self.decodes else self.count(client)

    def count(self, client: socket.socket) -> None:
        """Note when each picture is there whole; its bytes are dropped by the kernel, uncopied (Linux's MSG_TRUNC)."""
        client.settimeout(None)  # with a timeout MSG_WAITALL does not wait
        scratch, after = bytearray(1 << 22), len(b"\r\n--frame\r\n")
        begins = client.recv(1 << 10, socket.MSG_PEEK).find(b"\r\n\r\n") + 4
        client.recv_into(scratch, begins, socket.MSG_WAITALL)  # the answer's own head
        while not self.stop.is_set():
            head = client.recv(1 << 10, socket.MSG_PEEK)
            if not head:
                return
            length = head.find(b"Content-Length: ")
            start = head.find(b"\r\n\r\n", max(length, 0))
            if length < 0 or start < 0:
                time.sleep(0.001)  # the head of a part is not there whole yet
                continue
            whole = start + 4 + int(head[length + 16 : head.index(b"\r\n", length)]) + after
            client.recv_into(scratch, whole, socket.MSG_WAITALL | socket.MSG_TRUNC)
            self.seen.append((time.time(), float("nan")))

    def decode(self, client: socket.socket) -> None:
        """Note when each picture is decoded, and when it was captured."""
        from PIL import Image

        answer = http.client.HTTPResponse(client, method="GET")
        answer.begin()
        answer.readline()
        while not self.stop.is_set():
            headers = {}
            while (line := answer.readline().strip()) != b"":
                name, _, value = line.partition(b": ")
                headers[name] = value
            if b"Content-Length" not in headers:
                return
            Image.open(io.BytesIO(answer.read(int(headers[b"Content-Length"])))).load()
            self.seen.append((time.time(), float(headers[b"X-Captured-At"])))
            answer.readline()
            answer.readline()


def measure(port: int, pid: int, viewers: int, seconds: float) -> dict:
    """Watch with so many viewers for so long, after a warm-up."""
    watching = [Viewer(port, decodes=number == 0) for number in range(viewers)]
    for viewer in watching:
        viewer.start()
    time.sleep(WARM_UP_S)
    before, cpu_before, began = counters(port), cpu_s(pid), time.time()
    time.sleep(seconds)
    after, cpu_after, ended = counters(port), cpu_s(pid), time.time()
    for viewer in watching:
        viewer.stop.set()
    passed = ended - began
    rates = [sum(began <= there < ended for there, _ in viewer.seen) / passed for viewer in watching]
    latencies = [1000 * (there - captured) for there, captured in watching[0].seen if began <= there < ended]
    analysed = after["analysed"] - before["analysed"]
    stages = {
        stage: 1000 * (total - earlier[0]) / max(1, count - earlier[1])
        for stage, (total, count) in after["stages"].items()
        for earlier in [before["stages"].get(stage, (0.0, 0.0))]
    }
    time.sleep(1.0)
    return {
        "viewers": viewers,
        "frames_per_s": rates[0],
        "frames_per_s_slowest_viewer": min(rates),
        "analysed_per_s": analysed / passed,
        "faces": (after["faces"] - before["faces"]) / max(1, analysed),
        "latency_p50_ms": float(np.percentile(latencies, 50)),
        "latency_p95_ms": float(np.percentile(latencies, 95)),
        "stages_ms": stages,
        "rss_mb": rss_mb(pid),
        "cpu_ms_per_frame": 1000 * (cpu_after - cpu_before) / max(1, analysed),
    }


def counters(port: int) -> dict:
    """What /metrics counts."""
    found: dict = {"analysed": 0.0, "faces": 0.0, "stages": {}}
    for line in get(port, "/metrics")[1].decode().splitlines():
        name, _, value = line.rpartition(" ")
        if name.startswith('fer_frames_total{outcome="analysed"'):
            found["analysed"] = float(value)
        elif name == 'fer_faces_total{origin="stream"}':
            found["faces"] = float(value)
        elif name.startswith(("fer_stage_seconds_sum", "fer_stage_seconds_count")):
            stage = name.split('"')[1]
            total, count = found["stages"].get(stage, (0.0, 0.0))
            found["stages"][stage] = (float(value), count) if "_sum" in name else (total, float(value))
    found["stages"] = {stage: values for stage, values in found["stages"].items() if values[1]}
    return found


def watch_memory(port: int, pid: int, minutes: float) -> dict:
    """Memory of the server each five seconds while one viewer watches, and how it goes."""
    viewer = Viewer(port, decodes=False)
    viewer.start()
    time.sleep(WARM_UP_S)
    start, samples = time.time(), []
    while time.time() - start < 60 * minutes:
        samples.append((time.time() - start, rss_mb(pid)))
        time.sleep(5)
    viewer.stop.set()
    times, sizes = np.array(samples).T
    slope = float(np.polyfit(times / 60, sizes, 1)[0]) if len(samples) > 2 else 0.0
    print(f"memory over {minutes:g} min: {sizes[0]:.0f} MB at first, {sizes[-1]:.0f} MB at last, at most {sizes.max():.0f}; "
          f"{slope:+.2f} MB a minute\n")  # fmt: skip
    return {"samples_s_mb": samples, "slope_mb_per_minute": slope}


def rss_mb(pid: int) -> float:
    """Resident memory of a process, in 2**20 bytes (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return float("nan")


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has used (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- what it is held against ------------------------------------------------------------------------------------------


def naive(args: argparse.Namespace, frames: int = 20) -> dict:
    """The usual script: the mtcnn package on each frame, `model.predict` on each face, boxes drawn, encoded."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import cv2
    from mtcnn import MTCNN

    from fer_keras.data.images import crop_box, resize, to_channels
    from fer_keras.models.exported import load_keras_model
    from serving.sources import DemoSource

    size = tuple(int(side) for side in args.size.split("x"))
    demo = DemoSource(size_wh=size)
    pictures = read_frames(args.source, size, frames + 2) if args.source else [demo.picture(t / 15) for t in range(frames + 2)]
    detector, model = MTCNN(), load_keras_model(args.model)
    side, channels = model.input_shape[1], model.input_shape[3]
    times, faces = [], 0
    for number, picture in enumerate(pictures):
        start = time.perf_counter()
        found = detector.detect_faces(picture)
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        for face in found:
            x, y, width, height = face["box"]
            crop = resize(to_channels(crop_box(picture, (x, y, x + width, y + height)), channels), side)
            model.predict(crop[None].astype(np.float32), verbose=0)
            cv2.rectangle(bgr, (x, y), (x + width, y + height), (0, 255, 0), 2)
        cv2.imencode(".jpg", bgr)
        if number >= 2:
            times.append(time.perf_counter() - start)
            faces += len(found)
    mean = statistics.mean(times)
    print(f"naive pipeline: {1 / mean:.2f} frames/s, {1000 * mean:.0f} ms a frame with {faces / len(times):.1f} faces")
    return {"frames_per_s": 1 / mean, "ms": 1000 * mean, "faces": faces / len(times)}


if __name__ == "__main__":
    main()
