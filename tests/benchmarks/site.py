"""What all measurements share: the site that they measure, how two sides are asked in turn, what a process uses."""

import contextlib
import os
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks import content
from tests.benchmarks.load import Headers, Load
from tests.benchmarks.nginx import Captured, Nginx, answers_of, index_of, nginx
from tests.serving import Client, Spawned, spawned

JSON = "application/vnd.pypi.simple.v1+json"
PIP = {"Accept-Encoding": "gzip, deflate"}
UV = {"Accept-Encoding": "gzip, br, zstd, deflate"}
MB = 1 << 20
CORES = sorted(os.sched_getaffinity(0))


class Site:
    """What all measurements have in common: an index on disk, an nginx as upstream, a mirror of it."""

    def __init__(self, directory: Path, upstream: Nginx, mirror: Spawned, quick: bool) -> None:
        self.directory = directory
        self.tree = content.Tree(directory / "index")
        self.upstream = upstream
        self.mirror = mirror
        self.rounds = 1 if quick else 3
        self.loads = 1 if quick else 7
        """Rounds of a second each that both sides are asked as fast as it goes."""
        self.megabytes = 100 if quick else 500
        """The size of a large download."""
        self._number = 0

    def place(self, name: str) -> Path:
        """A directory of that name that does not exist yet."""
        self._number += 1
        return self.directory / f"{name}-{self._number}"

    def url(self, path: str) -> str:
        """A path at the mirror."""
        return self.mirror.url.rstrip("/") + path

    @asynccontextmanager
    async def captured(self, path: str, headers: Headers) -> AsyncIterator[tuple[Nginx, str]]:
        """An nginx that answers what the mirror answers now, and where; and the static index."""
        reply = await asked(self.mirror, path, headers)
        place = self.place("captured")
        place.mkdir()
        file = place / "answer"
        file.write_bytes(reply.body)
        one = Captured(file, reply.headers["Content-Type"], reply.headers.get("Content-Encoding", ""))
        async with nginx(self.place("nginx"), answers_of([one]) + index_of(self.tree.root)) as beside:
            yield beside, f"{beside.url}/answer"


async def asked(client: Client, path: str, headers: Headers) -> Any:
    """What the mirror answers, asked twice so that it is a hit."""
    named = {name.replace("-", "_"): value for name, value in headers.items()}
    reply = await client.get(path, **named)
    assert reply.status == 200, f"{path}: {reply.status} {reply.body[:200]!r}"
    return await client.get(path, **named)


@asynccontextmanager
async def site(quick: bool) -> AsyncIterator[Site]:
    """Everything started, and ended with the block."""
    with tempfile.TemporaryDirectory(prefix="mirror-benchmarks-") as name:
        directory = Path(name)
        tree = content.Tree(directory / "index")
        content.pages(tree)
        async with (
            nginx(directory / "upstream", index_of(tree.root), log=True) as upstream,
            mirror_of(upstream, directory / "mirror") as mirror,
        ):
            yield Site(directory, upstream, mirror, quick)


def mirror_of(
    upstream: Nginx, data: Path, *words: str, checkout: Path | None = None, **settings: Any
) -> contextlib.AbstractAsyncContextManager[Spawned]:
    """A mirror of an nginx, with all defaults: it writes its access log. `checkout` is where its code is."""
    table = {"pypi": {"format": "pypi", "mount": "/", "upstreams": [f"{upstream.url}/simple/"]}}
    return spawned(data, table, *words, checkout=checkout, log={"access": True}, **settings)


def processes(server: Spawned | Nginx) -> tuple[int, ...]:
    """A server with its workers."""
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return server.pid, *map(int, children)


def bind(server: Spawned | Nginx, core: int) -> None:
    """Let a server with its worker run on one core alone."""
    for pid in processes(server):
        for task in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(task), {CORES[core % len(CORES)]})


@contextmanager
def client_core() -> Iterator[None]:
    """Let this process, and the clients that it starts, run on the core that the servers do not use."""
    try:
        os.sched_setaffinity(0, CORES[:1])
        yield
    finally:
        os.sched_setaffinity(0, CORES)


async def in_turn(
    rounds: int,
    ours: Callable[[], Awaitable[Load]],
    other: Callable[[], Awaitable[Load]],
    figure: Callable[[Load], float],
) -> tuple[float, float, float]:
    """A figure of ours, of the other and our part of it: each in the middle of all rounds, A B A B."""
    await ours()
    pairs = [(figure(await ours()), figure(await other())) for _ in range(rounds)]
    mine, others = (statistics.median(side) for side in zip(*pairs, strict=True))
    # Of pairs that follow each other: within seconds the speed of a machine changes by half.
    return mine, others, statistics.median(one / beside for one, beside in pairs)


def times_asked(upstream: Nginx, path: str) -> int:
    """How often the upstream was asked for a path."""
    return upstream.log.read_text().splitlines().count(path)


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


def processor(pid: int) -> float:
    """Seconds of processor time that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def mb(size: int) -> str:
    return f"{size / MB:.0f} MiB"
