import base64
import io
from html.parser import HTMLParser

import pandas as pd
import pytest
from PIL import Image

from fer_keras.evaluation.report import html_page, image_html, paragraph_html, table_html

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Reader(HTMLParser):
    """Collects tags, links and text, and fails where tags are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.text, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def png():
    buffer = io.BytesIO()
    Image.new("L", (3, 2), 77).save(buffer, "PNG")
    return buffer.getvalue()


def test_page_is_well_formed_and_loads_nothing_from_elsewhere():
    sections = [("First", paragraph_html("some text")), ("Second", image_html(png(), "a grey picture"))]
    reader = read(html_page("A report", sections))
    assert {"html", "main", "h1", "nav", "style"} <= set(reader.tags)
    assert all(link.startswith(("data:image/png;base64,", "#part-")) for link in reader.links)
    assert "url(" not in html_page("A report", sections)


def test_text_that_looks_like_html_stays_text():
    frame = pd.DataFrame({"<b>": ["<script>alert(1)</script>"]})
    sections = [("a < b", table_html(frame) + image_html(png(), 'x" onload="y', "<i>"))]
    reader = read(html_page("<img>", sections))
    assert "script" not in reader.tags
    assert "b" not in reader.tags
    assert "<script>alert(1)</script>" in "".join(reader.text)
    assert reader.tags.count("img") == 1


def test_table_has_rounded_floats_whole_integers_and_a_dash_for_nothing():
    frame = pd.DataFrame({"label": ["fear"], "recall": [0.12345], "faces": [7], "auc": [None]})
    reader = read(table_html(frame, decimals=2))
    cells = [text for text in reader.text if text.strip()]
    assert cells == ["label", "recall", "faces", "auc", "fear", "0.12", "7", "-"]


def test_picture_is_embedded_as_it_is(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(png())
    for source in (png(), path, str(path)):
        (link,) = read(image_html(source, "grey")).links
        assert base64.b64decode(link.partition(",")[2]) == png()


def test_missing_picture_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        image_html(tmp_path / "none.png", "nothing")
