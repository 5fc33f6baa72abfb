import dataclasses
import re
from pathlib import Path

import pytest

from fer_keras.errors import ConfigError
from fer_keras.files import whole_folder
from training import config, train

SHIPPED = Path(__file__).parents[2] / "training" / "configs"


def parse(*words):
    args = train.build_parser().parse_args(list(words))
    return config.from_arguments(args, args.config)


def test_every_setting_has_a_flag_and_the_file_takes_the_same_names(tmp_path):
    flags = train.build_parser().format_help()
    for item in dataclasses.fields(config.TrainConfig):
        spelled = item.metadata.get("switch", ("--option",) if item.name == "options" else ("--" + item.name.replace("_", "-"),))
        assert all(flag in flags for flag in spelled), item.name
    file = tmp_path / "all.json"
    import json

    file.write_text(json.dumps(config.TrainConfig().to_dict()))
    assert parse("--config", str(file)) == config.TrainConfig()


def test_flags_win_over_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("arch: resnet\nlr: 1e-3\nbatch-size: 7\nlayers: [8, 16]\naugment: false\n")
    made = parse("--config", str(file), "--lr", "0.5", "--option", "normalize=standardize")
    assert (made.arch, made.lr, made.batch_size, made.layers, made.augment) == ("resnet", 0.5, 7, [8, 16], False)
    assert made.options == {"normalize": "standardize"}


def test_epochs_on_the_command_line_win_over_the_phases_of_the_file(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("arch: densenet\nfrozen_epochs: 20\nfinetune_epochs: 8\n")

    def phases(*words):
        made = parse("--config", str(file), *words).resolved()
        return made.frozen_epochs, made.finetune_epochs

    assert phases() == (20, 8)
    assert phases("--epochs", "3") == (3, 3)
    assert phases("--epochs", "3", "--finetune-epochs", "1") == (3, 1)
    file.write_text("arch: densenet\nfrozen_epochs: 0\nfinetune_epochs: 8\n")  # all is trained at once
    assert phases("--epochs", "3") == (0, 3)


def test_balance_none_undoes_all_that_the_file_says_of_it(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("balance: label\nbalance_by: augment\nbalance_target: 100\n")
    made = parse("--config", str(file), "--balance", "none")
    assert (made.balance, made.balance_by, made.balance_target) == ([], "weight", None)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--arch cnn --frozen-epochs 3", "--frozen-epochs changes nothing here: it is for a densenet"),
        ("--feature-views 2", "--feature-views"),
        ("--no-augment --dark 0.8", "--dark.*leave out --no-augment"),
        ("--dro-step 0.1 --balance label", "--dro-step.*--balance-by dro"),
        ("--balance-power 0.5", "--balance-power.*--balance label"),
        ("--no-augment --rotate 3", "--rotate changes nothing here.*leave out --no-augment"),
        ("--no-augment --balance label --balance-by augment --erase 0.1", "--erase changes nothing here"),
        ("--optimizer sgd --weight-decay 0.5", "--weight-decay.*--optimizer adamw"),
        ("--epochs 3 --best-after 3", "--best-after 3 leaves no epoch to choose from; there are 3"),
        ("--arch densenet --epochs 3 --best-after 6", "--best-after 6 leaves no epoch to choose from; there are 6"),
        ("--arch densenet --finetune-epochs 0 --rotate 3", "--rotate.*give --feature-views"),
        ("--arch densenet --finetune-epochs 0 --batch-size 8", "--batch-size.*give --frozen-batch-size"),
        ("--arch densenet --finetune-epochs 0 --mixup 0.2", "--mixup.*pictures, not cached features"),
        ("--arch densenet --finetune-epochs 0 --finetune-lr 1e-4", "--finetune-lr.*then fine-tuned"),
        ("--arch densenet --frozen-epochs 0 --unfreeze-blocks 2", "--unfreeze-blocks.*then fine-tuned"),
        ("--arch densenet --frozen-epochs 0 --frozen-batch-size 8", "--frozen-batch-size.*with frozen epochs"),
        ("--arch densenet --frozen-epochs 0 --frozen-features live", "--frozen-features.*with frozen epochs"),
        ("--arch densenet --frozen-epochs 0 --feature-views 2", "--feature-views.*with frozen epochs"),
        ("--arch densenet --no-augment --feature-views 3", "--feature-views.*varied pictures"),
        ("--arch densenet --frozen-features live --feature-views 3", "--feature-views.*cached"),
        ("--option normalize=[a", r"--option normalize can't be '\[a'"),
    ],
)
def test_flags_that_change_nothing_or_make_no_sense_are_refused(words, expected, capsys):
    assert train.main([*words.split(), "--data", "nowhere"]) == 2
    assert re.search(expected, capsys.readouterr().err)


@pytest.mark.parametrize(
    "words",
    [
        "--no-augment --balance label --balance-by augment --no-flip --rotate 3 --shift 0 --brightness 0 --contrast 0.1",
        "--epochs 3 --best-after 2 --batch-size 8",
        "--arch densenet --finetune-epochs 0 --balance label --balance-by augment --rotate 3",
        "--arch densenet --finetune-epochs 0 --feature-views 2 --rotate 3 --zoom 0.1",
        "--arch densenet --finetune-epochs 0 --frozen-features live --frozen-batch-size 8 --rotate 3 --mixup 0.2",
        "--arch densenet --finetune-epochs 2 --rotate 3 --cutmix 1 --finetune-lr 1e-4 --unfreeze-blocks 2 --feature-views 2",
        "--arch densenet --frozen-epochs 0 --rotate 3 --cutmix 1",
    ],
)
def test_flags_that_change_something_are_taken(words):
    args = train.build_parser().parse_args(words.split())
    config.refuse_idle(config.given_settings(args), config.from_arguments(args, None))


def test_what_a_file_holds_for_another_network_is_left_alone(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("arch: densenet\nfrozen_epochs: 3\ndark: 0.8\nbalance: label\nbalance_power: 0.3\n")
    words = ["--config", str(file), "--arch", "cnn", "--no-augment", "--balance", "none", "--epochs", "2"]
    args = train.build_parser().parse_args(words)
    config.refuse_idle(config.given_settings(args), config.from_arguments(args, args.config).resolved())


def test_underscores_are_read_as_hyphens():
    assert parse("--batch_size", "5", "--label_smoothing=0.1").batch_size == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epoch: 3", "unknown setting 'epoch'.*did you mean 'epochs'"),
        ("- 1", "must hold `name: value` lines"),
        ("epochs: many", "setting 'epochs'"),
        ("epochs: 2.5", "whole number"),
        ("epochs: .inf", "setting 'epochs'"),
        ("epochs: true", "a number expected"),
        ("layers: [4.7, 8]", "setting 'layers'.*whole number"),
        ("rotate: yes", "setting 'rotate'.*a number expected"),
        ("options: [1, 2]", "setting 'options'.*names and values expected"),
        ("augment: maybe", "true or false"),
        ("optimizer: lion", "optimizer must be one of adamw"),
        ("batch_size: 0", "batch-size must be from 1"),
        ("a: [", "can't read"),
    ],
)
def test_a_wrong_file_is_refused_naming_the_setting(tmp_path, text, expected):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=expected):
        parse("--config", str(file))


def test_a_missing_file_is_refused():
    with pytest.raises(ConfigError, match=r"can't read the config file nowhere\.yaml"):
        parse("--config", "nowhere.yaml")


@pytest.mark.parametrize("called", ["fer2013-cnn-start", "fer2013-cnn-start.yaml", "training/configs/fer2013-cnn-start.yaml"])
def test_a_shipped_file_is_found_from_any_folder_unless_one_is_there(tmp_path, monkeypatch, called):
    shipped = config.read_config_file(SHIPPED / "fer2013-cnn-start.yaml")
    assert shipped["weights"] == "ferplus-cnn-longer"
    monkeypatch.chdir(tmp_path)
    assert config.read_config_file(called) == shipped
    assert parse("--config", called).weights == "ferplus-cnn-longer"
    Path(called).parent.mkdir(parents=True, exist_ok=True)
    Path(called).write_text("weights: mine")
    assert config.read_config_file(called) == {"weights": "mine"}


@pytest.mark.parametrize(
    "called", ["nowhere", "configs/fer2013-cnn-start.yaml", "reproduce.sh", "/training/configs/fer2013-cnn.yaml"]
)
def test_a_file_that_is_neither_there_nor_shipped_is_refused_with_those_that_are(tmp_path, monkeypatch, called):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=f"can't read the config file {called}: .*; shipped are drawn-densenet121, fer2013-cnn, .*"
    ):
        config.read_config_file(called)


def test_unknown_flags_are_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        parse("--epoch", "3")
    assert stopped.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ConfigError, match="soft targets.*--one-hot"):
        parse("--sparse", "--targets", "soft")
    with pytest.raises(ConfigError, match="label smoothing needs --one-hot"):
        parse("--sparse", "--label-smoothing", "0.1")
    with pytest.raises(ConfigError, match="mixed targets.*--one-hot"):
        parse("--sparse", "--cutmix", "1")
    with pytest.raises(ConfigError, match="DRO needs pictures that are of one cell"):
        parse("--balance", "gender", "--balance-by", "dro", "--mixup", "0.2")
    with pytest.raises(ConfigError, match="give one of them"):
        parse("--cutmix", "1", "--mixup", "0.2")
    with pytest.raises(ConfigError, match="leave --mixup and --cutmix out"):
        parse("--mixup", "0.2", "--no-augment")


def test_pictures_are_mixed_where_that_is_asked_for_and_pictures_may_be_varied():
    assert parse("--cutmix", "1").mixing().cutmix == 1
    assert parse().mixing() is None


def test_defaults_depend_on_the_architecture():
    one, two = parse("--arch", "cnn").resolved(), parse("--arch", "densenet").resolved()
    assert one.epochs and one.frozen_epochs is None
    assert two.arch == "densenet121"
    assert two.frozen_epochs and two.finetune_epochs and two.epochs is None
    whole = parse("--arch", "densenet", "--frozen-epochs", "0").resolved()
    assert (one.lr, two.lr, whole.lr) == (0.001, 0.003, 0.001)  # what is frozen has a head alone to teach
    assert parse("--arch", "densenet", "--lr", "0.01").resolved().lr == 0.01
    short = parse("--arch", "densenet", "--epochs", "2").resolved()
    assert (short.frozen_epochs, short.finetune_epochs) == (2, 2)
    assert parse("--arch", "densenet", "--epochs", "2", "--finetune-epochs", "0").resolved().finetune_epochs == 0


def test_the_best_model_is_looked_for_after_epoch_10_or_earlier_in_short_runs():
    assert parse("--epochs", "60").resolved().best_after == 10
    assert parse("--epochs", "6").resolved().best_after == 2
    assert parse("--epochs", "6", "--best-after", "5").resolved().best_after == 5


def test_a_name_to_export_under_is_not_that_of_another_folder(tmp_path):
    """Told before the training, not when all is trained."""
    (tmp_path / "mine").mkdir()
    settings = config.TrainConfig(export="mine", saved_models=str(tmp_path), overwrite=True)
    train.check_export(settings)
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="mine is not an exported model"):
        train.check_export(settings)


@pytest.mark.parametrize("export", [None, "mine"])
@pytest.mark.parametrize("folder", ["file", "file/below", "nowhere"])
def test_a_folder_for_models_that_is_a_file_is_told_before_the_training(tmp_path, export, folder):
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    settings = config.TrainConfig(export=export, saved_models=str(tmp_path / folder))
    with pytest.raises(ConfigError, match=f"--saved-models .*{folder}: .*(file|nowhere) is no folder; name another"):
        train.check_export(settings)


@pytest.mark.parametrize(("letter", "longest"), [("a", 240), ("ä", 120)])
def test_a_name_to_export_under_leaves_room_for_that_of_the_folder_while_it_is_written(tmp_path, letter, longest):
    """A file system has names of 255 bytes."""
    train.check_export(config.TrainConfig(export=letter * longest, saved_models=str(tmp_path)))
    with whole_folder(tmp_path / (letter * longest)):
        pass
    with pytest.raises(ConfigError, match="--export is a name of 240 bytes at most, got 24[12]"):
        train.check_export(config.TrainConfig(export=letter * (longest + 1), saved_models=str(tmp_path)))


@pytest.mark.parametrize("line", ["weights:", "batch_size: null", "augment: ~"])
def test_a_setting_that_a_file_leaves_empty_is_refused_by_name(tmp_path, line):
    file = tmp_path / "empty.yaml"
    file.write_text(f"epochs: 3\n{line}\n")
    with pytest.raises(ConfigError, match=f"setting '{line.split(':')[0]}' in .*empty.yaml is empty; leave it out"):
        config.TrainConfig.from_dict(config.read_config_file(str(file)), origin=str(file))


def test_a_setting_whose_default_is_none_may_be_left_empty():
    assert config.TrainConfig.from_dict({"data": None, "export": None}) == config.TrainConfig()
