"""The measurements of a great store: a catalog of a million files, and many uploads at once.

`tests.benchmarks.great_store` makes the catalog, which takes a minute or two. `--quick` makes a small one.

What is near its bound on two cores, and why:

- `mirror sweep --dry-run`: 77 MB, and 3.9 and 4.6 s in two runs with Debian's Python 3.11.2, right after the store was
  made; 5.5 to 6.3 s with a 3.13.0 without profile-guided optimization, before the digests of the catalog came in one
  row for each 256th of them (in turns: 6.2 to 7.7 s of a core for 7.9 to 9.3 s, beside other work). What is left are
  the slices by the index of use (11 to 16 µs a file), the look-ups of their sidecars (15 to 22 µs each: the row, its
  index and that of digests are each another page of the file), the directories, the imports, and the lines that are
  printed.
- Pages beside four loops: a number that is made anew takes 1 to 3 ms of the event loop. Made four times a second of
  each kind, and with 15 ms between two requests of a loop, they took the p99 of pages from 0.5 to 1.4 ms; hence at most
  one a second of each kind, and 250 ms: four requests that come together hold up a page in a hundred no longer.
- The first `/`: 45 ms without what `mirror.web.html.prepare` does two seconds after the start, for 5 MB.
"""

import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mirror.service.jobs import PREPARE_SECONDS
from tests.benchmarks import content, great_store
from tests.benchmarks.cold_files import MEMORY
from tests.benchmarks.load import Pulse, ask, load, percentile
from tests.benchmarks.site import MB, Site, mb, mirror_of, resident
from tests.benchmarks.table import Row
from tests.builders import gem
from tests.serving import Spawned, write_settings

GEMS = 960
SECONDS = 5.0
"""Time for which pages are requested alone, and beside the loops."""
BROWSER = {"Accept": "text/html"}
NUMBERS = {"/-/status": {}, "/metrics": {}, "/": BROWSER}
"""What shows how much is held, with the headers of a request for it."""


def files_of(site: Site) -> int:
    return 2_000 if site.rounds == 1 else 1_000_000


@asynccontextmanager
async def great(site: Site) -> AsyncIterator[tuple[Path, great_store.GreatStore]]:
    """A data directory with a great store of the site's upstream."""
    data, source = site.place("great"), f"{site.upstream.url}/simple/"
    made = await asyncio.to_thread(great_store.make, data, files_of(site), source=source)
    try:
        yield data, made
    finally:
        await asyncio.to_thread(shutil.rmtree, data)


async def numbers(site: Site) -> AsyncIterator[Row]:
    """What shows numbers, and pages beside four loops that ask for it."""
    async with great(site) as (data, made):
        async with mirror_of(site.upstream, data) as mirror:
            if site.rounds > 1:
                await asyncio.sleep(PREPARE_SECONDS + 1)  # as before the first visitor comes
            for path, headers in NUMBERS.items():
                url = mirror.url.rstrip("/") + path
                times = [await asyncio.to_thread(_timed, url, headers) for _ in range(6)]
                slowest = max(times) * 1e3
                yield Row(
                    what=f"{made.files:,} files: {path}", ours=f"{slowest:.1f} ms", figure=slowest, unit="ms",
                    target=20, better="less",
                )  # fmt: skip
            alone, beside = await _beside_loops(mirror, 0.5 if site.rounds == 1 else SECONDS)
        figure = percentile(beside, 0.99) / percentile(alone, 0.99)
        yield Row(
            what=f"{made.files:,} files: page beside four loops, p99",
            ours=f"{percentile(beside, 0.99) * 1e3:.1f} ms", beside=f"{percentile(alone, 0.99) * 1e3:.1f} ms alone",
            figure=figure, target=1.5, better="less",
        )  # fmt: skip
        async for row in _commands(site, data, made):
            yield row
        async for row in _sweeping(site, data, made):
            yield row


def _timed(url: str, headers: dict[str, str]) -> float:
    began = time.perf_counter()
    head, _ = ask(url, headers)
    assert head.startswith("HTTP/1.1 200"), head
    return time.perf_counter() - began


async def _beside_loops(mirror: Spawned, seconds: float) -> tuple[Sequence[float], Sequence[float]]:
    """How long small pages take alone, and beside four loops, in turns."""
    url = mirror.url.rstrip("/")
    await mirror.get(f"/simple/{content.SMALL}/")
    alone: list[float] = []
    beside: list[float] = []
    for _ in range(2):
        pulse = Pulse(f"{url}/simple/{content.SMALL}/")
        pulse.start()
        await asyncio.sleep(seconds)
        alone += pulse.end()
        pulse = Pulse(f"{url}/simple/{content.SMALL}/")
        pulse.start()
        loops = [*NUMBERS.items(), ("/-/status", {})]
        await asyncio.gather(*(load(url + path, 1, seconds, headers) for path, headers in loops))
        beside += pulse.end()
    return alone, beside


async def _commands(site: Site, data: Path, made: great_store.GreatStore) -> AsyncIterator[Row]:
    """The commands that look at a great store."""
    table = {"pypi": {"format": "pypi", "upstreams": [f"{site.upstream.url}/simple/"]}}
    settings = write_settings(data, table)
    limit = str(int(made.bytes * 0.87))
    for words, seconds, megabytes in (
        (("status",), 0.7, None),
        (("sweep", "--dry-run", "--limit", limit), 5.0, 150),
    ):
        runs = [await _ran(*words, "--config", str(settings)) for _ in range(site.rounds)]
        took, most = statistics.median(one[0] for one in runs), max(one[1] for one in runs)
        what = f"{made.files:,} files: mirror {' '.join(words[:2])}"
        yield Row(what=what, ours=f"{took:.2f} s", figure=took, unit="s", target=seconds, better="less")
        if megabytes is not None:
            yield Row(
                what=f"{what}: memory", ours=mb(most), figure=most / MB, unit="MiB", target=megabytes, better="less"
            )


async def _ran(*words: str) -> tuple[float, int]:
    """Run a command of the mirror, and return the seconds that it took and the most bytes of memory."""
    code = (
        "import sys; from mirror.cli import main\n"
        "try: status = main(sys.argv[1:])\n"
        "finally: print(*(line for line in open('/proc/self/status') if 'VmHWM' in line), file=sys.stderr)\n"
        "sys.exit(status)"
    )
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    took = time.perf_counter() - began
    assert process.returncode == 0, said.decode()
    return took, int(said.rpartition(b"VmHWM:")[2].split()[0]) * 1024


async def _sweeping(site: Site, data: Path, made: great_store.GreatStore) -> AsyncIterator[Row]:
    """Sweeps of a serving mirror: how long they keep requests waiting, and the memory that they take."""
    async with mirror_of(site.upstream, data) as mirror:  # what it takes without a sweep, with all that is loaded later
        await mirror.get(f"/simple/{content.SMALL}/")
        if site.rounds > 1:
            await asyncio.sleep(PREPARE_SECONDS + 1)
        rest = resident(mirror.pid)
    rounds = [await _swept(site, data, int(made.bytes * (0.999 - 0.001 * number))) for number in range(site.rounds)]
    alone, longest, most = map(statistics.median, zip(*rounds, strict=True))
    more = most - rest
    what = f"{made.files:,} files: sweep in serve"
    yield Row(
        what=f"{what}: longest wait for a page",
        ours=f"{longest * 1e3:.0f} ms", beside=f"{alone * 1e3:.0f} ms without", figure=longest * 1e3, unit="ms",
        target=20, better="less",
    )  # fmt: skip
    yield Row(what=f"{what}: memory more", ours=mb(int(more)), figure=more / MB, unit="MiB", target=30, better="less")


async def _swept(site: Site, data: Path, limit: int) -> tuple[float, float, int]:
    """The seconds of the longest wait for a page after a sweep and during it, and the most bytes of memory."""
    store = {"limit": limit, "sweep_every": "1h", "min_age": "0s"}
    async with mirror_of(site.upstream, data, store=store) as mirror:
        await mirror.get(f"/simple/{content.SMALL}/")
        began = time.perf_counter()
        longest, most = await _watched(mirror, lambda status: status["store"]["swept"] is not None)
        until = 2 * time.perf_counter() - began
        alone, _ = await _watched(mirror, lambda status: time.perf_counter() > until)
        return alone, longest, most


async def _watched(mirror: Spawned, over: Callable[[Any], bool]) -> tuple[float, int]:
    """The longest wait for a page in seconds, and the most bytes of memory, until the status says that it is over."""
    pulse = Pulse(mirror.url.rstrip("/") + f"/simple/{content.SMALL}/")
    pulse.start()
    most = resident(mirror.pid)
    async with asyncio.timeout(300):
        while not over((await mirror.get("/-/status")).json()):
            most = max(most, resident(mirror.pid))
            await asyncio.sleep(0.05)
    return max(pulse.end()), most


async def added(site: Site) -> AsyncIterator[Row]:
    """`mirror add` of many gems, on a file system in memory and on the disk of temporary files."""
    gems = site.place("gems")
    gems.mkdir()
    count = 50 if site.rounds == 1 else GEMS
    for number in range(count):
        built = gem(f"gem{number // 8}", f"1.{number % 8}.0", size=4000)
        (gems / built.filename).write_bytes(built.content)
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as memory:
        rate = await _rate_of_adding(site, gems, count, Path(memory))
    yield Row(what=f"mirror add of {count} gems", ours=f"{rate:.0f}/s", figure=rate, unit="/s", target=500)
    rate = await _rate_of_adding(site, gems, count, site.place("added"))
    yield Row(what=f"mirror add of {count} gems, on disk", ours=f"{rate:.0f}/s", figure=rate, unit="/s")


async def _rate_of_adding(site: Site, gems: Path, count: int, place: Path) -> float:
    """How many gems a second are added to a new data directory below a place."""
    rates = []
    for number in range(site.rounds):
        data = place / str(number) / "data"
        data.parent.mkdir(parents=True)
        settings = write_settings(data, {"rubygems": {"format": "rubygems", "upstreams": []}})
        took, _ = await _ran("add", str(gems), "--config", str(settings))
        assert len(list((data / "uploads").rglob("*.json"))) == count
        rates.append(count / took)
    return statistics.median(rates)


MEASUREMENTS = {"great": numbers, "add": added}
