"""K-fold runs, with real tiny trainings."""

import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial

import commandline
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from tiny_runs import LABELS, MEASURED, ROOT, SIZE, TINY

from fer_keras.data.dataset import DatasetWriter, FaceDataset
from training import evaluate, kfold
from training.folds import KFoldRun
from training.run_folder import RunFolder

FOLDS, PEOPLE, EACH = 3, 30, 4
SETTINGS = [
    *("--folds", str(FOLDS), "--stratify", "label,gender", "--layers", "8,16", "--convs-per-stage", "1"),
    *("--epochs", "2", "--batch-size", "16", "--dropout", "0.5", "--lr", "0.01", "--best-after", "0", "--no-tensorboard"),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Bars that tell the label, of 30 people with 4 faces each; the last 12 faces are dropped ones."""
    rng = np.random.default_rng(0)
    count = PEOPLE * EACH
    labels = [LABELS[index % 3] for index in range(count)]
    with DatasetWriter(tmp_path_factory.mktemp("data") / "people", image_size=SIZE, channels=1) as writer:
        for index in range(count):
            face = rng.integers(0, 60, (SIZE, SIZE, 1))
            face[4 + 9 * (index % 3) : 10 + 9 * (index % 3), 4:-4] += 150
            writer.add(face.astype(np.uint8))
        columns = {
            "label": labels,
            "split": ["train"] * 80 + ["validation"] * 20 + ["test"] * 20,
            "kept": [True] * (count - 12) + [False] * 12,
            "reason": [""] * (count - 12) + ["blank"] * 12,
            "source": [""] * count,
            "gender": [("Female", "Male")[index // EACH % 2] for index in range(count)],
            "identity": [f"person{index // EACH}" for index in range(count)],
        }
        return writer.finish(columns, labels=LABELS, group_columns=("gender",))


@pytest.fixture(scope="module")
def done(dataset, tmp_path_factory):
    """A finished run."""
    out = tmp_path_factory.mktemp("kfold") / "done"
    assert kfold.main(["--data", str(dataset.path), "--out", str(out), *SETTINGS]) == 0
    return out


def folds_of(out):
    return [RunFolder.open(out / f"fold-{number:02d}") for number in range(1, FOLDS + 1)]


def out_of_fold(out):
    return pd.read_csv(out / "out-of-fold.csv")


refused = partial(commandline.refused, kfold.main)


def test_every_kept_face_is_tested_once_by_a_model_that_never_saw_its_person(done, dataset):
    people = dataset.manifest["identity"].to_numpy()
    tested = np.concatenate([run.rows("test") for run in folds_of(done)])
    assert sorted(tested) == dataset.rows().tolist()
    saved = pd.read_csv(done / "folds.csv")
    for number, run in enumerate(folds_of(done), start=1):
        parts = [set(people[run.rows(name)]) for name in ("train", "validation", "test")]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert sorted(np.concatenate([run.rows(name) for name in ("train", "validation", "test")])) == dataset.rows().tolist()
        assert saved.loc[saved["fold"] == number, "row"].tolist() == run.rows("test").tolist()


@pytest.mark.parametrize("known", [False, True])
def test_copies_of_a_picture_are_on_one_side_with_all_whom_they_join(tmp_path, known):
    """Rows 40 to 49 are copies of rows 0 to 9; with identities, two rows follow each other as one person."""
    from training.folds import plan_folds

    faces = np.random.default_rng(1).integers(0, 256, (40, SIZE, SIZE, 1), np.uint8)
    with DatasetWriter(tmp_path / "copies", image_size=SIZE, channels=1) as writer:
        for index in range(50):
            writer.add(faces[index % 40])
        columns = {
            "label": [LABELS[index % 40 % 3] for index in range(50)],
            "split": ["train"] * 50,
            "kept": [True] * 50,
            "reason": [""] * 50,
            "source": [""] * 50,
            "identity": [f"p{index // 2}" if known else "" for index in range(50)],
        }
        dataset = writer.finish(columns, labels=LABELS)
    tested = []
    for part in plan_folds(dataset, dataset.rows(), 4, [], 0):
        side = {row: name for name, rows in part.items() for row in rows}
        assert all(side[row] == side[row + 40] for row in range(10))
        if known:
            assert all(side[row] == side[row + 1] for row in range(0, 50, 2))
        tested += part["test"].tolist()
    assert sorted(tested) == list(range(50))


def test_near_copies_in_other_folds_are_told(tmp_path):
    """The last 10 of 50 smooth pictures are the first 10, mirrored and brighter; noise has no near copies."""
    from PIL import Image

    from training.folds import plan_folds

    small = np.random.default_rng(1).integers(0, 256, (40, 7, 7), np.uint8)
    faces = [np.array(Image.fromarray(each).resize((SIZE, SIZE), Image.Resampling.BICUBIC))[..., None] for each in small]
    faces += [np.clip(face[:, ::-1] * 0.8 + 20, 0, 255).astype(np.uint8) for face in faces[:10]]
    with DatasetWriter(tmp_path / "near", image_size=SIZE, channels=1) as writer:
        for face in faces:
            writer.add(face)
        columns = {"label": [LABELS[index % 2] for index in range(50)], "split": ["train"] * 50, "kept": [True] * 50}
        dataset = writer.finish({**columns, "reason": [""] * 50, "source": [""] * 50}, labels=LABELS)
    told = []
    fold_of = np.empty(50, int)
    for number, part in enumerate(plan_folds(dataset, dataset.rows(), 4, [], 0, told.append)):
        fold_of[part["test"]] = number
    apart = 2 * (fold_of[:10] != fold_of[40:]).sum()
    assert apart > 0
    (remark,) = [text for text in told if "near copies" in text]
    assert remark.startswith(f"faces with near copies in other folds (re-encoded, resized, lit otherwise or mirrored): {apart}, ")


def test_an_interval_over_persons_is_never_a_point():
    from training.scoring import identities_interval

    people = np.repeat([f"p{index}" for index in range(10)], 3)
    for correct in (np.ones(30, bool), np.zeros(30, bool)):
        low, high = identities_interval(correct, people)["accuracy_ci95_identities"]
        assert low <= correct.mean() <= high and 0.1 < high - low < 0.35  # as ten faces, of which all are right


@pytest.mark.parametrize(("persons", "faces", "right"), [(40, 2, [1, 0]), (10, 4, [1, 1, 0, 0]), (20, 4, [1, 0, 0, 0])])
def test_persons_of_whom_as_many_faces_are_right_give_no_narrower_interval_than_faces(persons, faces, right):
    from scipy.stats import binomtest

    from training.scoring import identities_interval

    correct = np.tile(np.array(right, bool), persons)
    low, high = identities_interval(correct, np.repeat(np.arange(persons), faces).astype(str))["accuracy_ci95_identities"]
    inner = binomtest(int(correct.sum()), len(correct)).proportion_ci(method="wilson")
    assert low <= inner.low < inner.high <= high


def test_one_person_tells_nothing_of_others_and_a_reader_is_told():
    from fer_keras.evaluation.paired import one_person_note, persons_note
    from training.scoring import identities_interval

    alone = np.repeat("ann", 8)
    assert identities_interval(np.arange(8) < 2, alone) == {}
    assert one_person_note(alone) == persons_note(alone)
    assert "8 faces are all of one person" in persons_note(alone)[0] and "other people" in persons_note(alone)[0]
    assert one_person_note(np.array(["ann", "ann", "bea"])) == [] == one_person_note(None)


def test_a_class_of_one_person_is_told_with_the_fold_that_can_not_learn_it(tmp_path):
    from training.folds import plan_folds

    with DatasetWriter(tmp_path / "one", image_size=SIZE, channels=1) as writer:
        for face in np.random.default_rng(1).integers(0, 256, (34, SIZE, SIZE, 1), np.uint8):
            writer.add(face)
        columns = {
            "label": ["neutral", "happiness"] * 15 + ["anger"] * 4,
            "split": ["train"] * 34,
            "kept": [True] * 34,
            "reason": [""] * 34,
            "source": [""] * 34,
            "identity": [f"p{index // 2}" for index in range(30)] + ["ann"] * 4,
        }
        dataset = writer.finish(columns, labels=LABELS)
    told = []
    parts = plan_folds(dataset, dataset.rows(), 3, [], 0, told.append)
    [fold] = [number for number, part in enumerate(parts, start=1) if 30 in part["test"]]
    [note] = [note for note in told if "no training face" in note]
    assert f"anger in fold {fold} (tests 4), which can't be learnt there" in note


def test_a_class_in_every_fold_is_not_told_to_be_absent_for_a_small_cell(tmp_path):
    from training.folds import plan_folds

    with DatasetWriter(tmp_path / "cell", image_size=SIZE, channels=1) as writer:
        for face in np.random.default_rng(1).integers(0, 256, (38, SIZE, SIZE, 1), np.uint8):
            writer.add(face)
        columns = {
            "label": ["neutral", "happiness"] * 15 + ["anger"] * 6 + ["happiness"] * 2,
            "split": ["train"] * 38,
            "kept": [True] * 38,
            "reason": [""] * 38,
            "source": [""] * 38,
            "gender": ["Male"] * 35 + ["Female"] * 3,
        }
        dataset = writer.finish(columns, labels=LABELS, group_columns=("gender",))
    told = []
    parts = plan_folds(dataset, dataset.rows(), 3, ["gender"], 0, told.append)
    anger = set(range(30, 36))
    assert all(anger & set(part["test"].tolist()) for part in parts)
    assert told == [
        "2 of 5 cells have fewer than 3 faces and are split by label alone: anger / Female (1), happiness / Female (2)"
    ]


def test_folds_and_validation_have_labels_and_groups_in_proportion(done, dataset):
    cells = (dataset.manifest["label"] + dataset.manifest["gender"]).to_numpy()
    share = pd.Series(cells[dataset.rows()]).value_counts(normalize=True)
    for run in folds_of(done):
        rest = len(run.rows("train")) + len(run.rows("validation"))
        assert len(run.rows("validation")) / rest == pytest.approx(0.2, abs=0.05)
        for name in ("train", "validation", "test"):
            found = pd.Series(cells[run.rows(name)]).value_counts(normalize=True)
            assert (found - share).abs().max() < 0.1  # whole persons only


@pytest.mark.parametrize("which", ["best", "final"])
def test_the_results_can_be_recomputed_from_the_csv(done, which):
    table = out_of_fold(done).query("model == @which")
    results = json.loads((done / "results.json").read_text())
    names = [f"p_{label}" for label in LABELS]
    assert (np.array(LABELS)[table[names].to_numpy().argmax(axis=1)] == table["predicted"]).all()
    found = []
    for _, part in table.groupby("fold"):
        macro = precision_recall_fscore_support(part["true"], part["predicted"], average="macro", zero_division=0)[:3]
        found.append([(part["true"] == part["predicted"]).mean(), *macro])
    wanted = ("accuracy", "macro_precision", "macro_recall", "macro_f1")
    for index, name in enumerate(wanted):
        values = [line[index] for line in found]
        assert [fold[which][name] for fold in results["by_fold"]] == pytest.approx(values)
        summary = results["summary"][which][name]
        assert summary["mean"] == pytest.approx(sum(values) / FOLDS)
        assert summary["std"] == pytest.approx(float(np.sqrt(sum((v - np.mean(values)) ** 2 for v in values) / (FOLDS - 1))))
    lines = pd.read_csv(done / "results.csv").query("model == @which").set_index("fold")
    assert lines.loc["mean", "accuracy"] == pytest.approx(results["summary"][which]["accuracy"]["mean"], abs=1e-6)
    assert lines.loc["1", "micro_f1"] == pytest.approx(found[0][0], abs=1e-6)


def test_the_summed_confusion_matrix_is_that_of_all_faces(done):
    table = out_of_fold(done).query("model == 'final'")
    read = {path.stem: pd.read_csv(path, index_col="true").to_numpy() for path in (done / "confusion").glob("*-final.csv")}
    whole = read.pop("sum-final")
    assert (whole == confusion_matrix(table["true"], table["predicted"], labels=LABELS)).all()
    assert len(read) == FOLDS and (sum(read.values()) == whole).all()


def test_the_probabilities_are_those_of_the_saved_models(done, dataset):
    table = out_of_fold(done).query("model == 'final' and fold == 2")
    run = folds_of(done)[1]
    expected = run.load_model("final")(dataset.faces[run.rows("test")].astype(np.float32)).numpy()
    assert table["row"].tolist() == run.rows("test").tolist()
    np.testing.assert_allclose(table[[f"p_{label}" for label in LABELS]], expected, rtol=1e-4, atol=1e-6)


def test_a_fold_is_a_fresh_model_as_a_training_of_these_rows_alone_gives(done, dataset, tmp_path):
    from training.config import TrainConfig
    from training.loop import fit_one

    second = folds_of(done)[1]
    rows = {name: second.rows(name) for name in ("train", "validation")}
    alone = RunFolder.create(tmp_path / "alone", second.config, second.spec, dataset, rows)
    fit_one(TrainConfig.from_dict(second.config), dataset.subset(rows["train"]), dataset.subset(rows["validation"]), alone)
    histories = [pd.read_csv(run.path / "history.csv")[MEASURED] for run in (alone, second)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)


def test_the_report_shows_loss_and_confusion_of_every_fold(done):
    page = (done / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert {path.name for path in (done / "figures").iterdir()} == {
        "loss.png",
        *(f"confusion-{what}-{which}.png" for what in ("sum", "folds") for which in ("best", "final")),
    }
    for words in ("persons kept in one fold", "no unbiased estimate", "test faces of the data set take part"):
        assert words in page


ENDED = """
import os, signal, sys
sys.path.insert(0, {root!r})
from training import loop, kfold
write = loop.write_history
def then_end(path, history):
    write(path, history)
    if path.parent.name == "fold-02" and len(history) == {epoch}:
        os.kill(os.getpid(), signal.{signal})
loop.write_history = then_end
sys.exit(kfold.main({words!r}))
"""


def test_a_run_that_is_stopped_and_then_killed_goes_on_in_its_fold_and_ends_as_the_unbroken_one(done, dataset, tmp_path):
    out, quiet = tmp_path / "ended", {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    start = ["--data", str(dataset.path), "--out", str(out), *SETTINGS]
    firsts = []
    for epoch, (sent, code, words) in enumerate(
        [("SIGINT", 130, start), ("SIGKILL", -signal.SIGKILL, ["--resume", str(out)])], start=1
    ):
        script = ENDED.format(root=str(ROOT), signal=sent, epoch=epoch, words=words)
        ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=quiet)
        assert ended.returncode == code, ended.stderr
        assert "Traceback" not in ended.stderr
        firsts.append((out / "fold-01" / "final.weights.h5").stat().st_mtime_ns)
        assert len(pd.read_csv(out / "fold-02" / "history.csv")) == epoch
    assert kfold.main(["--resume", str(out)]) == 0
    assert firsts == [(out / "fold-01" / "final.weights.h5").stat().st_mtime_ns] * 2
    pd.testing.assert_frame_equal(out_of_fold(out), out_of_fold(done), check_exact=True)


def test_saved_folds_are_scored_without_training(done, tmp_path, capsys):
    out = shutil.copytree(done, tmp_path / "copy")
    for path in [*out.rglob("out-of-fold.csv"), out / "results.json"]:
        path.unlink()
    shutil.rmtree(out / "fold-03" / "state", ignore_errors=True)
    (out / "fold-03" / "final.weights.h5").unlink()  # as if it had never come to its end
    before = (out / "fold-01" / "history.csv").stat().st_mtime_ns
    assert kfold.main(["--evaluate-only", str(out)]) == 0
    assert "fold 3 of 3 is missing" in capsys.readouterr().out
    pd.testing.assert_frame_equal(
        out_of_fold(out), out_of_fold(done).query("fold != 3").reset_index(drop=True), check_exact=False, rtol=1e-5
    )
    assert (out / "fold-01" / "history.csv").stat().st_mtime_ns == before
    assert json.loads((out / "results.json").read_text())["complete"] is False


def test_a_fold_that_fails_in_one_of_two_processes_leaves_the_others(dataset, done, tmp_path, capsys):
    out = shutil.copytree(done, tmp_path / "jobs")
    for path in out.rglob("out-of-fold.csv"):
        path.unlink()
    shutil.rmtree(out / "fold-02")  # begins anew, with a learning rate that no training survives
    second = folds_of(done)[1]
    broken = {**second.config, "lr": 1e6, "optimizer": "sgd", "out": str(out / "fold-02"), "warmup": 0.0}
    rows = {name: second.rows(name) for name in ("train", "validation", "test")}
    RunFolder.create(out / "fold-02", broken, second.spec, dataset, rows)
    shutil.rmtree(out / "fold-03")
    third = folds_of(done)[2]
    rows = {name: third.rows(name) for name in ("train", "validation", "test")}
    RunFolder.create(out / "fold-03", third.config, third.spec, dataset, rows)
    assert kfold.main(["--resume", str(out), "--jobs", "2"]) == 2
    [error] = capsys.readouterr().err.strip().splitlines()
    assert "fold 2 failed: the " in error and "loss became" in error
    assert f"the other folds are kept and in the report; go on with --resume {out}" in error
    found, expected = out_of_fold(out), out_of_fold(done).query("fold != 2").reset_index(drop=True)
    assert found["row"].tolist() == expected["row"].tolist()
    names = [f"p_{label}" for label in LABELS]
    np.testing.assert_allclose(found[names], expected[names], rtol=1e-3, atol=1e-4)


def test_a_fold_is_evaluated_on_its_own_test_faces(done, tmp_path, capsys):
    arguments = ["--no-figures", "--out", str(tmp_path / "report"), "--run"]
    assert evaluate.main([*arguments, str(done / "fold-02")]) == 0
    metrics = json.loads((tmp_path / "report" / "metrics.json").read_text())
    results = json.loads((done / "results.json").read_text())
    assert metrics["models"]["best"]["confusion"] == results["by_fold"][1]["best"]["confusion"]
    assert evaluate.main([*arguments, str(done / "fold-01"), str(done / "fold-02")]) == 2
    assert "tested on different rows" in capsys.readouterr().err


def test_an_exported_fold_knows_which_faces_it_was_trained_on(done, dataset, tmp_path, monkeypatch, capsys):
    from training import scoring, train

    monkeypatch.chdir(tmp_path)
    shutil.copytree(done, tmp_path / "copy")
    of_test = dataset.rows("test")
    fold = next(run for run in folds_of(tmp_path / "copy") if set(run.rows("train")) & set(of_test))
    assert train.main(["--resume", str(fold.path)]) == 0
    (exported,) = (tmp_path / "saved_models").iterdir()
    trained = set(fold.rows("train"))
    metadata = json.loads((exported / "metadata.json").read_text())
    assert "test" in metadata["trained_on"]["splits"]
    assert set(scoring.rows_seen(metadata["trained_on"], dataset)) == trained
    assert metadata["trained_on"]["rows"] not in (exported / "README.md").read_text()
    capsys.readouterr()
    assert evaluate.main(["--model", str(exported), "--data", str(dataset.path), "--split", "test", "--no-figures"]) == 0
    both = len(trained & set(of_test))
    assert f"was trained on {both} of these {len(of_test)} faces; its figures flatter it" in capsys.readouterr().out


def test_a_fold_without_a_judged_face_is_told_as_such(done):
    result = {"fold": 2, "accuracy": {"best": None, "final": None}, "best_epoch": 1, "epochs": 2, "seconds": 1.0}
    assert "Fold 2 of 3: accuracy -, -; best epoch 1 of 2" in kfold._fold_line(KFoldRun.open(done), result, "1/3")


def test_test_faces_can_be_kept_out_and_every_setting_of_train_is_taken(dataset, tmp_path):
    from training import folds
    from training.config import TrainConfig

    config = TrainConfig(**TINY).resolved()
    described = {"folds": 4, "columns": [], "use": ["train", "validation"], "protocol": "label"}
    run = folds.start(tmp_path / "kept", config, dataset, **described)
    expected = [*dataset.rows("train"), *dataset.rows("validation")]
    assert run.rows.tolist() == sorted(expected)
    assert run.fold_run(4).config["dropout"] == 0.5
    again = folds.start(tmp_path / "again", config, dataset, **described)
    assert (again.path / "folds.csv").read_bytes() == (run.path / "folds.csv").read_bytes()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--folds", "1"], "--folds must be 2 or more, got 1"),
        (["--folds", "31"], "expected 2 to 27 folds for 27 identities"),
        (["--stratify", "label,agegroup"], "can't stratify by agegroup: .* has label, gender"),
        (["--splits", "training"], "--splits takes train, validation, test"),
        (["--protocol", "majority"], "no FER\\+ votes"),
        (["--arch", "densnet"], "unknown arch"),
        (["--balance", "age_group"], "age_group"),
        (["--lr", "1e6", "--optimizer", "sgd", "--warmup", "0", "--layers", "8", "--epochs", "1"], "loss became"),
        (["--arch", "densenet", "--weights", "no-such-model"], "there is no model no-such-model"),
        (["--export", "mine"], "unrecognized arguments: --export mine"),
        (["--resume", "nowhere"], "nowhere is not the folder of a k-fold run"),
        (["--resume", "nowhere", "--folds", "5"], "leave out --folds"),
        (["--resume", "nowhere", "--batch-size", "5"], "leave out --batch-size"),
        (["--evaluate-only", "nowhere", "--epochs", "5"], "leave out --epochs"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(dataset, tmp_path, monkeypatch, capsys, words, expected):
    import re

    monkeypatch.chdir(tmp_path)
    data = [] if {"--resume", "--evaluate-only"} & set(words) else ["--data", str(dataset.path)]
    line = refused(capsys, *data, *words)
    assert re.search(expected, line), line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_folder_that_is_there_is_left_as_it_is(done, dataset, capsys):
    before = (done / "kfold.json").read_bytes()
    line = refused(capsys, "--data", str(dataset.path), "--out", str(done), *SETTINGS)
    assert "exists already" in line and "--resume" in line
    assert (done / "kfold.json").read_bytes() == before


def test_a_data_set_that_changed_is_noticed(done, dataset, tmp_path, capsys):
    out = shutil.copytree(done, tmp_path / "moved")
    for path in out.glob("fold-*/config.json"):
        path.write_text(path.read_text().replace(dataset.fingerprint, "0" * 16))
    assert "has changed since" in refused(capsys, "--resume", str(out))
    assert FaceDataset.load(dataset.path).fingerprint == dataset.fingerprint
