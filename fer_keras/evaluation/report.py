"""HTML reports: one file that holds everything, opens anywhere and loads nothing from elsewhere."""

from __future__ import annotations

import base64
import html
import numbers
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_STYLE = """
html { color-scheme: light dark; }
:root { --ink: #1d2129; --soft: #5b6472; --paper: #fbfbfc; --card: #fff; --line: #dfe3e8; --mark: #2a6fdb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ec; --soft: #a2abb8; --paper: #14171c; --card: #1c2027; --line: #343b46; --mark: #7fb0ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .8rem; padding-top: .8rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
p, li { max-width: 46rem; }
a { color: var(--mark); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; font-size: .92rem; }
figure { margin: 1rem 0; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line); border-radius: 6px; }
figcaption, .note { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: var(--card); font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem; border: 1px solid var(--line); text-align: left; }
th { font-weight: 600; }
td.number { text-align: right; white-space: nowrap; }
code { font-size: .92em; overflow-wrap: anywhere; }
"""


def html_page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """One self-contained HTML page, light or dark as the reader's system is.

    title: plain text. sections: (heading as plain text, body as HTML); an empty heading gives a part without one, and
    bodies come from `table_html`, `image_html` and `paragraph_html`, or are HTML that the caller has escaped.
    """
    anchors = [f"part-{number}" for number in range(1, len(sections) + 1)]
    links = [f'<a href="#{anchor}">{escape(head)}</a>' for anchor, (head, _) in zip(anchors, sections, strict=True) if head]
    navigation = f"<nav>{''.join(links)}</nav>\n" if len(links) > 1 else ""
    parts = []
    for anchor, (heading, body) in zip(anchors, sections, strict=True):
        head = f'<h2 id="{anchor}">{escape(heading)}</h2>\n' if heading else ""
        parts.append(f"<section>\n{head}{body}\n</section>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n{navigation}" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n"
    )


def column_names(names: Iterable[str], taken: Iterable[str], kind: str) -> dict[str, str]:
    """A column for each name, which people chose: the name itself, or "KIND NAME" where a table has a column called so."""
    there = set(taken)
    return {name: f"{kind} {name}" if name in there else name for name in names}


def escape(text: object) -> str:
    """Text made safe to stand in HTML."""
    return html.escape(str(text))


def paragraph_html(text: str, note: bool = False) -> str:
    """A paragraph of plain text; `note` prints it smaller and paler."""
    return f'<p class="note">{escape(text)}</p>' if note else f"<p>{escape(text)}</p>"


def table_html(frame: pd.DataFrame, decimals: int = 3) -> str:
    """A DataFrame as an HTML table without its index: floats to `decimals` places, missing values as a dash."""
    head = "".join(f"<th>{escape(column)}</th>" for column in frame.columns)
    lines = []
    for values in frame.itertuples(index=False, name=None):
        lines.append("<tr>" + "".join(_cell(value, decimals) for value in values) + "</tr>")
    body = "\n".join(lines)
    return f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _cell(value: object, decimals: int) -> str:
    import pandas as pd

    if pd.isna(value):
        return '<td class="number">-</td>'
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        text = str(value) if isinstance(value, numbers.Integral) else f"{value:.{decimals}f}"
        return f'<td class="number">{text}</td>'
    return f"<td>{escape(value)}</td>"


def image_html(picture: bytes | str | os.PathLike, alt: str, caption: str = "") -> str:
    """A PNG, given as its bytes or as a path, embedded in the page. alt: what it shows, for those who can't see it."""
    data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    encoded = base64.b64encode(data).decode("ascii")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="data:image/png;base64,{encoded}" alt="{escape(alt)}">{below}</figure>'
