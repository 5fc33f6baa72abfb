"""Any csv with a column of picture paths, and columns of labels, splits, identities and groups named by the user."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from fer_keras.data.dataset import UNKNOWN, known_or_empty
from fer_keras.data.sources.base import (
    CsvFile,
    Picture,
    SourceTable,
    age_group,
    as_one,
    group_value,
    hash_files,
    hash_listing,
    splits_of,
)
from fer_keras.data.sources.folders import read_pictures, resolve_labels, some_of
from fer_keras.errors import ConfigError, DataError
from fer_keras.labels import spelled

if TYPE_CHECKING:
    import pandas as pd

#: Targets with a meaning of their own; any other name is a group column of that name.
_SPECIAL = ("image", "label", "split", "identity", "age")
#: Names that the manifest uses itself; origin and change where `training.synthesize` has made pictures.
_RESERVED = ("row", "kept", "reason", "note", "source", "box", "fer2013_label", "origin", "change")


def _can_be_made(column: str) -> bool:
    """Whether a column of a data set can be called so."""
    return column not in _RESERVED and not column.startswith("votes_") and column.isidentifier()


def _other_name(column: str) -> str:
    """A name near to one that can't be had, which can."""
    cleaned = re.sub(r"\W+", "_", column).strip("_")
    names = (cleaned, f"{cleaned}_group".lstrip("_"), f"group_{cleaned}")
    return next(name for name in names if _can_be_made(name))


class Table:
    """Pictures named by a csv, relative to a folder.

    columns: from what a column is to its name in the csv: image and label, and where there are such, split, identity, gender,
    age (in years: becomes age_group), age_group, skin_tone, or any other name, which becomes a group column.
    metadata: a second csv, joined by picture name; it needs the image column too (under the same name, or as its first
    column), and each of `columns` is looked up in the first csv and then in it.
    labels: the labels that may occur; none: any. A cell such as "NaN" or "?" is no label, unless it is named here.
    """

    def __init__(
        self,
        csv_path: str | os.PathLike,
        images: str | os.PathLike,
        columns: Mapping[str, str],
        metadata: str | os.PathLike | None = None,
        labels: Sequence[str] = (),
    ) -> None:
        self.columns = dict(columns)
        for target in ("image", "label"):
            if target not in self.columns:
                raise ConfigError(f"--columns names no {target}; expected image=COLUMN,label=COLUMN and whatever else there is")
        for target in self.columns:
            if not _can_be_made(target):
                raise ConfigError(f"--columns can't make a column {target!r}; choose another name, such as {_other_name(target)}")
        if "age" in self.columns and "age_group" in self.columns:
            raise ConfigError("--columns names both age and age_group; age becomes age_group, so name one")
        self.csv = CsvFile(csv_path)
        self.images = Path(images)
        if not self.images.is_dir():
            raise DataError(
                f"{self.images} is no folder; expected --images to be the folder that {self.columns['image']!r} starts from"
            )
        self._roots = (Path(os.path.abspath(self.images)), self.images.resolve())  # with the links that lead there, or without
        self.metadata = CsvFile(metadata) if metadata else None
        self.allowed = tuple(labels)
        self._in_csv = [target for target, name in self.columns.items() if name in self.csv]
        self._in_metadata = [target for target in self.columns if target not in self._in_csv]
        for target in ("image", *self._in_metadata):
            if target == "image" or not self.metadata or self.columns[target] not in self.metadata:
                self._require(target)
        self._files: list[str] = []

    def fingerprint(self) -> str:
        """Hash of the csv files, and of names, sizes and times of the pictures that they name."""
        listed = self.csv.read([self.columns["image"]])[self.columns["image"]]
        files = [self.csv.path] + ([self.metadata.path] if self.metadata else [])
        return hash_files(files) + hash_listing(self.images, map(_plain, listed))

    def read(self) -> SourceTable:
        """Every column asked for, one row a picture. Raises DataError, naming file and row."""
        import pandas as pd

        headers = {target: self.columns[target] for target in self._in_csv}
        cells = self.csv.read(headers.values())
        found = {target: cells[header].tolist() for target, header in headers.items()}
        self._files = [self._inside(row, name) for row, name in enumerate(found["image"], start=1)]
        if not any((self.images / name).is_file() for name in self._files):
            raise DataError(
                f"none of the {len(self._files)} pictures of {self.csv.path} is in {self.images} (the first: {self._files[0]}); "
                "name the folder that the paths start from with --images"
            )
        joined_remarks: tuple[str, ...] = ()
        if self.metadata and self._in_metadata:
            joined, joined_remarks = self._join(self.metadata)
            found |= joined
        meant = {spelled(label).casefold() for label in self.allowed}
        names = [text if spelled(text).casefold() in meant else known_or_empty(text) for text in found["label"]]
        labels, known, remarks = resolve_labels(
            names, self.allowed, [f"{self.csv.path}, row {row}" for row in range(1, len(self._files) + 1)]
        )
        emptied = [spelled(text) for text, name in zip(found["label"], names, strict=True) if text.strip() and not name]
        if emptied:
            words = ", ".join(dict.fromkeys(emptied))
            remarks += (f"{len(emptied)} rows have no label but {words}; if that is a class, name every class by --labels",)
        rows = pd.DataFrame({"label": labels, "source": self._files})
        rows["split"] = splits_of(found["split"], str(self.csv.path)) if "split" in found else ""
        if "identity" in found:
            # As one person, with a remark: to part one person's faces spoils more than to keep two persons' together.
            rows["identity"], told = as_one("identities", [known_or_empty(text) for text in found["identity"]])
            remarks += told
        groups = []
        for target in self.columns:
            if target == "age":
                rows["age_group"] = [age_group(text) for text in found["age"]]
                remarks += _odd_ages(found["age"], rows["age_group"])
                groups.append("age_group")
            elif target not in _SPECIAL:
                rows[target], told = as_one(f"values of {target}", [group_value(target, text) for text in found[target]])
                remarks += told
                groups.append(target)
        return SourceTable(rows, known, group_columns=tuple(groups), remarks=joined_remarks + remarks)

    def pictures(self, channels: int) -> Iterator[Picture]:
        """The pictures in the order of the csv."""
        return read_pictures((self.images / name for name in self._files), channels)

    def _require(self, target: str) -> None:
        """Raise DataError unless a target's column is in the csv, showing what is there."""
        name = self.columns[target]
        if name in self.csv:
            return
        where = str(self.csv.path)
        has = [column or "(no name)" for column in self.csv.columns]
        if self.metadata:
            where += f" and {self.metadata.path}"
            has += self.metadata.columns
        raise DataError(f"{where}: no column {name!r} for {target}; there are {', '.join(has)[:400]}")

    def _inside(self, row: int, name: str) -> str:
        """A picture's path as written, once it is sure to stay inside the folder."""
        plain = _plain(name)
        where = f"{self.csv.path}, row {row}"
        if not plain:
            raise DataError(f"{where}: the column {self.columns['image']!r} is empty; expected the path of a picture")
        path = self._below(plain)
        if path.is_absolute() or PureWindowsPath(path.as_posix()).is_absolute():
            raise DataError(f"{where}: {plain!r} is outside {self.images}; expected a path relative to --images")
        return path.as_posix()

    def _below(self, plain: str) -> PurePosixPath:
        """A picture's path relative to the folder, without "..", whichever way it was written; absolute where it is outside."""
        path = PurePosixPath(plain)
        if ".." in path.parts:
            whole = os.path.join(self._roots[0], plain)
            written, real = os.path.normpath(whole), os.path.realpath(whole)
            # Behind a link to a folder, ".." leads elsewhere than it reads.
            path = PurePosixPath(Path(written if os.path.realpath(written) == real else real).as_posix())
        for folder in self._roots:
            if path.is_relative_to(folder.as_posix()):
                path = path.relative_to(folder.as_posix())
        return path

    def _join(self, metadata: CsvFile) -> tuple[dict[str, list[str]], tuple[str, ...]]:
        """The metadata's columns in the order of the csv, found by full path, else by file name, else by name without suffix.

        A name that several pictures have, in folders of their own, says of none of them which one is meant.
        """
        key = self.columns["image"] if self.columns["image"] in metadata else metadata.columns[0]
        names = {target: self.columns[target] for target in self._in_metadata}
        cells = metadata.read(dict.fromkeys([key, *names.values()]))
        theirs = [_plain(name) for name in cells[key]]
        ways: tuple[Callable[[str], str], ...] = (
            lambda name: self._below(name).as_posix(),
            lambda name: PurePosixPath(name).name,
            lambda name: PurePosixPath(name).stem,
        )
        rows, ours, shared = [], [], 0
        for way in ways:
            ours = [way(name) for name in self._files]
            pictures = Counter(way(name) for name in set(self._files))
            lookup: dict[str, int | None] = {}
            for row, name in enumerate(theirs):
                lookup[way(name)] = None if way(name) in lookup and _differ(cells, lookup[way(name)], row) else row
            rows = [lookup.get(name) if pictures[name] == 1 else None for name in ours]
            shared = sum(pictures[name] > 1 and name in lookup for name in ours)
            if any(row is not None for row in rows):
                break
        missing = sum(row is None for row in rows)
        if missing == len(rows) and shared:
            name = next(name for name in ours if pictures[name] > 1 and name in lookup)
            raise DataError(
                f"no picture of {self.csv.path} has a line of its own in {metadata.path}: names such as {name!r} are those of "
                f"several pictures in different folders; put their paths, such as {self._files[0]!r}, in its column {key!r}"
            )
        if missing == len(rows):
            raise DataError(
                f"no picture of {self.csv.path} is in {metadata.path}: joined by its column {key!r}, such as {theirs[0]!r}, "
                f"against {self._files[0]!r}; put the picture's path or name in a column {self.columns['image']!r}"
            )
        remarks: tuple[str, ...] = ()
        if missing:
            why = f": {shared} share their name with pictures in other folders" if shared else ""
            remarks = (f"{missing} of {len(rows)} pictures have no (or no single) line in {metadata.path}{why}",)
        joined = {}
        for target, name in names.items():
            values = cells[name].tolist()
            joined[target] = ["" if row is None else values[row] for row in rows]  # "" becomes "unknown"
        return joined, remarks


def _odd_ages(ages: Sequence[str], groups: Sequence[str]) -> tuple[str, ...]:
    """A remark where cells of the age column say something that is no age; those that say nothing need none."""
    odd = [text.strip() for text, group in zip(ages, groups, strict=True) if group == UNKNOWN and known_or_empty(text)]
    if not odd:
        return ()
    shown = some_of([repr(text) for text in dict.fromkeys(odd)])
    return (
        f"{len(odd)} ages are no number from 0 to 130, nor a range inside one age group, such as {shown}, so they count as "
        f"{UNKNOWN}; to take such words as groups, name the column by age_group=COLUMN",
    )


def _plain(name: str) -> str:
    """A picture's path with the slashes that every system knows, also where Windows wrote it."""
    return name.strip().replace("\\", "/")


def _differ(cells: pd.DataFrame, first: int | None, second: int) -> bool:
    """Whether two lines for one picture name say different things (None: they did already)."""
    return first is None or not cells.iloc[first, 1:].equals(cells.iloc[second, 1:])
