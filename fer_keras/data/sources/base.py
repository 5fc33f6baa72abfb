"""What every reader gives, and what readers share: split words, group values, tables in csv files."""

from __future__ import annotations

import codecs
import csv
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fer_keras.data.dataset import UNKNOWN, known_or_empty
from fer_keras.errors import DataError
from fer_keras.labels import spelled

if TYPE_CHECKING:
    import pandas as pd

_SPLIT_WORDS = {
    "train": ("train", "training", "fer2013train"),
    "validation": ("validation", "valid", "val", "dev", "publictest", "fer2013valid"),
    "test": ("test", "testing", "privatetest", "fer2013test"),
}
SPLIT_OF_WORD = {word: split for split, words in _SPLIT_WORDS.items() for word in words}

_GENDERS = {"Female": ("f", "female", "woman", "women"), "Male": ("m", "male", "man", "men")}
_GENDER_OF_WORD = {word: gender for gender, words in _GENDERS.items() for word in words}
#: First age of each group: those of the FairFace data set (Karkkainen and Joo 2021), so that audits can be compared.
_AGE_GROUP_STARTS = (0, 3, 10, 20, 30, 40, 50, 60, 70)
#: Two ages in whole years: "25-32", and "(25, 32)" as Adience has them.
_AGE_RANGE = re.compile(r"(\d{1,3}) ?[-\u2013] ?(\d{1,3})|\((\d{1,3}), ?(\d{1,3})\)")

#: Files that systems leave in folders; skipped without a word, as are all hidden ones.
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True)
class Picture:
    """One picture of a source, or why there is none.

    pixels: uint8 (h, w, 1 or 3), or None. reason: a key of cleaning.REASONS where pixels is None, else "". note: free text.
    """

    pixels: np.ndarray | None
    reason: str = ""
    note: str = ""


@dataclass(frozen=True)
class SourceTable:
    """What a source says about its pictures, before any is decoded.

    rows: one line a picture; columns label ("" where it has none), split ("" where it has none), source, and those of
        group_columns, identity, fer2013_label and votes_* that the source knows.
    labels: every label that the source can have, by the names to use, before the label map.
    official_splits: the splits are a published benchmark's, whose validation and test rows should stay as they are.
    remarks: what the user should be told about the source.
    """

    rows: pd.DataFrame
    labels: tuple[str, ...]
    group_columns: tuple[str, ...] = ()
    official_splits: bool = False
    remarks: tuple[str, ...] = ()


class Source(Protocol):
    """A reader. `read` comes first; `pictures` follows the order of its rows."""

    def read(self) -> SourceTable:
        """Labels, splits and the rest, one line a picture. Raises DataError."""
        ...

    def pictures(self, channels: int) -> Iterator[Picture]:
        """The pictures one by one, in the order of `read().rows`, decoded to 1 or 3 channels where there is a choice."""
        ...

    def fingerprint(self) -> str:
        """Changes when the files of the source change."""
        ...


def split_of(word: str, where: str) -> str:
    """ "PublicTest" -> "validation"; an empty word stays empty. Raises DataError, naming `where`, for other words."""
    plain = word.strip().lower()
    if plain and plain not in SPLIT_OF_WORD:
        known = "Training/PublicTest/PrivateTest, train/training, val/valid/validation, test/testing"
        raise DataError(f"unknown split {word.strip()!r} in {where}; expected one of {known}")
    return SPLIT_OF_WORD.get(plain, "")


def splits_of(words: Sequence[str], where: str) -> list[str]:
    """`split_of` for a column; the row (from 1) is named in an error."""
    known = {}
    for row, word in enumerate(words, start=1):
        if word not in known:
            known[word] = split_of(word, f"{where}, row {row}")
    return [known[word] for word in words]


def group_value(column: str, text: str) -> str:
    """One value of a group column: "F" and "woman" -> "Female" in gender; empty, NaN and the like -> "unknown"."""
    plain = known_or_empty(text)
    if not plain:
        return UNKNOWN
    if column == "gender":
        return _GENDER_OF_WORD.get(plain.lower(), plain)
    return plain


def age_group(text: str) -> str:
    """The group of an age in years: "34" and "34,5" -> "30-39", "81.5" -> "70+"; what is no age from 0 to 130 -> "unknown".

    Two ages have a group where it is that of both: "(0, 2)" -> "0-2". Of "(25, 32)" nobody knows whether it is 20-29 or 30-39.
    """
    plain = spelled(text)
    if ends := _AGE_RANGE.fullmatch(plain):
        low, high = (int(end) for end in ends.groups() if end)
        groups = {age_group(str(low)), age_group(str(high))}
        return groups.pop() if low <= high and len(groups) == 1 else UNKNOWN
    try:
        age = float(re.sub(r"^(\d+),(\d+)$", r"\1.\2", plain))  # the decimal comma of half of the world
    except ValueError:
        return UNKNOWN
    if not 0 <= age <= 130:  # NaN as well
        return UNKNOWN
    index = int(np.searchsorted(_AGE_GROUP_STARTS, age, side="right")) - 1
    if index + 1 == len(_AGE_GROUP_STARTS):
        return f"{_AGE_GROUP_STARTS[index]}+"
    return f"{_AGE_GROUP_STARTS[index]}-{_AGE_GROUP_STARTS[index + 1] - 1}"


def is_system_file(name: str) -> bool:
    """Whether a file or folder is hidden or was left there by an operating system."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def in_utf8(name: str) -> str:
    r"""A file's name as the manifest can hold it: bytes that are not UTF-8, as old archives have them, become "\xe9"."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


class CsvFile:
    """A csv as people have them: comma, semicolon, tab or bar; BOM; stray spaces around column names.

    Lines without a single filled cell, as spreadsheets leave them at the end, are skipped and not counted as rows.

    Raises DataError where the file is missing, empty, no text, not UTF-8, or has a row with more cells than columns.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise DataError(f"{self.path} is a folder; expected a csv file")
        if not self.path.is_file():
            raise DataError(f"{self.path} does not exist; expected a csv file")
        with self.path.open("rb") as file:
            head = file.read(1 << 16)
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise self._not_utf8("UTF-16")
        if b"\0" in head or head.startswith((b"\x1f\x8b", b"\x89PNG", b"\xff\xd8")):
            raise DataError(
                f"{self.path} is not a csv: it holds binary data; if it is packed or a picture, unpack it or name the csv"
            )
        first, *more = head.removeprefix(codecs.BOM_UTF8).lstrip(b"\r\n").splitlines() or [b""]  # ends of \r alone as well
        try:
            first = first.decode()
        except UnicodeError:
            raise self._not_utf8() from None
        if not first.strip():
            raise DataError(f"{self.path} is empty; expected a line of column names and then rows")
        counts = {sign: first.count(sign) for sign in ",;\t|"}
        self.delimiter = max(counts, key=counts.__getitem__) if any(counts.values()) else ","
        self.columns = self._cells(first)
        # Rows that all end in a delimiter are tolerated; pandas refuses those that are longer than this one.
        self._width = max(len(self.columns), len(self._cells(b"".join(more[:1]).decode(errors="replace"))))

    def _cells(self, line: str) -> list[str]:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=self.delimiter), [])]

    def _not_utf8(self, what: str = "") -> DataError:
        """The error of a file in another encoding, naming the first line that shows it."""
        where = f"it is {what}"
        if not what:
            with self.path.open("rb") as file:
                where = f"see line {next((n for n, line in enumerate(file, start=1) if not _is_utf8(line)), 1)}"
        return DataError(f'{self.path} is not UTF-8 ({where}), so names would be spoilt; save it as "CSV UTF-8" (Excel has that)')

    def position(self, name: str) -> int:
        """Where a column is. Upper and lower case count only where the exact name is absent. Raises DataError."""
        if name in self.columns:
            return self.columns.index(name)
        lowered = [column.lower() for column in self.columns]
        if name.lower() in lowered:
            return lowered.index(name.lower())
        shown = ", ".join(column or "(no name)" for column in self.columns)
        raise DataError(f"{self.path} has no column {name!r}; it has {shown[:300]}")

    def __contains__(self, name: str) -> bool:
        """Whether the file has a column, as `position` finds it."""
        return name.lower() in (column.lower() for column in self.columns)

    def chunks(self, names: Iterable[str], rows: int = 250) -> Iterator[pd.DataFrame]:
        """Frames of text cells ("" where empty), `rows` lines at a time, with the columns asked for under those names."""
        import pandas as pd

        positions = {name: self.position(name) for name in names}
        for frame in self._frames(sorted(set(positions.values())), rows, header=True):
            yield pd.DataFrame({name: frame[position] for name, position in positions.items()})

    def read(self, names: Iterable[str]) -> pd.DataFrame:
        """All rows of the columns asked for, as text. Raises DataError where there are none."""
        import pandas as pd

        frames = list(self.chunks(names, rows=50_000))
        if not frames or not sum(map(len, frames)):
            raise DataError(f"{self.path} has column names but no rows")
        return pd.concat(frames, ignore_index=True)

    def lines(self) -> pd.DataFrame:
        """All lines of a csv without column names, as text; the columns are numbered from 0. Raises DataError for none."""
        import pandas as pd

        lines = pd.concat(list(self._frames(list(range(len(self.columns))), 50_000, header=False)), ignore_index=True)
        if lines.empty:
            raise DataError(f"{self.path} has no rows")
        return lines

    def _check_length(self, frame: pd.DataFrame) -> None:
        """Raise DataError where a row has more cells than there are columns."""
        longer = (frame[range(len(self.columns), self._width)] != "").any(axis=1)
        if longer.any():
            raise DataError(
                f"{self.path}, row {longer.idxmax() + 1} has more than {len(self.columns)} cells, one for each column; "
                "put text that holds the delimiter in quotes"
            )

    def _frames(self, positions: list[int], rows: int, header: bool) -> Iterator[pd.DataFrame]:
        import pandas as pd

        try:
            # All columns, not `usecols`, with which pandas cuts rows that are too long without a word.
            with pd.read_csv(
                self.path,
                sep=self.delimiter,
                names=range(self._width),
                header=0 if header else None,
                index_col=False,
                dtype=str,
                keep_default_na=False,
                encoding="utf-8-sig",
                chunksize=rows,
                low_memory=False,
            ) as reader:
                count = 0
                for frame in reader:
                    frame = frame.fillna("")  # of a line that ends early
                    frame = frame[~_without_content(frame)]
                    frame.index = range(count, count + len(frame))
                    count += len(frame)
                    self._check_length(frame)
                    yield frame[positions]
        except pd.errors.EmptyDataError as error:
            raise DataError(f"{self.path} has no rows") from error
        except UnicodeError:
            raise self._not_utf8() from None
        except (pd.errors.ParserError, csv.Error) as error:
            raise DataError(f"{self.path} can't be read as a csv: {' '.join(str(error).split())}") from error


def _without_content(frame: pd.DataFrame) -> np.ndarray:
    """Which rows have nothing but white space in every cell. bool (n,)."""
    empty = np.ones(len(frame), bool)
    for column in frame:
        if not empty.any():  # mostly after the first column, and those of pixels are long
            break
        empty &= (frame[column].str.strip() == "").to_numpy()
    return empty


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeError:
        return False
    return True


def hash_files(paths: Iterable[Path]) -> str:
    """Hash of the contents of a few files."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        digest.update(b"\0next file\0")
    return digest.hexdigest()


def hash_listing(root: Path, names: Iterable[str]) -> str:
    """Hash of the names, sizes and times of many files below a folder; a file that is missing counts as such."""
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        try:
            status = (root / name).stat()
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
        except OSError:
            digest.update(f"{name}\0missing\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
