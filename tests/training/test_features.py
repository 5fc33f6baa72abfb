"""What folds share: a frozen backbone and its features."""

import os
import signal

import numpy as np
import pytest
from tiny_runs import fit, history, shallow_densenet, write_bars

from fer_keras.models import densenet
from training import features
from training.config import TrainConfig
from training.features import FeatureStore
from training.train import model_spec

SETTINGS = {
    "arch": "densenet",
    "frozen_epochs": 2,
    "finetune_epochs": 0,
    "batch_size": 16,
    "frozen_batch_size": 16,
    "head_units": [16],
    "feature_views": 1,
    "tensorboard": False,
    "precision": "float32",
}


@pytest.fixture(scope="module", autouse=True)
def shallow():
    with pytest.MonkeyPatch.context() as patch:
        shallow_densenet(patch)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_bars(tmp_path_factory.mktemp("data") / "bars")


@pytest.fixture(scope="module")
def store(dataset, tmp_path_factory):
    """Of all faces, with a backbone in a file, as a pretrained one is."""
    folder = tmp_path_factory.mktemp("shared")
    first = FeatureStore(*described(dataset, weights="none"), dataset, folder / "random", dataset.rows())
    first.start()
    first.model.get_layer("backbone").save_weights(folder / "backbone.weights.h5")
    config, spec = described(dataset, weights=str(folder / "backbone.weights.h5"))
    made = FeatureStore(config, spec, dataset, folder / "features", dataset.rows(), keep=True)
    made.start()
    made.compute_all()
    return made


def described(dataset, **settings):
    config = TrainConfig(data=str(dataset.path), **{**SETTINGS, **settings}).resolved()
    return config, model_spec(config, dataset)


def test_features_are_what_the_backbone_gives(store, dataset):
    rows = np.array([70, 3, 3, 41])
    pixels = dataset.faces[rows].astype(np.float32)
    expected = store.model.get_layer("backbone")(pixels, training=False).numpy()
    np.testing.assert_allclose(store.features(rows), expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(store.features(rows, view=1), expected, rtol=1e-2)


def test_a_face_varies_alike_whatever_other_faces_are_asked_for(store, dataset):
    alone = FeatureStore(store.config, store.spec, dataset, store.folder, dataset.rows())
    alone.start()
    some = np.array([90, 5, 17])
    np.testing.assert_allclose(alone.features(some, view=1), store.features(some, view=1), rtol=1e-4, atol=1e-5)


def test_what_is_on_disk_is_not_computed_again(store, dataset):
    again = FeatureStore(store.config, store.spec, dataset, store.folder, dataset.rows(), keep=True)
    before = {path.name: path.stat().st_mtime_ns for path in store.folder.iterdir()}
    np.testing.assert_array_equal(again.features(dataset.rows(), view=1), store.features(dataset.rows(), view=1))
    assert {path.name: path.stat().st_mtime_ns for path in store.folder.iterdir()} == before


def test_a_training_with_shared_features_is_the_one_without(store, dataset, tmp_path):
    settings = {**SETTINGS, "weights": store.config.weights}
    own, _ = fit(dataset, tmp_path / "own", **settings)
    shared, _ = fit(dataset, tmp_path / "shared", features=store, **settings)
    once_more, _ = fit(dataset, tmp_path / "again", features=store, **settings)
    for column in ("loss", "val_loss"):
        assert history(shared)[column].tolist() == pytest.approx(history(own)[column].tolist(), rel=1e-4)
        assert history(once_more)[column].tolist() == history(shared)[column].tolist()
    # The saved file, as Keras reads it, gives the loss that was recorded; worked out by hand.
    store.model.load_weights(shared.path / "final.weights.h5")
    rows = shared.rows("validation")
    answers = store.model.get_layer("head")(store.features(rows), training=False).numpy()
    loss = -np.log(answers[np.arange(len(rows)), dataset.label_indices[rows]]).mean()
    assert loss == pytest.approx(history(shared)["val_loss"].iloc[-1], rel=1e-4)
    store.load_head(shared.path / "final.weights.h5")
    np.testing.assert_array_equal(store.model.get_layer("head")(store.features(rows), training=False), answers)


def test_each_training_starts_from_the_same_weights_even_after_fine_tuning(store):
    store.start()
    initial = store.model.get_weights()
    densenet.unfreeze_last_blocks(store.model, 1)
    store.model.set_weights([weight + 1 for weight in initial])
    store.start()
    assert all(np.array_equal(now, then) for now, then in zip(store.model.get_weights(), initial, strict=True))
    assert not store.model.get_layer("backbone").trainable_variables


def test_ctrl_c_while_features_are_computed_ends_soon(dataset, tmp_path, monkeypatch):
    two_at_a_time, done = features._two_at_a_time, []

    def interrupted(of_block, blocks, what):
        def then_stop(block):
            done.append(len(block))
            if len(done) == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return of_block(block)

        return two_at_a_time(then_stop, blocks, what)

    monkeypatch.setattr(features, "BATCH", 2)
    monkeypatch.setattr(features, "_two_at_a_time", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(dataset, tmp_path / "run", **{**SETTINGS, "weights": "none"})
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(done) < 15  # of 30, twice
