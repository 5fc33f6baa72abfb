import json
from functools import partial
from pathlib import Path

import commandline
import numpy as np
import pandas as pd
import pytest
from bands import LABELS, SIZE, banded_faces
from PIL import Image

from fer_keras.data.dataset import DatasetWriter, FaceDataset
from training import bias, prepare, synthesize
from training.bias import main
from training.evaluate import main as evaluate_main

FACES = 300


def write(path, genders, ages=None, labels=None, split="test", identities=None):
    """A prepared data set of banded faces with groups."""
    faces, names = banded_faces(len(genders), seed=4)
    columns = {"gender": list(genders)} | ({"age_group": list(ages)} if ages is not None else {})
    with DatasetWriter(path, image_size=SIZE, channels=1) as writer:
        for face in faces:
            writer.add(face)
        plain = {
            "label": list(labels) if labels is not None else names,
            "split": [split] * len(faces) if isinstance(split, str) else split,
            "kept": [True] * len(faces),
            "reason": [""] * len(faces),
            "source": [f"picture-{index}.png" for index in range(len(faces))],
            **({"identity": identities} if identities is not None else {}),
        }
        return writer.finish({**plain, **columns}, labels=LABELS, group_columns=tuple(columns))


@pytest.fixture(scope="module")
def groups():
    rng = np.random.default_rng(0)
    return rng.choice(["Female", "Male", "unknown"], FACES, p=(0.5, 0.45, 0.05)), rng.choice(["child", "adult"], FACES)


@pytest.fixture(scope="module")
def corrupted(groups, tmp_path_factory):
    """Faces of which half of the women's labels were replaced by another's."""
    rng = np.random.default_rng(1)
    names = np.array(banded_faces(FACES, seed=4)[1])
    wrong = (groups[0] == "Female") & (rng.random(FACES) < 0.5)
    labels = [
        LABELS[(LABELS.index(name) + 1 + rng.integers(2)) % 3] if bad else name for name, bad in zip(names, wrong, strict=True)
    ]
    return write(tmp_path_factory.mktemp("corrupted") / "faces", *groups, labels=labels)


@pytest.fixture(scope="module")
def reported(trained, corrupted, tmp_path_factory):
    """The report of a run (best and final) on the corrupted faces: result, folder, and what was printed."""
    out = tmp_path_factory.mktemp("bias") / "out"
    printed = pytest.MonkeyPatch()
    lines = []
    printed.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(str(word) for word in words)))
    try:
        argv = ["--run", trained.one, "--data", corrupted.path, "--by", "gender,age_group", "--out", out]
        code = main(
            [str(word) for word in [*argv, "--json", out / "copy.json", "--groups-note", "read off a list", "--repeats", 200]]
        )
    finally:
        printed.undo()
    assert code == 0
    return json.loads((out / "bias.json").read_text()), out, "\n".join(lines)


refused = partial(commandline.refused, main)


def test_corrupted_group_is_named_for_best_and_final_with_its_gap_in_the_interval(reported, trained, corrupted):
    result, out, _ = reported
    predictions = pd.read_csv(out / "predictions.csv")
    clean = np.array(banded_faces(FACES, seed=4)[1])[predictions["row"]]
    for model in ("best", "final"):
        right = (predictions[f"predicted by {model}"] == clean).mean()  # before the corruption, alike for all
        gap = next(one for one in result["models"][model]["groupings"]["gender"]["gaps"] if one["metric"] == "accuracy")
        assert gap["shown"] and gap["worst"] == "Female"
        assert gap["low"] < right - (0.5 * right + 0.5 * (1 - right) / 2) < gap["high"]
        age = next(one for one in result["models"][model]["groupings"]["age_group"]["gaps"] if one["metric"] == "accuracy")
        assert not age["shown"]


def test_figures_follow_from_the_predictions_written(reported, groups):
    result, out, _ = reported
    predictions = pd.read_csv(out / "predictions.csv")
    table = pd.read_csv(out / "groups.csv")
    for _, line in table.iterrows():
        mine = predictions[predictions[line["grouping"]] == line["group"]]
        assert line["n"] == len(mine)
        assert line["accuracy"] == pytest.approx((mine["true"] == mine[f"predicted by {line['model']}"]).mean(), abs=1e-6)
        assert line["accuracy_low"] < line["accuracy"] < line["accuracy_high"]
    crossed = pd.read_csv(out / "intersections.csv")
    both = (groups[0] == "Female") & (groups[1] == "child")
    assert crossed[(crossed["group"] == "Female & child") & (crossed["model"] == "best")]["n"].item() == both.sum()
    assert result["groupings"]["gender"]["unknown"] == (groups[0] == "unknown").sum()


def test_terminal_gets_two_tables_and_the_findings(reported):
    _, out, printed = reported
    assert "Figures by group" in printed and "Largest gaps between groups" in printed
    assert "best" in printed and "final" in printed and "accuracy differs by gender" in printed
    assert f"written: {out / 'report.html'}" in printed


def test_report_says_where_groups_come_from_and_shows_every_plot(reported):
    result, out, _ = reported
    assert json.loads((out / "copy.json").read_text()) == result
    page = (out / "report.html").read_text()
    assert "note: read off a list" in page and "does not record where it comes from" in page
    assert page.index("accuracy differs by gender") < page.index(">Who is there</h2>")  # findings come first
    drawn = {path.name for path in out.glob("*.png")}
    for name in ("gender", "age_group", "gender-and-age_group"):
        assert {f"figures-{name}.png", f"emotions-{name}-best.png", f"confusions-{name}-final.png"} <= drawn
    assert {"distribution-gender.png", "distribution-age_group.png"} <= drawn
    assert page.count("<img") == len(drawn)
    for name in ("counts", "gaps", "parity", "confusions", "dataset", "npmi"):
        assert len(pd.read_csv(out / f"{name}.csv"))
    assert "no face detector was looked at" in page


def test_exported_model_is_judged_on_every_face_with_split_all(trained, groups, tmp_path, here, capsys):
    data = write(tmp_path / "faces", *groups, split=["train", "test", "validation"] * 100)
    code = main(["--model", str(trained.exported), "--data", str(data.path), "--by", "gender", "--split", "all", "--no-figures"])
    assert code == 0
    out = here / "reports" / "bias-bands-cnn-on-faces-all-label-by-gender"
    result = json.loads((out / "bias.json").read_text())
    assert result["n"] == FACES and not (out / "report.html").exists()
    assert "calibration is judged after the temperature" in capsys.readouterr().out
    assert not any(gap["shown"] for gap in result["models"]["bands-cnn"]["groupings"]["gender"]["gaps"])


def test_identities_of_the_data_are_drawn_whole(trained, groups, tmp_path):
    data = write(tmp_path / "faces", *groups, identities=[f"p{index // 5}" for index in range(FACES)])
    main(["--model", str(trained.exported), "--data", str(data.path), "--by", "age_group", "--out", str(tmp_path / "out")])
    result = json.loads((tmp_path / "out" / "bias.json").read_text())
    assert result["units"] == "identities"
    assert result["groupings"]["age_group"]["groups"]["child"]["identities"] <= FACES / 5


def test_a_split_all_is_known_to_evaluate_too(trained, capsys, tmp_path):
    argv = ["--run", trained.one, "--split", "all", "--no-figures", "--out", tmp_path / "out"]
    assert evaluate_main([str(word) for word in argv]) == 0
    assert "trained on 192 of these 324 faces" in capsys.readouterr().out


def test_where_no_gap_can_be_told_a_sentence_says_so(trained, tmp_path, capsys):
    data = write(tmp_path / "few", ["Female", "Male"] * 4)
    argv = ["--model", trained.exported, "--data", data.path, "--by", "gender", "--no-figures", "--out", tmp_path / "out"]
    assert main([str(word) for word in argv]) == 0
    out = capsys.readouterr().out
    assert "Empty DataFrame" not in out
    assert "none can be told: nowhere do two groups have" in out


def test_nothing_is_left_of_an_audit_before(trained, groups, tmp_path):
    data = write(tmp_path / "faces", *groups)
    out = tmp_path / "out"
    argv = ["--model", str(trained.exported), "--data", str(data.path), "--no-figures", "--out", str(out), "--by"]
    assert main([*argv, "gender,age_group"]) == 0
    assert (out / "intersections.csv").is_file()
    before = ("report.html", "figures-age_group.png", "emotions-gender-and-age_group-best.png", "distribution-gender.png")
    for name in before:
        (out / name).write_text("of an audit before")
    mine = ("mine.txt", "figures-mine.png")
    for name in mine:
        (out / name).write_text("kept")
    assert main([*argv, "gender"]) == 0
    assert not [name for name in ("intersections.csv", *before) if (out / name).exists()]
    assert [(out / name).read_text() for name in mine] == ["kept", "kept"]


def test_models_whose_keys_make_one_name_have_pictures_of_their_own(reported, tmp_path):
    result = dict(reported[0])
    result["models"] = dict(zip(("odd/best", "odd-best"), result["models"].values(), strict=True))
    bias._grouping_html(tmp_path, result, "gender")
    drawn = [(tmp_path / f"confusions-gender-odd-best{end}.png").read_bytes() for end in ("", "-2")]
    expected = [(reported[1] / f"confusions-gender-{name}.png").read_bytes() for name in ("best", "final")]
    assert drawn == expected


# bad input


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--repeats", 50), "needs 100 repeats or more, got 50"),
        (("--min-n", 1), "2 faces or more (of an emotion 1), got 1 and"),
        (("--seed", -1), "a seed is 0 or more, got -1"),
    ],
)
def test_settings_out_of_range_are_refused_before_a_model_is_opened(trained, corrupted, capsys, monkeypatch, words, expected):
    monkeypatch.setattr(bias, "open_models", lambda *_: pytest.fail("opened a model first"))
    assert expected in refused(capsys, "--model", trained.exported, "--data", corrupted.path, "--by", "gender", *words)


def test_missing_column_is_refused_naming_those_that_exist(trained, corrupted, capsys, here):
    message = refused(capsys, "--run", trained.one, "--data", corrupted.path, "--by", "gender,race")
    assert "has no group column 'race'; it has gender, age_group" in message
    message = refused(capsys, "--run", trained.one, "--data", corrupted.path, "--by", "age")
    assert message.endswith("has no group column 'age'; it has gender, age_group; groups of it are age_group")
    assert "it has no group column" in refused(capsys, "--run", trained.one, "--by", "gender")
    assert "names gender twice" in refused(capsys, "--run", trained.one, "--data", corrupted.path, "--by", "gender,gender")
    assert list(here.iterdir()) == []


def test_a_group_without_test_faces_is_said_and_two_groups_without_others_are_refused(trained, tmp_path, capsys):
    genders = ["Female", "Male", "Other"] * 40
    split = ["train" if gender == "Other" else "test" for gender in genders]
    data = write(tmp_path / "three", genders, split=split)
    out = tmp_path / "out"
    argv = ["--model", trained.exported, "--data", data.path, "--by", "gender", "--no-figures", "--out", out]
    assert main([str(word) for word in argv]) == 0
    assert "no test face has gender Other: nothing can be said about them" in capsys.readouterr().out
    data = write(tmp_path / "two", genders[:2] * 40, split=["train", "test"] * 40)
    message = refused(capsys, "--model", trained.exported, "--data", data.path, "--by", "gender", "--out", tmp_path / "none")
    assert "all faces with a known gender are Male (40 of 40)" in message
    assert not (tmp_path / "none").exists()


def test_unknown_groups_and_no_model_are_refused(trained, tmp_path, capsys):
    data = write(tmp_path / "faces", ["unknown"] * 60)
    assert "gender is unknown for all 60 faces" in refused(
        capsys, "--model", trained.exported, "--data", data.path, "--by", "gender", "--out", tmp_path / "out"
    )
    assert "no model to judge" in refused(capsys, "--data", data.path, "--by", "gender")


# the face detector


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A csv of 40 pictures: a woman's face in those of one group, nothing in a third of those of the other."""
    from skimage.data import astronaut

    folder = tmp_path_factory.mktemp("photographs")
    face = Image.fromarray(astronaut()[:300, 60:360])
    rng = np.random.default_rng(0)
    lines = []
    for index in range(40):
        empty = index % 6 == 1
        noise = Image.fromarray(rng.integers(0, 256, (120, 120, 3)).astype(np.uint8))
        picture = noise if empty else face.resize((120 + index, 120 + index))
        picture.save(folder / f"{index}.png")
        lines.append(
            {"image": f"{index}.png", "emotion": LABELS[index // 2 % 3], "sex": "mf"[index % 2 == 0], "age": 20 + index % 2 * 30}
        )
    pd.DataFrame(lines).to_csv(folder / "labels.csv", index=False)
    return folder


def prepared(folder, out, *more):
    columns = "image=image,label=emotion,gender=sex,age=age"
    argv = ["--source", "table", "--csv", folder / "labels.csv", "--images", folder, "--columns", columns, "--size", SIZE, *more]
    assert prepare.main([str(word) for word in [*argv, "--out", out, "--quiet"]]) == 0
    return FaceDataset.load(out)


def missed(out):
    table = pd.read_csv(out / "detector.csv")
    return table[table["column"] == "gender"].set_index("group")["missed"].to_dict()


def test_missed_faces_are_counted_by_group_from_the_source_pictures(trained, photographs, tmp_path, capsys):
    data = prepared(photographs, tmp_path / "data", "--keep", "duplicate")
    argv = ["--model", trained.exported, "--data", data.path, "--by", "gender,age_group", "--split", "all", "--min-n", 10]
    assert main([str(word) for word in [*argv, "--detector", "haar", "--out", tmp_path / "out"]]) == 0
    printed = capsys.readouterr().out
    assert missed(tmp_path / "out") == {"Female": 0, "Male": pytest.approx(7 / 20)}
    assert "detector haar was run on 40 source pictures" in printed
    assert "detector haar, by gender: faces are missed at different rates" in printed
    provenance = json.loads((tmp_path / "out" / "bias.json").read_text())["provenance"]
    assert provenance[0] == "gender: column 'sex' of labels.csv"
    assert provenance[1] == "age_group: from the ages in column 'age' of labels.csv"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "share of photographs in which haar finds no face" not in page and "missed faces by gender" in page


def test_faces_lost_by_the_crop_count_as_missed_though_they_are_in_no_split(trained, photographs, tmp_path):
    data = prepared(photographs, tmp_path / "data", "--keep", "duplicate", "--crop", "haar")
    assert (data.manifest["reason"] == "no_face").sum() == 7
    argv = ["--model", trained.exported, "--data", data.path, "--by", "gender", "--split", "all", "--min-n", 10, "--no-figures"]
    assert main([str(word) for word in [*argv, "--out", tmp_path / "out"]]) == 0
    assert missed(tmp_path / "out") == {"Female": 0, "Male": pytest.approx(7 / 20)}


def test_a_data_set_with_new_pictures_tells_what_the_one_before_it_tells(trained, photographs, tmp_path):
    """Where groups and faces come from, and how many were missed: made pictures are no photographs."""
    old = prepared(photographs, tmp_path / "old", "--keep", "duplicate", "--crop", "haar", "--split", "random")
    assert synthesize.main(["--data", str(old.path), "--by", "gender", "--out", str(tmp_path / "new")]) == 0
    assert len(FaceDataset.load(tmp_path / "new").manifest) > len(old.manifest)
    told = {}
    for name in ("old", "new"):
        argv = ["--model", trained.exported, "--data", tmp_path / name, "--by", "gender", "--split", "all", "--min-n", 10]
        assert main([str(word) for word in [*argv, "--no-figures", "--repeats", 100, "--out", tmp_path / "out" / name]]) == 0
        told[name] = json.loads((tmp_path / "out" / name / "bias.json").read_text())
    assert missed(tmp_path / "out" / "new") == {"Female": 0, "Male": pytest.approx(7 / 20)}
    counted = pd.read_csv(tmp_path / "out" / "new" / "detector.csv")
    assert counted["n"].tolist() == [20, 20]
    assert told["new"]["provenance"] == told["old"]["provenance"]
    assert "gender: column 'sex' of labels.csv" in told["new"]["provenance"]
    assert told["new"]["notes"] == told["old"]["notes"]
    assert any("were cut out with a margin of" in note for note in told["new"]["notes"])


def test_the_detector_finds_the_photographs_that_new_pictures_were_made_of(trained, photographs, tmp_path, capsys):
    old = prepared(photographs, tmp_path / "old", "--keep", "duplicate", "--split", "random")
    assert synthesize.main(["--data", str(old.path), "--by", "label", "--target", "14", "--out", str(tmp_path / "new")]) == 0
    argv = ["--model", trained.exported, "--data", tmp_path / "new", "--by", "gender", "--no-figures", "--repeats", 100]
    assert main([str(word) for word in [*argv, "--min-n", 2, "--detector", "haar", "--out", tmp_path / "out"]]) == 0
    assert "detector haar was run on 40 source pictures" in capsys.readouterr().out


def test_detector_without_source_pictures_is_left_out_with_a_sentence(trained, corrupted, tmp_path, capsys):
    argv = ["--model", trained.exported, "--data", corrupted.path, "--by", "gender", "--no-figures", "--detector", "haar"]
    assert main([str(word) for word in [*argv, "--out", tmp_path / "out"]]) == 0
    assert "detector haar was not run: the source pictures of faces are not there as files" in capsys.readouterr().out
    assert not (tmp_path / "out" / "detector.csv").exists()


# real faces


@pytest.mark.shared
def test_real_faces_with_real_gender_labels_are_judged(shared_dir, tmp_path):
    lfw = shared_dir / "data" / "lfw_expressions"
    table = pd.read_csv(lfw / "labels.csv")
    common = table[table["emotion"].isin(["neutral", "happiness", "surprise", "anger"])]
    common.sample(200, random_state=0).to_csv(tmp_path / "labels.csv", index=False)
    columns = "image=image,label=emotion,gender=gender,identity=identity"
    argv = ["--source", "table", "--csv", tmp_path / "labels.csv", "--images", lfw / "images", "--columns", columns]
    assert (
        prepare.main([str(word) for word in [*argv, "--crop", "haar", "--margin", 0, "--out", tmp_path / "data", "--quiet"]]) == 0
    )
    model = Path(__file__).parents[2] / "saved_models" / "ferplus-cnn"
    argv = ["--model", model, "--data", tmp_path / "data", "--by", "gender", "--split", "all", "--out", tmp_path / "out"]
    assert main([str(word) for word in argv]) == 0
    result = json.loads((tmp_path / "out" / "bias.json").read_text())
    found = result["models"]["ferplus-cnn"]["groupings"]["gender"]["groups"]
    assert set(found) == {"Female", "Male"} and all(group["accuracy"] > 0.7 for group in found.values())
    assert result["units"] == "identities" and result["detector"]["name"] == "haar"
    assert result["provenance"][0] == "gender: column 'gender' of labels.csv"
