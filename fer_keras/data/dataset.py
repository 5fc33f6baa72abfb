"""FaceDataset: a folder of prepared faces, the one currency of training and evaluation.

    DIR/dataset.json   labels, picture size, channels, hash of the faces, group columns, label map, every prepare setting, counts
    DIR/manifest.csv   one line a picture: row, label, split, kept, reason, groups, identity ("" not known), votes_*, ..., source
    DIR/faces.npy      uint8 (n, height, width, channels), RGB or grey, 0..255; line i of the manifest is face i

Pictures that cleaning dropped stay in the manifest (kept is False, reason says why), so nothing disappears unseen; one
that could not be decoded has a black picture in its place.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_keras.errors import ConfigError, DataError
from fer_keras.files import alone, folder_to_write, may_be_replaced, naming, read_json, replace_folder, write_json
from fer_keras.labels import VOTE_NAMES, spelled

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", "validation", "test")
UNKNOWN = "unknown"
#: Cells, in small letters, by which people say that they do not know; the last two are those of Excel and of pandas.
NOT_KNOWN = frozenset({"", "nan", "na", "n/a", "none", "null", "unknown", "?", "-", "#n/a", "<na>"})
VOTE_COLUMNS = tuple(f"votes_{name}" for name in VOTE_NAMES)
FORMAT_VERSION = 1
_NPY_HEADER_BYTES = 128


def known_or_empty(text: str) -> str:
    """A cell as `labels.spelled`; "" where it says that nothing is known, such as "?" or "NaN"."""
    plain = spelled(str(text))
    return "" if plain.lower() in NOT_KNOWN else plain


def same_data(recorded: object, fingerprint: str) -> bool:
    """Whether a fingerprint that was recorded is that of the same rows and pixels.

    Pixels that one of the two does not tell of are not compared: what was recorded before they counted is to go on.
    """
    if not same_rows(recorded, fingerprint):
        return False
    theirs, ours = (text.partition("-")[2] for text in (str(recorded), fingerprint))
    return not theirs or not ours or theirs == ours


def same_rows(recorded: object, fingerprint: str) -> bool:
    """Whether a fingerprint that was recorded is that of the same rows, be they in another size or colour."""
    return isinstance(recorded, str) and recorded.partition("-")[0] == fingerprint.partition("-")[0]


@dataclass(frozen=True)
class FaceDataset:
    """A prepared data set, opened for reading. Faces are memory-mapped: opening costs nothing, whatever the size."""

    path: Path
    info: Mapping[str, Any] = field(repr=False)
    manifest: pd.DataFrame = field(repr=False)

    @classmethod
    def load(cls, path: str | os.PathLike) -> FaceDataset:
        """Open the folder that `training.prepare` wrote.

        Raises DataError where the folder is missing, incomplete, or its files disagree.
        """
        import pandas as pd

        folder = Path(path)
        missing = [name for name in ("dataset.json", "manifest.csv", "faces.npy") if not (folder / name).is_file()]
        if missing:
            what = f"lacks {', '.join(missing)}" if folder.is_dir() else "does not exist"
            raise DataError(f"{folder} is not a prepared data set: it {what}; make one with python -m training.prepare")
        try:
            info = read_json(folder / "dataset.json")
            text_columns = dict.fromkeys(["label", "split", "reason", "identity", "source", *info["group_columns"]], str)
            manifest = pd.read_csv(folder / "manifest.csv", dtype=text_columns, keep_default_na=False)
            if "identity" in manifest:  # data sets prepared before took "unknown" and the like for one person
                manifest["identity"] = [known_or_empty(text) for text in manifest["identity"]]
            shape = np.load(folder / "faces.npy", mmap_mode="r").shape
        except (ValueError, KeyError, OSError) as error:
            raise DataError(f"{folder} can't be read as a data set ({error}); prepare it again") from error
        expected = (len(manifest), info["image_size"], info["image_size"], info["channels"])
        if shape != expected:
            raise DataError(f"{folder}/faces.npy has shape {shape}, the manifest says {expected}; prepare it again")
        return cls(folder, info, manifest)

    @property
    def name(self) -> str:
        """What the data set is called: the name of its folder."""
        return self.path.resolve().name

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of every target and probability vector."""
        return tuple(self.info["labels"])

    @property
    def image_size(self) -> int:
        """Height and width of every face, in pixels."""
        return int(self.info["image_size"])

    @property
    def channels(self) -> int:
        """1 for grey, 3 for RGB."""
        return int(self.info["channels"])

    @property
    def group_columns(self) -> tuple[str, ...]:
        """Demographic columns of the manifest, such as gender and age_group. Not known is the word "unknown"."""
        return tuple(self.info["group_columns"])

    @property
    def has_votes(self) -> bool:
        """Whether each face carries the ten FER+ tagger votes."""
        return VOTE_COLUMNS[0] in self.manifest.columns

    @property
    def fingerprint(self) -> str:
        """Changes when a label, a split, a picture's origin or a pixel changes; runs record it to notice other data.

        "MANIFEST-FACES", a hash of each; "MANIFEST" alone for data sets that were written before their faces were hashed. Compare
        it by `same_data` or `same_rows`.
        """
        manifest = hashlib.sha256((self.path / "manifest.csv").read_bytes()).hexdigest()[:16]
        return "-".join(filter(None, (manifest, self.info.get("faces_hash"))))

    @cached_property
    def faces(self) -> np.ndarray:
        """Memory-mapped uint8 (n, height, width, channels), 0..255."""
        return np.load(self.path / "faces.npy", mmap_mode="r")

    @cached_property
    def label_indices(self) -> np.ndarray:
        """int64 (n,): index into `labels` of every line; -1 where it has none."""
        lookup = {name: index for index, name in enumerate(self.labels)}
        return np.array([lookup.get(name, -1) for name in self.manifest["label"]], dtype=np.int64)

    def rows(self, split: str | None = None) -> np.ndarray:
        """int64 row numbers of the kept faces of a split ("train", "validation", "test"), or of all, ascending."""
        keep = self.manifest["kept"].to_numpy(bool)
        if split is not None:
            if split not in SPLITS:
                raise DataError(f"unknown split {split!r}; choose from {', '.join(SPLITS)}")
            keep = keep & (self.manifest["split"] == split).to_numpy()
        return np.flatnonzero(keep)

    def subset(self, rows: np.ndarray) -> FaceSubset:
        """Some rows of the data set, as a thing that training takes.

        rows: whole numbers (m,), each from 0 to n - 1, or bool (n,), True for the rows to take.
        Raises DataError for anything else.
        """
        given, count = np.asarray(rows), len(self.manifest)
        if given.dtype == bool:
            if given.shape != (count,):
                raise DataError(f"a mask of {self.path} is bool ({count},), one for each row, got {given.shape}")
            return FaceSubset(self, np.flatnonzero(given))
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
            raise DataError(f"rows of {self.path} are whole numbers (m,), got {given.dtype} {given.shape}")
        if given.size and not (given.min() >= 0 and given.max() < count):
            odd = given.min() if given.min() < 0 else given.max()
            raise DataError(f"{self.path} has no row {odd}; its {count} rows count from 0 to {count - 1}")
        return FaceSubset(self, given.astype(np.int64))

    def splits(self) -> tuple[str, ...]:
        """The splits that have kept faces."""
        return tuple(split for split in SPLITS if len(self.rows(split)))

    def votes(self, rows: np.ndarray) -> np.ndarray:
        """int64 (len(rows), 10): FER+ votes in the order of labels.VOTE_NAMES. Raises DataError where there are none."""
        if not self.has_votes:
            raise DataError(f"{self.path} has no FER+ votes; prepare it with --votes fer2013new.csv, or from FER+ folders")
        return self.manifest.loc[rows, list(VOTE_COLUMNS)].to_numpy(np.int64)


@dataclass(frozen=True)
class FaceSubset:
    """Rows of a data set: a split, a fold, a group. int64 (m,) row numbers of the manifest."""

    dataset: FaceDataset
    rows: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.rows)


class DatasetWriter:
    """Writes a FaceDataset folder picture by picture, in constant memory, and puts it in place whole or not at all.

    >>> with DatasetWriter(out, image_size=48, channels=1) as writer:
    ...     row = writer.add(face)
    ...     writer.finish(columns={"label": [...], ...}, labels=labels, group_columns=(), info={...})

    Leaving the block without `finish`, or through an error, leaves nothing behind; what a killed process left goes with the
    next one that writes there. ConfigError where another process is writing it, or overwrite would replace what is no data set.
    """

    def __init__(self, out: str | os.PathLike, *, image_size: int, channels: int, overwrite: bool = False) -> None:
        self.out = Path(out)
        self.image_size, self.channels, self.overwrite = image_size, channels, overwrite
        # One name for all processes, so that the next one finds what a killed one left; `alone` keeps two from writing there.
        self._target = folder_to_write(out)
        self._temporary = self._target.with_name(f".{self._target.name}.part")
        self._count = 0
        self._hash = hashlib.blake2b(f"{image_size} {channels}\n".encode(), digest_size=8)

    def __enter__(self) -> DatasetWriter:
        lock = self._target.with_name(f".{self._target.name}.lock")
        with contextlib.ExitStack() as held:
            held.enter_context(alone(lock, f"{self.out} is being written by another process; wait for its end"))
            # Not before, since another process may just have written it.
            if not self.overwrite and not may_be_replaced(self.out):
                raise DataError(f"{self.out} exists already; choose another --out, or --overwrite")
            if not may_be_replaced(self.out, "dataset.json"):
                raise ConfigError(f"{self.out} is not a data set, so it is not overwritten; choose another --out, or remove it")
            held.callback(shutil.rmtree, self._temporary, ignore_errors=True)
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary.mkdir(parents=True)
            held.enter_context(naming(self.out))
            self._file = held.enter_context((self._temporary / "faces.npy").open("wb"))
            self._file.write(b"\0" * _NPY_HEADER_BYTES)  # the shape is known at the end only
            self._held = held.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._held.close()

    def add(self, face: np.ndarray | None) -> int:
        """Append one face, uint8 (size, size, channels); None writes a black one. Returns its row number."""
        shape = (self.image_size, self.image_size, self.channels)
        face = np.zeros(shape, np.uint8) if face is None else face
        if face.shape != shape or face.dtype != np.uint8:
            raise ValueError(f"expected uint8 {shape}, got {face.dtype} {face.shape}")
        pixels = np.ascontiguousarray(face).tobytes()
        with naming(self.out):
            self._file.write(pixels)
        self._hash.update(pixels)
        self._count += 1
        return self._count - 1

    def faces(self) -> np.ndarray:
        """Memory-mapped uint8 (n, size, size, channels): what was added until now. Let go of it before `finish`."""
        shape = (self._count, self.image_size, self.image_size, self.channels)
        with naming(self.out):
            self._file.flush()
        if not self._count:  # there is no map of nothing
            return np.empty(shape, np.uint8)
        return np.memmap(self._temporary / "faces.npy", np.uint8, "r", _NPY_HEADER_BYTES, shape)

    def finish(
        self,
        columns: Mapping[str, Sequence],
        *,
        labels: Iterable[str],
        group_columns: Iterable[str] = (),
        info: Mapping[str, Any] | None = None,
    ) -> FaceDataset:
        """Write manifest and description, and move the folder into place once it was read back.

        columns: one sequence of length n a manifest column; label, split, kept, reason and source must be there. kept is bool;
        of a kept face, label is one of `labels` and split one of SPLITS, or "" where it has none.
        labels: names of the classes in the order of every target, each once. info: further entries of dataset.json.
        Raises DataError, and leaves what was there, for labels, splits or kept values that would be passed over afterwards, and
        where what was written can't be read back.
        """
        import pandas as pd

        labels = list(labels)
        manifest = pd.DataFrame({"row": np.arange(self._count), **columns})
        required = {"label", "split", "kept", "reason", "source"}
        if missing := required - set(manifest.columns):
            raise ValueError(f"the manifest lacks {sorted(missing)}")
        _check_labels(labels)
        _check_rows(manifest, labels)
        header = str(
            {"descr": "|u1", "fortran_order": False, "shape": (self._count, self.image_size, self.image_size, self.channels)}
        )
        magic = b"\x93NUMPY\x01\x00" + (_NPY_HEADER_BYTES - 10).to_bytes(2, "little")
        with naming(self.out):
            self._file.seek(0)
            self._file.write(magic + header.ljust(_NPY_HEADER_BYTES - 11).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            _write_manifest(manifest, self._temporary / "manifest.csv")
        description = {
            "format_version": FORMAT_VERSION,
            "labels": labels,
            "image_size": self.image_size,
            "channels": self.channels,
            "group_columns": list(group_columns),
            **(info or {}),
            "faces_hash": self._hash.hexdigest(),
        }
        write_json(self._temporary / "dataset.json", description)
        self._read_back()  # before it takes the place of one that may be good
        replace_folder(self._temporary, self._target)
        return FaceDataset.load(self.out)

    def _read_back(self) -> None:
        try:
            FaceDataset.load(self._temporary)  # and let go at once: Windows moves no folder with an open file
        except DataError as error:
            raise DataError(
                f"what was written for {self.out} can't be read back ({error.__cause__ or error}), so what was there stays as "
                "it was; please report it"
            ) from error


def _check_labels(labels: Sequence[Any]) -> None:
    """Raises DataError for class names that are no text, or there twice."""
    for label in labels:
        if not isinstance(label, str) or not label:
            raise DataError(f"a label of a data set is a name, got {label!r}; write numbers as text, such as '0'")
        if labels.count(label) > 1:
            raise DataError(f"the label {label!r} is there {labels.count(label)} times; name each label once")


def _check_rows(manifest: pd.DataFrame, labels: Sequence[str]) -> None:
    """Raises DataError for a kept row that no split or class would have, or where it is not clear whether a row is kept.

    Rows that are not kept may have any label and split: they say what the source had.
    """
    for row, kept in enumerate(manifest["kept"]):
        if not isinstance(kept, (bool, np.bool_)):
            raise DataError(f"row {row}: kept is True or False, got {kept!r}")
    kept = manifest[manifest["kept"].to_numpy(bool)]
    for column, known in (("label", labels), ("split", SPLITS)):
        for row, value in zip(kept["row"], kept[column], strict=True):
            if not isinstance(value, str) or (value and value not in known):
                raise DataError(f"row {row}: unknown {column} {value!r}; expected one of {', '.join(known)}, or '' for none")


def _write_manifest(manifest: pd.DataFrame, path: Path) -> None:
    """Write a manifest so that `FaceDataset.load` reads the same cells.

    csv of Python 3.11 leaves a lone carriage return without quotes, which ends the line for who reads it. All text is quoted
    where there is one, and only there: the fingerprint is a hash of these bytes.
    """
    text = manifest.select_dtypes(exclude=["number", "bool"])
    returns = any("\r" in str(cell) for name in text for cell in text[name])
    manifest.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL)
