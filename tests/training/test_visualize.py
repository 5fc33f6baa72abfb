"""`python -m training.visualize` on a small drawn data set."""

import json
import re
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fer_keras.data.dataset import VOTE_COLUMNS, DatasetWriter
from fer_keras.data.synthetic import describe_face, draw_face
from fer_keras.evaluation import dataset_plots
from fer_keras.labels import EMOTIONS
from training.visualize import main

COUNT = 48


@pytest.fixture(scope="module")
def tables():
    """The manifest columns of a small set: faces 0..3 dropped, 4..31 train, 32..47 test, no validation."""
    table = pd.DataFrame([describe_face(index, seed=1) for index in range(COUNT)])
    votes = np.zeros((COUNT, 10), int)
    for row, label in enumerate(table["label"]):
        votes[row, EMOTIONS.index(label)] = 7
        votes[row, 0 if label != "neutral" else 3] += 3  # what else was seen: neutral, or sadness for neutral faces
    columns = {
        "label": table["label"],
        "split": ["train"] * 32 + ["test"] * 16,
        "kept": [False] * 4 + [True] * (COUNT - 4),
        "reason": ["blank"] * 3 + ["duplicate"] + [""] * (COUNT - 4),
        "gender": table["gender"],
        "identity": table["identity"],
        **{name: votes[:, place] for place, name in enumerate(VOTE_COLUMNS)},
        "source": [f"drawn:{index}" for index in range(COUNT)],
    }
    return pd.DataFrame(columns)


def write(out, tables, channels=1, without=()):
    with DatasetWriter(out, image_size=48, channels=channels) as writer:
        for index in range(len(tables)):
            writer.add(draw_face(index, seed=1, channels=channels))
        return writer.finish(tables.drop(columns=list(without)), labels=EMOTIONS, group_columns=("gender",))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, tables):
    return write(tmp_path_factory.mktemp("data") / "drawn", tables)


@pytest.fixture(scope="module")
def report(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "overview"
    assert main(["--data", str(dataset.path), "--out", str(out), "--per-class", "3"]) == 0
    return out


def test_the_numbers_are_those_of_the_manifest(report, tables):
    kept = tables[tables["kept"]]
    numbers = json.loads((report / "overview.json").read_text())
    assert numbers["n"] == 44
    assert numbers["counts"] == {name: int((kept["label"] == name).sum()) for name in EMOTIONS}
    assert numbers["groups"]["gender"]["Female"]["anger"] == len(kept.query("gender == 'Female' and label == 'anger'"))
    assert list(numbers["groups"]["split"]) == ["train", "test"]
    assert numbers["dropped"] == {"blank": 3, "duplicate": 1}
    assert numbers["votes"]["mean_top_share"] == pytest.approx(0.7)
    assert numbers["votes"]["more_than_half"] == 1.0
    assert numbers["votes"]["unanimous"] == 0.0


def test_brightness_is_that_of_the_pixels(report, dataset):
    numbers = json.loads((report / "overview.json").read_text())
    rows = dataset.rows()
    angry = dataset.faces[rows[(dataset.manifest["label"].to_numpy()[rows] == "anger")]]
    assert numbers["brightness"]["anger"]["mean"] == pytest.approx(angry.mean(), abs=0.01)
    assert numbers["brightness"]["anger"]["sd"] == pytest.approx(angry.std(), abs=0.01)
    histogram = pd.read_csv(report / "intensity.csv")
    assert histogram["anger"].tolist() == np.histogram(angry, bins=256, range=(0, 256))[0].tolist()


def test_the_second_emotion_table_says_what_else_was_seen(report):
    table = pd.read_csv(report / "second-emotion.csv", index_col="most_votes_for")
    assert table.loc["anger", "neutral"] == 1.0
    assert table.loc["neutral", "sadness"] == 1.0
    assert table.loc["anger"].sum() == pytest.approx(1.0)
    assert table.loc["unknown"].sum() == 0


def test_every_figure_is_a_picture_with_something_on_it(report):
    names = {path.stem for path in report.glob("*.png")}
    assert names == {
        *("classes", "classes-by-split", "classes-by-gender", "gallery", "mean-faces", "intensity"),
        *("agreement", "second-emotion", "dropped", "dropped-faces"),
    }
    for name in names:
        pixels = np.asarray(Image.open(report / f"{name}.png").convert("L"))
        assert min(pixels.shape) > 80, name
        assert pixels.std() > 5, name


def test_the_page_holds_all_figures_and_loads_nothing(report):
    page = (report / "report.html").read_text()
    assert page.count('src="data:image/png;base64,') == len(list(report.glob("*.png")))
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page)
    for heading in ("Classes by gender", "Mean face", "Votes", "Dropped by cleaning"):
        assert heading in page
    assert not list(report.glob("*.part"))


def test_the_seed_decides_which_faces_are_shown(dataset, report, tmp_path):
    assert main(["--data", str(dataset.path), "--out", str(tmp_path), "--per-class", "3", "--seed", "1"]) == 0
    assert (tmp_path / "gallery.png").read_bytes() != (report / "gallery.png").read_bytes()
    assert (tmp_path / "mean-faces.png").read_bytes() == (report / "mean-faces.png").read_bytes()
    rows, classes = np.arange(100, 200), np.arange(100) % 4
    chosen = [dataset_plots.sample_rows(rows, classes, 5, 5, seed).tolist() for seed in (7, 7, 8)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert np.bincount(np.array(chosen[0]) % 4).tolist() == [5] * 4


def test_one_split_of_colour_faces_without_votes(tables, tmp_path, monkeypatch, capsys):
    write(tmp_path / "colours", tables, channels=3, without=VOTE_COLUMNS)
    monkeypatch.chdir(tmp_path)
    assert main(["--data", "colours", "--split", "test"]) == 0
    folder = tmp_path / "reports" / "colours-overview-test"
    assert "reports/colours-overview-test/report.html" in capsys.readouterr().out
    numbers = json.loads((folder / "overview.json").read_text())
    assert numbers["n"] == 16
    assert "votes" not in numbers
    assert numbers["dropped"] == {}
    assert not (folder / "agreement.png").exists()


def test_a_missing_data_set_is_one_line_and_exit_code_2(tmp_path, capsys):
    assert main(["--data", str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "nowhere" in error
    assert "training.prepare" in error


def test_an_empty_split_is_one_line_and_leaves_nothing(dataset, tmp_path, capsys):
    out = tmp_path / "overview"
    assert main(["--data", str(dataset.path), "--split", "validation", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'validation'" in error
    assert "train, test" in error
    assert not out.exists()


def test_a_negative_seed_is_refused(dataset, capsys):
    assert main(["--data", str(dataset.path), "--seed", "-1"]) == 2
    assert "--seed must be 0 or more, got -1" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--split", "holdout"], ["--per-class", "0"]])
def test_a_wrong_option_is_refused(dataset, arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--data", str(dataset.path), *arguments])
    assert stopped.value.code == 2
    assert arguments[1] in capsys.readouterr().err


def test_rare_values_of_a_group_are_drawn_together_and_counted_apart():
    values = [f"country{number}" for number in range(30)] + ["country21"] * 5
    table = dataset_plots.count_table(["a"] * len(values), values, ["a", "b"])
    assert table.loc["a"].to_dict() == Counter(values)
    assert table.loc["b"].sum() == 0
    assert dataset_plots.with_others(table).loc["a"].to_dict() == {
        **{f"country{number}": 1 for number in range(8)},
        "country21": 6,
        "other values": 21,
    }
    legend = dataset_plots.plot_counts(table).legends[0].get_texts()
    assert [text.get_text() for text in legend][-2:] == ["country21", "other values"]
    few = table.iloc[:, :10]
    assert dataset_plots.with_others(few) is few


def test_values_are_listed_by_the_numbers_in_them(tables, tmp_path):
    ages = ["60+", "3-9", "unknown", "10-19", "0-2"]
    write(tmp_path / "ages", tables.assign(gender=[ages[row % 5] for row in range(COUNT)]))
    assert main(["--data", str(tmp_path / "ages"), "--out", str(tmp_path / "out")]) == 0
    lines = pd.read_csv(tmp_path / "out" / "groups.csv").query("column == 'gender'")
    assert list(dict.fromkeys(lines["value"])) == ["0-2", "3-9", "10-19", "60+", "unknown"]
    assert list(json.loads((tmp_path / "out" / "overview.json").read_text())["groups"]["gender"])[:3] == ["0-2", "3-9", "10-19"]


def test_nothing_is_left_of_an_overview_before(report, tables, tmp_path):
    shutil.copytree(report, tmp_path / "out")
    (tmp_path / "out" / "mine.png").write_text("kept")
    write(tmp_path / "plain", tables[tables["kept"]], without=VOTE_COLUMNS)
    assert main(["--data", str(tmp_path / "plain"), "--split", "test", "--out", str(tmp_path / "out")]) == 0
    gone = {"second-emotion.csv", "second-emotion.png", "agreement.png", "dropped.png", "dropped-faces.png"}
    names = [{path.name for path in folder.iterdir()} for folder in (report, tmp_path / "out")]
    assert names[0] - names[1] == {*gone, "classes-by-split.png"}
    assert names[1] - names[0] == {"mine.png"}


def test_second_choices_split_ties_and_skip_faces_without_votes():
    votes = np.array([[6, 2, 2], [10, 0, 0], [0, 9, 1], [0, 0, 0]])
    expected = [[0, 0.25, 0.25, 0.5], [0, 0, 1, 0], [0, 0, 0, 0]]
    assert dataset_plots.second_choices(votes) == pytest.approx(np.array(expected))
    assert dataset_plots.top_share(votes)[:3] == pytest.approx([0.6, 1.0, 0.9])
    assert np.isnan(dataset_plots.top_share(votes)[3])


def test_face_statistics_agree_with_reading_everything_at_once():
    generator = np.random.default_rng(0)
    faces = generator.integers(0, 256, (700, 6, 6, 3), dtype=np.uint8)
    rows = np.arange(0, 700, 2)
    classes = generator.integers(0, 3, len(rows))
    found = dataset_plots.face_statistics(faces, rows, classes, 4)
    for index in range(3):
        assert found.mean[index] == pytest.approx(faces[rows[classes == index]].mean(axis=0))
    assert found.faces.tolist() == [*np.bincount(classes).tolist(), 0]
    assert found.histogram.sum() == len(rows) * 36
    assert np.isnan(found.brightness[3]).all()
