"""Descriptions: what authors write becomes readable, and nothing of it gets out of its box."""

import asyncio
import contextlib
import io
import os
import sys
from pathlib import Path

import pytest
from selectolax.lexbor import LexborHTMLParser

from mirror.web import descriptions, markup
from mirror.web.descriptions import Descriptions
from tests.web.stage import MARKDOWN, RST

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)><script>alert(1)</script></svg>",
    '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=alert(1)&gt;">',
    "<iframe src='javascript:alert(1)'></iframe>",
    "[click](javascript:alert(1))",
    "[click](JAVASCRIPT:alert(1) 'x')",
    "[click](data:text/html;base64,PHNjcmlwdD4=)",
    "<a href='vbscript:x' style='position:fixed;inset:0'>x</a>",
    "<a href='&#106;avascript:alert(1)'>x</a>",
    "<div style='position:fixed;inset:0;background:url(//evil.example)' id=content class=top>x</div>",
    "<form action=https://evil.example><input name=q><button>go</button></form>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'><base href=https://evil.example>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "</div></main></body></html><h1>out</h1>",
    '<!--<img src="--><img src=x onerror=alert(1)//">',
    '<noscript><p title="</noscript><img src=x onerror=alert(1)>">',
    "<template><script>alert(1)</script></template>",
    "<p title='<h1>'>x</p>",
    "`x` :raw-html:`<script>alert(1)</script>`",
    ".. raw:: html\n\n   <script>alert(1)</script>\n",
    ".. include:: /etc/passwd\n",
    ".. literalinclude:: /etc/passwd\n",
    ".. csv-table::\n   :file: /etc/passwd\n",
    ".. csv-table::\n   :url: http://evil.example/\n",
    ".. image:: javascript:alert(1)\n   :target: javascript:alert(1)\n",
    ".. role:: x(raw)\n   :format: html\n\n:x:`<script>alert(1)</script>`\n",
    "`x <javascript:alert(1)>`_",
    ".. meta::\n   :refresh: 0\n",
    "\x00\x1b\u202e\ufffe text",
]
MAY_HAVE = {"a": {"href", "title", "rel"}, "td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan"}, "ol": {"start"}}


def checked(html: str) -> LexborHTMLParser:
    """Check each element of a rendered text; the tree."""
    tree = LexborHTMLParser(html)
    assert tree.body is not None
    for node in tree.body.css("*"):
        if node.tag in ("body", "html", "head"):
            continue
        assert node.tag in markup._TAGS, html
        assert set(node.attributes) <= MAY_HAVE.get(str(node.tag), set()), html
        href = node.attributes.get("href")
        assert href is None or href.startswith(("http://", "https://", "mailto:")), html
    return tree


@pytest.mark.parametrize("written_as", ["markdown", "rst"])
@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_hostile_survives(text: str, written_as: str) -> None:
    html = markup.render(f"before\n\n{text}\n\nafter", written_as)
    tree = checked(html)
    assert "root:" not in html
    assert tree.body is not None
    assert "before" in tree.body.text()


def test_markdown_becomes_text_links_tables_and_code() -> None:
    tree = checked(markup.render(MARKDOWN, "markdown"))
    assert [node.text() for node in tree.css("h3, h4")] == ["flask", "A simple example"]
    assert tree.css_first("pre code").text().startswith("# save this")
    assert len(tree.css("table tr")) == 3
    links = {node.text(): node.attributes.get("href") for node in tree.css("a")}
    assert links["Build"] == "https://ci.example/flask", "a badge is its words"
    assert links["Changes"] is None, "a relative link leads nowhere here"
    assert not tree.css("img")


def test_restructured_text_becomes_the_same() -> None:
    tree = checked(markup.render(RST, "rst"))
    assert [node.text() for node in tree.css("h3, h4")] == ["six"]
    assert "six.moves.input()" in tree.css_first("pre").text()
    assert tree.css_first("a").attributes["href"] == "https://docs.example/six"


async def test_a_description_is_rendered_by_a_process_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rendering = Descriptions(60)
    first = await rendering.html("*hello*", "markdown")
    assert first.strip() == "<p><em>hello</em></p>"
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert await rendering.html("*hello*", "markdown") == first
    await rendering.close()
    assert not {"docutils", "markdown_it.parser_inline"} & _imported_by_pages()


def _imported_by_pages() -> set[str]:
    text = "".join(path.read_text() for path in Path(markup.__file__).parent.glob("*.py") if path.name != "markup.py")
    return {name for name in ("docutils", "markdown_it", "nh3") if f"import {name}" in text or f"from {name}" in text}


async def test_a_process_that_takes_too_long_is_stopped_and_the_text_shown_plain(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    never = tmp_path / "never.py"
    never.write_text("import time\nwhile True: time.sleep(1)\n")
    monkeypatch.setattr(descriptions, "_PROGRAM", never)
    rendering = Descriptions(0.2)
    assert await rendering.html("<b>*hello*", "rst") == "<pre>&lt;b&gt;*hello*</pre>"
    await rendering.close()


async def test_a_process_that_dies_or_says_too_much_leaves_plain_text(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    monkeypatch.setattr(descriptions, "_PROGRAM", program)
    rendering = Descriptions(60)
    program.write_text("raise SystemExit(1)\n")
    assert await rendering.html("one", "markdown") == "<pre>one</pre>"
    program.write_text("print('x' * 3_000_000)\n")
    assert await rendering.html("two", "markdown") == "<pre>two</pre>"
    await rendering.close()


COUNTING = """
import pathlib, sys
with open({log!r}, "a") as log:
    log.write("x")
{rest}
"""


async def test_a_failure_is_remembered_also_when_whoever_asked_has_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log, program, gate = tmp_path / "log", tmp_path / "program.py", tmp_path / "gate"
    os.mkfifo(gate)
    program.write_text(COUNTING.format(log=str(log), rest=f"open({str(gate)!r}).read()\nraise SystemExit(1)"))
    monkeypatch.setattr(descriptions, "_PROGRAM", program)
    rendering = Descriptions(60)
    asking = asyncio.create_task(rendering.html("one", "rst"))
    async with asyncio.timeout(20):
        await asyncio.to_thread(lambda: gate.open("w").close())  # opens when the process reads
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        assert await rendering.html("one", "rst") == "<pre>one</pre>"
    rendering._memory.clear()
    assert await rendering.html("one", "rst") == "<pre>one</pre>"
    assert log.read_text() == "x"
    await rendering.close()


async def test_no_more_than_some_descriptions_wait_for_a_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text("import time\nwhile True: time.sleep(1)\n")
    monkeypatch.setattr(descriptions, "_PROGRAM", program)
    monkeypatch.setattr(descriptions, "WAITING_LIMIT", 3)
    rendering = Descriptions(60)
    waiting = [asyncio.create_task(rendering.html(f"text {number}", "rst")) for number in range(3)]
    await asyncio.sleep(0)
    assert await rendering.html("one more", "rst") == "<pre>one more</pre>"
    await rendering.close()
    await asyncio.gather(*waiting, return_exceptions=True)


def test_html_that_becomes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(markup, "_bound", lambda: None)
    monkeypatch.setattr(markup, "OUTPUT_CHARACTERS", 10)
    monkeypatch.setattr(sys, "argv", ["markup", "markdown"])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a long text")))
    with pytest.raises(SystemExit):
        markup.main()


async def test_a_text_that_grows_without_end_is_bounded() -> None:
    rendering = Descriptions(60)
    bomb = ".. |a| replace:: lol\n" + "".join(
        f".. |{chr(98 + n)}| replace:: {f'|{chr(97 + n)}| ' * 10}\n" for n in range(12)
    )
    assert len(await rendering.html(f"{bomb}\n|m|\n", "rst")) <= descriptions.HTML_CHARACTERS
    assert len(await rendering.html("x" * 5_000_000, "plain")) == descriptions.INPUT_CHARACTERS + len("<pre></pre>")
    await rendering.close()


def test_the_process_bounds_its_own_memory_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    nice: list[int] = []
    asked: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr(os, "nice", nice.append)
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: asked.update({which: limits}))
    markup._bound()
    assert asked[resource.RLIMIT_AS] == (markup.MEMORY_BYTES, markup.MEMORY_BYTES)
    assert asked[resource.RLIMIT_CPU] == (markup.CPU_SECONDS, markup.CPU_SECONDS)
    assert nice == [markup.NICENESS]
