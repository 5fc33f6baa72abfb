"""The benchmark of few faces a class, on tiny networks."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score

from benchmarks import transfer
from fer_keras.data.dataset import FaceDataset


def test_figures_are_those_of_the_runs_and_a_second_call_trains_nothing(trained, here, capsys):
    words = ["--data", str(trained.data), "--weights", str(trained.exported), "--per-class", "6", "--seeds", "2"]
    assert transfer.main([*words, "--epochs", "2", "--out", "moved"]) == 0
    said = capsys.readouterr().out
    assert "4 of 4 trainings to do" in said and "84 test faces of bands, intervals over faces and seeds" in said

    from training.run_folder import RunFolder

    dataset = FaceDataset.load(trained.data)
    rows = dataset.rows("test")
    truth = dataset.label_indices[rows]
    table = pd.read_csv("moved/transfer.csv").set_index(["way", "faces a class"])
    assert len(table) == 2
    for (way, size), line in table.iterrows():
        assert line["faces"] == 3 * size
        runs = [RunFolder.open(Path("moved/runs") / f"{way.replace(' ', '-')}-{size}-seed{seed}") for seed in range(2)]
        faces = np.asarray(dataset.faces)[rows]
        answers = [run.load_model("best").predict(faces, verbose=0).argmax(axis=1) for run in runs]
        expected = np.mean([balanced_accuracy_score(truth, answer) for answer in answers])
        assert line["balanced accuracy"] == pytest.approx(expected, abs=1e-4)
        assert 0 <= line["low"] <= line["balanced accuracy"] <= line["high"] <= 1
    assert Path("moved/transfer.png").stat().st_size > 5000

    assert transfer.main([*words, "--epochs", "2", "--out", "moved"]) == 0
    assert "trainings to do" not in capsys.readouterr().out


def test_smaller_sets_are_part_of_larger_and_a_fifth_validates(trained):
    dataset = FaceDataset.load(trained.data)
    small, large = (transfer.few(dataset, size, seed=3) for size in (10, 20))
    for part, wanted in (("train", 16), ("validation", 4)):
        assert set(small[part]) < set(large[part]) and set(large[part]) <= set(dataset.rows("train"))
        assert np.bincount(dataset.label_indices[large[part]]).tolist() == [wanted] * 3
    assert not set(large["train"]) & set(large["validation"])


@pytest.mark.parametrize(
    "words", [["--per-class", "1"], ["--per-class", "0"], ["--per-class", "many"], ["--seeds", "0"], ["--data", "no"]]
)
def test_what_cannot_be_done_is_told_in_a_line(trained, here, capsys, words):
    try:
        code = transfer.main(["--data", str(trained.data), *words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
