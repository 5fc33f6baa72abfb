"""The window on a virtual screen, driven by a real pointer, with a real face, a real detector and real models."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from films import damaged_film, grey_film

from fer_keras.errors import ConfigError, ModelError
from fer_keras.inference.ensemble import combine
from fer_keras.inference.recognizer import Recognizer
from fer_keras.labels import EMOTIONS
from serving import desktop
from serving.live_picture import notice_jpeg
from serving.settings import ServerConfig
from serving.stream import Update

MODEL = Path(__file__).parent.parent.parent / "saved_models" / "ferplus-cnn"


@pytest.fixture(scope="module")
def screen():
    """A virtual screen of 1280x800, in DISPLAY; without window manager, so that windows lie at its left top."""
    pytest.importorskip("tkinter", reason="this Python has no Tk (Debian and Ubuntu: python3-tk)")
    if not shutil.which("Xvfb"):
        pytest.skip("needs a virtual screen (Debian and Ubuntu: xvfb)")
    reading, writing = os.pipe()
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writing), "-screen", "0", "1280x800x24", "-nolisten", "tcp"],
        pass_fds=[writing],
        stderr=subprocess.DEVNULL,
    )
    os.close(writing)
    with pytest.MonkeyPatch.context() as patch, os.fdopen(reading) as told:
        patch.setenv("DISPLAY", f":{int(told.readline())}")
        yield os.environ["DISPLAY"]
    server.terminate()
    server.wait(10)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A video in which a photograph stands still, so that what is said of its face settles."""
    import cv2

    photo = pytest.importorskip("skimage.data").astronaut()[0:240, 60:380]
    path = tmp_path_factory.mktemp("clip") / "still.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 10, photo.shape[1::-1])
    for _ in range(100):
        writer.write(photo[:, :, ::-1])
    writer.release()
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The shipped model, and a copy that takes happiness for neutral and the other way round, and is less sure."""
    other = tmp_path_factory.mktemp("models") / "other"
    shutil.copytree(MODEL, other)
    metadata = json.loads((other / "metadata.json").read_text())
    swapped = {"neutral": "happiness", "happiness": "neutral"}
    metadata |= {"name": "other", "labels": [swapped.get(label, label) for label in metadata["labels"]], "temperature": 20.0}
    (other / "metadata.json").write_text(json.dumps(metadata))
    return {"ferplus-cnn": MODEL, "other": other}


def opened(models, clip, combine="mean", **settings):
    config = ServerConfig(sources=(str(clip),), detector="haar", min_face_px=80, idle_stop_s=0, **settings)
    return desktop.Window(desktop.open_screen(), config, models, combine)


@contextlib.contextmanager
def closing(window):
    try:
        yield window
    finally:
        window.close()


def wait_for(window, condition, seconds=30):
    """Let the window live until something is so."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        window.root.update()
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"did not happen within {seconds} s; the window says {window.status.cget('text')!r}")


def click(window, widget):
    """With the pointer, as a person does, where there is a tool for it."""
    window.root.update()
    x, y = widget.winfo_rootx() + widget.winfo_width() // 2, widget.winfo_rooty() + widget.winfo_height() // 2
    if shutil.which("xdotool"):
        subprocess.run(["xdotool", "mousemove", str(x), str(y), "click", "1"], check=True)
    else:
        for event in ("<Enter>", "<ButtonPress-1>", "<ButtonRelease-1>"):
            widget.event_generate(event, x=widget.winfo_width() // 2, y=widget.winfo_height() // 2)


def choose(window, name):
    window.model.set(name)
    window.model.event_generate("<<ComboboxSelected>>")


def lines(window):
    """What the list of faces says: (person, expression, sure)."""
    return [tuple(map(str, window.faces.item(each, "values"))) for each in window.faces.get_children()]


def seen(window):
    """uint8 (h, w, 3): the part of the screen where the picture is."""
    from PIL import ImageGrab

    window.root.update()
    x, y, width, height = (getattr(window.picture, f"winfo_{each}")() for each in ("rootx", "rooty", "width", "height"))
    return np.asarray(ImageGrab.grab((x, y, x + width, y + height), xdisplay=os.environ["DISPLAY"]))


def said_by(recognizer, clip, window):
    """Probabilities of the face that the window shows, in the order of EMOTIONS: (8,)."""
    import cv2

    frame = cv2.VideoCapture(str(clip)).read()[1][:, :, ::-1].copy()
    [face] = window.stream._latest.result["faces"]
    [row] = recognizer.recognize(frame, [face["box"]])
    return np.array([row[recognizer.labels.index(label)] for label in EMOTIONS])


def expected_line(chances):
    sure = chances.max()
    return EMOTIONS[int(chances.argmax())] + (" (uncertain)" if sure < 0.5 else ""), sure


def shows(window, chances):
    """Whether the list says what these probabilities do, to 2 percent points."""
    label, sure = expected_line(chances)
    return [line[1] == label and abs(float(line[2][:-1]) / 100 - sure) < 0.02 for line in lines(window)] == [True]


def test_the_window_shows_faces_when_started_and_nothing_when_stopped(screen, models, clip):
    with closing(opened({"ferplus-cnn": MODEL}, clip)) as window:
        window.root.update()
        assert not window.running and window.stream.status()["state"] == "idle"  # the camera is left alone
        dark = seen(window)
        assert dark.std() < 20
        click(window, window.button)
        wait_for(window, lambda: lines(window))
        assert (window.running, window.button.cget("text")) == (True, "Stop")
        chances = said_by(Recognizer(MODEL), clip, window)
        wait_for(window, lambda: shows(window, chances))
        picture = seen(window)
        assert picture.std() > 40
        colour = np.array([0x00, 0x72, 0xB2] if chances.argmax() == 0 else [0xE6, 0x9F, 0x00])
        assert (np.abs(picture.astype(int) - colour).max(axis=2) < 40).sum() > 500  # the box and its label
        if folder := os.environ.get("FER_KERAS_SCREENSHOTS"):
            from PIL import ImageGrab

            ImageGrab.grab(xdisplay=screen).save(Path(folder) / "desktop.png")
        click(window, window.button)
        wait_for(window, lambda: not window.running)
        assert window.button.cget("text") == "Start" and lines(window) == []
        wait_for(window, lambda: window.stream.status()["state"] == "idle", 5)
        assert seen(window).std() < 20
        click(window, window.button)  # and again
        wait_for(window, lambda: lines(window))


def test_one_model_all_together_mean_and_vote_can_be_chosen_while_it_runs(screen, models, clip):
    with closing(opened(models, clip)) as window:
        assert window.model.cget("values") == ("ferplus-cnn", "other", "all together")
        assert window.model.get() == "all together"
        click(window, window.button)
        wait_for(window, lambda: lines(window))
        told = np.stack([said_by(Recognizer(path), clip, window) for path in models.values()])
        mean, vote = combine(told[:, None], "mean")[0], combine(told[:, None], "vote")[0]
        assert told[0].argmax() != told[1].argmax() and abs(mean.max() - vote.max()) > 0.04  # the test would tell them apart
        wait_for(window, lambda: shows(window, mean))
        click(window, window.ways[1])
        wait_for(window, lambda: window.stream.status()["model"] == "all together, majority vote")
        wait_for(window, lambda: shows(window, vote))
        for name, chances in zip(models, told, strict=True):
            choose(window, name)
            assert window.ways[0].instate(["disabled"])
            wait_for(window, lambda chances=chances: shows(window, chances))
        choose(window, "all together")
        wait_for(window, lambda: shows(window, vote))


class Loading:
    """Loads models slowly: each waits until it is let go, and the one called `broken` can't be had."""

    def __init__(self, recognizer, broken):
        self.recognizer, self.broken = recognizer, broken
        self.allowed = threading.Event()
        self.asked = []

    def __call__(self, path, runtime):
        self.asked.append(path.name)
        assert self.allowed.wait(60)
        if path.name == self.broken:
            raise ModelError(f"{path.name}: a weight is missing")
        return self.recognizer(path, runtime=runtime)

    def ended(self):
        """Whether everything chosen is loaded; call it from `wait_for`."""
        return not [thread for thread in threading.enumerate() if thread.name == "choose"]


@pytest.fixture
def loading(monkeypatch):
    slow = Loading(Recognizer, broken="damaged")
    monkeypatch.setattr("fer_keras.inference.recognizer.Recognizer", slow)
    return slow


def test_the_window_goes_on_with_what_was_chosen_last_however_long_an_earlier_choice_loads(screen, models, clip, loading):
    with closing(opened(models, clip)) as window:
        choose(window, "ferplus-cnn")
        loading.allowed.set()
        click(window, window.button)
        wait_for(window, lambda: lines(window))
        loading.allowed.clear()
        choose(window, "other")
        wait_for(window, lambda: "other" in loading.asked)
        wait_for(window, lambda: window.status.cget("text") == "Loading other...")
        click(window, window.button)
        wait_for(window, lambda: not window.running)
        choose(window, "ferplus-cnn")
        loading.allowed.set()
        wait_for(window, loading.ended)
        click(window, window.button)
        wait_for(window, lambda: window.status.cget("text").startswith("ferplus-cnn: "))
        assert (window.model.get(), window.stream.model) == ("ferplus-cnn", "ferplus-cnn")
        choose(window, "other")  # which is loaded now
        wait_for(window, lambda: window.status.cget("text").startswith("other: "))


def test_a_model_that_can_not_be_loaded_is_told_and_the_window_says_again_what_goes_on(screen, models, clip, loading, tmp_path):
    damaged = shutil.copytree(MODEL, tmp_path / "damaged")
    loading.allowed.set()
    with closing(opened({"ferplus-cnn": models["ferplus-cnn"], "damaged": damaged}, clip, "vote")) as window:
        choose(window, "ferplus-cnn")
        click(window, window.button)
        wait_for(window, lambda: lines(window))
        for name in ("damaged", "all together"):  # of which the damaged one is a part
            choose(window, name)
            wait_for(window, lambda name=name: re.match(f"{name}.*: a weight is missing", window.status.cget("text")))
            assert (window.model.get(), window.stream.model) == ("ferplus-cnn", "ferplus-cnn")
            assert window.ways[0].instate(["disabled"])
            wait_for(window, loading.ended)
            time.sleep(0.3)
            wait_for(window, lambda: lines(window))
            assert "a weight is missing" in window.status.cget("text")  # and not gone before it is read
        click(window, window.button)
        wait_for(window, lambda: window.status.cget("text") == "Stopped.")
        click(window, window.button)
        wait_for(window, lambda: window.status.cget("text").startswith("ferplus-cnn: "))


def test_the_picture_follows_the_size_of_the_window(screen, models, clip):
    with closing(opened({"ferplus-cnn": MODEL}, clip)) as window:
        click(window, window.button)
        wait_for(window, lambda: lines(window))
        window.root.geometry("1200x760")
        wait_for(window, lambda: window._photo is not None and window._photo.width() > 800)
        assert window._photo.width() <= window.picture.winfo_width()
        assert window._photo.width() / window._photo.height() == pytest.approx(320 / 240, abs=0.02)


def test_a_rate_is_said_as_people_say_it():
    assert [desktop.rate_text(fps) for fps in (0.8, 1.4)] == ["1 picture a second"] * 2
    assert [desktop.rate_text(fps) for fps in (1.6, 0.2)] == ["2 pictures a second", "0.2 pictures a second"]


def test_what_was_said_at_the_start_does_not_stay_where_frames_are_seldom(screen, models, clip):
    with closing(opened({"ferplus-cnn": MODEL}, clip)) as window:
        window._say("opening it")
        status = {**window.stream.status(), "state": "live", "message": "", "fps": 0.0}  # as after a frame in half a minute
        jpeg = notice_jpeg("a frame", "")
        window._show(Update(1, 0.0, {"faces": []}, status, jpeg), desktop.fitted_ppm(jpeg, (320, 240)))
        assert window.status.cget("text") == "ferplus-cnn: 0.0 pictures a second"


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The shipped model with other labels."""
    other = shutil.copytree(MODEL, tmp_path_factory.mktemp("models") / "words")
    metadata = json.loads((other / "metadata.json").read_text())
    metadata |= {"name": "words", "labels": [f"word-{number}" for number in range(8)]}
    (other / "metadata.json").write_text(json.dumps(metadata))
    return other


def test_models_of_different_labels_are_offered_one_by_one(screen, words, clip):
    with closing(opened({"ferplus-cnn": MODEL, "words": words}, clip)) as window:
        assert window.model.cget("values") == ("ferplus-cnn", "words")
        click(window, window.button)
        choose(window, "words")
        wait_for(window, lambda: [line[1][:5] for line in lines(window)] == ["word-"])


def test_a_source_that_is_lost_is_told_in_the_window(screen, clip, tmp_path):
    gone = shutil.copy(clip, tmp_path / "gone.avi")
    with closing(opened({"ferplus-cnn": MODEL}, gone)) as window:
        os.remove(gone)
        click(window, window.button)
        wait_for(window, lambda: "gone.avi is gone; trying again" in window.status.cget("text"))
        shutil.copy(clip, gone)
        wait_for(window, lambda: lines(window))


def test_a_damaged_film_does_not_flood_the_terminal(screen, tmp_path):
    if not shutil.which("xdotool"):
        pytest.skip("needs a pointer (Debian and Ubuntu: xdotool)")
    film = damaged_film(grey_film(tmp_path / "film.mp4"), *range(5, 15))
    command = [sys.executable, "-m", "serving.desktop", "--source", film, "--detector", "haar"]
    process = subprocess.Popen(command, cwd=MODEL.parent.parent, stderr=subprocess.PIPE, text=True)
    try:
        subprocess.run(["xdotool", "search", "--sync", "--name", "^Expressions: film.mp4$"], check=True, timeout=30)
        time.sleep(0.5)
        subprocess.run(["xdotool", "mousemove", "50", "25", "click", "1"], check=True)
        first = process.stderr.readline()
        time.sleep(2)  # it has started over
        process.terminate()
        _, more = process.communicate(timeout=10)
        assert (first, more) == ("film.mp4: 10 of its frames can't be read; the file is damaged\n", "")
    finally:
        process.kill()


def test_of_a_damaged_film_the_window_tells_what_is_missing(screen, models, tmp_path):
    film = damaged_film(grey_film(tmp_path / "film.mp4"), 5)
    with closing(opened(models, film)) as window:
        click(window, window.button)
        wait_for(window, lambda: "a second; 1 of 25 frames can't be read; the file is damaged" in window.status.cget("text"))


OPENED = ["xdotool", "search", "--sync", "--name", "^Expressions: demo$"]


def wait_for_the_window():
    if shutil.which("xdotool"):
        subprocess.run(OPENED, check=True, timeout=30)
    else:
        time.sleep(8)
    time.sleep(0.5)


def ended(close, *words, within_s=10):
    """Exit code and messages of Python with these words, whose window `close`, given the process, has closed."""
    command = [sys.executable, *words]
    process = subprocess.Popen(command, cwd=MODEL.parent.parent, stderr=subprocess.PIPE, text=True)
    try:
        wait_for_the_window()
        close(process)
        _, errors = process.communicate(timeout=within_s)
        return process.returncode, errors
    finally:
        process.kill()


def test_the_command_opens_a_window_and_ends_when_asked_to(screen):
    assert ended(subprocess.Popen.terminate, "-m", "serving.desktop", "--source", "demo") == (0, "")


LOADING = """
import runpy, sys, threading
from fer_keras.inference.recognizer import Recognizer
model, sys.argv = sys.argv[1], ["desktop", "--source", "demo"]
def load():
    while True:
        Recognizer(model, runtime="openvino")
for _ in range(4):  # as many as make sure that one is at it when the window closes
    threading.Thread(target=load, daemon=True).start()
runpy.run_module("serving.desktop", run_name="__main__")
"""


def test_a_window_that_is_closed_while_models_are_loaded_ends_in_order(screen):
    pytest.importorskip("openvino")
    assert ended(subprocess.Popen.terminate, "-c", LOADING, str(MODEL), within_s=20) == (0, "")


def test_a_window_that_the_window_system_destroys_is_closed_as_by_a_person(screen):
    if not shutil.which("xdotool"):
        pytest.skip("needs a way to destroy a window (Debian and Ubuntu: xdotool)")

    def destroy(process):
        window = subprocess.check_output(OPENED, timeout=30, text=True).split()[0]
        subprocess.run(["xdotool", "windowclose", window], check=True)

    assert ended(destroy, "-m", "serving.desktop", "--source", "demo") == (0, "")


def run(capsys, *words):
    code = desktop.main([str(word) for word in words])
    return code, capsys.readouterr().err.strip().splitlines()


def test_without_tk_the_way_to_get_it_is_told(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tkinter", None)
    code, [error] = run(capsys, "--source", "demo")
    assert code == 2 and "apt-get install python3-tk" in error and "python -m serving.app" in error


def test_without_a_screen_the_browser_is_named(monkeypatch, capsys):
    pytest.importorskip("tkinter", reason="this Python has no Tk (Debian and Ubuntu: python3-tk)")
    monkeypatch.delenv("DISPLAY", raising=False)
    code, [error] = run(capsys, "--source", "demo")
    assert code == 2 and "there is no screen" in error and "python -m serving.app" in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--source", "nowhere.mp4"], "there is no file 'nowhere.mp4'; a source is demo, a camera's number (0), a file"),
        (["--model", "nowhere"], "there is no model nowhere"),
        (["--min-face", "5"], "min_face_px must be 10 to 2000, got 5"),
    ],
)
def test_wrong_requests_are_refused_in_one_line_before_a_window_opens(capsys, words, expected):
    code, [error] = run(capsys, *words)
    assert code == 2 and expected in error


def test_models_of_different_labels_are_refused_where_a_way_of_combining_them_was_asked_for(monkeypatch, capsys, words, clip):
    def no_screen():
        raise ConfigError("no screen in this test")

    monkeypatch.setattr(desktop, "open_screen", no_screen)
    both = ("--source", clip, "--model", MODEL, "--model", words)
    for how in ("mean", "vote"):
        code, [error] = run(capsys, *both, "--combine", how)
        assert code == 2 and "models of different labels can't be combined: words lacks neutral" in error
    for allowed in (both, (*both[:-2], "--combine", "vote")):
        code, [error] = run(capsys, *allowed)
        assert code == 2 and "no screen in this test" in error


def test_in_the_smallest_window_all_that_is_said_can_be_read(screen, models, clip):
    with closing(opened({"ferplus-cnn": models["ferplus-cnn"]}, clip)) as window:
        window.root.geometry("640x420")
        window.status.configure(text="A long story of what went wrong, which goes on and on. " * 4)
        wait_for(window, lambda: window.root.winfo_width() == 640 and window.status.winfo_height() > 30)
        boxes = [(line.winfo_rootx(), line.winfo_rooty(), line.winfo_reqwidth(), line.winfo_reqheight()) for line in
                 (window.status, window.note)]  # fmt: skip
        right, below = window.root.winfo_rootx() + 640, window.root.winfo_rooty() + 420
        assert all(x + width <= right and y + height <= below for x, y, width, height in boxes)
        assert boxes[0][1] + boxes[0][3] <= boxes[1][1]
