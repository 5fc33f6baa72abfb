"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fer_keras.errors import ConfigError, FerError


def file_to_write(path: str | os.PathLike) -> Path:
    """The file that a path leads to, which may not be there yet.

    Raises ConfigError where it is a folder, or a device or pipe such as /dev/stdout, whose place a file must not take.
    """
    # /dev/stdout leads to a file where a shell sends the lines there; to take that file's place would lose them.
    device = re.match(r"/(dev|proc)/(?!shm/)", os.path.abspath(path))
    if device or (os.path.exists(path) and not os.path.isfile(path)):
        what = "a folder" if os.path.isdir(path) else "a device or a pipe"
        raise ConfigError(f"{os.fspath(path)} is {what}; name a file")
    _check_above(path, Path(path))
    return Path(os.path.realpath(path))


def _check_above(path: str | os.PathLike, target: Path) -> None:
    """Raise ConfigError, naming `path`, where there is no folder to make `target` in and none can be made."""
    above = nearest_there(target.parent)
    if os.path.exists(above) and not os.path.isdir(above):
        raise ConfigError(f"{os.fspath(path)} can't be written: {above} is no folder")


def nearest_there(folder: Path) -> Path:
    """A folder, or where it is not there yet the nearest above it that is; the folder itself where none is."""
    return next((each for each in (folder, *folder.parents) if os.path.exists(each)), folder)


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Say which file an OSError is about where it does not itself, as of a disk that gets full in the midst of writing."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = os.fspath(path)
        raise


@contextlib.contextmanager
def writing_whole(path: str | os.PathLike, *, text: bool = False) -> Iterator[IO[Any]]:
    """Open a file that appears whole or not at all: a temporary one beside it, which takes its name when the block ends.

    text: UTF-8, line ends as written; else bytes. Makes the folder where needed. Leaving by an error leaves nothing. A link
    stays one, and what it leads to is written. Raises ConfigError for what is no file, and OSError that names it where its last
    lines find no room; an error of the block comes as it is, for it may be about something else.
    """
    target = file_to_write(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.part")
    if len(os.fsencode(temporary.name)) > 255:  # longer than names can be, where the target's own is not
        temporary = target.with_name(f"{zlib.crc32(os.fsencode(target.name)):08x}.{os.getpid()}.part")
    try:
        file = temporary.open("w", encoding="utf-8", newline="") if text else temporary.open("wb")
        try:
            yield file
        except BaseException:
            with contextlib.suppress(OSError):  # it is thrown away
                file.close()
            raise
        with naming(path):
            file.close()
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike, content: str | bytes) -> Path:
    """Write a file whole or not at all. Text is written as UTF-8. Makes the folder where needed; returns the path."""
    with writing_whole(path) as file, naming(path):
        file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all."""
    write_whole(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, damaged: str | None = None) -> Any:
    """What a JSON file of UTF-8 text holds, whatever encoding the system prefers.

    damaged: what a FerError adds where the file can't be read; None leaves OSError and ValueError as they come.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        if damaged is None:
            raise
        raise FerError(f"{path} can't be read ({error}); {damaged}") from error


@contextlib.contextmanager
def alone(path: str | os.PathLike, busy: str) -> Iterator[None]:
    """Let one process at a time into the block, by a lock file at `path`; a process that is killed lets go of it.

    busy: what the ConfigError says that is raised where another one is in the block.
    """
    import filelock

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise ConfigError(busy) from None
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows does not delete what is open
            os.unlink(path)
        lock.release()


def numbered(path: Path) -> Iterator[Path]:
    """A path, then the same with a number, for who takes the first that is free: NAME, NAME-2, NAME-3, ..."""
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}")


def folder_to_write(path: str | os.PathLike) -> Path:
    """The folder that a path leads to, which may not be there yet: a link to another disk stays one and keeps leading there."""
    return Path(os.path.realpath(path))


def may_be_replaced(folder: Path, *marks: str) -> bool:
    """Whether nothing but our own is lost where `folder` is replaced: it is not there, is empty, or has a file so named."""
    if not folder.is_dir():
        return not folder.exists()
    return any((folder / mark).is_file() for mark in marks) or not any(folder.iterdir())


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """An empty, hidden folder beside `path`, which takes its name when the block ends; removed where it does not.

    What killed processes left of such folders goes too. overwrite: replace what is at `path`; else FileExistsError is raised in
    the end where a folder with anything in it is there.
    """
    target = folder_to_write(path)
    _check_above(path, target)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Who builds holds a lock, and who is killed lets go of it. The number of a process tells less: on a shared disk it may be of
    # another machine or container.
    for left in _beside(target, "part"):
        with contextlib.suppress(ConfigError, OSError), alone(left.with_suffix(".lock"), f"{left} is being written"):
            shutil.rmtree(left, ignore_errors=True)
    building = target.with_name(f".{target.name}.{os.getpid()}.part")
    with alone(building.with_suffix(".lock"), f"{os.fspath(path)} is being written by another process; wait for its end"):
        try:
            building.mkdir()
            yield building
            replace_folder(building, target, overwrite=overwrite)
        finally:
            shutil.rmtree(building, ignore_errors=True)


def _beside(target: Path, kind: str) -> list[Path]:
    """The hidden folders .NAME.NUMBER.KIND beside a folder, by which processes write it."""
    name = re.compile(rf"\.{re.escape(target.name)}\.\d+\.{kind}")
    return [path for path in target.parent.iterdir() if name.fullmatch(path.name)]


def left_of(folder: Path) -> Path:
    """The name under which `remove_whole` leaves the rest of a folder where it is killed."""
    return folder.with_name(f".{folder.name}.old")


def remove_whole(folder: Path) -> None:
    """Remove a folder so that a kill leaves all or nothing of it there; what a killed one left under another name goes too."""
    old = left_of(folder)
    shutil.rmtree(old, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, old)
    shutil.rmtree(old, ignore_errors=True)


def replace_folder(new: Path, target: Path, *, overwrite: bool = True) -> None:
    """Give `new` the name `target`; what stood there goes only once the new one is in place.

    target: no link, and on the disk of `new`; see `folder_to_write`. overwrite: False raises FileExistsError where a folder with
    anything in it stands there, be it that another process has just put it there.
    """
    if not overwrite:
        with contextlib.suppress(OSError):
            target.rmdir()  # an empty one is nobody's
        try:
            os.rename(new, target)  # never onto a folder that is not empty, on any system
        except OSError as error:
            if target.exists():
                raise FileExistsError(f"{target} exists already") from error
            raise
        return
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        os.rename(target, old)
    os.rename(new, target)
    for left in _beside(target, "old"):  # the own one, and those of killed processes
        shutil.rmtree(left, ignore_errors=True)
