"""What every command of training and serving shares: one parser, one way to end.

A command is `main(argv=None) -> int`: 0 when done, 2 with one line on stderr when something is wrong with the input.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO


class CommandParser(argparse.ArgumentParser):
    """argparse with `--batch_size` accepted for `--batch-size`, no abbreviations, errors of one line, and `--debug`."""

    def __init__(self, **kwargs: object) -> None:
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)  # type: ignore[arg-type]
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):  # noqa: ANN201
        """Parse, with underscores in option names read as hyphens; what follows the first `--` is no option."""
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        return super().parse_known_args([*map(_hyphenated, words[:end]), *words[end:]], namespace)

    def error(self, message: str) -> NoReturn:
        """One line on stderr, exit code 2."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def _hyphenated(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, sign, value = word.partition("=")
    return name.replace("_", "-") + sign + value


def run(command: Callable[[argparse.Namespace], int | None], parser: CommandParser, argv: Sequence[str] | None = None) -> int:
    """Parse, run `command(args)`, and turn an error into one line and exit code 2.

    A full disk, a missing file, or a lack of permission are told in the words of the operating system.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file name that the console's encoding lacks, as of output into a file on Windows, is no reason to lose the work.
            stream.reconfigure(errors="backslashreplace")
    args = parser.parse_args(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1" if args.debug else "3")
    try:
        with contextlib.redirect_stdout(_WhileRead(sys.stdout)):
            return command(args) or 0
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if args.debug:
            raise
        print(f"{parser.prog}: error: {one_line(error)}", file=sys.stderr)
        return 2


class _WhileRead:
    """Text that is written as long as somebody reads it.

    Who stops reading a pipe (`| head`) has seen enough of the lines, and still wants the files that are being made.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """As of any text stream."""
        return self._unless_closed(lambda: self._stream.write(text), len(text))

    def flush(self) -> None:
        """As of any text stream."""
        self._unless_closed(self._stream.flush, None)

    def _unless_closed(self, act: Callable[[], Any], otherwise: Any) -> Any:
        try:
            return act()
        except BrokenPipeError:
            # What is still buffered must not raise once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            return otherwise


def one_line(error: BaseException) -> str:
    """An error as a line for its user."""
    from fer_keras.errors import FerError

    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        return f"not enough memory: {message}"
    if isinstance(error, (FerError, OSError)) or _is_resource_error(error):
        return message
    return f"unexpected {type(error).__name__}: {message} (run again with --debug and report what it shows)"


def import_tensorflow() -> None:
    """Import TensorFlow without its start-up notices, which would bury the one line that a user needs.

    They are written by its C++ side before logging can be configured, so the file descriptor itself is set aside; what was
    written is shown after all where the import fails.
    """
    if "tensorflow" in sys.modules:
        return
    with tempfile.TemporaryFile() as notices:
        sys.stderr.flush()
        stderr = os.dup(2)
        os.dup2(notices.fileno(), 2)
        try:
            import keras
            import tensorflow as tf

            tf.config.list_physical_devices()
            keras.backend.clear_session()
        except BaseException:
            notices.seek(0)
            os.write(stderr, notices.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _is_resource_error(error: BaseException) -> bool:
    """TensorFlow's own words for a full disk, told apart by module so that TensorFlow need not be imported here."""
    return type(error).__module__.startswith("tensorflow") and type(error).__name__ in (
        "ResourceExhaustedError",
        "PermissionDeniedError",
    )


def words(text: str) -> list[str]:
    """Split at commas: from "label, gender" to ["label", "gender"]."""
    return [part.strip() for part in text.split(",") if part.strip()]


def positive_int(text: str) -> int:
    """argparse type: a whole number of 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {text}")
    return value


def fraction(text: str) -> float:
    """argparse type: a number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected 0 to 1, got {text}")
    return value
