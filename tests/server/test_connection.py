"""Connections: how many there may be, and when slow clients are closed."""

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from mirror.runtime import affordable_connections
from mirror.server.connections import ConnectionLimits, Connections, Standing
from mirror.server.proxies import TrustedProxies
from tests.builders import wheel
from tests.objects import local_files
from tests.serving import Serving, repositories, serving
from tests.simulator import Simulator

WAIT = 30


class FakeConnection:
    """A connection whose state a test sets."""

    def __init__(self) -> None:
        self.used = False
        self.network = ""
        self.slow = ""
        self.state = Standing.IDLE
        self.aborted = False

    def stall_reason(self, now: float) -> str:
        return self.slow

    def standing(self) -> Standing:
        return self.state

    def close_if_idle(self, before: float) -> None:
        return

    def abort(self) -> None:
        self.aborted = True


def opened(number: int, limit: int) -> tuple[Connections, list[FakeConnection]]:
    connections = Connections(ConnectionLimits(connections=limit), lambda: 0.0)
    fakes = [FakeConnection() for _ in range(number)]
    for fake in fakes:
        assert connections.add(fake)
    return connections, fakes


def test_the_connection_that_is_idle_longest_makes_room() -> None:
    connections, fakes = opened(3, 3)
    connections.idle.pop(fakes[0])
    connections.idle[fakes[0]] = None  # so it has been idle for the shortest time
    assert connections.add(FakeConnection())
    assert [fake.aborted for fake in fakes] == [False, True, False]
    assert len(connections) == 3


def test_one_that_was_used_for_replays_gets_a_second_chance() -> None:
    connections, fakes = opened(3, 3)
    fakes[0].used = True
    assert connections.add(FakeConnection())
    assert [fake.aborted for fake in fakes] == [False, True, False]
    assert not fakes[0].used


def test_no_connection_with_a_running_request_is_closed() -> None:
    connections, fakes = opened(2, 2)
    for fake in fakes:
        connections.idle.pop(fake)
    assert not connections.add(FakeConnection())
    assert not any(fake.aborted for fake in fakes)
    assert connections.refused == 1


def test_ten_thousand_new_connections_in_a_row_are_cheap_to_make_room_for() -> None:
    connections, fakes = opened(1000, 1000)
    for fake in fakes:
        fake.used = True
    for _ in range(10_000):
        assert connections.add(FakeConnection())
    assert len(connections) == 1000


def test_a_slow_client_is_closed_at_the_next_look() -> None:
    connections, fakes = opened(3, 10)
    fakes[1].slow = "too slow"
    connections.close_slow()
    assert [fake.aborted for fake in fakes] == [False, True, False]
    assert len(connections) == 2


@pytest.mark.parametrize(
    ("wanted", "files", "expected"), [(20_000, 65_536, 20_000), (20_000, 20_000, 14_808), (20_000, 64, 16)]
)
def test_there_are_as_many_connections_as_open_files_bear(wanted: int, files: int, expected: int) -> None:
    assert affordable_connections(wanted, files) == expected


def of_client(network: str, *states: Standing) -> list[FakeConnection]:
    fakes = [FakeConnection() for _ in states]
    for fake, fake.state in zip(fakes, states, strict=True):
        fake.network = network
    return fakes


@pytest.mark.parametrize(
    ("states", "spared"),
    [
        ((Standing.SERVED, Standing.IDLE, Standing.SENDING, Standing.WAITING), 1),
        ((Standing.SERVED, Standing.WAITING, Standing.SENDING, Standing.WAITING), 2),
        ((Standing.SERVED, Standing.SERVED, Standing.WAITING, Standing.WAITING), 2),
        ((Standing.SERVED, Standing.SERVED, Standing.SERVED, Standing.SERVED), None),
    ],
)
def test_a_client_with_its_share_gives_up_what_is_least_to_lose(
    states: tuple[Standing, ...], spared: int | None
) -> None:
    connections = Connections(ConnectionLimits(connections=10, client_connections=4), lambda: 0.0)
    theirs, others = of_client("a", *states), of_client("b", *states)
    assert all(connections.add(one) for one in (*others, *theirs))
    assert connections.add(of_client("a", Standing.IDLE)[0]) == (spared is not None)
    assert [fake.aborted for fake in theirs] == [number == spared for number in range(4)]
    assert not any(fake.aborted for fake in others)
    assert len(connections) == 8


def test_places_that_were_given_back_count_no_longer() -> None:
    connections = Connections(ConnectionLimits(connections=10, client_connections=2), lambda: 0.0)
    for _ in range(20):
        (one,) = of_client("a", Standing.SERVED)
        assert connections.add(one)
        connections.remove(one)


def test_a_trusted_proxy_may_have_all_places() -> None:
    connections = Connections(ConnectionLimits(connections=10, client_connections=2), lambda: 0.0)
    assert all(connections.add(one) for one in of_client("", *[Standing.SERVED] * 10))
    assert len(connections) == 10
    assert TrustedProxies(["10.0.0.0/8"]).client_of("10.1.2.3") == ""
    assert TrustedProxies(["10.0.0.0/8"]).client_of("192.0.2.1") == "192.0.2.1"
    assert TrustedProxies([]).client_of("") == "unix"


def test_a_flood_of_one_client_costs_the_same_for_each_connection() -> None:
    connections = Connections(ConnectionLimits(connections=20_000, client_connections=5_000), lambda: 0.0)
    for one in of_client("a", *[Standing.SENDING] * 20_000):
        assert connections.add(one)
    assert len(connections) == 5_000


# On the wire


FIRST_BYTES = {
    "idle": b"",
    "half a head": b"GET / HTTP/1.1\r\nX: ",
    "half a body": b"POST /legacy/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n--x\r\n",
    "long poll": b"GET /-/feed?since=newest&wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "websocket": b"GET /-/feed?since=newest HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
}


@pytest.mark.parametrize("first", FIRST_BYTES.values(), ids=FIRST_BYTES)
async def test_a_client_that_holds_its_share_loses_its_own_connections(
    first: bytes, tmp_path: Path, simulator: Simulator
) -> None:
    some = limits(connections=80, client_share=0.5)
    async with serving(tmp_path / "data", repositories(simulator), **some) as mirror:
        held = []
        for _ in range(90):
            held.append(await connect(mirror))
            held[-1][1].write(first)
        async with asyncio.timeout(WAIT):  # some of them may only be about to wait
            while (await mirror.get("health")).status != 200:
                pass
        for _ in range(3):
            assert (await mirror.get("health")).status == 200
        for _, writer in held:
            writer.close()


async def connect(mirror: Serving) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    url = URL(mirror.url)
    return await asyncio.open_connection(url.host, url.port)


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the mirror closes the connection."""
    try:
        return await asyncio.wait_for(reader.read(), WAIT)
    except ConnectionError:
        return b""


def limits(**changes: Any) -> dict[str, Any]:
    return {"limits": {"shutdown_grace": 2} | changes}


async def test_a_new_client_is_served_when_idle_ones_have_taken_all_places(
    tmp_path: Path, simulator: Simulator
) -> None:
    async with serving(
        tmp_path / "data", repositories(simulator), **limits(connections=16, client_share=1.0)
    ) as mirror:
        idle = [await connect(mirror) for _ in range(40)]
        assert (await mirror.get("health")).status == 200
        assert "mirror_client_connections 16.0" in (await mirror.get("metrics")).text
        for _, writer in idle:
            writer.close()


async def test_a_head_that_never_ends_is_given_up(tmp_path: Path, simulator: Simulator) -> None:
    async with serving(tmp_path / "data", repositories(simulator), **limits(head_time=0.3)) as mirror:
        reader, writer = await connect(mirror)
        fast_reader, fast_writer = await connect(mirror)
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")

        async def drip() -> None:
            while True:
                writer.write(b"X: y\r\n")
                await asyncio.sleep(0.1)

        dripping = asyncio.create_task(drip())
        assert await end_of(reader) == b""
        dripping.cancel()
        # a client that sent a whole request meanwhile is not closed
        fast_writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await fast_reader.readline()).startswith(b"HTTP/1.1 200")
        for one in (writer, fast_writer):
            one.close()


async def test_a_body_that_does_not_come_is_given_up(tmp_path: Path, simulator: Simulator) -> None:
    auth = {"rules": [{"upload": ["everyone"]}]}
    async with serving(tmp_path / "data", repositories(simulator), auth=auth, **limits(stall=0.3)) as mirror:
        reader, writer = await connect(mirror)
        writer.write(
            b"POST /legacy/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        assert b"200 OK" not in await end_of(reader)
        writer.close()
        assert list((local_files(tmp_path / "data") / "incoming").iterdir()) == []


async def test_a_response_that_is_not_read_is_given_up(tmp_path: Path, simulator: Simulator) -> None:
    large = wheel("large", "1.0", size=8_000_000)
    simulator.publish(large)
    path = f"packages/large/{large.filename}"
    async with serving(tmp_path / "data", repositories(simulator), **limits(stall=0.5)) as mirror:
        reader, writer = await connect(mirror)
        writer.write(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        connections = mirror.mirror.state.connections
        async with asyncio.timeout(WAIT):
            while connections() != 0:  # noqa: ASYNC110  # nothing tells of it
                await asyncio.sleep(0.1)
        writer.close()
        assert (await mirror.get(path)).body == large.content
        del reader


@pytest.mark.parametrize("how", ["one line", "many lines", "in steps", "names"])
async def test_headers_beyond_the_limit_are_refused(tmp_path: Path, simulator: Simulator, how: str) -> None:
    async with serving(tmp_path / "data", repositories(simulator), **limits(headers=8192)) as mirror:
        reader, writer = await connect(mirror)
        head = {
            "one line": b"X: " + b"y" * 9000 + b"\r\n",
            "many lines": b"".join(b"X-%d: %b\r\n" % (number, b"y" * 100) for number in range(100)),
            "in steps": b"X: " + b"y" * 9000 + b"\r\n",
            "names": b"".join(b"%b-%d: y\r\n" % (b"y" * 100, number) for number in range(100)),
        }[how]
        whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n"
        step = 1000 if how == "in steps" else len(whole)
        for start in range(0, len(whole), step):
            writer.write(whole[start : start + step])
            await asyncio.sleep(0.01 if how == "in steps" else 0)
        assert (await end_of(reader)).split()[1] in (b"431", b"400")
        writer.close()
        assert (await mirror.get("health")).status == 200


@pytest.mark.parametrize("pause", [0, 0.005], ids=["in one go", "slowly"])
async def test_a_client_that_is_refused_while_still_sending_learns_why_and_may_ask_again(
    tmp_path: Path, simulator: Simulator, pause: float
) -> None:
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        reader, writer = await connect(mirror)
        for _ in range(2):
            writer.write(b"POST /legacy/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n")
            for _ in range(60):
                writer.write(b"x" * 50_000)
                await writer.drain()
                await asyncio.sleep(pause)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT)
            assert head.split()[1] in (b"400", b"401")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT)).split()[1] == b"200"
        writer.close()


async def test_a_flood_that_never_becomes_a_request_takes_no_memory(tmp_path: Path, simulator: Simulator) -> None:
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        reader, writer = await connect(mirror)
        sent = 0
        try:
            writer.write(b"GET / HTTP/1.1\r\n")
            while sent < 50_000_000 and not reader.at_eof():
                writer.write(b"A: b\r\n" * 1000)
                sent += 6000
                await writer.drain()
        except ConnectionError:
            pass
        assert sent < 50_000_000
        writer.close()


async def test_large_bodies_are_not_taken_for_headers(tmp_path: Path, simulator: Simulator) -> None:
    async with serving(tmp_path / "data", repositories(simulator), **limits(headers=8192)) as mirror:
        for _ in range(3):
            response = await mirror.ask("POST", "legacy/", data=io.BytesIO(b"x" * 3_000_000))
            assert response.status in (400, 401), response.text
        # after a body, on the same connection, heads count anew
        response = await mirror.get("health", X="y" * 5000)
        assert response.status == 200


async def test_slow_readers_of_a_large_page_share_its_bytes(tmp_path: Path, simulator: Simulator) -> None:
    """What is buffered for each of them is a chunk, not a copy."""
    for number in range(300):
        simulator.publish(wheel("many", f"1.{number}"))
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        whole = (await mirror.get("simple/many/", Accept_Encoding="identity")).body
        assert len(whole) > 50_000
        readers = [await connect(mirror) for _ in range(5)]
        for _, writer in readers:
            writer.write(b"GET /simple/many/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        for reader, writer in readers:
            assert (await end_of(reader)).endswith(whole)
            writer.close()


async def test_a_connection_that_closes_announces_it(tmp_path: Path, simulator: Simulator) -> None:
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        response = await mirror.get("health", Connection="close")
        assert response.headers["Connection"] == "close"
