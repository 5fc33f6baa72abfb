"""The two phases of a DenseNet, and training one from scratch."""

import shutil
import time

import numpy as np
import pandas as pd
import pytest
from tiny_runs import MEASURED, continue_run, fit, history, shallow_densenet, write_bars

from training.run_folder import RunFolder

DENSE = {
    "arch": "densenet",
    "weights": "none",
    "frozen_epochs": 2,
    "finetune_epochs": 2,
    "batch_size": 16,
    "frozen_batch_size": 16,
    "head_units": [16],
    "tensorboard": False,
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_bars(tmp_path_factory.mktemp("data") / "bars")


@pytest.fixture(scope="module")
def dense(dataset, tmp_path_factory):
    """With all its 121 layers, to its end."""
    return fit(dataset, tmp_path_factory.mktemp("dense") / "dense", **DENSE)


@pytest.fixture
def shallow(monkeypatch):
    shallow_densenet(monkeypatch)


@pytest.fixture
def eagerly():
    """Steps run operation by operation: for a handful of them that is far quicker than tracing a DenseNet."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def test_both_phases_run_and_only_the_second_changes_the_backbone(dense, dataset):
    run, result = dense
    assert history(run)["phase"].tolist() == ["frozen", "frozen", "finetune", "finetune"]
    assert set(result.seconds) == {"frozen", "finetune"}
    started, ended = run.spec.build(seed=0), run.load_model("final")
    changed = {
        layer.name.split("_")[0]
        for layer, fresh in zip(ended.get_layer("backbone").layers, started.get_layer("backbone").layers, strict=True)
        if "_bn" not in layer.name
        and not layer.name.endswith("bn")
        and any(not np.array_equal(a, b) for a, b in zip(layer.get_weights(), fresh.get_weights(), strict=True))
    }
    assert changed <= {"conv5", "pool4"}
    assert "conv5" in changed


def test_a_densenet_killed_while_fine_tuning_ends_as_the_unbroken_one(shallow, dataset, tmp_path, monkeypatch):
    """In a new process, from the disk as a kill after the first epoch of fine-tuning would have left it.

    Killing for real, which takes tracing a DenseNet once more, is left to test_loop.
    """
    from training import loop

    out, write_history = tmp_path / "dense", loop.write_history

    def then_copy(path, history):
        write_history(path, history)
        if len(history) == 3:
            shutil.copytree(out, out.with_name("killed"))

    monkeypatch.setattr(loop, "write_history", then_copy)
    unbroken, _ = fit(dataset, out, **DENSE)
    run = RunFolder.open(out.with_name("killed"))
    assert len(history(run)) == 3
    assert not run.finished
    done = continue_run(run, shallow=True)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_frame_equal(history(run)[MEASURED], history(unbroken)[MEASURED], check_exact=True)


def test_cached_features_give_the_result_of_the_slow_way_and_augmented_views_another(shallow, dataset, tmp_path, eagerly):
    """Without augmentation and dropout both ways train the same head on the same numbers."""
    settings = {**DENSE, "finetune_epochs": 0, "frozen_epochs": 1, "frozen_batch_size": 32, "dropout": 0.0}
    cached, _ = fit(dataset, tmp_path / "cached", **settings, augment=False)
    live, _ = fit(dataset, tmp_path / "live", **settings, augment=False, frozen_features="live")
    assert history(cached)["val_loss"].tolist() == pytest.approx(history(live)["val_loss"].tolist(), rel=1e-2)
    views, _ = fit(dataset, tmp_path / "views", **settings, feature_views=2)
    assert len(history(views)) == 1
    assert history(views)["val_loss"].tolist() != pytest.approx(history(cached)["val_loss"].tolist(), rel=1e-2)


def test_without_a_frozen_phase_the_whole_network_learns_from_scratch(shallow, dataset, tmp_path, eagerly):
    # In float32, since the first two steps of Adam in bfloat16 follow noise; some epochs later nothing is left of that.
    settings = {**DENSE, "frozen_epochs": 0, "finetune_epochs": 1, "batch_size": 30, "precision": "float32"}
    run, _ = fit(dataset, tmp_path / "scratch", **settings)
    assert history(run)["phase"].tolist() == ["scratch"]
    # Statistics that lag behind the weights have a loss of 2.4 here, of 8 with all 121 layers; chance has 1.1.
    assert history(run)["val_loss"].iloc[-1] < 2
    fresh, ended = (model.get_layer("backbone") for model in (run.spec.build(seed=0), run.load_model("final")))
    for name in ("conv1_conv", "conv1_bn", "conv5_block2_2_conv"):
        assert not np.array_equal(fresh.get_layer(name).get_weights()[0], ended.get_layer(name).get_weights()[0]), name


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_float16_has_its_loss_scaled_where_all_is_trained_at_once(shallow, dataset, tmp_path, monkeypatch, precision):
    """It has no numbers as small as most gradients; bfloat16 has."""
    import keras

    class CompiledError(Exception):
        pass

    def stop(self, *args, **more):
        raise CompiledError(type(self.optimizer).__name__)

    monkeypatch.setattr(keras.Model, "fit", stop)
    expected = "LossScaleOptimizer" if precision == "mixed_float16" else "AdamW"
    with pytest.raises(CompiledError, match=f"^{expected}$"):
        fit(dataset, tmp_path / "scratch", **{**DENSE, "frozen_epochs": 0, "precision": precision})


def test_ctrl_c_in_the_first_epoch_of_fine_tuning_leaves_the_weights_that_it_began_with(
    dataset, shallow, eagerly, tmp_path, recwarn
):
    """The epoch that was cut short counts for nothing."""
    import os
    import signal
    import threading

    log = tmp_path / "run" / "log.txt"

    def interrupt():
        while not (log.is_file() and "Phase finetune" in log.read_text()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    settings = {**DENSE, "frozen_epochs": 1, "finetune_epochs": 1, "batch_size": 1, "finetune_lr": 0.1}
    run, result = fit(dataset, tmp_path / "run", **settings)
    assert result.interrupted
    assert not [told for told in recwarn if "optimizer" in str(told.message)]
    began, final = run.spec.build(seed=0), run.load_model("final")
    began.load_weights(run.path / "state" / "phase.weights.h5")
    for ours, theirs in zip(final.get_weights(), began.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_ctrl_c_while_fine_tuning_loses_no_better_epoch_of_the_frozen_phase(dataset, shallow, eagerly, tmp_path, monkeypatch):
    """While the second phase is young its latest epoch counts as its best; what Ctrl-C exports then may not count in the end."""
    import signal

    import keras

    from training import loop
    from training.config import TrainConfig

    losses, evaluate, write_history = [1.0, 0.5, 2.0], keras.Model.evaluate, loop.write_history

    def scripted(self, *args, **more):
        return {**evaluate(self, *args, **more), "loss": losses.pop(0)}

    def then_stop(path, history):
        write_history(path, history)
        if len(history) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(keras.Model, "evaluate", scripted)
    monkeypatch.setattr(loop, "write_history", then_stop)
    run, stopped = fit(dataset, tmp_path / "run", **{**DENSE, "frozen_epochs": 1, "best_after": 3})
    assert (stopped.interrupted, stopped.best_epoch, stopped.best_val_loss) == (True, 2, 0.5)
    began, best = run.spec.build(seed=0), run.load_model("best")
    began.load_weights(run.path / "state" / "phase.weights.h5")  # those that fine-tuning began with
    kernels = [model.get_layer("backbone").get_layer("conv5_block2_2_conv").get_weights()[0] for model in (began, best)]
    assert not np.array_equal(*kernels)

    monkeypatch.setattr(loop, "write_history", write_history)
    parts = [dataset.subset(run.rows(split)) for split in ("train", "validation")]
    result = loop.fit_one(TrainConfig.from_dict(run.config), *parts, run)
    assert (result.epochs, result.best_epoch, result.best_val_loss) == (3, 1, 1.0)
    for ours, theirs in zip(run.load_model("best").get_weights(), began.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
