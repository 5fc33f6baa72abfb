"""Watch expressions in a window: a camera, a video or the demo, without a browser.

python -m serving.desktop
python -m serving.desktop --source film.mp4
python -m serving.desktop --model saved_models/one --model saved_models/two --combine vote

Needs Tk (Debian and Ubuntu: apt-get install python3-tk). Nothing is stored and nothing leaves this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras import cli
from fer_keras.detectors import DETECTORS
from fer_keras.errors import ConfigError, FerError
from fer_keras.runtime import RUNTIMES, choose_runtime
from serving.model_paths import find_models
from serving.settings import ServerConfig
from serving.sources import create_source
from serving.videos import quiet_decoder

if TYPE_CHECKING:
    import tkinter as tk

    from fer_keras.inference.joint import JointRecognizer
    from serving.engine import OnDemand
    from serving.stream import Stream, Update

log = logging.getLogger("fer_keras.serving")

#: The choice that asks all models and joins their answers, and how they can be joined, as the window calls it.
ALL_TOGETHER = "all together"
COMBINATIONS = {"mean": "mean", "vote": "majority vote"}
#: How often the window looks for a new picture, and how often it rewrites the list of faces, which is to be read.
POLL_MS = 15
LIST_S = 0.2
#: A closing window waits so long for the camera.
CLOSE_S = 2.0
NOTE = "What faces look like to a model, which may be wrong, and not what people feel."


def build_parser() -> cli.CommandParser:
    """The command line of `python -m serving.desktop`."""
    parser = cli.CommandParser(prog="python -m serving.desktop", description=__doc__)
    parser.add_argument("--source", default="0", help="a camera's number, a video file, a URL, or demo (default %(default)s)")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="MODEL",
        help="an exported model or ensemble, a folder or a name in saved_models (repeatable; the window switches between them)",
    )
    parser.add_argument(
        "--combine", choices=tuple(COMBINATIONS), help="how several models of the same labels answer together (default mean)"
    )
    parser.add_argument("--detector", choices=DETECTORS, default="mtcnn", help="what finds the faces (default %(default)s)")
    parser.add_argument(
        "--min-face", type=cli.positive_int, default=40, metavar="PX", help="smallest face looked for (default %(default)s)"
    )
    parser.add_argument(
        "--runtime", choices=("auto", *RUNTIMES), default="auto", help="what runs the models (default %(default)s)"
    )
    parser.add_argument("--blur", action="store_true", help="make all faces found unrecognisable")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Show the window until it is closed; returns the exit code."""
    return cli.run(_command, build_parser(), argv)


def _command(args: argparse.Namespace) -> int:
    quiet_decoder()
    paths = find_models(args.model)
    if args.combine:
        from fer_keras.models.ensemble import common_labels

        common_labels(labels_of(paths))  # models of different labels can be watched, but not together
    config = ServerConfig(
        sources=(args.source,),
        models=tuple(map(str, paths.values())),
        detector=args.detector,
        min_face_px=args.min_face,
        runtime=args.runtime,
        blur=args.blur,
        jpeg_quality=92,
        idle_stop_s=0,
    )
    create_source(args.source)  # what is wrong with it is told before a window opens
    root = open_screen()
    import tkinter as tk

    if choose_runtime(args.runtime) == "tensorflow":
        cli.import_tensorflow()
    window = Window(root, config, paths, args.combine or "mean")
    for each in (signal.SIGINT, signal.SIGTERM):
        # Tk would print an exception raised here and go on.
        signal.signal(each, lambda *_: root.after(0, window.close))
    try:
        root.mainloop()
    finally:
        with contextlib.suppress(tk.TclError):  # the window system may have destroyed the window
            window.close()
    return 0


def open_screen() -> tk.Tk:
    """A Tk window, empty. Raises ConfigError that says what is missing: Tk, or a screen."""
    try:
        import tkinter as tk
    except ImportError as error:
        raise ConfigError(
            f"the window needs Tk, which this Python has not ({error}); Debian and Ubuntu: apt-get install python3-tk; "
            "or watch in a browser: python -m serving.app"
        ) from error
    try:
        return tk.Tk()
    except tk.TclError as error:
        raise ConfigError(f"there is no screen for a window ({error}); or watch in a browser: python -m serving.app") from error


def labels_of(paths: Mapping[str, Path]) -> dict[str, tuple[str, ...]]:
    """The labels of each model, by name."""
    from fer_keras.models.exported import read_metadata

    return {name: tuple(read_metadata(path)["labels"]) for name, path in paths.items()}


def make_stream(config: ServerConfig, paths: Mapping[str, Path]) -> tuple[Stream, OnDemand[Any]]:
    """The stream of the first source, and what can be asked, by name: each model, and joined ones for ALL_TOGETHER.

    paths: the models by name. Joined are only models of the same labels; they are called "all together, mean" and so on.
    """
    from fer_keras.detectors import create_detector
    from fer_keras.labels import ordered
    from fer_keras.models.ensemble import common_labels
    from serving.engine import OnDemand
    from serving.metrics import Metrics
    from serving.stream import Stream

    labels = labels_of(paths)
    names = list(paths)
    if len(paths) > 1:
        try:
            common_labels(labels)
            names += [joint_name(how) for how in COMBINATIONS]
        except FerError:
            pass  # models that know different labels can be chosen one by one

    def open_recognizer(name: str) -> Any:
        from fer_keras.inference.recognizer import Recognizer

        return Recognizer(paths[name], runtime=config.runtime)

    single = OnDemand(paths, open_recognizer)

    def joined(name: str) -> Any:
        from fer_keras.inference.joint import JointRecognizer

        how = joint_way(name)
        if how is None:
            return single(name)
        joint: JointRecognizer = JointRecognizer([single(each) for each in paths], how)
        return joint

    recognizers = OnDemand(names, joined)
    stream = Stream(
        "window",
        create_source(config.sources[0], config.max_side_px),
        config,
        Metrics(),
        model=names[0],
        recognizer=recognizers,
        detector=OnDemand(DETECTORS, lambda name: create_detector(name, config.min_face_px, config.runtime)),
        all_labels=lambda: ordered(label for some in labels.values() for label in some),
    )
    return stream, recognizers


def joint_name(how: str) -> str:
    """What all models joined in this way are called, among the names of models."""
    return f"{ALL_TOGETHER}, {COMBINATIONS[how]}"


def joint_way(name: str) -> str | None:
    """How what has this name joins all models, one of COMBINATIONS; None for a single model."""
    return next((how for how in COMBINATIONS if joint_name(how) == name), None)


class Window:
    """The window on one source. All its methods are for the thread that runs Tk.

    paths: the models by name. combine: how several are joined first, one of COMBINATIONS.
    """

    def __init__(self, root: tk.Tk, config: ServerConfig, paths: Mapping[str, Path], combine: str = "mean") -> None:
        import tkinter as tk
        from tkinter import ttk

        self.root = root
        self.stream, self._recognizers = make_stream(config, paths)
        together = joint_name(combine) in self._recognizers.names
        self._loading = threading.Lock()
        self._loaded: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()  # a name, and why it can't be had
        self._wanted = ""  # what was chosen; the stream goes on with what it has until this is loaded
        self._error: str | None = None  # of the latest choice, until the next one, or the next start or stop
        self._viewer: _Viewer | None = None
        self._listed_at = 0.0
        self._closed = False

        root.title(f"Expressions: {self.stream.source.title}")
        root.minsize(640, 420)
        root.protocol("WM_DELETE_WINDOW", self.close)
        style = ttk.Style(root)
        if "clam" in style.theme_names():
            style.theme_use("clam")
        root.columnconfigure(0, weight=1)
        root.rowconfigure(1, weight=1)

        bar = ttk.Frame(root, padding=8)
        bar.grid(row=0, column=0, columnspan=2, sticky="ew")
        self.button = ttk.Button(bar, text="Start", width=8, command=self.toggle)
        self.button.pack(side="left")
        ttk.Label(bar, text="Model").pack(side="left", padx=(16, 4))
        self.model = ttk.Combobox(bar, state="readonly", width=28, values=[*paths, *([ALL_TOGETHER] if together else [])])
        self.model.set(ALL_TOGETHER if together else next(iter(paths)))
        self.model.pack(side="left")
        self.model.bind("<<ComboboxSelected>>", lambda _: self._choose())
        self.combine = tk.StringVar(root, combine)
        self.ways = [
            ttk.Radiobutton(bar, text=text, value=how, variable=self.combine, command=self._choose)
            for how, text in COMBINATIONS.items()
        ]
        for way in self.ways if len(paths) > 1 else ():
            way.pack(side="left", padx=(12, 0))

        self.picture = tk.Label(
            root, background="#20242b", foreground="#e6e8ec", text="Press Start.", compound="center", width=1, height=1
        )
        self.picture.grid(row=1, column=0, sticky="nsew")
        self.faces = ttk.Treeview(root, columns=("person", "label", "sure"), show="headings", height=8, selectmode="none")
        for column, text, width in (("person", "Person", 72), ("label", "Expression", 190), ("sure", "Sure", 60)):
            self.faces.heading(column, text=text)
            self.faces.column(column, width=width, anchor="w" if column == "label" else "e", stretch=column == "label")
        self.faces.grid(row=1, column=1, sticky="ns")
        below = ttk.Frame(root, padding=8)
        below.grid(row=2, column=0, columnspan=2, sticky="ew")
        self.status = ttk.Label(below, text="Stopped.")
        self.note = ttk.Label(below, text=NOTE)
        for line in (self.status, self.note):
            line.pack(fill="x")
        below.bind("<Configure>", lambda event: self._wrap(event.width - 16))
        root.geometry("960x600")
        root.bind("<F5>", lambda _: self.toggle())
        self.button.focus_set()
        self._photo: tk.PhotoImage | None = None
        self._choose()
        self._next = root.after(POLL_MS, self._poll)

    def _wrap(self, width: int) -> None:
        for line in (self.status, self.note):
            line.configure(wraplength=width)

    @property
    def running(self) -> bool:
        """Whether the source is watched."""
        return self._viewer is not None

    def toggle(self) -> None:
        """Start, or stop."""
        self._error = None
        if self._viewer is None:
            self._viewer = _Viewer(self.stream)
            self.button.configure(text="Stop")
            self._say("Starting...")
            return
        self._viewer.stop()
        self._viewer = None
        self._photo = None
        self.picture.configure(image="", text="Stopped.")
        self.faces.delete(*self.faces.get_children())
        self.button.configure(text="Start")
        self._say("Stopped.")

    def close(self) -> None:
        """Let go of the source and end; may be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._viewer is not None:
            self._viewer.stop()
        self.stream.close(time.monotonic() + CLOSE_S)
        self.root.after_cancel(self._next)  # fails where the window is gone already
        self.root.destroy()

    def _choose(self) -> None:
        """Go on with the chosen model; it is loaded meanwhile, by another thread."""
        together = self.model.get() == ALL_TOGETHER
        for way in self.ways:
            way.state(["!disabled"] if together else ["disabled"])
        self._wanted = name = joint_name(self.combine.get()) if together else self.model.get()
        self._error = None
        if not self.running:
            self.stream.model = name  # loaded when it starts
            self._say("Stopped.")
            return

        def load() -> None:
            with self._loading:
                if name != self._wanted:  # another one was chosen while this one waited
                    return
                try:
                    self._recognizers(name)
                    self._loaded.put((name, None))
                except Exception as error:  # a runtime may raise anything for a damaged model
                    if not isinstance(error, FerError):
                        log.exception("%s could not be loaded", name)
                    self._loaded.put((name, str(error) if isinstance(error, FerError) else f"unexpected {type(error).__name__}"))

        threading.Thread(target=load, name="choose", daemon=True).start()

    def _take_loaded(self) -> None:
        """Go on with what was loaded, unless another one was chosen meanwhile; where it can't be had, choose what goes on."""
        while not self._loaded.empty():
            name, error = self._loaded.get()
            if name != self._wanted:
                continue
            if error is None:
                self.stream.model = name
                continue
            how = joint_way(self.stream.model)
            self.model.set(self.stream.model if how is None else ALL_TOGETHER)
            if how is not None:
                self.combine.set(how)
            self._choose()
            self._error = f"{name}: {error}"

    @property
    def _notice(self) -> str | None:
        """What is to be said of models instead of how fast it goes."""
        loading = f"Loading {self._wanted}..." if self.running and self._wanted != self.stream.model else None
        return self._error or loading

    def _poll(self) -> None:
        try:
            self._take_loaded()
            update = self._viewer.latest((self.picture.winfo_width(), self.picture.winfo_height())) if self._viewer else None
            if update is not None:
                self._show(*update)
            if self._notice:
                self._say(self._notice)
        finally:
            self._next = self.root.after(POLL_MS, self._poll)

    def _show(self, update: Update, ppm: bytes) -> None:
        import tkinter as tk

        # A new image each time: one that is changed in place shows its old size first.
        self._photo = tk.PhotoImage(master=self.root, data=ppm, format="PPM")
        self.picture.configure(image=self._photo, text="")
        now = time.monotonic()
        if now - self._listed_at < LIST_S:
            return
        self._listed_at = now
        lines = [
            (face["id"], face["label"] + " (uncertain)" * face["uncertain"], f"{face['confidence']:.0%}")
            for face in (update.result or {}).get("faces", ())
        ]
        old = self.faces.get_children()
        for place, line in enumerate(lines):
            if place < len(old):
                self.faces.item(old[place], values=line)
            else:
                self.faces.insert("", "end", values=line)
        self.faces.delete(*old[len(lines) :])
        status = update.status
        if self._notice:
            return
        if status["state"] == "live" and update.result is not None:
            rate = f"{status['model']}: {rate_text(status['fps'])}"
            self._say("; ".join(filter(None, (rate, status["message"]))))
        elif status["message"]:
            self._say(status["message"])

    def _say(self, text: str) -> None:
        self.status.configure(text=text if len(text) <= 140 else text[:137] + "...")


class _Viewer:
    """Watches a stream in a thread of its own, which also unpacks the pictures, so that the window stays quick."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._ready: tuple[Update, bytes] | None = None
        self._room_wh = (640, 480)
        threading.Thread(target=self._watch, name="viewer", daemon=True).start()

    def latest(self, room_wh: tuple[int, int]) -> tuple[Update, bytes] | None:
        """The newest picture, once, as PPM that fits into this room, and what belongs to it; None where there is no newer one."""
        with self._lock:
            self._room_wh = room_wh
            ready, self._ready = self._ready, None
        return ready

    def stop(self) -> None:
        """Watch no more."""
        self._stopping.set()

    def _watch(self) -> None:
        with self._stream.watch("picture") as following:
            while not self._stopping.is_set():
                update = following(0.1)
                if update is not None and update.jpeg:
                    ppm = fitted_ppm(update.jpeg, self._room_wh)
                    with self._lock:
                        self._ready = (update, ppm)


def rate_text(fps: float) -> str:
    """How many pictures a second, as a person says it."""
    rate = f"{fps:.0f}" if fps >= 0.5 else f"{fps:.1f}"
    return f"{rate} {'picture' if rate == '1' else 'pictures'} a second"


def fitted_ppm(jpeg: bytes, room_wh: tuple[int, int]) -> bytes:
    """A JPEG as PPM, the one format that every Tk reads from memory without loss of time, as large as fits into this room."""
    import cv2

    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    height, width = bgr.shape[:2]
    scale = min(room_wh[0] / width, room_wh[1] / height)
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    if size != (width, height) and min(room_wh) > 1:
        bgr = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return cv2.imencode(".ppm", bgr)[1].tobytes()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # OpenVINO takes the process down with a signal where a model is still being loaded when Python ends in order
