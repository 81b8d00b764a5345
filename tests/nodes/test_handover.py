"""A node that is told to stop finishes what it has begun, or leaves it to the others; no request fails."""

import asyncio
import hashlib
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.builders import wheel
from tests.contract.pypi import eventually
from tests.nodes.cluster import cluster, download, only_pypi
from tests.nodes.workers import PAUSE_SECONDS, on_demand, workers_of
from tests.serving import spawned
from tests.simulator import Simulator
from tests.simulator.faults import Drip

NODES, CLIENTS, SECONDS = 4, 32, 60.0
"""The nodes, each restarted at least once, their clients, and the shortest time."""


async def test_a_node_that_ends_in_the_middle_of_a_file_leaves_it_to_the_others(
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


async def test_workers_that_a_reload_replaces_are_still_followed(simulator: Simulator, tmp_path: Path) -> None:
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


@on_demand
@pytest.mark.timeout(400)
async def test_no_request_fails_while_nodes_are_restarted_one_after_the_other(
    simulator: Simulator, postgres_url: str, tmp_path: Path, report: Callable[[str], None]
) -> None:
    built = [wheel(f"known{number}", "1.0", size=size) for number, size in enumerate([3_000, 200_000, 2_000_000] * 20)]
    for one in built:
        simulator.publish(one)
    wanted = {one.filename: hashlib.sha256(one.content).hexdigest() for one in built}
    answers, failures, stopping = 0, list[object](), asyncio.Event()
    async with cluster(tmp_path, only_pypi(simulator), NODES, catalog=postgres_url) as nodes:

        async def ask(seed: int) -> None:
            """Ask as through a load balancer: where nothing listens, another node gets the request."""
            nonlocal answers
            chosen = random.Random(seed)
            while not stopping.is_set():
                one = chosen.choice(built)
                page = chosen.random() < 0.5
                path = f"simple/{one.name}/" if page else f"packages/{one.name}/{one.filename}"
                async with aiohttp.ClientSession() as session:
                    try:
                        async with session.get(chosen.choice(nodes).url + path) as response:
                            body = await response.read()
                    except aiohttp.ClientConnectorError:
                        await asyncio.sleep(0.01)
                        continue
                    except aiohttp.ClientError as error:
                        failures.append(error)
                        continue
                right = (
                    one.filename.encode() in body if page else hashlib.sha256(body).hexdigest() == wanted[one.filename]
                )
                if response.status != 200 or not right:
                    failures.append((response.status, path, body[:200]))
                answers += 1

        clients = [asyncio.create_task(ask(seed)) for seed in range(CLIENTS)]
        began, restarts = time.monotonic(), 0
        while restarts < len(nodes) or time.monotonic() - began < SECONDS:
            node = nodes[restarts % len(nodes)]
            assert await node.end(signal.SIGTERM) == 0
            await node.start()
            restarts += 1
        stopping.set()
        await asyncio.gather(*clients)
        report(f"{answers} answers during {restarts} restarts in {time.monotonic() - began:.0f} s")
        assert not failures
        assert answers
        assert all(simulator.count("GET", f"*{one.filename}") <= 1 for one in built)
