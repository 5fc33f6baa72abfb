"""Model cards as HTML. Only the Markdown that cards use, and nothing in a card can become anything but text.

A card comes with a model, and models come from others: so all text is escaped first, and the few tags are ours. There are
no images and no raw HTML, and links go to http(s), or to files that the caller names, only.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping


def render(text: str, top: int = 2, files: Mapping[str, str] | None = None) -> str:
    """Headings, paragraphs, lists, tables, fenced code; `code`, **bold**, *italic*, [links](https://...). Returns HTML.

    top: the level that the card's own first heading (#) gets, since the page has one already. files: name -> address, of the
    files beside the card that a link [...](name) leads to; of a link to another file the words stay.
    """
    lines = html.escape(text.replace("\0", ""), quote=True).splitlines()
    return "\n".join(_blocks(lines, top, files or {}))


def _blocks(lines: list[str], top: int, files: Mapping[str, str]) -> Iterator[str]:
    def inline(text: str) -> str:
        return _inline(text, files)

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
            yield f"<h{level}>{inline(heading[2])}</h{level}>"
        elif line.startswith("|"):
            end = _while(lines, end, "|")
            yield _table(lines[at:end], files)
        elif line.startswith("- "):
            end = _while(lines, end, "- ")
            yield "<ul>" + "".join(f"<li>{inline(each[2:].strip())}</li>" for each in lines[at:end]) + "</ul>"
        else:
            while end < len(lines) and lines[end].strip() and not re.match(r"#{1,6} |```|\||- ", lines[end]):
                end += 1
            yield f"<p>{inline(' '.join(each.strip() for each in lines[at:end]))}</p>"
        at = end


def _while(lines: list[str], at: int, start: str) -> int:
    while at < len(lines) and lines[at].startswith(start):
        at += 1
    return at


def _table(lines: list[str], files: Mapping[str, str]) -> str:
    rows = [[_inline(cell.strip(), files) for cell in line.strip().strip("|").split("|")] for line in lines]
    ruled = len(lines) > 1 and re.fullmatch(r"[|:\- ]+", lines[1].strip()) is not None
    head = "<thead><tr>" + "".join(f'<th scope="col">{cell}</th>' for cell in rows[0]) + "</tr></thead>" if ruled else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows[2 if ruled else 0 :])
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _inline(text: str, files: Mapping[str, str]) -> str:
    # What is in `code`, and where links lead, is taken out first and put back last: stars in it stay stars, brackets brackets.
    kept: list[str] = []

    def keep(done: str) -> str:
        kept.append(done)
        return f"\0{len(kept) - 1}\0"

    def web(match: re.Match[str]) -> str:
        return keep(f'<a href="{match[2]}" rel="noopener noreferrer">') + match[1] + keep("</a>")

    def beside(match: re.Match[str]) -> str:
        address = files.get(match[2])
        return match[1] if address is None else keep(f'<a href="{html.escape(address, quote=True)}">') + match[1] + keep("</a>")

    text = re.sub(r"`([^`]+)`", lambda match: keep(f"<code>{match[1]}</code>"), text)
    # Words and address hold no tag that was kept, nor brackets: so no link stands in another one or in its address.
    text = re.sub(r"\[([^\[\]]+)\]\((https?://[^\s()\[\]\0]+)\)", web, text)
    text = re.sub(r"\[([^\[\]]+)\]\(([\w-][\w.-]*)\)", beside, text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
    text = re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*(?![\w*])", r"<em>\1</em>", text)
    return re.sub(r"\0(\d+)\0", lambda match: kept[int(match[1])], text)
