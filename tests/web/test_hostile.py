"""Whatever strangers write, on any page: it is shown as text, within bounds, and nothing of it is ever markup."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp.test_utils import make_mocked_request

from mirror.errors import UpstreamUnavailable
from mirror.model import Event
from mirror.transfer import TransferState
from mirror.web import html, views
from tests.builders import gem, wheel
from tests.serving import Reply, Serving, repositories, serving
from tests.simulator import Simulator
from tests.web.reading import look, sound
from tests.web.stage import described

HOSTILE = [
    "<script>alert(1)</script>",
    '"><script>alert(1)</script>',
    "'\"><img src=x onerror=alert(1)>",
    "</title></head><body onload=alert(1)>",
    "</textarea></pre></code></svg><svg onload=alert(1)>",
    "<!-- <![CDATA[ -->",
    "javascript:alert(1)",
    "{{ 7*7 }}{% raw %}${7*7}#{7*7}",
    "&lt;b&gt; &amp;quot; &#60;script&#62;",
    '" autofocus onfocus=alert(1) x="',
    "\u202egnp.exe\u2066\u200b\ufeff",
    "a" * 20_000,
    "<a href=//evil.example>click</a>" * 50,
    "﷽" * 500,
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢" * 30,
]


@pytest.fixture
async def mirror(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path / "data", repositories(simulator)) as running:
        yield running


def bounded(reply: Reply) -> str:
    """The text of a page that is sound and of sane size."""
    assert len(reply.body) < 100_000
    tree = sound(reply)
    assert tree.body is not None
    return tree.body.text()


@pytest.mark.parametrize("number", range(len(HOSTILE)), ids=lambda number: HOSTILE[number][:24])
async def test_what_an_author_writes_is_shown_as_text(mirror: Serving, simulator: Simulator, number: int) -> None:
    text = HOSTILE[number]
    line = text.replace("\n", " ")
    about = (
        *(f"License: {line}", f"Author: {line}", f"Home-page: {line}"),
        *(f"Project-URL: {line[:20].replace(',', '')}, https://docs.example/?{line}", f"Project-URL: x, {line}"),
        *(f"Requires-Dist: {line}", f'Requires-Dist: six; platform_system == "{quote(line[:60])}"'),
    )
    built = wheel("six", "1.0", summary=line, extra_metadata=described("text/markdown", f"before\n\n{text}", *about))
    simulator.publish(built, yanked=text, extra={"requires-python": text})
    shown = bounded(await look(mirror, "-/projects/pypi/six/"))
    assert "before" in shown
    if number < 6:
        assert views.printable(text, 300) in shown, "the yank's reason stands there as it was written"
    simulator.push(gem("rack", "1.0", summary=line, metadata={"homepage_uri": line, "x_uri": f"http://{line}"}))
    bounded(await look(mirror, "-/projects/rubygems/rack/"))


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:24])
async def test_what_is_searched_for_is_shown_as_text(mirror: Serving, text: str) -> None:
    asked = quote(text[:1500], safe="")
    for path in (
        *(f"-/projects/?q={asked}", f"-/projects/?from=0.{asked}", f"-/projects/?q=a&from={asked}"),
        *(f"-/projects/pypi/{asked}/", f"-/projects/rubygems/{asked}/", f"-/projects/{asked}/six/"),
        *(f"-/projects/pypi/six/?version={asked}&page={asked}", f"-/activity/?before={asked}"),
    ):
        reply = await look(mirror, path)
        assert reply.status in (200, 400, 404), path
        bounded(reply)


async def test_what_stands_in_the_journal_is_shown_as_text(mirror: Serving) -> None:
    source = mirror.mirror.repositories["pypi"].sources[0].name
    for text in HOSTILE:
        await mirror.mirror.journal.append(
            Event(serial=0, at=time.time(), source=source, project=text, kind=text[:100], filename=text)
        )
    bounded(await look(mirror, "-/activity/"))


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:24])
async def test_what_an_upstream_and_a_token_are_called_is_shown_as_text(mirror: Serving, text: str) -> None:
    (one, *_) = mirror.mirror.upstreams.values()
    one.name = text
    one._traffic.record_error(UpstreamUnavailable(f"{text} does not answer"))
    moving = TransferState(filename=text, source=text, size=10, received=5, readers=1, seconds=1.0, stored=False)
    page = html.render_page(
        make_mocked_request("GET", "/-/state/"),
        "state.html",
        {
            "section": "state", "title": "State", "status": await mirror.mirror.state.status(), "transfers": [moving],
            "tokens": [], "source_names": {}, "admin": True, "user": text, "can_sign_in": False,
            "can_sign_out": False, "sees_state": True,
            "query": text[:100], "version": "1", "now": time.time(),
        },
    )  # fmt: skip
    assert page.text is not None
    bounded(Reply(200, page.headers, page.text.encode()))
