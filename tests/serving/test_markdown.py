import re

import pytest

from serving.markdown import render


def test_what_cards_use_is_rendered():
    text = "# Name\n\nOne **bold** and *soft* `a * b *` line\nand [more](https://example.org/a?b=1&c=2).\n\n- one\n- two\n\n"
    text += "| a | b |\n|---|--:|\n| 1 | `x` |\n\n```python\nif a < b: *no*\n```\n"
    assert render(text).split("\n", 1) == [
        "<h2>Name</h2>",
        "<p>One <strong>bold</strong> and <em>soft</em> <code>a * b *</code> line and "
        '<a href="https://example.org/a?b=1&amp;c=2" rel="noopener noreferrer">more</a>.</p>\n'
        "<ul><li>one</li><li>two</li></ul>\n"
        '<div class="scroll"><table><thead><tr><th scope="col">a</th><th scope="col">b</th></tr></thead>'
        "<tbody><tr><td>1</td><td><code>x</code></td></tr></tbody></table></div>\n"
        "<pre><code>if a &lt; b: *no*</code></pre>",
    ]


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        '[x](https://a.example/"onmouseover="alert(1))',
        "![x](https://a.example/x.png)",
        "`<img src=x onerror=alert(1)>`",
        "# <b onclick=alert(1)>",
        "| <svg/onload=alert(1)> |",
        "```\n</code></pre><script>alert(1)</script>",
        "\0" + "0\0 `<i>`",
        "[a](https://x.example)[b](data:text/html,x)",
    ],
)
def test_nothing_in_a_card_becomes_anything_but_text(hostile):
    from html.parser import HTMLParser

    found = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.append((tag, dict(attributes)))

    Parser().feed(render(hostile))
    allowed = {"p", "h2", "code", "pre", "a", "table", "tbody", "tr", "td", "div", "strong", "em"}
    assert {tag for tag, _ in found} <= allowed
    for tag, attributes in found:
        assert set(attributes) <= {"href", "rel", "class"}, (tag, attributes)
        assert attributes.get("href", "https://").startswith("https://")


def test_a_link_in_the_address_of_another_one_breaks_nothing():
    made = render("[q](https://x/[z) foo](file.png)", files={"file.png": "/models/m/file.png"})
    tags = re.findall(r"<[^>]*>", made)
    assert all(re.fullmatch(r'</?p>|</a>|<a href="[^"<>]*"( rel="[^"]*")?>', tag) for tag in tags), made
    assert tags.count("</a>") == sum(tag.startswith("<a ") for tag in tags)


def test_a_card_without_end_of_fence_or_text_is_no_trouble():
    assert render("```\nopen") == "<pre><code>open</code></pre>"
    assert render("") == ""


def test_links_to_files_beside_a_card_lead_to_those_that_are_shown():
    text = "See [the *report*](bias-lfw.html), [counts](confusion.csv) and [up](../secret.html)."
    assert render(text, files={"bias-lfw.html": "/models/a&b/bias-lfw.html"}) == (
        '<p>See <a href="/models/a&amp;b/bias-lfw.html">the <em>report</em></a>, counts and [up](../secret.html).</p>'
    )
