"""What evaluate, apply and compare share: open any model, choose the faces, run the one over the other.

A model is a run folder (its best and final weights) or an exported one, by its path or its name. Labels are matched by name, so
a model and a data set may order them differently; faces are brought to the model's size and colour.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.cli import CommandParser, import_tensorflow, positive_int
from fer_keras.data import targets
from fer_keras.data.dataset import SPLITS, UNKNOWN, FaceDataset, same_data, same_rows
from fer_keras.errors import ConfigError, DataError, FerError, ModelError
from fer_keras.labels import words_to_map
from fer_keras.models.finding import find_model

if TYPE_CHECKING:
    import keras

    from fer_keras.models.exported import Described
    from fer_keras.models.registry import ModelSpec
    from training.run_folder import RunFolder

BATCH_SIZE = 64
#: In place of a split: every kept face.
ALL = "all"


def add_face_options(
    parser: CommandParser, *, data: str, split: str, protocol: str = "how a face gets its true label; default: as in evaluate"
) -> None:
    """The options by which a command chooses faces: --data, --split, --protocol, --batch-size, with the help texts given."""
    parser.add_argument("--data", help=f"prepared data set; default: {data}")
    parser.add_argument(
        "--split", choices=(*SPLITS, ALL), help=f"{split}; all: every face, for data that the model has never seen"
    )
    parser.add_argument("--protocol", choices=targets.PROTOCOLS, help=protocol)
    parser.add_argument("--batch-size", type=positive_int, default=BATCH_SIZE, help="faces at a time (default %(default)s)")


@dataclass(frozen=True)
class ScoredModel:
    """A model ready to be scored.

    key: how the report calls it ("best", "ferplus-cnn", "my-run/final"). path: where it was read from.
    labels: names in the order of its output. image_size, channels: what its input is.
    parameters: how many weights it has.
    run, which: where it is part of a run. temperature: the one it was exported with, or None.
    forward: uint8 (n, image_size, image_size, channels) -> float32 (n, len(labels)).
    """

    key: str
    path: Path
    labels: tuple[str, ...]
    image_size: int
    channels: int
    parameters: int
    run: RunFolder | None
    which: str | None
    temperature: float | None
    forward: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class ScoredFaces:
    """The faces that models are scored on.

    rows: int64 (n,), lines of the data set, ascending. truth: int64 (n,), index into the data set's labels.
    """

    dataset: FaceDataset
    split: str
    protocol: str
    rows: np.ndarray
    truth: np.ndarray

    @property
    def true_names(self) -> np.ndarray:
        """The true label of each face: str (n,)."""
        return np.asarray(self.dataset.labels, dtype=object)[self.truth]


def find(path: str | os.PathLike, saved_models: str | os.PathLike = "saved_models") -> Path:
    """The folder of a run, given by its path, or of an exported model, by its path or name; see `finding.find_model`.

    Commands ask here first, so that one model goes by one path whatever it was called. Raises ModelError where there is none.
    """
    return find_model(path, saved_models, expected="a run folder, a model's folder")


def is_run(path: str | os.PathLike) -> bool:
    """Whether a folder is a run folder rather than an exported model. Raises ModelError where it is neither."""
    folder = find(path)
    if (folder / "config.json").is_file():
        return True
    if (folder / "metadata.json").is_file() or (folder / "saved_model.pb").is_file():
        return False
    raise ModelError(f"{folder} is neither a run folder (config.json) nor an exported model (metadata.json); name one of these")


def open_run(path: str | os.PathLike) -> RunFolder:
    """A run folder. Raises ModelError where it is missing or is something else."""
    from training.run_folder import RunFolder

    if not is_run(path):
        raise ModelError(f"{path} is an exported model, not a run folder; name it with --model")
    return RunFolder.open(path)


def runs_among(paths: Sequence[str | os.PathLike]) -> list[RunFolder]:
    """The run folders among paths of runs and exported models. Raises ModelError where one is neither."""
    return [open_run(path) for path in paths if is_run(path)]


def run_models(run: RunFolder, which: Sequence[str], prefix: str = "") -> list[ScoredModel]:
    """Models of a run by weights ("best", "final"), each keyed prefix + weights. Raises FerError where they are missing."""
    return [_run_model(run, part, prefix + part) for part in which]


def finished_weights(run: RunFolder) -> list[str]:
    """Which of best and final a run has; "best" where it has none, so that opening it says what to do."""
    return [which for which in ("best", "final") if (run.path / f"{which}.weights.h5").is_file()] or ["best"]


def _run_model(run: RunFolder, which: str, key: str) -> ScoredModel:
    import_tensorflow()
    return keras_model(run.load_model(which), run, which, key)


def keras_model(model: keras.Model, run: RunFolder, which: str, key: str) -> ScoredModel:
    """A run's Keras model, ready to be scored; weights loaded into it later count."""
    return ScoredModel(
        key=key,
        path=run.path,
        labels=run.labels,
        image_size=run.spec.image_size,
        channels=run.spec.channels,
        parameters=int(model.count_params()),
        run=run,
        which=which,
        temperature=None,
        forward=forward_of(model, run.spec),
    )


def forward_of(model: keras.Model, spec: ModelSpec) -> Callable[[np.ndarray], np.ndarray]:
    """What a Keras model answers to uint8 faces of its size, float32 (n, classes); weights loaded into it later count."""
    import tensorflow as tf

    shape = (None, spec.image_size, spec.image_size, spec.channels)

    def answer(model: keras.Model, faces: tf.Tensor) -> tf.Tensor:
        return tf.cast(model(tf.cast(faces, tf.float32), training=False), tf.float32)

    # One trace for every batch length: `model.predict` costs tens of milliseconds a call before it computes anything.
    # A partial, since TensorFlow counts tracings by a function's code: it would warn of "retracing" from the fifth model on.
    forward = tf.function(partial(answer, model), input_signature=[tf.TensorSpec(shape, tf.uint8)], autograph=False)
    return lambda faces: forward(faces).numpy()


def exported_model(path: str | os.PathLike, key: str | None = None) -> ScoredModel:
    """An exported model, by its path or name, keyed by its folder's name. Raises ModelError where it is missing or damaged."""
    from fer_keras.models.exported import load_exported, read_metadata, read_weights

    path = find(path)
    if is_run(path):
        raise ModelError(f"{path} is a run folder, not an exported model; name it with --run")
    read_metadata(path)  # a folder that does not fit is told before TensorFlow is loaded
    import_tensorflow()
    model = load_exported(path)
    return ScoredModel(
        key=key or path.resolve().name,
        path=path,
        labels=tuple(model.labels),
        image_size=model.image_size,
        channels=model.channels,
        parameters=sum(weight.size for weight in read_weights(path)),
        run=None,
        which=None,
        temperature=model.temperature,
        forward=lambda faces: model.predict(faces, batch_size=len(faces)),
    )


def open_model(path: str | os.PathLike, key: str | None = None) -> ScoredModel:
    """A run's best weights or an exported model, whichever the folder is, keyed by the folder's name."""
    if not is_run(path):
        return exported_model(path, key)
    return _run_model(open_run(path), "best", key or Path(path).resolve().name)


def distinct_names(paths: Sequence[str | os.PathLike]) -> list[str]:
    """A name for each path: the folder's own, or the path where two folders have the same. Raises ConfigError for twins."""
    whole = [Path(path).resolve() for path in paths]
    for path in whole:
        if whole.count(path) > 1:
            raise ConfigError(f"{path} is named twice; name each model once")
    names = [path.name for path in whole]
    return [name if names.count(name) == 1 else str(path) for name, path in zip(names, paths, strict=True)]


def file_names(keys: Iterable[str]) -> dict[str, str]:
    """What the files of each model are called, by its key: the key with dashes for slashes, numbered where another has that.

    Systems on which A and a are one file count.
    """
    names: dict[str, str] = {}
    for key in keys:
        plain = name = key.strip("/").replace("/", "-")
        taken = {other.casefold() for other in names.values()}
        number = 2
        while name.casefold() in taken:
            name, number = f"{plain}-{number}", number + 1
        names[key] = name
    return names


def common_dataset(runs: Sequence[RunFolder], data: str | os.PathLike | None) -> FaceDataset:
    """The data set to score on: the one named, else the one that all the runs were trained on.

    Raises ConfigError where it must be named, DataError where it can't be read.
    """
    if data is not None:
        return FaceDataset.load(data)
    if not runs:
        raise ConfigError("an exported model does not carry its data; name a prepared data set with --data")
    datasets = [run.dataset() for run in runs]
    if any(not same_data(datasets[0].fingerprint, dataset.fingerprint) for dataset in datasets[1:]):
        named = ", ".join(sorted({str(dataset.path) for dataset in datasets}))
        raise ConfigError(f"the runs were trained on different data ({named}); name the one to score on with --data")
    return datasets[0]


def choose_faces(
    models: Sequence[ScoredModel], dataset: FaceDataset, split: str | None = None, protocol: str | None = None
) -> ScoredFaces:
    """The labelled faces of a split.

    split: None takes test, or validation where there is no test; "all" takes every kept face. Train and validation of a run's
    own data are the rows that the run itself used, and test those it was to be tested on, where it has such: a fold of a k-fold
    run. Several folds are scored on the test faces of the data set, where they were trained on none of them.
    protocol: how a face gets its label; None takes the data set's usual one.
    Raises DataError where there are none, ConfigError where the runs divided the data differently.
    """
    own = {model.run.path: model.run for model in models if model.run is not None and is_own(model.run, dataset)}
    there = list(dataset.splits())
    parts = {name: [np.unique(run.rows(name)) for run in own.values()] for name in SPLITS}
    parts["test"] = [rows for rows in parts["test"] if len(rows)]  # only folds have their own
    there += [name for name, rows in parts.items() if name not in there and any(len(part) for part in rows)]
    if split is None:
        split = next((name for name in ("test", "validation") if name in there), "test")
    if split != ALL and split not in there:
        dataset.rows(split)  # says so where there is no such word
        has = ", ".join(there) or "no face at all"
        raise DataError(f"{dataset.path} has no {split} faces; it has {has}" + ("; name one with --split" if there else ""))
    rows = dataset.rows(None if split == ALL else split)
    if parts.get(split):
        chosen = parts[split][0]
        if all(np.array_equal(chosen, other) for other in parts[split][1:]):
            rows = chosen
        elif split != "test":
            raise ConfigError(f"the runs have different {split} rows; score them one at a time, or on --split test")
        elif any(np.isin(rows, used).any() for used in (*parts["train"], *parts["validation"])):
            raise ConfigError(
                "the runs are folds that are tested on different rows, and trained on each other's; score them one at a time"
            )
    protocol = protocol or targets.default_protocol(dataset)
    kept, truth = targets.select(dataset, rows, protocol)
    if not len(kept):
        raise DataError(f"no {split} face of {dataset.path} has a label by protocol {protocol}; choose another with --protocol")
    return ScoredFaces(dataset, split, protocol, kept, truth)


def is_own(run: RunFolder, dataset: FaceDataset) -> bool:
    """Whether a data set has the rows that a run was trained on, wherever it lies now, and in whatever size and colour."""
    return same_rows(run.provenance["dataset"]["fingerprint"], dataset.fingerprint)


def prepared_with(dataset: FaceDataset) -> Mapping[str, Any]:
    """The settings of `training.prepare` that made a data set, or the one that its new pictures were made of; {} if not known."""
    return dataset.info.get("settings") or dataset.info.get("prepared_with") or {}


def report_folder(models: Sequence[ScoredModel], faces: ScoredFaces, kind: str, by: Sequence[str] = ()) -> Path:
    """Where a report goes unless told: RUN/KIND-SPLIT-PROTOCOL for models of one run on its own data, else in reports/.

    by: the columns that it compares groups of, which then end the name.
    """
    first, suffix = models[0], f"{faces.split}-{faces.protocol}" + (f"-by-{'-and-'.join(by)}" if by else "")
    own = first.run is not None and is_own(first.run, faces.dataset)
    if own and all(model.path == first.path for model in models):
        return first.path / f"{kind}-{suffix}"
    names = list(dict.fromkeys(model.path.resolve().name for model in models))
    name = "-and-".join(names) if len(names) < 4 else f"{names[0]}-and-{len(names) - 1}-more"
    prefix = "" if kind == "evaluation" else f"{kind}-"
    return Path("reports") / f"{prefix}{name}-on-{faces.dataset.name}-{suffix}"


def label_positions(model: ScoredModel, faces: ScoredFaces) -> np.ndarray:
    """The true label of each face as an index into the model's labels: int64 (n,).

    Raises ModelError where the model lacks a label that the faces have.
    """
    used = [faces.dataset.labels[index] for index in np.unique(faces.truth)]
    if lacking := [label for label in used if label not in model.labels]:
        raise ModelError(
            f"labels of model and data differ: the model lacks {', '.join(lacking)}; it knows {', '.join(model.labels)}; "
            f"prepare the data with {words_to_map(lacking, model.labels)}"
        )
    lookup = np.array([model.labels.index(label) if label in model.labels else -1 for label in faces.dataset.labels])
    return lookup[faces.truth]


def face_notes(faces: ScoredFaces, split: str | None) -> list[str]:
    """What a reader should know about the faces. split: what was asked for; None: nothing was."""
    if split is not None or faces.split == "test":
        return []
    return [
        f"{faces.dataset.name} has no test faces: these are its {faces.split} faces, by which the best epoch may have been chosen"
    ]


def fit_notes(model: ScoredModel, faces: ScoredFaces) -> list[str]:
    """What a reader should know about how a model and the faces fit, one sentence each."""
    from fer_keras.models.exported import read_metadata

    dataset, notes = faces.dataset, []
    metadata = read_metadata(model.path) if model.run is None else None
    if model.run is not None and not model.run.finished:
        notes.append(
            f"{model.key}: its training has not come to its end; go on with python -m training.train --resume {model.run.path}"
        )
    if model.image_size != dataset.image_size:
        notes.append(f"{model.key}: faces of {dataset.image_size} pixels are resized to the model's {model.image_size} pixels")
    if model.channels != dataset.channels:
        colour = {1: "grey", 3: "RGB"}
        notes.append(f"{model.key}: {colour[dataset.channels]} faces are turned into the model's {colour[model.channels]}")
    if metadata is not None and prepared_with(dataset).get("crop", "none") != "none":
        cropped, expected = dataset.info["crop_margin"], metadata["crop_margin"]
        if cropped != expected:
            notes.append(f"{model.key}: faces were cut out with a margin of {cropped:g}, the model expects {expected:g}")
    if more := [label for label in model.labels if label not in dataset.labels]:
        notes.append(f"{model.key} also knows {', '.join(more)}, which this data does not have; such answers count as wrong")
    rows, source = rows_learnt(model.run or model.path, dataset)
    if rows is None:
        notes.append(other_data_note(model.key, source))
    elif faces.split != "train":
        if seen := len(np.intersect1d(faces.rows, rows)):
            notes.append(f"{model.key} was trained on {seen} of these {len(faces.rows)} faces; its figures flatter it")
        notes += persons_learnt_note(model.key, persons_learnt(dataset, faces.rows, rows))
    return notes


def identities(dataset: FaceDataset, rows: np.ndarray) -> np.ndarray | None:
    """Who is on each row: str (n,), "" where not known; None where the data set knows nobody."""
    if "identity" not in dataset.manifest.columns:
        return None
    people = dataset.manifest["identity"].to_numpy(str)[rows]
    return people if (people != "").any() else None


def persons_learnt(dataset: FaceDataset, rows: np.ndarray, learnt: np.ndarray) -> int:
    """How many of the persons on some rows a model knows from others, int64 (n,) each: those that it learnt from."""
    here, there = (identities(dataset, each) for each in (rows, np.setdiff1d(learnt, rows)))
    return 0 if here is None or there is None else len(set(here) & set(there) - {"", UNKNOWN})


def persons_learnt_note(name: str, count: int) -> list[str]:
    """What is told of a model that learnt from other faces of so many of the persons that it is judged by, in a list."""
    persons = "1 person" if count == 1 else f"{count} persons"
    return [f"{name} was trained on other faces of {persons} of these faces; its figures flatter it"] if count else []


def identities_interval(correct: np.ndarray, people: np.ndarray | None) -> dict[str, list[float]]:
    """{"accuracy_ci95_identities": [low, high]}: an interval that draws persons whole, since faces of one person go together.

    correct: bool (n,). people: of `identities`. Empty where nobody is known, nobody has more than one face, or all faces are of
    one person, who says nothing about others.
    """
    from fer_keras.evaluation import resampling

    units = resampling.person_units(people)
    if units is None or len(units.group) < 2:
        return {}
    faces, right = units.sums(np.column_stack([np.ones(len(correct)), correct])).T.astype(np.float64)
    return {"accuracy_ci95_identities": list(resampling.share_interval(right, faces))}


def rows_of(dataset: FaceDataset, splits: Iterable[str]) -> np.ndarray:
    """int64 rows of some splits of a data set, in their order, none of no split."""
    return np.concatenate([np.empty(0, np.int64), *(dataset.rows(split) for split in splits)])


def learnt_from(dataset: FaceDataset, *rows: np.ndarray) -> dict[str, Any]:
    """What metadata tells of the rows, int64 (n,) each, that a model and what it is made of learnt from, for `rows_seen`: their
    splits, and which of their faces.

    "rows", left out where it is all of them, has a bit for each face of the splits, in base64.
    """
    learnt = np.concatenate(rows)
    splits = sorted(set(dataset.manifest["split"].to_numpy(str)[learnt]))
    chosen = np.isin(rows_of(dataset, splits), learnt)
    return {"splits": splits, **({} if chosen.all() else {"rows": base64.b64encode(np.packbits(chosen)).decode()})}


def splits_seen(trained_on: object, fingerprint: str) -> list[str] | None:
    """The splits of the data set with this fingerprint that a model learnt from; None where it was trained on other data.

    trained_on: of its metadata. The same faces in another size or colour are not other data: the model has seen them.
    """
    if not isinstance(trained_on, Mapping) or not same_rows(trained_on.get("fingerprint"), fingerprint):
        return None
    return trained_on.get("splits", ["train"])


def rows_seen(trained_on: object, dataset: FaceDataset) -> np.ndarray | None:
    """int64 rows of a data set that an exported model learnt from, by its metadata; None where it was trained on other data."""
    splits = splits_seen(trained_on, dataset.fingerprint)
    if splits is None:
        return None
    rows = rows_of(dataset, splits)
    try:
        bits = np.frombuffer(base64.b64decode(trained_on["rows"]), np.uint8)
    except (KeyError, TypeError, ValueError):
        bits = np.empty(0, np.uint8)
    if len(bits) != (len(rows) + 7) // 8:
        return rows  # not told, or not to be read: all of them, to be safe
    return rows[np.unpackbits(bits, count=len(rows)).astype(bool)]


def rows_learnt(model: RunFolder | Path, dataset: FaceDataset) -> tuple[np.ndarray | None, object]:
    """int64 rows of a data set that a model, or one that it builds on, learnt from, None where its data was other; and what its
    data is called.

    model: its run, or the folder of an exported model.
    """
    from fer_keras.models.exported import read_metadata

    if isinstance(model, Path):
        about = read_metadata(model)["trained_on"]
        return rows_seen(about, dataset), about.get("name") if isinstance(about, Mapping) else about
    if is_own(model, dataset):
        return np.union1d(model.rows("train"), rows_before(model, dataset)), dataset.name  # whatever it was called then
    return None, model.provenance["dataset"].get("name")


def rows_before(run: RunFolder, dataset: FaceDataset) -> np.ndarray:
    """int64 rows of a run's data that models which it builds on learnt from: what it started from, its teacher."""
    from training.config import TrainConfig
    from training.distillation import learnt_before

    recorded = run.provenance.get("learnt_before")
    if isinstance(recorded, Mapping):
        rows = rows_seen({**recorded, "fingerprint": run.provenance["dataset"]["fingerprint"]}, dataset)
        return np.empty(0, np.int64) if rows is None else rows
    try:  # a run from before this was recorded; the models that it names may still be there
        return learnt_before(TrainConfig.from_dict(run.config), dataset)
    except FerError:
        return np.empty(0, np.int64)


def learnt_among(model: ScoredModel, faces: ScoredFaces) -> dict[str, int]:
    """How many of these faces a model, or one that it builds on, learnt from, as far as is known: "n_learnt"; and of how many of
    the persons on them it learnt from other faces: "n_persons_learnt"."""
    rows, _ = rows_learnt(model.run or model.path, faces.dataset)
    return learnt_counts(faces.dataset, faces.rows, np.empty(0, np.int64) if rows is None else rows)


def learnt_counts(dataset: FaceDataset, rows: np.ndarray, learnt: np.ndarray) -> dict[str, int]:
    """What `learnt_among` gives, of a model that learnt from some rows and is judged by others: int64 (n,) each."""
    return {"n_learnt": len(np.intersect1d(rows, learnt)), "n_persons_learnt": persons_learnt(dataset, rows, learnt)}


def other_data_note(name: str, source: object) -> str:
    """What is told of a model that was trained on other data than the faces it is judged by."""
    return f"{name} was trained on other data ({source}); whether some of these faces were in it is not checked"


def predict_rows(
    model: ScoredModel,
    dataset: FaceDataset,
    rows: np.ndarray,
    batch_size: int = BATCH_SIZE,
    *,
    change: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    title: str | None = None,
) -> np.ndarray:
    """Probabilities of the faces on these lines of a data set: float32 (len(rows), len(model.labels)).

    change: what is done to faces first, (uint8 (n, h, w, c), their rows) -> uint8 of the same shape. title: of the progress bar;
    None: the model's key. Faces are read batch by batch from the memory-mapped file: memory does not grow with the data.
    """
    from tqdm import tqdm

    probabilities = np.empty((len(rows), len(model.labels)), np.float32)
    with tqdm(total=len(rows), desc=title or model.key, unit="face", disable=None, leave=False) as progress:
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            faces = dataset.faces[part]
            batch = fitted(change(faces, part) if change else faces, model)
            probabilities[start : start + len(batch)] = model.forward(batch)
            progress.update(len(batch))
    return probabilities


def fitted(faces: np.ndarray, model: ScoredModel | Described) -> np.ndarray:
    """uint8 (n, h, w, c) faces in the size and colour of a model's input."""
    from fer_keras.data.images import resize, to_channels

    if faces.shape[1:] == (model.image_size, model.image_size, model.channels):
        return np.ascontiguousarray(faces)
    return np.stack([to_channels(resize(face, model.image_size), model.channels) for face in faces])


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level: {"a": {"b": 1}} -> {"a.b": 1}."""
    result: dict[str, Any] = {}
    for key, value in settings.items():
        result.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return result
