"""Markdown and reStructuredText → harmless HTML: a program of its own, run once for each description.

Reads the text from standard input and writes HTML. A process, not a thread, because a hostile text can keep a parser
busy for ever, and only a process can be stopped; and so that the parsers never take memory in the server. It
imports nothing of the mirror, so that it starts fast.

The surprise: pictures become their alternative text. They lie on other hosts, and a page here loads nothing from
elsewhere.
"""

import re
import sys

MEMORY_BYTES = 512 << 20
"""The most memory that the process may use."""
CPU_SECONDS = 5
"""The most processor time that it may take: on a small machine, starting the parsers takes a second of it."""
OUTPUT_CHARACTERS = 2_000_000
"""The longest HTML that it writes; longer HTML is given up."""
NICENESS = 10
"""How far it stands back behind the server for the processor."""

_TAGS = {
    *("a", "abbr", "b", "blockquote", "br", "caption", "cite", "code", "dd", "del", "details", "dfn", "div", "dl"),
    *("dt", "em", "figcaption", "figure", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "ins", "kbd", "li", "mark"),
    *("ol", "p", "pre", "q", "s", "samp", "small", "span", "strong", "sub", "summary", "sup", "table", "tbody"),
    *("td", "tfoot", "th", "thead", "tr", "tt", "u", "ul", "var"),
}
_WITHOUT_CONTENT = {
    "script",
    "style",
    "title",
    "textarea",
    "iframe",
    "object",
    "embed",
    "svg",
    "math",
    "template",
    "noscript",
}
_ATTRIBUTES: dict[str, set[str]] = {
    "*": set(),  # not even `title`, which is allowed by default
    "a": {"href", "title"},
    "td": {"colspan", "rowspan"},
    "th": {"colspan", "rowspan"},
    "ol": {"start"},
}


def render(text: str, markup: str) -> str:
    """Return HTML that fits into a page below a heading of the second level. `markup` is `markdown` or `rst`."""
    return clean(_markdown(text) if markup == "markdown" else _rst(text))


def _markdown(text: str) -> str:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return str(parser.render(text))


def _rst(text: str) -> str:
    from docutils.core import publish_parts

    settings = {
        "file_insertion_enabled": False,
        "raw_enabled": False,
        "_disable_config": True,
        "report_level": 5,
        "halt_level": 6,
        "doctitle_xform": False,
        "syntax_highlight": "none",
        "math_output": "latex",
        "input_encoding": "unicode",
        "line_length_limit": 10_000,
    }
    return str(publish_parts(text, writer="html5", settings_overrides=settings)["body"])


def clean(html: str) -> str:
    """Remove everything from HTML but text, structure, and links to the web and to mail addresses."""
    import nh3
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(html)
    for node in tree.css(", ".join(sorted(_WITHOUT_CONTENT))):
        node.decompose()
    for picture in tree.css("img"):
        picture.replace_with(picture.attributes.get("alt") or "")
    for link in tree.css("a, summary, h1, h2, h3, h4, h5, h6"):
        if not link.text().strip():  # a badge without words: nothing is left that could be read or clicked
            link.decompose()
    safe = nh3.clean(
        tree.body.inner_html or "" if tree.body else "",
        tags=_TAGS,
        clean_content_tags=_WITHOUT_CONTENT,
        attributes=_ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        url_relative="deny",
        link_rel="noopener noreferrer nofollow ugc",
    )
    # Two levels down: the page has headings of its own. The tags are ours by now, without attributes.
    return re.sub(r"(</?h)([1-6])>", lambda match: f"{match[1]}{min(6, int(match[2]) + 2)}>", safe)


def _bound() -> None:
    import os
    import resource

    os.nice(NICENESS)
    for limit, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(limit, (most, most))
        except (OSError, ValueError):  # a hardened service may not; the parent process stops us after a time
            continue


def main() -> None:
    """Render standard input; the one argument is its markup."""
    _bound()
    text = sys.stdin.buffer.read().decode("utf-8", "replace")
    html = render(text, sys.argv[1])
    if len(html) > OUTPUT_CHARACTERS:
        raise SystemExit("The description becomes too long.")
    sys.stdout.buffer.write(html.encode("utf-8", "replace"))


if __name__ == "__main__":
    main()
