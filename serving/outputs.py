"""What was recognized, as lines for the terminal, as CSV and as JSON; written while it is found, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from fer_keras.errors import ConfigError, DataError
from fer_keras.files import naming

if TYPE_CHECKING:
    import numpy as np

    from fer_keras.inference.joint import JointRecognizer
    from serving.pictures import Face, Result

_NAME_WIDTH = 40
NO_FACE = "no face found"


def shown(path: str | os.PathLike) -> str:
    """A path as text that can be printed and written, whatever bytes its name has."""
    return os.fspath(path).encode("utf-8", "replace").decode("utf-8")


def for_opencv(path: str | os.PathLike) -> str:
    """A path as OpenCV takes it. Raises DataError for a name that is not UTF-8, of which OpenCV dies with the whole process."""
    try:
        os.fspath(path).encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(f"{shown(path)} has a name that is not UTF-8, which OpenCV can't open; rename it") from None
    return os.fspath(path)


def top(probabilities: np.ndarray, labels: Sequence[str]) -> tuple[str, float]:
    """The most probable label and its probability."""
    index = int(probabilities.argmax())
    return labels[index], float(probabilities[index])


def lines_of(result: Result, recognizer: JointRecognizer) -> list[str]:
    """A picture as lines of the terminal's table; one a face."""
    name = _on_terminal(shown(result.picture.path))
    name = name if len(name) <= _NAME_WIDTH else "..." + name[3 - _NAME_WIDTH :]
    if result.error is not None:
        error = shown(result.error).removeprefix(shown(result.picture.path)).strip()
        return [f"{name:<{_NAME_WIDTH}}  error: {_on_terminal(error)}"]
    if not result.faces:
        return [f"{name:<{_NAME_WIDTH}}  {NO_FACE}"]
    return [
        f"{name if number == 1 else '':<{_NAME_WIDTH}}  {_line(number, face, recognizer)}"
        for number, face in enumerate(result.faces, start=1)
    ]


def _on_terminal(text: str) -> str:
    """Text without control characters, by which a file's name could colour or clear the terminal, or begin a line of its own."""
    return "".join(f"\\x{ord(each):02x}" if unicodedata.category(each) == "Cc" else each for each in text)


def _line(number: int, face: Face, recognizer: JointRecognizer) -> str:
    label, confidence = top(face.probabilities, recognizer.labels)
    box = ",".join(str(round(edge)) for edge in face.box_xyxy_px)
    line = f"{number:>4}  {box:<21}  {label:<12} {confidence:>5.1%}"
    if len(recognizer.recognizers) > 1:
        said = (top(one, recognizer.labels)[0] for one in face.of_model)
        line += "  " + ", ".join(f"{each.name}: {word}" for each, word in zip(recognizer.recognizers, said, strict=True))
    return line + ("  (uncertain)" if confidence < recognizer.uncertain_below else "")


HEADER = f"{'picture':<{_NAME_WIDTH}}  face  {'box (x1,y1,x2,y2)':<21}  {'label':<12} {'sure':>5}"


class DrawnCopies:
    """Which files of a folder are copies that were drawn before, so that nothing else is ever written over.

    They are listed in a hidden file of the folder, one JSON text a line. Raises ConfigError where that can't be read.
    """

    LIST = ".fer-keras-drawn"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            lines = (folder / self.LIST).read_text(encoding="utf-8").splitlines()
            self._own = {folder / json.loads(line) for line in lines}
        except (FileNotFoundError, NotADirectoryError):
            self._own = set()
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{folder / self.LIST}, the list of drawn copies, can't be read; name another folder") from error

    def refuse_strangers(self, targets: Iterable[Path]) -> None:
        """Raise ConfigError where a copy would take the place of a file that was not drawn."""
        for target in targets:
            if os.path.lexists(target) and target not in self._own:
                raise ConfigError(f"--draw would write over {shown(target)}, which is no drawn copy; name another folder")

    def note(self, target: Path) -> None:
        """Note a copy, before it is drawn: a run that was killed in between finds its own ones again."""
        if target in self._own:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / self.LIST
        before = path.stat().st_size if path.exists() else 0
        try:
            with naming(path), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(os.path.relpath(target, self._folder)) + "\n")
        except OSError:
            if path.exists():  # half a line, of a disk that got full, would leave a list that can't be read
                os.truncate(path, before)
            raise
        self._own.add(target)


class CsvWriter:
    """One line a face; a picture without one has a line with status "no face", one that can't be read "error"."""

    def __init__(self, file: IO[str], recognizer: JointRecognizer) -> None:
        self._recognizer, self._writer = recognizer, csv.writer(file, lineterminator="\n")
        names = [each.name for each in recognizer.recognizers]
        self._models = names if len(names) > 1 else []
        columns = ["path", "status", "face", "x1", "y1", "x2", "y2", "score", "label", "confidence", "uncertain"]
        columns += [f"p_{label}" for label in recognizer.labels] + [f"label_{name}" for name in self._models]
        self._columns = [*columns, "error"]
        self._writer.writerow(self._columns)

    def add(self, result: Result) -> None:
        """Write a picture."""
        recognizer, path = self._recognizer, shown(result.picture.path)
        if result.error is not None or not result.faces:
            status = "no face" if result.error is None else "error"
            self._writer.writerow([path, status, *[""] * (len(self._columns) - 3), shown(result.error or "")])
        for number, face in enumerate(result.faces, start=1):
            label, confidence = top(face.probabilities, recognizer.labels)
            uncertain = confidence < recognizer.uncertain_below
            line = [path, "ok", number, *(f"{edge:g}" for edge in (round(edge, 1) for edge in face.box_xyxy_px))]
            line += ["" if face.score is None else f"{face.score:.4f}", label, f"{confidence:.6f}", uncertain]
            line += [f"{value:.6f}" for value in face.probabilities]
            line += [top(one, recognizer.labels)[0] for one in face.of_model] if self._models else []
            self._writer.writerow([*line, ""])


class JsonWriter:
    """One object: what was asked of which models, then the pictures, then how many there were of each kind."""

    def __init__(self, file: IO[str], recognizer: JointRecognizer, about: dict[str, Any]) -> None:
        self._file, self._recognizer, self._first = file, recognizer, True
        head = {
            "models": [{"name": each.name, "runtime": each.runtime} for each in recognizer.recognizers],
            "combine": recognizer.how if len(recognizer.recognizers) > 1 else None,
            "weights": None if recognizer.weights is None else [float(weight) for weight in recognizer.weights],
            "labels": list(recognizer.labels),
            "uncertain_below": recognizer.uncertain_below,
            **about,
        }
        file.write(json.dumps(head, indent=1, ensure_ascii=False)[:-2] + ',\n "pictures": [')

    def add(self, result: Result) -> None:
        """Write a picture."""
        text = json.dumps(self._picture(result), ensure_ascii=False)
        self._file.write(("\n  " if self._first else ",\n  ") + text)
        self._first = False

    def finish(self, counts: dict[str, int]) -> None:
        """Write the end."""
        self._file.write('\n ],\n "counts": ' + json.dumps(counts) + "\n}\n")

    def _picture(self, result: Result) -> dict[str, Any]:
        path = shown(result.picture.path)
        if result.error is not None:
            return {"path": path, "status": "error", "error": shown(result.error), "faces": []}
        status = "ok" if result.faces else "no face"
        faces = [self._face(face) for face in result.faces]
        return {"path": path, "status": status, "width": result.width, "height": result.height, "faces": faces}

    def _face(self, face: Face) -> dict[str, Any]:
        recognizer = self._recognizer
        label, confidence = top(face.probabilities, recognizer.labels)
        entry = {
            "box_xyxy_px": [round(float(edge), 1) for edge in face.box_xyxy_px],
            "score": None if face.score is None else round(face.score, 4),
            "label": label,
            "confidence": round(confidence, 6),
            "uncertain": confidence < recognizer.uncertain_below,
            "probabilities": self._named(face.probabilities),
        }
        if len(recognizer.recognizers) > 1:
            pairs = zip(recognizer.recognizers, face.of_model, strict=True)
            entry["models"] = {each.name: self._named(one) for each, one in pairs}
        return entry

    def _named(self, probabilities: np.ndarray) -> dict[str, float]:
        return {label: round(float(value), 6) for label, value in zip(self._recognizer.labels, probabilities, strict=True)}
