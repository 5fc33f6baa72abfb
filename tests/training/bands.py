"""Faces that a tiny network learns in seconds, for tests that need a trained model."""

from pathlib import Path

import numpy as np

from fer_keras.data.dataset import DatasetWriter, FaceDataset

LABELS = ("neutral", "happiness", "anger")
SIZE = 32


def banded_faces(count: int, labels=LABELS, channels: int = 1, size: int = SIZE, seed: int = 0):
    """Noise with a bright band whose thickness tells the label; one in seven has another's. uint8, and label names."""
    random = np.random.default_rng(seed)
    faces = random.integers(0, 90, (count, size, size, channels))
    names = []
    for index in range(count):
        true = index % len(labels)
        shown = (true + 1) % len(labels) if index % 7 == 3 else true
        top = random.integers(0, size // 4)
        faces[index, top : top + size * (1 + 3 * shown) // 14] += 140
        names.append(labels[true])
    return faces.astype(np.uint8), names


def write_faces(path, faces, names, splits, labels=LABELS, **columns) -> FaceDataset:
    """A prepared data set of these faces."""
    with DatasetWriter(path, image_size=faces.shape[1], channels=faces.shape[3]) as writer:
        for face in faces:
            writer.add(face)
        columns = {"kept": [True] * len(faces), "reason": [""] * len(faces), **columns}
        source = [f"picture-{index}.png" for index in range(len(faces))]
        return writer.finish({"label": names, "split": splits, "source": source, **columns}, labels=labels)


def train(out: Path, dataset: FaceDataset, **settings) -> None:
    """A run folder, made by the project's own training."""
    from training.config import TrainConfig
    from training.loop import fit_one
    from training.train import start_run

    given = {
        "data": str(dataset.path),
        "out": str(out),
        "layers": [8],
        "convs_per_stage": [1],
        "batch_size": 32,
        "precision": "float32",
        **settings,
    }
    config = TrainConfig.from_dict(given).resolved()
    run = start_run(config, dataset)
    fit_one(config, dataset.subset(run.rows("train")), dataset.subset(run.rows("validation")), run)
