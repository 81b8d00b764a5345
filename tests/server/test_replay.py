"""Replays: repeated requests are answered without parsing, and no client can tell the difference."""

import asyncio
import weakref
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime

import pytest
from aiohttp import web

from mirror.index.cache import ENTRY_BYTES, MemoryBudget, Validity
from mirror.server.connection import ConnectionGroup, ConnectionProtocol
from mirror.server.connections import ConnectionLimits, Connections
from mirror.server.drain import ConnectionRunner
from mirror.server.facts import RequestFacts, ResponseRecord
from mirror.server.replay import REPLAY_BYTES, Replay, ReplayCache, SharedBytes
from mirror.server.respond import PreparedResponse, make_head
from mirror.telemetry.metrics import Metrics, Observer

REQUEST = b"GET /page HTTP/1.1\r\nHost: mirror.example\r\n\r\n"


class Site:
    """A server whose one page contains how often its handler ran."""

    def __init__(self) -> None:
        self.handled = 0
        self.validity = Validity(2000.0)
        self.now = 1000.0
        self.records: list[ResponseRecord] = []
        self.group: ConnectionGroup
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.handled += 1
        body = b"%d" % self.handled
        head = make_head(200, [("Content-Length", str(len(body))), ("X-Mirror-Cache", "hit")])
        return PreparedResponse(200, head, (body,), self.validity)

    async def talk(self, *parts: bytes) -> list[bytes]:
        """Send each part on one connection and wait for the body of one response after each."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        bodies = [await self.ask(reader, writer, part) for part in parts]
        writer.close()
        await writer.wait_closed()
        return bodies

    async def ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, part: bytes) -> bytes:
        writer.write(part)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        date = next(line for line in head.split(b"\r\n") if line.startswith(b"Date: "))
        assert parsedate_to_datetime(date[6:].decode())
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        return await reader.readexactly(length)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", site.handle)
    connections = Connections(ConnectionLimits())
    replays = ReplayCache(MemoryBudget(1 << 20), lambda: site.now)
    group = ConnectionGroup(connections, replays, 75, site.records.extend)
    runner = ConnectionRunner(app, group, access_log_class=group.access_logger())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    site.group = group
    site.port = runner.addresses[0][1]
    yield site
    await runner.cleanup()


async def test_a_repeated_request_does_not_reach_the_handler(site: Site) -> None:
    assert await site.talk(REQUEST, REQUEST, REQUEST) == [b"1", b"1", b"1"]
    assert site.handled == 1
    site.group.process_records()
    assert [(record.facts.path, record.sent) for record in site.records] == [("/page", 1)] * 3


async def test_responses_are_recorded_in_batches(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.server.connection.RECORD_SECONDS", 60.0)
    monkeypatch.setattr("mirror.server.connection.RECORDS_AT_ONCE", 3)
    await site.talk(REQUEST, REQUEST)
    await asyncio.sleep(0.05)
    assert site.records == []
    await site.talk(REQUEST)
    await asyncio.sleep(0.05)
    assert len(site.records) == 3


async def test_counts_are_read_with_what_waits_to_be_counted(site: Site) -> None:
    metrics = Metrics()
    site.group._process = Observer(None, metrics).process
    metrics.uncounted.append(site.group.process_records)
    await site.talk(REQUEST, REQUEST)
    assert metrics.totals()[""].requests == 2


async def test_another_connection_joins_after_its_first_request(site: Site) -> None:
    await site.talk(REQUEST)
    # aiohttp has to have seen a connection once, for its timers to run
    assert await site.talk(REQUEST, REQUEST) == [b"2", b"2"]


async def test_other_bytes_are_another_request(site: Site) -> None:
    other = REQUEST.replace(b"Host", b"Accept: text/html\r\nHost")
    assert await site.talk(REQUEST, other, REQUEST, other) == [b"1", b"2", b"1", b"2"]


async def test_a_response_that_is_no_longer_valid_is_made_again(site: Site) -> None:
    assert await site.talk(REQUEST, REQUEST) == [b"1", b"1"]
    site.validity.live = False
    site.validity = Validity(2000.0)
    assert await site.talk(REQUEST, REQUEST) == [b"2", b"2"]


async def test_a_replay_ends_when_its_validity_does(site: Site) -> None:
    site.validity.until = 1010.0
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    assert await site.ask(reader, writer, REQUEST) == b"1"
    site.now = 1009.9
    assert await site.ask(reader, writer, REQUEST) == b"1"
    site.now = 1010.0
    assert await site.ask(reader, writer, REQUEST) == b"2"
    writer.close()


@pytest.mark.parametrize("header", [b"Authorization: Basic eDp5", b"Cookie: a=b", b"Content-Length: 0"])
async def test_requests_with_credentials_or_bodies_are_always_parsed(site: Site, header: bytes) -> None:
    request = REQUEST.replace(b"Host", header + b"\r\nHost")
    assert await site.talk(request, request, REQUEST, REQUEST) == [b"1", b"2", b"3", b"4"]


async def test_aiohttp_sees_a_request_of_each_connection_now_and_then(site: Site) -> None:
    site.validity.until = 10_000.0
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    for now, body in ((1000.0, b"1"), (1037.0, b"1"), (1038.0, b"2"), (1075.0, b"2"), (1076.0, b"3")):
        site.now = now
        assert await site.ask(reader, writer, REQUEST) == body
    writer.close()


async def test_a_request_in_two_parts_is_understood_and_ends_replaying(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    assert await site.ask(reader, writer, REQUEST) == b"1"
    writer.write(REQUEST[:10])
    await asyncio.sleep(0.05)
    assert await site.ask(reader, writer, REQUEST[10:]) == b"2"
    assert await site.ask(reader, writer, REQUEST) == b"3"
    writer.close()


async def test_bytes_of_a_known_request_inside_another_are_not_taken_for_it(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    assert await site.ask(reader, writer, REQUEST) == b"1"
    # a body that is, byte for byte, a request which has been answered before
    writer.write(b"POST /page HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(REQUEST))
    await asyncio.sleep(0.05)
    writer.write(REQUEST)
    assert await site.ask(reader, writer, b"") == b"2"
    site.group.process_records()
    assert [record.seconds > 0 for record in site.records] == [True, True]
    writer.close()


async def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    assert await site.ask(reader, writer, REQUEST) == b"1"
    writer.write(REQUEST.replace(b"page", b"else") + REQUEST)
    assert [await site.ask(reader, writer, b""), await site.ask(reader, writer, b"")] == [b"2", b"3"]
    writer.close()


def response(body: bytes) -> Replay:
    return Replay(Validity(1.0), 200, b"", len(body), RequestFacts(), body)


def keep(replays: ReplayCache, request: bytes, replay: Replay) -> None:
    """Keep a replay as a connection does that has seen its request."""
    group = ConnectionGroup(Connections(ConnectionLimits()), replays, 75, lambda records: None)
    connection = ConnectionProtocol(asyncio.Protocol(), group)
    connection._request = request
    connection.remember(replay)


def test_replays_are_bounded_by_the_budget() -> None:
    budget = MemoryBudget(30_000)
    replays = ReplayCache(budget, lambda: 0.0)
    for number in range(100):
        keep(replays, b"%d" % number, response(b"x" * 1000))
    assert replays.get(b"0") is None
    assert replays.get(b"99") is not None
    assert budget.weight <= 30_000


def test_the_path_and_the_agent_of_a_replay_are_counted() -> None:
    budget = MemoryBudget(30_000)
    facts = RequestFacts(path="/" + "x" * 3000, agent="pip" * 10)
    replay = Replay(Validity(1.0), 200, b"", 0, facts)
    keep(ReplayCache(budget, lambda: 0.0), b"a", replay)
    assert budget.weight == ENTRY_BYTES + REPLAY_BYTES + 1 + 3001 + 30


def test_a_response_that_is_replaced_is_counted_once() -> None:
    budget = MemoryBudget(30_000)
    replays = ReplayCache(budget, lambda: 0.0)
    for _ in range(3):
        keep(replays, b"a", response(b"x" * 1000))
    assert budget.weight == ENTRY_BYTES + REPLAY_BYTES + 1 + 1000


def test_a_body_that_a_cache_keeps_is_counted_there_and_the_replay_ends_with_it() -> None:
    budget = MemoryBudget(30_000)
    replays = ReplayCache(budget, lambda: 0.0)
    page = SharedBytes(b"x" * 100_000)
    for agent in range(3):
        shared = Replay(Validity(1.0), 200, b"", 100_000, RequestFacts(), shared=weakref.ref(page))
        keep(replays, b"%d" % agent, shared)
    assert budget.weight == 3 * (ENTRY_BYTES + REPLAY_BYTES + 1)
    replay = replays.peek(b"0")
    assert replay is not None
    assert replay.shared is not None
    assert replay.shared() is page
    del page
    assert replay.shared() is None
