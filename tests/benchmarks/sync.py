"""A sync of many small files beside a plain client: `python -m tests.benchmarks.sync [--quick]`.

The upstream is nginx on loopback. A plain aiohttp client fetches every file and keeps nothing; a sync fetches the pages
and the same files over as many connections, verifies them, reads the metadata out of each wheel, and has all of it
durable in store, catalog and feed, and in a set. To tell what the disk costs, the client also does it once more
writing each file, without making it durable. They take turns, each sync into an empty directory, and each runs as
its user runs it: the client on the event loop of asyncio, the sync on uvloop, as the command does. The exit status is 1
when the sync is slower than half the plain client in the middle of all rounds.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp
from yarl import URL

from mirror import ahead
from mirror.config import Settings
from mirror.lockfiles import named, this_machine
from mirror.serving import event_loops, running
from mirror.sync import Resolvers, Silent, Wish, fetch, plan, remember
from tests.benchmarks import content
from tests.benchmarks.nginx import Nginx, index_of, nginx
from tests.builders import sdist, wheel

FILES = 2000
PROJECTS = 20
CONNECTIONS = 16
ROUNDS = 5
WANTED = 0.5
"""Of the plain client's speed."""


def fill(tree: content.Tree, kind: str) -> list[str]:
    """Projects of small files; the paths of all files."""
    build, paths = (wheel if kind == "wheels" else sdist), []
    for number in range(PROJECTS):
        project, entries = f"{kind}-{number}", []
        for version in range(FILES // PROJECTS):
            built = build(project, f"1.{version}")
            metadata = built.metadata if kind == "wheels" else None
            entries.append(tree.file(project, built.filename, built.content, metadata))
            paths.append(f"packages/{project}/{built.filename}")
        tree.page(project, entries)
    return paths


async def plain(upstream: Nginx, paths: list[str], directory: Path | None = None) -> float:
    """Seconds in which a client without a mirror fetches the files; and writes them into a directory, where given."""
    if directory is not None:
        directory.mkdir()
    waiting: Iterator[str] = iter(paths)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:

        async def work() -> None:
            for path in waiting:
                async with session.get(f"{upstream.url}/{path}") as answer:
                    body = await answer.read()
                if directory is not None:
                    (directory / path.rpartition("/")[2]).write_bytes(body)

        began = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
        return time.perf_counter() - began


async def synchronised(upstream: Nginx, data: Path, kind: str) -> float:
    """Seconds in which a sync has them, from looking at the first page to the set."""
    settings = Settings.model_validate(
        {
            "listen": ["127.0.0.1:0"], "data_dir": str(data), "log": {"access": False},
            "repositories": {"pypi": {"format": "pypi", "upstreams": [f"{upstream.url}/simple/"]}},
        }
    )  # fmt: skip
    (wanted,) = named(f"{kind}-{number}" for number in range(PROJECTS))
    wish = Wish(wanted=wanted, repository="pypi", targets=(this_machine(),), sdists=True, dependencies=False)
    async with running(settings) as (mirror, _), ahead.way(mirror, CONNECTIONS) as way:
        began = time.perf_counter()
        found = await plan([wish], way, Resolvers(lambda repository: URL()))
        result = await fetch(found, way, ahead.holdings(mirror), Silent())
        await remember(mirror.catalog.sets, "all", result, only=True)
        took = time.perf_counter() - began
        assert (result.fetched, result.problems) == (FILES, ()), result
        return took


def measure(kind: str, rounds: int) -> float:
    """The sync's speed over the plain client's, in the middle of all rounds."""
    with tempfile.TemporaryDirectory(prefix="mirror-benchmarks-") as name, asyncio.Runner() as runner:
        directory = Path(name)
        tree = content.Tree(directory / "index")
        paths = fill(tree, kind)
        serving = nginx(directory / "upstream", index_of(tree.root))
        upstream = runner.run(_entered(serving))
        try:
            runner.run(plain(upstream, paths))
            rounds_of = []
            for number in range(rounds):
                alone = runner.run(plain(upstream, paths))
                saving = runner.run(plain(upstream, paths, directory / f"saved-{number}"))
                with asyncio.Runner(loop_factory=event_loops()) as ours:
                    took = ours.run(synchronised(upstream, directory / f"mirror-{number}", kind))
                rounds_of.append((alone, saving, took))
        finally:
            runner.run(_left(serving))
    ratios = [alone / ours for alone, _, ours in rounds_of]
    saved = statistics.median(saving / ours for _, saving, ours in rounds_of)
    alone, saving, ours = (
        statistics.median(FILES / seconds for seconds in side) for side in zip(*rounds_of, strict=True)
    )
    figure = statistics.median(ratios)
    print(
        f"{FILES} small {kind}: sync {ours:,.0f}/s, plain client {alone:,.0f}/s, ratio {figure:.2f}"
        f" ({min(ratios):.2f} to {max(ratios):.2f}); wanted {WANTED} {'yes' if figure >= WANTED else 'NO'};"
        f" a plain client that writes them to disk {saving:,.0f}/s, ratio {saved:.2f}"
    )
    return figure


async def _entered(context: AbstractAsyncContextManager[Nginx]) -> Nginx:
    return await context.__aenter__()


async def _left(context: AbstractAsyncContextManager[Nginx]) -> None:
    await context.__aexit__(None, None, None)


def main() -> int:
    """Measure both kinds."""
    rounds = 1 if "--quick" in sys.argv else ROUNDS
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {CONNECTIONS} connections")
    figures = [measure(kind, rounds) for kind in ("sdists", "wheels")]
    return 0 if min(figures) >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
