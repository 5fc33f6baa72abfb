"""From labels and FER+ votes to what a model is trained towards, and to the protocols by which it is judged.

The FER+ rules follow Barsoum et al. 2016 and the official reader of the FER+ repository: a single vote for a class is an
outlier and counts as none; "majority" keeps a face whose top class has more than half of the votes that remain and is an
emotion (not "unknown", not "NF").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fer_keras.data.dataset import FaceDataset
from fer_keras.errors import ConfigError, DataError
from fer_keras.labels import EMOTIONS

#: How a face gets the one label that it is judged by.
PROTOCOLS = ("label", "majority", "plurality", "fer2013")
#: What a model is trained towards.
TARGETS = ("auto", "hard", "soft", "majority")


def without_outliers(votes: np.ndarray) -> np.ndarray:
    """Votes with every count of 1 or less set to 0. int (n, k) -> int (n, k)."""
    return np.where(votes <= 1, 0, votes)


def majority(votes: np.ndarray, emotions: int = len(EMOTIONS)) -> np.ndarray:
    """Official FER+ filter. int (n, k) votes, the last k - emotions columns not emotions -> int64 (n,), -1: not kept."""
    clean = without_outliers(votes)
    top = clean.argmax(axis=1)
    kept = (clean.max(axis=1) * 2 > clean.sum(axis=1)) & (top < emotions)
    return np.where(kept, top, -1)


def plurality(votes: np.ndarray, emotions: int = len(EMOTIONS)) -> np.ndarray:
    """Top class with strictly most votes, outliers zeroed. int (n, k) -> int64 (n,), -1: a tie, or not an emotion."""
    clean = without_outliers(votes)
    top, most = clean.argmax(axis=1), clean.max(axis=1)
    alone = (clean == most[:, None]).sum(axis=1) == 1
    return np.where(alone & (most > 0) & (top < emotions), top, -1)


def distribution(votes: np.ndarray, emotions: int = len(EMOTIONS)) -> np.ndarray:
    """Votes for emotions as probabilities, outliers zeroed. int (n, k) -> float32 (n, emotions).

    Where only single votes exist they count; where no emotion has any, the row is zero.
    """
    clean = without_outliers(votes)[:, :emotions]
    counts = np.where(clean.sum(axis=1, keepdims=True) > 0, clean, votes[:, :emotions]).astype(np.float32)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def merge_votes(votes: np.ndarray, label_map: Mapping[str, str | None], labels: Sequence[str] | None = None) -> np.ndarray:
    """FER+ votes by labels. int (n, 10) -> int64 (n, len(labels) + 2): labels merged by the map, unknown, NF.

    label_map: an emotion that is not in it keeps its name. labels: None takes those of the map, in the order of the emotions.
    Votes for an emotion that is none of the labels count as "unknown": the taggers saw something that is not among them.
    """
    names = [label_map.get(emotion, emotion) for emotion in EMOTIONS]
    if labels is None:
        labels = list(dict.fromkeys(name for name in names if name))
    merged = np.zeros((len(votes), len(labels) + 2), np.int64)
    for column, name in enumerate(names):
        merged[:, labels.index(name) if name in labels else len(labels)] += votes[:, column]
    merged[:, -2:] += votes[:, len(EMOTIONS) :]
    return merged


def vote_labels(votes: np.ndarray, label_map: Mapping[str, str | None] | None = None) -> list[str | None]:
    """The emotion with most votes of each row of int (n, 10), the first on ties; "" where no emotion has any.

    label_map: from each emotion to its label, by which votes are added up first, so that the label is the one that the votes of
    the data set name. An emotion that it drops (None) counts for itself; None where such a one has most.
    """
    # A dropped one is told from all labels, and from the others that are dropped, by what no label is: a tuple.
    kinds = {emotion: (label_map or {}).get(emotion, emotion) or (emotion,) for emotion in EMOTIONS}
    names = [None if isinstance(kind, tuple) else kind for kind in dict.fromkeys(kinds.values())]
    counts = merge_votes(votes, kinds)[:, : len(names)]
    return [names[top] if most else "" for top, most in zip(counts.argmax(axis=1), counts.max(axis=1), strict=True)]


def mapped_votes(dataset: FaceDataset, rows: np.ndarray) -> np.ndarray:
    """Votes by the data set's own labels. int64 (len(rows), len(labels) + 2): labels merged by its map, unknown, NF."""
    return merge_votes(dataset.votes(rows), dataset.info.get("label_map") or {}, dataset.labels)


def default_protocol(dataset: FaceDataset) -> str:
    """The protocol by which a data set is usually judged: FER+'s majority where there are votes, else its labels."""
    return "majority" if dataset.has_votes else "label"


def select(dataset: FaceDataset, rows: np.ndarray, protocol: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows that a protocol keeps and the label index of each.

    Returns (rows int64 (m,), labels int64 (m,)). Raises ConfigError for an unknown protocol and DataError where the data
    lacks what the protocol needs.
    """
    if protocol == "label":
        chosen = dataset.label_indices[rows]
    elif protocol in ("majority", "plurality"):
        rule = majority if protocol == "majority" else plurality
        chosen = rule(mapped_votes(dataset, rows), emotions=len(dataset.labels))
    elif protocol == "fer2013":
        if "fer2013_label" not in dataset.manifest.columns:
            raise DataError(f"{dataset.path} has no FER2013 labels; prepare it from fer2013.csv, or use --protocol label")
        lookup = {name: index for index, name in enumerate(dataset.labels)}
        label_map = dataset.info.get("label_map") or {}
        names = dataset.manifest["fer2013_label"].astype(str).to_numpy()[rows]
        chosen = np.array([lookup.get(label_map.get(name, name), -1) for name in names], dtype=np.int64)
    else:
        raise ConfigError(f"unknown protocol {protocol!r}; choose from {', '.join(PROTOCOLS)}")
    return rows[chosen >= 0], chosen[chosen >= 0]


def training_targets(dataset: FaceDataset, rows: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and their target distributions.

    kind: "hard" (the label column), "majority" (FER+'s filter), "soft" (votes as probabilities), or "auto": soft where
    there are votes, else hard. Returns (rows int64 (m,), targets float32 (m, classes), each row summing to 1).
    """
    if kind not in TARGETS:
        raise ConfigError(f"unknown targets {kind!r}; choose from {', '.join(TARGETS)}")
    if kind == "auto":
        kind = "soft" if dataset.has_votes else "hard"
    if kind == "soft":
        targets = distribution(mapped_votes(dataset, rows), emotions=len(dataset.labels))
        some = targets.sum(axis=1) > 0
        return rows[some], targets[some]
    rows, indices = select(dataset, rows, "label" if kind == "hard" else "majority")
    return rows, np.eye(len(dataset.labels), dtype=np.float32)[indices]
