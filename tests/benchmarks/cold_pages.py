"""What comes for the first time: small pages by many clients, and a resolver that meets a whole dependency graph.

The peer is nginx as a cache before the same upstream, with as empty a store, asked in turn with the mirror.

The bounds of the small pages are not reached. On 2026-11-27 (2 cores that eight others used as well) a page took 0.97
ms of a core for the 1.36 to 1.46 ms of the day before, in turns of the same run, at 720 to 770/s for 530 to 580/s and
with a p99 of 50 ms for 75 ms. The resolver is at 1.9 times nginx, within its bound.
Where the time of the event loop goes, by 1,384 samples (threads have another 0.06 ms):

    15.8 %  parsing the page of ten files                  9.0 %  page cache, ETag, head of the answer
    15.4 %  the server: aiohttp, connection, middleware    7.2 %  compressing the answer (gzip)
    14.5 %  request to upstream, and its answer            6.3 %  rendering to see that it can be rendered
    10.5 %  single flights, merging, policy, view          3.7 %  rendering the answer
     7.3 %  the catalog's row of the page                  3.4 %  handing pages to the catalog's writer
     6.9 %  the rest: digest, collector, event loop, log

No stage alone is more than a sixth, so that 0.6 ms needs another one for each of the three largest: a parser of pages
that is not Python, a server without aiohttp's handlers, a client that shares its parser's work. What was large is gone:
threads that fought with the event loop for the interpreter, to read one row and to write each page by itself, took a
third.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from tests.benchmarks import content
from tests.benchmarks.load import Headers, one_of_each, percentile
from tests.benchmarks.nginx import Nginx, cache_of, nginx
from tests.benchmarks.rows import compiled
from tests.benchmarks.site import JSON, PIP, Site, mirror_of, processor
from tests.benchmarks.table import Row
from tests.serving import Spawned

CLIENTS = 16
PAGES = 400
"""Pages of a round."""
PROJECTS = 119
"""Projects that are resolved."""


class ColdRound(msgspec.Struct, frozen=True):
    """What a server did with pages that it did not have."""

    rate: float
    """Per second."""
    slow: float
    """The 99th percentile of the answers' times, in seconds."""
    busy: float
    """Seconds of processor time for each."""


@asynccontextmanager
async def both(site: Site) -> AsyncIterator[tuple[Spawned, Nginx]]:
    """A mirror and a cache of nginx, which hold nothing."""
    place = site.place("cache")
    http, server = cache_of(site.upstream.url, place)
    async with nginx(place, server, http) as cache, mirror_of(site.upstream, site.place("mirror")) as mirror:
        yield mirror, cache


async def asked_once(url: str, pid: int, paths: Sequence[str], headers: Headers) -> ColdRound:
    """Ask for each path once, with CLIENTS connections."""
    before, began = with_children(pid), time.perf_counter()
    times = await asyncio.to_thread(one_of_each, url.rstrip("/"), paths, CLIENTS, headers)
    took = time.perf_counter() - began
    await asyncio.sleep(0.2)  # what is done behind the answers counts as well
    return ColdRound(len(paths) / took, percentile(times, 0.99), (with_children(pid) - before) / len(paths))


async def pages(site: Site) -> AsyncIterator[Row]:
    """Small pages that nobody has asked for, in rounds of PAGES."""
    rounds = [[f"round-{number}-{page}" for page in range(PAGES)] for number in range(2 * site.rounds + 1)]
    await asyncio.to_thread(content.small_pages, site.tree, [name for names in rounds for name in names])
    headers = {"Accept": JSON, **PIP}
    async with both(site) as (mirror, cache):
        ours, others = [], []
        for names in rounds:
            paths = [f"/simple/{name}/" for name in names]
            ours.append(await asked_once(mirror.url, mirror.pid, paths, headers))
            others.append(await asked_once(cache.url, cache.pid, paths, headers))
    mine, beside = ours[1:], others[1:]  # the first round imports and connects
    yield _row("rate", mine, beside, lambda one: one.rate, "/s", 1500, more=True)
    yield _row("processor time", mine, beside, lambda one: one.busy * 1e3, "ms", 0.6)
    yield _row("p99", mine, beside, lambda one: one.slow * 1e3, "ms", 15)


def _row(
    what: str, ours: Sequence[ColdRound], others: Sequence[ColdRound], figure: Callable[[ColdRound], float],
    unit: str, target: float, *, more: bool = False,
) -> Row:  # fmt: skip
    """The middle of the rounds of both sides."""
    mine, beside = (statistics.median(map(figure, side)) for side in (ours, others))
    return Row(
        what=f"cold small page, {CLIENTS} clients: {what}",
        ours=f"{mine:.3g} {unit}", beside=f"{beside:.3g} {unit}",
        figure=mine, unit=unit, target=target, better="more" if more else "less",
    )  # fmt: skip


async def resolve(site: Site) -> AsyncIterator[Row]:
    """`uv pip compile` of PROJECTS projects, of which neither side has a page or a metadata file."""
    names = await asyncio.to_thread(content.resolvable, site.tree, PROJECTS)
    rounds, busy = [], []
    for _ in range(site.rounds):
        async with both(site) as (mirror, cache):
            before = with_children(mirror.pid)
            mine = await compiled(site, names, f"{mirror.url.rstrip('/')}/simple/")
            busy.append((with_children(mirror.pid) - before) / len(names))
            rounds.append((mine, await compiled(site, names, f"{cache.url}/simple/")))
    mine, beside = (statistics.median(side) for side in zip(*rounds, strict=True))
    yield Row(
        what=f"uv pip compile, {len(names)} projects, cold",
        ours=f"{mine * 1e3:.0f} ms", beside=f"{beside * 1e3:.0f} ms",
        figure=statistics.median(one / other for one, other in rounds), target=2.0, better="less",
    )  # fmt: skip
    spent = statistics.median(busy) * 1e3
    yield Row(what="the same: processor time for a project", ours=f"{spent:.1f} ms", figure=spent, unit="ms")


def with_children(pid: int) -> float:
    """Return the seconds of processor time that a process and its children have had: nginx answers in a child."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return processor(pid) + sum(processor(int(child)) for child in children)


MEASUREMENTS: Mapping[str, Callable[[Site], AsyncIterator[Row]]] = {"cold-pages": pages, "cold-resolve": resolve}
