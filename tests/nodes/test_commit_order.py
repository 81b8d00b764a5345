"""Promise 8: verified, object stored, row, last bytes. A crash leaves at most an object without a row."""

import asyncio
import signal
from pathlib import Path

from mirror.transfer.growing import TAIL_BYTES
from mirror.transfer.transfer import PROMPT_END_BYTES
from tests import objects
from tests.builders import wheel
from tests.nodes.cluster import cluster, download, only_pypi
from tests.nodes.rounds import is_object
from tests.objects_faults import faulty
from tests.postgres import PostgresServer
from tests.simulator import Simulator

SIZE = PROMPT_END_BYTES + 1_000_000
CLIENTS = 3


def rows(postgres: PostgresServer, url: str) -> set[str]:
    """The digests of files that the catalog has as held."""
    name = url.partition("@/")[2].partition("?")[0]
    return set(postgres.sql("SELECT digest FROM files", name).split())


async def test_promise_8_the_last_bytes_wait_for_the_object_and_the_row(
    simulator: Simulator, postgres: PostgresServer, postgres_url: str, tmp_path: Path
) -> None:
    built = wheel("large", "1.0", size=SIZE)
    simulator.publish(built)
    target = objects.table("s3")
    async with faulty(target["endpoint"]) as store:
        table = target | {"endpoint": store.url}
        async with cluster(tmp_path, only_pypi(simulator), 2, catalog=postgres_url, blobs=table) as nodes:
            asked = asyncio.Event()

            def hang(method: str, path: str) -> bool:
                if built.sha256 not in path or method not in ("PUT", "POST"):
                    return False
                asked.set()
                return True

            store.hang = hang
            path = f"packages/large/{built.filename}"
            clients = [asyncio.create_task(download(nodes[0].url + path)) for _ in range(CLIENTS)]
            async with asyncio.timeout(20):
                await asked.wait()
            await asyncio.sleep(0.3)  # for the end to come where it does not wait
            await nodes[0].end(signal.SIGKILL)
            got = await asyncio.gather(*clients)
            assert {one.whole for one in got} == {False}
            assert {one.size <= len(built.content) - TAIL_BYTES for one in got} == {True}
            assert rows(postgres, postgres_url) == set()
            store.hang = lambda method, path: False
            again = await download(nodes[1].url + path)
            assert (again.whole, again.digest) == (True, built.sha256)
            assert rows(postgres, postgres_url) == {built.sha256}
            assert await is_object(target, built.sha256)
