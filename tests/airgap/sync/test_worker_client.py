"""The HTTP client of the workers: which answers it reads, and which upstreams it leaves to the mirror."""

import asyncio
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from yarl import URL

from mirror.airgap.sync.workers.client import FAILURES_IN_A_ROW, SmallFileClient
from mirror.airgap.sync.workers.messages import WorkerUpstream
from mirror.errors import ConfigError, UpstreamProtocolError, UpstreamUnavailable
from mirror.runtime import event_loops
from tests.file_server import LAST_MODIFIED, FileServer, secure
from tests.simulator import Chunked, Cut, Status
from tests.simulator.wire import redirect
from tests.tcp import tcp_server


def reaching(
    url: str, read_timeout: float = 30, authorization: str | None = None, ca: Path | None = None
) -> SmallFileClient:
    """Return a client for an upstream."""
    return SmallFileClient(
        WorkerUpstream(
            url=url, authorization=authorization, user_agent="mirror", ca_file=str(ca) if ca else None,
            connect_timeout=30, read_timeout=read_timeout,
        )
    )  # fmt: skip


class Wire:
    """A server of fixed bytes: for each request on each connection, in turn."""

    def __init__(self, answers: Callable[[int, int], bytes | None], *, close: bool) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answers = answers
        self._close = close
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, asked = self.connections, 0
        self.connections += 1
        self._writers.append(writer)
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

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def wire(
    answers: Callable[[int, int], bytes | None], *, close: bool = False, read_timeout: float = 30
) -> AsyncIterator[tuple[Wire, SmallFileClient, URL]]:
    """Answer by the numbers of connection and request; None closes the connection, as `close` does after each."""
    served = Wire(answers, close=close)
    async with tcp_server(served.serve) as port:
        url = URL(f"http://127.0.0.1:{port}/")
        client = reaching(str(url), read_timeout)
        try:
            yield served, client, url / "it"
        finally:
            client.close()


def whole(body: bytes, head: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


@pytest.fixture
async def file_server() -> AsyncIterator[FileServer]:
    async with FileServer() as running:
        yield running


async def fetched(client: SmallFileClient, url: str | URL, size: int = 10_000) -> bytes:
    return (await client.get(URL(url), size)).body


async def test_files_come_with_their_dates_over_as_many_connections_as_callers() -> None:
    def answers(connection: int, asked: int) -> bytes:
        return whole(b"%d-%d" % (connection, asked), f"Last-Modified: {LAST_MODIFIED}\r\n")

    async with wire(answers) as (served, client, url):
        for asked in range(5):
            raw = await client.get(url / "a b", 100)
            assert (raw.status, raw.body, raw.headers["last-modified"]) == (200, b"0-%d" % asked, LAST_MODIFIED)
        assert served.connections == 1
        bodies = await asyncio.gather(*(fetched(client, url) for _ in range(3)))
        assert served.connections == 3
        assert sorted(bodies) == [b"0-5", b"1-0", b"2-0"]
    assert served.requests[0].splitlines() == [
        b"GET /it/a%20b HTTP/1.1", b"Host: " + (url.authority).encode(), b"User-Agent: mirror", b"Accept: */*",
        b"Accept-Encoding: identity", b"",
    ]  # fmt: skip


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
    async with wire(lambda connection, asked: answer) as (served, client, url):
        for _ in range(2):
            raw = await client.get(url, 100)
            assert raw.body == body
            assert "Link" not in raw.headers
        assert served.connections == 1


async def test_an_answer_in_several_packets_is_put_together(file_server: FileServer) -> None:
    url = file_server.put("/files/it", b"x" * 50_000)
    file_server.inject("/files/it", Chunked())
    client = reaching(file_server.url)
    assert await fetched(client, url, 50_000) == b"x" * 50_000
    client.close()


async def test_a_connection_that_is_not_to_be_kept_is_not_kept() -> None:
    async with wire(lambda connection, asked: whole(b"ab", "Connection: close\r\n"), close=True) as (
        served,
        client,
        url,
    ):
        for _ in range(3):
            assert await fetched(client, url) == b"ab"
        assert served.connections == 3
        assert all(b"Accept: */*\r\nAccept-Encoding: identity\r\n\r\n" in one for one in served.requests)


async def test_a_connection_that_is_closed_while_idle_is_replaced() -> None:
    async with wire(lambda connection, asked: None if connection == 0 and asked else whole(b"ab")) as (
        served,
        client,
        url,
    ):
        assert await fetched(client, url) == b"ab"
        assert await fetched(client, url) == b"ab"  # the request crosses the end of the connection
        assert served.connections == 2
        served.hang_up()
        await asyncio.sleep(0.05)
        assert await fetched(client, url) == b"ab"
        assert served.connections == 3


UNUSUAL = {
    "no length": b"HTTP/1.0 200 OK\r\n\r\nab",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nab",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("answer", UNUSUAL.values(), ids=UNUSUAL)
async def test_an_origin_that_keeps_answering_unusually_is_no_longer_asked(answer: bytes) -> None:
    async with wire(lambda connection, asked: answer, close=True) as (served, client, url):
        for _ in range(FAILURES_IN_A_ROW + 2):
            with pytest.raises(UpstreamUnavailable):
                await fetched(client, url)
        assert served.connections == FAILURES_IN_A_ROW


async def test_an_answer_ends_a_row_of_failures() -> None:
    def answers(connection: int, asked: int) -> bytes:
        return b"" if connection % FAILURES_IN_A_ROW else whole(b"ab")

    async with wire(answers, close=True) as (served, client, url):
        for number in range(3 * FAILURES_IN_A_ROW):
            if number % FAILURES_IN_A_ROW:
                with pytest.raises(UpstreamUnavailable):
                    await fetched(client, url)
            else:
                assert await fetched(client, url) == b"ab"
        assert served.connections == 3 * FAILURES_IN_A_ROW


@pytest.mark.parametrize(
    "extra", [whole(b"another"), b"\0", b"HTTP/1.1 200 OK\r\n"], ids=["an answer", "rubbish", "half a head"]
)
async def test_bytes_after_an_answer_are_discarded(extra: bytes) -> None:
    async with wire(lambda connection, asked: whole(b"first") + extra) as (served, client, url):
        for _ in range(3):
            assert await fetched(client, url) == b"first"
        assert served.connections == 3


@pytest.mark.parametrize(
    "answer",
    [
        whole(b"x" * 101),
        b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n" + b"x" * 200_000,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 101 + b"0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 999999999999\r\n\r\n" + b"x" * 200_000,
    ],
    ids=["a byte", "much", "in chunks", "an error"],
)
async def test_no_more_is_read_than_was_promised(answer: bytes) -> None:
    async with wire(lambda connection, asked: answer, close=True) as (_, client, url):
        with pytest.raises(UpstreamUnavailable, match="as expected"):
            await fetched(client, url, 100)


async def test_a_head_without_end_is_not_read_to_its_end() -> None:
    answer = b"HTTP/1.1 200 OK\r\n" + b"X-Much: of it\r\n" * 100_000
    async with wire(lambda connection, asked: answer) as (_, client, url):
        with pytest.raises(UpstreamUnavailable):
            await fetched(client, url)


async def test_statuses_other_than_200_are_errors(file_server: FileServer) -> None:
    url = file_server.put("/files/it", b"it")
    client = reaching(file_server.url)
    for _ in range(FAILURES_IN_A_ROW + 1):
        with pytest.raises(UpstreamUnavailable, match="answered 404"):
            await fetched(client, f"{file_server.url}nothing")
    assert await fetched(client, url) == b"it"
    file_server.inject("/files/it", Status(503))
    file_server.forget()
    for _ in range(FAILURES_IN_A_ROW + 1):
        with pytest.raises(UpstreamUnavailable):
            await fetched(client, url)
    assert file_server.count() == FAILURES_IN_A_ROW
    client.close()


async def test_redirects_are_followed(file_server: FileServer) -> None:
    file_server.put("/there", b"it")
    url = file_server.put("/files/it", redirect(f"{file_server.url}there"))
    around = file_server.put("/around", redirect(f"{file_server.url}around"))
    client = reaching(file_server.url)
    assert await fetched(client, url, 2) == b"it"
    assert file_server.count() == 2
    with pytest.raises(UpstreamProtocolError, match="too often"):
        await fetched(client, around)
    client.close()


async def test_a_file_that_is_cut_is_an_error(file_server: FileServer) -> None:
    url = file_server.put("/files/it", b"x" * 5000)
    file_server.inject("/files/it", Cut(100), times=1)
    client = reaching(file_server.url)
    with pytest.raises(UpstreamUnavailable):
        await fetched(client, url)
    assert await fetched(client, url) == b"x" * 5000
    client.close()


async def test_an_origin_that_falls_silent_is_no_longer_asked() -> None:
    def answers(connection: int, asked: int) -> bytes:
        return b"HTTP/1.1 200" if asked else whole(b"ab")

    async with wire(answers, read_timeout=0.2) as (served, client, url):
        assert await fetched(client, url) == b"ab"
        await asyncio.sleep(0.3)  # a silence before the request does not count
        began = time.monotonic()
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable):
                await fetched(client, url)
        assert 0.19 < time.monotonic() - began < 5
        assert served.connections == 1


async def test_a_caller_that_is_cancelled_leaves_no_answer_to_the_next() -> None:
    def answers(connection: int, asked: int) -> bytes:
        return whole(b"%d" % connection) if connection else b"HTTP/1.1 "

    async with wire(answers) as (_, client, url):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(fetched(client, url), 0.1)
        assert await fetched(client, url) == b"1"


async def test_credentials_are_for_the_origin_of_the_index_alone(file_server: FileServer) -> None:
    url = file_server.put("/files/it", b"it")
    async with wire(lambda connection, asked: whole(b"ab")) as (served, _, elsewhere):
        client = reaching(file_server.url, authorization="Basic secret")
        away = file_server.put("/files/away", redirect(str(elsewhere)))
        assert await fetched(client, url) == b"it"
        assert await fetched(client, away) == b"ab"
        assert await fetched(client, elsewhere.with_user("ann").with_password("known")) == b"ab"
        client.close()
        assert [request.headers["Authorization"] for request in file_server.requests] == ["Basic secret"] * 2
        assert b"uthorization" not in b"".join(served.requests)
        assert b"known" not in b"".join(served.requests)


async def safe(request: web.BaseRequest) -> web.Response:
    return web.Response(text="safe")


def loaded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Record the files whose authorities are loaded from now on."""
    original, made = ssl.create_default_context, list[object]()

    def making(cafile: str | None = None, capath: str | None = None) -> ssl.SSLContext:
        made.append(cafile)
        return original(cafile=cafile, capath=capath)

    monkeypatch.setattr("ssl.create_default_context", making)
    return made


async def test_tls_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    async with secure(authority, safe) as base:
        strange = reaching(base)
        made = loaded(monkeypatch)
        trusting = reaching(base, ca=tmp_path / "ca.pem")
        assert await asyncio.gather(*(fetched(trusting, f"{base}it") for _ in range(3))) == [b"safe"] * 3
        assert made == [str(tmp_path / "ca.pem")], "one context for all connections: each takes a while to load"
        with pytest.raises(UpstreamUnavailable):
            await fetched(strange, f"{base}it")
        with pytest.raises(ConfigError, match="ca_file: cannot be used"):
            reaching(base, ca=tmp_path / "none.pem")
        for client in (trusting, strange):
            client.close()


def test_it_works_on_the_event_loop_of_workers(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def go() -> Sequence[bytes]:
        async with (
            secure(authority, safe) as base,
            wire(lambda connection, asked: whole(b"%d" % asked)) as (_, plain, url),
        ):
            trusting = reaching(base, ca=tmp_path / "ca.pem")
            bodies = [await fetched(trusting, f"{base}it"), await fetched(plain, url), await fetched(plain, url)]
            trusting.close()
            return bodies

    with asyncio.Runner(loop_factory=event_loops()) as runner:
        assert runner.run(go()) == [b"safe", b"0", b"1"]


async def test_a_connection_that_is_reset_is_an_error() -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.get_extra_info("socket").setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: close with a reset

    async with tcp_server(reset) as port:
        url = f"http://127.0.0.1:{port}/"
        client = reaching(url)
        with pytest.raises(UpstreamUnavailable):
            await fetched(client, url)
        client.close()


async def test_a_port_without_a_server_is_an_error() -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    server.close()
    await server.wait_closed()
    client = reaching(url)
    with pytest.raises(UpstreamUnavailable):
        await fetched(client, url)
    client.close()
