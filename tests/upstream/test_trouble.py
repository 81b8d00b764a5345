"""Upstreams that are in trouble, or lie about the end of what they send: refused, asked again, and asked elsewhere."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiohttp import web
from yarl import URL

from mirror.errors import NotFound, UpstreamError, UpstreamRefused, UpstreamUnavailable
from mirror.model import UpstreamRequest, UrlClass
from mirror.upstream import HEADER_LINE_BYTES, Credentials, Upstream, UpstreamOptions
from tests.builders import noise
from tests.file_server import FileServer
from tests.simulator import CutCompression, HangUp, LongHeader, Stall, Status
from tests.simulator.lies import compress
from tests.simulator.wire import Representation, plain, redirect

OPTIONS = UpstreamOptions(connect_timeout=30, read_timeout=30, page_timeout=60, retries=2)
HTML = "text/html; charset=utf-8"
LINKS = b"".join(b"<a href='%d'>%d</a>" % (number, number) for number in range(300))
PAGE = b"<!DOCTYPE html><html><body>" + LINKS + b"</body></html>"
TEXT = b"thing 1.0\n" * 500


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.01)


@pytest.fixture
async def file_server() -> AsyncIterator[FileServer]:
    async with FileServer() as running:
        yield running


@asynccontextmanager
async def asking(url: str, **changes: object) -> AsyncIterator[Upstream]:
    upstream = Upstream("index", URL(url), msgspec.structs.replace(OPTIONS, **changes))
    try:
        yield upstream
    finally:
        await upstream.close()


async def get(upstream: Upstream, url: str, kind: UrlClass = "page") -> bytes:
    answer = await upstream.get(UpstreamRequest(url=URL(url), limit=1_000_000, kind=kind))
    assert answer is not None
    return answer.body


# Ends that are cut


@pytest.mark.parametrize("missing", [1, 20, 200])
@pytest.mark.parametrize("encoding", ["gzip", "zstd", "deflate", "raw deflate"])
async def test_a_compressed_page_that_ends_before_its_end_is_asked_for_again(
    file_server: FileServer, encoding: str, missing: int
) -> None:
    url = file_server.put("/page", Representation(PAGE, HTML))
    async with asking(file_server.url) as upstream:
        file_server.inject("*", CutCompression(encoding, missing), times=2)
        assert await get(upstream, url) == PAGE
        assert file_server.count() == 3
        file_server.inject("*", CutCompression(encoding, missing))
        with pytest.raises(UpstreamUnavailable, match="ended without a sign that all of it had come"):
            await get(upstream, url)


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "deflate", "raw deflate"])
async def test_a_compressed_page_that_is_whole_is_taken(file_server: FileServer, encoding: str) -> None:
    url = file_server.put("/page", Representation(noise(300_000), HTML))
    file_server.inject("*", CutCompression(encoding, 0))
    async with asking(file_server.url) as upstream:
        assert await get(upstream, url) == noise(300_000)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_several_compressed_members_are_one_page(file_server: FileServer, encoding: str) -> None:
    answer = plain(200, "", {"Content-Encoding": encoding})
    answer.body = b"".join(compress(PAGE[start : start + 100], encoding) for start in range(0, len(PAGE), 100))
    async with asking(file_server.url) as upstream:
        assert await get(upstream, file_server.put("/page", answer)) == PAGE


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_bomb_is_refused_when_it_is_larger_than_the_limit(file_server: FileServer, encoding: str) -> None:
    url = file_server.put("/page", Representation(bytes(200_000_000), HTML))
    file_server.inject("*", CutCompression(encoding, 0))
    async with asking(file_server.url) as upstream:
        with pytest.raises(UpstreamError, match="larger than 1000000 bytes"):
            await get(upstream, url)


@pytest.mark.parametrize(
    ("content_type", "body", "keep", "whole"),
    [
        (HTML, PAGE, None, True), (HTML, PAGE, 4000, False), (HTML, PAGE, -1, True), (HTML, PAGE, -9, False),
        ("", PAGE, 4000, False), ("application/vnd.pypi.simple.v1+html", PAGE, 4000, False),
        ("text/plain", TEXT, None, False), ("text/plain", TEXT, 4000, False),
        ("application/json", TEXT, 4000, True),  # which does not parse when it is cut
    ],
)  # fmt: skip
async def test_a_page_without_a_length_shows_its_end_or_is_refused(
    file_server: FileServer, content_type: str, body: bytes, keep: int | None, whole: bool
) -> None:
    url = file_server.put("/page", Representation(body, content_type))
    file_server.inject("*", HangUp(keep))
    async with asking(file_server.url, retries=0) as upstream:
        if whole:
            assert await get(upstream, url) == body[:keep]
        else:
            with pytest.raises(UpstreamUnavailable, match="ended without a sign"):
                await get(upstream, url)


# Heads


async def test_long_lines_of_a_head_are_read_up_to_a_limit(file_server: FileServer) -> None:
    url = file_server.put("/page", b"page")
    async with asking(file_server.url, retries=0) as upstream:
        for size in (9_000, HEADER_LINE_BYTES - 200):
            file_server.inject("*", LongHeader(size), times=2)
            assert await get(upstream, url) == b"page"
            async with upstream.fetch(URL(url)) as stream:
                assert stream.status == 200
        file_server.inject("*", LongHeader(HEADER_LINE_BYTES + 1000), times=1)
        with pytest.raises(UpstreamError, match="did not answer in HTTP"):
            await get(upstream, url)


# Gateways


@asynccontextmanager
async def machines(handle: Callable[[int, web.BaseRequest], web.Response]) -> AsyncIterator[str]:
    """A server whose connections are numbered, as if each went to a machine of its own behind one name."""
    numbers: dict[object, int] = {}

    async def answer(request: web.BaseRequest) -> web.Response:
        return handle(numbers.setdefault(request.transport, len(numbers)), request)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize("body", ["", "bad gateway\n" * 10])
async def test_the_next_try_after_the_error_of_a_gateway_goes_over_another_connection(status: int, body: str) -> None:
    def handle(machine: int, request: web.BaseRequest) -> web.Response:
        return web.Response(text="page") if machine else web.Response(status=status, text=body)

    async with machines(handle) as url, asking(url, retries=1) as upstream:
        assert await get(upstream, f"{url}page") == b"page"


async def test_other_connections_are_kept() -> None:
    seen = set()

    def handle(machine: int, request: web.BaseRequest) -> web.Response:
        seen.add(machine)
        return web.Response(status=500 if request.path == "/broken" else 200, text="page")

    async with machines(handle) as url, asking(url) as upstream:
        for path in ("page", "broken", "page"):
            try:
                await get(upstream, f"{url}{path}")
            except UpstreamUnavailable:
                assert path == "broken"
    assert len(seen) <= 2


# A pace


async def test_a_429_is_waited_for_within_the_time_of_a_page(file_server: FileServer) -> None:
    url = file_server.put("/page", b"page")
    file_server.inject("*", Status(429), times=4)
    async with asking(file_server.url) as upstream:
        assert await get(upstream, url) == b"page"
        assert upstream.health().errors == 0
        assert upstream.health().breaker == "closed"


async def test_requests_that_come_while_an_address_asks_for_a_short_pause_wait_for_it(file_server: FileServer) -> None:
    url = file_server.put("/page", b"page")
    file_server.inject("*", Status(503, retry_after=1), times=1)
    async with asking(file_server.url) as upstream:
        first = asyncio.create_task(get(upstream, url))
        await file_server.until(lambda: file_server.count(status=503) == 1)
        await asyncio.sleep(0)
        assert await asyncio.gather(first, get(upstream, url)) == [b"page", b"page"]
    assert file_server.count() == 3


async def test_questions_to_an_api_are_spread_over_time_and_others_are_not(file_server: FileServer) -> None:
    async with asking(file_server.url, api_rate=50) as upstream:
        for number in range(100):
            file_server.put(f"/{number}", b"page")
        kinds: tuple[UrlClass, ...] = ("api", "page")
        loop, took = asyncio.get_running_loop(), {}
        for kind in kinds:
            began = loop.time()
            await asyncio.gather(*(get(upstream, f"{file_server.url}{number}", kind) for number in range(100)))
            took[kind] = loop.time() - began
    assert took["api"] >= 0.9
    assert file_server.count() == 200


async def test_questions_that_would_wait_for_longer_than_a_page_are_refused_at_once(file_server: FileServer) -> None:
    file_server.put("/page", b"page")
    async with asking(file_server.url, api_rate=1, page_timeout=1.5) as upstream:
        url = f"{file_server.url}page"
        answers = await asyncio.gather(*(get(upstream, url, "api") for _ in range(10)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, UpstreamUnavailable)]
    assert len(refused) == 8
    assert all(10 <= error.retry_after <= 30 and error.cause == "paused" for error in refused)


# Refusals


async def test_a_password_that_is_replaced_is_read_again_once_after_a_401(file_server: FileServer) -> None:
    passwords = ["old"]

    def read() -> tuple[str, str]:
        passwords.append("read")
        return "me", passwords[0]

    url = file_server.put("/page", b"page")
    file_server.require_login("me", "old")
    async with asking(file_server.url, auth=Credentials("me", "old"), read_login=read) as upstream:
        assert await get(upstream, url) == b"page"
        file_server.require_login("me", "new")
        file_server.forget()
        with pytest.raises(UpstreamRefused, match="answered 401"):
            await get(upstream, url)
        assert (file_server.count(), passwords.count("read")) == (1, 1)
        passwords[0] = "new"
        assert await asyncio.gather(*(get(upstream, url) for _ in range(3))) == [b"page"] * 3
        async with upstream.fetch(URL(url)) as stream:
            assert stream.status == 200
        file_server.require_login("me", "newest")
        passwords[0] = "wrong"
        file_server.forget()
        with pytest.raises(UpstreamRefused, match="answered 401"):
            await get(upstream, url)
        assert file_server.count() == 2


@pytest.mark.parametrize(
    ("changes", "kind", "missing"),
    [
        ({}, "page", False), ({}, "list", False), ({}, "api", False), ({}, "sidecar", True), ({}, "file", True),
        ({"auth": Credentials("me", "secret")}, "file", False), ({"auth": Credentials("me", "secret")}, "page", False),
        ({"forbidden_means_missing": True}, "page", True), ({"forbidden_means_missing": True}, "list", True),
        ({"forbidden_means_missing": True, "auth": Credentials("me", "secret")}, "file", True),
    ],
)  # fmt: skip
async def test_403_means_missing_where_the_settings_say_so_and_for_a_file_without_a_login(
    file_server: FileServer, changes: dict[str, object], kind: UrlClass, missing: bool
) -> None:
    url = file_server.put("/page", plain(403))
    async with asking(file_server.url, **changes) as upstream:
        request = upstream.fetch(URL(url)).__aenter__() if kind == "file" else get(upstream, url, kind)
        with pytest.raises(NotFound if missing else UpstreamRefused):
            await request


async def test_the_page_of_a_project_is_redirected_to_another_host_only_where_that_is_allowed(
    file_server: FileServer,
) -> None:
    file_server.put("/page", b"page")
    url = file_server.put("/away", redirect(f"http://localhost:{file_server.port}/page"))
    async with asking(file_server.url, allow_hosts=("localhost",)) as upstream:
        with pytest.raises(UpstreamRefused, match=r"redirected to localhost.*add the host to its allow_page_redirects"):
            await get(upstream, url)
        assert file_server.count(path="/page") == 0
        assert await get(upstream, url, "list") == b"page"
        async with upstream.fetch(URL(url)) as stream:
            assert stream.status == 200
    async with asking(file_server.url, allow_hosts=("localhost",), allow_page_redirects=("localhost",)) as upstream:
        assert await get(upstream, url) == b"page"


# Silence


async def test_one_address_that_is_silent_pauses_alone(file_server: FileServer) -> None:
    silent, other = file_server.put("/silent", b"page"), file_server.put("/other", b"other")
    file_server.inject("/silent", Stall())
    async with asking(file_server.url, read_timeout=0.2) as upstream:
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable):
                await get(upstream, silent)
            assert await get(upstream, other) == b"other"
        assert file_server.count(path="/silent") == 1
        assert upstream.health().breaker == "closed"
