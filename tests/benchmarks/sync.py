"""A sync of many small files beside a plain client: `python -m tests.benchmarks.sync [--quick]`.

The upstream is nginx on loopback, and once more a small aiohttp server in a process of its own. A plain aiohttp client
fetches every file and keeps nothing; a sync fetches the pages and the same files over as many connections, verifies
them, reads the metadata out of each wheel, and has all of it durable in store, catalog and feed, and in a set. To tell
what the disk costs, the client also does it once more writing each file, without making it durable. They take turns,
each sync into an empty directory, and each runs as its user runs it: the client on the event loop of asyncio, the sync
in a process of its own, with its pool made first, and on uvloop, as the command does. Making the pool counts; starting
an interpreter, on either side, does not. The exit status is 1 when the sync is slower than half the plain client in
the middle of all rounds, with nginx.

"The same files" are those that the sync holds in the end: of wheels, the `.metadata` too, which the sync reads out of
the wheel. What the client needs for the 2,000 wheels alone is told beside it. What may surprise: ext4 takes ten times
as long to create a file where others were deleted in the last half minute. So nothing is deleted before the end, and
what creating a file costs here and now is told; `TMPDIR=/dev/shm` has no disk.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
from aiohttp import web
from yarl import URL

from mirror.airgap.lockfiles import named, this_machine
from mirror.airgap.sync.bulk import pool_size
from mirror.airgap.sync.fetching import NoProgress, fetch, remember
from mirror.airgap.sync.inputs import SyncInput
from mirror.airgap.sync.resolve import Resolvers
from mirror.airgap.sync.workers import WorkerPool
from mirror.config import Settings
from mirror.runtime import event_loops, tune_runtime
from mirror.service import scheduled_sync
from mirror.service.open import Mode, open_mirror
from tests.benchmarks import content
from tests.benchmarks.nginx import Nginx, free_port, index_of, listening, nginx
from tests.builders import sdist, wheel

FILES = 2000
PROJECTS = 20
CONNECTIONS = 16
ROUNDS = 5
WANTED = 0.5
"""Of the plain client's speed."""


def fill(tree: content.Tree, kind: str) -> list[str]:
    """Projects of small files; the paths of all files, then of their sidecars."""
    build, paths, sidecars = (wheel if kind == "wheels" else sdist), list[str](), list[str]()
    for number in range(PROJECTS):
        project, entries = f"{kind}-{number}", []
        for version in range(FILES // PROJECTS):
            built = build(project, f"1.{version}")
            metadata = built.metadata if kind == "wheels" else None
            entries.append(tree.file(project, built.filename, built.content, metadata))
            paths.append(f"packages/{project}/{built.filename}")
            if metadata is not None:
                sidecars.append(f"{paths[-1]}.metadata")
        tree.page(project, entries)
    return paths + sidecars


@asynccontextmanager
async def slow(root: Path) -> AsyncIterator[Nginx]:
    """The same files from a server in Python."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", __spec__.name, "--serve", str(root), str(port))
    try:
        await listening(port, process)
        yield Nginx(f"http://127.0.0.1:{port}", process.pid, root)
    finally:
        process.terminate()
        await process.wait()


def serve(root: Path, port: int) -> None:
    """Be that server."""

    async def answer(request: web.Request) -> web.Response:
        path = root / request.path.lstrip("/")
        if request.path.startswith("/simple/"):
            page = (path / "index.json").read_bytes()
            return web.Response(body=page, content_type="application/vnd.pypi.simple.v1+json")
        return web.Response(body=path.read_bytes(), content_type="application/octet-stream")

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    web.run_app(application, host="127.0.0.1", port=port, print=None, access_log=None)


def creating(directory: Path, count: int = 200) -> float:
    """Milliseconds of one core that creating a file takes here and now."""
    directory.mkdir()
    began = time.process_time()
    for number in range(count):
        (directory / str(number)).touch()
    return (time.process_time() - began) / count * 1000


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


def synchronise(url: str, data: Path, kind: str) -> float:
    """Be a sync: the seconds in which it has them, from looking at the first page to the set."""
    tune_runtime()
    began = time.perf_counter()
    with WorkerPool(pool_size(CONNECTIONS)) as pool, asyncio.Runner(loop_factory=event_loops()) as runner:
        hired = time.perf_counter() - began
        return hired + runner.run(_synchronise(url, data, kind, pool))


async def _synchronise(url: str, data: Path, kind: str, pool: WorkerPool) -> float:
    settings = Settings.model_validate(
        {
            "listen": ["127.0.0.1:0"], "data_dir": str(data), "log": {"access": False},
            "repositories": {"pypi": {"format": "pypi", "upstreams": [f"{url}/simple/"]}},
        }
    )  # fmt: skip
    (wanted,) = named(f"{kind}-{number}" for number in range(PROJECTS))
    wish = SyncInput(requirements=wanted, repository="pypi", targets=(this_machine(),), sdists=True, dependencies=False)
    async with AsyncExitStack() as stack:
        mirror = await (await stack.enter_async_context(open_mirror(settings, Mode.SERVE))).mirror()
        began = time.perf_counter()
        way = await stack.enter_async_context(scheduled_sync.local_fetcher(mirror, CONNECTIONS, pool))
        resolve = Resolvers(lambda repository: URL())
        result = await fetch([wish], way, resolve, scheduled_sync.holdings(mirror), NoProgress())
        await remember(mirror.catalog.sets, "all", result, only=True)
        took = time.perf_counter() - began
        assert (result.fetched, result.problems) == (FILES, ()), result
        return took


def synchronised(upstream: Nginx, data: Path, kind: str) -> float:
    """The seconds of a sync in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "--sync", upstream.url, str(data), kind]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure(kind: str, rounds: int, directory: Path, server: str) -> float:
    """The sync's speed over the plain client's, in the middle of all rounds."""
    directory.mkdir()
    with asyncio.Runner() as runner:
        tree = content.Tree(directory / "index")
        paths = fill(tree, kind)
        serving = nginx(directory / "upstream", index_of(tree.root)) if server == "nginx" else slow(tree.root)
        upstream = runner.run(_entered(serving))
        try:
            runner.run(plain(upstream, paths))
            rounds_of = []
            for number in range(rounds):
                only = runner.run(plain(upstream, paths[:FILES]))
                alone = runner.run(plain(upstream, paths)) if len(paths) > FILES else only
                saving = runner.run(plain(upstream, paths, directory / f"saved-{number}"))
                took = synchronised(upstream, directory / f"mirror-{number}", kind)
                rounds_of.append((only, alone, saving, took))
        finally:
            runner.run(_left(serving))
    ratios = [alone / ours for _, alone, _, ours in rounds_of]
    files_only, saved = (statistics.median(one[at] / one[3] for one in rounds_of) for at in (0, 2))
    _, alone, saving, ours = (
        statistics.median(FILES / seconds for seconds in side) for side in zip(*rounds_of, strict=True)
    )
    figure = statistics.median(ratios)
    print(
        f"{FILES} small {kind} from {server}: sync {ours:,.0f}/s, plain client {alone:,.0f}/s, ratio {figure:.2f}"
        f" ({min(ratios):.2f} to {max(ratios):.2f}); wanted {WANTED} {'yes' if figure >= WANTED else 'NO'};"
        f" a plain client without sidecars, ratio {files_only:.2f};"
        f" one that writes them to disk {saving:,.0f}/s, ratio {saved:.2f};"
        f" creating a file {creating(directory / 'created'):.2f} ms"
    )
    return figure


async def _entered(context: AbstractAsyncContextManager[Nginx]) -> Nginx:
    return await context.__aenter__()


async def _left(context: AbstractAsyncContextManager[Nginx]) -> None:
    await context.__aexit__(None, None, None)


def main() -> int:
    """Measure both kinds from both servers."""
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]), int(sys.argv[3]))
        return 0
    if sys.argv[1:2] == ["--sync"]:
        print(synchronise(sys.argv[2], Path(sys.argv[3]), sys.argv[4]))
        return 0
    rounds = 1 if "--quick" in sys.argv else ROUNDS
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {CONNECTIONS} connections")
    with tempfile.TemporaryDirectory(prefix="mirror-benchmarks-") as name:
        figures = {
            (server, kind): measure(kind, rounds, Path(name) / f"{server}-{kind}", server)
            for server in ("nginx", "aiohttp")
            for kind in ("sdists", "wheels")
        }
    return 0 if min(figure for (server, _), figure in figures.items() if server == "nginx") >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
