"""Faces of a benchmark that stand in two of its splits."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import leaked_faces
from fer_keras.data.dataset import DatasetWriter

SHIPPED = Path(__file__).parents[2] / "saved_models" / "ferplus-cnn"
LABELS = ("surprise", "neutral", "anger")  # another order than the model's
#: Lines of training whose picture is judged as well, and the label that the judged copy has.
COPIED = {3: "neutral", 7: "neutral", 4: "surprise", 5: "surprise"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """12 training faces, alternately neutral and surprise, two of them left out as copies; 10 to validate, 4 of them copies."""
    faces = np.random.default_rng(0).integers(0, 256, (18, 48, 48, 1)).astype(np.uint8)
    labels = ["neutral", "surprise"] * 6 + list(COPIED.values()) + ["anger", "neutral", "surprise"] * 2
    with DatasetWriter(tmp_path_factory.mktemp("leak") / "leak", image_size=48, channels=1) as writer:
        for face in (*faces[:12], *faces[list(COPIED)], *faces[12:]):
            writer.add(face)
        dropped = [row in (3, 4) for row in range(22)]
        columns = {
            "label": labels,
            "split": ["train"] * 12 + ["validation"] * 10,
            "kept": [not each for each in dropped],
            "reason": ["leakage" if each else "" for each in dropped],
            "source": [""] * 22,
        }
        return writer.finish(columns, labels=LABELS)


def test_copies_are_counted_and_what_they_are_worth(data, capsys):
    """Of the four labels that could be learnt by heart only that of line 5 is right."""
    from fer_keras.models.exported import load_exported

    assert leaked_faces.main(["--data", str(data.path), "--model", str(SHIPPED)]) == 0
    counts, figures = capsys.readouterr().out.strip().splitlines()
    assert "10 faces; 4 (40.0%) stand among the 12 training rows of the source as well, 1 with the same label" in counts
    model = load_exported(SHIPPED)
    said = [model.labels[index] for index in model.predict(np.asarray(data.faces[12:])).argmax(axis=1)]
    right = [name == label for name, label in zip(said, data.manifest["label"][12:], strict=True)]
    learnt = [label == ("neutral", "surprise")[row % 2] for row, label in COPIED.items()]
    expected = [np.mean(right), np.mean(right[:4]), np.mean(right[4:]), np.mean(learnt + right[4:])]
    assert [float(each) for each in re.findall(r"(\d\.\d{3}) \(", figures)] == pytest.approx(expected, abs=6e-4)


def test_what_cannot_be_read_is_told_in_a_line(data, tmp_path, capsys):
    for words in (["--data", str(tmp_path / "nowhere")], ["--data", str(data.path), "--model", str(tmp_path / "nowhere")]):
        assert leaked_faces.main(words) == 2
        assert "nowhere" in capsys.readouterr().err.strip().splitlines()[-1]
