"""Promise 7: an object store that fails, loses objects or damages them, with nodes whose caches differ."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from mirror.config.blobs import BlobsSettings
from tests.builders import Built, wheel
from tests.nodes.cluster import Node, Nodes, cluster, only_pypi
from tests.nodes.commands import run_command
from tests.objects_faults import FaultyStore, faulty_s3
from tests.simulator import Simulator
from tests.uploading import upload

HELD, NEW = wheel("held", "1.0", size=300_000), wheel("new", "1.0", size=300_000)
OURS = wheel("ours", "1.0", size=300_000)


@pytest.fixture
async def store() -> AsyncIterator[FaultyStore]:
    """A store that can be made to fail, in front of SeaweedFS."""
    async with faulty_s3() as proxy:
        yield proxy


@asynccontextmanager
async def two_nodes(directory: Path, simulator: Simulator, catalog: str, store: FaultyStore) -> AsyncIterator[Nodes]:
    """Two nodes that have an upstream's file in their caches."""
    for built in (HELD, NEW):
        simulator.publish(built)
    async with cluster(directory, only_pypi(simulator), 2, catalog=catalog, blobs=store.table) as nodes:
        for node in nodes:
            assert await body_of(node, HELD) == HELD.content
        assert simulator.count("GET", f"*/{HELD.filename}") == 1
        yield nodes


async def token_of(nodes: Nodes) -> str:
    """A token for uploads."""
    words = ("token", "create", "--name", "t", "--right", "upload", "--project", "*")
    return await run_command(nodes[0].data_dir, *words)


async def body_of(node: Node, built: Built) -> bytes:
    """A file as a client with a connection of its own gets it; empty where it breaks off."""
    async with aiohttp.ClientSession(node.url) as session:
        try:
            async with session.get(f"/packages/{built.name}/{built.filename}") as response:
                return await response.read() if response.status == 200 else b""
        except aiohttp.ClientPayloadError:
            return b""


def forget_cached(nodes: Iterable[Node], *files: Built) -> None:
    """Let nodes have these files in the object store alone."""
    for node in nodes:
        for built in files:
            (node.data_dir / "cache" / "blobs" / built.sha256[:2] / built.sha256).unlink(missing_ok=True)


async def delete_objects(store: FaultyStore, *files: Built) -> None:
    """Delete the objects of files, as somebody does who should not."""
    from mirror.blobs.objects_connect import connect

    bucket = connect(BlobsSettings.model_validate(store.table))
    for built in files:
        await bucket.delete_async(f"blobs/{built.sha256[:2]}/{built.sha256}")


async def test_promise_7_hits_of_each_node_go_on_while_the_object_store_fails(
    simulator: Simulator, postgres_url: str, tmp_path: Path, store: FaultyStore
) -> None:
    async with two_nodes(tmp_path, simulator, postgres_url, store) as nodes:
        token = await token_of(nodes)
        store.fail = lambda method, path: True
        for node in nodes:
            for built in (HELD, NEW):  # the last of which comes from upstream, and is not kept
                assert await body_of(node, built) == built.content
        refused = await upload(nodes[1].process, token, OURS)
        assert (refused.status, int(refused.headers["Retry-After"]) > 0) == (503, True)
        before = store.requests.total()
        replies = await asyncio.gather(*(body_of(node, HELD) for node in nodes for _ in range(10)))
        assert set(replies) == {HELD.content}
        assert store.requests.total() - before <= 2  # each node tries now and then whether it is back


async def test_promise_7_a_deleted_object_is_fetched_anew_by_any_node_and_a_missing_upload_is_named(
    simulator: Simulator, postgres_url: str, tmp_path: Path, store: FaultyStore
) -> None:
    async with two_nodes(tmp_path, simulator, postgres_url, store) as nodes:
        assert (await upload(nodes[0].process, await token_of(nodes), OURS)).status == 200
        for node in nodes:
            assert await body_of(node, OURS) == OURS.content
        for number, node in enumerate(nodes):
            await delete_objects(store, HELD)
            forget_cached(nodes, HELD)
            assert await body_of(node, HELD) == HELD.content
            assert simulator.count("GET", f"*/{HELD.filename}") == 2 + number
            other = nodes[1 - number]
            assert await body_of(other, HELD) == HELD.content
            assert simulator.count("GET", f"*/{HELD.filename}") == 2 + number
        await delete_objects(store, OURS)
        forget_cached(nodes, OURS)
        for node in nodes:
            await body_of(node, OURS)  # which finds out that it is missing
            lost = await node.process.get(f"/packages/ours/{OURS.filename}")
            assert (lost.status, OURS.filename in lost.text) == (503, True)
            metrics = (await node.process.get("/metrics")).text
            (missing,) = re.findall(r"^mirror_missing_blobs_total (\S+)", metrics, re.MULTILINE)
            assert float(missing) > 0


async def test_promise_7_a_damaged_object_is_served_whole_by_no_node(
    simulator: Simulator, postgres_url: str, tmp_path: Path, store: FaultyStore
) -> None:
    async with two_nodes(tmp_path, simulator, postgres_url, store) as nodes:
        forget_cached(nodes, HELD)
        store.spoil = lambda body: b"x" + body[1:]
        assert len(await body_of(nodes[0], HELD)) < len(HELD.content)
        store.spoil = bytes
        for node in reversed(nodes):  # it was put aside, and comes from upstream again
            assert await body_of(node, HELD) == HELD.content
        assert simulator.count("GET", f"*/{HELD.filename}") == 2
