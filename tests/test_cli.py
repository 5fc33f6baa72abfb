import pytest

from fer_keras import cli


@pytest.mark.parametrize("given", [None, "function"])
def test_underscores_stand_for_hyphens_in_options_alone(monkeypatch, given):
    parser = cli.CommandParser()
    parser.add_argument("--batch-size")
    parser.add_argument("paths", nargs="*")
    words = ["--batch_size=my_size", "a_b.jpg", "--", "--my_photo.jpg", "--batch_size", "--"]
    monkeypatch.setattr("sys.argv", ["command", *words])
    args = parser.parse_args(words if given else None)
    assert args.batch_size == "my_size"
    assert args.paths[:3] == ["a_b.jpg", "--my_photo.jpg", "--batch_size"]
