"""Targets that are partly the answers of another model, its teacher (Hinton, Vinyals and Dean 2015, https://arxiv.org/abs/1503.02531).

A teacher, an ensemble say, tells for each training face what else it looks like, which one label does not and few votes tell
roughly. It is asked at temperature 1, since the temperature in its metadata was fitted on other faces: once, for the faces as
they are, or for each varied picture that its pupil is given (Beyer et al. 2022, https://arxiv.org/abs/2106.05237).
A teacher must not have been trained on the faces that its pupil is judged by, or the pupil has seen them too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.errors import ConfigError
from fer_keras.files import writing_whole
from fer_keras.models.finding import find_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import tensorflow as tf

    from fer_keras.data.dataset import FaceDataset
    from training.config import TrainConfig


def _teacher_path(config: TrainConfig) -> Path:
    return find_model(config.teacher, config.saved_models)


def check_teacher(config: TrainConfig, dataset: FaceDataset) -> None:
    """Raise ConfigError where the teacher of the settings knows other classes, ModelError where there is none of that name."""
    from fer_keras.models.exported import read_metadata

    if not config.teacher:
        return
    path = _teacher_path(config)
    labels = read_metadata(path)["labels"]
    if set(labels) != set(dataset.labels):
        raise ConfigError(
            f"the teacher {path} knows {', '.join(labels)}, and {dataset.path} has {', '.join(dataset.labels)}; a teacher needs "
            "the same classes"
        )


def taught(config: TrainConfig, dataset: FaceDataset, rows: np.ndarray, targets: np.ndarray, folder: Path) -> np.ndarray:
    """Targets mixed with what the teacher says: float32 (n, classes), each row summing to 1.

    rows: int64 (n,), the faces. targets: float32 (n, classes), what they are labelled. folder: where the teacher's answers are
    kept, so that a training that goes on has the very same targets.
    """
    kept = folder / "teacher.npy"
    if kept.is_file():
        said = np.load(kept, allow_pickle=False)
    else:
        said = _asked(config, dataset, rows)
        with writing_whole(kept) as file:
            np.save(file, said, allow_pickle=False)
    return _mixed(config, targets, said).astype(np.float32)


def teacher_of_views(config: TrainConfig, dataset: FaceDataset, rows: np.ndarray, changes: np.ndarray | None) -> Callable:
    """A function that mixes targets with what the teacher says of the varied pictures of a batch.

    Returns teach(positions int64 (b,), seed int (2,), targets float32 (b, classes)) -> float32 (b, classes), for the seed by
    which `pipeline.face_loader` varies the batch. The teacher sees faces as its pupil does, moved and lit alike, but for what
    poor cameras and erasing take away: the pupil is to answer through that as the teacher does without it.
    rows: int64 (n,), the faces that positions count. changes: as for `pipeline.face_loader`.
    """
    import tensorflow as tf

    from fer_keras.data import pipeline
    from fer_keras.inference.runtimes import open_runtime
    from fer_keras.models.exported import Described, read_metadata
    from training.scoring import fitted

    check_teacher(config, dataset)
    path = _teacher_path(config)
    teacher = Described()
    teacher.metadata = read_metadata(path)
    _, predict = open_runtime(path, teacher.metadata)
    seen = dataclasses.replace(config.new_pictures(), erase=0.0, dark=0.0, blur=0.0, noise=0.0)
    load = pipeline.face_loader(dataset, rows, augment=seen, changes=changes)

    def ask(pixels: np.ndarray) -> np.ndarray:
        return _in_order_of(dataset, predict(fitted(pixels, teacher)), teacher.labels)

    def teach(positions: tf.Tensor, seed: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        pixels = tf.cast(tf.round(load(positions, seed)), tf.uint8)
        said = tf.numpy_function(ask, [pixels], tf.float32, stateful=False)
        return _mixed(config, targets, tf.ensure_shape(said, targets.shape))

    return teach


def _asked(config: TrainConfig, dataset: FaceDataset, rows: np.ndarray) -> np.ndarray:
    from training import scoring

    check_teacher(config, dataset)
    model = scoring.exported_model(_teacher_path(config))
    return _in_order_of(dataset, scoring.predict_rows(model, dataset, rows, title=f"teacher {model.key}"), model.labels)


def _in_order_of(dataset: FaceDataset, said: np.ndarray, labels: list[str]) -> np.ndarray:
    said = said[:, [labels.index(label) for label in dataset.labels]]
    return said / said.sum(axis=1, keepdims=True)


def _mixed(config: TrainConfig, targets: Any, said: Any) -> Any:
    return (1 - config.teacher_share) * targets + config.teacher_share * said


def seen_before(config: TrainConfig, dataset: FaceDataset) -> dict[str, set[str]]:
    """The splits of this very data set that exported models have seen which the settings build on.

    What it is for ("the training starts from NAME") -> splits, of models whose metadata says that they were trained on it.
    """
    from training.scoring import splits_seen

    seen = {what: splits_seen(trained_on, dataset.fingerprint) for what, trained_on in _built_on(config)}
    return {what: set(splits) for what, splits in seen.items() if splits is not None}


def learnt_before(config: TrainConfig, dataset: FaceDataset) -> np.ndarray:
    """int64 rows of this very data set, ascending, that exported models learnt from which the settings build on."""
    from training.scoring import rows_seen

    rows = [rows_seen(trained_on, dataset) for _, trained_on in _built_on(config)]
    return np.unique(np.concatenate([np.empty(0, np.int64), *(each for each in rows if each is not None)]))


def _built_on(config: TrainConfig) -> Iterator[tuple[str, object]]:
    """Of each exported model that the settings build on: what it is for, with its name, and what it was trained on."""
    from fer_keras.errors import ModelError
    from fer_keras.models.exported import read_metadata

    used: dict[str, str | None] = {
        "the training starts from": None if config.weights in ("auto", "none", "imagenet") else config.weights,
        "where ImageNet weights can't be downloaded, the training starts from": _auto_backbone(config),
        "the training is taught by": config.teacher,
    }
    for what, name in used.items():
        if name is None:
            continue
        try:
            path = find_model(name, config.saved_models)
            trained_on = read_metadata(path)["trained_on"]
        except ModelError:  # a file of weights tells nothing of its data, nor does a model that is gone when all is trained
            continue
        yield f"{what} {path.name}", trained_on


def _auto_backbone(config: TrainConfig) -> str | None:
    if config.weights != "auto" or not config.two_phases:
        return None
    from fer_keras.models.densenet import backbone_export

    path = backbone_export("auto", config.saved_models, config.arch)
    return str(path) if path else None


def notes_on_seen(config: TrainConfig, dataset: FaceDataset, judged: Iterable[str]) -> list[str]:
    """A sentence for each model that the settings build on and that has seen faces of the splits that are judged by."""
    return [
        f"{what}, which was trained on {', '.join(sorted(splits))} faces of this very data set: figures on "
        f"{', '.join(sorted(splits & set(judged)))} faces flatter"
        for what, splits in seen_before(config, dataset).items()
        if splits & set(judged)
    ]
