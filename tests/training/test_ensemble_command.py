"""The ensemble command: trained members, joined ones, what is dropped, what is fitted where, and the model that comes out."""

import json
import shutil
from functools import partial
from pathlib import Path

import commandline
import numpy as np
import pandas as pd
import pytest
from bands import LABELS, banded_faces, write_faces
from tiny_runs import ctrl_c_after_the_last_epoch

from fer_keras.errors import FerError, ModelError
from fer_keras.models.exported import read_weights
from fer_keras.models.registry import ModelSpec
from training import combining, ensemble, run_folder, scoring, train
from training.combining import choose_faces
from training.run_folder import RunFolder

TINY = ["--arch", "cnn", "--layers", "8", "--convs-per-stage", "1", "--epochs", "8", "--lr", "0.02", "--batch-size", "32"]
TINY += ["--no-augment", "--no-tensorboard", "--precision", "float32"]


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with data and an ensemble of two that was killed while its second member was trained, then resumed."""
    from training import loop

    here = tmp_path_factory.mktemp("ensemble")
    faces, names = banded_faces(324)
    write_faces(here / "bands", faces, names, ["train"] * 192 + ["validation"] * 48 + ["test"] * 84)
    write_history, written = loop.write_history, []

    def then_die(path, history):
        write_history(path, history)
        written.append(path)
        if path.parent.name == "member-02" and len(history) == 3:
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(loop, "write_history", then_die)
        with pytest.raises(Killed):
            ensemble.main(["--members", "2", "--data", "bands", "--out", "runs/pair", "--export", "pair", *TINY])
        assert not (here / "saved_models").exists()
        before = (here / "runs/pair/member-01/final.weights.h5").stat().st_mtime_ns
        patch.setattr(loop, "write_history", lambda path, history: (written.append(path), write_history(path, history)))
        written.clear()
        assert ensemble.main(["--resume", "runs/pair"]) == 0
        assert {path.parent.name for path in written} == {"member-02"}
        assert (here / "runs/pair/member-01/final.weights.h5").stat().st_mtime_ns == before
    return here


@pytest.fixture
def inside(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def result_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def by_hand(here, split="test", side=1):
    """Probabilities of both members and the true labels, from the weights on disk: float (2, n, 3), int (n,).

    side: 1 for the faces as they are, -1 for their mirror images.
    """
    from fer_keras.data.dataset import FaceDataset
    from training.run_folder import RunFolder

    dataset = FaceDataset.load(here / "bands")
    rows = dataset.rows(split)
    pixels = dataset.faces[rows][:, :, ::side].astype(np.float32)
    runs = [RunFolder.open(here / f"runs/pair/member-0{number}") for number in (1, 2)]
    return np.stack([np.asarray(run.load_model("best")(pixels)) for run in runs]), dataset.label_indices[rows]


refused = partial(commandline.refused, ensemble.main)


def test_a_killed_ensemble_goes_on_with_the_member_it_was_in(made):
    history = pd.read_csv(made / "runs/pair/member-02/history.csv")
    assert list(history["epoch"]) == list(range(1, 9))


def test_members_are_ordinary_runs_with_seeds_of_their_own(made):
    from training.run_folder import RunFolder

    runs = [RunFolder.open(made / f"runs/pair/member-0{number}") for number in (1, 2)]
    assert all(run.finished for run in runs)
    assert runs[0].config["seed"] != runs[1].config["seed"]
    assert [entry["seed"] for entry in result_of(made / "runs/pair")["members"]] == [run.config["seed"] for run in runs]


def test_the_figures_are_those_of_the_weights_on_disk(made):
    result, (told, truth) = result_of(made / "runs/pair"), by_hand(made)
    assert (result["split"], result["n"], result["n_fit"]) == ("test", 84, 48)
    right = told.argmax(axis=-1) == truth
    assert [entry["accuracy"] for entry in result["members"]] == pytest.approx(list(right.mean(axis=1)))
    mean = told.mean(axis=0).argmax(axis=1) == truth
    assert result["combinations"]["mean"]["accuracy"] == pytest.approx(mean.mean())
    # Without one of two members the other is left.
    assert [entry["gain"] for entry in result["members"]] == pytest.approx(list(mean.mean() - right[::-1].mean(axis=1)))
    assert result["combinations"]["mean"]["gain_over_best"] == pytest.approx(mean.mean() - right.mean(axis=1).max())
    apart = (told[0].argmax(axis=1) != told[1].argmax(axis=1)).mean()
    np.testing.assert_allclose(result["disagreement"], [[0, apart], [apart, 0]])


def test_weights_come_from_validation_faces_alone(made):
    result, (told, truth) = result_of(made / "runs/pair"), by_hand(made, "validation")
    chosen = [entry["weights"]["weighted"] for entry in result["members"]]

    def loss(first):
        mixed = first * told[0] + (1 - first) * told[1]
        return -np.log(mixed[np.arange(len(truth)), truth]).mean()

    grid = np.linspace(0, 1, 1001)
    assert chosen[0] == pytest.approx(grid[np.argmin([loss(first) for first in grid])], abs=0.01)
    assert sum(chosen) == pytest.approx(1)


def test_the_ensemble_is_one_exported_model_with_its_members_in_the_metadata(made):
    from fer_keras.data.dataset import FaceDataset
    from fer_keras.models.exported import load_exported

    model = load_exported(made / "saved_models/pair")
    told, truth = by_hand(made)
    dataset = FaceDataset.load(made / "bands")
    said = model.predict(dataset.faces[dataset.rows("test")])
    np.testing.assert_allclose(said, told.mean(axis=0), atol=1e-5)
    metadata = model.metadata
    assert metadata["combine"] == "mean"
    assert [member["name"] for member in metadata["members"]] == ["member-01", "member-02"]
    assert [member["weight"] for member in metadata["members"]] == [0.5, 0.5]
    assert metadata["temperature"] != 1
    [figure] = metadata["figures"]
    assert figure["n"] == 84 and figure["accuracy"] == pytest.approx((said.argmax(axis=1) == truth).mean())
    assert metadata["trained_on"]["fingerprint"] == dataset.fingerprint


def test_the_report_has_its_pictures_and_tables(made):
    folder = made / "runs/pair"
    page = (folder / "report.html").read_text()
    assert page.count("<img") == 3
    assert "member-02" in page and "Newcombe" in page
    assert list(pd.read_csv(folder / "members.csv")["member"]) == ["member-01", "member-02"]
    assert len(pd.read_csv(folder / "combinations.csv")) == 5
    predictions = pd.read_csv(folder / "predictions.csv")
    assert len(predictions) == 84
    shown = predictions[[f"p_{label}" for label in LABELS]].to_numpy().argmax(axis=1)
    assert list(np.array(LABELS)[shown]) == list(predictions["predicted"])


def test_evaluate_takes_the_exported_ensemble(inside):
    from training import evaluate

    words = ["--model", "saved_models/pair", "--data", "bands", "--no-figures", "--out", "report"]
    assert evaluate.main(words) == 0
    [entry] = json.loads((inside / "report/metrics.json").read_text())["models"].values()
    assert entry["accuracy"] == pytest.approx(result_of(inside / "runs/pair")["combinations"]["mean"]["accuracy"])


def test_where_persons_are_known_intervals_draw_them_and_those_whom_members_know_are_told(inside, monkeypatch, capsys):
    """Four of the ten test persons are in training as well. The intervals are those that evaluate gives."""
    from training import evaluate

    faces, names = banded_faces(150)
    people = [f"person {index // 10}" for index in range(150)]
    people[:40] = [f"person {5 + index // 10}" for index in range(40)]
    write_faces(inside / "people", faces, names, ["train"] * 50 + ["test"] * 100, identity=people)
    monkeypatch.setattr(scoring, "rows_learnt", lambda model, dataset: (dataset.rows("train"), "people"))
    pair = [f"runs/pair/member-0{number}" for number in (1, 2)]
    words = ["--join", *pair, "--data", "people", "--out", "runs/people", "--export", "people-pair"]
    assert ensemble.main(words) == 0
    said, result = capsys.readouterr().out, result_of(inside / "runs/people")
    metadata = json.loads((inside / "saved_models/people-pair/metadata.json").read_text())
    judged = {}
    for model, name in ((pair[0], "member-01"), (pair[1], "member-02"), ("saved_models/people-pair", "mean")):
        option = "--model" if name == "mean" else "--run"
        assert evaluate.main([option, model, "--data", "people", "--no-figures", "--out", "report"]) == 0
        judged[name] = next(iter(json.loads((inside / "report/metrics.json").read_text())["models"].values()))
    found = {entry["name"]: entry for entry in result["members"]} | result["combinations"]
    for name, entry in judged.items():
        low, high = entry["accuracy_ci95_identities"]
        assert found[name]["accuracy_ci95_identities"] == pytest.approx([low, high])
        assert high - low > np.ptp(entry["accuracy_ci95"])
        assert f"{low:.3f} to {high:.3f}" in said
    [figure] = metadata["figures"]
    assert figure["accuracy_ci95_identities"] == found["mean"]["accuracy_ci95_identities"]
    assert [member["accuracy_ci95_identities"] for member in metadata["members"]] == [
        found[name]["accuracy_ci95_identities"] for name in ("member-01", "member-02")
    ]
    assert "the ensemble was trained on other faces of 4 persons of these faces" in said
    assert figure["n_persons_learnt"] == 4
    assert "100 (4 persons known)" in (inside / "saved_models/people-pair/README.md").read_text()


def test_ctrl_c_after_the_last_epoch_of_a_member_begins_no_other(inside, capsys, monkeypatch):
    words = ["--members", "2", "--data", "bands", "--out", "runs/stopped", "--export", "stopped", *TINY, "--epochs", "1"]
    with monkeypatch.context() as patch:
        ctrl_c_after_the_last_epoch(patch)
        assert ensemble.main(words) == 130
    assert "Go on with python -m training.ensemble --resume runs/stopped\n" in capsys.readouterr().err
    assert RunFolder.open("runs/stopped/member-01").finished and not Path("runs/stopped/member-02").exists()


def test_a_finished_ensemble_is_left_alone(inside, capsys):
    assert ensemble.main(["--resume", "runs/pair"]) == 0
    assert "is finished: saved_models/pair" in capsys.readouterr().out


def test_an_ensemble_whose_exported_model_was_removed_is_exported_again(inside, capsys):
    shutil.move("saved_models/pair", "saved_models/moved")
    assert ensemble.main(["--resume", "runs/pair"]) == 0
    assert "Exported: saved_models/pair" in capsys.readouterr().out
    again, before = (read_weights(f"saved_models/{name}") for name in ("pair", "moved"))
    for now, then in zip(again, before, strict=True):
        np.testing.assert_array_equal(now, then)
    shutil.rmtree("saved_models/moved")


def test_an_ensemble_that_can_not_go_on_keeps_its_folder(inside, capsys):
    shutil.copytree("runs/pair", "runs/lost", ignore=shutil.ignore_patterns("member-*"))
    described = json.loads(Path("runs/lost/ensemble.json").read_text())
    Path("runs/lost/ensemble.json").write_text(json.dumps({**described, "members": 0, "join": ["runs/gone", "runs/pair"]}))
    Path("runs/lost/metrics.json").unlink(missing_ok=True)
    Path("runs/lost/notes.txt").write_text("mine")
    assert "there is no model runs/gone" in refused(capsys, "--resume", "runs/lost")
    assert Path("runs/lost/notes.txt").read_text() == "mine"


@pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning")  # Keras's own, before it refuses
def test_damaged_weights_of_a_member_are_told_and_leave_the_name_free(inside, capsys):
    damaged = Path(shutil.copytree("runs/pair/member-02", "runs/damaged")) / "best.weights.h5"
    whole = damaged.read_bytes()
    for wrong in (whole[:500], b"", whole[: len(whole) // 2] + b"x" * (len(whole) - len(whole) // 2)):
        damaged.write_bytes(wrong)
        line = refused(capsys, "--join", "runs/pair/member-01", "runs/damaged", "--out", "runs/blocked")
        assert "runs/damaged/best.weights.h5 can't be read (" in line and "unexpected" not in line
        assert not Path("runs/blocked").exists()
    train_one = ["--members", "1", "--arch", "cnn", "--data", RunFolder.open("runs/pair/member-01").config["data"]]
    assert "best.weights.h5 can't be read (" in refused(capsys, *train_one, "--join", "runs/damaged", "--out", "runs/blocked")
    assert not Path("runs/blocked").exists()  # nothing was trained first
    other = ModelSpec("cnn", 3, 32, 1, {"layers": [4], "convs_per_stage": 1}).build()
    other.save_weights(damaged)
    with pytest.raises(ModelError, match=r"best.weights.h5 can't be read \(A total of . objects[^\n]{,120}\)"):
        RunFolder.open("runs/damaged").load_model("best")


def test_an_ensemble_that_fails_for_whatever_reason_leaves_its_name_free(inside, capsys, monkeypatch):
    def fail(*args):
        raise OSError("no room")

    monkeypatch.setattr(ensemble, "combine_members", fail)
    assert "no room" in refused(capsys, "--join", "runs/pair", "--out", "runs/blocked")
    assert not Path("runs/blocked").exists()


def test_only_an_ensemble_is_said_to_go_on(inside, capsys):
    Path("runs/full").mkdir()
    Path("runs/full/notes.txt").write_text("mine")
    for out, going_on in (("runs/full", False), ("runs/pair/member-01", False), ("runs/pair", True)):
        line = refused(capsys, "--join", "runs/pair", "--out", out)
        assert f"{out} exists already; choose another --out" in line
        assert (f"go on with it: --resume {out}" in line) == going_on
    line = commandline.refused(train.main, capsys, "--data", "bands", "--out", "runs/full")
    assert line.endswith("runs/full exists already; choose another --out")


@pytest.fixture(scope="module")
def idle(made):
    """A run that says the same of every face."""
    folder = shutil.copytree(made / "runs/pair/member-01", made / "runs/idle")
    model = RunFolder.open(folder).load_model("best")
    kernel, bias = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel * 0, bias * 0 + [0, 1, 0]])
    model.save_weights(folder / "best.weights.h5")
    return folder


def test_runs_exported_models_and_whole_ensembles_join_and_idle_ones_are_dropped(inside, idle, capsys):
    words = [
        "--join",
        "runs/pair",
        "saved_models/pair",
        str(idle),
        "--combine",
        "vote",
        "--out",
        "runs/joined",
        "--export",
        "four",
    ]
    assert ensemble.main(words) == 0
    out = capsys.readouterr().out
    assert "idle is dropped: learned nothing: it calls all 48 faces happiness" in out
    result = result_of(inside / "runs/joined")
    twice = [f"the weights of member-0{number} are in pair too, so what it says counts twice" for number in (1, 2)]
    assert result["notes"][:2] == twice  # not of idle, whose last layer is another
    assert all(f"note: {note}" in out for note in twice)
    assert [entry["name"] for entry in result["dropped"]] == ["idle"]
    assert [entry["name"] for entry in result["members"]] == ["member-01", "member-02", "pair"]
    told, truth = by_hand(inside)
    told = np.concatenate([told, told.mean(axis=0)[None]])
    votes = np.eye(3)[told.argmax(axis=-1)].sum(axis=0) + 0.75 * told.mean(axis=0)
    assert result["combinations"]["vote"]["accuracy"] == pytest.approx((votes.argmax(axis=1) == truth).mean())
    # What the first member adds: the vote of all against that of the two others.
    rest = np.eye(3)[told[1:].argmax(axis=-1)].sum(axis=0) + 2 / 3 * told[1:].mean(axis=0)
    without = (rest.argmax(axis=1) == truth).mean()
    assert result["members"][0]["gain"] == pytest.approx((votes.argmax(axis=1) == truth).mean() - without)
    metadata = json.loads((inside / "saved_models/four/metadata.json").read_text())
    assert metadata["combine"] == "vote"
    assert metadata["spec"]["options"]["members"][2]["spec"]["name"] == "ensemble"


def test_a_run_and_what_was_exported_from_it_are_one_model(inside, capsys):
    from fer_keras.models.exported import export_model

    run = RunFolder.open("runs/pair/member-02")
    metadata = {"labels": list(run.labels), "trained_on": "bands"}
    export_model(run.load_model("best"), run.spec, inside / "saved_models/second", metadata)
    words = ("--join", "runs/pair", "second", "--out", "runs/doubled", "--export", "doubled")
    assert "member-02 and second have the same weights; name each model once" in refused(capsys, *words)
    assert not (inside / "runs/doubled").exists()


def test_two_ensembles_of_the_same_members_are_two_models_and_the_reader_is_told(inside):
    assert ensemble.main(["--join", "runs/pair", "--combine", "vote", "--out", "runs/voting", "--export", "voting"]) == 0
    members = ensemble.joined_members(["saved_models/pair", "saved_models/voting"])
    assert ensemble.shared_weights(members) == ["the weights of pair are in voting too, so what it says counts twice"]


def test_members_are_trained_by_the_arithmetic_of_the_machine_on_which_the_ensemble_was_begun(inside, monkeypatch):
    words = [word for word in TINY if word not in ("--precision", "float32")]
    args = ensemble.build_parser().parse_args(["--members", "2", "--data", "bands", "--out", "runs/begun-elsewhere", *words])
    monkeypatch.setattr(ensemble, "choose_precision", lambda requested: "mixed_bfloat16" if requested == "auto" else requested)
    out, plan, _ = ensemble._new_plan(args)
    assert plan.settings["precision"] == "mixed_bfloat16"
    monkeypatch.setattr(run_folder, "choose_precision", lambda requested: "float32" if requested == "auto" else requested)
    assert ensemble.main(["--resume", str(out)]) == 0  # here
    runs = [RunFolder.open(out / f"member-0{number}") for number in (1, 2)]
    assert [run.metrics["precision"] for run in runs] == ["mixed_bfloat16"] * 2


def test_with_mirror_the_ensemble_answers_for_both_sides_and_single_members_for_one(inside):
    from fer_keras.data.dataset import FaceDataset
    from fer_keras.models.exported import load_exported

    words = ["--join", "runs/pair", "--mirror", "--out", "runs/both-sides", "--export", "both-sides"]
    assert ensemble.main(words) == 0
    result, (told, truth), (mirrored, _) = result_of(inside / "runs/both-sides"), by_hand(inside), by_hand(inside, side=-1)
    assert [one["accuracy"] for one in result["members"]] == pytest.approx(list((told.argmax(axis=-1) == truth).mean(axis=1)))
    expected = (told + mirrored).mean(axis=0) / 2
    assert result["combinations"]["mean"]["accuracy"] == pytest.approx((expected.argmax(axis=1) == truth).mean())
    assert any("mirror image" in note for note in result["notes"])
    dataset = FaceDataset.load(inside / "bands")
    said = load_exported(inside / "saved_models/both-sides").predict(dataset.faces[dataset.rows("test")])
    np.testing.assert_allclose(said, expected, atol=1e-5)


def test_half_keeps_16_bits_and_judges_members_by_them(inside, capsys):
    from fer_keras.data.dataset import FaceDataset
    from fer_keras.models.exported import load_exported

    words = ("--join", "runs/pair", "--half", "--out", "runs/half", "--export", "half")
    assert ensemble.main(list(words)) == 0
    data = "variables/variables.data-00000-of-00001"
    sizes = [(inside / f"saved_models/{name}" / data).stat().st_size for name in ("pair", "half")]
    kernels = sum(value.size for value in read_weights(inside / "saved_models/pair") if value.ndim > 1)
    assert sizes[0] - sizes[1] == pytest.approx(2 * kernels, abs=100)  # and the scales
    dataset = FaceDataset.load(inside / "bands")
    said = load_exported(inside / "saved_models/half").predict(dataset.faces[dataset.rows("test")])
    table = pd.read_csv(inside / "runs/half/predictions.csv")
    told = table[[f"p_{label}" for label in dataset.labels]].to_numpy()
    np.testing.assert_allclose(told, said, atol=1.5e-6)  # six digits
    assert np.abs(told - by_hand(inside)[0].mean(axis=0)).max() > 4e-6  # and not of the weights as they were
    words = ("--join", "pair", "half", "--data", "bands", "--out", "runs/doubled", "--export", "doubled")
    refusal = refused(capsys, *words)
    assert "pair and half have the same weights; name each model once" in refusal


def test_folds_join_and_faces_that_one_was_trained_on_are_left_out(inside):
    from fer_keras.data.dataset import FaceDataset

    dataset = FaceDataset.load("bands")
    for number in (1, 2):
        fold = Path(shutil.copytree(f"runs/pair/member-0{number}", f"runs/folds/fold-0{number}"))
        rows = pd.read_csv(fold / "rows.csv")
        # Each fold was trained on a third of the test faces: 240 to 267 and 268 to 295.
        more = pd.DataFrame({"row": np.arange(240, 268) + 28 * (number - 1), "split": "train"})
        pd.concat([rows, more]).to_csv(fold / "rows.csv", index=False)
    members = ensemble.joined_members(["runs/folds"])
    assert [member.name for member in members] == ["fold-01", "fold-02"]
    faces = choose_faces(members, dataset, None)
    assert faces.split == "test"
    assert list(faces.rows) == list(range(296, 324))
    assert any("56 of 84 test faces were used to train a member and are left out" in note for note in faces.notes)
    # The ensemble of both tells what it learnt from, and is judged as they are.
    said = combining._trained_on(members, dataset)
    assert said["splits"] == ["test", "train"]
    seen = scoring.rows_seen(said, dataset)
    assert sorted(seen) == sorted({*RunFolder.open("runs/folds/fold-01").rows("train"), *range(240, 296)})
    assert set(scoring.rows_seen({**said, "rows": "lost"}, dataset)) > set(seen)
    # Where nearly all are gone, those that were seen are scored: nothing is left out, and no note says so.
    pd.DataFrame({"row": np.arange(250, 324), "split": "train"}).to_csv("runs/folds/fold-02/rows.csv", index=False)
    pd.DataFrame({"row": np.arange(242), "split": "train"}).to_csv("runs/folds/fold-01/rows.csv", index=False)
    faces = choose_faces(members, dataset, None)
    assert len(faces.rows) == 84 and not any("left out" in note for note in faces.notes)


def test_where_members_saw_everything_nothing_is_fitted_and_a_note_says_that_it_flatters(inside, capsys):
    from fer_keras.data.dataset import FaceDataset

    for number in (1, 2):
        run = Path(shutil.copytree(f"runs/pair/member-0{number}", f"runs/all-{number}"))
        pd.DataFrame({"row": np.arange(324), "split": "train"}).to_csv(run / "rows.csv", index=False)
    members = ensemble.joined_members(["runs/all-1", "runs/all-2"])
    faces = choose_faces(members, FaceDataset.load("bands"), None)
    assert len(faces.fit_rows) == 0 and len(faces.rows) == 84
    assert scoring.learnt_counts(FaceDataset.load("bands"), faces.rows, faces.learnt) == {"n_learnt": 84, "n_persons_learnt": 0}
    assert "all figures flatter, and no weights are fitted" in faces.notes[-1]
    line = refused(capsys, "--join", "runs/all-1", "runs/all-2", "--combine", "weighted", "--out", "runs/never")
    assert "fits weights on validation faces, and all of" in line and "or all but a few (under 20)" in line
    assert not (inside / "runs/never").exists()


@pytest.mark.parametrize(("known", "fitted"), [(20, True), (19, False)])
def test_an_ensemble_has_no_temperature_of_few_faces(known, fitted):
    said = np.random.default_rng(0).dirichlet([1, 1, 1], (2, 50)).astype(np.float32)
    truth = np.arange(50) % 3
    rows, parts = np.arange(50), [(np.arange(known), np.arange(50))]
    faces = combining.Faces("label", "test", rows[:known], truth[:known], rows, truth, parts, [])
    combined, calibrated = combining.crossfitted(combining.Answers(said[:, :known], said, said), faces, "mean")
    np.testing.assert_allclose(combined, said.mean(axis=0), atol=1e-6)
    assert (calibrated is not None) is fitted


def test_without_test_faces_each_half_is_scored_with_what_the_other_gave(inside):
    from fer_keras.data.dataset import FaceDataset

    faces, names = banded_faces(120, seed=3)
    dataset = write_faces(inside / "no-test", faces, names, ["train"] * 60 + ["validation"] * 60)
    chosen = choose_faces(ensemble.joined_members(["runs/pair"]), FaceDataset.load(dataset.path), None)
    assert chosen.split == "validation"
    (known, asked), (other_known, other_asked) = chosen.parts
    np.testing.assert_array_equal(known, other_asked)
    np.testing.assert_array_equal(asked, other_known)
    assert sorted([*known, *asked]) == list(range(60))
    assert [list(np.bincount(chosen.truth[part])) for part in (known, asked)] == [[10, 10, 10], [10, 10, 10]]


def test_random_architectures_are_drawn_by_seeds_that_other_ensembles_do_not_share():
    from training.config import TrainConfig

    drawn = [
        ensemble.member_settings(TrainConfig(arch="random_cnn", seed=seed), index, Path("x"))
        for seed in (0, 1)
        for index in range(1, 9)
    ]
    assert len({one.seed for one in drawn}) == 16
    assert all(one.options["draw"] == one.seed for one in drawn)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--members", "1", "--data", "bands"], "needs two models or more, got 0 joined and 1 to train"),
        (["--join", "nowhere", "runs/pair/member-01"], "there is no model nowhere"),
        (["--join", "runs/pair/member-01", "runs/pair"], "member-01 is named twice; name each model once"),
        (["--join", "saved_models/pair", "saved_models/strange", "--data", "bands"], "strange lacks anger and also has fear"),
        (["--join", "saved_models/pair", "saved_models/four-of-them"], "there is no model saved_models/four-of-them"),
        (["--join", "runs/pair", "--out", "runs/pair"], "runs/pair exists already; choose another --out"),
        (["--join", "runs/pair", "--epochs", "4"], "--epochs changes nothing here: it is for members to train"),
        (["--join", "runs/pair", "--members", "0", "--arch", "cnn", "--seed", "1"], "--arch changes nothing here"),
        (["--join", "runs/pair", "--export", "pair"], "saved_models/pair exists already"),
        (["--members", "2", "--data", "bands", "--option", "colour=red"], "random_cnn has no option 'colour'"),
        (["--members", "2", "--data", "bands", "--balance", "age"], "can't balance by age"),
        (["--resume", "runs/pair", "--epochs", "3"], "leave out --epochs"),
        (["--resume", "runs/pair", "--combine", "vote"], "leave out --combine"),
        (["--resume", "runs/pair/member-01"], "lacks ensemble.json"),
        (["--join", "runs/unfinished", "runs/pair"], "is not trained yet; finish it with python -m training.train --resume"),
    ],
)
def test_wrong_ensembles_are_refused_in_one_line_before_anything_is_trained(inside, capsys, words, expected):
    from fer_keras.models.exported import export_model

    if not (inside / "saved_models/strange").exists():
        spec = ModelSpec("cnn", 3, 32, 1, {"layers": [4], "convs_per_stage": 1})
        labels = ("neutral", "happiness", "fear")
        export_model(spec.build(), spec, inside / "saved_models/strange", {"labels": labels, "trained_on": "nothing"})
        shutil.copytree("runs/pair/member-01", "runs/unfinished", ignore=shutil.ignore_patterns("*.h5"))
    before = {path for path in inside.rglob("*") if "runs" in path.parts}
    assert expected in refused(capsys, *words)
    assert {path for path in inside.rglob("*") if "runs" in path.parts} == before


def test_a_member_whose_loss_is_no_number_is_dropped_and_too_few_are_refused(inside, capsys):
    words = ["--members", "2", "--data", "bands", "--out", "runs/wild", *TINY, "--optimizer", "sgd", "--lr", "1e6"]
    line = refused(capsys, *words)
    assert "no member is left of 2; lower the learning rate (now 1e+06)" in line
    assert set(json.loads((inside / "runs/wild/ensemble.json").read_text())["failed"]) == {"member-01", "member-02"}


def test_a_damaged_plan_is_told(tmp_path):
    (tmp_path / "ensemble.json").write_text("{")
    with pytest.raises(FerError, match=r"ensemble.json can't be read .*begin the ensemble anew"):
        ensemble._read_plan(tmp_path)
