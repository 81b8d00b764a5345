"""The small client: how answers are read over connections that are kept, and what ends one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from yarl import URL

from mirror.errors import UpstreamProtocolError
from mirror.upstream import ConnectionPool, Outgoing
from mirror.upstream.connections import OVERHEAD_BYTES, PooledResponse
from mirror.upstream.failures import ConnectFailure, InvalidResponse
from mirror.upstream.outgoing import READ_AHEAD_BYTES
from tests.tcp import tcp_server

Serve = Callable[[asyncio.StreamWriter, int], Awaitable[None]]
"""Answers a request on a connection, whose number is given; the connection goes on afterwards."""


class Server:
    """Counts connections and requests, and answers as a test says."""

    def __init__(self, serve: Serve) -> None:
        self.connections = 0
        self.heads: list[bytes] = []
        self._serve = serve

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        while True:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            await self._serve(writer, number)
            await writer.drain()


@asynccontextmanager
async def pool(serve: Serve, read_timeout: float = 30) -> AsyncIterator[tuple[Server, ConnectionPool, URL]]:
    served = Server(serve)
    async with tcp_server(served.answer) as port:
        url = URL(f"http://127.0.0.1:{port}/it")
        made = ConnectionPool(Outgoing(url), "mirror", read_timeout)
        try:
            yield served, made, url
        finally:
            made.close()


def writing(content: bytes) -> Serve:
    async def serve(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(content)

    return serve


async def body(response: PooledResponse) -> bytes:
    content = b""
    while chunk := await response.next_chunk():
        content += chunk
    return content


def whole(content: bytes, head: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n{head}\r\n".encode() + content


async def test_a_connection_is_used_again_when_all_of_an_answer_has_come() -> None:
    async with pool(writing(whole(b"page"))) as (server, client, url):
        for _ in range(3):
            response = await client.get(url, {"Accept-Encoding": "identity"})
            assert (response.status, response.content_length, await body(response)) == (200, 4, b"page")
            response.end()
        assert server.connections == 1
        response = await client.get(url, {})
        response.end(connection=True)
        (await client.get(url, {})).end()
        assert server.connections == 2
    assert server.heads[0].split(b"\r\n") == [
        b"GET /it HTTP/1.1", f"Host: {url.authority}".encode(), b"User-Agent: mirror", b"Accept: */*",
        b"Accept-Encoding: identity", b"", b"",
    ]  # fmt: skip


async def test_a_connection_whose_answer_is_left_early_is_closed() -> None:
    async def serve(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")

    async with pool(serve) as (server, client, url):
        for _ in range(2):
            response = await client.get(url, {})
            assert await response.next_chunk() == b"half"
            response.end()
        assert server.connections == 2


async def test_no_more_is_read_ahead_than_a_bound_and_a_slow_reader_is_no_silence() -> None:
    content = bytes(8 * READ_AHEAD_BYTES)
    async with pool(writing(whole(content)), read_timeout=0.2) as (_, client, url):
        response = await client.get(url, {})
        await asyncio.sleep(0.5)
        assert 0 < sum(map(len, response._chunks)) <= 2 * READ_AHEAD_BYTES
        assert await body(response) == content
        response.end()


@pytest.mark.parametrize(("surplus", "connections"), [(b"", 1), (b"HTTP/1.1 204 No Content\r\n\r\n", 2)])
async def test_a_body_that_comes_behind_its_head_is_whole_and_more_than_that_ends_the_connection(
    surplus: bytes, connections: int
) -> None:
    head_is_read = asyncio.Event()

    async def serve(writer: asyncio.StreamWriter, number: int) -> None:
        head_is_read.clear()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        await head_is_read.wait()
        writer.write(bytes(1000) + surplus)

    async with pool(serve) as (server, client, url):
        for _ in range(2):
            response = await client.get(url, {})
            head_is_read.set()
            assert await body(response) == bytes(1000)
            response.end()
        assert server.connections == connections


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"])
async def test_a_silence_and_an_early_end_are_errors(start: bytes) -> None:
    async def serve(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(start)
        if number:
            writer.close()

    async with pool(serve, read_timeout=0.1) as (_, client, url):
        for expected in (TimeoutError, ConnectionError):
            with pytest.raises(expected):
                await body(await client.get(url, {}))


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async def serve(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        writer.close()

    async with pool(serve) as (_, client, url):
        response = await client.get(url, {})
        assert (response.content_length, await body(response)) == (None, b"until the end")
        response.end()


async def test_early_hints_and_trailers_are_no_headers_of_the_answer() -> None:
    answer = (
        b"HTTP/1.1 103 Early Hints\r\nETag: early\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"4;x=y\r\npage\r\n0\r\nETag: late\r\n\r\n"
    )
    async with pool(writing(answer)) as (server, client, url):
        for _ in range(2):
            response = await client.get(url, {})
            assert await body(response) == b"page"
            assert list(response.headers) == ["Transfer-Encoding"]
            response.end()
        assert server.connections == 1


NO_HTTP = {
    "another protocol": b"SSH-2.0-OpenSSH\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nab",
    "a length of chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nab",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"X-Much: of it\r\n" * 20_000,
    "a null byte": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("answer", NO_HTTP.values(), ids=NO_HTTP)
async def test_what_is_not_http_is_told_from_what_breaks_off(answer: bytes) -> None:
    async with pool(writing(answer)) as (_, client, url):
        with pytest.raises(InvalidResponse):
            await client.get(url, {})


async def test_what_surrounds_chunks_has_a_bound() -> None:
    extension = b";x=" + b"y" * 1000
    chunks = (b"1" + extension + b"\r\nx\r\n") * (2 * OVERHEAD_BYTES // 1000)
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
    async with pool(writing(answer)) as (_, client, url):
        with pytest.raises(ConnectionError):
            await body(await client.get(url, {}))


@pytest.mark.parametrize("extra", [whole(b"another"), b"\0", b"HTTP/1.1 200 OK\r\n"])
async def test_bytes_after_an_answer_never_become_the_next_one(extra: bytes) -> None:
    async with pool(writing(whole(b"first") + extra)) as (server, client, url):
        for _ in range(3):
            response = await client.get(url, {})
            assert await body(response) == b"first"
            response.end()
        assert server.connections == 3


async def test_a_request_that_crosses_the_end_of_an_idle_connection_is_sent_again() -> None:
    async def serve(writer: asyncio.StreamWriter, number: int) -> None:
        if number == 0 and len(server.heads) > 1:
            writer.close()
        else:
            writer.write(whole(b"page"))

    async with pool(serve) as (server, client, url):
        for _ in range(2):
            response = await client.get(url, {})
            assert await body(response) == b"page"
            response.end()
        assert server.connections == 2
        assert len(server.heads) == 3


async def test_closing_breaks_off_what_is_being_read() -> None:
    async def serve(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")

    async with pool(serve) as (_, client, url):
        response = await client.get(url, {})
        reading = asyncio.create_task(body(response))
        await asyncio.sleep(0)
        client.close()
        with pytest.raises(ConnectionError):
            await reading


async def test_a_caller_that_is_cancelled_leaves_no_answer_to_the_next() -> None:
    async def serve(writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(whole(b"%d" % number) if number else b"HTTP/1.1 ")

    async with pool(serve) as (_, client, url):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.get(url, {}), 0.1)
        assert await body(await client.get(url, {})) == b"1"


async def test_a_header_with_a_line_break_is_not_sent() -> None:
    async with pool(writing(whole(b""))) as (server, client, url):
        for value in ("a\r\nX: b", "a\nb", "a\0"):
            with pytest.raises(UpstreamProtocolError, match="line break"):
                await client.get(url, {"If-None-Match": value})
        assert server.heads == []


async def test_a_port_without_a_server_is_named_without_its_address() -> None:
    async with pool(writing(b"")) as (_, client, url):
        pass
    with pytest.raises(ConnectFailure, match=r"^Connection refused$"):
        await client.get(url, {})
