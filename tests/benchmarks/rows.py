"""The measurements. Each is a coroutine that takes the Site and gives rows."""

import asyncio
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from tests.benchmarks import content
from tests.benchmarks.load import WRK, Download, Load, Pulse, ask, download, load, percentile
from tests.benchmarks.nginx import cache_of, nginx
from tests.benchmarks.site import (
    JSON,
    MB,
    PIP,
    UV,
    Site,
    asked,
    in_turn,
    mb,
    mirror_of,
    processor,
    resident,
    times_asked,
)
from tests.benchmarks.table import Row
from tests.serving import spawned


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One URL that is requested again and again."""

    what: str
    path: str
    headers: Mapping[str, str]
    clients: int
    target: float | None
    """The least part of nginx's figure."""
    conditional: bool = False
    """With the ETag of a first response, so that the answer is 304."""
    bytes_per_second: bool = False

    @property
    def seconds(self) -> float:
        return 2.0 if self.bytes_per_second else 1.0

    @property
    def unit(self) -> str:
        return " MB/s" if self.bytes_per_second else "/s"

    def figure(self, one: Load) -> float:
        return one.received / 1e6 if self.bytes_per_second else one.requests


HUNDRED = "/packages/hundred/hundred-1.0-py3-none-any.whl"
"""A file of 100 MB, which `prepare` writes."""


def _cases() -> Mapping[str, Sequence[Case]]:
    small, large = f"/simple/{content.SMALL}/", f"/simple/{content.LARGE}/"
    ten_kb = f"/packages/{content.TEN_KB}/{content.TEN_KB.replace('-', '_')}-1.0-py3-none-any.whl"
    conditional = {"Accept": JSON, **PIP}
    return {
        "small": [
            Case(what="small page, 32 clients", path=small, headers=conditional, clients=32, target=0.5),
            Case(what="small page, 1 client", path=small, headers=conditional, clients=1, target=0.8),
            # A request with TE is never answered by repeating an earlier answer.
            Case(
                what="small page, 32 clients, each request parsed",
                path=small, headers={**PIP, "TE": "trailers"}, clients=32, target=None,
            ),
        ],
        "large": [
            Case(
                what=f"5,000-file page, {name}, {form}, 8 clients",
                path=large, headers={"Accept": accept, **headers}, clients=8, target=1.0,
            )
            for name, accept in (("HTML", "text/html"), ("JSON", JSON))
            for form, headers in (("plain", {}), ("as pip asks", PIP), ("as uv asks", UV))
        ],
        "unmodified": [
            Case(
                what=f"304 of the {name} page",
                path=path, headers=conditional, clients=32, target=0.5, conditional=True,
            )
            for name, path in ((content.SMALL, small), (content.LARGE, large))
        ],
        "files": [
            Case(what="10 KB file, 32 clients", path=ten_kb, headers={}, clients=32, target=0.35),
            Case(
                what="100 MB file, 8 clients",
                path=HUNDRED, headers={}, clients=8, target=0.9, bytes_per_second=True,
            ),
        ],
    }  # fmt: skip


CASES = _cases()


async def prepare(site: Site, case: Case) -> None:
    """Write what a case needs and the site does not have from the start."""
    if case.path == HUNDRED:
        await asyncio.to_thread(site.tree.blob, "hundred", 100 * MB)


async def compare(site: Site, case: Case) -> Row:
    """One URL of the mirror against the same bytes from nginx."""
    await prepare(site, case)
    async with site.captured(case.path, case.headers) as (_, beside):
        mine, others, status = dict(case.headers), dict(case.headers), 200
        if case.conditional:
            status = 304
            mine["If-None-Match"] = (await asked(site.mirror, case.path, case.headers)).headers["ETag"]
            head, _ = await asyncio.to_thread(ask, beside, case.headers)
            others["If-None-Match"] = next(
                line.partition(": ")[2] for line in head.splitlines() if line.startswith("ETag")
            )
        ours, other, figure = await in_turn(
            site.loads,
            lambda: load(site.url(case.path), case.clients, case.seconds, mine, status),
            lambda: load(beside, case.clients, case.seconds, others, status),
            case.figure,
        )
    return Row(
        what=case.what,
        ours=f"{ours:.0f}{case.unit}", beside=f"{other:.0f}{case.unit}", figure=figure, target=case.target,
    )  # fmt: skip


def beside_nginx(name: str) -> Callable[[Site], AsyncIterator[Row]]:
    """Return the measurement of a group of cases."""

    async def measurement(site: Site) -> AsyncIterator[Row]:
        for case in CASES[name]:
            yield await compare(site, case)

    return measurement


async def cold(site: Site) -> AsyncIterator[Row]:
    """100 MB that nobody holds, by twenty clients at once; nginx is a cache with a lock here."""
    ours: list[list[Download]] = []
    others: list[list[Download]] = []
    requests = 0
    for number in range(site.rounds):
        name = f"cold-{number}"
        path = await asyncio.to_thread(site.tree.blob, name, 100 * MB)
        place = site.place("cache")
        http, server = cache_of(site.upstream.url, place)
        async with nginx(place, server, http) as cache, mirror_of(site.upstream, site.place("mirror")) as mirror:
            await mirror.get(f"/simple/{name}/")  # every client has read the page before
            before = times_asked(site.upstream, path)
            ours.append(await asyncio.to_thread(download, f"{mirror.url.rstrip('/')}{path}", 20))
            requests = max(requests, times_asked(site.upstream, path) - before)
            others.append(await asyncio.to_thread(download, f"{cache.url}{path}", 20))
        assert all(one.size == 100 * MB for one in [*ours[-1], *others[-1]]), "a client has another number of bytes"

    def median(side: list[list[Download]], figure: Callable[[Download], float]) -> float:
        return statistics.median(max(figure(one) for one in clients) for clients in side)

    first, beside = median(ours, lambda one: one.first), median(others, lambda one: one.first)
    what = "cold 100 MB, 20 clients"
    yield Row(what=f"{what}: upstream requests", ours=str(requests), figure=requests, unit="", target=1, better="less")
    yield Row(
        what=f"{what}: slowest first byte",
        ours=f"{first * 1e3:.0f} ms", beside=f"{beside * 1e3:.0f} ms",
        figure=first * 1e3, unit="ms", target=50, better="less",
    )  # fmt: skip
    whole, beside = median(ours, lambda one: one.whole), median(others, lambda one: one.whole)
    yield Row(
        what=f"{what}: until all have it",
        ours=f"{whole:.2f} s", beside=f"{beside:.2f} s",
        figure=whole / beside, target=1.0, better="less",
    )  # fmt: skip


async def resolve(site: Site) -> AsyncIterator[Row]:
    """`uv pip compile` of a hundred projects, with an empty cache each time; the best of five."""
    names = await asyncio.to_thread(content.resolvable, site.tree)
    ours, static = site.url("/simple/"), f"{site.upstream.url}/simple/"
    await compiled(site, names, ours)
    rounds = [(await compiled(site, names, ours), await compiled(site, names, static)) for _ in range(5)]
    mine, beside = map(min, zip(*rounds, strict=True))
    yield Row(
        what="uv pip compile, 100 projects",
        ours=f"{mine * 1e3:.0f} ms", beside=f"{beside * 1e3:.0f} ms",
        figure=mine / beside, target=1.25, better="less",
    )  # fmt: skip


async def compiled(site: Site, names: Sequence[str], index: str) -> float:
    """Return the seconds that `uv pip compile` takes with that index."""
    wanted = site.directory / "requirements.in"
    wanted.write_text("".join(f"{name}\n" for name in names))
    with tempfile.TemporaryDirectory(dir=site.directory) as cache:
        words = ["pip", "compile", str(wanted), "--default-index", index, "--cache-dir", cache, "--no-config"]
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "uv", *words, "--quiet", "--only-binary", ":all:", "--python", sys.executable,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))},
        )  # fmt: skip
        out, said = await process.communicate()
        assert process.returncode == 0, said.decode()
        assert out.count(b"==") == len(names)
        return time.perf_counter() - began


async def memory(site: Site) -> AsyncIterator[Row]:
    """Resident memory: at rest, and during a large download with many readers."""
    async with spawned(site.place("fresh"), DEFAULT) as mirror:
        await asyncio.sleep(1)
        rest = resident(mirror.pid)
    yield Row(what="memory after the start", ours=mb(rest), figure=rest / MB, unit="MiB", target=80, better="less")
    path = await asyncio.to_thread(site.tree.blob, "huge-cold", site.megabytes * MB)
    async with mirror_of(site.upstream, site.place("mirror")) as mirror:
        await mirror.get(f"/simple/{content.SMALL}/")
        await mirror.get("/simple/huge-cold/")
        rest = most = resident(mirror.pid)
        downloads = asyncio.create_task(asyncio.to_thread(download, f"{mirror.url.rstrip('/')}{path}", 20))
        while not downloads.done():
            await asyncio.sleep(0.05)
            most = max(most, resident(mirror.pid))
        await downloads
    yield Row(what="memory idle, after pages", ours=mb(rest), figure=rest / MB, unit="MiB", target=80, better="less")
    yield Row(
        what=f"memory more, cold {site.megabytes} MB with 20 readers",
        ours=mb(most - rest), figure=(most - rest) / MB, unit="MiB", target=40, better="less",
    )  # fmt: skip


DEFAULT: Mapping[str, Any] = {
    "pypi": {"format": "pypi", "upstreams": ["http://127.0.0.1:9/simple/"]},
    "rubygems": {"format": "rubygems", "upstreams": ["http://127.0.0.1:9/"]},
}
"""The two default repositories, with nobody upstream."""


async def start(site: Site) -> AsyncIterator[Row]:
    """From the command to the first page; the best of five."""
    data = site.place("started")
    took = []
    for _ in range(5):
        began = time.perf_counter()
        async with mirror_of(site.upstream, data) as mirror:
            reply = await mirror.get(f"/simple/{content.SMALL}/")
            took.append((time.perf_counter() - began, processor(mirror.pid)))
            assert reply.status == 200
    seconds, busy = map(min, zip(*took, strict=True))
    ours = f"{seconds:.2f} s"
    yield Row(what="start to first answer", ours=ours, figure=seconds, unit="s", target=1, better="less")
    yield Row(what="start: processor time", ours=f"{busy:.2f} s", figure=busy, unit="s")


async def latency(site: Site) -> AsyncIterator[Row]:
    """Small pages while the server is busy with something else."""
    path = await asyncio.to_thread(site.tree.blob, "huge", site.megabytes * MB)
    await asyncio.to_thread(download, site.url(path), 1)
    page = site.url(f"/simple/{content.SMALL}/")
    async with site.captured(f"/simple/{content.SMALL}/", {}) as (beside, other):
        ours = await beating(page, lambda: download_for(site, site.url(path)))
        others = await beating(other, lambda: download_for(site, f"{beside.url}{path}"))
    yield _p99(f"small page while 8 clients download {site.megabytes} MB: p99", ours, others, 20)

    changes = content.changing(site.tree, 5 if site.rounds == 1 else 20)
    first = next(changes)

    async def change() -> None:
        for only in itertools.chain([first], changes):
            reply = await site.mirror.get(f"/simple/{content.LARGE}/", Accept=JSON, Cache_Control="no-cache")
            assert only in reply.body
            await site.mirror.get(f"/simple/{content.LARGE}/", Accept="text/html", Accept_Encoding="gzip")

    yield _p99("small page while 5,000-file pages change: p99", await beating(page, change), None, 20)


async def beating(url: str, work: Callable[[], Awaitable[object]]) -> list[float]:
    """How long small answers took while something was done."""
    pulse = Pulse(url)
    pulse.start()
    await work()
    return pulse.end()


async def download_for(site: Site, url: str) -> None:
    """Eight clients, as fast as they can, for a while."""
    if WRK is None:
        await asyncio.to_thread(download, url, 8)
    else:
        await load(url, 8, 3.0 if site.loads == 1 else 6.0)


def _p99(what: str, ours: list[float], others: list[float] | None, target: float) -> Row:
    figure = percentile(ours, 0.99) * 1e3
    return Row(
        what=what,
        ours=f"{figure:.1f} ms",
        beside=f"{percentile(others, 0.99) * 1e3:.1f} ms" if others else "",
        figure=figure, unit="ms", target=target, better="less",
    )  # fmt: skip


MEASUREMENTS: Mapping[str, Callable[[Site], AsyncIterator[Row]]] = {
    **{name: beside_nginx(name) for name in CASES},
    "cold": cold,
    "resolve": resolve,
    "memory": memory,
    "start": start,
    "latency": latency,
}
