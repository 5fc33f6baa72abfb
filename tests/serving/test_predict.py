"""Picture files in, a table, CSV, JSON and drawn copies out, with a real face and real detectors."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import commandline
import numpy as np
import pytest
from live_server import no_room
from PIL import Image

from fer_keras.data.images import crop_box, decode, resize, to_channels
from fer_keras.detectors import create_detector
from fer_keras.errors import ConfigError, DataError
from fer_keras.labels import EMOTIONS
from serving import pictures, predict
from serving.drawing import draw_faces
from serving.outputs import DrawnCopies

ROOT = Path(__file__).parent.parent.parent
SHUFFLED = tuple(EMOTIONS[index] for index in (3, 0, 7, 1, 2, 6, 5, 4))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Three untrained models that differ in input, crop, temperature and label order; the last has other labels."""
    from fer_keras.models.exported import export_model
    from fer_keras.models.registry import ModelSpec

    folder = tmp_path_factory.mktemp("saved_models")
    small = {"layers": [6], "convs_per_stage": 1}
    figures = {"dataset": "faces", "split": "test", "protocol": "label", "n": 100}
    for name, size, channels, labels, more in (
        ("grey", 32, 1, EMOTIONS, {"temperature": 0.5, "crop_margin": 0.1, "figures": [{**figures, "accuracy": 0.8}]}),
        ("rgb", 24, 3, SHUFFLED, {"temperature": 2.0, "crop_margin": 0.0, "figures": [{**figures, "accuracy": 0.6}]}),
        ("few", 24, 1, EMOTIONS[:3], {}),
    ):
        spec = ModelSpec("cnn", len(labels), size, channels, small)
        model = spec.build(seed=size)
        kernel, bias = model.get_layer("logits").get_weights()
        model.get_layer("logits").set_weights([kernel * 6, bias])
        export_model(model, spec, folder / name, {"labels": labels, "trained_on": "nothing", **more})
    return folder


@pytest.fixture(scope="module")
def photo():
    """uint8 (512, 512, 3): a photograph with one frontal face at about (175..275, 60..180)."""
    return pytest.importorskip("skimage.data").astronaut()


@pytest.fixture(scope="module")
def album(tmp_path_factory, photo):
    """Photographs, one that the camera held sideways, one without a face, a broken one, and what is no picture."""
    folder = tmp_path_factory.mktemp("album")
    (folder / "more").mkdir()
    Image.fromarray(photo).save(folder / "a.png")
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.fromarray(np.rot90(photo)).save(folder / "b.jpg", exif=exif, quality=95)
    Image.fromarray(np.full((80, 100, 3), 90, np.uint8)).save(folder / "c.png")
    (folder / "d.jpg").write_bytes(b"no picture")
    (folder / "notes.txt").write_text("not looked at")
    Image.fromarray(np.concatenate([photo, photo[:, ::-1]], axis=1)).save(folder / "more" / "e.png")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


run = partial(commandline.run, predict.main)


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def softened(probabilities, temperature):
    powers = probabilities.astype(np.float64) ** (1 / temperature)
    return powers / powers.sum(axis=-1, keepdims=True)


def by_hand(models, path, crop=True):
    """Probabilities of the grey and the rgb model for the first face of a picture, in the order of EMOTIONS: (2, 8)."""
    from fer_keras.models.exported import load_exported

    picture, told = decode(path, 3), []
    boxes = [found.box_xyxy_px for found in create_detector("haar", 40).detect(picture)] if crop else []
    for name in ("grey", "rgb"):
        model = load_exported(models / name)
        face = crop_box(picture, boxes[0], model.crop_margin) if crop else picture
        pixels = resize(to_channels(face, model.channels), model.image_size)[None]
        said = softened(model.predict(pixels)[0], model.temperature)
        told.append([said[model.labels.index(label)] for label in EMOTIONS])
    return np.array(told), boxes[0] if crop else None


HAAR = ["--detector", "haar", "--min-face", "40"]


def test_each_face_gets_what_the_model_says_of_its_crop(models, album, here, capsys):
    code, lines, _ = run(capsys, album / "a.png", "--model", models / "grey", *HAAR, "--csv", "out/faces.csv")
    assert code == 0
    told, box = by_hand(models, album / "a.png")
    [row] = rows(here / "out" / "faces.csv")  # the folder was made
    np.testing.assert_allclose([float(row[f"p_{label}"]) for label in EMOTIONS], told[0], atol=2e-4)
    assert [float(row[name]) for name in ("x1", "y1", "x2", "y2")] == list(box)
    assert (row["status"], row["face"], row["label"]) == ("ok", "1", EMOTIONS[told[0].argmax()])
    assert float(row["confidence"]) == pytest.approx(told[0].max(), abs=2e-4)
    assert row["uncertain"] == str(told[0].max() < 0.5)
    assert any(row["label"] in line and "a.png" in line for line in lines)


@pytest.mark.parametrize("combine", ["mean", "vote", "weighted"])
def test_several_models_answer_together_label_by_label(models, album, here, capsys, combine):
    words = ["--model", models / "grey", "--model", models / "rgb", "--combine", combine, "--json", "faces.json"]
    weights = ["--weights", "1,3"] if combine == "weighted" else []
    assert run(capsys, album / "a.png", *HAAR, *words, *weights)[0] == 0
    told, _ = by_hand(models, album / "a.png")
    if combine == "vote":
        votes = np.eye(8)[told.argmax(axis=1)].sum(axis=0) + 2 / 3 * told.mean(axis=0)
        expected = votes / votes.sum()
    else:
        expected = np.average(told, axis=0, weights=[1, 3] if weights else None)
    result = json.loads((here / "faces.json").read_text())
    [face] = result["pictures"][0]["faces"]
    np.testing.assert_allclose([face["probabilities"][label] for label in EMOTIONS], expected, atol=3e-4)
    np.testing.assert_allclose([face["models"]["rgb"][label] for label in EMOTIONS], told[1], atol=3e-4)
    assert result["combine"] == combine
    assert result["weights"] == ([0.25, 0.75] if weights else None)


def test_weights_that_are_not_named_come_from_the_accuracies_on_the_same_faces(models, album, here, capsys):
    words = ["--model", models / "grey", "--model", models / "rgb", "--combine", "weighted", "--json", "faces.json"]
    assert run(capsys, album / "a.png", *HAAR, *words)[0] == 0
    grey, rgb = np.log(0.8 / 0.2) + np.log(7), np.log(0.6 / 0.4) + np.log(7)
    assert json.loads((here / "faces.json").read_text())["weights"] == pytest.approx([grey / (grey + rgb), rgb / (grey + rgb)])


def test_a_folder_gives_a_line_for_everything_in_it(models, album, here, capsys):
    words = ["--model", models / "grey", "--csv", "f.csv", "--json", "f.json", "--draw", "drawn", *HAAR]
    code, lines, _ = run(capsys, album, *words)
    assert code == 0
    found = rows("f.csv")
    assert [(row["path"].rsplit("/", 1)[1], row["status"]) for row in found] == [
        ("a.png", "ok"),
        ("b.jpg", "ok"),
        ("c.png", "no face"),
        ("d.jpg", "error"),
    ]
    assert "can't be read as a picture" in found[3]["error"]
    assert any("c.png" in line and "no face found" in line for line in lines)
    assert any("d.jpg" in line and "can't be read" in line for line in lines)
    assert lines[-5] == "2 faces in 4 pictures; 1 without a face; 1 could not be read"
    assert lines[-1] == "1 file of other kinds in the folders skipped: .txt 1"
    # The camera's turn is undone: the face lies where it does in the upright photograph.
    upright, turned = ([float(row[name]) for name in ("x1", "y1", "x2", "y2")] for row in found[:2])
    np.testing.assert_allclose(turned, upright, atol=12)
    counts = json.loads((here / "f.json").read_text())["counts"]
    assert counts == {"pictures": 4, "faces": 2, "without_face": 1, "unreadable": 1}
    assert sorted(path.name for path in (here / "drawn").iterdir()) == [".fer-keras-drawn", "a.png", "b.jpg", "c.png"]


def test_drawn_copies_have_the_box_and_leave_the_original_alone(models, album, photo, here, capsys):
    before = (album / "a.png").read_bytes()
    assert run(capsys, album / "a.png", "--model", models / "grey", "--draw", "drawn", *HAAR)[0] == 0
    assert (album / "a.png").read_bytes() == before
    drawn = np.asarray(Image.open(here / "drawn" / "a.png"))
    _, (x1, y1, x2, y2) = by_hand(models, album / "a.png")
    assert drawn.shape == photo.shape
    changed = (drawn != photo).any(axis=2)
    left, bottom = changed[int(y1) : int(y2), int(x1)], changed[int(y2) - 1, int(x1) : int(x2)]
    assert left.all() and bottom.all()
    inside = changed[int(y1) + 20 : int(y2) - 4, int(x1) + 4 : int(x2) - 4]
    assert not inside.any()


def test_mtcnn_is_the_default_and_folders_inside_folders_are_searched_on_request(models, album, here, capsys):
    words = [album, "--recursive", "--model", models / "grey", "--csv", "f.csv", "--draw", "drawn", "--min-face", "60"]
    assert run(capsys, *words)[0] == 0
    assert [row["face"] for row in rows("f.csv") if row["path"].endswith("more/e.png")] == ["1", "2"]
    assert (here / "drawn" / "more" / "e.png").is_file()
    first = rows("f.csv")[0]
    assert first["status"] == "ok" and float(first["score"]) > 0.9


def test_a_picture_that_is_a_face_is_taken_whole(models, album, photo, here, capsys):
    Image.fromarray(photo[50:190, 160:280]).save("face.png")
    words = ["--crop", "none", "--model", models / "grey", "--model", models / "rgb", "--json", "f.json"]
    assert run(capsys, "face.png", *words)[0] == 0
    told, _ = by_hand(models, "face.png", crop=False)
    result = json.loads((here / "f.json").read_text())
    [face] = result["pictures"][0]["faces"]
    np.testing.assert_allclose([face["probabilities"][label] for label in EMOTIONS], told.mean(axis=0), atol=3e-4)
    assert face["box_xyxy_px"] == [0, 0, 120, 140]
    assert face["score"] is None and result["detector"] is None


def test_many_pictures_are_answered_in_order_whatever_the_batch(models, here, capsys, monkeypatch):
    random = np.random.default_rng(0)
    for index in range(23):
        Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(f"{index:02d}.png")
    tables = []
    for size in (64, 5):
        monkeypatch.setattr(pictures, "BATCH_FACES", size)
        assert run(capsys, here, "--crop", "none", "--model", models / "rgb", "--csv", "f.csv")[0] == 0
        tables.append(rows("f.csv"))
    assert [row["path"][-6:] for row in tables[0]] == [f"{index:02d}.png" for index in range(23)]
    for name in ("path", "label"):
        assert [row[name] for row in tables[0]] == [row[name] for row in tables[1]]


def test_patterns_in_quotes_are_read_as_a_shell_reads_them_and_nothing_comes_twice(album, here):
    found = pictures.find_pictures([f"{album}/*.png", str(album / "a.png"), f"{album}/**/e.png"])
    assert [picture.path.name for picture in found] == ["a.png", "c.png", "e.png"]
    Image.new("L", (8, 8)).save("odd[1].png")
    assert [picture.path.name for picture in pictures.find_pictures(["odd[1].png"])] == ["odd[1].png"]


def test_a_name_that_begins_like_a_home_is_a_file_first(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here / "home"))
    monkeypatch.setenv("USERPROFILE", str(here / "home"))
    (here / "home").mkdir()
    for name in ("~nobody-here.png", "~", "home/mine.png"):
        Image.new("L", (8, 8)).save(here / name, "PNG")
    for text, name in (("~nobody-here.png", "~nobody-here.png"), ("~nobody-*", "~nobody-here.png"), ("~", "~")):
        assert [picture.path.name for picture in pictures.find_pictures([text])] == [name]
    for text in ("~/mine.png", "~/m*.png"):
        assert [picture.path for picture in pictures.find_pictures([text])] == [here / "home" / "mine.png"]
    with pytest.raises(DataError, match="~nobody-else.png does not exist"):
        pictures.find_pictures(["~nobody-else.png"])


def test_links_to_one_file_are_a_picture_each_and_two_ways_to_one_name_are_one(here):
    for name in ("blobs/ab", "ds/own.png"):
        (here / name).parent.mkdir()
        Image.new("L", (8, 8)).save(here / name, "PNG")
    for name in ("person1.jpg", "person9.jpg"):
        (here / "ds" / name).symlink_to(here / "blobs" / "ab")
    (here / "ds" / "link.png").symlink_to("own.png")
    (here / "other").symlink_to("ds")
    found = pictures.find_pictures(["ds", "other", "ds/../other/own.png"])
    assert [str(picture.path) for picture in found] == ["ds/link.png", "ds/own.png", "ds/person1.jpg", "ds/person9.jpg"]


def test_links_to_folders_elsewhere_are_followed_once_and_those_inside_or_back_up_not_at_all(here):
    for name in ("elsewhere/deep/far.png", "ds/real/near.png"):
        (here / name).parent.mkdir(parents=True)
        Image.new("L", (8, 8)).save(here / name, "PNG")
    for link, to in (("a", here / "elsewhere"), ("b", here / "elsewhere"), ("all", "real"), ("up", here), ("own", ".")):
        (here / "ds" / link).symlink_to(to)
    (here / "elsewhere" / "back").symlink_to(here / "ds")
    found = pictures.find_pictures(["ds"], recursive=True)
    assert sorted(str(picture.relative) for picture in found) == ["a/deep/far.png", "real/near.png"]
    with pytest.raises(DataError, match="no picture"):
        pictures.find_pictures(["ds"])


def test_programs_in_typescript_beside_films_are_no_films(here):
    (here / "web").mkdir()
    (here / "web" / "page.ts").write_text("Greeting: 'Grüße'\n" * 40, encoding="utf-8")
    (here / "web" / "film.ts").write_bytes(b"\x47\x40\x00\x10" + b"\x00" * 184)
    (here / "web" / "void.ts").touch()
    found = pictures.find_pictures(["web"], suffixes=(".ts",), what="video")
    assert [picture.path.name for picture in found] == ["film.ts", "void.ts"]
    assert [picture.path.name for picture in pictures.find_pictures(["web/page.ts"])] == ["page.ts"]


def test_a_link_that_leads_to_itself_is_a_picture_that_can_not_be_read(models, here, capsys):
    (here / "ds").mkdir()
    Image.new("L", (8, 8)).save(here / "ds" / "x.png")
    (here / "ds" / "loop.jpg").symlink_to("loop.jpg")
    code, lines, _ = run(capsys, "ds", "--model", models / "grey", "--crop", "none", "--csv", "t.csv", "--draw", "drawn")
    with open("t.csv", newline="") as file:
        status = {row["path"]: row["status"] for row in csv.DictReader(file)}
    assert code == 0 and status == {"ds/x.png": "ok", "ds/loop.jpg": "error"}, lines


def test_a_folder_that_can_not_be_read_is_told(models, here):
    for name in ("a", "b"):
        (here / "un" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(here / "un" / name / "x.png")
    closed = here / "un" / "b"
    closed.chmod(0)
    as_others = commandline.without_right_to(closed)

    def told(*arguments):
        command = [
            *as_others,
            sys.executable,
            "-m",
            "serving.predict",
            *arguments,
            "--model",
            str(models / "grey"),
            "--crop",
            "none",
        ]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
        return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()

    try:
        assert told("un/b") == (2, [], ["python -m serving.predict: error: un/b can't be read: Permission denied"])
        code, lines, errors = told("un", "--recursive")
        assert code == 0 and "warning: un/b can't be read: Permission denied" in errors
        assert lines[-2:] == ["1 face in 1 picture", "1 folder could not be read; the warnings above say why"]
        (here / "un" / "a" / "x.png").unlink()
        code, _, [warning, error] = told("un", "--recursive")
        assert code == 2 and "un/b can't be read" in warning and "un has no picture or video in it" in error
    finally:
        closed.chmod(0o700)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_that_is_called_like_a_picture_is_left_out_of_folders_and_refused_where_it_is_named(here):
    Image.new("L", (8, 8)).save("face.png")
    (here / "gone.png").symlink_to("nowhere.png")
    for name in ("cam.jpg", "cam.mp4"):
        os.mkfifo(name)
    for named in (str(here), "*"):
        found = pictures.find_pictures([named], suffixes=(".jpg", ".mp4", ".png"))
        assert [each.path.name for each in found] == ["face.png", "gone.png"]
    with pytest.raises(DataError, match="cam.mp4 is a pipe or a device; name a picture that is a file"):
        pictures.find_pictures(["cam.mp4"])
    with pytest.raises(DataError, match="no file fits the pattern"):
        pictures.find_pictures(["cam.*"])


def test_of_a_file_that_may_be_a_video_is_told_how_to_read_it(models, here, capsys):
    for name in ("film.dat", "text.png"):
        (here / name).write_text("no picture")
    _, lines, _ = run(capsys, "film.dat", "text.png", "--model", models / "grey")
    assert [("--only videos reads it" in line) for line in lines if "can't be read as a picture" in line] == [True, False]


def test_copies_of_one_name_get_numbers(tmp_path):
    named = [pictures.Picture(tmp_path / sub / "x.webp", predict.Path("x.webp")) for sub in ("one", "two")]
    planned = predict.plan_copies(named, tmp_path / "drawn")
    assert [target.name for target in planned.values()] == ["x.png", "x-2.png"]


def test_no_copy_bears_the_name_of_another_original(tmp_path):
    names = ("one/a.bmp", "one/a.png", "two/a.png", "two/a-2.png")
    named = [pictures.Picture(tmp_path / name, predict.Path(name).relative_to(name[:3])) for name in names]
    planned = predict.plan_copies(named, tmp_path / "drawn")
    assert [planned[picture.path].name for picture in named] == ["a-3.png", "a.png", "a-4.png", "a-2.png"]


def test_results_in_the_folder_that_is_read_are_not_taken_for_originals(tmp_path):
    out = tmp_path / "annotated"
    for name in ("a.png", "sub/b.png", "._a.png", "annotated/a.png", "annotated/deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def found(*named):
        return sorted(str(each.path.relative_to(tmp_path)) for each in pictures.find_pictures(named, True, but=out))

    assert found(str(tmp_path)) == found(str(tmp_path / "**" / "*.png")) == ["a.png", "sub/b.png"]
    assert found(str(out)) == ["annotated/a.png", "annotated/deep/c.png"]
    assert found(str(out / "a.png"), str(tmp_path / "._a.png")) == ["._a.png", "annotated/a.png"]


def test_small_faces_are_enlarged_until_a_label_can_be_read():
    face = np.full((48, 40, 3), 128, np.uint8)
    drawn = draw_faces(face, [(0, 0, 40, 48)], ["happiness 98%"], ["#0072b2"])
    assert drawn.shape == (48 * 6, 40 * 6, 3)
    assert face.max() == 128
    assert (drawn == 255).all(axis=2).sum() > 20  # white ink on blue


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere.png"], "nowhere.png does not exist; name pictures, folders or patterns"),
        (["nothing-*.png"], "no file fits the pattern 'nothing-*.png'"),
        (["empty"], "empty has no picture or video in it"),
        (["face.png", "--model", "nowhere"], "there is no model nowhere"),
        (["face.png", "--csv", "empty"], "empty is a folder; --csv names a file"),
        (["face.png", "--csv", "face.png"], "face.png is one of the pictures and would be overwritten"),
        (["face.png", "--csv", "o", "--json", "./o"], "--csv and --json name the same file o"),
        (["face.png", "--every", "2"], "--every is for videos, and face.png is none"),
        (["face.png", "--only", "videos"], "--only videos, but there is no video in face.png"),
        (["face.png", "--csv", "face.png/f.csv"], "face.png"),
        ([""], "PATH: expected a name, got an empty one"),
        (["face.png", "--csv", ""], "--csv: expected a name, got an empty one"),
        (["face.png", "--json="], "--json: expected a name, got an empty one"),
        (["face.png", "--draw", ""], "--draw: expected a name, got an empty one"),
        (["face.png", "--parquet", ""], "--parquet: expected a name, got an empty one"),
        (["face.png", "--report", ""], "--report: expected a name, got an empty one"),
        (["face.png", "--draw", "face.png"], "--draw names a folder, face.png is a file"),
        (["face.png", "--draw", "d", "--csv", "d/face.png"], "--draw and --csv name the same file d/face.png"),
        (["face.png", "--draw", "d", "--csv", "d"], "--draw and --csv name the same file d"),
        (["face.png", "--draw", "."], "would write over the picture face.png"),
        (["face.png", "--weights", "1,2"], "--weights are for --combine weighted"),
        (["face.png", "--weights", "a,b", "--combine", "weighted"], "--weights"),
        (["face.png", "--crop", "none", "--min-face", "40"], "--min-face is for --crop auto"),
        (["face.png", "--min-face", "5"], "the smallest face is 10 pixels or more, got 5"),
        (["text.png"], "no picture could be read (1 tried)"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(models, here, capsys, words, expected):
    Image.new("RGB", (60, 60)).save("face.png")
    (here / "empty").mkdir()
    (here / "text.png").write_text("no picture")
    more = [] if "--model" in words else ["--model", models / "grey"]
    before = sorted(path.name for path in here.rglob("*"))
    code, _, errors = run(capsys, *words, *more)
    assert code == 2
    assert len(errors) == 1, errors
    assert expected in errors[0]
    assert sorted(path.name for path in here.rglob("*")) == before


def test_models_of_different_labels_are_refused_with_the_labels(models, here, capsys):
    Image.new("RGB", (60, 60)).save("face.png")
    words = ["face.png", "--crop", "none", "--model", models / "grey", "--model", models / "few"]
    code, _, [error] = run(capsys, *words)
    assert code == 2
    assert "few lacks sadness, anger, disgust, fear, contempt, compared with grey" in error


def test_weights_of_models_that_were_measured_apart_must_be_named(models, tmp_path, here, capsys):
    other = shutil.copytree(models / "grey", tmp_path / "apart")
    metadata = json.loads((other / "metadata.json").read_text())
    metadata["name"], metadata["figures"][0]["dataset"] = "apart", "elsewhere"
    (other / "metadata.json").write_text(json.dumps(metadata))
    Image.new("RGB", (60, 60)).save("face.png")
    words = ["face.png", "--crop", "none", "--combine", "weighted", "--model", models / "grey", "--model", other]
    _, _, [error] = run(capsys, *words)
    assert "not measured on the same faces" in error and "--weights" in error
    _, _, [error] = run(capsys, *words, "--weights", "1,2,3")
    assert "2 models need as many weights, 0 or more, got [1.0, 2.0, 3.0]" in error


def test_a_small_picture_is_drawn_enlarged_and_a_long_strip_is_not_made_gigabytes_of():
    from serving.drawing import draw_faces

    assert draw_faces(np.zeros((60, 80, 3), np.uint8), [], [], []).shape == (240, 320, 3)
    assert draw_faces(np.zeros((3, 65_000, 3), np.uint8), [], [], []).shape == (3, 65_000, 3)
    assert draw_faces(np.zeros((40, 1500, 3), np.uint8), [], [], []).shape == (80, 3000, 3)


def test_drawn_copies_take_the_place_of_drawn_copies_and_of_nothing_else(models, here, capsys):
    for name, level in (("in/photo.png", 90), ("photo.png", 200)):
        (here / name).parent.mkdir(exist_ok=True)
        Image.new("L", (32, 32), level).save(here / name)
    own = (here / "photo.png").read_bytes()
    asked = ("in/photo.png", "--model", models / "grey", "--crop", "none", "--draw")
    code, _, errors = run(capsys, *asked, ".")
    assert code == 2 and "would write over photo.png, which is no drawn copy" in "\n".join(errors)
    assert (here / "photo.png").read_bytes() == own
    for level in (90, 30):
        Image.new("L", (32, 32), level).save(here / "in" / "photo.png")
        assert run(capsys, *asked, "drawn")[0] == 0
    with Image.open(here / "drawn" / "photo.png") as copy:
        assert np.asarray(copy.convert("L"))[copy.height // 2, copy.width // 2] == 30
    for folder in (here, here / "drawn"):
        (folder / ".fer-keras-drawn").write_text("photo.png\n")
    code, _, errors = run(capsys, *asked, "drawn")
    assert code == 2 and "list of drawn copies, can't be read" in "\n".join(errors)
    assert run(capsys, *asked[:-1])[0] == 0  # draws nothing, and asks for no list


@pytest.mark.skipif(os.name == "nt", reason="Windows can't limit files")
def test_the_list_of_drawn_copies_can_be_read_after_the_disk_was_full(here):
    copies = [here / f"{number}.png" for number in range(5)]
    drawn = DrawnCopies(here)
    drawn.note(copies[0])
    with no_room(20), pytest.raises(OSError, match="drawn"):  # lines have 8 bytes
        for copy in copies:
            drawn.note(copy)
    assert (here / ".fer-keras-drawn").read_text() == '"0.png"\n"1.png"\n'
    for copy in copies:
        copy.touch()
    again = DrawnCopies(here)
    again.refuse_strangers(copies[:2])
    with pytest.raises(ConfigError, match="2.png, which is no drawn copy"):
        again.refuse_strangers(copies)


def test_files_of_folders_that_are_not_read_are_counted(models, here, capsys):
    (here / "in" / "more").mkdir(parents=True)
    for name in ("a.png", "film.mp4", "b.HEIC", "c.heic", "notes", ".hidden.heic", "more/d.heic"):
        (here / "in" / name).write_bytes(b"")
    Image.new("L", (32, 32), 90).save(here / "in" / "a.png")
    words = ["--model", models / "grey", "--crop", "none", "--only", "pictures"]
    code, lines, _ = run(capsys, "in", *words)
    assert code == 0 and lines[-1] == "3 files of other kinds in the folders skipped: .heic 2, no suffix 1"
    assert (
        run(capsys, "in", *words, "--recursive")[1][-1] == "4 files of other kinds in the folders skipped: .heic 3, no suffix 1"
    )
    assert "other kinds" not in run(capsys, "in/a.png", *words)[1][-1]


def test_a_name_does_nothing_to_the_terminal_and_is_whole_in_the_table(models, here, capsys):
    names = ["a\x1b[31mred.png", "b\rc\nd.png"]
    for name in names:
        Image.new("L", (32, 32), 90).save(here / name)
    (here / "e\x1b[2J.png").write_bytes(b"no picture")
    code, lines, _ = run(capsys, ".", "--model", models / "grey", "--crop", "none", "--csv", "t.csv")
    assert code == 0 and lines[1].startswith("a\\x1b[31mred.png ") and lines[2].startswith("b\\x0dc\\x0ad.png ")
    assert "\x1b" not in "".join(lines) and lines[3].startswith("e\\x1b[2J.png ")
    assert [row["path"] for row in rows(here / "t.csv")][:2] == names


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_over_pictures_that_is_stopped_keeps_its_rows(models, here, number):
    (here / "in").mkdir()
    Image.new("L", (32, 32), 90).save(here / "one.png")
    for each in range(20_000):
        (here / "in" / f"{each:05d}.png").symlink_to(here / "one.png")
    # What runs in the background, as these tests may, starts with Ctrl-C switched off.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); from serving import predict; "
    words = ["in", "--model", models / "grey", "--crop", "none", "--csv", "t.csv", "--json", "t.json"]
    command = [sys.executable, "-c", f"{code}sys.exit(predict.main())", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(predict.__file__).parents[1]), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    told = re.search(r"stopped after (\d+) of 20000 pictures; their rows are in t.csv.unfinished.csv", errors)
    assert process.returncode == 130 and told, errors
    found = rows(here / "t.csv.unfinished.csv")
    assert [row["path"] for row in found] == [f"in/{each:05d}.png" for each in range(len(found))]
    assert len(found) - int(told[1]) in (0, 1) and not (here / "t.csv").exists()
    assert "their rows are in t.json.unfinished.json" in errors and not (here / "t.json").exists()
    document = json.loads((here / "t.json.unfinished.json").read_text())
    assert document["counts"]["pictures"] == int(told[1]) and len(document["pictures"]) - int(told[1]) in (0, 1)


def test_a_run_over_pictures_that_finds_no_room_keeps_its_rows(models, here, capsys):
    words = ["in", "--model", models / "grey", "--crop", "none", "--csv", "t.csv"]
    (here / "in").mkdir()
    for number in range(400):
        Image.new("L", (32, 32), number % 256).save(here / "in" / f"{number:03d}.png")
    run(capsys, *words)
    whole = (here / "t.csv").read_bytes()
    (here / "t.csv").unlink()
    with no_room(len(whole) // 2):
        code, _, errors = run(capsys, *words)
    kept = (here / "t.csv.unfinished.csv").read_bytes()
    assert code == 2 and "their rows are in t.csv.unfinished.csv" in errors[-2] and "File too large" in errors[-1], errors
    assert kept.endswith(b"\n") and whole.startswith(kept) and len(whole) // 4 < len(kept) <= len(whole) // 2
    assert sorted(path.name for path in here.iterdir()) == ["in", "t.csv.unfinished.csv"]


def test_pictures_do_not_take_the_place_of_what_a_run_over_films_left(models, here, capsys):
    Image.new("L", (32, 32), 90).save(here / "one.png")
    for ending in ("csv", "json"):
        (here / f"t.csv.unfinished.{ending}").write_text("of a film")
    words = ["one.png", "--model", models / "grey", "--crop", "none", "--csv", "t.csv"]
    code, _, [error] = run(capsys, *words)
    assert code == 2 and "t.csv.unfinished.csv has what a command over videos did not finish" in error
    assert (here / "t.csv.unfinished.csv").read_text() == "of a film" and not (here / "t.csv").exists()


def test_a_detector_for_what_is_a_face_already_is_refused(models, here, capsys):
    Image.new("L", (32, 32), 90).save(here / "one.png")
    code, _, errors = run(capsys, "one.png", "--model", models / "grey", "--crop", "none", "--detector", "haar")
    assert code == 2 and "--detector is for --crop auto" in "\n".join(errors)
