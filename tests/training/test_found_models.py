"""The commands that judge models find the shipped ones by name, from a folder in which there is nothing."""

from pathlib import Path

import commandline
import pytest
from tiny_runs import write_bars

from training import apply, bias, compare, corruptions, ensemble, evaluate

SHIPPED = Path(__file__).resolve().parents[2] / "saved_models"
FEW = ("--min-n", "2", "--min-cell", "2", "--repeats", "100", "--no-figures")


@pytest.fixture(autouse=True)
def faces(here):
    """18 test faces of men and women, with others, as "faces"."""
    return write_bars(here / "faces")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (evaluate, ["--model", "ferplus-cnn", "--no-figures"]),
        (evaluate, ["--model", "saved_models/ferplus-cnn", "fer2013-cnn", "--no-figures"]),
        (bias, ["--model", "ferplus-cnn", "--by", "gender", *FEW]),
        (corruptions, ["--model", "saved_models/ferplus-cnn", "--corruptions", "roll=10"]),
        (apply, ["--model", "ferplus-cnn", "--select", "3"]),
        (compare, ["ferplus-cnn", "saved_models/fer2013-cnn"]),
    ],
    ids=lambda value: value.__name__ if hasattr(value, "__name__") else " ".join(value[:3]),
)
def test_a_shipped_model_is_judged(command, words, capsys):
    code, _, said = commandline.run(command.main, capsys, *words, "--data", "faces")
    assert code == 0, said
    assert not Path("saved_models").exists()


def test_a_shipped_model_joins_an_ensemble():
    members = ensemble.joined_members(["ferplus-cnn", "saved_models/ferplus-densenet121"])
    assert [member.path for member in members] == [SHIPPED / "ferplus-cnn", SHIPPED / "ferplus-densenet121"]


def test_joined_models_are_looked_for_in_saved_models_as_the_settings_have_it(capsys, here):
    (here / "exports" / "mine").mkdir(parents=True)
    (here / "exports" / "mine" / "metadata.json").touch()
    said = commandline.refused(ensemble.main, capsys, "--join", "mine", "nobody", "--saved-models", "exports", "--data", "faces")
    assert "there is no model nobody" in said
    assert "in exports or shipped (fer2013-cnn, fer2013-ensemble, ferplus-cnn, " in said and ", mine" in said


def test_one_model_by_two_names_is_one(capsys):
    for command, words in (
        (compare, ["ferplus-cnn", "saved_models/ferplus-cnn"]),
        (evaluate, ["--model", "ferplus-cnn", str(SHIPPED / "ferplus-cnn")]),
        (corruptions, ["--model", "ferplus-cnn", "saved_models/ferplus-cnn"]),
        (ensemble, ["--join", "ferplus-cnn", "saved_models/ferplus-cnn"]),
    ):
        assert "is named twice" in commandline.refused(command.main, capsys, *words, "--data", "faces")


@pytest.mark.parametrize("command", [evaluate, bias, corruptions, apply])
def test_a_wrong_name_is_told_with_the_models_that_there_are_and_nothing_else(command, capsys, here):
    (here / "runs").mkdir()
    by = ["--by", "gender"] if command is bias else []
    said = commandline.refused(command.main, capsys, "--model", "nobody", "--data", "faces", *by)
    there = said.partition("shipped (")[2]
    assert said.startswith(
        f"python -m training.{command.__name__.partition('.')[2]}: error: there is no model nobody; expected a run"
    )
    assert {"ferplus-cnn", "ferplus-ensemble", "fer2013-cnn", "ferplus-densenet121"} <= set(there.rstrip(")").split(", "))
    assert "faces" not in there and "runs" not in there
