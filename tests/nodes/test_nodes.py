"""Promise 1: nodes over one database fetch once for all."""

import asyncio
import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import objects
from tests.builders import wheel
from tests.nodes.cluster import Node, burst, cluster, download, only_pypi
from tests.nodes.workers import FULL, on_demand, patient
from tests.simulator import Simulator
from tests.simulator.faults import Stall

NODES, CLIENTS, SIZE = (8, 200, 100_000_000) if FULL else (2, 12, 6_000_000)


@patient
@pytest.mark.parametrize(
    "kind", ["directory", pytest.param("s3", marks=on_demand), pytest.param("workers", marks=on_demand)]
)
async def test_promise_1_a_cold_file_is_one_request_upstream_for_the_clients_of_all_nodes(
    simulator: Simulator, postgres_url: str, tmp_path: Path, kind: str, report: Callable[[str], None]
) -> None:
    blobs = objects.table("s3") if kind == "s3" else None
    workers = 2 if kind == "workers" else 1
    built = wheel("cold", "1.0", size=SIZE)
    simulator.publish(built)
    wanted = hashlib.sha256(built.content).hexdigest()
    async with cluster(
        tmp_path, only_pypi(simulator), NODES, catalog=postgres_url, blobs=blobs, workers=workers
    ) as nodes:
        urls = [f"{node.url}packages/cold/{built.filename}" for node in nodes]
        stalled_page = simulator.inject("/simple/cold/", Stall())
        asking = [asyncio.create_task(node.process.get("/simple/cold/")) for node in nodes for _ in range(4)]
        await simulator.until(lambda: simulator.count("GET", "/simple/cold/") > 0)
        await asyncio.sleep(0.5)  # for the other nodes to wait, which no one else can see
        stalled_page.release()
        assert {reply.status for reply in await asyncio.gather(*asking)} == {200}
        assert simulator.count("GET", "/simple/cold/") == 1
        wanting = (download(url) for url, _ in zip(itertools.cycle(urls), range(CLIENTS)))
        digests, _, text = await burst(simulator, built.filename, wanting)
        report(text)
        assert digests == {wanted}
        assert {(await download(url)).digest for url in urls} == {wanted}
        assert simulator.count("GET", f"*{built.filename}") == 1


@on_demand
async def test_without_addresses_each_node_fetches_for_itself(
    simulator: Simulator, postgres_url: str, tmp_path: Path
) -> None:
    built = wheel("wanted", "1.0", size=200_000)
    simulator.publish(built)

    async def fetch(node: Node) -> str:
        return (await download(f"{node.url}packages/wanted/{built.filename}")).digest

    async with cluster(tmp_path, only_pypi(simulator), 2, catalog=postgres_url, addressed=False) as nodes:
        for node in nodes:
            await node.process.get("/simple/wanted/")
        stalled = simulator.inject("*.whl", Stall())
        fetching = [asyncio.create_task(fetch(node)) for node in nodes]
        await simulator.until(lambda: simulator.count("GET", "*.whl") == 2)
        stalled.release()
        assert set(await asyncio.gather(*fetching)) == {hashlib.sha256(built.content).hexdigest()}
