"""Many projects, whose pages do not fit in memory: uniformly by name, and as popular ones are asked for (Zipf).

    python -m tests.benchmarks many-pages
    python -m tests.benchmarks.many_pages DIR [PROJECTS]

The second makes the store in a directory, once for many runs of the first: the catalog as if every page had just been
fetched, the same pages for nginx, and each page rendered once. `MANY_PAGES=DIR` has the first use it. Without that it
makes 20,000 projects of 200 files in a temporary directory, which takes some minutes.

nginx serves the pages as files that are compressed already. All pages are requested once after the start, before
anything is measured: until then, each is looked up in the catalog.
"""

import asyncio
import gzip
import itertools
import os
import random
import selectors
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from mirror.catalog import Catalog
from mirror.catalog.sqlite import SQLite
from mirror.model import Page, Stamp, UpstreamResponse
from mirror.pypi import FORMAT
from tests.benchmarks.content import entry
from tests.benchmarks.load import percentile
from tests.benchmarks.nginx import index_of, nginx
from tests.benchmarks.site import JSON, MB, Site, processor, resident
from tests.benchmarks.table import Row
from tests.serving import Spawned, spawned

PROJECTS, QUICK_PROJECTS = 20_000, 200
FILES = 200
CLIENTS = 32
SECONDS, QUICK_SECONDS = 5.0, 1.0
AT_ONCE = 200
UPSTREAM = "http://127.0.0.1:9/simple/"
"""Nobody answers there."""
HEADERS = f"Host: localhost\r\nAccept: {JSON}\r\nAccept-Encoding: gzip\r\n"
BOUNDS = {"uniform": 5000.0, "Zipf": 10_000.0}
P99_MS = 10.0


class Measured(msgspec.Struct, frozen=True):
    """What a server did in a while."""

    requests: float
    """Per second."""
    p99: float
    """Seconds."""


def name_of(number: int) -> str:
    """The name of one of the projects."""
    return f"project-{number:05d}"


def page_of(name: str, files: int) -> bytes:
    """The page of a project, as an index answers it; the same each time."""
    chance = random.Random(name)
    listed = [
        entry(name, f"{name.replace('-', '_')}-{number // 4}.0-cp3{number % 4}-none-any.whl", digest, 1234, metadata)
        for number in range(files)
        for digest, metadata in [(f"{chance.getrandbits(256):064x}", f"{chance.getrandbits(256):064x}")]
    ]
    versions = [f"{number}.0" for number in range((files + 3) // 4)]
    return msgspec.json.encode({"meta": {"api-version": "1.1"}, "name": name, "versions": versions, "files": listed})


async def make(directory: Path, projects: int, files: int = FILES) -> None:
    """Write the catalog as if every page had just been fetched, and the pages for nginx."""
    data = directory / "data"
    data.mkdir(parents=True, exist_ok=True)
    database = SQLite(data / "catalog.sqlite")
    await database.open()
    pages, now = Catalog(database).pages, time.time()

    async def put(number: int) -> None:
        name = name_of(number)
        body = page_of(name, files)
        place = directory / "index" / "simple" / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "index.json.gz").write_bytes(gzip.compress(body, 6))
        (place / "index.json").touch()
        response = UpstreamResponse(url=f"{UPSTREAM}{name}/", content_type=JSON, body=body, etag=f'"{number}"')
        await pages.put(UPSTREAM, Page("project", name), response, Stamp(now, True, FORMAT.revision(body)))

    for first in range(0, projects, AT_ONCE):
        await asyncio.gather(*(put(number) for number in range(first, min(first + AT_ONCE, projects))))
    await database.close()


def mirror_of(directory: Path) -> AbstractAsyncContextManager[Spawned]:
    """A mirror of those pages with the default memory, for which all of them are fresh."""
    repositories = {"pypi": {"format": "pypi", "mount": "/", "upstreams": [UPSTREAM]}}
    return spawned(directory / "data", repositories, log={"access": True}, pages={"fresh": "365d", "recheck": "365d"})


def load(url: str, paths: Iterator[str], clients: int, seconds: float | None) -> Measured:
    """Request one path after the other with that many clients, for a while or to the end of the paths. Blocking."""
    parts = urlsplit(url)
    place = (parts.hostname or "", parts.port or 80)
    times: list[float] = []
    began = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for _ in range(clients):
            connection = socket.create_connection(place, 60)
            selector.register(connection, selectors.EVENT_READ, _Client(connection, paths))
        while selector.get_map():
            for key, _ in selector.select(60):
                client: _Client = key.data
                if client.take():
                    times.append(time.perf_counter() - client.began)
                    over = seconds is not None and time.perf_counter() - began > seconds
                    if over or not client.begin():
                        selector.unregister(client.connection)
                        client.connection.close()
    return Measured(len(times) / (time.perf_counter() - began), percentile(times, 0.99))


class _Client:
    """One of several clients in one loop."""

    def __init__(self, connection: socket.socket, paths: Iterator[str]) -> None:
        self.connection = connection
        self._paths = paths
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.begin()

    def begin(self) -> bool:
        """Send the next request; return whether there is one."""
        path = next(self._paths, None)
        if path is None:
            return False
        self.began = time.perf_counter()
        self._missing = -1
        self._head = b""
        self.connection.sendall(f"GET {path} HTTP/1.1\r\n{HEADERS}\r\n".encode())
        return True

    def take(self) -> bool:
        """Read what is there; return whether the response is complete."""
        piece = self.connection.recv(1 << 18)
        if not piece:
            raise ConnectionError("the server hung up")
        if self._missing >= 0:
            self._missing -= len(piece)
            return self._missing == 0
        self._head += piece
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = self._head[:end].lower()
        assert head.startswith(b"http/1.1 200"), head
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        self._missing = length - (len(self._head) - end - 4)
        return self._missing == 0


def paths_of(numbers: Sequence[int]) -> Iterator[str]:
    """The paths of these projects, again and again."""
    return (f"/simple/{name_of(number)}/" for number in itertools.cycle(numbers))


def chosen(how: str, projects: int) -> list[int]:
    """The projects that are asked for, in their order: the same in each run."""
    chance = random.Random(how)
    weights = None if how == "uniform" else list(itertools.accumulate(1 / rank for rank in range(1, projects + 1)))
    return chance.choices(range(projects), cum_weights=weights, k=200_000)


async def warm(mirror: Spawned, projects: int) -> float:
    """Request every page once; return the seconds of processor time for each."""
    before = processor(mirror.pid)
    every = (f"/simple/{name_of(number)}/" for number in range(projects))
    await asyncio.to_thread(load, mirror.url, every, 8, None)
    return (processor(mirror.pid) - before) / projects


async def many_pages(site: Site) -> AsyncIterator[Row]:
    """Pages by many names, after a restart."""
    given = os.environ.get("MANY_PAGES")
    directory = Path(given) if given and site.rounds > 1 else site.place("many")
    if not given or site.rounds == 1:
        await prepare(directory, QUICK_PROJECTS if site.rounds == 1 else PROJECTS)
    projects = len(list((directory / "index" / "simple").iterdir()))
    seconds = QUICK_SECONDS if site.rounds == 1 else SECONDS
    what = f"{projects:,} projects of {FILES} files"
    async with (
        mirror_of(directory) as mirror,
        nginx(site.place("nginx"), index_of(directory / "index")) as beside,
    ):
        first = await warm(mirror, projects) * 1e6
        yield Row(what=f"{what}: the first after a restart", ours=f"{first:.0f} µs", figure=first, unit="µs")
        for how, bound in BOUNDS.items():
            numbers = chosen(how, projects)
            before, ours, others = processor(mirror.pid), [], []
            for _ in range(site.rounds):
                ours.append(await asyncio.to_thread(load, mirror.url, paths_of(numbers), CLIENTS, seconds))
                others.append(await asyncio.to_thread(load, beside.url, paths_of(numbers), CLIENTS, seconds))
            best, other = max(ours, key=lambda one: one.requests), max(others, key=lambda one: one.requests)
            each = (processor(mirror.pid) - before) / sum(one.requests * seconds for one in ours)
            yield Row(
                what=f"{what}, {how}",
                ours=f"{best.requests:.0f}/s, {each * 1e6:.0f} µs", beside=f"{other.requests:.0f}/s",
                figure=best.requests, unit="/s", target=bound,
            )  # fmt: skip
            p99 = min(one.p99 for one in ours) * 1e3
            yield Row(
                what=f"{what}, {how}: p99",
                ours=f"{p99:.1f} ms", beside=f"{min(one.p99 for one in others) * 1e3:.1f} ms",
                figure=p99, unit="ms", target=P99_MS, better="less",
            )  # fmt: skip
        memory = resident(mirror.pid) / MB
        yield Row(what=f"{what}: memory", ours=f"{memory:.0f} MiB", figure=memory, unit="MiB")


MEASUREMENTS: Mapping[str, Callable[[Site], AsyncIterator[Row]]] = {"many-pages": many_pages}


async def prepare(directory: Path, projects: int) -> None:
    """Make a store in a directory, with all of its pages rendered once."""
    began = time.perf_counter()
    await make(directory, projects)
    print(f"{projects:,} pages are stored after {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    async with mirror_of(directory) as mirror:
        each = await warm(mirror, projects)
    print(f"each is rendered, {each * 1e3:.1f} ms of a core for each", file=sys.stderr, flush=True)


def main() -> int:
    """Make the store of a directory."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    asyncio.run(prepare(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else PROJECTS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
