"""The run folder: all that is needed to resume, evaluate or repeat a run.

RUN/config.json     every resolved setting, the arithmetic that `precision: auto` came to, the data set's path and fingerprint,
                    faces of it that were learnt before (by the model that the run starts from, or its teacher), versions, git
                    revision
RUN/model.json      the ModelSpec and the labels in order
RUN/rows.csv        row, split: the rows of the data set that trained and validated
RUN/history.csv     a line an epoch: epoch, phase, loss, accuracy, val_loss, val_accuracy, learning_rate, seconds
RUN/best.weights.h5, final.weights.h5
RUN/metrics.json    what was measured; figures/, tensorboard/, log.txt
RUN/state/          only while it runs: what `--resume` needs
RUN/lock            held by the process that trains it; one that was killed leaves it behind, which locks nobody out
"""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.data.dataset import FaceDataset, same_data
from fer_keras.errors import DataError, FerError, ModelError
from fer_keras.files import left_of, may_be_replaced, numbered, read_json, write_json
from fer_keras.models.exported import git_revision
from training.backend import choose_precision

if TYPE_CHECKING:
    import keras

    from fer_keras.models.registry import ModelSpec

WHICH = ("best", "final")


@dataclass(frozen=True)
class RunFolder:
    """A run on disk."""

    path: Path

    @classmethod
    def create(
        cls,
        path: str | os.PathLike,
        config: Mapping[str, Any],
        spec: ModelSpec,
        dataset: FaceDataset,
        rows: Mapping[str, np.ndarray],
        learnt_before: np.ndarray | None = None,
    ) -> RunFolder:
        """A new run folder with its settings and rows. Raises FerError where one stands there already.

        rows: split name -> int64 row numbers of the data set. learnt_before: int64 (n,), rows that the models which it builds
        on had learnt from (`distillation.learnt_before`); they may be gone when the run is judged. None: nobody looked.
        """
        import pandas as pd

        folder = Path(path)
        if not may_be_replaced(folder):
            raise FerError(taken(folder, "config.json"))
        # Beside the settings, not in their place: whether a run is the one that is wanted is told by what was asked for.
        precision = choose_precision(config.get("precision", "auto"))
        folder.mkdir(parents=True, exist_ok=True)
        run = cls(folder)
        table = pd.concat([pd.DataFrame({"row": part, "split": split}) for split, part in rows.items()])
        try:
            # Of two processes that found it empty one can make this file, and the folder is its own.
            with (folder / "rows.csv").open("x", encoding="utf-8", newline="") as file:
                table.to_csv(file, index=False)
        except FileExistsError:
            raise FerError(taken(folder, "config.json")) from None
        write_json(folder / "model.json", {"spec": spec.to_dict(), "labels": list(dataset.labels)})
        description = {
            "settings": dict(config),
            "precision": precision,
            "dataset": {"path": str(dataset.path.resolve()), "name": dataset.name, "fingerprint": dataset.fingerprint},
            "versions": versions(),
            "git_revision": git_revision(),
        }
        if learnt_before is not None:
            from training.scoring import learnt_from

            description["learnt_before"] = learnt_from(dataset, learnt_before)
        write_json(folder / "config.json", description)  # last: it is what makes the folder a run
        return run

    @classmethod
    def open(cls, path: str | os.PathLike) -> RunFolder:
        """A run that was made before. Raises FerError where the folder is not one."""
        folder = Path(path)
        if not folder.is_dir():
            raise FerError(f"there is no run folder {folder}; training.train prints where it writes")
        missing = [name for name in ("config.json", "model.json", "rows.csv") if not (folder / name).is_file()]
        if missing:
            if (folder / "saved_model.pb").is_file():
                raise FerError(f"{folder} is an exported model; give the run folder that it was made from")
            raise FerError(f"{folder} is not a run folder: it lacks {', '.join(missing)}")
        run = cls(folder)
        shutil.rmtree(left_of(run.state_path), ignore_errors=True)  # of a process that was killed when all was done
        return run

    @cached_property
    def _description(self) -> dict[str, Any]:
        return _read_json(self.path / "config.json")

    @cached_property
    def _model(self) -> dict[str, Any]:
        return _read_json(self.path / "model.json")

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.path.resolve().name

    @property
    def config(self) -> dict[str, Any]:
        """Every resolved setting of the run."""
        return self._description["settings"]

    @property
    def precision(self) -> str:
        """The dtype policy that it is trained with, fixed when it was made: on another machine it goes on with the same.

        Of a run that was made before this was recorded, the one that it was last trained with, else what its settings mean here.
        """
        known = self._description.get("precision") or self.metrics.get("precision")
        return known or choose_precision(self.config.get("precision", "auto"))

    @property
    def provenance(self) -> dict[str, Any]:
        """Precision, data set, faces that were learnt before, versions and git revision of the run."""
        return {key: value for key, value in self._description.items() if key != "settings"}

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the model's output."""
        return tuple(self._model["labels"])

    @property
    def spec(self) -> ModelSpec:
        """The architecture."""
        from fer_keras.models.registry import ModelSpec

        return ModelSpec.from_dict(self._model["spec"])

    @property
    def finished(self) -> bool:
        """Whether the training came to its end."""
        return (self.path / "final.weights.h5").is_file() and not self.state_path.exists()

    @property
    def lock_path(self) -> Path:
        """A file that is there while a process trains the run."""
        return self.path / "lock"

    @property
    def state_path(self) -> Path:
        """Where the state of a training that is under way lies."""
        return self.path / "state"

    def rows(self, split: str) -> np.ndarray:
        """int64 row numbers that the run trained on ("train") or validated on ("validation")."""
        import pandas as pd

        table = pd.read_csv(self.path / "rows.csv")
        return table.loc[table["split"] == split, "row"].to_numpy(np.int64)

    def dataset(self, path: str | os.PathLike | None = None) -> FaceDataset:
        """The data set of the run. Raises DataError where it is gone or is no longer the same.

        path: where it is now, if it was moved or prepared again.
        """
        recorded = self._description["dataset"]
        dataset = FaceDataset.load(path or recorded["path"])
        if not same_data(recorded["fingerprint"], dataset.fingerprint):
            if path:
                raise DataError(f"{dataset.path} holds other faces than {recorded['path']}, on which {self.path} was trained")
            raise DataError(
                f"{dataset.path} has changed since {self.path} was trained on it; prepare it as it was, or name one with --data"
            )
        return dataset

    def with_data(self, dataset: FaceDataset) -> RunFolder:
        """The run, which from now on looks for its data where this is."""
        place = str(dataset.path.resolve())
        description = {**self._description, "settings": {**self.config, "data": str(dataset.path)}}
        description["dataset"] = {**description["dataset"], "path": place}
        write_json(self.path / "config.json", description)
        return RunFolder(self.path)

    def load_model(self, which: str) -> keras.Model:
        """The model in float32 with its best or final weights. Raises FerError where there are none, ModelError where damaged."""
        weights = self.path / f"{which}.weights.h5"
        if not weights.is_file():
            raise FerError(
                f"{self.path} has no {which} weights yet; finish it with python -m training.train --resume {self.path}"
            )
        model = self.spec.build(seed=0, precision="float32")
        try:
            model.load_weights(weights)
        except (OSError, ValueError, KeyError, RuntimeError) as error:  # of h5py where damaged, of Keras for another network's
            why = str(error).partition("\n")[0].rstrip(":")  # further lines of Keras print whole arrays
            raise ModelError(f"{weights} can't be read ({why}); the run folder is damaged, make it anew") from error
        return model

    @property
    def metrics(self) -> dict[str, Any]:
        """What has been measured so far."""
        path = self.path / "metrics.json"
        return _read_json(path) if path.is_file() else {}

    def update_metrics(self, **values: Any) -> None:
        """Add to metrics.json."""
        write_json(self.path / "metrics.json", {**self.metrics, **values})

    def logger(self) -> logging.Logger:
        """A logger that prints to the terminal and appends to log.txt."""
        logger = logging.getLogger(f"fer_keras.run.{self.path.resolve()}")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        if not logger.handlers:
            file = logging.FileHandler(self.path / "log.txt", encoding="utf-8")
            file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            screen = _TqdmHandler()
            screen.setFormatter(logging.Formatter("%(message)s"))
            logger.addHandler(file)
            logger.addHandler(screen)
        return logger


def taken(out: Path, mark: str | None = None) -> str:
    """What to say where `out` can't be made since it is there. mark: the file by which a command knows what it can go on with."""
    going_on = f", or go on with it: --resume {out}" if mark and (out / mark).is_file() else ""
    return f"{out} exists already; choose another --out{going_on}"


@contextlib.contextmanager
def folder_for(out: str | None, kind: str) -> Iterator[Path]:
    """Where a command writes: `out`, else runs/TIME-KIND, made for it alone.

    Where another began in the same second it has a number. A folder so made goes again where the block fails and leaves it empty.
    """
    if out:
        yield Path(out)
        return
    for folder in numbered(Path(f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{kind}")):
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


class _TqdmHandler(logging.Handler):
    """Prints above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record))


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, damaged="the run folder is damaged")


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("fer_keras", "tensorflow", "keras", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
