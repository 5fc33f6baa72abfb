"""FER2013 as Kaggle has it (`fer2013.csv`, `icml_face_data.csv`), alone or with FER+'s votes (`fer2013new.csv`) beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fer_keras.data.dataset import VOTE_COLUMNS
from fer_keras.data.sources.base import CsvFile, Picture, SourceTable, hash_files, splits_of
from fer_keras.data.targets import vote_labels
from fer_keras.errors import DataError
from fer_keras.labels import EMOTIONS, FER2013_CODES, VOTE_NAMES, canonical, ordered

_DIGIT_0 = ord("0")
_SPACE = ord(" ")


class KaggleCsv:
    """Rows `emotion,pixels,Usage`; pixels are the grey values 0..255 of a square picture, separated by spaces.

    Without votes the label is FER2013's. With votes (one line a line of the csv, in the same order) it is the emotion with
    most votes, and FER2013's stays in the column fer2013_label.
    """

    def __init__(self, csv_path: str | Path, votes_path: str | Path | None = None) -> None:
        self.csv = CsvFile(csv_path)
        self.votes = CsvFile(votes_path) if votes_path else None
        self._pixel_count = 0

    def fingerprint(self) -> str:
        """Hash of the contents of the csv files."""
        return hash_files([self.csv.path] + ([self.votes.path] if self.votes else []))

    def read(self) -> SourceTable:
        """Read labels, splits and votes, and how many pixels the rows have. Raises DataError."""
        import pandas as pd

        usage_known = "Usage" in self.csv
        codes: list[str] = []
        usage: list[str] = []
        pixel_counts: list[int] = []
        for chunk in self.csv.chunks(["emotion", "pixels", *(["Usage"] if usage_known else [])]):
            codes += chunk["emotion"].tolist()
            usage += chunk["Usage"].tolist() if usage_known else [""] * len(chunk)
            pixel_counts += [_count_pixels(text) for text in chunk["pixels"]]
        if not codes:
            raise DataError(f"{self.csv.path} has column names but no rows")
        self._pixel_count = self._usual_pixel_count(pixel_counts)
        fer2013 = self._emotions(codes)
        splits = splits_of(usage, str(self.csv.path))
        rows = pd.DataFrame({"label": fer2013, "split": splits})
        labels = ordered(FER2013_CODES)
        if self.votes:
            votes = self._read_votes(self.votes, splits)
            rows["label"] = vote_labels(votes)
            rows[list(VOTE_COLUMNS)] = votes
            labels = EMOTIONS
        rows["fer2013_label"] = fer2013
        rows["source"] = [f"{self.csv.path.name}:{row}" for row in range(1, len(rows) + 1)]
        return SourceTable(rows, labels, official_splits=True)

    def pictures(self, channels: int = 1) -> Iterator[Picture]:
        """The faces, uint8 (side, side, 1), whatever `channels` is: the source is grey."""
        side = math.isqrt(self._pixel_count)
        for chunk in self.csv.chunks(["pixels"]):
            for text in chunk["pixels"]:
                try:
                    pixels = parse_pixels(text)
                except ValueError as error:
                    yield Picture(None, "unreadable", str(error))
                    continue
                if len(pixels) != self._pixel_count:
                    yield Picture(None, "wrong_shape", f"expected {self._pixel_count} pixels, got {len(pixels)}")
                else:
                    yield Picture(pixels.reshape(side, side, 1))

    def _usual_pixel_count(self, counts: list[int]) -> int:
        """The number of pixels that most rows have; it has to be a square, and theirs by more than half."""
        usual, rows = Counter(counts).most_common(1)[0]
        if usual < 4 or math.isqrt(usual) ** 2 != usual:
            raise DataError(
                f"{self.csv.path}: expected 2304 pixels a row (48x48) or another square, got {usual} in {rows} of {len(counts)}"
                "; is the pixels column complete?"
            )
        if rows * 2 <= len(counts):
            others = ", ".join(str(count) for count, _ in Counter(counts).most_common(5)[1:])
            raise DataError(f"{self.csv.path}: expected {usual} pixels in most rows, got {others} pixels in the others")
        return usual

    def _emotions(self, codes: list[str]) -> list[str]:
        """Codes 0..6 (or names) to emotions."""
        names = {str(code): name for code, name in enumerate(FER2013_CODES)}
        names |= {f"{code}.0": name for code, name in enumerate(FER2013_CODES)}  # what a table with gaps is saved as
        found = []
        for row, code in enumerate(codes, start=1):
            plain = code.strip()
            name = names.get(plain, canonical(plain))
            if name not in FER2013_CODES:
                known = ", ".join(f"{number} {emotion}" for number, emotion in enumerate(FER2013_CODES))
                raise DataError(f"unknown label {code!r} in {self.csv.path}, row {row}; expected a FER2013 code: {known}")
            found.append(name)
        return found

    def _read_votes(self, votes: CsvFile, splits: list[str]) -> np.ndarray:
        absent = [name for name in VOTE_NAMES if name not in votes]
        if absent:
            raise DataError(
                f"{votes.path} lacks the vote columns {', '.join(absent)}; expected those of FER+'s fer2013new.csv: "
                f"{', '.join(VOTE_NAMES)}"
            )
        table = votes.read([*VOTE_NAMES, *(["Usage"] if "Usage" in votes else [])])
        if len(table) != len(splits):
            raise DataError(
                f"{votes.path} has {len(table)} rows, {self.csv.path} has {len(splits)}; expected one line of votes a face, "
                "in the same order; name the votes file that belongs to this csv"
            )
        if "Usage" in table:
            theirs = splits_of(table["Usage"].tolist(), str(votes.path))
            other = next(
                (row for row, pair in enumerate(zip(theirs, splits, strict=True)) if pair[0] != pair[1] and pair[1]), None
            )
            if other is not None:
                raise DataError(
                    f"{votes.path} and {self.csv.path} differ in Usage, row {other + 1} ({theirs[other]!r}, {splits[other]!r}); "
                    "expected the same faces in the same order"
                )
        return parse_votes(table[list(VOTE_NAMES)].to_numpy(str), votes.path)


def parse_votes(cells: np.ndarray, where: str | Path) -> np.ndarray:
    """Text (n, 10) -> int64 (n, 10). Raises DataError, naming the row, where a cell is no count of 0 or more."""
    try:
        values = np.where(np.char.strip(cells) == "", "0", cells).astype(float)
    except ValueError:
        values = None
    if values is None or not (np.isfinite(values).all() and (values >= 0).all() and (values == np.rint(values)).all()):
        row = next(row for row, line in enumerate(cells, start=1) if not all(_is_count(cell) for cell in line))
        raise DataError(f"{where}, row {row}: expected ten vote counts of 0 or more, got {', '.join(cells[row - 1])}")
    return values.astype(np.int64)


def parse_pixels(text: str) -> np.ndarray:
    """Whole numbers 0..255 separated by white space -> uint8 (count,).

    Vectorised over the characters, since a whole FER2013 has 83 million numbers: each number's last digit, plus ten
    times the one before where that belongs to it, and so on. Raises ValueError where something else is found.
    """
    text = text.strip()
    if not text.isascii():
        raise ValueError("expected numbers from 0 to 255, got other characters")
    signs = np.frombuffer(f"   {text} ".encode(), np.uint8)  # three spaces before: a number's third digit has a place to look
    is_space = signs == _SPACE
    digits = signs - np.uint8(_DIGIT_0)  # spaces and other characters wrap around to more than 9
    ends = np.flatnonzero(is_space[1:] & ~is_space[:-1])
    is_digit = digits <= 9
    if not (is_digit | is_space).all() or len(ends) == 0:
        return _parse_slowly(text)
    values = digits[ends].astype(np.int32)
    tens, hundreds = is_digit[ends - 1], is_digit[ends - 1] & is_digit[ends - 2]
    values += np.where(tens, digits[ends - 1] * np.int32(10), 0)
    values += np.where(hundreds, digits[ends - 2] * np.int32(100), 0)
    too_long = hundreds & is_digit[ends - 3]
    if too_long.any() or values.max() > 255:
        return _parse_slowly(text)
    return values.astype(np.uint8)


def _parse_slowly(text: str) -> np.ndarray:
    """The rows that are written in another way: 12.0, commas, leading zeros, tabs. Raises ValueError as parse_pixels."""
    words = text.replace(",", " ").strip("[] ").split()
    if not words:
        raise ValueError("no pixels")
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        raise ValueError(f"expected numbers from 0 to 255, {error}") from error
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255 and (values == np.rint(values)).all()):
        raise ValueError(f"expected whole numbers from 0 to 255, got {values.min():g} to {values.max():g}")
    return values.astype(np.uint8)


def _count_pixels(text: str) -> int:
    text = text.strip()
    if "  " in text or "\t" in text or "," in text:
        return len(text.replace(",", " ").split())
    return text.count(" ") + 1 if text else 0


def _is_count(cell: str) -> bool:
    try:
        value = float(cell.strip() or 0)
    except ValueError:
        return False
    return math.isfinite(value) and value >= 0 and value == int(value)
