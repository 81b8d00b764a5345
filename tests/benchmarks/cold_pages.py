"""What comes for the first time: small pages by many clients, and a resolver that meets a whole dependency graph.

The peer is nginx as a cache before the same upstream, with as empty a store, asked in turn with the mirror.

The bounds of the small pages are not reached. On 2026-11-27 (2 cores that others used as well), in turns of the same
run with the code of the hours before, a page took 0.74 ms of a core for 0.96 ms, at 1,160/s for 980/s and with a p99
of 25 ms for 40 ms. Where nothing else ran, that was 0.94 ms, 1,043/s and 28 ms, and nginx took 0.39 ms, 2,480/s and 12
ms.

Since then such pages go out as they are, what waits for one answer has one callback, and their URLs are made sooner:
in turns with the code before that, of 24, 24 and 40 rounds of 150 pages beside the tests of others, a page took 0.81,
0.83 and 0.87 times as much of a core (the median of neighbours; the best rounds took 0.62 ms for 0.80 ms, 0.68 for
0.77 and 0.87 for 0.92, with 1,365/s, 1,476/s and 1,073/s). That Python was one without profile-guided optimization;
with that of Debian (3.11), a page takes a tenth less than with the same version built without. With it, and where
nothing else ran, three runs gave 0.76, 0.84 and 0.94 ms, p99 19, 21 and 22 ms, the last two at 1,213/s and 1,075/s.
nginx took 0.43, 0.81 and 1.07 ms, p99 10, 25 and 34 ms: most of the difference between runs is the kernel's.

Where the processor time of the event loop goes, by 2,215 samples of 8,000 pages:

    24.0 %  the server: aiohttp, connection, middleware     6.9 %  the catalog's row of the page
    20.0 %  request to upstream, and its answer             4.2 %  handing pages to the catalog's writer
    14.4 %  parsing the page of ten files                   3.5 %  rendering the answer
    14.2 %  single flights, merging, policy, view           3.0 %  the event loop itself
     7.4 %  page cache, ETag, head of the answer            1.7 %  compressing, and the disk cache: of what memory drops
                                                            0.5 %  log and metrics

The thread that writes the catalog takes 7 % beside that. Of all processor time, 12 % is the kernel's and nearly all of
the rest the interpreter's, in no place much: what is left is the number of Python functions that a page goes through.
A request to upstream by itself takes 40 µs more than the bytes there and back, without unpacking; parsing takes 70 µs,
the same page for its second client, with compressing it, 210 µs. What was tried and won nothing: flights that run in
the task of their first caller, and writing the catalog half as often. The p99 follows from all that: 16 requests go
through each stage together, so that each waits for the work of all 16 (10 ms at the bound); in the longest gaps
between answers the process waited for a core about as long as it had one. A page with unknown fields is still looked
at field by field. The resolver was at 1.9 times nginx before all this, within its bound.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from tests.benchmarks import content
from tests.benchmarks.load import Headers, one_of_each, percentile
from tests.benchmarks.nginx import Nginx, cache_of, nginx
from tests.benchmarks.rows import compiled
from tests.benchmarks.site import JSON, PIP, Site, bind, client_core, mirror_of, processes, processor
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


async def asked_once(server: Spawned | Nginx, paths: Sequence[str], headers: Headers) -> ColdRound:
    """Ask for each path once, with CLIENTS connections."""
    before, began = busy_of(server), time.perf_counter()
    times = await asyncio.to_thread(one_of_each, server.url.rstrip("/"), paths, CLIENTS, headers)
    took = time.perf_counter() - began
    await asyncio.sleep(0.2)  # what is done behind the answers counts as well
    return ColdRound(len(paths) / took, percentile(times, 0.99), (busy_of(server) - before) / len(paths))


async def pages(site: Site) -> AsyncIterator[Row]:
    """Small pages that nobody has asked for, in rounds of PAGES."""
    rounds = [[f"round-{number}-{page}" for page in range(PAGES)] for number in range(2 * site.rounds + 1)]
    await asyncio.to_thread(content.small_pages, site.tree, [name for names in rounds for name in names])
    headers = {"Accept": JSON, **PIP}
    async with both(site) as (mirror, cache):
        ours, others = [], []
        for server in (mirror, cache):
            bind(server, 1)
        with client_core():
            for names in rounds:
                paths = [f"/simple/{name}/" for name in names]
                ours.append(await asked_once(mirror, paths, headers))
                others.append(await asked_once(cache, paths, headers))
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
            before = busy_of(mirror)
            mine = await compiled(site, names, f"{mirror.url.rstrip('/')}/simple/")
            busy.append((busy_of(mirror) - before) / len(names))
            rounds.append((mine, await compiled(site, names, f"{cache.url}/simple/")))
    mine, beside = (statistics.median(side) for side in zip(*rounds, strict=True))
    yield Row(
        what=f"uv pip compile, {len(names)} projects, cold",
        ours=f"{mine * 1e3:.0f} ms", beside=f"{beside * 1e3:.0f} ms",
        figure=statistics.median(one / other for one, other in rounds), target=2.0, better="less",
    )  # fmt: skip
    spent = statistics.median(busy) * 1e3
    yield Row(what="the same: processor time for a project", ours=f"{spent:.1f} ms", figure=spent, unit="ms")


def busy_of(server: Spawned | Nginx) -> float:
    """Return the seconds of processor time that a server and its workers have had: nginx answers in one."""
    return sum(map(processor, processes(server)))


MEASUREMENTS: Mapping[str, Callable[[Site], AsyncIterator[Row]]] = {"cold-pages": pages, "cold-resolve": resolve}
