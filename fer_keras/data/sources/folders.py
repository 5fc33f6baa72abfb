"""Class folders: `train/angry/x.png` with split folders, or flat `angry/x.png`, to be split by the tool."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath

from fer_keras.data.images import IMAGE_SUFFIXES, decode, in_parallel
from fer_keras.data.sources.base import (
    Picture,
    SourceTable,
    alike,
    hash_listing,
    in_utf8,
    is_system_file,
    several_ways,
    split_named,
)
from fer_keras.errors import DataError
from fer_keras.labels import EMOTIONS, by_emotion, canonical, canonical_names, is_emotion, ordered, spelled


class ClassFolders:
    """Pictures below a folder. The name of a folder is their label; a folder above it that is a split word is their split.

    `train/angry/x.png`, `angry/train/x.png`, `faces/train/angry/more/x.png` and `angry/x.png` are all understood: the first
    folder name that is no split word, below a split word where there is one, is the label. Hidden and system files are
    skipped, other files are counted and told. Links to folders are followed, but no folder is read twice.

    A folder is a class whatever its name says: somebody made it, also where that is "unknown" or "none". Only where the emotions
    stand below what would be the classes, as in `person3/happy/x.png`, it is none.
    """

    def __init__(self, path: str | os.PathLike, labels: Sequence[str] = ()) -> None:
        self.root = Path(path)
        self.allowed = tuple(labels)
        if not self.root.is_dir():
            what = "is a file" if self.root.exists() else "does not exist"
            raise DataError(f"{self.root} {what}; expected a folder of class folders, such as train/angry/x.png or angry/x.png")
        self.files, self.others, self.links, self.folders = list_images(self.root)
        if not self.files:
            found = f"{sum(self.others.values())} other files ({_kinds(self.others)})" if self.others else "nothing"
            raise DataError(f"{self.root} holds no picture; expected {', '.join(IMAGE_SUFFIXES)} in class folders, found {found}")

    def fingerprint(self) -> str:
        """Hash of names, sizes and times of the pictures."""
        return hash_listing(self.root, self.files)

    def read(self) -> SourceTable:
        """Labels and splits by the folder names. Raises DataError."""
        import pandas as pd

        folders = [name.split("/")[:-1] for name in self.files]
        around: list[str] = []
        while all(len(names) > 1 for names in folders) and len({names[0] for names in folders}) == 1:
            if split_named(folders[0][0]):
                break
            around.append(folders[0][0])
            folders = [names[1:] for names in folders]  # one folder around everything, as archives have it
        places = [_place(names) for names in folders]
        for name, (label, _, _) in zip(self.files, places, strict=True):
            if not label:
                raise DataError(
                    f"{self.root}/{name} is in no class folder; expected LABEL/picture or SPLIT/LABEL/picture below {self.root}"
                )
            if label != in_utf8(label):
                raise DataError(
                    f"{self.root}/{in_utf8(name)}: the name of its class folder is not UTF-8, so it can't be a label; rename it"
                )
        labels, known, remarks = resolve_labels(
            [label for label, _, _ in places], self.allowed, [f"{self.root}/{in_utf8(name)}" for name in self.files]
        )
        remarks += self._remarks_on_layout(places)
        sources = [in_utf8(name) for name in self.files]
        rows = pd.DataFrame({"label": labels, "split": [split for _, split, _ in places], "source": sources})
        if self.others:
            remarks += (f"{sum(self.others.values())} files that are no pictures were skipped: {_kinds(self.others)}",)
        if without := self._without_pictures(around, set(labels)):
            remarks += (f"{len(without)} folders hold no picture, so they are no classes: {some_of(without)}",)
        if self.links:
            remarks += (f"{len(self.links)} links to folders that are read already were not followed: {some_of(self.links)}",)
        if odd := [source for source, name in zip(sources, self.files, strict=True) if source != name]:
            remarks += (f"{len(odd)} names of files are not UTF-8 and stand escaped in the manifest: {some_of(odd)}",)
        return SourceTable(rows, known, remarks=remarks)

    def _remarks_on_layout(self, places: Sequence[tuple[str, str, str]]) -> tuple[str, ...]:
        """A remark where the same folders stand below all classes, so that they may be what is meant. places: as of `_place`.

        Raises DataError where they are emotions and the classes are not: person3/happy/x.png. Emotions as classes may have what
        they like below them, such as the people, and so may classes that were named by `labels`.
        """
        labels = sorted({label for label, _, _ in places})
        if self.allowed or 2 * sum(map(is_emotion, labels)) >= len(labels):
            return ()
        above: dict[str, set[str]] = {}
        for label, _, below in places:
            if below:
                above.setdefault(canonical(below), set()).add(label)
        repeated = [name for name, classes in above.items() if len(classes) > 1]
        shown = f"the folders {some_of(sorted(map(in_utf8, above)))} stand below {some_of(labels)}"
        expected = "expected LABEL/picture or SPLIT/LABEL/picture, such as angry/x.png or train/angry/x.png"
        if 2 * len(repeated) > len(above) and 2 * sum(map(is_emotion, above)) > len(above):
            raise DataError(
                f"{self.root}: {shown}, which would be the classes; {expected}: put the folders of the emotions on top, or name "
                "the classes by --labels"
            )
        if above and len(repeated) == len(above) and all(below for _, _, below in places):
            return (f"{shown}, which were read as the classes; if that is wrong, mind the layout: {expected}",)
        return ()

    def _without_pictures(self, around: list[str], labels: Collection[str]) -> list[str]:
        """Names of folders that would be classes if there were a picture below them, which no other folder gives either.

        around: the folders around all that is read.
        """
        used = {str(above) for name in self.files for above in PurePosixPath(name).parents}
        empty = [folder.split("/") for folder in self.folders if folder not in used]
        names = [_place(parts[len(around) :])[0] for parts in empty if parts[: len(around)] == around]
        known = {canonical(label).casefold() for label in labels}
        return sorted({in_utf8(name) for name in names if name and canonical(name).casefold() not in known})

    def pictures(self, channels: int) -> Iterator[Picture]:
        """The pictures, in the sorted order of their paths."""
        return read_pictures((self.root / name for name in self.files), channels)


def list_images(root: Path) -> tuple[list[str], Counter[str], list[str], list[str]]:
    """What is below a folder: pictures, as sorted relative paths with "/"; how many other files of each suffix; unused links;
    the folders that were read, as relative paths.

    Links to folders are followed after the folders that are there themselves, each in its turn, so that a picture goes by its
    own folder's name where it has one here. A link to a folder that was read, or to one around `root`, is not used.
    Raises DataError where a folder can't be read: what is learnt without its pictures is not what was asked for.
    """
    files: list[str] = []
    others: Counter[str] = Counter()
    unused: list[str] = []
    read: list[str] = []
    visited: set[str] = set()
    starts = [str(root)]
    for start in starts:  # grows meanwhile
        real = os.path.realpath(start)
        if real in visited or (start != starts[0] and Path(os.path.realpath(root)).is_relative_to(real)):
            unused.append(in_utf8(Path(start).relative_to(root).as_posix()))
            continue
        for folder, names, found in os.walk(start, onerror=_refuse, followlinks=False):
            real = os.path.realpath(folder)
            if real in visited:  # the link led to a folder around one that was read
                names.clear()
                unused.append(in_utf8(Path(folder).relative_to(root).as_posix()))
                continue
            visited.add(real)
            read.append(Path(folder).relative_to(root).as_posix())
            names[:] = sorted(name for name in names if not is_system_file(name))
            starts += [os.path.join(folder, name) for name in names if os.path.islink(os.path.join(folder, name))]
            for name in found:
                if is_system_file(name):
                    continue
                if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                    files.append(Path(folder, name).relative_to(root).as_posix())
                else:
                    others[os.path.splitext(name)[1].lower() or "no suffix"] += 1
    return sorted(files), others, unused, read


def _refuse(error: OSError) -> None:
    raise DataError(f"{in_utf8(str(error.filename))} can't be read: {error.strerror}") from error


def resolve_labels(
    names: Sequence[str], allowed: Sequence[str], where: Sequence[str]
) -> tuple[list[str], tuple[str, ...], tuple[str, ...]]:
    """The labels to use for names found, all that there can be, in order, and what the user should be told about them.

    allowed: what may occur, in any spelling; empty: anything. where: what to call each row in an error. A row without a name has
    no label. Raises DataError for a name that is not allowed.
    """
    known = canonical_names((name for name in (allowed or names) if name.strip()), found=not allowed)
    meant: dict[str, str] = {}
    for name, label in known.items():
        meant.setdefault(alike(name), label)
    possible = set(meant.values())
    of_emotion = by_emotion(possible)
    result = []
    spellings: dict[str, dict[str, None]] = {}
    for row, name in enumerate(names):
        plain = spelled(name)
        label = (meant.get(alike(plain)) or of_emotion.get(canonical(plain), canonical(plain))) if plain else ""
        if label and label not in possible:
            raise DataError(f"unknown label {plain!r} in {where[row]}; allowed are {', '.join(allowed)}")
        result.append(label)
        spellings.setdefault(label, {})[plain] = None
    if not known:
        raise DataError(f"no row has a label, the first is {where[0]}; is it the right label column?")
    if possible <= set(EMOTIONS):  # the ways to write an emotion are known to be one
        return result, ordered(possible), ()
    remarks = several_ways("labels", spellings)
    if not allowed and any(len(set(map(alike, ways))) > 1 for ways in spellings.values()):
        remarks = (f"{remarks[0]}; where some are classes of their own, name every class by --labels",)
    return result, ordered(possible), remarks


def read_pictures(paths: Iterator[Path], channels: int) -> Iterator[Picture]:
    """Decode files on a few threads, in order; one that can't be read is a Picture with its reason."""

    def read(path: Path) -> Picture:
        try:
            return Picture(decode(path, channels))
        except DataError as error:
            # The path stands in the manifest already; the note is for what is wrong with it.
            return Picture(None, "unreadable", str(error).replace(f"{path} ", "", 1))

    return in_parallel(read, paths)


def _place(folders: Sequence[str]) -> tuple[str, str, str]:
    """(label, split, folder below the label's) by the names of the folders above a picture; "" where there is none."""
    split = label = below = ""
    for name in folders:
        if split_named(name) and not split:
            split = split_named(name)
            if label and len(folders) > folders.index(name) + 1:
                label = below = ""  # faces/train/angry: what stands above the split is no label when one stands below
        elif not label:
            label = name.strip()
        elif not below:
            below = name.strip()
    return label, split, below


def some_of(names: Sequence[str]) -> str:
    """The first three names, as text."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _kinds(others: Counter[str]) -> str:
    return ", ".join(f"{in_utf8(suffix)} {count}" for suffix, count in others.most_common(5))
