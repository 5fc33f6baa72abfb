"""Variations of a training: real, tiny trainings, and figures counted again from the predictions."""

import contextlib
import io
import json
import re
import signal

import numpy as np
import pandas as pd
import pytest
from bands import banded_faces, write_faces
from commandline import refused, run
from sklearn.metrics import f1_score
from tiny_runs import LABELS, ctrl_c_after_the_last_epoch, write_bars

from fer_keras.errors import ConfigError
from fer_keras.files import alone
from training import ablate, loop, variants
from training.config import TrainConfig
from training.run_folder import RunFolder

SETTINGS = ["--layers", "8,16", "--convs-per-stage", "1", "--batch-size", "16", "--dropout", "0", "--lr", "0.02"]
SETTINGS += ["--epochs", "14", "--no-augment", "--no-tensorboard", "--repeats", "200"]
USELESS = "hardly a step: lr=1e-9 epochs=1"
STILL = "rotate=0 shift=0 brightness=0 contrast=0"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_bars(tmp_path_factory.mktemp("data") / "bars")


@pytest.fixture(scope="module")
def out(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "ablation"
    words = ["--data", dataset.path, "--out", folder, *SETTINGS, "--seeds", "1", "--mirror", "--vary", USELESS]
    words = [str(word) for word in words]
    told, printed = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(told), contextlib.redirect_stdout(printed):
        write_history = loop.write_history

        def ctrl_c_in_the_third_epoch(path, history):
            write_history(path, history)
            if len(history) == 3:
                signal.raise_signal(signal.SIGINT)

        patch.setattr(loop, "write_history", ctrl_c_in_the_third_epoch)
        assert ablate.main(words) == 130
    assert "0 of 2 trained; the same command again goes on with as-it-is-seed0" in told.getvalue()
    assert "Stopped by Ctrl-C after epoch 3" in printed.getvalue() and "--resume" not in printed.getvalue()
    assert ablate.main(words) == 0  # and goes on, as the tests below see
    return folder


@pytest.fixture(scope="module")
def result(out):
    return json.loads((out / "ablate.json").read_text())


def test_each_variation_differs_in_what_it_says_and_in_nothing_else(out, result):
    names = sorted(path.name for path in (out / "runs").iterdir())
    assert names == ["as-it-is-seed0", "hardly-a-step-seed0"]
    base, other = (RunFolder.open(out / "runs" / f"{name}-seed0").config for name in ("as-it-is", "hardly-a-step"))
    assert {key for key in base if base[key] != other[key]} == {"lr", "epochs", "best_after", "out", "export"}
    assert result["variations"]["hardly a step"]["changes"] == {"lr": 1e-9, "epochs": 1, "best_after": 0}


def test_figures_are_those_of_the_predictions(out, result, dataset):
    table = pd.read_csv(out / "predictions.csv")
    assert len(table) == result["n"] == 18
    for name, folder in (("as it is", "as-it-is"), ("hardly a step", "hardly-a-step")):
        said = table[f"{folder}-seed0"]
        found = result["variations"][name]
        assert found["accuracy"]["by_seed"] == pytest.approx([(said == table["true"]).mean()])
        expected = f1_score(table["true"], said, average="macro", labels=LABELS, zero_division=0)
        assert found["macro_f1"]["by_seed"] == pytest.approx([expected])
    found = result["differences"]["hardly a step"]
    assert found["difference"] < -0.2 and found["shown"] and found["high"] < 0
    minutes = [result["variations"][name]["minutes"] for name in ("as it is", "hardly a step")]
    assert 0 < minutes[1] < minutes[0]


def test_mirrored_is_the_mean_over_both_sides(out, result, dataset):
    table = pd.read_csv(out / "predictions.csv")
    model = RunFolder.open(out / "runs" / "as-it-is-seed0").load_model("best")
    faces = dataset.faces[table["row"]].astype(np.float32)
    both = np.asarray(model(faces)) + np.asarray(model(faces[:, :, ::-1]))
    assert table["as-it-is-seed0-mirrored"].tolist() == [dataset.labels[index] for index in both.argmax(axis=1)]
    assert result["variations"]["as it is, each face mirrored too"]["changes"] == {}


def test_the_report_names_what_was_changed(out, dataset, capsys):
    page = (out / "report.html").read_text()
    assert "hardly a step: epochs = 1, lr = 1e-09, best_after = 0" in page
    assert (out / "differences.png").read_bytes().startswith(b"\x89PNG")
    code, lines, _ = run(
        ablate.main, capsys, "--data", dataset.path, "--out", out, *SETTINGS, "--seeds", 1, "--mirror", "--vary", USELESS
    )
    assert code == 0 and not any("trainings to do" in line for line in lines)  # given again it trains nothing
    assert any("accuracy is lower" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "nothing to compare"),
        (["--vary", "no flip"], "takes 'NAME: SETTING=VALUE ...'"),
        (["--vary", "no flip: flips=false"], "unknown setting 'flips' in --vary 'no flip'; did you mean 'flip'?"),
        (["--vary", "no flip: flip=5"], "true or false expected"),
        (["--vary", "the same: flip=true"], "changes nothing"),
        (["--vary", ": lr=1"], "takes 'NAME: SETTING=VALUE ...'"),
        (["--vary", "!?: lr=1"], "--vary '!?': a name needs a letter or a digit"),
        (["--vary", "a: layers=[1"], "--vary 'a': layers can't be '[1'"),
        (["--vary", "a: seed=3"], "can't change seed"),
        (["--vary", "a: lr=1", "--vary", "a: lr=2"], "one of that name"),
        (["--vary", "a: lr=1", "--vary", "A: lr=2"], "one of that name"),  # one folder where capitals don't count
        (["--vary", "\u00e9: lr=1", "--vary", "e\u0301: lr=2"], "one of that name"),
        (["--vary", "a: finetune_lr=1e-5"], "--vary 'a': --finetune-lr changes nothing here"),
        (["--vary", "a: lr=1", "--no-augment", "--zoom", "0.4"], "--zoom changes nothing here"),
        (["--vary", "a: balance=gender2"], "a-seed0: can't balance by gender2; "),
        (["--vary", "a: targets=soft"], "has no FER+ votes"),
        (["--vary", f"a: balance=gender balance_by=augment flip=false {STILL}"], "a-seed0: new pictures are made by flip"),
    ],
)
def test_what_does_not_fit_is_refused(dataset, tmp_path, capsys, words, expected):
    assert expected in refused(ablate.main, capsys, "--data", dataset.path, "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_a_report_is_not_replaced_by_one_that_tells_of_less(out, dataset, capsys, monkeypatch):
    before = (out / "ablate.json").read_bytes()
    words = ["--data", dataset.path, "--out", out, *SETTINGS, "--seeds", 1, "--vary", "larger steps: lr=0.1"]
    told = refused(ablate.main, capsys, *words, "--mirror")
    assert "has a report that tells of 'hardly a step' too; ask for that as well (--vary and --mirror), or choose an" in told
    told = refused(ablate.main, capsys, *words, "--vary", USELESS)
    assert "tells of 'as it is, each face mirrored too' too" in told
    assert "has a report on seed 0 too" in refused(ablate.main, capsys, *words, "--mirror", "--vary", USELESS, "--seed", 3)
    assert (out / "ablate.json").read_bytes() == before
    assert not (out / "runs" / "larger-steps-seed0").exists()
    # With those of before, and more seeds, it goes on.
    asked = []

    def note(planned, *others):
        asked.extend(variant.name for variant in planned)
        raise ConfigError("enough")

    monkeypatch.setattr(ablate.variants, "train_variants", note)
    assert "enough" in refused(ablate.main, capsys, *words, "--mirror", "--vary", USELESS, "--seeds", 2)
    assert len(asked) == 6 and "larger-steps-seed1" in asked


def variant(dataset, name="x", **settings):
    rows = {split: dataset.rows(split) for split in ("train", "validation")}
    settings = {"data": str(dataset.path), "layers": [8], "convs_per_stage": [1], **settings}
    return variants.Variant(name, TrainConfig.from_dict(settings).resolved(), rows)


def test_a_run_without_one_finished_epoch_is_made_anew(dataset, tmp_path, monkeypatch):
    fitted = []

    def fails(run, data):
        fitted.append(run.config["lr"])
        raise ConfigError("enough")

    monkeypatch.setattr(variants, "_fit", fails)
    for lr in (0.5, 0.1):
        with pytest.raises(ConfigError, match="enough"):
            variants.train_variants([variant(dataset, lr=lr)], dataset, tmp_path)
    assert fitted == [0.5, 0.1]
    path = tmp_path / "runs" / "x"
    (path / "lock").touch()  # a process that was killed leaves it behind
    with alone(path / "lock", "busy"), pytest.raises(ConfigError, match="is being trained by another process"):
        variants.train_variants([variant(dataset, lr=0.2)], dataset, tmp_path)
    (path / "state").mkdir()
    (path / "state" / "state.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"made otherwise: --lr was 0.1, now 0.2; choose another --out"):
        variants.train_variants([variant(dataset, lr=0.2)], dataset, tmp_path)
    assert fitted == [0.5, 0.1]


def test_ctrl_c_after_the_last_epoch_of_a_run_begins_no_other(dataset, tmp_path, monkeypatch, capsys):
    ctrl_c_after_the_last_epoch(monkeypatch)
    planned = [variant(dataset, name, epochs=1) for name in ("x", "y")]
    for told in ("1 of 2 trained; the same command again goes on with y", "1 of 1 trained; .* goes on with the report"):
        with pytest.raises(KeyboardInterrupt):
            variants.train_variants(planned, dataset, tmp_path)
        assert re.search(told, capsys.readouterr().err)
    assert all(run.finished for run in variants.train_variants(planned, dataset, tmp_path))


def test_what_another_command_made_of_a_run_meanwhile_is_not_taken_for_ones_own(dataset, tmp_path, monkeypatch):
    planned, fitted = [variant(dataset, "x", lr=0.5), variant(dataset, "y", lr=0.5)], []

    def fit(run, data):
        fitted.append((run.name, run.config["lr"]))
        if len(fitted) == 1:  # the other command, as far as making the folder
            with pytest.raises(ConfigError, match="enough"):
                variants.train_variants([variant(dataset, "y", lr=0.1)], dataset, tmp_path)
        elif len(fitted) == 2:
            raise ConfigError("enough")

    monkeypatch.setattr(variants, "_fit", fit)
    runs = variants.train_variants(planned, dataset, tmp_path)
    assert fitted == [("x", 0.5), ("y", 0.1), ("y", 0.5)]
    assert RunFolder.open(runs[1].path).config["lr"] == runs[1].config["lr"] == 0.5


def mirrored_only(path, folder, labels, persons):
    """ablate.json of one training, mirrored too, judged on test faces of these labels and persons."""
    count = len(labels)
    faces, names = banded_faces(30)
    tested = np.resize(faces, (count, *faces.shape[1:]))
    splits = ["train"] * 20 + ["validation"] * 10 + ["test"] * count
    people = [f"learnt {index}" for index in range(30)] + persons
    write_faces(path, np.concatenate([faces, tested]), [*names, *labels], splits, identity=people)
    words = ["--data", path, "--out", folder, *SETTINGS, "--epochs", "1", "--seeds", "1", "--mirror"]
    assert ablate.main([str(word) for word in words]) == 0
    return json.loads((folder / "ablate.json").read_text())


def test_faces_of_a_person_go_together_whatever_they_show(tmp_path):
    persons = np.repeat([f"tested {index}" for index in range(20)], 2).tolist()
    result = mirrored_only(tmp_path / "data", tmp_path / "out", ["neutral", "happiness"] * 20, persons)
    assert result["units"] == "identities"
    assert "95% intervals over identities of one training each" in (tmp_path / "out" / "report.html").read_text()


def test_test_faces_of_one_class_have_an_accuracy_like_any_others(tmp_path):
    result = mirrored_only(tmp_path / "data", tmp_path / "out", ["happiness"] * 12, [""] * 12)
    found = result["variations"]["as it is"]
    assert found["recall"] == {"happiness": found["accuracy"]["mean"]}
    assert found["accuracy"]["low"] <= found["accuracy"]["mean"] <= found["accuracy"]["high"]


def test_one_seed_is_told_for_what_it_is(out, result):
    assert any("There is one training of each" in note for note in result["notes"])
    page = (out / "report.html").read_text()
    assert "95% intervals over faces of one training each" in page and "and seeds" not in page


def test_classes_without_a_face_are_no_part_of_macro_f1(monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr(ablate.variants, "predicted_key", lambda run, mirrored: run)
    truth = np.repeat([0, 1], 10)
    said = np.where(np.arange(20) == 0, 2, truth)  # one of the first class is called the third, of which there is none
    judged = SimpleNamespace(faces=SimpleNamespace(truth=truth), predicted={"run": said})
    assert ablate._macro_f1(judged, ["run"], False)["mean"] == pytest.approx((18 / 19 + 1) / 2)


def test_values_are_read_as_in_a_config_file():
    name, changed = ablate.parse_variation("a b: layers=[8,16] lr=1e-2 balance=label", TrainConfig())
    assert (name, changed.layers, changed.lr, changed.balance) == ("a b", [8, 16], 0.01, ["label"])


def test_names_may_be_written_in_any_script(monkeypatch, tmp_path):
    asked = []

    def note(settings, varied, *args, **options):
        asked.extend(varied)
        raise ConfigError("enough")

    monkeypatch.setattr(ablate, "ablate", note)
    names = ["ä", "喜", "学习率 0.1", "批量 0.1", "weiß", "wei", "की", "के"]
    varied = [word for number, name in enumerate(names) for word in ("--vary", f"{name}: lr=0.{number + 1}")]
    assert ablate.main(["--data", str(tmp_path), *varied]) == 2
    assert asked == names
    folders = [ablate._folder(name) for name in names]
    assert folders[:3] == ["ä", "喜", "学习率-0.1"] and len(set(folders)) == len(names)
    assert ablate._folder(" ../no_flip / $x ") == "no-flip-x"
