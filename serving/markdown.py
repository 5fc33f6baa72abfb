"""Model cards as HTML. Only the Markdown that cards use, and nothing in a card can become anything but text.

A card comes with a model, and models come from others: so all text is escaped first, and the few tags are ours. There are
no images and no raw HTML, and links go to http(s) only.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator


def render(text: str, top: int = 2) -> str:
    """Headings, paragraphs, lists, tables, fenced code; `code`, **bold**, *italic*, [links](https://...). Returns HTML.

    top: the level that the card's own first heading (#) gets, since the page has one already.
    """
    lines = html.escape(text.replace("\0", ""), quote=True).splitlines()
    return "\n".join(_blocks(lines, top))


def _blocks(lines: list[str], top: int) -> Iterator[str]:
    at = 0
    while at < len(lines):
        line = lines[at].rstrip()
        end = at + 1
        if not line:
            pass
        elif line.startswith("```"):
            while end < len(lines) and not lines[end].startswith("```"):
                end += 1
            yield f"<pre><code>{chr(10).join(lines[at + 1 : end])}</code></pre>"
            end += 1
        elif heading := re.match(r"(#{1,6}) +(.*)", line):
            level = min(6, len(heading[1]) + top - 1)
            yield f"<h{level}>{_inline(heading[2])}</h{level}>"
        elif line.startswith("|"):
            end = _while(lines, end, "|")
            yield _table(lines[at:end])
        elif line.startswith("- "):
            end = _while(lines, end, "- ")
            yield "<ul>" + "".join(f"<li>{_inline(each[2:].strip())}</li>" for each in lines[at:end]) + "</ul>"
        else:
            while end < len(lines) and lines[end].strip() and not re.match(r"#{1,6} |```|\||- ", lines[end]):
                end += 1
            yield f"<p>{_inline(' '.join(each.strip() for each in lines[at:end]))}</p>"
        at = end


def _while(lines: list[str], at: int, start: str) -> int:
    while at < len(lines) and lines[at].startswith(start):
        at += 1
    return at


def _table(lines: list[str]) -> str:
    rows = [[_inline(cell.strip()) for cell in line.strip().strip("|").split("|")] for line in lines]
    ruled = len(lines) > 1 and re.fullmatch(r"[|:\- ]+", lines[1].strip()) is not None
    head = "<thead><tr>" + "".join(f'<th scope="col">{cell}</th>' for cell in rows[0]) + "</tr></thead>" if ruled else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows[2 if ruled else 0 :])
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _inline(text: str) -> str:
    # What is in `code` is taken out first and put back last, so that stars in it stay stars.
    codes: list[str] = []

    def keep(match: re.Match[str]) -> str:
        codes.append(match[1])
        return f"\0{len(codes) - 1}\0"

    text = re.sub(r"`([^`]+)`", keep, text)
    text = re.sub(r"\[([^\]]+)\]\((https?://[^\s()]+)\)", r'<a href="\2" rel="noopener noreferrer">\1</a>', text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
    text = re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])", r"<em>\1</em>", text)
    return re.sub(r"\0(\d+)\0", lambda match: f"<code>{codes[int(match[1])]}</code>", text)
