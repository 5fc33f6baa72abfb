import json
import math
import shutil
from functools import partial

import commandline
import numpy as np
import pandas as pd
import pytest
from bands import LABELS, banded_faces, write_faces

from fer_keras.data.dataset import FaceDataset
from fer_keras.evaluation.paired import mcnemar
from training.compare import NO_DIFFERENCE, compare, comparison_text, differing_settings, main
from training.evaluate import evaluate_run
from training.run_folder import RunFolder
from training.scoring import open_model

refused = partial(commandline.refused, main)


@pytest.mark.parametrize(("only_first", "only_second"), [(3, 9), (9, 3), (0, 12), (5, 5), (1, 0)])
def test_mcnemar_is_the_two_sided_binomial_tail(only_first, only_second):
    apart = only_first + only_second
    first = np.array([True] * only_first + [False] * only_second + [True] * 20 + [False] * 4)
    second = np.array([False] * only_first + [True] * only_second + [True] * 20 + [False] * 4)
    tail = sum(math.comb(apart, count) for count in range(min(only_first, only_second) + 1)) / 2**apart
    found = mcnemar(first, second)
    assert (found["only_first"], found["only_second"]) == (only_first, only_second)
    assert found["p"] == pytest.approx(min(1, 2 * tail))


def test_models_that_never_differ_have_a_p_of_one():
    correct = np.array([True, False, True])
    assert mcnemar(correct, correct) == {"only_first": 0, "only_second": 0, "p": 1.0}


def test_only_settings_that_differ_are_listed():
    settings = {"a": {"lr": 0.1, "seed": 0, "layers": [1, 2]}, "b": {"lr": 0.2, "seed": 0, "layers": [1, 2]}, "c": {"lr": 0.1}}
    assert differing_settings(settings) == {
        "lr": {"a": 0.1, "b": 0.2, "c": 0.1},
        "seed": {"a": 0, "b": 0, "c": None},
        "layers": {"a": [1, 2], "b": [1, 2], "c": None},
    }


def test_comparison_agrees_with_the_evaluations_of_its_models(trained, here):
    result = compare([open_model(path) for path in (trained.one, trained.two)], FaceDataset.load(trained.data))
    right = {}
    for path in (trained.one, trained.two):
        entry = evaluate_run(RunFolder.open(path), out=here / path.name, figures=False)["models"]["best"]
        found = result["models"][path.name]
        assert found["accuracy"] == entry["accuracy"]
        assert found["accuracy_ci95"] == entry["accuracy_ci95"]
        assert found["macro_f1"] == entry["macro_f1"]
        table = pd.read_csv(here / path.name / "best" / "predictions.csv")
        right[path.name] = table["true"] == table["predicted"]
    (pair,) = result["pairs"]
    assert pair["only_first"] == (right["one"] & ~right["two"]).sum()
    assert pair["only_second"] == (right["two"] & ~right["one"]).sum()
    assert pair["p_holm"] == pair["p"]
    assert result["settings"]["lr"] == {"one": 0.02, "two": 0.001}
    assert "seed" not in result["settings"]


def test_command_prints_tables_and_writes_json_for_runs_and_exported_models(trained, here, capsys):
    paths = [trained.one, trained.two, trained.exported]
    assert main([*map(str, paths), "--data", str(trained.data), "--json", "new/c.json"]) == 0
    printed = capsys.readouterr().out
    result = json.loads((here / "new/c.json").read_text())
    assert list(result["models"]) == ["one", "two", "bands-cnn"]
    assert [(pair["first"], pair["second"]) for pair in result["pairs"]] == [
        ("one", "two"),
        ("one", "bands-cnn"),
        ("two", "bands-cnn"),
    ]
    twins = result["pairs"][1]  # the exported model is the best of run one
    assert (twins["p"], twins["verdict"]) == (1.0, NO_DIFFERENCE)
    assert result["models"]["one"]["parameters"] == result["models"]["bands-cnn"]["parameters"]
    assert all(set(values) == {"one", "two"} for values in result["settings"].values())
    for text in ("accuracy", "macro F1", "settings that differ", "McNemar", NO_DIFFERENCE):
        assert text in printed


def test_clear_difference_is_named_with_the_better_model(trained, here):
    faces, names = banded_faces(120, seed=5)
    ahead, behind = open_model(trained.one), open_model(trained.two)
    # Faces that carry the label which run one sees in them: it is right on all, run two on a third.
    said = ahead.forward(faces).argmax(axis=1)
    other = behind.forward(faces).argmax(axis=1)
    names = [LABELS[index] for index in said]
    if (said == other).mean() > 0.8:
        pytest.fail("the two runs say the same on most faces; the test needs runs that differ")
    told = write_faces(here / "told", faces, names, ["test"] * 120)
    (pair,) = compare([behind, ahead], told)["pairs"]
    assert pair["verdict"] == "one is better"
    assert pair["p"] < 0.001


def test_faces_that_may_have_chosen_the_best_epochs_are_said_to_be_such(trained, here):
    faces, names = banded_faces(30)
    data = write_faces(here / "v", faces, names, ["validation"] * 30)
    result = compare([open_model(path) for path in (trained.one, trained.two)], data)
    assert result["split"] == "validation"
    assert any("v has no test faces" in note and "best epoch" in note for note in result["notes"])
    assert "v has no test faces" in comparison_text(result)


def test_where_persons_have_several_faces_whole_persons_are_drawn_and_exchanged(trained, here):
    models = [open_model(path) for path in (trained.one, trained.two)]
    faces, names = banded_faces(60)
    alone = compare(models, write_faces(here / "alone", faces, names, ["test"] * 60))
    people = [f"person {index // 10}" for index in range(60)]
    result = compare(models, write_faces(here / "known", faces, names, ["test"] * 60, identity=people))
    assert result["pairs"][0]["only_first"] == alone["pairs"][0]["only_first"]
    assert result["pairs"][0]["p"] > alone["pairs"][0]["p"]
    said = comparison_text(result)
    assert "whole persons exchanged" in said and "60 faces are of 6 persons" in said
    low, high = result["models"]["one"]["accuracy_ci95_identities"]
    assert f"{low:.3f} to {high:.3f}" in said
    assert "McNemar" in comparison_text(alone) and "persons" not in comparison_text(alone)
    ann = comparison_text(compare(models, write_faces(here / "ann", faces, names, ["test"] * 60, identity=["ann"] * 60)))
    assert "60 faces are all of one person" in ann and "whole persons exchanged" in ann and "McNemar" not in ann


def test_models_of_other_data_are_said_to_be_such(trained, here):
    faces, names = banded_faces(30)
    data = write_faces(here / "other", faces, names, ["test"] * 30)
    notes = compare([open_model(path) for path in (trained.one, trained.exported)], data)["notes"]
    for name in ("one", "bands-cnn"):
        assert f"{name} was trained on other data (bands); whether some of these faces were in it is not checked" in notes
    own = compare([open_model(path) for path in (trained.one, trained.two)], FaceDataset.load(trained.data))["notes"]
    assert not any("other data" in note for note in own)


def test_fewer_than_two_models_or_twins_are_refused(trained, here, capsys):
    assert "two models or more, got 1" in refused(capsys, trained.one)
    assert "twice" in refused(capsys, trained.one, trained.one)
    assert "no model nowhere" in refused(capsys, trained.one, "nowhere")


def test_runs_on_different_data_need_one_to_be_named(trained, here, capsys):
    shutil.copytree(trained.two, here / "moved")
    faces, names = banded_faces(30)
    other = write_faces(here / "other", faces, names, ["train"] * 10 + ["validation"] * 10 + ["test"] * 10)
    config = json.loads((here / "moved" / "config.json").read_text())
    config["dataset"] = {"path": str(other.path), "name": "other", "fingerprint": other.fingerprint}
    (here / "moved" / "config.json").write_text(json.dumps(config))
    assert "different data" in refused(capsys, trained.one, "moved")
    assert main([str(trained.one), "moved", "--data", "other"]) == 0
    assert "10 test faces of other" in capsys.readouterr().out


def test_runs_that_held_back_other_rows_cannot_be_compared_on_them(trained, here, capsys):
    shutil.copytree(trained.two, here / "moved")
    rows = pd.read_csv(here / "moved" / "rows.csv")
    rows.loc[rows["row"] == 0, "split"] = "validation"
    rows.to_csv(here / "moved" / "rows.csv", index=False)
    assert "different validation rows" in refused(capsys, trained.one, "moved", "--split", "validation")
