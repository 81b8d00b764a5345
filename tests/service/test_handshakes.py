"""TLS handshakes that are not over: counted like connections, bounded in time, given up when the service stops."""

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
import trustme

from mirror.config import Settings
from mirror.server.connections import ConnectionLimits, Connections
from mirror.service import handshakes
from mirror.service.handshakes import Handshakes, SecureServer
from mirror.service.process import Service

WAIT = 30
SHARE = 4

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def service(tmp_path: Path, authority: trustme.CA) -> AsyncIterator[Service]:
    certificate = tmp_path / "pair.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(certificate)
    table = {
        "listen": ["127.0.0.1:0"],
        "data_dir": str(tmp_path / "data"),
        "repositories": {"pypi": {"format": "pypi"}},
        "log": {"access": False},
        "limits": {"connections": 4 * SHARE, "client_share": 0.25, "shutdown_grace": 1},
        "tls": {"certificate": str(certificate)},
    }
    service = Service(Settings.model_validate(table))
    await service.start()
    yield service
    await service.stop(politely=False)


async def connected(service: Service, number: int) -> list[Streams]:
    """Connections whose clients say nothing."""
    port = int(service.urls[0].rstrip("/").rpartition(":")[2])
    return [await asyncio.open_connection("127.0.0.1", port) for _ in range(number)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def status(service: Service, authority: trustme.CA) -> int:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(f"{service.urls[0]}health") as answer:
        return answer.status


async def closed(streams: Streams) -> bool:
    """Return whether the mirror closes a connection; False while it does not."""
    try:
        async with asyncio.timeout(0.2):
            return not await streams[0].read(1)
    except TimeoutError:
        return False
    except ConnectionError:
        return True


async def test_a_client_with_its_share_of_unfinished_handshakes_loses_one_for_each_new_connection(
    service: Service, authority: trustme.CA
) -> None:
    silent = await connected(service, SHARE)
    await until(lambda: len(service.connections) == SHARE)
    more = await connected(service, 1)
    assert [await closed(one) for one in silent + more] == [True, *[False] * SHARE]
    assert len(service.connections) == SHARE
    assert await status(service, authority) == 200
    assert service.connections.refused == 2
    for _, writer in silent + more:
        writer.close()
    await until(lambda: len(service.connections) == 0)


async def test_what_is_no_tls_gives_its_place_back(service: Service, authority: trustme.CA) -> None:
    for _ in range(2 * SHARE):
        (streams,) = await connected(service, 1)
        streams[1].write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(WAIT):
            await streams[0].read()
        streams[1].close()
    await until(lambda: len(service.connections) == 0)
    assert service.connections.refused == 0
    assert await status(service, authority) == 200


async def test_a_handshake_that_takes_too_long_is_given_up(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes, "HANDSHAKE_SECONDS", 0.05)
    (streams,) = await connected(service, 1)
    async with asyncio.timeout(WAIT):
        assert await streams[0].read() == b""
    await until(lambda: len(service.connections) == 0)
    streams[1].close()


async def test_stopping_gives_up_what_is_unfinished(service: Service) -> None:
    silent = await connected(service, SHARE)
    await until(lambda: len(service.connections) == SHARE)
    await service.stop(politely=False)
    assert all([await closed(one) for one in silent])
    await until(lambda: len(service.connections) == 0)
    for _, writer in silent:
        writer.close()


async def test_a_finished_handshake_counts_once(service: Service, authority: trustme.CA) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    streams = await connected(service, SHARE)
    for _, writer in streams:
        await writer.start_tls(context, server_hostname="127.0.0.1")
    assert len(service.connections) == SHARE
    assert service.connections.refused == 0
    for _, writer in streams:
        writer.close()
    await until(lambda: len(service.connections) == 0)


class FullOnce(socket.socket):
    """A listening socket for whose first connection there is no descriptor left."""

    failed = False

    def accept(self) -> tuple[socket.socket, object]:
        if not self.failed:
            self.failed = True
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_too_many_open_files_are_no_end_of_accepting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handshakes, "FULL_SECONDS", 0.05)
    connections = Connections(ConnectionLimits())
    under_way = Handshakes(connections, lambda address: address)
    listening = FullOnce()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = SecureServer(listening, under_way, lambda: context, lambda transport: transport.abort())
    _, writer = await asyncio.open_connection(*listening.getsockname())
    await until(lambda: len(connections) == 1)
    assert "no connection is accepted" in caplog.text
    server.close()
    under_way.close()
    await until(lambda: len(connections) == 0)
    writer.close()


class SilentClient:
    """A client that speaks TLS over a connection and never says that it ends."""

    def __init__(self, streams: Streams, authority: trustme.CA) -> None:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        self._reader, self._writer = streams
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._end = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")

    async def send(self, request: bytes, piece: int) -> None:
        """Shake hands and send a request, so many bytes at a time."""
        while True:
            try:
                self._end.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush(piece)
                self._incoming.write(await self._reader.read(1 << 16))
        self._end.write(request)
        await self._flush(piece)

    async def _flush(self, piece: int) -> None:
        content = self._outgoing.read()
        for start in range(0, len(content), piece):
            self._writer.write(content[start : start + piece])
            await self._writer.drain()
            await asyncio.sleep(0)

    async def received(self) -> tuple[bytes, bool]:
        """Return all that comes until the connection ends, and whether TLS was ended before (close_notify)."""
        async with asyncio.timeout(WAIT):
            self._incoming.write(await self._reader.read())
        received = b""
        try:
            while part := self._end.read(1 << 16):
                received += part
        except ssl.SSLWantReadError:
            return received, False
        return received, True

    def close(self) -> None:
        self._writer.close()


@pytest.mark.parametrize("piece", [1, 1 << 16], ids=["byte by byte", "at once"])
async def test_a_connection_ends_with_its_last_response_whatever_the_client_does(
    service: Service, authority: trustme.CA, piece: int
) -> None:
    (streams,) = await connected(service, 1)
    client = SilentClient(streams, authority)
    await client.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", piece)
    response, ended = await client.received()
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    assert response.endswith(b"\r\n\r\nok\n")
    assert ended, "a client could take what is cut off for the end"
    await until(lambda: len(service.connections) == 0)
    client.close()


async def test_a_refused_request_with_a_body_that_no_one_reads_is_answered(
    service: Service, authority: trustme.CA
) -> None:
    (streams,) = await connected(service, 1)
    client = SilentClient(streams, authority)
    head = b"POST /nowhere HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n"
    await client.send(head + b"x" * 100_000, 1 << 16)
    response, ended = await client.received()
    assert response.startswith(b"HTTP/1.1 404 Not Found\r\n"), response
    assert ended
    client.close()
