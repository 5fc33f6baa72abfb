"""Balancing in training: new pictures, DRO, and what a killed run gets back."""

import json

import numpy as np
import pandas as pd
import pytest
from tiny_runs import MEASURED, TINY, fit, history, shallow_densenet, start_only, write_bars, write_lopsided

from fer_keras.errors import ConfigError
from training import loop
from training.config import TrainConfig
from training.dro import group_dro


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_bars(tmp_path_factory.mktemp("data") / "bars")


@pytest.fixture(scope="module")
def lopsided(tmp_path_factory):
    return write_lopsided(tmp_path_factory.mktemp("data") / "lopsided")


DRO = {"balance": ["gender"], "balance_by": "dro", "dro_step": 0.1}


@pytest.fixture(scope="module")
def dro(dataset, tmp_path_factory):
    return fit(dataset, tmp_path_factory.mktemp("runs") / "dro", **{**TINY, **DRO, "epochs": 3})[0]


# Group DRO


def test_group_dro_is_algorithm_1_of_sagawa_worked_out_by_hand():
    """Three groups, the last absent from the batch, one face in no group."""
    import keras

    loss = group_dro(keras.losses.CategoricalCrossentropy(), cells=3, step=0.5)
    truth = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]
    said = np.array([[0.9, 0.1], [0.7, 0.3], [0.4, 0.6], [0.5, 0.5]], np.float32)
    cell = np.array([0, 1, 1, -1], np.float32)
    value = float(loss(truth, said, cell))
    each = -np.log([0.9, 0.3, 0.4, 0.5])
    of_group = np.array([each[0], (each[1] + each[2]) / 2, 0.0])
    weights = np.full(3, 1 / 3) * np.exp(0.5 * of_group)
    weights /= weights.sum()
    assert np.asarray(loss.weights) == pytest.approx(weights, rel=1e-5)
    # Three of the four faces are in groups, one has its plain share of the batch.
    assert value == pytest.approx(0.75 * (weights * of_group).sum() + 0.25 * each[3], rel=1e-5)
    assert float(loss(truth, said)) == pytest.approx(each.mean(), rel=1e-5)
    assert np.asarray(loss.weights) == pytest.approx(weights, rel=1e-5)  # judging is no step


def test_dro_weights_stay_numbers_whatever_the_step_and_a_group_at_nothing_comes_back():
    """exp(100 * 6.9) has no place in float32; the losses are 6.9 and 0.001, and then the other way round."""
    import keras

    loss = group_dro(keras.losses.CategoricalCrossentropy(), cells=2, step=100)
    truth = np.eye(2, dtype=np.float32)[[0, 0]]
    said = np.array([[0.001, 0.999], [0.999, 0.001]], np.float32)
    for _ in range(3):
        value = float(loss(truth, said, np.array([0, 1], np.float32)))
    assert np.asarray(loss.weights) == pytest.approx([1, 0])
    assert value == pytest.approx(-np.log(0.001), rel=1e-3)
    loss(truth, said, np.array([1, 0], np.float32))
    assert np.asarray(loss.weights) == pytest.approx([0, 1])


def test_dro_lowers_the_loss_of_the_group_that_plain_training_gives_up():
    """One weight can't serve both groups: of 10 faces 9 want it high and 1 low. Plain training serves the nine."""
    import keras

    inputs = np.ones((10, 1), np.float32)
    truth = np.eye(2, dtype=np.float32)[[1] * 9 + [0]]
    cell = np.array([0] * 9 + [1], np.float32)
    worst = {}
    for name in ("plain", "dro"):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, activation="softmax", use_bias=False)])
        loss = keras.losses.CategoricalCrossentropy()
        model.compile("sgd", loss=group_dro(loss, 2, 0.05) if name == "dro" else loss)
        model.optimizer.learning_rate = 0.1
        for _ in range(300):
            model.train_on_batch(inputs, truth, sample_weight=cell if name == "dro" else None)
        said = model(inputs).numpy()
        each = -np.log((said * truth).sum(axis=1))
        worst[name] = max(each[:9].mean(), each[9:].mean())
    assert worst["plain"] == pytest.approx(-np.log(0.1), rel=0.1)  # it says 9 to 1, as the faces are
    assert worst["dro"] == pytest.approx(np.log(2), rel=0.1)  # the best that one weight can do for the worse off


def test_dro_weights_are_recorded_and_grow_for_the_harder_group(dro):
    weights = dro.metrics["dro_weights"]
    assert list(weights) == ["Female", "Male"]
    assert sum(weights.values()) == pytest.approx(1, rel=1e-5)
    assert weights["Female"] != 0.5


def test_a_killed_dro_run_ends_as_the_unbroken_one(dro, dataset, tmp_path, monkeypatch):
    run = start_only(dataset, tmp_path / "killed", **{**TINY, **DRO, "epochs": 3})
    config = TrainConfig.from_dict(run.config)
    parts = (dataset.subset(run.rows("train")), dataset.subset(run.rows("validation")))
    write = loop.write_history

    def killed(path, lines):
        write(path, lines)
        if len(lines) == 2:
            raise SystemExit("killed")

    monkeypatch.setattr(loop, "write_history", killed)
    with pytest.raises(SystemExit, match="killed"):
        loop.fit_one(config, *parts, run)
    monkeypatch.setattr(loop, "write_history", write)
    saved = json.loads((run.state_path / "state.json").read_text())["dro"]
    assert len(saved) == 2
    assert saved != [0.5, 0.5]
    loop.fit_one(config, *parts, run)
    pd.testing.assert_frame_equal(history(run)[MEASURED], history(dro)[MEASURED], check_exact=True)
    assert run.metrics["dro_weights"] == dro.metrics["dro_weights"]
    pixels = dataset.faces[:8].astype(np.float32)
    assert np.array_equal(run.load_model("final")(pixels), dro.load_model("final")(pixels))


def test_dro_serves_the_small_group_that_plain_training_neglects(lopsided, tmp_path):
    """Recall of the test women, counted from the models' own answers."""
    rows = lopsided.rows("test")
    women = rows[lopsided.manifest["gender"].to_numpy(str)[rows] == "female"]
    right = {}
    settings = {**TINY, "epochs": 12, "dropout": 0.0, "augment": False, "balance_by": "weight"}
    for name, more in (("none", {}), ("dro", DRO)):
        run, _ = fit(lopsided, tmp_path / name, **{**settings, **more})
        said = run.load_model("final")(lopsided.faces[women].astype(np.float32)).numpy().argmax(axis=1)
        right[name] = (said == lopsided.label_indices[women]).mean()
    assert right["dro"] > right["none"] + 0.2


def test_dro_trains_on_the_stored_features_of_a_frozen_backbone_too(dataset, tmp_path, monkeypatch):
    shallow_densenet(monkeypatch)
    settings = {
        "arch": "densenet121",
        "weights": "none",
        "input_size": 32,
        "batch_size": 16,
        "frozen_batch_size": 16,
        "tensorboard": False,
    }
    settings |= {"frozen_epochs": 2, "finetune_epochs": 0, "augment": False}
    cached, _ = fit(dataset, tmp_path / "cached", **settings, **DRO)
    weights = cached.metrics["dro_weights"]
    assert sum(weights.values()) == pytest.approx(1, rel=1e-5)
    assert weights["Female"] != 0.5


# New pictures and mirrored ones


def test_training_with_new_pictures_is_training_on_the_data_set_that_has_them_written_out(lopsided, tmp_path):
    from training.synthesize import synthesize

    settings = {**TINY, "epochs": 2}
    balance = {"balance": ["label", "gender"], "balance_by": "augment"}
    made, _ = fit(lopsided, tmp_path / "made", **settings, **balance)
    config = TrainConfig(**settings)
    written = synthesize(lopsided, ["label", "gender"], tmp_path / "written", config.new_pictures(), seed=config.seed)
    plain, _ = fit(written, tmp_path / "plain", **settings)
    pd.testing.assert_frame_equal(history(made)[MEASURED], history(plain)[MEASURED], check_exact=True)
    assert made.metrics["n_train"] == len(written.rows("train"))
    assert set(made.metrics["cells"].values()) == {27}  # a third of the 80 men, rounded up


def test_mean_flip_trains_with_the_mean_of_each_group(lopsided, tmp_path):
    run, _ = fit(lopsided, tmp_path / "run", **{**TINY, "epochs": 1, "balance": ["gender"], "balance_by": "mean-flip"})
    assert run.metrics["cells"] == {"female": 48, "male": 48}
    assert run.metrics["n_train"] == 96


# Settings that do not go together


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"balance_by": "dro"}, "--balance-by dro needs cells to balance, such as --balance label"),
        ({"balance": ["label"], "balance_target": 10}, "--balance-target is for --balance-by augment"),
        ({"balance": ["label"], "balance_by": "copies"}, "balance-by must be one of weight, resample, augment, mean-flip, dro"),
        ({"balance": ["label"], "balance_by": "dro", "dro_step": 0}, "dro-step must be from"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, expected):
    with pytest.raises(ConfigError, match=expected):
        TrainConfig(**settings)


def test_balance_none_wins_over_a_config_file_that_balances(tmp_path):
    from training import config, train

    (tmp_path / "c.yaml").write_text("balance: label\nbalance-by: dro\n")
    args = train.build_parser().parse_args(["--config", str(tmp_path / "c.yaml"), "--balance", "none"])
    made = config.from_arguments(args, args.config)
    assert (made.balance, made.balance_by) == ([], "weight")
