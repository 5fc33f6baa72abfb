"""Trainings whose targets are partly what another model says."""

import base64
import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from bands import banded_faces, write_faces
from commandline import refused, run

from fer_keras.data.dataset import FaceDataset
from fer_keras.data.pipeline import face_loader
from fer_keras.errors import ConfigError
from fer_keras.models.densenet import SHIPPED
from fer_keras.models.exported import load_exported
from training import combining, kfold, scoring, train, variants
from training.config import TrainConfig
from training.distillation import notes_on_seen, taught, teacher_of_views
from training.run_folder import RunFolder

QUICK = ["--layers", "8", "--convs-per-stage", "1", "--batch-size", "32"]


def test_targets_are_mixed_in_the_order_of_the_data(trained, tmp_path):
    labels = FaceDataset.load(trained.data).labels
    other_order = tuple(reversed(labels))
    faces, names = banded_faces(30)
    data = write_faces(tmp_path / "reversed", faces, names, ["train"] * 20 + ["validation"] * 10, labels=other_order)
    rows = data.rows("train")[3:15]
    truth = np.eye(len(labels), dtype=np.float32)[data.label_indices[rows]]
    config = TrainConfig(teacher=str(trained.exported), teacher_share=0.25)
    mixed = taught(config, data, rows, truth, tmp_path)
    said = load_exported(trained.exported).predict(data.faces[rows])
    for name in labels:
        expected = 0.75 * truth[:, other_order.index(name)] + 0.25 * said[:, labels.index(name)]
        np.testing.assert_allclose(mixed[:, other_order.index(name)], expected, atol=1e-5)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-6)


def test_a_training_that_goes_on_has_the_targets_that_it_began_with(trained, tmp_path):
    data = FaceDataset.load(trained.data)
    rows, truth = data.rows("train")[:4], np.zeros((4, len(data.labels)), np.float32)
    kept = np.random.default_rng(0).dirichlet(np.ones(len(data.labels)), 4).astype(np.float32)
    np.save(tmp_path / "teacher.npy", kept)
    config = TrainConfig(teacher=str(trained.exported), teacher_share=1)
    np.testing.assert_allclose(taught(config, data, rows, truth, tmp_path), kept, atol=1e-6)


def test_a_teacher_of_views_sees_pictures_moved_as_its_pupil_does_and_not_what_poor_cameras_do(trained, tmp_path):
    labels = FaceDataset.load(trained.data).labels
    other_order = tuple(reversed(labels))
    faces, names = banded_faces(40)
    faces = np.tril(np.full(faces.shape[1:3], 90, np.uint8))[None, :, :, None] // 2 + faces // 2  # mirrored they look another way
    data = write_faces(tmp_path / "oblique", faces, names, ["train"] * 40, labels=other_order)
    rows = data.rows("train")
    config = TrainConfig(
        **dict.fromkeys(("rotate", "shift", "zoom", "brightness", "contrast"), 0.0),
        **{"dark": 1.0, "blur": 0.5, "noise": 1.0, "erase": 0.9, "flip": True},
        teacher=str(trained.exported),
        teacher_asked="views",
        teacher_share=0.75,
    )
    positions, seed = np.arange(5, 35), np.array([3, 4])
    truth = np.eye(len(labels), dtype=np.float32)[data.label_indices[rows][positions]]
    mixed = teacher_of_views(config, data, rows, None)(positions, seed, truth).numpy()
    pupil_sees = face_loader(data, rows, augment=dataclasses.replace(config.augmentation(), dark=0, blur=0, noise=0, erase=0))
    shown = pupil_sees(positions, seed).numpy()
    turned = [np.array_equal(face, data.faces[row][:, ::-1]) for face, row in zip(shown, rows[positions], strict=True)]
    assert 5 < sum(turned) < 25
    seen = np.where(np.array(turned)[:, None, None, None], data.faces[rows[positions]][:, :, ::-1], data.faces[rows[positions]])
    said = load_exported(trained.exported).predict(seen)
    for name in labels:
        expected = 0.25 * truth[:, other_order.index(name)] + 0.75 * said[:, labels.index(name)]
        np.testing.assert_allclose(mixed[:, other_order.index(name)], expected, atol=1e-3)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=1e-5)


def test_a_teacher_of_another_size_and_colour_can_be_asked_about_views(trained, tmp_path):
    faces, names = banded_faces(20)
    large = np.repeat(np.repeat(np.repeat(faces, 2, axis=1), 2, axis=2), 3, axis=3)
    labels = FaceDataset.load(trained.data).labels
    data = write_faces(tmp_path / "large", large, names, ["train"] * 20, labels=labels)
    config = TrainConfig(
        **dict.fromkeys(("rotate", "shift", "zoom", "brightness", "contrast"), 0.0),
        flip=False,
        teacher=str(trained.exported),
        teacher_asked="views",
        teacher_share=1.0,
    )
    truth = np.zeros((20, len(labels)), np.float32)
    mixed = teacher_of_views(config, data, data.rows("train"), None)(np.arange(20), np.array([1, 2]), truth).numpy()
    np.testing.assert_allclose(mixed, load_exported(trained.exported).predict(faces), atol=0.02)


@pytest.mark.parametrize("asked", ["faces", "views"])
def test_a_pupil_learns_from_its_teacher_what_its_labels_do_not_tell(trained, here, capsys, asked):
    faces, names = banded_faces(252)
    wrong = names[1:193] + names[192:]  # each face has the label of the next one, which is never its own
    parts = ["train"] * 192 + ["validation"] * 30 + ["test"] * 30
    data = write_faces(here / "mislabelled", faces, wrong, parts)
    words = ["--data", data.path, *QUICK, "--epochs", 10, "--lr", 0.02]
    words += ["--teacher", trained.exported, "--teacher-share", 1, "--out", "runs/pupil", "--export", "pupil"]
    if asked == "faces":
        words += ["--no-augment"]
    else:
        words += ["--rotate", 5, "--shift", 0.02, "--zoom", 0.02, "--erase", 0, "--teacher-asked", "views"]
    code, _, err = run(train.main, capsys, *words)
    assert code == 0, err
    pupil, teacher = (
        load_exported(path).predict(faces[192:]).argmax(axis=1) for path in ("saved_models/pupil", trained.exported)
    )
    assert (pupil == teacher).mean() > 0.8
    metadata = json.loads((here / "saved_models/pupil/metadata.json").read_text())
    assert metadata["trained_on"]["teacher"] == "bands-cnn" and metadata["trained_on"]["teacher_share"] == 1
    assert metadata["trained_on"]["teacher_asked"] == asked
    assert RunFolder.open("runs/pupil").finished


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--teacher", "nobody"], "there is no model nobody; expected a model's folder, or the name of one"),
        (["--teacher", "EXPORTED", "--sparse"], "is a distribution and needs --one-hot"),
        (["--teacher", "EXPORTED", "--teacher-share", "1.5"], "teacher-share must be from 0 to 1"),
        (["--teacher-asked", "views"], "--teacher-asked is for --teacher"),
        (["--teacher", "EXPORTED", "--teacher-asked", "often"], "invalid choice: 'often'"),
        (["--teacher", "EXPORTED", "--teacher-asked", "views", "--no-augment"], "leaves training pictures as they are"),
        (["--teacher", "EXPORTED", "--teacher-asked", "views", "--arch", "densenet"], "features are cached"),
    ],
)
def test_what_does_not_fit_is_refused(trained, here, capsys, words, expected):
    words = [str(trained.exported) if word == "EXPORTED" else word for word in words]
    assert expected in refused(train.main, capsys, "--data", trained.data, *words)
    assert not (here / "runs").exists()


def test_a_teacher_of_other_classes_is_refused(trained, tmp_path):
    faces, names = banded_faces(20)
    yes_no = ["yes" if name == names[0] else "no" for name in names]
    data = write_faces(tmp_path / "two", faces, yes_no, ["train"] * 10 + ["validation"] * 10, labels=("yes", "no"))
    with pytest.raises(ConfigError, match="a teacher needs the same classes"):
        train.model_spec(TrainConfig(teacher=str(trained.exported)), data)


def _model_that_saw(trained, folder, splits):
    """The exported model, said to have been trained on those splits of its data."""
    shutil.copytree(trained.exported, folder)
    metadata = json.loads((folder / "metadata.json").read_text())
    fingerprint = FaceDataset.load(trained.data).fingerprint
    metadata["trained_on"] = {"name": "bands", "fingerprint": fingerprint, "splits": splits}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return str(folder)


def test_variants_judged_by_faces_that_a_teacher_saw_say_so(trained, here):
    data = FaceDataset.load(trained.data)
    split = "test" if len(data.rows("test")) else "validation"
    honest = _model_that_saw(trained, here / "honest", ["train"])
    knows = _model_that_saw(trained, here / "knows", ["train", split])
    settings = [TrainConfig(weights=honest), TrainConfig(teacher=knows), TrainConfig(teacher=knows, seed=1)]
    _, notes = variants.judged_faces(data, None, settings)
    [note] = [note for note in notes if "flatter" in note]
    assert f"is taught by knows, which was trained on {', '.join(sorted(['train', split]))} faces" in note


def test_a_run_remembers_what_its_starting_model_and_its_teacher_had_learnt(trained, here):
    """Faces of the export's own splits, of which its metadata tells some: every other test face."""
    data = FaceDataset.load(trained.data)
    train_rows, test_rows = data.rows("train"), data.rows("test")
    knows = Path(_model_that_saw(trained, here / "knows", ["test"]))
    metadata = json.loads((knows / "metadata.json").read_text())
    bits = np.packbits(np.arange(len(test_rows)) % 2 == 0)
    metadata["trained_on"]["rows"] = base64.b64encode(bits).decode()
    (knows / "metadata.json").write_text(json.dumps(metadata))
    expected = sorted([*train_rows, *test_rows[::2]])
    runs = []
    for word in ("weights", "teacher"):
        settings = TrainConfig(data=str(data.path), arch="cnn", out=str(here / word), **{word: str(knows)})
        runs.append(train.start_run(settings.resolved(), data))
    plain = train.start_run(TrainConfig(data=str(data.path), arch="cnn", out=str(here / "plain")).resolved(), data)
    old = RunFolder(shutil.copytree(runs[0].path, here / "old"))
    description = json.loads((old.path / "config.json").read_text())
    del description["learnt_before"]
    (old.path / "config.json").write_text(json.dumps(description))
    assert scoring.rows_learnt(old, data)[0].tolist() == expected  # the model that it names is still there
    shutil.rmtree(knows)
    assert [scoring.rows_learnt(run, data)[0].tolist() for run in runs] == [expected, expected]
    assert [scoring.rows_learnt(run, data)[0].tolist() for run in (plain, old)] == [train_rows.tolist()] * 2
    member = combining.Member("run", runs[0].path, runs[0].spec, runs[0].labels)
    faces = combining.choose_faces([member], data, None)
    assert (faces.split, faces.rows.tolist()) == ("test", test_rows[1::2].tolist())
    assert not np.isin(faces.rows, faces.learnt).any()


def test_a_backbone_that_auto_takes_and_that_saw_the_faces_is_told(trained, here, monkeypatch):
    data = FaceDataset.load(trained.data)
    monkeypatch.setenv("KERAS_HOME", str(here))
    shipped = Path(_model_that_saw(trained, here / "models" / SHIPPED[0], ["train"]))
    metadata = json.loads((shipped / "metadata.json").read_text())
    metadata["spec"] |= {"name": "densenet121", "options": {}}
    (shipped / "metadata.json").write_text(json.dumps(metadata))
    settings = TrainConfig(arch="densenet", saved_models=str(shipped.parent))
    [note] = notes_on_seen(settings, data, ["train"])
    assert f"the training starts from {SHIPPED[0]}" in note and "flatter" in note
    for other in ({"arch": "cnn"}, {"arch": "densenet169"}, {"weights": "none"}):
        assert notes_on_seen(dataclasses.replace(settings, **other), data, ["train"]) == []
    assert notes_on_seen(settings, data, ["validation"]) == []


def test_folds_that_build_on_a_model_of_the_same_data_say_so(trained, here, capsys):
    _model_that_saw(trained, here / "seen", ["train"])
    words = ["--data", trained.data, "--folds", 2, "--epochs", 1, "--weights", here / "seen", "--out", "runs/folds"]
    made = kfold.start_run(kfold.build_parser().parse_args([str(word) for word in words]))
    [note] = [note for note in made.plan["notes"] if "starts from seen" in note]
    assert "flatter" in note
    assert note in capsys.readouterr().out
