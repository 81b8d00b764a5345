"""A mirror whose files are in an object store, beside one with a directory, and beside the plain client of the store.

SeaweedFS on loopback is the store. What leaves a node's cache is read from it, as by a node that has not cached it.
"""

import asyncio
import hashlib
import os
import re
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests import objects, servers
from tests.benchmarks.load import download
from tests.benchmarks.rows import MB, Site, mirror_of, times_asked
from tests.benchmarks.table import Row
from tests.serving import Spawned

FILE_BYTES = 100 * MB
SPEED_PAIRS = 5
HITS = 200


@asynccontextmanager
async def stores() -> AsyncIterator[None]:
    """The servers of the session, until the end of the block."""
    servers.open_session()
    try:
        yield
    finally:
        servers.close_session()


async def plain(table: objects.BlobsTable, digest: str) -> tuple[float, float]:
    """Seconds to the first chunk and to the end of an object, read by the library alone."""
    from mirror.blobs.objects_connect import connect
    from mirror.config.blobs import BlobsSettings

    store = connect(BlobsSettings.model_validate(table))
    began, first = time.perf_counter(), 0.0
    found = await store.get_async(f"blobs/{digest[:2]}/{digest}")
    async for _ in found.stream(min_chunk_size=256 * 1024):
        first = first or time.perf_counter() - began
    return first, time.perf_counter() - began


async def requests_of(mirror: Spawned) -> int:
    """How many requests to the store a mirror has made."""
    text = (await mirror.get("/metrics")).text
    return sum(int(float(value)) for value in re.findall(r"mirror_object_requests_total\{.*\} ([\d.]+)", text))


async def object_rows(site: Site) -> AsyncIterator[Row]:
    """Reading what is not cached, hits, and cold files."""
    async with stores():
        async for row in _from_the_store(site):
            yield row
        async for row in _cold(site):
            yield row


async def _from_the_store(site: Site) -> AsyncIterator[Row]:
    path = await asyncio.to_thread(site.tree.blob, "stored", FILE_BYTES)
    digest = await asyncio.to_thread(_digest, site, path)
    table, place = objects.table("s3"), site.place("mirror")
    async with mirror_of(site.upstream, place, blobs=table) as mirror:
        url = f"{mirror.url.rstrip('/')}{path}"
        await asyncio.to_thread(download, url, 1)
        firsts, ratios, speeds = [], [], []
        for _ in range(1 if site.rounds == 1 else SPEED_PAIRS):
            await _leave_cache(place / "cache" / "blobs" / digest[:2] / digest)
            (one,) = await asyncio.to_thread(download, url, 1)
            _, whole = await plain(table, digest)
            firsts.append(one.first)
            speeds.append((one.size / one.whole, one.size / whole))
            ratios.append(whole / one.whole)
        assert times_asked(site.upstream, path) == 1, "it came from upstream"
        before = await requests_of(mirror)
        for number in range(HITS):
            await mirror.get(path if number % 20 == 0 else "/simple/stored/", User_Agent=f"client/{number}")
        asked = await requests_of(mirror) - before
    first = statistics.median(firsts) * 1e3
    yield Row(
        what="100 MB from the object store: first byte", ours=f"{first:.0f} ms", figure=first, unit="ms", better="less"
    )
    mine, its = (statistics.median(speed) / MB for speed in zip(*speeds, strict=True))
    yield Row(
        what="100 MB from the object store, beside its plain client",
        ours=f"{mine:.0f} MB/s", beside=f"{its:.0f} MB/s", figure=statistics.median(ratios), target=0.8,
    )  # fmt: skip
    yield Row(
        what=f"requests to the object store for {HITS} hits",
        ours=str(asked), figure=asked, unit="", target=0, better="less",
    )  # fmt: skip


async def _leave_cache(path: Path) -> None:
    """Remove a blob from the cache, once it is there: clients have its end before it is stored."""
    while not path.exists():  # noqa: ASYNC110  # another process writes it
        await asyncio.sleep(0.05)
    path.unlink()


def _digest(site: Site, path: str) -> str:
    with open(f"{site.tree.root}{path}", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _cold(site: Site) -> AsyncIterator[Row]:
    """100 MB that nobody holds, with a directory and with an object store in turn."""
    ratios, times = [], []
    for number in range(2 * site.rounds - 1):
        name = f"cold-objects-{number}"
        path = await asyncio.to_thread(site.tree.blob, name, FILE_BYTES)
        pair = []
        for changes in ({}, {"blobs": objects.table("s3")}):
            place = site.place("mirror")
            async with mirror_of(site.upstream, place, **changes) as mirror:
                await mirror.get(f"/simple/{name}/")
                (one,) = await asyncio.to_thread(download, f"{mirror.url.rstrip('/')}{path}", 1)
                assert one.size == FILE_BYTES, "the client has another number of bytes"
                pair.append(one.whole)
            await asyncio.to_thread(shutil.rmtree, place)
        os.unlink(f"{site.tree.root}{path}")
        times.append(pair)
        ratios.append(pair[1] / pair[0])
    directory, stored = (statistics.median(side) for side in zip(*times, strict=True))
    yield Row(
        what="cold 100 MB with an object store, beside a directory",
        ours=f"{stored:.2f} s", beside=f"{directory:.2f} s",
        figure=statistics.median(ratios), target=1.1, better="less",
    )  # fmt: skip


MEASUREMENTS: Mapping[str, Callable[[Site], AsyncIterator[Row]]] = {"objects": object_rows}
