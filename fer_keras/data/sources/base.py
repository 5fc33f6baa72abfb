"""What every reader gives, and what readers share: split words, group values, tables in csv files."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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
#: What people write beside a split word: "train_images", "Validation Set", "dataset-test".
_BESIDE = r"(?:data|faces?|folder|images?|imgs?|pictures?|sets?|split)"
_SPLIT_NAME = re.compile(rf"(?:{_BESIDE}[\W_]*)*({'|'.join(SPLIT_OF_WORD)})(?:[\W_]*{_BESIDE})*")

_GENDERS = {"Female": ("f", "female", "woman", "women"), "Male": ("m", "male", "man", "men")}
_GENDER_OF_WORD = {word: gender for gender, words in _GENDERS.items() for word in words}
#: First age of each group: those of the FairFace data set (Karkkainen and Joo 2021), so that audits can be compared.
_AGE_GROUP_STARTS = (0, 3, 10, 20, 30, 40, 50, 60, 70)
#: Two ages in whole years: "25-32", and "(25, 32)" as Adience has them.
_AGE_RANGE = re.compile(r"(\d{1,3}) ?[-\u2013] ?(\d{1,3})|\((\d{1,3}), ?(\d{1,3})\)")

#: A cell of a csv in quotes, which may hold line ends and other delimiters.
_QUOTED = re.compile(r'(?<![^,;\t|\r\n])"(?:[^"]|"")*"(?=[,;\t|\r\n]|$)')
_LINE_END = re.compile(r"\s*[\r\n]\s*")
#: The first line by which Excel is told the delimiter, where that is not the one of the computer's language.
_SEPARATOR_LINE = re.compile(r'"?sep=([,;\t|])"?[ ,;\t|]*(?:\r\n|\r|\n|$)', re.IGNORECASE)

#: Files that systems leave in folders; skipped without a word, as are all hidden ones.
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx", "lost+found"}


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


def split_named(word: str) -> str:
    """ "PublicTest" and "Validation Set" -> "validation"; "" for what names no split."""
    match = _SPLIT_NAME.fullmatch(word.strip().lower())
    return SPLIT_OF_WORD[match[1]] if match else ""


def split_of(word: str, where: str) -> str:
    """`split_named`; an empty word stays empty. Raises DataError, naming `where`, for other words."""
    split = split_named(word)
    if word.strip() and not split:
        known = "Training/PublicTest/PrivateTest, train/training, val/valid/validation, test/testing"
        raise DataError(f"unknown split {word.strip()!r} in {where}; expected one of {known}")
    return split


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


def alike(text: str) -> str:
    """What the spellings of one value share: neither case counts, nor the ".0" that a table with gaps gives its numbers."""
    return re.sub(r"^(-?\d+)\.0+$", r"\1", spelled(text).casefold())


def as_one(what: str, values: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The values, those that are `alike` in the spelling that comes first, and a remark that names them; `what` they are."""
    first: dict[str, str] = {}
    result = [first.setdefault(alike(value), value) for value in values]
    spellings: dict[str, dict[str, None]] = {}
    for value, name in zip(values, result, strict=True):
        spellings.setdefault(name, {})[value] = None
    return result, several_ways(what, spellings)


def several_ways(what: str, spellings: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """A remark where one name, of labels or whatever is meant by `what`, was found in several spellings."""
    merged = [f"{', '.join(ways)} as {name}" for name, ways in spellings.items() if len(ways) > 1]
    if not merged:
        return ()
    more = f"; and {len(merged) - 5} more" if len(merged) > 5 else ""
    return (f"{what} that are spelled in several ways were read as one: {'; '.join(merged[:5])}{more}",)


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
    """A csv as people have them: comma, semicolon, tab or bar; BOM; stray spaces around column names, line ends within; Excel's
    first line `sep=;`, which names the delimiter.

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
        text = head.removeprefix(codecs.BOM_UTF8).decode(errors="surrogateescape")
        named = _SEPARATOR_LINE.match(text)
        self._skipped = int(bool(named))  # lines before that of the column names
        text = text[named.end() if named else 0 :].lstrip("\r\n")
        if not _first_line(text).strip():
            raise DataError(f"{self.path} is empty; expected a line of column names and then rows")
        plain = _first_line(_QUOTED.sub("", text))
        counts = {sign: plain.count(sign) for sign in ",;\t|"}
        usual = max(counts, key=counts.__getitem__) if any(counts.values()) else ","
        self.delimiter = named[1] if named else usual
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=self.delimiter)  # ends of \r alone as well
        self.columns = [_LINE_END.sub(" ", cell).strip() for cell in next(rows)]
        if any(column != in_utf8(column) for column in self.columns):
            raise self._not_utf8()
        # Rows that all end in a delimiter are tolerated; pandas refuses those that are longer than this one.
        self._width = max(len(self.columns), len(next(rows, [])))

    def _not_utf8(self, what: str = "") -> DataError:
        """The error of a file in another encoding, naming the first line that shows it."""
        where = f"it is {what}"
        if not what:
            with self.path.open("rb") as file:
                where = f"see line {next((n for n, line in enumerate(file, start=1) if not _is_utf8(line)), 1)}"
        return DataError(f'{self.path} is not UTF-8 ({where}), so names would be spoilt; save it as "CSV UTF-8" (Excel has that)')

    def position(self, name: str) -> int:
        """Where a column is. Upper and lower case count only where the exact name is absent. Raises DataError.

        Columns without a name are the first of them: nobody asks for those, but the pictures' names may stand there.
        """
        for same in (lambda column: column == name, lambda column: column.lower() == name.lower()):
            found = [index for index, column in enumerate(self.columns) if same(column)]
            if len(found) > 1 and name:
                places = " and ".join(str(index + 1) for index in found)
                raise DataError(f"{self.path} has the column {name!r} {len(found)} times, in places {places}; rename all but one")
            if found:
                return found[0]
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
                skiprows=self._skipped,
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


def _first_line(text: str) -> str:
    return re.split(r"[\r\n]", text, maxsplit=1)[0]


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
