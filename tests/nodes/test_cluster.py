"""The harness itself: several nodes over one database and one store answer, stop, end and come back."""

import asyncio
import hashlib
import signal
from pathlib import Path

from tests.builders import wheel
from tests.nodes.cluster import cluster, download, only_pypi
from tests.simulator import Simulator


async def test_two_nodes_share_a_catalog_and_files(simulator: Simulator, postgres_url: str, tmp_path: Path) -> None:
    built = wheel("shared", "1.0", size=300_000)
    simulator.publish(built)
    async with cluster(tmp_path, only_pypi(simulator), 2, catalog=postgres_url) as nodes:
        path = f"packages/shared/{built.filename}"
        assert (await nodes[0].process.get("/simple/shared/")).status == 200
        assert (await download(nodes[0].url + path)).digest == hashlib.sha256(built.content).hexdigest()
        assert await nodes[0].end(signal.SIGKILL) == -signal.SIGKILL
        second = await download(nodes[1].url + path)
        assert second.whole
        assert second.size == len(built.content)
        assert simulator.count("GET", f"*{built.filename}") == 1
        await nodes[0].start()
        assert (await nodes[0].process.get("/health")).status == 200
        nodes[0].stop()
        try:
            async with asyncio.timeout(0.5):
                await nodes[0].process.get("/health")
        except TimeoutError:
            nodes[0].go_on()
        assert (await nodes[0].process.get("/health")).status == 200
        assert {(await nodes.next().get("/health")).status for _ in range(4)} == {200}
