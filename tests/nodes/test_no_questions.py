"""Promise 10: a page or a file that a node has costs no question to the database or the object store."""

import asyncio
from pathlib import Path

import aiohttp

from tests import objects
from tests.builders import wheel
from tests.nodes.cluster import Node, cluster, only_pypi
from tests.objects_faults import faulty
from tests.postgres import PostgresProxy, PostgresServer
from tests.simulator import Simulator

HITS = 100
"""Requests for each path, half of them on connections of their own."""
MORE = 15
"""Pieces that a node may send to the database above those of an idle one, by what it does now and then anyway."""


async def hits(node: Node, path: str) -> None:
    """Ask for one thing again and again, as many different clients."""
    for number in range(HITS // 2):
        agent = f"client/{number}"
        assert (await node.process.get(f"/{path}", User_Agent=agent)).status == 200
        headers = {"User-Agent": f"new {agent}"}
        async with aiohttp.ClientSession(node.url, headers=headers) as session, session.get(path) as response:
            assert response.status == 200
            await response.read()


async def test_promise_10_hits_of_any_node_ask_neither_the_database_nor_the_object_store(
    simulator: Simulator, postgres: PostgresServer, tmp_path: Path
) -> None:
    built = wheel("known", "1.0", size=50_000)
    simulator.publish(built)
    target = objects.table("s3")
    paths = ("simple/known/", f"packages/known/{built.filename}", f"packages/known/{built.filename}.metadata")
    async with PostgresProxy(postgres) as database, faulty(target["endpoint"]) as store:
        catalog, blobs = database.url(postgres.fresh()), target | {"endpoint": store.url}
        async with cluster(tmp_path, only_pypi(simulator), 2, catalog=catalog, blobs=blobs) as nodes:
            for node in nodes:
                for path in paths:
                    for _ in range(2):
                        assert (await node.process.get(f"/{path}")).status == 200
            await asyncio.sleep(1.0)  # for what is written behind the answers
            began, before = asyncio.get_running_loop().time(), (database.asked, store.requests.total())
            for node in nodes:
                for path in paths:
                    await hits(node, path)
            seconds = asyncio.get_running_loop().time() - began
            busy = database.asked - before[0]
            assert store.requests.total() == before[1]
            quiet = min(seconds, 2.0)
            before_idle = database.asked
            await asyncio.sleep(quiet)
            idle = (database.asked - before_idle) * seconds / quiet
            assert busy <= idle + MORE
