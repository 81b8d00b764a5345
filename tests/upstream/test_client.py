"""How an upstream is asked: politely, within limits, with secrets kept, and not at all when it is down."""

import asyncio
import base64
import gzip
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path

import msgspec
import pytest
import trustme
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from yarl import URL

from mirror.errors import (
    ConfigError,
    NotFound,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror.model import Body, File, UpstreamRequest, UpstreamResponse
from mirror.upstream import Credentials, SlowBody, Upstream, UpstreamOptions, retry_after, storable
from mirror.upstream import body as body_module
from mirror.upstream.body import TAIL_BYTES, RateLimit
from tests.builders import noise
from tests.file_server import LAST_MODIFIED, FileServer, secure
from tests.simulator import Chunked, Cut, Drip, GzipDespiteRange, Headers, IgnoreRange, Stall, Status
from tests.simulator import SimulatedResponse as Raw
from tests.simulator.wire import Representation, plain, redirect

OPTIONS = UpstreamOptions(connect_timeout=30, read_timeout=30, page_timeout=60, breaker_failures=100)


@pytest.fixture
async def file_server() -> AsyncIterator[FileServer]:
    async with FileServer() as running:
        yield running


@pytest.fixture
async def upstream(file_server: FileServer) -> AsyncIterator[Upstream]:
    upstream = Upstream("index", URL(file_server.url), OPTIONS)
    yield upstream
    await upstream.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.01)


def ask(url: str, limit: int = 10_000) -> UpstreamRequest:
    return UpstreamRequest(url=URL(url), accept="text/html", limit=limit)


async def get(upstream: Upstream, url: str) -> UpstreamResponse:
    answer = await upstream.get(ask(url))
    assert answer is not None
    return answer


async def content(body: Body, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in body.read(start, stop)])


# Pages


async def test_a_page_comes_with_the_headers_that_matter(file_server: FileServer, upstream: Upstream) -> None:
    thing = Representation(
        b"<p>", "text/html; charset=utf-8", '"e"', LAST_MODIFIED, {"X-PyPI-Last-Serial": "17"}, gzip=True
    )
    answer = await get(upstream, file_server.put("/simple/six/", thing))
    assert answer == UpstreamResponse(
        url=f"{file_server.url}simple/six/", content_type="text/html; charset=utf-8", body=b"<p>", etag='W/"e"',
        last_modified=LAST_MODIFIED, serial=17,
    )  # fmt: skip
    (request,) = file_server.asked("GET", "/simple/six/")
    assert request.headers["Accept"] == "text/html"
    assert request.headers["User-Agent"] == "mirror"
    assert "gzip" in request.headers["Accept-Encoding"]


async def test_a_page_that_has_not_changed_is_not_sent_again(file_server: FileServer, upstream: Upstream) -> None:
    url = file_server.put("/page", b"page")
    first = await get(upstream, url)
    assert await upstream.get(ask(url), etag=first.etag, last_modified=first.last_modified) is None
    file_server.put("/page", b"another")
    second = await upstream.get(ask(url), etag=first.etag)
    assert second
    assert second.body == b"another"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, NotFound), (410, NotFound), (401, UpstreamRefused), (403, UpstreamRefused), (500, UpstreamUnavailable),
        (503, UpstreamUnavailable), (429, UpstreamUnavailable), (400, UpstreamProtocolError),
        (204, UpstreamProtocolError), (304, UpstreamProtocolError), (206, UpstreamProtocolError),
        (416, UpstreamProtocolError), (300, UpstreamProtocolError),
    ],
)  # fmt: skip
async def test_each_status_is_one_kind_of_error(
    file_server: FileServer, upstream: Upstream, status: int, error: type[Exception]
) -> None:
    url = file_server.put("/page", plain(status))
    with pytest.raises(error):
        await upstream.get(ask(url))


async def test_connections_are_kept(file_server: FileServer, upstream: Upstream) -> None:
    for number in range(5):
        await get(upstream, file_server.put(f"/{number}", b"page"))
        async with upstream.fetch(URL(f"{file_server.url}{number}")) as stream:
            assert [chunk async for chunk in stream.chunks()] == [b"page"]
    assert len(file_server._server.connections) == 1


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_page_that_is_too_large_is_refused_while_it_comes(
    file_server: FileServer, upstream: Upstream, chunked: bool
) -> None:
    url = file_server.put("/page", noise(5_000_000))
    if chunked:
        file_server.inject("*", Chunked())
    with pytest.raises(UpstreamProtocolError, match="larger than 10000 bytes"):
        await upstream.get(ask(url))
    assert upstream.health().bytes < 2_000_000


async def test_the_limit_counts_after_decompression(file_server: FileServer, upstream: Upstream) -> None:
    bomb = gzip.compress(bytes(50_000_000))
    url = file_server.put("/page", Raw(200, CIMultiDict({"Content-Encoding": "gzip"}), bomb))
    with pytest.raises(UpstreamError):
        await upstream.get(ask(url, limit=60_000))


@pytest.mark.parametrize("garbage", [b"not gzip at all", gzip.compress(b"page" * 1000, mtime=0)[:-20]])
async def test_a_body_that_does_not_decompress_is_no_page(
    file_server: FileServer, upstream: Upstream, garbage: bytes
) -> None:
    url = file_server.put("/page", Raw(200, CIMultiDict({"Content-Encoding": "gzip"}), garbage))
    with pytest.raises(UpstreamError):
        await upstream.get(ask(url))


async def test_following_a_page_by_ranges_sees_statuses_and_headers(
    file_server: FileServer, upstream: Upstream
) -> None:
    question = ask(file_server.put("/versions", b"0123456789"))
    part = await upstream.get_raw(question, {"Range": "bytes=8-", "Accept-Encoding": "identity"})
    assert (part.status, part.body, part.headers["content-range"]) == (206, b"89", "bytes 8-9/10")
    same = await upstream.get_raw(question, {"Range": "bytes=8-", "If-None-Match": part.headers["etag"]})
    assert (same.status, same.body) == (304, b"")
    assert (await upstream.get_raw(question, {"Range": "bytes=10-"})).status == 416
    whole = await upstream.get_raw(question, {})
    assert (whole.status, whole.body) == (200, b"0123456789")
    with pytest.raises(NotFound):
        await upstream.get_raw(ask(file_server.url + "nothing"), {})


# Retries


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_what_may_pass_is_tried_again(file_server: FileServer, upstream: Upstream, status: int) -> None:
    url = file_server.put("/page", b"page")
    file_server.inject("*", Status(status), times=2)
    assert (await get(upstream, url)).body == b"page"
    assert file_server.count() == 3


@pytest.mark.parametrize("status", [404, 403, 500, 400])
async def test_what_does_not_pass_is_asked_once(file_server: FileServer, upstream: Upstream, status: int) -> None:
    url = file_server.put("/page", plain(status))
    with pytest.raises((NotFound, UpstreamError)):
        await upstream.get(ask(url))
    assert file_server.count() == 1


async def test_retries_are_bounded(file_server: FileServer, upstream: Upstream) -> None:
    url = file_server.put("/page", plain(503))
    with pytest.raises(UpstreamUnavailable, match="answered 503"):
        await upstream.get(ask(url))
    assert file_server.count() == 1 + OPTIONS.retries
    assert upstream.health().errors == 1


async def test_a_page_cut_short_is_asked_for_again(file_server: FileServer, upstream: Upstream) -> None:
    url = file_server.put("/page", noise(9000))
    file_server.inject("*", Cut(after=4000), times=1)
    assert (await get(upstream, url)).body == noise(9000)


@pytest.mark.parametrize("after", [None, 4000])
async def test_a_silent_upstream_is_not_waited_for(file_server: FileServer, after: int | None) -> None:
    upstream = Upstream("index", URL(file_server.url), msgspec.structs.replace(OPTIONS, read_timeout=0.3))
    url = file_server.put("/page", noise(9000))
    file_server.inject("*", Stall(after))
    with pytest.raises(UpstreamUnavailable, match="took too long"):
        await upstream.get(ask(url))
    assert file_server.count() == 1
    await upstream.close()


async def test_a_page_that_trickles_is_not_waited_for(file_server: FileServer) -> None:
    upstream = Upstream("index", URL(file_server.url), msgspec.structs.replace(OPTIONS, page_timeout=0.3))
    file_server.inject("*", Stall())
    with pytest.raises(UpstreamUnavailable, match="took too long"):
        await upstream.get(ask(file_server.put("/page", b"page")))
    await upstream.close()


async def test_a_page_that_is_known_to_be_large_has_time_of_its_own(file_server: FileServer) -> None:
    url = URL(file_server.put("/slow", b"x" * 3000))
    file_server.inject("/slow", Drip(piece=1000, pause=0.3))
    upstream = Upstream("index", URL(file_server.url), msgspec.structs.replace(OPTIONS, page_timeout=0.3, retries=0))
    with pytest.raises(UpstreamUnavailable):
        await upstream.get(UpstreamRequest(url=url))
    answer = await upstream.get(UpstreamRequest(url=url, timeout=60))
    assert answer is not None
    assert len(answer.body) == 3000
    await upstream.close()


@pytest.mark.parametrize("date", [True, False])
async def test_retry_after_is_obeyed(file_server: FileServer, upstream: Upstream, date: bool) -> None:
    url = file_server.put("/page", b"page")
    file_server.inject("*", Status(429, retry_after=formatdate(time.time() + 2, usegmt=True) if date else 1), times=1)
    assert (await get(upstream, url)).body == b"page"
    first, second = file_server.requests
    assert second.at - first.at >= 0.9


async def test_an_upstream_that_asks_for_more_than_we_may_wait_is_left_alone(file_server: FileServer) -> None:
    now = 1000.0
    upstream = Upstream("index", URL(file_server.url), OPTIONS, clock=lambda: now)
    url = file_server.put("/page", b"page")
    file_server.inject("*", Status(503, retry_after=600), times=1)
    with pytest.raises(UpstreamUnavailable) as caught:
        await upstream.get(ask(url))
    assert caught.value.retry_after == 30  # what clients are told, some of which sleep so long
    with pytest.raises(UpstreamUnavailable, match="asked for requests to pause; trying again in 30 s"):
        await upstream.get(ask(url))
    assert file_server.count() == 1
    assert upstream.pause(URL(url), "page") == 30
    assert (await get(upstream, file_server.put("/other", b"other"))).body == b"other"
    now += 31
    assert (await get(upstream, url)).body == b"page"
    await upstream.close()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("12", 12), ("120", 60), (" 5 ", 5), ("5 s", 0),
        ("", 0), ("soon", 0), ("-5", 0), ("9" * 5000, 60), ("1e3", 0), ("\u0663", 0),
        (formatdate(1_000_050, usegmt=True), 50), (formatdate(1, usegmt=True), 0),
        (formatdate(2_000_000, usegmt=True), 60), ("Mon, 99 Foo 2024 10:00:00 GMT", 0),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date_and_never_absurd(value: str, seconds: float) -> None:
    assert retry_after(value, 1_000_000) == seconds


@given(st.text(max_size=50))
def test_no_retry_after_is_an_error(value: str) -> None:
    assert 0 <= retry_after(value, 1_000_000) <= 60


# Trouble: see test_pacing for what is decided


async def test_a_dead_upstream_costs_nothing_once_it_is_known(file_server: FileServer) -> None:
    now = 0.0
    options = msgspec.structs.replace(OPTIONS, breaker_failures=3)
    upstream = Upstream("index", URL(file_server.url), options, clock=lambda: now)
    url = file_server.put("/page", b"page")
    await file_server.go_down("refused")
    with pytest.raises(UpstreamUnavailable, match="cannot be reached"):
        await upstream.get(ask(url))
    before = upstream.health().requests
    for _ in range(10):
        with pytest.raises(UpstreamUnavailable, match="is not answering; trying again in 30 s") as caught:
            await upstream.get(ask(url))
        assert caught.value.retry_after == 30
    assert upstream.health().requests == before
    assert (upstream.health().breaker, upstream.health().retry_in) == ("open", 30)
    await file_server.come_back()
    now = 31
    assert (await get(upstream, url)).body == b"page"
    assert upstream.health().breaker == "closed"
    await upstream.close()


@pytest.mark.parametrize(("how", "timeouts"), [("silent", 3), ("hanging", 3)])
async def test_a_hanging_upstream_costs_a_few_timeouts(file_server: FileServer, how: str, timeouts: int) -> None:
    options = UpstreamOptions(connect_timeout=0.2, read_timeout=0.2)
    upstream = Upstream("index", URL(file_server.url), options, clock=lambda: 0.0)
    await file_server.go_down(how)
    for number in range(timeouts):
        assert upstream.health().breaker == "closed"
        with pytest.raises(UpstreamUnavailable, match="took too long"):
            await upstream.get(ask(f"{file_server.url}{number}"))
    with pytest.raises(UpstreamUnavailable, match="is not answering"):
        await upstream.get(ask(f"{file_server.url}another"))
    assert upstream.health().requests == timeouts
    await upstream.close()


async def test_a_dead_file_host_does_not_close_the_index(file_server: FileServer) -> None:
    upstream = Upstream(
        "index", URL(file_server.url), msgspec.structs.replace(OPTIONS, breaker_failures=1, allow_hosts=("127.0.0.2",))
    )
    with pytest.raises(UpstreamUnavailable):
        async with upstream.fetch(URL("http://127.0.0.2:9/it.whl")):
            pass
    assert upstream.health().breaker == "open"
    assert (await get(upstream, file_server.put("/page", b"page"))).body == b"page"
    await upstream.close()


# Secrets


async def test_credentials_go_to_the_own_origin_only(file_server: FileServer) -> None:
    file_server.require_login("me", "secret")
    url = file_server.put("/page", b"page")
    file_server.put("/away", redirect(f"{file_server.other_url}page"))
    file_server.put("/back", redirect("/page"))
    upstream = Upstream("index", URL(file_server.url).with_user("me").with_password("secret"), OPTIONS)
    for path in ("page", "away", "back"):
        assert (await get(upstream, f"{file_server.url}{path}")).body == b"page"
    async with upstream.fetch(URL(f"{file_server.other_url}page")):
        pass
    own = base64.b64encode(b"me:secret").decode()
    for request in file_server.requests:
        expected = f"Basic {own}" if request.port == file_server.port else None
        assert request.headers.get("Authorization") == expected
    assert [request.port for request in file_server.requests].count(file_server.other_port) == 2
    assert "secret" not in f"{upstream.health()}{upstream.url}{url}"
    await upstream.close()


async def test_credentials_in_the_links_of_a_page_are_not_used(file_server: FileServer, upstream: Upstream) -> None:
    file_server.put("/page", b"page")
    file_server.put("/away", redirect(f"http://evil:login@127.0.0.1:{file_server.other_port}/page"))
    await get(upstream, file_server.url.replace("127", "someone:else@127") + "page")
    await get(upstream, f"{file_server.url}away")
    assert all("Authorization" not in request.headers for request in file_server.requests)


async def test_wrong_credentials_are_named_without_being_shown(file_server: FileServer) -> None:
    file_server.require_login("me", "secret")
    options = msgspec.structs.replace(OPTIONS, auth=Credentials("me", "hunter2"))
    upstream = Upstream("index", URL(file_server.url), options)
    with pytest.raises(UpstreamRefused, match="check the credentials set for index") as caught:
        await upstream.get(ask(f"{file_server.url}page?token=t0ken"))
    for text in (str(caught.value), repr(options), str(upstream.health())):
        assert "hunter2" not in text
        assert "t0ken" not in text
    await upstream.close()


async def test_a_proxy_is_used_and_told_its_password(file_server: FileServer) -> None:
    file_server.put("http://index.example/simple/", b"through the proxy")
    proxy = f"http://me:secret@127.0.0.1:{file_server.port}"
    upstream = Upstream("index", URL("http://index.example/"), msgspec.structs.replace(OPTIONS, proxy=proxy))
    assert (await get(upstream, "http://index.example/simple/")).body == b"through the proxy"
    (request,) = file_server.requests
    assert request.headers["Proxy-Authorization"] == "Basic " + base64.b64encode(b"me:secret").decode()
    await file_server.go_down()
    with pytest.raises(UpstreamUnavailable) as caught:
        await upstream.get(ask("http://index.example/simple/"))
    assert "secret" not in f"{caught.value}{upstream.health()}"
    await upstream.close()


# Redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed_and_links_refer_to_the_final_address(
    file_server: FileServer, upstream: Upstream, status: int
) -> None:
    file_server.put("/end/", b"page")
    file_server.put("/middle", redirect("end/", status))
    answer = await get(upstream, file_server.put("/start", redirect(f"{file_server.other_url}middle", status)))
    assert (answer.url, answer.body) == (f"{file_server.other_url}end/", b"page")


@pytest.mark.parametrize(
    "location",
    ["/loop", "file:///etc/passwd", "ftp://127.0.0.1/x", "http://", "http://[", "http://h:99999/", "data:,x"],
)
async def test_bad_redirects_are_refused(file_server: FileServer, upstream: Upstream, location: str) -> None:
    url = file_server.put("/loop", redirect(location))
    with pytest.raises(UpstreamProtocolError):
        await upstream.get(ask(url))
    assert file_server.count() <= 1 + OPTIONS.redirects


async def test_a_redirect_to_nowhere_is_refused(file_server: FileServer, upstream: Upstream) -> None:
    with pytest.raises(UpstreamProtocolError, match="nowhere"):
        await upstream.get(ask(file_server.put("/page", plain(302))))


async def test_https_is_never_left_by_a_redirect_and_ca_file_is_trusted(
    file_server: FileServer, tmp_path: Path
) -> None:
    async def handle(request: web.BaseRequest) -> web.Response:
        if request.path == "/page":
            return web.Response(text="safe")
        return web.Response(status=302, headers={"Location": f"{file_server.url}page"})

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    file_server.put("/page", b"unsafe")
    async with secure(authority, handle) as base:
        trusting = Upstream("index", URL(base), msgspec.structs.replace(OPTIONS, ca_file=tmp_path / "ca.pem"))
        assert (await get(trusting, f"{base}page")).body == b"safe"
        with pytest.raises(UpstreamProtocolError, match="from https to http"):
            await trusting.get(ask(f"{base}away"))
        assert (await get(trusting, file_server.put("/up", redirect(f"{base}page")))).body == b"safe"
        assert file_server.count(path="/page") == 0
        strange = Upstream("index", URL(base), OPTIONS)
        with pytest.raises(UpstreamUnavailable, match="ca_file"):
            await strange.get(ask(f"{base}page"))
        for upstream in (trusting, strange):
            await upstream.close()


async def test_a_ca_file_that_cannot_be_read_is_a_mistake_of_the_configuration(
    file_server: FileServer, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="ca_file: cannot be used"):
        Upstream("index", URL(file_server.url), UpstreamOptions(ca_file=tmp_path / "nothing.pem"))


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://h/x", "it.whl", "", "data:,x"])
async def test_only_web_addresses_are_asked(upstream: Upstream, url: str) -> None:
    with pytest.raises(UpstreamProtocolError, match="not a web address"):
        async with upstream.fetch(URL(url)):
            pass


# Files and their parts


async def test_a_file_is_streamed_as_it_lies_there(file_server: FileServer, upstream: Upstream) -> None:
    packed = gzip.compress(b"sdist")
    headers = CIMultiDict({"Content-Encoding": "gzip", "ETag": '"e"', "Last-Modified": LAST_MODIFIED})
    url = file_server.put("/it.tar.gz", Raw(200, headers, packed))
    async with upstream.fetch(URL(url)) as stream:
        assert (stream.status, stream.start, stream.size, stream.validator) == (200, 0, len(packed), '"e"')
        assert stream.modified == 1777975200
        assert b"".join([chunk async for chunk in stream.chunks()]) == packed
    assert file_server.requests[0].headers["Accept-Encoding"] == "identity"


async def test_a_file_is_opened_from_the_middle(file_server: FileServer, upstream: Upstream) -> None:
    url = URL(file_server.put("/it.whl", b"0123456789"))
    async with upstream.fetch(url, start=7) as stream:
        assert (stream.status, stream.start, stream.size) == (206, 7, 10)
        assert [chunk async for chunk in stream.chunks()] == [b"789"]
    async with upstream.fetch(url, start=2, stop=4, if_range=stream.validator) as stream:
        assert [chunk async for chunk in stream.chunks()] == [b"23"]
    async with upstream.fetch(url, start=2, if_range='"another"') as stream:
        assert (stream.status, stream.start) == (200, 0)
    with pytest.raises(UpstreamProtocolError):
        async with upstream.fetch(url, start=10):
            pass


async def test_a_weak_etag_is_no_validator_for_a_range(file_server: FileServer, upstream: Upstream) -> None:
    url = file_server.put("/it.whl", b"0123456789")
    file_server.inject("*", Headers({"ETag": 'W/"weak"'}))
    async with upstream.fetch(URL(url)) as stream:
        assert stream.validator == LAST_MODIFIED


async def test_a_part_that_does_not_say_which_is_refused(file_server: FileServer, upstream: Upstream) -> None:
    url = file_server.put("/it.whl", b"0123456789")
    for value in (None, "bytes */10", "bytes 1-x/10", "10 pages"):
        file_server.inject("*", Headers({"Content-Range": value}), times=1)
        with pytest.raises(UpstreamProtocolError):
            async with upstream.fetch(URL(url), start=5):
                pass


async def test_a_file_waits_for_its_turn_and_pages_do_not_wait_behind_it(file_server: FileServer) -> None:
    upstream = Upstream("index", URL(file_server.url), msgspec.structs.replace(OPTIONS, connections=1))
    url = URL(file_server.put("/it.whl", noise(2_000_000)))
    async with upstream.fetch(url):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), upstream.fetch(url):
                pass
        assert (await get(upstream, file_server.put("/page", b"page"))).body == b"page"
        assert await content(await upstream.open_ranges(file_server.file(noise(100_000))), 0, 9) == noise(100_000)[:9]
    async with upstream.fetch(url):
        pass
    await upstream.close()


async def test_a_file_that_trickles_is_broken_off_after_a_window(
    file_server: FileServer, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_module, "RATE_WINDOW_SECONDS", 0.1)
    url = URL(file_server.put("/it.whl", noise(100_000)))
    file_server.inject("*", Drip(piece=1, pause=0.01))
    received = bytearray()

    async def read() -> None:
        async with upstream.fetch(url) as stream:
            async for chunk in stream.chunks():
                received.extend(chunk)

    with pytest.raises(SlowBody, match="less than 1024 bytes per second"):
        await read()
    assert 0 < len(received) < 100
    assert noise(100_000).startswith(received)
    assert upstream.health().causes == {"slow": 1}


async def test_a_slow_reader_is_not_the_upstreams_fault(
    file_server: FileServer, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_module, "RATE_WINDOW_SECONDS", 0.0)
    url = URL(file_server.put("/it.whl", noise(3_000_000)))
    received = 0
    async with upstream.fetch(url) as stream:
        async for chunk in stream.chunks():
            received += len(chunk)
            await asyncio.sleep(0.05)
    assert received == 3_000_000


def test_a_rate_is_that_of_a_window_of_waiting_and_no_limit_is_never_undercut() -> None:
    limit = RateLimit(100)
    assert not limit.undercut(10, 9.9)
    assert limit.undercut(10, 0.1)
    assert not limit.undercut(1000, 10)
    assert not limit.undercut(0, 9)
    assert limit.undercut(999, 1)
    unlimited = RateLimit(0)
    assert not any(unlimited.undercut(0, 100) for _ in range(3))


@pytest.mark.parametrize("sized", [True, False])
async def test_a_remote_file_is_read_by_ranges(file_server: FileServer, upstream: Upstream, sized: bool) -> None:
    data = noise(5_000_000)
    body = await upstream.open_ranges(file_server.file(data, sized=sized))
    assert body.size == len(data)
    size = len(data)
    spans = [
        (0, 1),
        (100, 300),
        (size - TAIL_BYTES - 5, size - TAIL_BYTES + 5),
        (size - 10, None),
        (size - TAIL_BYTES, size),
        (7, 7),
    ]
    for start, stop in spans:
        assert await content(body, start, stop) == data[start:stop]
    assert file_server.bytes_sent() < 2 * TAIL_BYTES
    assert file_server.count() == 4


async def test_a_small_remote_file_is_one_request(file_server: FileServer, upstream: Upstream) -> None:
    body = await upstream.open_ranges(file_server.file(b"tiny", sized=False))
    assert await content(body) == b"tiny"
    assert await content(body, 1, 3) == b"in"
    assert file_server.count() == 1


@pytest.mark.parametrize(
    "fault", [IgnoreRange(), GzipDespiteRange(status=200), Headers({"Content-Range": "bytes 0-9/*"})]
)
async def test_an_upstream_without_ranges_is_not_downloaded_for_them(
    file_server: FileServer, upstream: Upstream, fault: IgnoreRange
) -> None:
    file = file_server.file(noise(20_000_000))
    file_server.inject("*", fault)
    with pytest.raises(UpstreamError):
        await upstream.open_ranges(file)
    assert upstream.health().bytes < 1_000_000
    assert file_server.bytes_sent() < 15_000_000


async def test_a_remote_file_that_changes_while_it_is_read_is_an_error(
    file_server: FileServer, upstream: Upstream
) -> None:
    file = file_server.file(noise(1_000_000))
    body = await upstream.open_ranges(file)
    file_server.file(noise(1_000_000, "other"))
    with pytest.raises(UpstreamProtocolError, match="changed"):
        await content(body, 0, 100)


async def test_a_remote_file_of_another_size_than_promised_is_an_error(
    file_server: FileServer, upstream: Upstream
) -> None:
    file = file_server.file(noise(1_000_000))
    file_server.file(noise(1_000_001))
    with pytest.raises(UpstreamProtocolError):
        await upstream.open_ranges(file)


async def test_a_remote_file_that_is_not_there_is_not_found(upstream: Upstream, file_server: FileServer) -> None:
    with pytest.raises(NotFound):
        await upstream.open_ranges(File(filename="no.whl", version="1", url=f"{file_server.url}no.whl"))


async def test_state_counts_what_was_asked_and_came(file_server: FileServer, upstream: Upstream) -> None:
    await get(upstream, file_server.put("/page", b"12345"))
    with pytest.raises(UpstreamUnavailable):
        await upstream.get(ask(file_server.put("/bad", plain(500))))
    state = upstream.health()
    assert (state.name, state.url, state.requests, state.errors, state.bytes) == ("index", file_server.url, 2, 1, 5)
    assert state.last_error == "127.0.0.1 answered 500."
    assert state.seconds > 0


@pytest.mark.parametrize("header", ['"\udcff"', '"a\x00b"', '"é"', '"a\tb"'])
def test_a_header_that_cannot_be_stored_and_sent_back_is_left_out(header: str) -> None:
    assert storable(header) is None
    assert storable('"v1"') == '"v1"'
    assert storable(None) is None
