"""Promise 9: a node that is told to stop finishes what it has begun, or leaves it to the others."""

import asyncio
import hashlib
import signal
from pathlib import Path

from tests.builders import wheel
from tests.contract.pypi import eventually
from tests.nodes.cluster import cluster, download, only_pypi
from tests.nodes.workers import PAUSE_SECONDS, workers_of
from tests.serving import spawned
from tests.simulator import Simulator
from tests.simulator.faults import Drip


async def test_promise_9_a_node_that_ends_in_the_middle_of_a_file_leaves_it_to_the_others(
    simulator: Simulator, postgres_url: str, tmp_path: Path
) -> None:
    built = wheel("wanted", "1.0", size=5_000_000)
    simulator.publish(built)
    simulator.inject("*.whl", Drip(32 * 1024, 0.04))
    limits = {"shutdown_grace": "1s"}
    async with cluster(tmp_path, only_pypi(simulator), 2, catalog=postgres_url, limits=limits) as nodes:
        ending, other = nodes
        path = f"packages/wanted/{built.filename}"
        for node in nodes:
            await node.process.get("/simple/wanted/")
        led = asyncio.create_task(download(ending.url + path))
        await simulator.until(lambda: simulator.bytes_sent("*.whl") > 0)
        following = asyncio.create_task(download(other.url + path))
        await simulator.until(lambda: simulator.bytes_sent("*.whl") >= 1_000_000, timeout=30)
        assert await ending.end(signal.SIGTERM) == 0
        got = await following
        assert got.whole
        assert got.digest == hashlib.sha256(built.content).hexdigest()
        assert got.longest_pause <= PAUSE_SECONDS
        assert not (await led).whole
        assert [request.headers.get("Range", "")[:6] for request in simulator.asked("GET", "*.whl")] == ["", "bytes="]


async def test_promise_9_workers_that_a_reload_replaces_are_still_followed(
    simulator: Simulator, tmp_path: Path
) -> None:
    built = wheel("wanted", "1.0", size=5_000_000)
    simulator.publish(built)
    simulator.inject("*.whl", Drip(32 * 1024, 0.02))
    async with spawned(tmp_path / "data", only_pypi(simulator), "--workers", "2") as mirror:
        url = f"{mirror.url}packages/wanted/{built.filename}"
        await mirror.get("/simple/wanted/")
        led = asyncio.create_task(download(url))
        await simulator.until(lambda: simulator.bytes_sent("*.whl") > 0)
        before = workers_of(mirror)
        mirror.process.send_signal(signal.SIGHUP)

        async def are_new() -> bool:
            return len(set(workers_of(mirror)) - set(before)) == 2

        await eventually(are_new)
        following = [asyncio.create_task(download(url)) for _ in range(4)]
        for got in await asyncio.gather(led, *following):
            assert got.whole
            assert got.digest == hashlib.sha256(built.content).hexdigest()
        assert simulator.count("GET", "*.whl") == 1
