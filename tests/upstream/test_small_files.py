"""How small files are asked for: cheaply where an upstream answers plainly, and through the usual client elsewhere."""

import asyncio
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trustme
from aiohttp import web
from yarl import URL

from mirror.errors import ConfigError, NotFound, UpstreamError, UpstreamProtocolError, UpstreamUnavailable
from mirror.runtime import event_loops
from mirror.upstream import Credentials, Upstream, UpstreamOptions
from tests.shelf import LAST_MODIFIED, Shelf, secure
from tests.simulator import Chunked, Cut, Status
from tests.simulator.wire import redirect

OPTIONS = UpstreamOptions(connect_timeout=30, read_timeout=30, page_timeout=60, breaker_failures=100)


class Wire:
    """A server of fixed bytes: for each request on each connection, in turn."""

    def __init__(self, answers: Callable[[int, int], bytes | None], *, close: bool) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answers = answers
        self._close = close
        self._writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, asked = self.connections, 0
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                answer = self._answers(number, asked)
                asked += 1
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
                if self._close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def hang_up(self) -> None:
        for writer in list(self._writers):
            writer.close()


@asynccontextmanager
async def wire(
    answers: Callable[[int, int], bytes | None], *, close: bool = False, options: UpstreamOptions = OPTIONS
) -> AsyncIterator[tuple[Wire, Upstream, URL]]:
    """`answers` by the numbers of connection and request; None hangs up. `close`: after each answer."""
    served = Wire(answers, close=close)
    server = await asyncio.start_server(served.serve, "127.0.0.1", 0)
    url = URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    upstream = Upstream("index", url, options)
    try:
        yield served, upstream, url / "it"
    finally:
        await upstream.close()
        served.hang_up()
        server.close()
        await server.wait_closed()


def whole(body: bytes, head: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


@pytest.fixture
async def shelf() -> AsyncIterator[Shelf]:
    async with Shelf() as running:
        yield running


async def fetched(upstream: Upstream, url: str | URL, size: int = 10_000) -> bytes:
    return (await upstream.fetch_small(URL(url), size)).body


async def test_files_come_with_their_dates_over_as_many_connections_as_callers() -> None:
    def answers(connection: int, asked: int) -> bytes:
        return whole(b"%d-%d" % (connection, asked), f"Last-Modified: {LAST_MODIFIED}\r\n")

    async with wire(answers) as (served, upstream, url):
        for asked in range(5):
            raw = await upstream.fetch_small(url / "a b", 100)
            assert (raw.status, raw.body, raw.headers["last-modified"]) == (200, b"0-%d" % asked, LAST_MODIFIED)
        assert served.connections == 1
        bodies = await asyncio.gather(*(fetched(upstream, url) for _ in range(3)))
        assert served.connections == 3
        assert sorted(bodies) == [b"0-5", b"1-0", b"2-0"]
    assert served.requests[0].splitlines() == [
        b"GET /it/a%20b HTTP/1.1", b"Host: " + (url.authority).encode(), b"User-Agent: mirror", b"Accept: */*",
        b"Accept-Encoding: identity", b"",
    ]  # fmt: skip
    assert upstream.state().requests == 8
    assert upstream.state().bytes == 8 * 3


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\nX-Sum: 1\r\n\r\n",
            b"abc",
        ),
        (b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", b"ab"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    ],
    ids=["chunked", "early hints", "empty"],
)
async def test_answers_are_read_as_http_allows_them(answer: bytes, body: bytes) -> None:
    async with wire(lambda connection, asked: answer) as (served, upstream, url):
        for _ in range(2):
            raw = await upstream.fetch_small(url, 100)
            assert raw.body == body
            assert "Link" not in raw.headers
        assert served.connections == 1


async def test_an_answer_that_comes_in_pieces_is_put_together(shelf: Shelf) -> None:
    url = shelf.put("/files/it", b"x" * 50_000)
    shelf.inject("/files/it", Chunked())
    upstream = Upstream("index", URL(shelf.url), OPTIONS)
    assert await fetched(upstream, url, 50_000) == b"x" * 50_000
    await upstream.close()


async def test_a_connection_that_is_not_to_be_kept_is_not_kept() -> None:
    async with wire(lambda connection, asked: whole(b"ab", "Connection: close\r\n"), close=True) as (served, up, url):
        for _ in range(3):
            assert await fetched(up, url) == b"ab"
        assert served.connections == 3
        assert all(b"Accept: */*\r\nAccept-Encoding: identity\r\n\r\n" in one for one in served.requests)


async def test_what_is_closed_while_nobody_asks_is_opened_again() -> None:
    async with wire(lambda connection, asked: None if connection == 0 and asked else whole(b"ab")) as (served, up, url):
        assert await fetched(up, url) == b"ab"
        assert await fetched(up, url) == b"ab"  # the question crosses the end
        assert served.connections == 2
        served.hang_up()
        await asyncio.sleep(0.05)
        assert await fetched(up, url) == b"ab"
        assert served.connections == 3


UNUSUAL = {
    "no length": b"HTTP/1.0 200 OK\r\n\r\nab",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nab",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("answer", UNUSUAL.values(), ids=UNUSUAL)
async def test_an_origin_that_answers_unusually_is_left_to_the_usual_client(answer: bytes) -> None:
    def answers(connection: int, asked: int) -> bytes:
        return whole(b"usual") if connection else answer

    async with wire(answers, close=True) as (served, upstream, url):
        for number in range(3):
            assert await fetched(upstream, url) == b"usual"
            assert served.connections == number + 2  # one attempt, and the usual client from then on


@pytest.mark.parametrize(
    "extra", [whole(b"another"), b"\0", b"HTTP/1.1 200 OK\r\n"], ids=["an answer", "rubbish", "half a head"]
)
async def test_nobody_gets_what_comes_after_an_answer(extra: bytes) -> None:
    async with wire(lambda connection, asked: whole(b"first") + extra) as (served, upstream, url):
        for _ in range(3):
            assert await fetched(upstream, url) == b"first"
        assert served.connections == 3


@pytest.mark.parametrize(
    "answer",
    [
        whole(b"x" * 101),
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n" + b"x" * 200_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 101 + b"0\r\n\r\n",
    ],
    ids=["a byte", "much", "in chunks"],
)
async def test_no_more_is_read_than_was_promised(answer: bytes) -> None:
    async with wire(lambda connection, asked: answer, close=True) as (_, upstream, url):
        with pytest.raises(UpstreamProtocolError, match="larger than 100 bytes"):
            await fetched(upstream, url, 100)


async def test_a_head_without_end_is_not_read_to_its_end() -> None:
    sent = 0

    def answers(connection: int, asked: int) -> bytes:
        nonlocal sent
        sent += 1
        return b"HTTP/1.1 200 OK\r\n" + b"X-Much: of it\r\n" * 100_000

    async with wire(answers) as (_, upstream, url):
        with pytest.raises(UpstreamError):
            await fetched(upstream, url)
    assert sent == 2  # the usual client does not want it either


async def test_statuses_mean_what_they_mean_to_the_usual_client(shelf: Shelf) -> None:
    url = shelf.put("/files/it", b"it")
    upstream = Upstream("index", URL(shelf.url), OPTIONS)
    with pytest.raises(NotFound):
        await fetched(upstream, f"{shelf.url}nothing")
    shelf.inject("/files/it", Status(503, retry_after="7"), times=1)
    with pytest.raises(UpstreamUnavailable, match="answered 503") as caught:
        await fetched(upstream, url)
    assert caught.value.retry_after == 7
    assert shelf.count() == 2  # each was asked once
    assert await fetched(upstream, url) == b"it"
    await upstream.close()


async def test_a_host_that_is_left_alone_is_not_asked(shelf: Shelf) -> None:
    url = shelf.put("/files/it", b"it")
    upstream = Upstream("index", URL(shelf.url), msgspec.structs.replace(OPTIONS, breaker_failures=1))
    shelf.inject("/files/it", Status(500))
    for words in ("answered 500", "is not answering; trying again"):
        with pytest.raises(UpstreamUnavailable, match=words):
            await fetched(upstream, url)
    assert shelf.count() == 1
    await upstream.close()


async def test_redirects_are_for_the_usual_client(shelf: Shelf) -> None:
    shelf.put("/there", b"it")
    url = shelf.put("/files/it", redirect(f"{shelf.url}there"))
    upstream = Upstream("index", URL(shelf.url), OPTIONS)
    for asked in (3, 5):
        assert await fetched(upstream, url) == b"it"
        assert shelf.count() == asked
    await upstream.close()


async def test_a_file_that_is_cut_is_fetched_by_the_usual_client(shelf: Shelf) -> None:
    url = shelf.put("/files/it", b"x" * 5000)
    shelf.inject("/files/it", Cut(100), times=1)
    upstream = Upstream("index", URL(shelf.url), OPTIONS)
    assert await fetched(upstream, url) == b"x" * 5000
    await upstream.close()


async def test_silence_is_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    options = msgspec.structs.replace(OPTIONS, read_timeout=0.2)
    async with wire(lambda connection, asked: whole(b"ab") if not asked else b"HTTP/1.1 200", options=options) as (
        served, upstream, url,
    ):  # fmt: skip
        assert await fetched(upstream, url) == b"ab"
        await asyncio.sleep(0.3)  # a silence before the question does not count
        began = time.monotonic()
        with pytest.raises(UpstreamUnavailable, match="took too long"):
            await fetched(upstream, url)
        assert 0.19 < time.monotonic() - began < 5
        assert served.connections == 1
        with pytest.raises(UpstreamUnavailable, match="trying again"):  # its breaker is open
            await fetched(upstream, url)


async def test_who_gives_up_leaves_no_answer_to_the_next() -> None:
    def answers(connection: int, asked: int) -> bytes:
        return whole(b"%d" % connection) if connection else b"HTTP/1.1 "

    async with wire(answers) as (_, upstream, url):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fetched(upstream, url), 0.1)
        assert await fetched(upstream, url) == b"1"


async def test_credentials_are_for_the_origin_of_the_index_alone(shelf: Shelf) -> None:
    url = shelf.put("/files/it", b"it")
    async with wire(lambda connection, asked: whole(b"ab")) as (served, _, elsewhere):
        options = msgspec.structs.replace(OPTIONS, auth=Credentials("joe", "secret"))
        upstream = Upstream("index", URL(shelf.url), options)
        assert await fetched(upstream, url) == b"it"
        assert await fetched(upstream, elsewhere.with_user("ann").with_password("known")) == b"ab"
        await upstream.close()
        assert shelf.requests[-1].headers["Authorization"].startswith("Basic ")
        assert b"uthorization" not in served.requests[0]
        assert b"known" not in served.requests[0]


async def test_a_proxy_is_what_the_usual_client_asks(shelf: Shelf) -> None:
    def answers(connection: int, asked: int) -> bytes:
        return whole(b"by proxy")

    async with wire(answers) as (served, _, url):
        upstream = Upstream(
            "index", URL("http://index.test/"), msgspec.structs.replace(OPTIONS, proxy=str(url.origin()))
        )
        assert await fetched(upstream, "http://index.test/it") == b"by proxy"
        assert served.requests[0].startswith(b"GET http://index.test/it ")
        await upstream.close()


async def safe(request: web.BaseRequest) -> web.Response:
    return web.Response(text="safe")


def noted(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The files whose authorities are loaded from now on."""
    original, made = ssl.create_default_context, list[object]()

    def making(cafile: Path | None) -> ssl.SSLContext:
        made.append(cafile)
        return original(cafile=cafile)

    monkeypatch.setattr("ssl.create_default_context", making)
    return made


async def test_tls_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with secure(authority, safe) as base:
        trusting = Upstream("index", URL(base), msgspec.structs.replace(OPTIONS, ca_file=tmp_path / "ca.pem"))
        strange = Upstream("index", URL(base), OPTIONS)
        mistaken = Upstream("index", URL(base), msgspec.structs.replace(OPTIONS, ca_file=tmp_path / "none.pem"))
        made = noted(monkeypatch)
        assert await asyncio.gather(*(fetched(trusting, f"{base}it") for _ in range(3))) == [b"safe"] * 3
        assert made == [tmp_path / "ca.pem"], "one context for all connections: each takes a while to load"
        with pytest.raises(UpstreamUnavailable, match="ca_file"):
            await fetched(strange, f"{base}it")
        with pytest.raises(ConfigError, match="ca_file"):
            await fetched(mistaken, f"{base}it")
        for upstream in (trusting, strange, mistaken):
            await upstream.close()


def test_it_works_on_the_loop_that_workers_have(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def go() -> Sequence[bytes]:
        async with (
            secure(authority, safe) as base,
            wire(lambda connection, asked: whole(b"%d" % asked)) as (_, plain, url),
        ):
            trusting = Upstream("index", URL(base), msgspec.structs.replace(OPTIONS, ca_file=tmp_path / "ca.pem"))
            found = [await fetched(one, at) for one, at in ((trusting, base), (plain, url), (plain, url))]
            await trusting.close()
            return found

    with asyncio.Runner(loop_factory=event_loops()) as runner:
        assert runner.run(go()) == [b"safe", b"0", b"1"]


async def test_a_connection_that_is_reset_is_no_answer() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.get_extra_info("socket").setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: close with a reset
        writer.close()

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    upstream = Upstream("index", URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"), OPTIONS)
    with pytest.raises(UpstreamUnavailable, match="hung up"):
        await fetched(upstream, upstream.url / "it")
    await upstream.close()
    server.close()
    await server.wait_closed()


async def test_nobody_at_home_is_said_as_the_usual_client_says_it() -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    url = URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    server.close()
    await server.wait_closed()
    upstream = Upstream("index", url, OPTIONS)
    with pytest.raises(UpstreamUnavailable, match="cannot be reached"):
        await fetched(upstream, url / "it")
    await upstream.close()
