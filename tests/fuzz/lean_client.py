"""Fuzzers of responses: no small client may see anything that the general client does not."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from mirror.airgap.sync.workers.client import SmallFileClient
from mirror.airgap.sync.workers.messages import WorkerUpstream
from mirror.errors import MirrorError
from mirror.upstream import ConnectionPool, Outgoing
from mirror.upstream.failures import InvalidResponse
from tests.fuzz.fuzzer import Check, Fuzzer
from tests.tcp import tcp_server

LIMIT_BYTES = 64 << 10

_SEEDS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nTrailer: a\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\nhello until the end",
    b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n",
    b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n',
)
_WORDS = (
    b"Content-Length: 5\r\n",
    b"Content-Length: 0005\r\n",
    b"Content-Length: +5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Connection: close\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"Upgrade: h2c\r\n",
    b"\r\n ",
    b"\n\n",
)


@asynccontextmanager
async def _serving() -> AsyncIterator[tuple[URL, Callable[[bytes], None]]]:
    """A server that sends the same bytes to each request, and what sets them."""
    sent = b""

    def answer(data: bytes) -> None:
        nonlocal sent
        sent = data

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        middle = len(sent) // 2  # in two parts, of which the second one may be nothing but a body
        writer.write(sent[:middle])
        await asyncio.sleep(0.001)
        writer.write(sent[middle:])
        await writer.drain()

    async with tcp_server(serve) as port:
        yield URL(f"http://127.0.0.1:{port}/file"), answer


@asynccontextmanager
async def _opened() -> AsyncIterator[Check]:
    async with _serving() as (url, answer):
        upstream = WorkerUpstream(
            url=str(url), authorization=None, user_agent="fuzz", ca_file=None, connect_timeout=5, read_timeout=5
        )

        async def check(data: bytes) -> bool:
            answer(data)
            client = SmallFileClient(upstream)
            try:
                lean = await client.get(url, LIMIT_BYTES)
            except MirrorError:
                return False  # it leaves the file to the ordinary client
            finally:
                client.close()
            assert len(lean.body) <= LIMIT_BYTES
            try:
                async with aiohttp.ClientSession(auto_decompress=False) as session, session.get(url) as response:
                    ordinary = await response.read()
            except aiohttp.ClientError:
                # What follows a whole response is an error to it; bodies are compared with their digests anyway.
                return True
            assert (lean.status, lean.body) == (response.status, ordinary)
            return True

        yield check


@asynccontextmanager
async def _pooled() -> AsyncIterator[Check]:
    async with _serving() as (url, answer):

        async def check(data: bytes) -> bool:
            answer(data)
            pool = ConnectionPool(Outgoing(url), "fuzz", 5)
            body = b""
            try:
                small = await pool.get(url, {})
                while chunk := await small.next_chunk():
                    body += chunk
                small.end()
            except (OSError, InvalidResponse):
                return False
            finally:
                pool.close()
            try:
                async with (
                    aiohttp.ClientSession(auto_decompress=False) as session,
                    session.get(url, allow_redirects=False) as response,
                ):
                    general = await response.read()
            except aiohttp.ClientError:
                return True  # as for the other one
            assert (small.status, body) == (response.status, general)
            assert _lines(small.headers) == _lines(response.headers)
            return True

        yield check


def _lines(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name.lower(), value) for name, value in headers.items()]


FUZZERS = (
    Fuzzer("lean-client", lambda: _SEEDS, _opened, _WORDS),
    Fuzzer("small-client", lambda: _SEEDS, _pooled, _WORDS),
)
