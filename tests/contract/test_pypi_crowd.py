"""Twenty clients at once for a wheel of 100 MB that is not held; the mirror is a process of its own."""

import asyncio
import hashlib
import time
from pathlib import Path

import aiohttp
import pytest

from tests.builders import Built, wheel
from tests.objects import local_files
from tests.serving import Spawned, repositories, spawned
from tests.simulator import Corrupt, Cut, Drip, Simulator, Stall

CLIENTS = 20
LEAVES = 7
"""The client that is gone half-way."""


@pytest.fixture(scope="module")
def large() -> Built:
    return wheel("large", "1.0", size=100_000_000)


class Crowd:
    """What each of the clients saw."""

    def __init__(self, built: Built) -> None:
        self.built = built
        self.first: dict[int, float] = {}
        """When a client's first byte came, by the monotonic clock."""
        self.digests: dict[int, str] = {}
        self.outcomes: dict[int, str] = {}
        self.broken: set[int] = set()

    async def ask(self, mirror: Spawned, leaving: int | None = None) -> None:
        """All clients at once, each on a connection of its own."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, read_bufsize=1 << 20) as session:
            await asyncio.gather(*(self._download(session, mirror, number, leaving) for number in range(CLIENTS)))

    async def _download(
        self, session: aiohttp.ClientSession, mirror: Spawned, number: int, leaving: int | None
    ) -> None:
        seen, count = hashlib.sha256(), 0
        async with session.get(f"{mirror.url}packages/large/{self.built.filename}") as response:
            assert response.status == 200
            assert response.content_length == self.built.size
            self.outcomes[number] = response.headers["X-Mirror-Cache"]
            try:
                async for chunk in response.content.iter_any():
                    self.first.setdefault(number, time.monotonic())
                    seen.update(chunk)
                    count += len(chunk)
                    if number == leaving and count > self.built.size / 2:
                        response.close()
                        return
            except aiohttp.ClientError:
                self.broken.add(number)
                return
        self.digests[number] = seen.hexdigest()


def blobs(data: Path) -> set[str]:
    return {path.name for path in (local_files(data) / "blobs").glob("*/*")}


async def test_one_upstream_request_feeds_everybody_from_its_first_byte_on(
    simulator: Simulator, tmp_path: Path, large: Built
) -> None:
    simulator.publish(large)
    upstreams = {"pypi": repositories(simulator)["pypi"]}
    async with spawned(tmp_path / "data", upstreams) as mirror:
        await mirror.get("/simple/large/")
        stalled = simulator.inject("*.whl", Stall(after=2_000_000))
        crowd = Crowd(large)
        asking = asyncio.create_task(crowd.ask(mirror, leaving=LEAVES))
        await simulator.until(lambda: simulator.bytes_sent("*.whl") > 0)
        began = time.monotonic()
        while len(crowd.first) < CLIENTS:  # noqa: ASYNC110  # everybody has bytes while upstream stands still
            await asyncio.sleep(0.001)
        stalled.release()
        await asking
        print(f"slowest first byte {1000 * (max(crowd.first.values()) - began):.0f} ms after upstream's")
        print(f"all done {time.monotonic() - began:.2f} s after that")
    assert sorted(crowd.outcomes.values()) == ["joined"] * (CLIENTS - 1) + ["miss"]
    assert crowd.digests == dict.fromkeys(set(range(CLIENTS)) - {LEAVES}, large.sha256)
    assert simulator.count("GET", "*.whl") == 1
    assert simulator.bytes_sent("*.whl") == large.size
    assert blobs(tmp_path / "data") == {large.sha256}


async def test_an_upstream_that_cuts_the_line_is_resumed_and_nobody_notices(
    simulator: Simulator, tmp_path: Path, large: Built
) -> None:
    simulator.publish(large)
    simulator.inject("*.whl", Cut(after=50_000_000), times=1)
    async with spawned(tmp_path / "data", {"pypi": repositories(simulator)["pypi"]}) as mirror:
        crowd = Crowd(large)
        await crowd.ask(mirror, leaving=LEAVES)
    assert crowd.digests == dict.fromkeys(set(range(CLIENTS)) - {LEAVES}, large.sha256)
    whole, rest = simulator.asked("GET", "*.whl")
    assert "Range" not in whole.headers
    assert rest.status == 206
    assert rest.headers["If-Range"]
    assert whole.sent + rest.sent <= large.size + 2_000_000  # what was under way when the line was cut
    assert blobs(tmp_path / "data") == {large.sha256}


async def test_one_wrong_byte_reaches_nobody_as_a_whole_file(
    simulator: Simulator, tmp_path: Path, large: Built
) -> None:
    simulator.publish(large)
    simulator.inject("*.whl", Corrupt(60_000_000), times=1)
    simulator.inject("*.whl", Drip(piece=4_000_000, pause=0.001), times=1)
    async with spawned(tmp_path / "data", {"pypi": repositories(simulator)["pypi"]}) as mirror:
        crowd = Crowd(large)
        await crowd.ask(mirror)
        assert crowd.broken == set(range(CLIENTS))
        assert not crowd.digests
        assert simulator.count("GET", "*.whl") == 1
        assert not blobs(tmp_path / "data")
        assert (await mirror.get(f"/packages/large/{large.filename}")).body == large.content
        await mirror.end()  # once it is stored: an object store gets it after the client has it
    assert simulator.count("GET", "*.whl") == 2
    assert blobs(tmp_path / "data") == {large.sha256}
