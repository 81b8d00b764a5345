"""The headers by which browsers and caches know what they may do with a response."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from yarl import URL

from mirror.server.rules import COMPACT, FILE, PAGE, private
from tests.builders import gem, wheel
from tests.serving import Serving, repositories, serving
from tests.simulator import Simulator
from tests.uploading import make_token

OPEN = "Access-Control-Allow-Origin"
INDEX = ("simple/", "simple/six/", "pypi/six/json", "packages/six/six-1.0-py3-none-any.whl", "versions", "names")
INDEX += ("packages/six/six-1.0-py3-none-any.whl.metadata", "info/rack", "specs.4.8.gz", "latest_specs.4.8")
INDEX += ("gems/rack-3.0.gem", "quick/Marshal.4.8/rack-3.0.gemspec.rz", "api/v1/gems/rack.json")
INDEX += ("api/v1/versions/rack.json", "api/v1/search.json?query=rack", "at/2030-01-01/simple/six/")
OURS = ("-/explain/pypi/six", "-/projects/", "-/projects/pypi/six/", "-/activity/", "-/feed", "-/holdings")


@pytest.fixture
def published(simulator: Simulator) -> Simulator:
    simulator.publish(wheel("six", "1.0"))
    simulator.push(gem("rack", "3.0"))
    return simulator


@pytest.fixture
async def closed(tmp_path: Path, published: Simulator) -> AsyncIterator[Serving]:
    async with serving(
        tmp_path / "data", repositories(published), auth={"rules": [{"read": ["authenticated"]}]}
    ) as one:
        yield one


def test_private_rules_differ_only_in_who_may_keep_the_response() -> None:
    for one in (FILE, PAGE, COMPACT):
        kept = private(one)
        assert kept.cache_control.startswith("private, ")
        assert "public" not in kept.cache_control
        assert kept.vary.endswith("Authorization, Cookie")
        assert (kept.ranges, kept.encodings) == (one.ranges, one.encodings)


async def test_no_cache_may_keep_what_only_some_may_read(closed: Serving) -> None:
    login = {"Authorization": f"Bearer {await make_token(closed, ['read'])}"}
    for path in (*INDEX, *OURS):
        for _ in range(2):
            reply = await closed.get(path, **login)
            assert reply.status == 200, path
            kept = reply.headers["Cache-Control"]
            assert kept.startswith("private") or kept == "no-store", (path, kept)
            assert kept == "no-store" or "Authorization" in reply.headers["Vary"], path
            assert OPEN not in reply.headers, path
        assert (await closed.get(path)).status == 401, path
    page = await closed.get("simple/six/", **login)
    same = await closed.get("simple/six/", If_None_Match=page.headers["ETag"], **login)
    assert (same.status, same.headers["Cache-Control"]) == (304, "private, max-age=600")
    part = await closed.get("info/rack", Range="bytes=1-", **login)
    assert (part.status, part.headers["Cache-Control"]) == (206, "private, max-age=60")


async def test_pages_of_every_site_may_read_what_needs_no_login(tmp_path: Path, published: Simulator) -> None:
    async with serving(tmp_path / "data", repositories(published)) as mirror:
        for path in INDEX:
            for _ in range(2):
                reply = await mirror.get(path, Origin="http://localhost:8000")
                assert (reply.status, reply.headers.get(OPEN)) == (200, "*"), path
                assert "Access-Control-Allow-Credentials" not in reply.headers
        missing = await mirror.get("simple/nothing/", Origin="http://localhost:8000")
        assert (missing.status, missing.headers.get(OPEN)) == (404, "*")
        moved = await mirror.get("simple/Six/", Origin="http://localhost:8000")
        assert (moved.status, moved.headers.get(OPEN)) == (301, "*")
        for path in ("-/status", "-/projects/", "-/state/", "health"):
            assert OPEN not in (await mirror.get(path)).headers, path


async def test_a_page_asks_before_it_sends_a_range(tmp_path: Path, published: Simulator) -> None:
    async with serving(tmp_path / "data", repositories(published)) as mirror:
        asking = {"Access_Control_Request_Method": "GET", "Access_Control_Request_Headers": "range"}
        reply = await mirror.ask("OPTIONS", "simple/six/", Origin="http://localhost:8000", **asking)
        assert (reply.status, reply.headers[OPEN], reply.body) == (204, "*", b"")
        assert "Range" in reply.headers["Access-Control-Allow-Headers"].split(", ")
        assert "Authorization" not in reply.headers["Access-Control-Allow-Headers"]
        assert reply.headers["Access-Control-Allow-Methods"] == "GET, HEAD"
        plain = await mirror.ask("OPTIONS", "simple/six/")
        assert (plain.status, plain.headers["Allow"]) == (204, "GET, HEAD, OPTIONS")
        assert OPEN not in plain.headers
        assert (await mirror.ask("OPTIONS", "nowhere/at/all/here")).status == 404
        upload = await mirror.ask("OPTIONS", "legacy/", Origin="http://localhost:8000", **asking)
        assert OPEN not in upload.headers


async def test_no_browser_guesses_types_or_runs_what_an_index_holds(tmp_path: Path, published: Simulator) -> None:
    async with serving(tmp_path / "data", repositories(published)) as mirror:
        for path in (*INDEX, *OURS, "nowhere", "health", "-/static/style.css"):
            reply = await mirror.get(path)
            assert reply.headers["X-Content-Type-Options"] == "nosniff", path
            if reply.headers["Content-Type"].startswith("text/html"):
                assert "default-src 'none'" in reply.headers["Content-Security-Policy"], path


async def test_no_response_names_versions(tmp_path: Path, published: Simulator) -> None:
    async with serving(tmp_path / "data", repositories(published)) as mirror:
        for path in ("health", "nowhere", "simple/", "-/projects/"):
            assert (await mirror.get(path)).headers.get("Server", "mirror") == "mirror", path
        url = URL(mirror.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(b"nonsense\r\n\r\n")
        assert b"ython" not in await reader.read()
        writer.close()
