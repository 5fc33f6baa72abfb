"""Robustness: what each level trains on, counted by brute force; what it is judged on; and the report of real, tiny trainings."""

import json
import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from tiny_runs import write_lopsided

from fer_keras.errors import DataError
from training import robustness
from training.robustness import balanced_test, plan_removal

LEVELS = (0.0, 0.25, 0.5, 1.0)
SETTINGS = ["--layers", "4,8", "--convs-per-stage", "1", "--batch-size", "16", "--dropout", "0", "--lr", "0.01"]
SETTINGS += ["--epochs", "2", "--no-augment", "--no-tensorboard", "--repeats", "300"]


def faces(counts):
    """counts: {(label, group): n} -> (labels, groups), mixed."""
    pairs = [pair for pair, count in counts.items() for _ in range(count)]
    order = np.random.default_rng(0).permutation(len(pairs))
    return (np.array([pairs[index][side] for index in order]) for side in (0, 1))


@pytest.fixture
def mixed():
    return tuple(faces({("x", "a"): 40, ("x", "b"): 60, ("y", "a"): 30, ("y", "b"): 20, ("y", "c"): 15, ("z", "b"): 9}))


def counted(positions, labels, groups):
    return pd.DataFrame({"label": labels[positions], "group": groups[positions]})


def test_every_level_has_as_many_faces_of_each_label(mixed):
    labels, groups = mixed
    tables = [counted(rows, labels, groups)["label"].value_counts().to_dict() for rows in plan_removal(*mixed, "a", LEVELS)]
    assert tables[0] == tables[1] == tables[2] == tables[3]
    assert tables[0]["z"] == 9  # the group has none of them, so none has to be replaced


def test_a_level_removes_its_share_of_the_group_from_each_label_and_others_stand_in(mixed):
    labels, groups = mixed
    plans = plan_removal(*mixed, "a", LEVELS)
    for label in ("x", "y"):
        there = [int(((labels[rows] == label) & (groups[rows] == "a")).sum()) for rows in plans]
        assert there == [round(there[0] * (1 - level)) for level in LEVELS]
        natural = ((labels == label) & (groups == "a")).sum() / (labels == label).sum()
        assert there[0] / (labels[plans[0]] == label).sum() == pytest.approx(natural, abs=0.02)
    # At the highest level the others of a label are used up, or nearly: no face is wasted.
    assert (labels[plans[-1]] == "x").sum() >= 59
    assert (labels[plans[-1]] == "y").sum() >= 34


def test_levels_are_nested_and_no_face_is_used_twice(mixed):
    groups = mixed[1]
    plans = plan_removal(*mixed, "a", LEVELS, seed=4)
    mine = [set(rows[groups[rows] == "a"].tolist()) for rows in plans]
    others = [set(rows[groups[rows] != "a"].tolist()) for rows in plans]
    assert all(after < before for before, after in pairwise(mine))
    assert all(before < after for before, after in pairwise(others))
    assert all(len(set(rows.tolist())) == len(rows) == len(plans[0]) for rows in plans)
    assert not np.array_equal(plans[0], plan_removal(*mixed, "a", LEVELS, seed=5)[0])


def test_a_level_that_leaves_no_face_is_refused():
    labels, groups = faces({("x", "a"): 10, ("y", "a"): 10})
    with pytest.raises(DataError, match=r"no face is left to train on: 20 of 20 .* choose lower --levels"):
        plan_removal(labels, groups, "a", (0.0, 0.5))


def test_the_test_set_has_as_many_of_each_group_label_by_label(mixed):
    labels, groups = faces({("x", "a"): 12, ("x", "b"): 7, ("y", "a"): 5, ("y", "b"): 9, ("z", "b"): 4})
    chosen = balanced_test(labels, groups)
    table = counted(chosen, labels, groups).value_counts().to_dict()
    assert table == {("x", "a"): 7, ("x", "b"): 7, ("y", "a"): 5, ("y", "b"): 5}


def test_groups_without_a_common_label_are_balanced_by_number_alone():
    labels, groups = faces({("x", "a"): 6, ("y", "b"): 4})
    assert counted(balanced_test(labels, groups), labels, groups)["group"].value_counts().to_dict() == {"a": 4, "b": 4}


# The command


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_lopsided(tmp_path_factory.mktemp("data") / "lopsided", ((48, 24), (12, 12), (45, 33)))


def command(data, out, *words):
    given = ["--data", str(data.path), "--remove", "gender=FEMALE", "--out", str(out), "--seeds", "1"]
    return robustness.main([*given, *SETTINGS, *words])


@pytest.fixture(scope="module")
def out(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "robustness"
    assert command(data, folder, "--levels", "1") == 0
    return folder


def test_runs_train_on_the_faces_of_their_level(data, out):
    result = json.loads((out / "robustness.json").read_text())
    gender = data.manifest["gender"].to_numpy(str)
    assert [entry["level"] for entry in result["levels"]] == [0, 1]  # 0 is what the others are compared with
    assert result["removed"] == {"column": "gender", "group": "female"}  # as the data spells it
    women = []
    for entry in result["levels"]:
        rows = pd.read_csv(f"{entry['runs'][0]}/rows.csv").query("split == 'train'")["row"].to_numpy()
        assert len(rows) == result["n_train"] == 48
        women.append(int((gender[rows] == "female").sum()))
        assert women[-1] == entry["n_group"]
        assert set(data.manifest["split"].to_numpy(str)[rows]) == {"train"}
    # A third of the 72 faces are of women; 48 is what the men alone can fill, 16 of each label, 5 of them women.
    assert women == [15, 0]


def test_all_levels_are_judged_on_one_balanced_test_set(data, out):
    result = json.loads((out / "robustness.json").read_text())
    table = pd.read_csv(out / "predictions.csv")
    assert result["test_counts"] == {"female": 33, "male": 33}
    assert table.groupby("group")["true"].value_counts().unstack().nunique().eq(1).all()
    assert set(data.manifest["split"].to_numpy(str)[table["row"]]) == {"test"}
    for entry in result["levels"]:
        right = table[f"removed-{entry['level']:g}-seed0"] == table["true"]
        by_group = right.groupby(table["group"]).mean().to_dict()
        assert {name: group["mean"] for name, group in entry["groups"].items()} == pytest.approx(by_group)


def test_tables_plot_and_page_are_written(out):
    levels = pd.read_csv(out / "levels.csv")
    assert set(levels["figure"]) == {"female", "male", "gap", "accuracy"}
    assert (levels["low"] <= levels["mean"]).all()
    differences = pd.read_csv(out / "differences.csv")
    assert differences["level"].unique().tolist() == [1.0]
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "Without gender female" in page


def test_given_again_it_trains_nothing_and_says_the_same(data, out):
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/final.weights.h5")}
    said = json.loads((out / "robustness.json").read_text())
    assert command(data, out, "--levels", "0,1") == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/final.weights.h5")} == before
    assert json.loads((out / "robustness.json").read_text()) == said


def test_a_report_is_not_replaced_by_one_without_its_levels(data, out, capsys):
    assert command(data, out, "--levels", "0,0.5") == 2
    assert "tells of 1.0 too; ask for that as well (--levels), or choose another --out" in capsys.readouterr().err


def test_a_report_is_not_replaced_by_one_on_other_seeds(data, out, capsys):
    assert command(data, out, "--levels", "0,1", "--seed", "1") == 2
    assert "has a report on seed 0 too; ask for that as well (--seed 0 --seeds 2)" in capsys.readouterr().err


def test_levels_are_told_with_all_their_digits(out):
    result = json.loads((out / "robustness.json").read_text())
    for level, told in ((0.004, "0.4%"), (0.125, "12.5%"), (0.07, "7%"), (0.29, "29%"), (1 / 3, "33.3333333333%"), (1.0, "100%")):
        told_of = {
            **result,
            "levels": [result["levels"][0], {**result["levels"][1], "level": level}],
            "differences": [{**entry, "level": level} for entry in result["differences"]],
        }
        assert f"With {told} of gender female removed, against 0%" in robustness.findings(told_of)[0]
        assert re.search(rf"(?m)^ *{re.escape(told)} ", robustness.summary_text(told_of))
    names = [robustness._name(level) for level in (0.0, 0.25, 0.5, 1.0, 0.3333331, 0.3333332)]
    assert names == ["0", "0.25", "0.5", "1", "0.3333331", "0.3333332"]


@pytest.mark.parametrize("levels", ["0,0.01", "0.5,0.500000001", "0.3333331,0.3333332"])
def test_levels_of_the_same_faces_are_refused(data, tmp_path, capsys, levels):
    assert command(data, tmp_path / "out", "--levels", levels) == 2
    assert re.search(r"--levels [0-9.]+ and [0-9.]+ train on the same faces", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--remove", "sex=female"], "no group column 'sex'; it has gender"),
        (["--remove", "gender=other"], "has no gender 'other'; it has female, male"),
        (["--remove", "gender"], "--remove takes COLUMN=GROUP, such as gender=Female, got 'gender'"),
        (["--levels", "0,1.5"], "from 0 to 1; got 1.5"),
        (["--levels", "0,half"], "--levels takes numbers with commas.*got '0,half'"),
        (["--levels", "0"], "nothing to compare with level 0"),
        (["--levels", "nan"], "from 0 to 1; got nan"),
        (["--min-n", "40"], "gender female and another group with 40 test faces or more, got female 33, male 45"),
        (["--data", "nowhere"], "nowhere is not a prepared data set"),
    ],
)
def test_bad_input_is_refused_before_anything_is_trained(data, tmp_path, capsys, words, expected):
    assert command(data, tmp_path / "out", *words) == 2
    error = capsys.readouterr().err
    assert re.search(expected, error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_group_with_a_slash_in_its_name_has_one_folder(data, monkeypatch):
    given = []

    def note(*words, **_):
        given.append(words[4])
        raise DataError("enough")

    monkeypatch.setattr(robustness, "robustness", note)
    assert robustness.main(["--data", str(data.path), "--remove", "race=x / Y", *SETTINGS]) == 2
    assert [path.parent.as_posix() for path in given] == ["runs"] and "x - y" in given[0].name


def test_a_group_without_test_faces_is_named(tmp_path, capsys):
    data = write_lopsided(tmp_path / "data", ((12, 12), (6, 6), (40, 0)))
    assert command(data, tmp_path / "out") == 2
    expected = "no test face of .* is gender female; prepare the data with --split-by label,gender"
    assert re.search(expected, capsys.readouterr().err)


def test_a_group_that_is_everybody_leaves_nobody_to_stand_in(tmp_path, capsys):
    data = write_lopsided(tmp_path / "data", ((0, 24), (6, 6), (40, 40)))
    assert command(data, tmp_path / "out", "--levels", "0,0.5") == 2
    assert "no face is left to train on: 24 of 24" in capsys.readouterr().err
