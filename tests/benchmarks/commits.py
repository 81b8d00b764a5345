"""How many files a second the catalog records, in PostgreSQL with 1, 2 and 4 nodes, and in SQLite in the same run.

Each node is a process of its own with 32 transactions under way; the server waits for the disk, as it does in earnest.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from mirror.catalog import Catalog, HeldFile
from mirror.config import Settings
from mirror.service.store import catalog_engine
from tests.benchmarks.site import Site
from tests.benchmarks.table import Row
from tests.postgres import running_postgres

AT_ONCE = 32
SECONDS, QUICK_SECONDS = 4.0, 0.5
NODES = (1, 2, 4)


async def record(data_dir: str, url: str, seconds: float) -> int:
    """Record files for some seconds, and return how many there were."""
    settings = Settings.model_validate({"data_dir": data_dir, "catalog": {"url": url} if url else {}})
    database = catalog_engine(settings)
    await database.open()
    files, number, end = Catalog(database).files, 0, time.monotonic() + seconds

    async def work() -> None:
        nonlocal number
        while time.monotonic() < end:
            number += 1
            name = f"{data_dir}-{number}"
            await files.add(HeldFile(source="up", project="p", filename=name, digest=f"{number:064x}", size=1))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    await database.close()
    return number


async def together(nodes: int, url: str, seconds: float) -> float:
    """How many files a second so many nodes record together."""
    with tempfile.TemporaryDirectory() as directory:
        words = [[str(Path(directory, str(node))), url, str(seconds)] for node in range(nodes)]
        for data_dir, *_ in words:
            Path(data_dir).mkdir()
        processes = [
            await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, *each, stdout=asyncio.subprocess.PIPE)
            for each in words
        ]
        outputs = [(await process.communicate())[0] for process in processes]
    return sum(int(output) for output in outputs) / seconds


async def commits(place: Site) -> AsyncIterator[Row]:
    """The rows."""
    seconds = QUICK_SECONDS if place.rounds == 1 else SECONDS
    embedded = await together(1, "", seconds)
    with running_postgres(durable=True) as server:
        for nodes in NODES:
            recorded = await together(nodes, server.url(server.fresh()), seconds)
            yield Row(
                what=f"files recorded in PostgreSQL, {nodes} nodes; beside it SQLite",
                ours=f"{recorded:.0f}/s", beside=f"{embedded:.0f}/s", figure=recorded / embedded,
            )  # fmt: skip


MEASUREMENTS = {"commits": commits}

if __name__ == "__main__":
    print(asyncio.run(record(sys.argv[1], sys.argv[2], float(sys.argv[3]))))
