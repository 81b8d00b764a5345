"""Promise 8: verified, object stored, row, last bytes. A crash leaves at most an object without a row."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from mirror.config.blobs import BlobsSettings
from mirror.transfer.growing import TAIL_BYTES
from mirror.transfer.transfer import PROMPT_END_BYTES
from tests import objects
from tests.builders import wheel
from tests.nodes.cluster import cluster, download, only_pypi
from tests.nodes.workers import patient
from tests.objects_faults import faulty
from tests.postgres import PostgresServer
from tests.simulator import Simulator
from tests.simulator.faults import Drip

SIZE = PROMPT_END_BYTES + 1_000_000
ROUNDS = int(os.environ.get("NODES_ROUNDS", "3"))
CLIENTS = 3
MOST_SECONDS = 1.0
"""A file is whole at its clients about so long after its last piece has left the upstream."""


async def is_object(blobs: objects.BlobsTable, digest: str) -> bool:
    """Whether the store has the object of a blob."""
    from mirror.blobs.objects_connect import connect

    bucket = connect(BlobsSettings.model_validate(blobs))
    try:
        await bucket.head_async(f"blobs/{digest[:2]}/{digest}")
    except FileNotFoundError:
        return False
    return True


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


@patient
async def test_promise_8_who_has_a_whole_file_finds_row_and_object_whenever_its_node_is_killed(
    simulator: Simulator, postgres: PostgresServer, postgres_url: str, tmp_path: Path, report: Callable[[str], None]
) -> None:
    outcomes = Counter[tuple[str, str]]()
    blobs = objects.table("s3")
    simulator.inject("*.whl", Drip(1024 * 1024, 0.01))
    async with cluster(tmp_path, only_pypi(simulator), 3, catalog=postgres_url, blobs=blobs) as nodes:
        for number in range(ROUNDS):
            chosen = random.Random(number)
            built = wheel(f"large{number}", "1.0", size=SIZE)
            simulator.publish(built)
            file = f"*/{built.filename}"
            killed = nodes[number % len(nodes)]
            if not killed.running:
                await killed.start()
            path = f"packages/{built.name}/{built.filename}"
            await killed.process.get(f"/simple/{built.name}/")
            clients = [asyncio.create_task(download(killed.url + path)) for _ in range(CLIENTS)]
            if number % 3 == 0:  # while it comes
                part = chosen.random()
                await simulator.until(lambda part=part, file=file: simulator.bytes_sent(file) >= part * SIZE)
            else:  # about when it is stored, recorded, and whole
                await simulator.until(lambda file=file: simulator.bytes_sent(file) >= SIZE)
                await asyncio.sleep(chosen.uniform(0.0, MOST_SECONDS))
            await killed.end(signal.SIGKILL)
            got = await asyncio.gather(*clients)
            held = rows(postgres, postgres_url)
            for digest in held:
                assert await is_object(blobs, digest)
            for one in got:
                outcomes["row" if built.sha256 in held else "no row", "whole" if one.whole else "broken off"] += 1
                assert not one.whole or one.digest == built.sha256
                assert not one.whole or built.sha256 in held
    report(", ".join(f"{count} clients: {row}, {end}" for (row, end), count in sorted(outcomes.items())))
