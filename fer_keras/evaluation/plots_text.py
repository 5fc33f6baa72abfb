"""Names in figures: how wide they are drawn, where they go, and which fonts have their letters."""

from __future__ import annotations

import bisect
import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

_FONT = "DejaVu Sans"  # comes with matplotlib
#: How fonts of other scripts begin their names, on Linux, Windows and macOS.
_OTHER_FONTS = (
    *("Noto Sans CJK", "Noto Sans", "Source Han Sans", "WenQuanYi", "IPAGothic", "Lohit"),
    *("Yu Gothic", "Microsoft YaHei", "Microsoft JhengHei", "Malgun Gothic", "Nirmala UI", "Leelawadee UI"),
    *("Hiragino Sans", "PingFang", "Apple SD Gothic Neo", "Kohinoor", "Arial Unicode MS"),
)
_told: set[str] = set()  # letters no font has: a report draws ten figures of the same names


def text_width(text: str, fontsize: float = 10) -> float:
    """How wide a text is drawn, in inches: its longest line."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=_fonts_for(text)[0], size=fontsize)
    with quiet_fonts():
        widths = [text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] for line in text.split("\n")]
    return 1.03 * max(widths) / 72  # letters are put on whole pixels when drawn


def longest(names: Sequence[str], fontsize: float = 10) -> float:
    """How wide the widest of some names is drawn, in inches; 0 for none."""
    return max((text_width(name, fontsize) for name in names), default=0.0)


def wrapped(text: str, width: float, fontsize: float = 10) -> str:
    """A text with line breaks such that no line is drawn wider than so many inches, between words where there are some."""
    return "\n".join(part for line in text.split("\n") for part in _parts(line, width, fontsize))


def _parts(line: str, width: float, fontsize: float) -> Iterator[str]:
    while len(line) > 1 and text_width(line, fontsize) > width:
        fitting = bisect.bisect_right(range(1, len(line)), width, key=lambda count: text_width(line[:count], fontsize))
        space = line.rfind(" ", 1, fitting + 1)
        cut = space if space > 0 else max(1, fitting)
        yield line[:cut].rstrip()
        line = line[cut:].lstrip()
    yield line


def name_columns(axes: Axes, names: Sequence[str], room: float = 0.0, fontsize: float = 10) -> None:
    """Names below the columns of an axes: upright where each fits into `room` inches, else turned by 45 degrees."""
    turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if longest(names, fontsize) > room else {}
    axes.set_xticks(range(len(names)), names, fontsize=fontsize, **turn)


def turned_room(names: Sequence[str], fontsize: float = 10, room: float = 0.0) -> float:
    """How far down names of columns reach where `name_columns` turns them, in inches; 0 where they stay upright."""
    wide = longest(names, fontsize)
    return 0.71 * wide if wide > room else 0.0


def legend_below(figure: Figure, handles: Sequence[Any], names: Sequence[str]) -> None:
    """Names of lines below a figure, which grows by their height: up to three beside each other, as there is room."""
    width, mark = figure.get_figwidth() - 0.2, 0.55  # inches; the picture of a line takes some of them
    names = [wrapped(name, width - mark, 8) for name in names]
    columns = max(1, min(3, int(width / (longest(names, 8) + mark))))
    lines = -(-len(names) // columns) * max(name.count("\n") + 1 for name in names)
    figure.set_figheight(figure.get_figheight() + 0.15 * lines)
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def set_fonts(texts: Sequence[Text]) -> None:
    """Draw texts in DejaVu Sans, letters that it lacks in other fonts; where none has them, a warning says so, once."""
    written = "".join(text.get_text() for text in texts)
    fonts, boxes = _fonts_for(written)
    if len(fonts) > 1:
        for text in texts:
            text.set_fontfamily(fonts)
    if untold := [letter for letter in dict.fromkeys(written) if letter in boxes and letter not in _told]:
        _told.update(untold)
        _tell_of_boxes("".join(untold))


@contextlib.contextmanager
def quiet_fonts() -> Iterator[None]:
    """Without matplotlib's warnings of letters that no font has, one a letter: `set_fonts` tells of all in one line.

    And without its log lines about fonts that exist in another weight only.
    """
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+")
            yield
    finally:
        log.setLevel(level)


def _tell_of_boxes(letters: str) -> None:
    warnings.warn(
        f"figures show boxes in place of {letters[:12]}, which no font found here has; install one, such as Noto Sans CJK",
        stacklevel=4,
    )


def font_file(text: str) -> str:
    """The font file here that has most of a text's letters: DejaVu Sans, which comes with matplotlib, where that is enough."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    files = [findfont(FontProperties(family=[name])) for name in _fonts_for(text)[0]]
    return max(files, key=lambda file: sum(get_font(file).get_char_index(ord(letter)) > 0 for letter in set(text)))


def _fonts_for(text: str) -> tuple[list[str], str]:
    return ([_FONT], "") if text.isascii() else _fonts_with("".join(sorted(set(text))))


@functools.lru_cache(maxsize=256)
@quiet_fonts()
def _fonts_with(letters: str) -> tuple[list[str], str]:
    """Fonts that have the letters between them, and the letters that none has."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    chosen, missing = [_FONT], {letter for letter in letters if letter.isprintable() and not letter.isspace()}
    for name in _installed():
        font = get_font(findfont(FontProperties(family=[name])))
        if found := {letter for letter in missing if font.get_char_index(ord(letter))}:
            chosen.append(name)
            missing -= found
        if not missing:
            break
    return list(dict.fromkeys(chosen)), "".join(sorted(missing))


def _installed() -> Iterator[str]:
    from matplotlib.font_manager import findSystemFonts, fontManager

    yield _FONT
    known = _others()
    yield from known
    # matplotlib keeps its list of fonts for good: one that was installed since, perhaps for these letters, is not in it.
    for path in set(findSystemFonts()) - {entry.fname for entry in fontManager.ttflist}:
        with contextlib.suppress(OSError, RuntimeError):
            fontManager.addfont(path)
    yield from (name for name in _others() if name not in known)


def _others() -> list[str]:
    from matplotlib.font_manager import fontManager

    names = sorted({entry.name for entry in fontManager.ttflist})
    return [name for begin in _OTHER_FONTS for name in names if name.startswith(begin)]
