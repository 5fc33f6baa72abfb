"""FER+ folders as Microsoft's FERPlus scripts make them: `FER2013Train/label.csv` with pictures beside it, and so on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fer_keras.data.dataset import VOTE_COLUMNS
from fer_keras.data.images import decode, in_parallel
from fer_keras.data.sources.base import SPLIT_OF_WORD, CsvFile, Picture, SourceTable, hash_files, hash_listing, is_system_file
from fer_keras.data.sources.kaggle_csv import parse_votes
from fer_keras.data.targets import vote_labels
from fer_keras.errors import DataError
from fer_keras.labels import EMOTIONS, VOTE_NAMES

if TYPE_CHECKING:
    import pandas as pd

_BOX = re.compile(r"\s*\(?\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*\)?\s*")


class FerPlusFolders:
    """Folders FER2013Train, FER2013Valid, FER2013Test (some may be absent), each with pictures and a label.csv.

    A line of label.csv is: file name, box "(left, top, right, bottom)", ten votes in the order of labels.VOTE_NAMES; it has
    no line of column names, but one is tolerated. The box is cut out of the picture.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.root = Path(path)
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else "does not exist"
            raise DataError(f"{self.root} {what}; expected a folder with FER2013Train/label.csv")
        below = sorted(entry for entry in self.root.iterdir() if entry.is_dir() and not is_system_file(entry.name))
        known = [entry for entry in below if SPLIT_OF_WORD.get(entry.name.lower()) and (entry / "label.csv").is_file()]
        self.parts = sorted(known, key=lambda entry: ("train", "validation", "test").index(SPLIT_OF_WORD[entry.name.lower()]))
        if not self.parts:
            found = ", ".join(entry.name for entry in below) or "no folder"
            raise DataError(f"{self.root} has no FER2013Train/label.csv (or FER2013Valid, FER2013Test); it has {found[:200]}")
        self._files: list[str] = []
        self._boxes: list[tuple[int, int, int, int]] = []

    def fingerprint(self) -> str:
        """Hash of the label files, and of names, sizes and times of the pictures."""
        names = [f"{part.name}/{name}" for part in self.parts for name in sorted(os.listdir(part)) if not is_system_file(name)]
        return hash_files([part / "label.csv" for part in self.parts]) + hash_listing(self.root, names)

    def read(self) -> SourceTable:
        """File names, splits, votes and boxes. Raises DataError, naming file and row."""
        import pandas as pd

        self._files, self._boxes = [], []
        rows = pd.concat([self._read_part(part) for part in self.parts], ignore_index=True)
        return SourceTable(rows, EMOTIONS, official_splits=True)

    def pictures(self, channels: int) -> Iterator[Picture]:
        """The pictures, cut to their boxes, in the order of the label files."""

        def read(place: tuple[str, tuple[int, int, int, int]]) -> Picture:
            name, (left, top, right, bottom) = place
            path = self.root / name
            try:
                pixels = decode(path, channels)
            except DataError as error:
                return Picture(None, "unreadable", str(error).replace(f"{path} ", "", 1))
            height, width = pixels.shape[:2]
            if not (0 <= left < right <= width and 0 <= top < bottom <= height):
                return Picture(
                    None,
                    "wrong_shape",
                    f"box ({left}, {top}, {right}, {bottom}) does not fit a picture of {width}x{height} pixels",
                )
            return Picture(pixels[top:bottom, left:right])

        return in_parallel(read, zip(self._files, self._boxes, strict=True))

    def _read_part(self, part: Path) -> pd.DataFrame:
        import pandas as pd

        file = CsvFile(part / "label.csv")
        cells = file.lines()
        if cells.shape[1] != 2 + len(VOTE_NAMES):
            raise DataError(
                f"{file.path}: expected 12 columns (file name, box, ten votes), got {cells.shape[1]}; is this FER+'s label.csv?"
            )
        if not _BOX.fullmatch(cells.iloc[0, 1]) and [name.strip() for name in cells.iloc[0, 2:]] == list(VOTE_NAMES):
            cells = cells.iloc[1:].reset_index(drop=True)
        if cells.empty:
            raise DataError(f"{file.path} has no rows")
        names = cells[0].str.strip().tolist()
        for row, (name, box) in enumerate(zip(names, cells[1], strict=True), start=1):
            match = _BOX.fullmatch(box)
            if not match:
                raise DataError(f"{file.path}, row {row}: expected a box such as (0, 0, 48, 48), got {box!r}")
            if not name or Path(name).name != name:
                raise DataError(f"{file.path}, row {row}: expected the name of a file in {part}, got {name!r}")
            self._files.append(f"{part.name}/{name}")
            self._boxes.append(tuple(int(edge) for edge in match.groups()))
        votes = parse_votes(cells.iloc[:, 2:].to_numpy(str), file.path)
        rows = pd.DataFrame({"label": vote_labels(votes), "split": SPLIT_OF_WORD[part.name.lower()]})
        rows[list(VOTE_COLUMNS)] = votes
        rows["source"] = self._files[-len(rows) :]
        return rows
