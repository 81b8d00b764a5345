"""The listener of a process for the others: who may ask, and what they get."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from mirror.blobs import StoredBlob
from mirror.blobs.local import LocalBlobs
from mirror.catalog.flights import Flight
from mirror.errors import NotFound, StorageError, UpstreamUnavailable
from mirror.model import File
from mirror.server import inflight
from mirror.server.inflight import InflightServer
from mirror.transfer import Transfers, flight_name
from mirror.transfer import nodes as nodes_module
from mirror.transfer.flight_links import FlightLinks
from mirror.transfer.flights import Flights
from mirror.transfer.nodes import (
    INFLIGHT_PATH,
    NODE_PATH,
    FailedFlight,
    MissingFlight,
    NodeClient,
    SilentNode,
    node_token,
)
from mirror.upstream import Upstream, UpstreamOptions
from tests.contract.pypi import eventually
from tests.file_server import FileServer
from tests.serving import repositories, serving
from tests.simulator import Simulator
from tests.simulator.faults import Chunked, Cut, Stall, Status

SECRET = b"a secret of thirty-two characters"
CONTENT = bytes(range(256)) * 4096


class Peer:
    """One process among several, without a catalog: its flights, its listener and its transfers."""

    def __init__(self, directory: Path, number: int, secret: bytes = SECRET) -> None:
        self.blobs = LocalBlobs(directory / f"peer{number}")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.client = NodeClient(secret)
        self.flights = Flights(FlightLinks(directory / "flights"), self.address, self.client)
        self.server = InflightServer(self.flights, node_token(secret, self.address))
        self.transfers = Transfers(self.blobs, self.flights)
        self.upstream = Upstream("upstream", URL("http://127.0.0.1/"), UpstreamOptions(retries=0, breaker_failures=99))
        self.stored: list[StoredBlob] = []
        self.brought = False

    async def start(self) -> None:
        self._listening.setblocking(False)
        await self.server.start(self._listening)

    async def fetch(self, file_server: FileServer, file: File | None = None) -> bytes:
        """The bytes of the file, which counts as held nowhere."""

        async def record(blob: StoredBlob) -> None:
            self.stored.append(blob)

        async def is_held() -> bool:
            return self.brought

        wanted = file or file_server.file(CONTENT)
        body, _ = await self.transfers.open(wanted, self.upstream, record, True, is_held=is_held)
        return b"".join([chunk async for chunk in body.read()])

    async def receives(self) -> bool:
        """Whether bytes of a file have come."""
        return any(state.received for state in self.transfers.active())

    async def follows(self) -> bool:
        """Whether it waits for another process to send it a file."""
        return any(one.shared is not None and one.shared.follows for one in self.transfers.running.values())

    async def close(self) -> None:
        await self.transfers.close(1)
        await self.server.close()
        await self.flights.close()
        await self.upstream.close()


@pytest.fixture
async def file_server() -> AsyncIterator[FileServer]:
    async with FileServer() as running:
        yield running


@asynccontextmanager
async def peers(directory: Path, count: int = 2) -> AsyncIterator[list[Peer]]:
    made = [Peer(directory, number) for number in range(count)]
    try:
        for one in made:
            await one.start()
        yield made
    finally:
        for one in made:
            await one.close()


async def test_only_who_has_the_secret_gets_an_answer_and_for_that_address_alone(tmp_path: Path) -> None:
    async with peers(tmp_path) as (one, other), aiohttp.ClientSession() as session:
        right = {"Authorization": f"Bearer {node_token(SECRET, one.address)}"}
        wrong: list[dict[str, str]] = [
            {},
            {"Authorization": "Bearer "},
            {"Authorization": f"Bearer {SECRET.decode()}"},
            {"Authorization": f"Bearer {node_token(SECRET, other.address)}"},
            {"Authorization": right["Authorization"] + "é"},
            {"Authorization": f"Basic {node_token(SECRET, one.address)}"},
        ]
        for path in (NODE_PATH, INFLIGHT_PATH + "0" * 64, "/", "/health", "/simple/"):
            for headers in wrong:
                async with session.get(one.address + path, headers=headers) as response:
                    assert response.status == 401, (path, headers)
                    assert await response.read() == b""
        for path, status in ((NODE_PATH, 204), (INFLIGHT_PATH + "0" * 64, 404), ("/", 404), ("/simple/", 404)):
            async with session.get(one.address + path, headers=right) as response:
                assert response.status == status
        async with session.post(one.address + NODE_PATH, headers=right) as response:
            assert response.status == 401
        assert await other.client.answers(one.address)
        stranger = NodeClient(b"another secret of enough characters")
        assert not await stranger.answers(one.address)
        await stranger.close()


async def test_a_connection_that_does_not_show_the_secret_is_closed_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inflight, "STRANGER_SECONDS", 0.2)
    async with peers(tmp_path, 1) as (one,):
        url = URL(one.address)
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET /-/node/ HTTP/1.1\r\nHost: x\r\n\r\n"):
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(sent)
            async with asyncio.timeout(5):
                with suppress(ConnectionResetError):
                    while await reader.read(4096):
                        pass
            writer.close()
        friend = NodeClient(SECRET)
        assert await friend.answers(one.address)
        await asyncio.sleep(0.3)
        assert await friend.answers(one.address)
        await friend.close()


async def test_what_answers_clients_does_not_know_these_paths(simulator: Simulator, tmp_path: Path) -> None:
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        for path in (NODE_PATH, INFLIGHT_PATH + "0" * 64):
            assert (await mirror.get(path)).status == 404


async def test_a_process_that_follows_gets_the_file_from_the_one_that_fetches(
    file_server: FileServer, tmp_path: Path
) -> None:
    stalled = file_server.inject("*", Stall(after=200_000))
    async with peers(tmp_path, 3) as each:
        asking = [asyncio.create_task(one.fetch(file_server)) for one in each]
        await file_server.until(lambda: file_server.bytes_sent() >= 200_000)
        for one in each:
            await eventually(one.receives)
        stalled.release()
        assert await asyncio.gather(*asking) == [CONTENT] * 3
        assert len(file_server.requests) == 1


async def test_one_that_follows_goes_on_where_the_leader_fails(file_server: FileServer, tmp_path: Path) -> None:
    cut = file_server.inject("*", Cut(after=500_000), times=1)
    broken = file_server.inject("*", Status(404), times=1, skip=1)
    stalled = file_server.inject("*", Stall(after=400_000), times=1)
    async with peers(tmp_path) as (leader, follower):
        leading = asyncio.create_task(leader.fetch(file_server))
        await file_server.until(lambda: file_server.bytes_sent() >= 400_000)
        following = asyncio.create_task(follower.fetch(file_server))
        await eventually(follower.receives)
        cut.release()  # of two faults of one answer, both stall it
        stalled.release()
        with pytest.raises(Exception, match=r"404|no |not "):
            await leading
        assert broken.hits == 1
        assert await following == CONTENT
        assert file_server.requests[-1].headers["Range"].startswith("bytes=")
        assert [blob.size for blob in follower.stored] == [len(CONTENT)]


async def test_where_the_leader_fails_outright_one_takes_over_and_the_others_follow_that_one(
    file_server: FileServer, tmp_path: Path
) -> None:
    failing = [file_server.inject("*", fault, times=1) for fault in (Stall(), Status(404))]
    async with peers(tmp_path, 4) as (leader, *others):
        leading = asyncio.create_task(leader.fetch(file_server))
        await file_server.until(lambda: bool(file_server.requests))
        following = [asyncio.create_task(one.fetch(file_server)) for one in others]
        for one in others:
            await eventually(one.follows)
        for fault in failing:  # of two faults of one answer, both stall it
            fault.release()
        with pytest.raises(NotFound):
            await leading
        assert await asyncio.gather(*following) == [CONTENT] * 3
        assert len(file_server.requests) == 2


async def test_where_one_process_cannot_have_a_page_one_other_asks_for_it_too(tmp_path: Path) -> None:
    stored: list[str] = []
    tries = 0
    begun, answered = asyncio.Event(), asyncio.Event()

    async def look() -> str | None:
        return stored[0] if stored else None

    async def ask() -> str:
        nonlocal tries
        tries += 1
        begun.set()
        await answered.wait()
        if tries == 1:
            raise UpstreamUnavailable("It does not answer.")
        stored.append("a page")
        return stored[0]

    async with peers(tmp_path, 4) as each:
        asking = [asyncio.create_task(one.flights.once("f" * 64, look, ask)) for one in each]
        await begun.wait()
        answered.set()
        got = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(one) for one in got if one != "a page"] == [UpstreamUnavailable]
        assert tries == 2


async def test_where_upstream_fails_for_good_everyone_learns_what_it_says(
    file_server: FileServer, tmp_path: Path
) -> None:
    file_server.inject("*", Status(404))
    async with peers(tmp_path, 4) as each:
        got = await asyncio.gather(*(one.fetch(file_server) for one in each), return_exceptions=True)
        assert [type(error) for error in got] == [NotFound] * 4
        assert not any(one.flights.led for one in each)


async def test_one_that_follows_verifies_the_digest_itself(
    file_server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled = file_server.inject("*", Stall(after=200_000))
    async with peers(tmp_path) as (leader, follower):
        leading = asyncio.create_task(leader.fetch(file_server))
        await file_server.until(lambda: file_server.bytes_sent() >= 200_000)
        (transfer,) = leader.transfers.running.values()
        read = transfer.body.read

        async def lie(start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
            async for chunk in read(start, stop):
                yield b"x" * len(chunk)

        monkeypatch.setattr(transfer.body, "read", lie)
        following = asyncio.create_task(follower.fetch(file_server))
        await eventually(follower.receives)
        stalled.release()
        with pytest.raises(Exception, match="its index promises"):
            await following
        await asyncio.wait([leading])
        assert not follower.stored


async def test_a_process_that_fell_silent_is_passed_over_and_one_that_waits_for_upstream_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes_module, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(nodes_module, "SIGN_SECONDS", 0.3)
    silent = socket.create_server(("127.0.0.1", 0))  # the kernel accepts, and nothing ever answers
    async with peers(tmp_path) as (leader, follower):
        flight = Flight("f" * 64, f"http://127.0.0.1:{silent.getsockname()[1]}", 1, mine=False)
        with pytest.raises(SilentNode):
            await follower.client.wait_ended(flight)
        silent.close()
        with pytest.raises(SilentNode):
            await follower.client.wait_ended(flight)
        taken = await leader.flights.take("f" * 64)
        assert taken
        assert taken.mine
        waiting = asyncio.create_task(follower.client.wait_ended(taken))
        await asyncio.sleep(0.6)
        assert not waiting.done()
        leader.flights.end(taken)
        async with asyncio.timeout(5):
            await waiting
        with pytest.raises(MissingFlight):
            await follower.client.wait_ended(taken)


async def test_what_is_no_file_cannot_be_followed_and_no_other_address_is_asked(tmp_path: Path) -> None:
    async with peers(tmp_path) as (leader, follower):
        taken = await leader.flights.take("a" * 64)
        assert taken
        with pytest.raises(FailedFlight):
            async with follower.client.stream(taken, 0, lambda: 0):
                pass
        for address in (
            "https://127.0.0.1:1",
            "http://127.0.0.1:1/x",
            "http://u@127.0.0.1:1",
            "file:///etc/passwd",
            "",
        ):
            with pytest.raises(UpstreamUnavailable):
                await follower.client.wait_ended(Flight("a" * 64, address, 1, mine=False))


async def test_one_process_works_and_the_others_read_what_it_has_brought(tmp_path: Path) -> None:
    brought: list[str] = []
    at_work = asyncio.Event()
    let_go = asyncio.Event()

    async def look() -> str | None:
        return brought[0] if brought else None

    async def work() -> str:
        at_work.set()
        await let_go.wait()
        brought.append("it")
        return "it"

    async with peers(tmp_path, 3) as each:
        asking = [asyncio.create_task(one.flights.once("name", look, work)) for one in each]
        await at_work.wait()
        let_go.set()
        assert await asyncio.gather(*asking) == ["it"] * 3
        assert brought == ["it"]


async def test_where_the_first_one_fails_the_others_do_not_wait_for_each_other(tmp_path: Path) -> None:
    attempts = 0

    async def look() -> str | None:
        return None

    async def work() -> str:
        nonlocal attempts
        attempts += 1
        await asyncio.sleep(0.2)
        raise StorageError("no")

    async with peers(tmp_path, 4) as each:
        began = asyncio.get_running_loop().time()
        asking = [asyncio.create_task(one.flights.once("name", look, work)) for one in each]
        assert all(isinstance(got, StorageError) for got in await asyncio.gather(*asking, return_exceptions=True))
        assert attempts == 4
        assert asyncio.get_running_loop().time() - began < 0.7


async def test_a_flight_is_taken_once_ended_by_its_owner_alone_and_taken_over_by_one(tmp_path: Path) -> None:
    one, two, three = (FlightLinks(tmp_path / "flights") for _ in range(3))
    first = await one.take("name", "http://a:1")
    assert first.mine
    seen = await two.take("name", "http://b:1")
    assert (seen.mine, seen.owner) == (False, "http://a:1")
    over = await two.take_over(seen, "http://b:1")
    assert over.mine
    late = await three.take_over(seen, "http://c:1")
    assert (late.mine, late.owner) == (False, "http://b:1")
    assert not await one.holds(first)
    await one.end(first)  # changes nothing that is no longer its own
    assert await two.holds(over)
    await two.end(over)
    assert (await three.take("name", "http://c:1")).mine


async def test_a_file_without_digest_and_size_is_followed_to_its_end_or_gone_on_with(
    file_server: FileServer, tmp_path: Path
) -> None:
    file = file_server.file(CONTENT, "notes.txt", digests={}, sized=False)
    chunked = file_server.inject("*", Chunked())
    stalled = file_server.inject("*", Stall(after=300_000), times=1)
    async with peers(tmp_path, 3) as (leader, *followers):
        leading = asyncio.create_task(leader.fetch(file_server, file))
        await file_server.until(lambda: file_server.bytes_sent() >= 300_000)
        following = [asyncio.create_task(one.fetch(file_server, file)) for one in followers]
        for one in followers:
            await eventually(one.receives)
        await leader.transfers.close(0)
        stalled.release()
        chunked.release()
        with pytest.raises(UpstreamUnavailable):
            await leading
        assert await asyncio.gather(*following) == [CONTENT, CONTENT]
        assert len(file_server.requests) == 2
        assert file_server.requests[1].headers["Range"].startswith("bytes=")
        assert file_server.requests[1].headers["If-Range"]


def test_the_name_of_a_flight_tells_its_parts_apart() -> None:
    assert flight_name("a", "b") != flight_name("ab")
    assert flight_name("a", "b") == hashlib.sha256(b"a\0b").hexdigest()
