import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import commandline
import numpy as np
import pandas as pd
import pytest
from bands import LABELS, SIZE, banded_faces, write_faces
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from fer_keras.data.dataset import VOTE_COLUMNS, FaceDataset
from fer_keras.evaluation.calibration import fit_temperature
from fer_keras.models.exported import read_metadata
from training import scoring
from training.config import TrainConfig
from training.evaluate import evaluate_run, main
from training.run_folder import RunFolder
from training.variants import judged_faces

FILES = {
    "predictions.csv",
    "per_class.csv",
    "confusion.csv",
    "confusion.png",
    "per_class.png",
    "roc.png",
    "precision_recall.png",
    "reliability.png",
    "coverage.csv",
    "coverage.png",
    "worst_mistakes.png",
}


@pytest.fixture(scope="session")
def evaluated(trained, tmp_path_factory):
    """The run judged on its test split, once: the result and the folder it lies in."""
    out = tmp_path_factory.mktemp("evaluated") / "out"
    return evaluate_run(RunFolder.open(trained.one), out=out), out


refused = partial(commandline.refused, main)


def test_figures_of_best_and_final_follow_from_the_predictions_written(evaluated):
    result, out = evaluated
    assert (result["protocol"], result["split"], result["n"]) == ("label", "test", 84)
    assert result["labels"] == list(LABELS)
    assert set(result["models"]) == {"best", "final"}
    for key, entry in result["models"].items():
        table = pd.read_csv(out / key / "predictions.csv")
        assert entry["accuracy"] == pytest.approx(accuracy_score(table["true"], table["predicted"]))
        assert entry["macro_f1"] == pytest.approx(f1_score(table["true"], table["predicted"], average="macro"))
        assert entry["confusion"] == confusion_matrix(table["true"], table["predicted"], labels=list(LABELS)).tolist()
        assert entry["accuracy_ci95"][0] < entry["accuracy"] < entry["accuracy_ci95"][1]


def test_coverage_is_that_of_the_predictions_with_their_temperature(evaluated):
    result, out = evaluated
    entry = result["models"]["best"]
    table = pd.read_csv(out / "best" / "predictions.csv")
    powers = table[[f"p_{label}" for label in LABELS]].to_numpy() ** (1 / entry["temperature"])
    sure = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1) >= 0.5
    line = pd.read_csv(out / "best" / "coverage.csv").set_index("threshold").loc[0.5]
    assert line["coverage"] == pytest.approx(sure.mean(), abs=0.015)  # predictions.csv has six decimals
    assert line["accuracy"] == pytest.approx((table["true"] == table["predicted"])[sure].mean(), abs=0.015)
    assert entry["coverage"][0]["accuracy"] == pytest.approx(entry["accuracy"])


def test_model_has_learned_what_the_bands_say(evaluated):
    assert evaluated[0]["models"]["best"]["accuracy"] > 0.6  # one in seven shows another label's band; chance is 0.33


def test_predictions_are_those_of_the_keras_model_on_the_test_rows(trained, evaluated):
    table = pd.read_csv(evaluated[1] / "final" / "predictions.csv")
    dataset = FaceDataset.load(trained.data)
    assert table["row"].tolist() == np.flatnonzero(dataset.manifest["split"] == "test").tolist()
    assert table["source"].tolist() == dataset.manifest["source"][table["row"]].tolist()
    faces = dataset.faces[table["row"].to_numpy()].astype(np.float32)
    expected = RunFolder.open(trained.one).load_model("final").predict(faces, verbose=0)
    assert table[[f"p_{label}" for label in LABELS]].to_numpy() == pytest.approx(expected, abs=2e-6)


def test_report_folder_is_complete_and_the_page_shows_the_worst_mistakes(evaluated):
    result, out = evaluated
    assert json.loads((out / "metrics.json").read_text()) == result
    for key in ("best", "final"):
        assert {entry.name for entry in (out / key).iterdir()} == FILES
    assert {entry.name for entry in out.iterdir()} == {"best", "final", "metrics.json", "report.html", "history-one.png"}
    page = (out / "report.html").read_text()
    assert "Worst mistakes" in page
    table = pd.read_csv(out / "best" / "predictions.csv")
    wrong = table[table["true"] != table["predicted"]].copy()
    wrong["confidence"] = wrong[[f"p_{label}" for label in LABELS]].max(axis=1)
    assert wrong.sort_values("confidence")["source"].iloc[-1] in page


def test_temperature_comes_from_the_validation_rows_and_not_from_the_scored_ones(trained, evaluated, here):
    entry = evaluated[0]["models"]["best"]
    on_validation = evaluate_run(RunFolder.open(trained.one), split="validation", out=here / "v", figures=False)
    table = pd.read_csv(here / "v" / "best" / "predictions.csv")
    truth = np.array([LABELS.index(name) for name in table["true"]])
    probabilities = table[[f"p_{label}" for label in LABELS]].to_numpy()
    assert entry["temperature"] == pytest.approx(fit_temperature(probabilities, truth), rel=1e-3)
    assert "48 validation faces" in entry["temperature_fitted_on"]
    assert "scored here" in on_validation["models"]["best"]["temperature_fitted_on"]


def test_exported_model_gives_one_entry_equal_to_the_best_of_its_run(trained, evaluated, here, capsys):
    assert main(["--model", str(trained.exported), "--data", str(trained.data), "--json", "new/figures.json"]) == 0
    result = json.loads((here / "new/figures.json").read_text())
    assert list(result["models"]) == ["bands-cnn"]
    entry, best = result["models"]["bands-cnn"], evaluated[0]["models"]["best"]
    assert entry["confusion"] == best["confusion"]
    assert entry["temperature"] == 1.25
    assert entry["parameters"] == best["parameters"]
    assert (here / "reports/bands-cnn-on-bands-test-label/report.html").is_file()
    printed = capsys.readouterr().out
    assert "bands-cnn" in printed
    assert "84 test faces" in printed


def test_where_persons_are_known_an_interval_draws_them_whole(trained, here, capsys):
    """Persons of whom all faces are right or all wrong: the interval is that of so many persons, not of so many faces."""
    shutil.copytree(trained.data, "people")
    manifest = pd.read_csv("people/manifest.csv", keep_default_na=False)
    command = ["--model", str(trained.exported), "--data", "people", "--json", "figures.json", "--out", "judged"]
    assert main([*command]) == 0
    assert "accuracy_ci95_identities" not in json.loads((here / "figures.json").read_text())["models"]["bands-cnn"]
    table = pd.read_csv("judged/bands-cnn/predictions.csv")
    right = dict(zip(table["row"], table["true"] == table["predicted"], strict=True))
    numbers = {True: 0, False: 0}
    people = []
    for row in range(len(manifest)):
        answer = bool(right.get(row, True))
        people.append(f"{answer}-{numbers[answer] // 4}")
        numbers[answer] += row in right
    manifest.assign(identity=people).to_csv("people/manifest.csv", index=False)
    assert main([*command]) == 0
    entry = json.loads((here / "figures.json").read_text())["models"]["bands-cnn"]
    low, high = entry["accuracy_ci95_identities"]
    count, share = len({people[row] for row in right}), entry["accuracy"]
    assert 0 < share < 1
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(share * (1 - share) / count), rel=0.25)
    assert high - low > 1.5 * np.ptp(entry["accuracy_ci95"])
    told = f"where persons are drawn, not faces, the 95% interval of its accuracy is {low:.3f} to {high:.3f}"
    assert told in capsys.readouterr().out
    manifest.assign(identity="ann").to_csv("people/manifest.csv", index=False)
    assert main([*command, "--no-figures"]) == 0
    assert "accuracy_ci95_identities" not in json.loads((here / "figures.json").read_text())["models"]["bands-cnn"]
    assert "84 faces are all of one person" in capsys.readouterr().out


def test_several_models_are_keyed_by_name_and_weights(trained, here):
    argv = [
        "--run",
        trained.one,
        "--run",
        trained.two,
        "--model",
        trained.exported,
        "--out",
        "r",
        "--json",
        "r.json",
        "--no-figures",
    ]
    assert main([str(word) for word in argv]) == 0
    result = json.loads((here / "r.json").read_text())
    assert list(result["models"]) == ["one/best", "one/final", "two/best", "two/final", "bands-cnn"]
    assert {entry.name for entry in (here / "r").iterdir() if entry.is_dir()} == {
        "one-best",
        "one-final",
        "two-best",
        "two-final",
        "bands-cnn",
    }
    assert not list((here / "r").rglob("*.png"))  # asked for with --no-figures
    assert not (here / "r" / "report.html").exists()


def test_models_whose_keys_make_one_name_have_folders_of_their_own(trained, here):
    shutil.copytree(trained.two, here / "odd")
    shutil.copytree(trained.exported, here / "odd-best")
    assert main(["--run", "odd", "--model", "odd-best", "--out", "r", "--no-figures"]) == 0
    models = json.loads((here / "r" / "metrics.json").read_text())["models"]
    accuracies = {}
    for folder, key in (("odd-best", "odd/best"), ("odd-final", "odd/final"), ("odd-best-2", "odd-best")):
        table = pd.read_csv(here / "r" / folder / "predictions.csv")
        accuracies[key] = (table["true"] == table["predicted"]).mean()
    assert {key: entry["accuracy"] for key, entry in models.items()} == pytest.approx(accuracies)
    assert accuracies["odd/best"] != accuracies["odd-best"]


def test_names_of_files_differ_where_keys_do():
    names = scoring.file_names(["a/b", "a-b", "A-B", "a-b-2", "/c/"])
    assert list(names.values()) == ["a-b", "a-b-2", "A-B-3", "a-b-2-2", "c"]


def test_validation_of_a_run_means_the_rows_that_the_run_held_back(trained, here):
    shutil.copytree(trained.one, here / "run")
    rows = pd.read_csv(here / "run" / "rows.csv")
    moved = rows["row"].isin([0, 1, 2])  # the data set calls these train
    rows.loc[moved, "split"] = "validation"
    rows.to_csv(here / "run" / "rows.csv", index=False)
    result = evaluate_run(RunFolder.open(here / "run"), split="validation", figures=False)
    assert result["n"] == 48 + 3
    assert pd.read_csv(here / "run" / "evaluation-validation-label" / "best" / "predictions.csv")["row"].tolist()[:3] == [0, 1, 2]


def test_faces_that_the_run_trained_on_are_told(trained, here):
    shutil.copytree(trained.one, here / "run")
    rows = pd.read_csv(here / "run" / "rows.csv")
    pd.concat([rows, pd.DataFrame({"row": [300, 301], "split": "train"})]).to_csv(here / "run" / "rows.csv", index=False)
    result = evaluate_run(RunFolder.open(here / "run"), figures=False)
    assert any("trained on 2 of these 84 faces" in note for note in result["notes"])


def test_faces_that_the_run_learnt_through_what_it_builds_on_are_told_and_counted(trained, here):
    from training.train import figure_entry

    shutil.copytree(trained.one, here / "run")
    description = json.loads((here / "run" / "config.json").read_text())
    description["learnt_before"] = {"splits": ["test"]}
    (here / "run" / "config.json").write_text(json.dumps(description))
    result = evaluate_run(RunFolder.open(here / "run"), figures=False)
    assert "best was trained on 84 of these 84 faces; its figures flatter it" in result["notes"]
    best = result["models"]["best"]
    assert figure_entry(best, result, "bands")["n_learnt"] == 84
    assert "n_learnt" not in figure_entry({**best, "n_learnt": 0}, result, "bands")


def test_persons_of_whom_the_model_learnt_other_faces_are_told_and_counted(trained, here, capsys):
    """Seven persons are in training and test; faces of nobody known, and persons who are in validation too, do not count."""
    from training.train import figure_entry

    shutil.copytree(trained.data, "crowd")
    manifest = pd.read_csv("crowd/manifest.csv", keep_default_na=False)
    people = np.array([f"person {row // 2}" for row in range(len(manifest))], dtype=object)  # test: persons 120 to 161
    people[:20] = [*(f"person {120 + row % 7}" for row in range(14)), *["unknown", ""] * 3]
    people[manifest.index[manifest["split"] == "validation"][:2]] = "person 140"
    people[-2:] = ["unknown", ""]
    manifest.assign(identity=people).to_csv("crowd/manifest.csv", index=False)
    shutil.copytree(trained.exported, "knows")
    metadata = json.loads(Path("knows/metadata.json").read_text())
    fingerprint = hashlib.sha256(Path("crowd/manifest.csv").read_bytes()).hexdigest()[:16]
    metadata["trained_on"] = {"name": "crowd", "fingerprint": fingerprint, "splits": ["train"]}
    Path("knows/metadata.json").write_text(json.dumps(metadata))
    judge = ["--model", "knows", "--data", "crowd", "--json", "figures.json", "--out", "judged"]
    told = "knows was trained on other faces of 7 persons of these faces; its figures flatter it"
    assert main(judge) == 0
    assert told in capsys.readouterr().out and told in Path("judged/report.html").read_text()
    result = json.loads(Path("figures.json").read_text())
    [entry] = result["models"].values()
    assert (entry["n_learnt"], entry["n_persons_learnt"]) == (0, 7)
    assert figure_entry(entry, result, "crowd")["n_persons_learnt"] == 7
    assert "n_persons_learnt" not in figure_entry({**entry, "n_persons_learnt": 0}, result, "crowd")
    assert main([*judge, "--split", "all", "--no-figures"]) == 0
    assert "persons of these" not in capsys.readouterr().out  # their other faces are judged too


def test_variants_that_learn_from_persons_who_are_judged_are_said_to_do_so(here):
    faces, names = banded_faces(60)
    people = [f"person {index % 25}" for index in range(60)]  # the last ten are persons 0 to 9 again
    for splits, told in ((["train"] * 50 + ["test"] * 10, 1), (["test"] * 60, 0)):
        data = write_faces(here / f"data-{told}", faces, names, splits, identity=people)
        notes = judged_faces(data, None, [TrainConfig()])[1]
        assert notes == ["each model was trained on other faces of 10 persons of these faces; its figures flatter it"] * told


def test_a_run_that_is_not_finished_and_has_few_validation_faces_is_said_to_be_such(trained, evaluated, here):
    """Its temperature would be whatever five faces give; it stays 1."""
    assert not [note for note in evaluated[0]["notes"] if "to its end" in note or "temperature" in note]
    shutil.copytree(trained.one, here / "run")
    (here / "run" / "state").mkdir()
    rows = pd.read_csv("run/rows.csv")
    rows.drop(rows.index[rows["split"] == "validation"][5:]).to_csv("run/rows.csv", index=False)
    result = evaluate_run(RunFolder.open("run"))
    assert "best: its training has not come to its end; go on with python -m training.train --resume run" in result["notes"]
    [told] = [note for note in result["notes"] if note.startswith("best: no temperature is fitted, it stays 1")]
    assert "20 validation faces or more, got 5" in told
    best = result["models"]["best"]
    assert best["temperature"] == 1 and best["ece_calibrated"] == pytest.approx(best["ece"])
    page = (here / result["out"] / "report.html").read_text()
    assert "got 5" in page and "no validation faces to fit it on" not in page and "fitted on None" not in page


def test_faces_that_an_exported_model_was_trained_on_are_told(trained, here, capsys):
    shutil.copytree(trained.exported, here / "saw")
    metadata = json.loads((here / "saw/metadata.json").read_text())
    fingerprint = hashlib.sha256((trained.data / "manifest.csv").read_bytes()).hexdigest()[:16]
    metadata["trained_on"] = {"name": "bands", "fingerprint": fingerprint, "splits": ["train", "validation"]}
    (here / "saw/metadata.json").write_text(json.dumps(metadata))
    judge = ["--model", "saw", "--data", str(trained.data), "--no-figures"]
    assert main([*judge, "--split", "all"]) == 0
    assert "saw was trained on 240 of these 324 faces; its figures flatter it" in capsys.readouterr().out
    assert main(judge) == 0
    assert "flatter" not in capsys.readouterr().out


def test_labels_are_matched_by_name_whatever_their_order(trained, evaluated, here):
    faces, names = banded_faces(324)
    turned = write_faces(here / "turned", faces[240:], names[240:], ["test"] * 84, labels=LABELS[::-1])
    result = evaluate_run(RunFolder.open(trained.one), data=turned.path, figures=False)
    assert result["labels"] == list(LABELS)
    assert result["models"]["best"]["confusion"] == evaluated[0]["models"]["best"]["confusion"]


def test_faces_of_another_size_and_colour_are_brought_to_the_models(trained, here):
    faces, names = banded_faces(324)
    grown = np.repeat(np.repeat(np.repeat(faces[240:], 2, axis=1), 2, axis=2), 3, axis=3)  # each pixel four times, as RGB
    other = write_faces(here / "other", grown, names[240:], ["test"] * 84)
    result = evaluate_run(RunFolder.open(trained.one), data=other.path, out=here / "out", figures=False)
    assert any(f"{2 * SIZE} pixels are resized to the model's {SIZE}" in note for note in result["notes"])
    assert any("RGB faces are turned into the model's grey" in note for note in result["notes"])
    same = evaluate_run(RunFolder.open(trained.one), out=here / "same", figures=False)
    assert result["models"]["best"]["confusion"] == same["models"]["best"]["confusion"]


def test_faces_cut_out_with_another_margin_than_the_model_expects_are_told(trained, here, capsys):
    faces, names = banded_faces(324)
    other = write_faces(here / "other", faces[240:], names[240:], ["test"] * 84)
    told = json.loads((other.path / "dataset.json").read_text())
    for margin, expected in ((0.3, True), (read_metadata(trained.exported)["crop_margin"], False)):
        told |= {"settings": {"crop": "mtcnn"}, "crop_margin": margin}
        (other.path / "dataset.json").write_text(json.dumps(told))
        assert main(["--model", str(trained.exported), "--data", str(other.path), "--no-figures"]) == 0
        assert ("were cut out with a margin of 0.3, the model expects 0" in capsys.readouterr().out) is expected


def test_model_that_knows_more_labels_than_the_data_is_scored_with_a_note(trained, here):
    faces, names = banded_faces(60, labels=LABELS[:2])
    fewer = write_faces(here / "fewer", faces, names, ["test"] * 60, labels=LABELS[:2])
    result = evaluate_run(RunFolder.open(trained.one), data=fewer.path, figures=False)
    assert any("also knows anger" in note for note in result["notes"])
    assert result["models"]["best"]["confusion"][2] == [0, 0, 0]


def test_model_that_lacks_a_label_of_the_data_is_refused_before_anything_is_written(trained, here, capsys):
    labels = (*LABELS, "contempt")
    faces, names = banded_faces(60, labels=labels)
    write_faces(here / "more", faces, names, ["test"] * 60, labels=labels)
    message = refused(capsys, "--model", trained.exported, "--data", "more", "--json", "x.json")
    assert "the model lacks contempt; it knows neutral, happiness, anger" in message
    assert "--map contempt= (NAME= drops a class, NAME=OTHER merges it)" in message
    assert "--map contempt=" in message
    assert [entry.name for entry in here.iterdir()] == ["more"]


def test_unused_label_of_the_data_is_no_obstacle(trained, here):
    faces, names = banded_faces(60)
    extra = write_faces(here / "extra", faces, names, ["test"] * 60, labels=(*LABELS, "contempt"))
    assert evaluate_run(RunFolder.open(trained.one), data=extra.path, figures=False)["n"] == 60


def test_majority_protocol_scores_only_faces_with_a_majority(trained, here):
    faces, names = banded_faces(40)
    votes = np.zeros((40, 10), int)
    for row, name in enumerate(names):
        votes[row, {"neutral": 0, "happiness": 1, "anger": 4}[name]] = 8
    votes[:10] = [4, 0, 0, 0, 4, 0, 0, 0, 0, 0]  # a tie: no majority
    columns = dict(zip(VOTE_COLUMNS, votes.T, strict=True))
    voted = write_faces(here / "voted", faces, names, ["test"] * 40, **columns)
    run = RunFolder.open(trained.one)
    assert evaluate_run(run, data=voted.path, figures=False)["protocol"] == "majority"
    assert evaluate_run(run, data=voted.path, figures=False)["n"] == 30
    assert evaluate_run(run, data=voted.path, protocol="label", figures=False)["n"] == 40


def test_data_without_a_test_split_is_scored_on_validation_and_says_so(trained, here):
    faces, names = banded_faces(30)
    write_faces(here / "v", faces, names, ["validation"] * 30)
    result = evaluate_run(RunFolder.open(trained.one), data="v", figures=False)
    assert result["split"] == "validation"
    assert any("no test faces" in note for note in result["notes"])


def test_empty_split_is_refused_and_the_others_are_named(trained, here, capsys):
    faces, names = banded_faces(30)
    write_faces(here / "v", faces, names, ["validation"] * 30)
    message = refused(capsys, "--model", trained.exported, "--data", "v", "--split", "test")
    assert "v has no test faces; it has validation" in message
    assert not (here / "reports").exists()


def test_protocol_that_the_data_cannot_serve_is_refused(trained, here, capsys):
    assert "no FER+ votes" in refused(capsys, "--run", trained.one, "--protocol", "majority")
    assert "no FER2013 labels" in refused(capsys, "--run", trained.one, "--protocol", "fer2013")


def test_missing_and_wrong_model_folders_are_refused(trained, here, capsys):
    assert "no model nowhere" in refused(capsys, "--run", "nowhere")
    missing = refused(capsys, "--model", trained.exported.parent / "other", "--data", trained.data)
    assert "other" in missing
    assert "bands-cnn" in missing  # what is there
    assert "neither a run folder" in refused(capsys, "--model", trained.data, "--data", trained.data)
    assert "name it with --model" in refused(capsys, "--run", trained.exported)
    assert "name it with --run" in refused(capsys, "--model", trained.one, "--data", trained.data)
    assert "--run" in refused(capsys)


def test_damaged_exported_model_is_refused(trained, here, capsys):
    shutil.copytree(trained.exported, here / "damaged")
    (here / "damaged" / "saved_model.pb").write_bytes(b"no")
    assert "damaged" in refused(capsys, "--model", "damaged", "--data", trained.data)


def test_exported_model_needs_data_and_no_model_may_be_named_twice(trained, here, capsys):
    assert "--data" in refused(capsys, "--model", trained.exported)
    assert "twice" in refused(capsys, "--run", trained.one, trained.one)


def test_output_that_cannot_be_written_is_one_line(trained, here, capsys):
    (here / "file").write_text("in the way")
    assert "file" in refused(capsys, "--run", trained.one, "--out", "file")


def test_unknown_split_is_refused_by_the_command_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--run", "x", "--split", "holdout"])
    assert stopped.value.code == 2
    assert "holdout" in capsys.readouterr().err
