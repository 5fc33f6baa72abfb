"""A k-fold run on disk, and the one task that trains and scores a fold.

OUT/kfold.json           how the data was divided, every setting, data set, versions; last written, so it makes the folder a run
OUT/folds.csv            row, fold: which fold tests a row
OUT/fold-01/ ...         ordinary run folders; rows.csv has the rows that the fold trained on, validated on, and is tested on
OUT/fold-01/out-of-fold.csv   what the fold's best and final model say of its test rows; it makes the fold finished
OUT/features/            what a frozen backbone gave for every row, where there is one
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fer_keras import cli
from fer_keras.data import splits
from fer_keras.data.dataset import SPLITS, FaceDataset
from fer_keras.data.targets import select
from fer_keras.errors import ConfigError, DataError, FerError, TrainingError
from fer_keras.files import may_be_replaced, read_json, whole_folder, write_json, write_whole
from fer_keras.models.exported import git_revision
from training import scoring
from training.config import TrainConfig
from training.run_folder import WHICH, RunFolder, taken, versions

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from training.features import FeatureStore
    from training.scoring import ScoredModel

#: Share of a fold's training part that chooses its best epoch.
VALIDATION_SHARE = 0.2
OUT_OF_FOLD = "out-of-fold.csv"


@dataclass(frozen=True)
class FoldTask:
    """One fold to train, go on with, or only score: plain values, so that any process can do it."""

    out: str
    fold: int
    score_only: bool = False


@dataclass(frozen=True)
class KFoldRun:
    """A k-fold run on disk."""

    path: Path
    plan: dict[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike) -> KFoldRun:
        """A run that was made before. Raises FerError where the folder is not one."""
        folder = Path(path)
        if not (folder / "kfold.json").is_file():
            what = "it lacks kfold.json" if folder.is_dir() else "there is none"
            raise FerError(f"{folder} is not the folder of a k-fold run: {what}; training.kfold prints where it writes")
        return cls(folder, read_json(folder / "kfold.json", damaged="the run is damaged"))

    @property
    def folds(self) -> range:
        """Numbers of the folds, from 1."""
        return range(1, self.plan["folds"] + 1)

    @property
    def settings(self) -> TrainConfig:
        """The settings that all folds share."""
        return TrainConfig.from_dict(self.plan["settings"], origin=str(self.path / "kfold.json"))

    @property
    def rows(self) -> np.ndarray:
        """int64 (n,): the rows of the data set that take part, ascending."""
        import pandas as pd

        return pd.read_csv(self.path / "folds.csv")["row"].to_numpy(np.int64)

    def fold_path(self, fold: int) -> Path:
        """The run folder of a fold."""
        return self.path / fold_name(fold, self.plan["folds"])

    def fold_run(self, fold: int) -> RunFolder:
        """A fold as the run that it is."""
        return RunFolder.open(self.fold_path(fold))

    def scored(self) -> list[int]:
        """The folds that are trained and scored."""
        return [fold for fold in self.folds if (self.fold_path(fold) / OUT_OF_FOLD).is_file()]

    def trained(self) -> list[int]:
        """The folds whose training came to its end."""
        return [fold for fold in self.folds if self.fold_run(fold).finished]

    def begun(self) -> bool:
        """Whether any fold has come to the end of an epoch, or another process is at one."""
        runs = [self.fold_run(fold) for fold in self.folds]
        return bool(self.trained()) or any((run.state_path / "state.json").is_file() or run.lock_path.exists() for run in runs)

    def dataset(self) -> FaceDataset:
        """The data set. Raises DataError where it is gone or is no longer the same."""
        return self.fold_run(1).dataset()

    @property
    def shares_features(self) -> bool:
        """Whether the folds have a phase with a frozen backbone, whose features are the same for all."""
        settings = self.settings
        return settings.two_phases and bool(settings.frozen_epochs) and settings.frozen_features == "cached"


def fold_name(fold: int, folds: int) -> str:
    """The name of a fold's folder, such as fold-01: as wide as the largest number, two digits at least."""
    return f"fold-{fold:0{max(2, len(str(folds)))}d}"


def plan_folds(
    dataset: FaceDataset, rows: np.ndarray, folds: int, columns: Sequence[str], seed: int, tell: splits.Tell = print
) -> list[dict[str, np.ndarray]]:
    """The rows of each fold: {"train", "validation", "test"} -> int64, ascending. Each row is in the test part of one fold.

    columns: stratified by the label and these group columns; cells of fewer faces than folds count by label alone. Rows of
    one identity, and copies of one picture, are on one side, in the folds and between train and validation. `tell` hears of
    classes that a fold tests and can't learn, and of near copies in other folds. Raises ConfigError for a column that is not
    there, or more folds than faces or identities.
    """
    known = dataset.group_columns
    if bad := [column for column in columns if column not in known]:
        has = ", ".join(("label", *known))
        raise ConfigError(f"can't stratify by {', '.join(bad)}: {dataset.path} has {has}")
    manifest = dataset.manifest.iloc[rows]
    labels = manifest["label"].to_numpy(str)
    strata = splits.strata_of(labels, [manifest[column].to_numpy(str) for column in columns], folds, tell)
    first, picture = different_pictures(dataset, rows)
    people = _people_of_pictures(scoring.identities(dataset, rows), first, picture)
    parts = []
    for number, test in enumerate(splits.k_folds(strata[first], folds, seed, people, tell, labels[first])):
        rest = np.setdiff1d(np.arange(len(first)), test)
        shares = (1 - VALIDATION_SHARE, VALIDATION_SHARE, 0)
        side = splits.stratified_split(strata[first[rest]], shares, seed + number, None if people is None else people[rest])
        if not (side == "validation").any():
            raise DataError(
                f"{len(rest)} faces to train a fold on are too few to hold back {VALIDATION_SHARE:.0%} for validation; add faces"
            )
        pictures = {name: rest[side == name] for name in ("train", "validation")} | {"test": test}
        parts.append({name: rows[np.isin(picture, those)] for name, those in pictures.items()})
    sides = [(np.isin(rows, part["train"]), np.isin(rows, part["test"])) for part in parts]
    for remark in splits.unlearnable_in_folds(labels, sides):
        tell(remark)
    if near := _near_copies_across(dataset, rows, picture, parts):
        tell(
            f"faces with near copies in other folds (re-encoded, resized, lit otherwise or mirrored): {near}, so figures "
            "flatter; prepare the data with --drop near_duplicate"
        )
    return parts


def different_pictures(dataset: FaceDataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(first, picture): where each picture stands for the first time in `rows`, ascending, and the number of each row's picture.

    Copies (equal pixels) are one picture. Cleaning leaves some where a benchmark's own splits have them.
    """
    from fer_keras.data.cleaning import Features

    features = Features()
    for row in rows:
        features.add(dataset.faces[row])
    _, first, kind = np.unique(features.digests, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[kind.reshape(-1)]


def _near_copies_across(
    dataset: FaceDataset, rows: np.ndarray, picture: np.ndarray, parts: Sequence[dict[str, np.ndarray]]
) -> int:
    """How many rows have near copies, other than equal pixels, in other folds. picture: of `different_pictures`."""
    from fer_keras.data import cleaning

    fold = np.zeros(len(rows), np.int64)
    for number, part in enumerate(parts):
        fold[np.isin(rows, part["test"])] = number
    everything = np.ones(len(rows), bool)
    near = cleaning.near_groups(cleaning.perceptual_hashes(dataset.faces, rows), picture, everything)
    return int(cleaning.near_copies_across(near, picture, fold, everything).sum())


def _people_of_pictures(people: np.ndarray | None, first: np.ndarray, picture: np.ndarray) -> np.ndarray | None:
    """Who is on each picture, str; "" where not known. People whose faces are copies of each other count as one."""
    from fer_keras.data.cleaning import chains, connected

    if people is None:
        return None
    known = np.flatnonzero(people != "")
    group = connected(len(people), np.concatenate([chains(picture), known[chains(people[known])]]))
    names = np.full(len(people), "", people.dtype)
    names[group[known]] = people[known]
    return names[group[first]]


def start(
    out: Path,
    settings: TrainConfig,
    dataset: FaceDataset,
    *,
    folds: int,
    columns: Sequence[str],
    use: Sequence[str],
    protocol: str,
) -> KFoldRun:
    """Divide the data and write the folders of all folds, whole or not at all.

    settings: resolved. columns: to stratify by beside the label. use: the splits whose faces take part. protocol: by which
    faces are judged. Raises ConfigError, DataError or FerError where settings, data or folder do not fit.
    """
    import pandas as pd

    from training.distillation import learnt_before, notes_on_seen
    from training.train import model_spec

    if not may_be_replaced(out):
        raise FerError(taken(out, "kfold.json"))
    rows = np.sort(np.concatenate([dataset.rows(split) for split in use]))
    if not len(rows):
        has = ", ".join(f"{len(dataset.rows(split))} {split}" for split in dataset.splits()) or "none"
        raise DataError(f"{dataset.path} has no {' or '.join(use)} faces, only {has}; choose others with --splits")
    notes: list[str] = []
    if dataset.info.get("synthesized"):  # else a column called origin is of something else
        real = dataset.manifest["origin"].to_numpy()[rows] < 0
        if not real.all():
            notes.append(f"{(~real).sum()} made pictures take no part, since folds are tested on real ones; use --balance-by")
        rows = rows[real]
    if settings.balance:
        from fer_keras.data.balance import cells

        cells(dataset, rows, settings.balance)
    judged = select(dataset, rows, protocol)[0]
    if not len(judged):
        raise DataError(f"no face has a label by protocol {protocol}, so no fold could be judged; choose another with --protocol")
    parts = plan_folds(dataset, rows, folds, columns, settings.seed, notes.append)
    spec = model_spec(settings, dataset)
    notes += notes_on_seen(settings, dataset, use)
    before = learnt_before(settings, dataset)
    settings = dataclasses.replace(settings, arch=spec.name, data=str(dataset.path), out=str(out))
    try:
        with whole_folder(out) as building:
            for fold, part in enumerate(parts, start=1):
                name = fold_name(fold, folds)
                # A name to export under, for who goes on with a fold as with any run: train --resume OUT/fold-01.
                own = dataclasses.replace(settings, out=str(out / name), export=f"{settings.export or out.name}-{name}")
                RunFolder.create(building / name, own.to_dict(), spec, dataset, part, before)
            tested = [(row, fold) for fold, part in enumerate(parts, start=1) for row in part["test"]]
            table = pd.DataFrame(sorted(tested), columns=["row", "fold"])
            write_whole(building / "folds.csv", table.to_csv(index=False))
            plan = {
                "folds": folds,
                "stratify": ["label", *columns],
                "identities": scoring.identities(dataset, rows) is not None,
                "splits": list(use),
                "protocol": protocol,
                "n": len(rows),
                "n_judged": len(judged),
                "notes": notes,
                "labels": list(dataset.labels),
                "settings": settings.to_dict(),
                "dataset": {"path": str(dataset.path.resolve()), "name": dataset.name, "fingerprint": dataset.fingerprint},
                "versions": versions(),
                "git_revision": git_revision(),
            }
            write_json(building / "kfold.json", plan)
    except FileExistsError:
        raise FerError(taken(out, "kfold.json")) from None  # another process took the name meanwhile
    return KFoldRun(out, plan)


def used_splits(text: str) -> list[str]:
    """The splits named in "train,validation". Raises ConfigError for an unknown one."""
    names = cli.words(text)
    if bad := [name for name in names if name not in SPLITS]:
        raise ConfigError(f"--splits takes {', '.join(SPLITS)}, separated by commas; got {bad[0]!r}")
    if not names:
        raise ConfigError(f"--splits needs one of {', '.join(SPLITS)} at least")
    return [name for name in SPLITS if name in names]


# The task


@functools.lru_cache(maxsize=1)
def shared_features(out: str) -> FeatureStore:
    """The backbone and features that the folds of a run share, made once in a process."""
    from training.features import FeatureStore

    run = KFoldRun.open(out)
    first = run.fold_run(1)
    settings = dataclasses.replace(run.settings, precision=first.precision)
    return FeatureStore(settings, first.spec, run.dataset(), run.path / "features", run.rows, keep=True)


def run_fold(task: FoldTask) -> dict[str, Any]:
    """Train a fold, or go on with it, and score its test rows with its best and final model.

    Returns {"fold", "epochs", "best_epoch", "accuracy": {"best", "final"}, "seconds"}; accuracy is None where the protocol has
    no label for any face of the fold. Raises what fit_one raises, and
    KeyboardInterrupt after Ctrl-C.
    """
    try:
        return _run_fold(task)
    except BaseException:
        forget_models()  # in whatever state they were left
        raise


def _run_fold(task: FoldTask) -> dict[str, Any]:
    cli.import_tensorflow()
    from training.loop import fit_one

    started = time.monotonic()
    kfold = KFoldRun.open(task.out)
    run = kfold.fold_run(task.fold)
    dataset = run.dataset()
    features = shared_features(task.out) if kfold.shares_features else None
    if not run.finished:
        if task.score_only:
            raise TrainingError(f"{run.path} is not trained to its end; go on with --resume {task.out}")
        parts = [dataset.subset(run.rows(part)) for part in ("train", "validation")]
        settings = TrainConfig.from_dict(run.config, origin=str(run.path / "config.json"))
        if fit_one(settings, *parts, run, features=features).interrupted:
            raise KeyboardInterrupt
    table = _out_of_fold(kfold, task.fold, run, dataset, features)
    write_whole(run.path / OUT_OF_FOLD, table.to_csv(index=False, float_format="%.8g"))
    judged = table[table["true"] != ""]
    right = (judged["true"] == judged["predicted"]).groupby(judged["model"]).mean()
    seconds = round(time.monotonic() - started, 2)
    if not task.score_only:
        run.update_metrics(fold_seconds=round(run.metrics.get("fold_seconds", 0) + seconds, 2))
    return {
        "fold": task.fold,
        "epochs": run.metrics["epochs"],
        "best_epoch": run.metrics["best_epoch"],
        "accuracy": {which: float(right[which]) if which in right else None for which in WHICH},
        "seconds": seconds,
    }


def _out_of_fold(kfold: KFoldRun, fold: int, run: RunFolder, dataset: FaceDataset, features: FeatureStore | None) -> pd.DataFrame:
    """What best and final say of the test rows: row, fold, model, true ("" where the protocol has no label), predicted, p_..."""
    import pandas as pd

    rows, labels = run.rows("test"), np.asarray(run.labels, dtype=object)
    judged, truth = select(dataset, rows, kfold.plan["protocol"])
    true = np.full(len(rows), "", dtype=object)
    true[np.searchsorted(rows, judged)] = labels[truth]
    parts = []
    for which, probabilities in _probabilities(run, dataset, rows, features).items():
        parts.append(
            pd.DataFrame(
                {
                    "row": rows,
                    "fold": fold,
                    "model": which,
                    "true": true,
                    "predicted": labels[probabilities.argmax(axis=1)],
                    **{f"p_{label}": probabilities[:, index] for index, label in enumerate(labels)},
                }
            )
        )
    return pd.concat(parts)


def _probabilities(
    run: RunFolder, dataset: FaceDataset, rows: np.ndarray, features: FeatureStore | None
) -> dict[str, np.ndarray]:
    """Probabilities float32 (len(rows), classes) by the best and the final model."""
    found = {}
    if features is None or run.config["finetune_epochs"]:
        scored = _scored_model(str(run.path.parent))
        for which in WHICH:
            scored.model.load_weights(run.path / f"{which}.weights.h5")
            found[which] = scoring.predict_rows(scored.scored, dataset, rows, batch_size=128)
        return found
    features.start()
    given, head = features.features(rows), features.model.get_layer("head")
    for which in WHICH:
        features.load_head(run.path / f"{which}.weights.h5")
        found[which] = np.asarray(head(given, training=False), np.float32)
    return found


class _ScoredModel(NamedTuple):
    model: keras.Model
    scored: ScoredModel


@functools.lru_cache(maxsize=1)
def _scored_model(out: str) -> _ScoredModel:
    """One float32 model for the scoring of all folds, built and traced once in a process."""
    run = KFoldRun.open(out).fold_run(1)
    model = run.spec.build(seed=0, precision="float32")
    return _ScoredModel(model, scoring.keras_model(model, run, "best", "out of fold"))


def forget_models() -> None:
    """Let go of what is kept for the next fold."""
    shared_features.cache_clear()
    _scored_model.cache_clear()
