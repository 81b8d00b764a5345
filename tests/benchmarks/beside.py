"""This checkout beside another one, row by row in the same run: `python -m tests.benchmarks --beside DIR`.

Both mirrors run with this Python, have the same upstream and are asked in turn, A B A B …; a row shows the median of
the ratios of neighbours, seven of them. The upstream and the client are from this checkout.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.benchmarks import content
from tests.benchmarks.load import download, load
from tests.benchmarks.rows import CASES, Case, compiled, prepare
from tests.benchmarks.site import MB, Site, asked, in_turn, mirror_of, resident
from tests.benchmarks.table import Row
from tests.serving import Client, Spawned

LEAST = 0.95
"""What a row may be below the other checkout's."""
IDLE_SECONDS = 1.0


class Pair:
    """A site whose mirror is this checkout, with a mirror of another checkout beside it."""

    def __init__(self, site: Site, checkout: Path, other: Spawned) -> None:
        self.site = site
        self.checkout = checkout
        self.other = other
        self.rounds = site.loads


@asynccontextmanager
async def pair(site: Site, checkout: Path) -> AsyncIterator[Pair]:
    """Start the mirror of the other checkout."""
    async with mirror_of(site.upstream, site.place("other"), checkout=checkout) as other:
        yield Pair(site, checkout, other)


def url(client: Client, path: str) -> str:
    """A path at a mirror."""
    return client.url.rstrip("/") + path


async def throughput(both: Pair, case: Case) -> Row:
    """One URL of both."""
    await prepare(both.site, case)

    async def loader(client: Client) -> Callable[[], Awaitable[object]]:
        headers, first = dict(case.headers), await asked(client, case.path, case.headers)
        if case.conditional:
            headers["If-None-Match"] = first.headers["ETag"]
        status = 304 if case.conditional else 200
        return lambda: load(url(client, case.path), case.clients, case.seconds, headers, status)

    ours, other, figure = await in_turn(
        both.rounds,
        await loader(both.site.mirror),
        await loader(both.other),
        case.figure,  # type: ignore[arg-type]
    )
    return Row(
        what=case.what,
        ours=f"{ours:.0f}{case.unit}", beside=f"{other:.0f}{case.unit}", figure=figure, target=LEAST,
    )  # fmt: skip


async def less(
    both: Pair, what: str, unit: str, ours: Callable[[], Awaitable[float]], other: Callable[[], Awaitable[float]]
) -> Row:
    """A figure that is better when it is smaller, in turn."""
    pairs = [(await ours(), await other()) for _ in range(both.rounds)]
    mine, others = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Row(
        what=what,
        ours=f"{mine:.3g} {unit}", beside=f"{others:.3g} {unit}",
        figure=statistics.median(one / beside for one, beside in pairs), target=1 / LEAST, better="less",
    )  # fmt: skip


async def start_seconds(both: Pair, checkout: Path | None) -> float:
    """From the command to the first page."""
    began = time.perf_counter()
    async with mirror_of(both.site.upstream, both.site.place("started"), checkout=checkout) as mirror:
        reply = await mirror.get(f"/simple/{content.SMALL}/")
        assert reply.status == 200
        return time.perf_counter() - began


async def memory_mib(both: Pair, checkout: Path | None) -> float:
    """Resident memory at rest, after a small page and a large one."""
    async with mirror_of(both.site.upstream, both.site.place("fresh"), checkout=checkout) as mirror:
        for name in (content.SMALL, content.LARGE):
            await mirror.get(f"/simple/{name}/")
        await asyncio.sleep(IDLE_SECONDS)
        return resident(mirror.pid) / MB


async def cold_seconds(both: Pair, checkout: Path | None) -> float:
    """Until twenty clients have 100 MB that the mirror does not hold yet."""
    path = "/packages/cold/cold-1.0-py3-none-any.whl"
    async with mirror_of(both.site.upstream, both.site.place("cold"), checkout=checkout) as mirror:
        await mirror.get("/simple/cold/")
        clients = await asyncio.to_thread(download, url(mirror, path), 20)
        return max(one.whole for one in clients)


async def rows(site: Site, checkout: Path, names: tuple[str, ...]) -> AsyncIterator[Row]:
    """All rows, or those of some groups."""
    async with pair(site, checkout) as both:
        for group, cases in CASES.items():
            for case in cases if not names or group in names else ():
                yield await throughput(both, case)
        for group, what, unit, measure in (
            ("start", "start to first answer", "s", start_seconds),
            ("memory", "memory after two pages", "MiB", memory_mib),
            ("cold", "cold 100 MB, 20 clients: until all have it", "s", cold_seconds),
        ):
            if not names or group in names:
                if group == "cold":
                    await asyncio.to_thread(site.tree.blob, "cold", 100 * MB)
                yield await less(
                    both,
                    what,
                    unit,
                    lambda m=measure: m(both, None),
                    lambda m=measure: m(both, checkout),  # type: ignore[misc]
                )
        if not names or "resolve" in names:
            projects = await asyncio.to_thread(content.resolvable, site.tree)
            yield await less(
                both, "uv pip compile, 100 projects", "s",
                lambda: compiled(site, projects, url(site.mirror, "/simple/")),
                lambda: compiled(site, projects, url(both.other, "/simple/")),
            )  # fmt: skip
