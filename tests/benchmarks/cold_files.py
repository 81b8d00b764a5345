"""Files that nobody holds yet, many small ones and a large one, with nginx as upstream and a caching nginx beside."""

import asyncio
import os
import selectors
import socket
import statistics
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from tests.benchmarks import content
from tests.benchmarks.load import Download, Headers, download, percentile, request
from tests.benchmarks.nginx import cache_of, nginx
from tests.benchmarks.site import MB, Site, mirror_of, processor
from tests.benchmarks.table import Row

CLIENTS = 16
SMALL_BYTES = 10 << 10
PROJECTS, FILES_OF_EACH = 100, 20
MEMORY = Path("/dev/shm")
"""A file system in memory, so that what is measured is the work and not the disk."""


class Crossing(msgspec.Struct, frozen=True):
    """Many files that were asked for once."""

    seconds: float
    times: list[float]
    """Of each answer, in seconds."""


def fetch_each(url: str, paths: Sequence[str], number: int, headers: Headers | None = None) -> Crossing:
    """Ask for each path once, by so many keep-alive clients. Blocking. Raises unless all answers have status 200."""
    left, times = deque(paths), list[float]()
    parts = urlsplit(url)
    began = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for _ in range(min(number, len(left))):
            connection = socket.create_connection((parts.hostname or "", parts.port or 80), 60)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ, _ask(connection, url + left.popleft(), headers))
        while selector.get_map():
            ready = selector.select(60)
            assert ready, "no byte in a minute"
            for key, _ in ready:
                reply: _Reply = key.data
                connection = key.fileobj  # type: ignore[assignment]  # a socket was registered
                reply.take(connection.recv(1 << 18))
                if not reply.done:
                    continue
                times.append(time.perf_counter() - reply.began)
                if left:
                    selector.modify(connection, selectors.EVENT_READ, _ask(connection, url + left.popleft(), headers))
                else:
                    selector.unregister(connection)
                    connection.close()
    return Crossing(time.perf_counter() - began, times)


def _ask(connection: socket.socket, url: str, headers: Headers | None) -> "_Reply":
    _, asked = request(url, headers or {})
    connection.sendall(asked)
    return _Reply(url)


class _Reply:
    """What has come of one answer."""

    def __init__(self, url: str) -> None:
        self.began = time.perf_counter()
        self._url = url
        self._head = b""
        self._left = -1

    def take(self, piece: bytes) -> None:
        assert piece, f"the server hung up at {self._url}"
        if self._left >= 0:
            self._left -= len(piece)
            return
        self._head += piece
        head, end, body = self._head.partition(b"\r\n\r\n")
        if end:
            assert head.startswith(b"HTTP/1.1 200"), f"{self._url}: {head[:200]!r}"
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self._left = int(length.partition(b":")[2]) - len(body)

    @property
    def done(self) -> bool:
        return self._left == 0


def small_files(tree: content.Tree, name: str, projects: int) -> list[str]:
    """So many projects of FILES_OF_EACH small files; returns the paths of the files, one project after the other."""
    paths = []
    for number in range(projects):
        project, entries = f"{name}-{number}", []
        for version in range(FILES_OF_EACH):
            filename = f"{project.replace('-', '_')}-1.{version}-py3-none-any.whl"
            entries.append(tree.file(project, filename, os.urandom(SMALL_BYTES)))
            paths.append(f"/packages/{project}/{filename}")
        tree.page(project, entries)
    return paths


async def cold_small_files(site: Site) -> AsyncIterator[Row]:
    """Small files that nobody holds, by sixteen clients; the pages are held."""
    ours: list[Crossing] = []
    others: list[Crossing] = []
    costs: list[float] = []
    projects = 10 if site.rounds == 1 else PROJECTS
    for number in range(site.rounds):
        name = f"cold-small-{number}"
        paths = await asyncio.to_thread(small_files, site.tree, name, projects)
        async with AsyncExitStack() as stack:
            memory = stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None))
            http, server = cache_of(site.upstream.url, Path(memory))
            cache = await stack.enter_async_context(nginx(site.place("cache"), server, http))
            mirror = await stack.enter_async_context(mirror_of(site.upstream, Path(memory) / "mirror"))
            for project in range(projects):
                await mirror.get(f"/simple/{name}-{project}/")
            before = processor(mirror.pid)
            ours.append(await asyncio.to_thread(fetch_each, mirror.url.rstrip("/"), paths, CLIENTS))
            costs.append((processor(mirror.pid) - before) / len(paths))
            others.append(await asyncio.to_thread(fetch_each, cache.url, paths, CLIENTS))
    count = projects * FILES_OF_EACH
    rate = statistics.median(count / one.seconds for one in ours)
    beside = statistics.median(count / one.seconds for one in others)
    slow = statistics.median(percentile(one.times, 0.99) for one in ours) * 1e3
    slow_beside = statistics.median(percentile(one.times, 0.99) for one in others) * 1e3
    cost = statistics.median(costs) * 1e3
    what = f"cold 10 KB files, {CLIENTS} clients"
    yield Row(what=what, ours=f"{rate:.0f}/s", beside=f"{beside:.0f}/s", figure=rate, unit="/s", target=1500)
    yield Row(
        what=f"{what}: of a core for each",
        ours=f"{cost:.2f} ms", figure=cost, unit="ms", target=0.6, better="less",
    )  # fmt: skip
    yield Row(what=f"{what}: p99", ours=f"{slow:.0f} ms", beside=f"{slow_beside:.0f} ms", figure=slow, unit="ms")


async def cold_large_file(site: Site) -> AsyncIterator[Row]:
    """A large file that nobody holds, by one client: what it costs, and how soon the client has its end."""
    ours: list[tuple[float, float, float]] = []
    others: list[tuple[float, float]] = []
    size = site.megabytes * MB
    for number in range(site.rounds):
        name = f"cold-large-{number}"
        path = await asyncio.to_thread(site.tree.blob, name, size)
        place = site.place("cache")
        http, server = cache_of(site.upstream.url, place)
        async with nginx(place, server, http) as cache, mirror_of(site.upstream, site.place("mirror")) as mirror:
            await mirror.get(f"/simple/{name}/")
            before = processor(mirror.pid)
            one = await _timed(f"{mirror.url.rstrip('/')}{path}", site.upstream.log, path)
            await asyncio.sleep(1)  # until it is stored
            ours.append((one[0], one[1], (processor(mirror.pid) - before) / size * 1e9))
            other = await _timed(f"{cache.url}{path}", site.upstream.log, path)
            others.append(other)
    what = f"cold {site.megabytes} MB, 1 client"
    cost = statistics.median(one[2] for one in ours)
    yield Row(
        what=f"{what}: of a core for a GB",
        ours=f"{cost:.2f} s", figure=cost, unit="s", target=2.2, better="less",
    )  # fmt: skip
    lag, beside = (statistics.median(one[1] for one in side) for side in (ours, others))
    yield Row(
        what=f"{what}: end after upstream's",
        ours=f"{lag * 1e3:.0f} ms", beside=f"{beside * 1e3:.0f} ms",
        figure=lag * 1e3, unit="ms", target=50, better="less",
    )  # fmt: skip
    whole, beside = (statistics.median(one[0] for one in side) for side in (ours, others))
    yield Row(what=f"{what}: until it has all", ours=f"{whole:.2f} s", beside=f"{beside:.2f} s", figure=whole / beside)


async def _timed(url: str, log: Path, path: str) -> tuple[float, float]:
    """Download a file; return the seconds that took, and those from the end of upstream's answer to the client's."""
    asked = log.stat().st_size

    def work() -> tuple[Download, float]:
        (one,) = download(url, 1)
        return one, time.perf_counter()

    downloading = asyncio.create_task(asyncio.to_thread(work))
    upstream_ended = 0.0
    with log.open() as lines:
        lines.seek(asked)
        while not upstream_ended:  # nginx writes the line when it has sent the last byte
            await asyncio.sleep(0.001)
            if path in lines.read():
                upstream_ended = time.perf_counter()
    one, ended = await downloading
    return one.whole, max(0.0, ended - upstream_ended)


MEASUREMENTS: Mapping[str, Callable[[Site], AsyncIterator[Row]]] = {
    "cold-small-files": cold_small_files,
    "cold-large-file": cold_large_file,
}
