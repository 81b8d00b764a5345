"""Replays: repeated requests are answered without parsing, and no client can tell the difference."""

import asyncio
import os
import re
import weakref
import zlib
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from aiohttp import web

from mirror.index.cache import ENTRY_BYTES, MemoryBudget, Validity
from mirror.server import connection
from mirror.server.connection import ConnectionProtocol, read_head
from mirror.server.connections import ConnectionLimits, Connections
from mirror.server.drain import ConnectionRunner
from mirror.server.facts import RequestFacts, ResponseRecord, facts_of
from mirror.server.group import ConnectionGroup
from mirror.server.proxies import TrustedProxies
from mirror.server.replay import (
    IGNORED,
    READ_BYTES,
    REPLAY_BYTES,
    STORED_REPLAY_BYTES,
    Replay,
    ReplayCache,
    RequestHead,
    SharedBytes,
    credentials_in,
)
from mirror.server.respond import PreparedResponse, make_head
from mirror.server.segments import Segment, StoredPart
from mirror.telemetry.metrics import Metrics, Observer

PROXIES = TrustedProxies(["127.0.0.1"])
PACKAGE = Path(__file__).parents[2] / "mirror"
REQUEST = b"GET /page HTTP/1.1\r\nHost: mirror.example\r\n\r\n"


class Site:
    """A server whose one page contains how often its handler ran."""

    def __init__(self) -> None:
        self.handled = 0
        self.validity = Validity(2000.0)
        self.now = 1000.0
        self.records: list[ResponseRecord] = []
        self.rights: dict[bytes, int] = {}
        self.private = False
        self.group: ConnectionGroup
        self.port = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.handled += 1
        facts = facts_of(request)
        if self.private:
            facts.private = True
            presented = request.headers.get("Authorization") or request.cookies.get("mirror-session", "")
            facts.rights = self.rights.get(presented.encode(), 0)
        if PROXIES.trusts(facts.client):
            PROXIES.read_headers(request, facts)
        body = b"%d" % self.handled
        head = make_head(200, [("Content-Length", str(len(body))), ("X-Mirror-Cache", "hit")])
        return PreparedResponse(200, head, (body,), self.validity)

    def noted(self) -> list[ResponseRecord]:
        """All records so far."""
        self.group.process_records()
        return self.records

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
    group = ConnectionGroup(
        connections, replays, site.records.extend, proxies=PROXIES,
        rights=lambda credentials: site.rights.get(credentials.partition(b" ")[2], 0),
    )  # fmt: skip
    runner = ConnectionRunner(app, group)
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


async def test_another_connection_joins_with_its_first_request(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.talk(REQUEST)

    def unexpected(connection: ConnectionProtocol) -> None:
        raise AssertionError("aiohttp has nothing to do")

    monkeypatch.setattr(ConnectionProtocol, "_aiohttp", unexpected)
    assert await site.talk(REQUEST, REQUEST) == [b"1", b"1"]


def with_headers(*lines: bytes) -> bytes:
    return REQUEST.replace(b"\r\n\r\n", b"".join(b"\r\n" + line for line in lines) + b"\r\n\r\n")


async def test_clients_that_ask_for_the_same_share_a_response_and_the_log_names_each(site: Site) -> None:
    asked = [with_headers(b"User-Agent: pip/%d" % number, b"X-Real-IP: 192.0.2.%d" % number) for number in range(5)]
    assert await site.talk(*asked, *asked) == [b"1"] * 10
    assert [record.agent for record in site.noted()] == [f"pip/{number}" for number in range(5)] * 2


async def test_spelling_does_not_matter(site: Site) -> None:
    assert await site.talk(
        with_headers(b"Accept: text/html", b"Connection: keep-alive"),
        with_headers(b"ACCEPT:text/html"),
        with_headers(b"accept:  text/html  ", b"Keep-Alive: 30"),
    ) == [b"1", b"1", b"1"]


async def test_the_order_of_headers_does_not_matter(site: Site) -> None:
    lines = b"Accept: text/html", b"Accept-Encoding: gzip"
    assert await site.talk(with_headers(*lines), with_headers(*reversed(lines))) == [b"1", b"1"]


@pytest.mark.parametrize(
    "line",
    [
        b"Accept: text/html", b"Accept-Encoding: gzip", b'If-None-Match: "x"', b"Range: bytes=0-1", b"If-Range: x",
        b"Cache-Control: no-cache", b"Pragma: no-cache", b"Origin: http://localhost", b"Sec-Fetch-Site: none",
        b"If-Modified-Since: Tue, 05 May 2026 10:00:00 GMT", b"X-Something: else", b"Accept-Language: de",
        b"X-Forwarded-Host: other.example", b"X-Forwarded-Proto: https", b"X-Forwarded-Prefix: /python",
        b"Forwarded: host=other.example",
    ],
)  # fmt: skip
async def test_on_what_a_response_may_depend_it_is_another_request(site: Site, line: bytes) -> None:
    other = with_headers(line)
    assert await site.talk(REQUEST, other, REQUEST, other) == [b"1", b"2", b"1", b"2"]


async def test_behind_a_proxy_clients_share_a_response_and_the_log_names_each(site: Site) -> None:
    asked = [
        with_headers(
            b"X-Forwarded-For: 192.0.2.%d" % number, b"X-Forwarded-Proto: https", b"X-Forwarded-Host: mirror.example",
            b"X-Request-ID: given-%d" % number,
        )
        for number in range(5)
    ]  # fmt: skip
    assert await site.talk(*asked, *asked) == [b"1"] * 10
    assert [(record.client, record.request_id) for record in site.noted()] == [
        (f"192.0.2.{number}", f"given-{number}") for number in range(5)
    ] * 2


async def test_from_others_the_headers_of_proxies_mean_nothing(site: Site) -> None:
    site.group.proxies = TrustedProxies([])
    forged = with_headers(b"X-Forwarded-For: 192.0.2.1", b"X-Request-ID: forged", b"X-Forwarded-Host: a.example")
    assert await site.talk(REQUEST, forged) == [b"1", b"1"]
    assert [(record.client, record.request_id) for record in site.noted()] == [("127.0.0.1", "")] * 2


async def test_what_a_proxy_may_not_report_is_no_replay(site: Site) -> None:
    await site.talk(REQUEST)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(with_headers(b"X-Forwarded-Host: a b"))
    assert (await reader.readline()).startswith(b"HTTP/1.1 500")  # here no middleware makes a 400 of it
    writer.close()


async def test_a_private_response_is_for_those_with_the_same_rights(site: Site) -> None:
    site.private, site.rights = True, {b"Bearer a": 1, b"Bearer b": 1, b"Bearer c": 2}
    first, same, other, unknown = (with_headers(b"Authorization: Bearer " + name) for name in (b"a", b"b", b"c", b"d"))
    assert await site.talk(first, first, same, other, other, unknown, unknown) == [
        b"1", b"1", b"1", b"2", b"2", b"3", b"4",
    ]  # fmt: skip
    site.rights[b"Bearer b"] = 0  # something has changed, which has to be looked at
    assert await site.talk(first, same, REQUEST) == [b"1", b"5", b"6"]
    site.rights[b"Bearer b"] = 2
    assert await site.talk(same) == [b"2"]


async def test_credentials_for_what_everyone_may_read_are_not_looked_at(site: Site) -> None:
    assert await site.talk(REQUEST, with_headers(b"Authorization: Bearer a")) == [b"1", b"1"]


SESSION = b"5ec7e7" * 10 + b"5ec7"


@pytest.mark.parametrize(
    "line", [b"Authorization: Bearer 5ec7e7", b"Cookie: a=5ec7e7", b"Cookie: a=b; mirror-session=" + SESSION]
)
async def test_no_credential_is_kept(site: Site, line: bytes) -> None:
    site.private, site.rights = True, {b"Bearer 5ec7e7": 1, b"": 1, SESSION: 1}
    site.group.anonymous_rights = 1
    await site.talk(*[with_headers(line)] * 3)
    assert site.handled == 1
    kept = [*site.group.replays, *site.group.heads]
    assert kept
    assert not any(b"5ec7e7" in key for key in kept)


async def test_the_cookies_of_others_change_nothing(site: Site) -> None:
    site.group.proxies = TrustedProxies(())
    others = [with_headers(b"Cookie: csrf=%d; _ga=GA1.1" % number) for number in range(12)]
    assert await site.talk(*others, REQUEST) == [b"1"] * 13


async def test_a_session_gets_what_its_client_may_read(site: Site) -> None:
    secrets = [b"%064x" % number for number in range(3)]
    site.private, site.rights = True, {secrets[0]: 1, secrets[1]: 1, secrets[2]: 2}
    first, same, other = (with_headers(b"Cookie: a=b; mirror-session=%b; c=d" % secret) for secret in secrets)
    assert await site.talk(first, same, other, REQUEST, first, other) == [b"1", b"1", b"2", b"3", b"1", b"2"]
    ended = with_headers(b"Cookie: mirror-session=" + b"f" * 64)
    assert await site.talk(ended, ended) == [b"4", b"5"]
    both = with_headers(b"Authorization: Bearer x", b"Cookie: mirror-session=" + secrets[0])
    assert await site.talk(both, both) == [b"6", b"7"], "the header counts, as it does for the guard"


@pytest.mark.parametrize(
    "cookies",
    [
        b"mirror-session=", b"mirror-session=%b" % SESSION.upper(), b"mirror-session=%b0" % SESSION,
        b'mirror-session="%b"' % SESSION, b"mirror-session=%b;mirror-session=%b" % (SESSION, SESSION),
        b"a=b;mirror-session=%b" % SESSION, b"xmirror-session=%b" % SESSION, b"mirror-session =%b" % SESSION,
    ],
)  # fmt: skip
def test_cookies_that_may_be_read_in_several_ways_are_left_to_aiohttp(cookies: bytes) -> None:
    assert credentials_in({b"cookie": cookies}) is None


def test_nothing_reads_the_headers_that_are_ignored() -> None:
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "replay.py").lower()
    assert [name for name in IGNORED if re.search(f'(?<!b)"{name.decode()}"', source)] == []


async def test_a_connection_that_is_to_be_closed_is_closed_after_a_replay(site: Site) -> None:
    assert await site.talk(REQUEST) == [b"1"]
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    writer.write(with_headers(b"Connection: close"))
    response = await reader.read()
    assert b"\r\nConnection: close\r\n" in response
    assert response.endswith(b"\r\n\r\n1")
    writer.close()
    assert await site.talk(REQUEST) == [b"1"]


async def test_the_response_to_a_request_that_closes_its_connection_is_kept(site: Site) -> None:
    for _ in range(3):
        assert await site.talk(with_headers(b"Connection: close")) == [b"1"]
    assert await site.talk(REQUEST) == [b"1"]


async def test_a_connection_without_requests_for_long_is_closed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    connections, times = site.group.connections, [0.0]
    monkeypatch.setattr(connections, "clock", lambda: times[0])
    pairs = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(3)]
    for pair in pairs:
        assert await site.ask(*pair, REQUEST) == b"1"
    times[0] = 70.0
    assert await site.ask(*pairs[2], REQUEST) == b"1"
    assert await site.ask(*pairs[1], with_headers(b"TE: trailers")) == b"2"
    times[0] = 76.0
    connections.close_slow()
    assert await pairs[0][0].read() == b""
    assert await site.ask(*pairs[1], REQUEST) == b"1"
    assert await site.ask(*pairs[2], REQUEST) == b"1"
    times[0] = 152.0
    connections.close_slow()
    assert [await one.read() for one, _ in pairs] == [b"", b"", b""]
    assert connections.refused == 0
    for _, writer in pairs:
        writer.close()


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


@pytest.mark.parametrize(
    "line",
    [
        b"Cookie: a=b\r\nCookie: c=d", b"Cookie: mirror-session=x", b"Content-Length: 0", b"TE: trailers",
        b"Connection: x", b"Trailer: x",
        b"Accept: a\r\nAccept: b", b"X-Request-ID: a\r\nX-Request-ID: b",
        b"Authorization: Bearer a\r\nAuthorization: Bearer b",
    ],
)  # fmt: skip
async def test_unusual_requests_are_always_handled(site: Site, line: bytes) -> None:
    request = with_headers(line)
    assert await site.talk(REQUEST, request, request, REQUEST) == [b"1", b"2", b"3", b"1"]


async def test_a_client_that_always_sends_unusual_requests_is_parsed_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []

    def read(data: bytes, group: ConnectionGroup) -> RequestHead | None:
        parsed.append(data)
        return read_head(data, group)

    monkeypatch.setattr(connection, "read_head", read)
    site.group.proxies = TrustedProxies(())
    request = with_headers(b"TE: trailers")
    numbers = [b"%d" % number for number in range(1, 13)]
    assert await site.talk(*[request] * 12) == numbers
    assert len(parsed) == connection.UNUSUAL_REQUESTS
    others = await site.talk(REQUEST, *[request] * 7, REQUEST)
    assert (others[0], others[-1]) == (b"13", b"13")


@pytest.mark.parametrize("begun", [b"G", b"GET /other HTTP/1.1\r\nVia: ", b"GET /other HTTP/1.1\r\nVia: x\r\n", b"\r"])
async def test_a_request_that_has_only_begun_is_never_joined_with_one_of_another_client(
    site: Site, begun: bytes
) -> None:
    other = REQUEST.replace(b"/page", b"/other")
    assert await site.talk(REQUEST, other) == [b"1", b"2"]
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    assert await site.ask(reader, writer, REQUEST + begun) == b"3"
    assert await site.talk(REQUEST, other, REQUEST) == [b"1", b"2", b"1"]
    assert read_head(REQUEST + begun, site.group) is None
    assert read_head(REQUEST, site.group) == read_head(other.replace(b"/other", b"/page"), site.group)
    writer.close()


async def test_after_a_body_nothing_is_replayed(site: Site) -> None:
    post = b"POST /page HTTP/1.1\r\nHost: mirror.example\r\nContent-Length: 1\r\n\r\nx"
    assert await site.talk(REQUEST, post, REQUEST) == [b"1", b"2", b"3"]


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
    group = ConnectionGroup(Connections(ConnectionLimits()), replays, lambda records: None)
    connection = ConnectionProtocol(asyncio.Protocol, group)
    connection._key = request
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


def stored(directory: Path, body: bytes) -> StoredPart:
    """Where a body was written."""
    segment = Segment(directory / "1.pages", 1)
    ((_, offset, length),) = segment.append([(1, body)])
    return StoredPart(segment, offset, length, zlib.crc32(body))


def replay_of(page: SharedBytes) -> Replay:
    return Replay(
        Validity(1.0), 200, b"", len(page.content), RequestFacts(), shared=weakref.ref(page), stored=page.stored
    )


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="reading without waiting is Linux's")
def test_a_body_on_disk_is_read_from_there_once_the_cache_lets_go_of_it(tmp_path: Path) -> None:
    page = SharedBytes(b"x" * 20_000, StoredPart())
    replay = replay_of(page)
    assert page.stored is not None
    assert replay.body() is page.content
    page.stored.move(stored(tmp_path, page.content))
    del page
    assert replay.body() == b"x" * 20_000


@pytest.mark.parametrize("what", ["not written", "damaged", "dropped", "large"])
def test_a_replay_ends_whose_body_cannot_be_read(tmp_path: Path, what: str) -> None:
    content = b"x" * (READ_BYTES + 1 if what == "large" else 1000)
    page = SharedBytes(content, StoredPart() if what == "not written" else stored(tmp_path, content))
    replay = replay_of(page)
    match what, page.stored:
        case "damaged", StoredPart():
            (tmp_path / "1.pages").write_bytes(b"y" * 1000)
        case "dropped", StoredPart(segment=Segment() as segment):
            segment.drop()
    del page
    assert replay.body() is None


def test_of_what_waits_on_disk_little_is_counted_and_it_is_the_last_to_go(tmp_path: Path) -> None:
    budget = MemoryBudget(30_000)
    replays = ReplayCache(budget, lambda: 0.0)
    page = SharedBytes(b"x" * 20_000, StoredPart())
    keep(replays, b"a", replay_of(page))
    assert budget.weight == ENTRY_BYTES + STORED_REPLAY_BYTES + 1
    for number in range(100):
        keep(replays, b"%d" % number, response(b"x" * 1000))
    assert b"a" in replays
