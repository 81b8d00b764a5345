"""Sending: ranges, conditions, HEAD, and bodies that break off."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from mirror.blobs.local import LocalBlobs
from mirror.errors import UpstreamUnavailable
from mirror.model import Body
from mirror.server.facts import FACTS, RequestFacts
from mirror.server.negotiate import parse_range
from mirror.server.respond import FileRepresentation, make_head, respond
from mirror.server.rules import FILE

Fetch = Callable[..., "asyncio.Future[tuple[int, Mapping[str, str], bytes]]"]


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 20)),
        ("bytes=90-1000", (90, 100)),
        ("bytes=-5", (95, 100)),
        ("bytes=-1000", (0, 100)),
        ("bytes=99-", (99, 100)),
        ("Bytes = 1-2", (1, 3)),
        ("bytes=100-", (100, 100)),
        ("bytes=-0", (100, 100)),
        ("bytes=5-4", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
        ("bytes=99999999999999999999-", None),
    ],
)
def test_a_range_header_names_bytes_or_is_ignored(header: str, part: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == part


@given(st.binary(min_size=1, max_size=50), st.integers(0, 60), st.integers(0, 60))
def test_any_range_is_the_slice(content: bytes, first: int, last: int) -> None:
    part = parse_range(f"bytes={first}-{last}", len(content))
    if last < first:
        assert part is None
    else:
        assert part is not None
        assert content[part[0] : part[1]] == content[first : last + 1]


def test_a_head_never_carries_a_line_break() -> None:
    with pytest.raises(ValueError, match="line break"):
        make_head(200, [("X", "a\r\nSet-Cookie: b")])


class Brittle:
    """A body that breaks off after its first chunk."""

    size, digest, modified, path, location = 100, "d" * 64, None, None, None

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        yield b"x" * 10
        raise UpstreamUnavailable("gone")


class Dead(Brittle):
    """A body that gives nothing at all."""

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        raise UpstreamUnavailable("gone")
        yield b""


@pytest.fixture(params=[10, 100_000, 3_000_000], ids=["tiny", "read", "sendfile"])
def content(request: pytest.FixtureRequest) -> bytes:
    size: int = request.param
    return hashlib.shake_128(b"content").digest(size)


@pytest.fixture
async def fetch(tmp_path: Path, content: bytes) -> AsyncIterator[Fetch]:
    """Ask a server that sends `content` at /, and the brittle bodies at /brittle and /dead."""
    blobs = LocalBlobs(tmp_path)
    held = await blobs.write(content)
    bodies: dict[str, Body] = {"/": await blobs.open(held.digest), "/brittle": Brittle(), "/dead": Dead()}

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        request[FACTS] = RequestFacts()
        try:
            return await respond(request, FileRepresentation(bodies[request.path], "application/zip"), FILE)
        except UpstreamUnavailable:
            return web.Response(status=503)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession(auto_decompress=False) as session:

        async def ask(
            headers: dict[str, str] | None = None, method: str = "GET", path: str = "/"
        ) -> tuple[int, Mapping[str, str], bytes]:
            async with session.request(method, f"http://127.0.0.1:{port}{path}", headers=headers) as response:
                return response.status, response.headers, await response.read()

        yield ask  # type: ignore[misc]
    await runner.cleanup()


async def test_the_whole_is_sent_with_its_digest_as_etag(fetch: Fetch, content: bytes) -> None:
    status, headers, body = await fetch()
    assert (status, body) == (200, content)
    assert headers["ETag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    assert headers["Content-Length"] == str(len(content))
    assert headers["Accept-Ranges"] == "bytes"
    assert "immutable" in headers["Cache-Control"]
    assert "Date" in headers
    assert "Content-Encoding" not in headers


async def test_one_connection_serves_several_responses(fetch: Fetch, content: bytes) -> None:
    for _ in range(3):
        assert (await fetch())[2] == content
        assert (await fetch({"Range": "bytes=-3"}))[2] == content[-3:]


async def test_head_is_get_without_the_body(fetch: Fetch) -> None:
    _, got, _ = await fetch()
    status, headers, body = await fetch(method="HEAD")
    assert (status, body) == (200, b"")
    assert {key: value for key, value in headers.items() if key != "Date"} == {
        key: value for key, value in got.items() if key != "Date"
    }


async def test_a_part_is_sent(fetch: Fetch, content: bytes) -> None:
    status, headers, body = await fetch({"Range": "bytes=2-5"})
    assert (status, body) == (206, content[2:6])
    assert headers["Content-Range"] == f"bytes 2-5/{len(content)}"


async def test_a_range_past_the_end_is_416_and_reports_the_size(fetch: Fetch, content: bytes) -> None:
    status, headers, body = await fetch({"Range": f"bytes={len(content)}-"})
    assert (status, body, headers["Content-Range"]) == (416, b"", f"bytes */{len(content)}")


async def test_what_the_client_has_is_not_sent_again(fetch: Fetch) -> None:
    _, headers, _ = await fetch()
    assert (await fetch({"If-None-Match": headers["ETag"]}))[0] == 304
    assert (await fetch({"If-None-Match": '"other"'}))[0] == 200
    assert (await fetch({"If-Modified-Since": headers["Last-Modified"]}))[0] == 304
    assert (await fetch({"If-Modified-Since": "Mon, 01 Jan 1990 00:00:00 GMT"}))[0] == 200
    assert (await fetch({"If-Modified-Since": "nonsense"}))[0] == 200


async def test_a_range_counts_only_for_the_same_bytes(fetch: Fetch) -> None:
    _, headers, _ = await fetch()
    for condition in (headers["ETag"], headers["Last-Modified"]):
        assert (await fetch({"Range": "bytes=1-2", "If-Range": condition}))[0] == 206
    for condition in ('"other"', f"W/{headers['ETag']}", "Mon, 01 Jan 1990 00:00:00 GMT"):
        assert (await fetch({"Range": "bytes=1-2", "If-Range": condition}))[0] == 200


async def test_a_body_that_breaks_off_is_never_taken_for_whole(fetch: Fetch) -> None:
    with pytest.raises(aiohttp.ClientError):
        await fetch(path="/brittle")


async def test_a_body_that_fails_before_its_first_byte_is_still_an_error_with_a_status(fetch: Fetch) -> None:
    assert (await fetch(path="/dead"))[0] == 503


async def test_a_client_that_asks_to_close_gets_its_response(fetch: Fetch, content: bytes) -> None:
    status, headers, body = await fetch({"Connection": "close"})
    assert (status, body, headers["Connection"]) == (200, content, "close")
