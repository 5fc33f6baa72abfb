"""Faces in picture files: find the files, find the faces, ask the models; in batches, whatever the number of pictures."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fer_keras.data.images import IMAGE_SUFFIXES, decode, in_parallel, is_pipe_or_device, resize, to_channels
from fer_keras.errors import DataError
from fer_keras.types import Detection
from serving.videos import VIDEO_SUFFIXES

if TYPE_CHECKING:
    from fer_keras.detectors import Detector
    from fer_keras.inference.joint import JointRecognizer

#: Faces that are given to a model at once.
BATCH_FACES = 64
#: Decoded pixels that wait for a batch to fill (they are kept for drawing only), and threads that decode ahead.
KEPT_BYTES = 128 * 1024**2
DECODERS = 2
#: Endings that tell what a file is.
_KNOWN = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


@dataclass(frozen=True)
class Picture:
    """A file to look at. path: where it is. relative: its place below the folder that was named, or its name alone."""

    path: Path
    relative: Path


@dataclass(frozen=True)
class Face:
    """One face and what was said of it.

    box_xyxy_px: in the upright picture; the whole of it where nothing was detected. score: the detector's, None for none.
    probabilities: float32 (k,), combined; of_model: float32 (m, k), of each model; in the order of the recognizer's labels.
    """

    box_xyxy_px: tuple[float, float, float, float]
    score: float | None
    probabilities: np.ndarray
    of_model: np.ndarray


@dataclass(frozen=True)
class Result:
    """One picture and its faces, the largest first. error: why it could not be read; None where it was.

    width, height: in pixels, upright. pixels: uint8 (h, w, 3), where they were asked for.
    """

    picture: Picture
    faces: tuple[Face, ...]
    width: int = 0
    height: int = 0
    error: str | None = None
    pixels: np.ndarray | None = None


def find_pictures(
    named: Sequence[str],
    recursive: bool = False,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
    what: str = "picture",
    but: Path | None = None,
    unread: Callable[[OSError], object] = lambda error: None,
    others: Counter[str] | None = None,
) -> list[Picture]:
    """The pictures that paths, folders and patterns name, each once, in the order named, those of a folder by name.

    A folder gives its files that are called like pictures, with `recursive` those of its folders too; links to folders elsewhere
    are followed, each folder once. A pattern (*, ?, [...], ** for folders in between) is read where no file is called so. A file
    that is named itself is always taken; hidden ones of folders are not, nor programs in TypeScript. Two links to one file are
    two pictures. suffixes: what pictures are called, lower case; `what` says it in errors. but: a folder whose files are taken
    only where it or they are named, since results go there. unread: is given the error of each folder that can't be read, below
    one that is named or among several that a pattern fits. others: is given how many files of folders are neither pictures nor
    videos by their names, by suffix.
    Raises DataError where a path does not exist, can't be read or is a pipe or a device, a pattern fits nothing, or a folder has
    no picture.
    """
    found: dict[Path, Picture] = {}
    but = but and but.resolve()
    for text in named:
        path = Path(text if os.path.exists(text) else os.path.expanduser(text))
        if is_pipe_or_device(path):
            raise DataError(f"{text} is a pipe or a device; name a {what} that is a file")
        if path.exists():
            matches = [path]
        elif glob.has_magic(text):
            matches = [Path(match) for match in sorted(glob.glob(os.path.expanduser(text), recursive=True))]
            matches = [match for match in matches if but is None or not real(match).is_relative_to(but)]
            matches = [match for match in matches if not is_pipe_or_device(match)]
            if not matches:
                raise DataError(f"no file fits the pattern {text!r}; quotes keep a pattern as it is, spelling and folder count")
        else:
            raise DataError(f"{text} does not exist; name pictures, folders or patterns such as 'photos/*.jpg'")
        for match in matches:
            single = len(matches) == 1
            folder = _in_folder(match, recursive, suffixes, but, unread, single, others) if match.is_dir() else None
            inside = [Picture(match, Path(match.name))] if folder is None else list(folder)
            if not inside and single:
                more = "" if recursive else "; with --recursive its folders are searched too"
                raise DataError(f"{match} has no {what} in it ({', '.join(suffixes)}){more}")
            for picture in inside:
                # Not by what a link leads to: folders of links to contents, as git-annex makes them, have one for equal files.
                found.setdefault(picture.path.parent.resolve() / picture.path.name, picture)
    if not found:
        raise DataError(f"there is no {what} in {', '.join(named)} ({', '.join(suffixes)})")
    return list(found.values())


def _is_typescript(path: Path) -> bool:
    """Whether a file that is called like a transport stream is text: those are full of zeros."""
    if path.suffix.lower() != ".ts":
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(1024)
    except OSError:
        return False
    return bool(start) and b"\x00" not in start


def real(path: Path) -> Path:
    """Where a path leads to in the end; a link that leads back to itself, which `Path.resolve` can't follow, to itself."""
    return Path(os.path.realpath(path))


def _in_folder(
    folder: Path,
    recursive: bool,
    suffixes: tuple[str, ...],
    but: Path | None,
    unread: Callable[[OSError], object],
    needed: bool,
    others: Counter[str] | None,
) -> Iterator[Picture]:
    """needed: whether the folder itself has to be readable, while those below it never have to."""

    def failed(error: OSError) -> None:
        if needed and error.filename == os.fspath(folder):
            raise DataError(f"{folder} can't be read: {error.strerror}") from error
        unread(error)

    root = real(folder)
    seen = {root}

    def is_new(path: Path) -> bool:
        """Whether a folder is read now: not what a link leads to that comes anyway, leads back up, or was read already."""
        leads_to = real(path)
        comes_anyway = path.is_symlink() and (leads_to.is_relative_to(root) or root.is_relative_to(leads_to))
        if comes_anyway or leads_to == but or leads_to in seen:
            return False
        seen.add(leads_to)
        return True

    for inside, folders, files in os.walk(folder, onerror=failed, followlinks=True):
        folders[:] = [name for name in sorted(folders) if is_new(Path(inside) / name)] if recursive else []
        for name in sorted(files):
            path = Path(inside) / name
            called_so = name.lower().endswith(suffixes) and not name.startswith(".") and not is_pipe_or_device(path)
            if called_so and not _is_typescript(path):
                yield Picture(path, path.relative_to(folder))
            elif others is not None and not name.startswith(".") and not name.lower().endswith(_KNOWN):
                others[path.suffix.lower() or "no suffix"] += 1


def predict_pictures(
    pictures: Iterable[Picture], recognizer: JointRecognizer, detector: Detector | None, keep_pixels: bool = False
) -> Iterator[Result]:
    """What is in each picture, in order.

    detector: finds the faces; None: each picture is one face. keep_pixels: results carry the picture, for drawing.
    The faces of many pictures go to the models in one call; a picture that can't be read is a result with an error.
    """
    waiting: list[tuple[Result, list[Detection], list[np.ndarray]]] = []
    faces = held = 0
    for result, pixels in in_parallel(_read, pictures, workers=DECODERS):
        found: list[Detection] = []
        crops: list[np.ndarray] = []
        if pixels is not None:
            if detector is not None:
                found = sorted(detector.detect(pixels), key=lambda each: -each.area_px)
                crops = recognizer.crops(pixels, [each.box_xyxy_px for each in found]) if found else []
            else:
                found = [Detection((0.0, 0.0, float(result.width), float(result.height)), 1.0)]
                crops = _whole(pixels, recognizer)
            if keep_pixels:
                result, held = replace(result, pixels=pixels), held + pixels.nbytes
        waiting.append((result, found, crops))
        faces += len(found)
        if faces >= BATCH_FACES or held >= KEPT_BYTES or len(waiting) >= 4 * BATCH_FACES:
            yield from _answered(waiting, recognizer, detector is not None)
            waiting, faces, held = [], 0, 0
    yield from _answered(waiting, recognizer, detector is not None)


def _read(picture: Picture) -> tuple[Result, np.ndarray | None]:
    from PIL import UnidentifiedImageError

    try:
        pixels = decode(picture.path, 3)
    except DataError as error:
        more = ""
        if isinstance(error.__cause__, UnidentifiedImageError) and not picture.path.name.lower().endswith(_KNOWN):
            more = "; where it is a video, --only videos reads it"
        return Result(picture, (), error=f"{error}{more}"), None
    return Result(picture, (), pixels.shape[1], pixels.shape[0]), pixels


def _whole(pixels: np.ndarray, recognizer: JointRecognizer) -> list[np.ndarray]:
    """A picture that is a face already, as `training.prepare` without `--crop` makes it: squeezed to a square."""
    return [resize(to_channels(pixels, each.channels), each.image_size)[None] for each in recognizer.recognizers]


def _answered(
    waiting: Sequence[tuple[Result, list[Detection], list[np.ndarray]]], recognizer: JointRecognizer, detected: bool
) -> Iterator[Result]:
    """The results with what the models say of their faces."""
    some = [crops for _, found, crops in waiting if found]
    answers = recognizer.answers([np.concatenate(each) for each in zip(*some, strict=True)]) if some else None
    joined = None if answers is None else recognizer.joined(answers)
    start = 0
    for result, found, _ in waiting:
        faces = tuple(
            Face(each.box_xyxy_px, each.score if detected else None, joined[start + index], answers[:, start + index])
            for index, each in enumerate(found)
        )
        start += len(found)
        yield replace(result, faces=faces)
