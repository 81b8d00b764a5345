"""A mirror whose files are in an object store, beside one with a directory, and beside the plain client of the store.

100 MB cost the plain client 0.10 s of a core, and the mirror 0.22 s, with SHA-256, the cache's file and the answer,
beside what SeaweedFS and the client that downloads need: on two cores it cannot be as fast as the plain client. A
store on the network gives a connection less than that, and several ranges at once more than the plain client's one
stream.

The end of a cold file waits for its object. Where the upstream is as fast as the machine, that takes about as long as
the plain upload of as many bytes; from an upstream on the network little is left to send at the end.
"""

import asyncio
import hashlib
import os
import re
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from msgspec.structs import replace

from tests import objects, servers
from tests.benchmarks.load import download
from tests.benchmarks.nginx import Nginx
from tests.benchmarks.pacing import paced
from tests.benchmarks.site import MB, Site, mirror_of, processor, times_asked
from tests.benchmarks.table import Row
from tests.serving import Spawned

FILE_BYTES = 100 * MB
SPEED_PAIRS = 5
HITS = 200
FAR_BYTES_PER_SECOND = 50 * MB
"""What a store on the network gives one connection."""
PACED_BYTES_PER_SECOND = 20 * MB
"""What an upstream on the network gives."""
SIDES = ("whole", "plain")


@asynccontextmanager
async def stores() -> AsyncIterator[None]:
    """The servers of the session, until the end of the block."""
    servers.open_session()
    try:
        yield
    finally:
        servers.close_session()


async def plain(table: objects.BlobsTable, digest: str) -> float:
    """Seconds to the end of an object, read by the library alone as one stream."""
    from mirror.blobs.objects_connect import connect
    from mirror.config.blobs import BlobsSettings

    store = connect(BlobsSettings.model_validate(table))
    began = time.perf_counter()
    found = await store.get_async(f"blobs/{digest[:2]}/{digest}")
    async for _ in found.stream(min_chunk_size=256 * 1024):
        pass
    return time.perf_counter() - began


async def plain_upload(file: Path) -> float:
    """Seconds that the library alone takes to store a file, in parts as the mirror does."""
    from mirror.blobs.objects_client import PART_BYTES, PARTS_AT_ONCE
    from mirror.blobs.objects_connect import connect
    from mirror.config.blobs import BlobsSettings

    store = connect(BlobsSettings.model_validate(objects.table("s3")))
    began = time.perf_counter()
    await store.put_async("plain", file, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE)
    return time.perf_counter() - began


async def requests_of(mirror: Spawned) -> int:
    """How many requests to the store a mirror has made."""
    text = (await mirror.get("/metrics")).text
    return sum(int(float(value)) for value in re.findall(r"mirror_object_requests_total\{.*\} ([\d.]+)", text))


async def object_rows(site: Site) -> AsyncIterator[Row]:
    """Reading what is not cached, hits, and cold files."""
    async with stores():
        async for row in _from_the_store(site):
            yield row
        async for row in _from_a_far_store(site):
            yield row
        async for row in _cold(site):
            yield row


class Reading(msgspec.Struct):
    """One object read from the store: through a mirror that does not have it in its cache, and by the plain client."""

    first: float
    whole: float
    plain: float
    processor: float
    """Seconds of a core of the mirror."""


async def _read(
    site: Site, name: str, table: objects.BlobsTable, rounds: int, then: Callable[[Spawned, str], Awaitable[None]]
) -> list[Reading]:
    """Have a mirror read FILE_BYTES from its store so many times; `then` is called with it and the file's path."""
    path = await asyncio.to_thread(site.tree.blob, name, FILE_BYTES)
    digest, place = await asyncio.to_thread(_digest, site, path), site.place("mirror")
    readings = []
    async with mirror_of(site.upstream, place, blobs=table) as mirror:
        url = f"{mirror.url.rstrip('/')}{path}"
        asked = times_asked(site.upstream, path)  # once for each time that this was measured in one run
        await asyncio.to_thread(download, url, 1)
        for _ in range(rounds):
            await _leave_cache(place / "cache" / "blobs" / digest[:2] / digest)
            before = processor(mirror.pid)
            (one,) = await asyncio.to_thread(download, url, 1)
            used = processor(mirror.pid) - before
            readings.append(Reading(one.first, one.whole, await plain(table, digest), used))
        assert times_asked(site.upstream, path) == asked + 1, "it came from upstream"
        await then(mirror, path)
    return readings


def _rows_of(what: str, readings: Sequence[Reading]) -> Iterator[Row]:
    first = statistics.median(one.first for one in readings) * 1e3
    yield Row(what=f"{what}: first byte", ours=f"{first:.0f} ms", figure=first, unit="ms", better="less")
    mine, its = (statistics.median(FILE_BYTES / MB / getattr(one, side) for one in readings) for side in SIDES)
    ratio = statistics.median(one.plain / one.whole for one in readings)
    yield Row(
        what=f"{what}, beside its plain client",
        ours=f"{mine:.0f} MB/s", beside=f"{its:.0f} MB/s", figure=ratio, target=0.8,
    )  # fmt: skip


async def _from_the_store(site: Site) -> AsyncIterator[Row]:
    asked = 0

    async def ask(mirror: Spawned, path: str) -> None:
        nonlocal asked
        before = await requests_of(mirror)
        for number in range(HITS):
            await mirror.get(path if number % 20 == 0 else "/simple/stored/", User_Agent=f"client/{number}")
        asked = await requests_of(mirror) - before

    rounds = 1 if site.rounds == 1 else SPEED_PAIRS
    readings = await _read(site, "stored", objects.table("s3"), rounds, ask)
    for row in _rows_of("100 MB from the object store", readings):
        yield row
    used = statistics.median(one.processor for one in readings)
    yield Row(
        what="the same: of a core for 100 MB", ours=f"{used * 1e3:.0f} ms", figure=used * 1e3, unit="ms", better="less"
    )
    yield Row(
        what=f"requests to the object store for {HITS} hits",
        ours=str(asked), figure=asked, unit="", target=0, better="less",
    )  # fmt: skip


async def _from_a_far_store(site: Site) -> AsyncIterator[Row]:
    """The same from a store that gives each connection what one on the network does."""

    async def nothing(mirror: Spawned, path: str) -> None: ...

    table = objects.table("s3")
    async with paced(table["endpoint"], FAR_BYTES_PER_SECOND) as url:
        rounds = 1 if site.rounds == 1 else SPEED_PAIRS
        readings = await _read(site, "far", table | {"endpoint": url}, rounds, nothing)
    for row in _rows_of(f"100 MB from a store of {FAR_BYTES_PER_SECOND // MB} MB/s a connection", readings):
        yield row


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
    async with paced(site.upstream.url, PACED_BYTES_PER_SECOND) as url:
        for what, upstream in (
            ("cold 100 MB with an object store, beside a directory", site.upstream),
            (f"the same from an upstream of {PACED_BYTES_PER_SECOND // MB} MB/s", replace(site.upstream, url=url)),
        ):
            times = [await _cold_times(site, upstream) for _ in range(2 * site.rounds - 1)]
            directory, stored, plainly = (statistics.median(side) for side in zip(*times, strict=True))
            yield Row(
                what=what, ours=f"{stored:.2f} s", beside=f"{directory:.2f} s",
                figure=statistics.median(one / beside for beside, one, _ in times), target=1.1, better="less",
            )  # fmt: skip
            yield Row(
                what="the same, beside the plain upload of as many bytes",
                ours=f"{stored:.2f} s", beside=f"{plainly:.2f} s",
                figure=statistics.median(one / beside for _, one, beside in times), better="less",
            )  # fmt: skip


async def _cold_times(site: Site, upstream: Nginx) -> tuple[float, float, float]:
    """Seconds until one client has all, with a directory and with an object store; and those of a plain upload."""
    name = f"cold-objects-{site.place('cold').name}"
    path = await asyncio.to_thread(site.tree.blob, name, FILE_BYTES)
    times = []
    for changes in ({}, {"blobs": objects.table("s3")}):
        place = site.place("mirror")
        async with mirror_of(upstream, place, **changes) as mirror:
            await mirror.get(f"/simple/{name}/")
            (one,) = await asyncio.to_thread(download, f"{mirror.url.rstrip('/')}{path}", 1)
            assert one.size == FILE_BYTES, "the client has another number of bytes"
            times.append(one.whole)
        await asyncio.to_thread(shutil.rmtree, place)
    plainly = await plain_upload(Path(f"{site.tree.root}{path}"))
    os.unlink(f"{site.tree.root}{path}")
    directory, stored = times
    return directory, stored, plainly


MEASUREMENTS: Mapping[str, Callable[[Site], AsyncIterator[Row]]] = {"objects": object_rows}
