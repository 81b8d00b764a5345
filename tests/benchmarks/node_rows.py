"""Several nodes over one PostgreSQL and one object store, beside one node; and several workers of one machine.

A cold file of four nodes beside one, profiled on two busy cores with 10 MB and 40 clients, medians of eight in turn
with the code before: all four take 0.32 s of a core, and the one 0.17 s, because each of them receives, hashes and
keeps the file. From an upstream as fast as the machine all clients have all after 0.41 s, and with one node after 0.30
s; before, after 0.49 and 0.39 s. What was waiting is gone: the object is almost sent when the file has come, the copy
for the cache is made behind its end, and one that follows asks for the row at once, not for the end of the flight.
From an upstream of 2 MB/s, as one across a network is, it is 1.01 times the time of one node.
"""

import asyncio
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from mirror.auth import digest, new_token
from tests import objects
from tests.benchmarks.commits import commits
from tests.benchmarks.front import ASKED, CLIENTS, SECONDS, SMALL, TEN_KB
from tests.benchmarks.load import Download, download, load, percentile
from tests.benchmarks.nginx import Nginx, free_port, index_of, nginx
from tests.benchmarks.object_rows import object_rows, requests_of, stores
from tests.benchmarks.pacing import paced
from tests.benchmarks.site import MB, Site, asked, bind, client_core, in_turn, mirror_of, times_asked
from tests.benchmarks.table import Row
from tests.builders import wheel
from tests.nodes.cluster import download as watched_download
from tests.postgres import PostgresServer, running_postgres
from tests.serving import Client, Spawned
from tests.uploading import basic, fields_of, form

NODES = 4
CLIENTS_OF_A_NODE = 10
COLD_BYTES = 100 * MB
PACED_SECONDS = 5
"""How long an upstream takes for the file that is as slow as one on the network, so that the machine is no limit."""
SLOW_BYTES = 20 * MB
"""The size of the file whose node is killed."""
SLOW_BYTES_PER_SECOND = 5 * MB
"""How fast upstream gives that one."""
UPLOADS, QUICK_UPLOADS = 200, 8
QUIET_SECONDS = 2.0
"""For how long transactions are counted; the database tells them a second later."""
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def cluster(
    site: Site, url: str, number: int, upstream: Nginx | None = None, **settings: Any
) -> AsyncIterator[dict[str, Spawned]]:
    """So many nodes over a database and an empty bucket, by the address at which they reach each other."""
    secret = site.place("secret")
    secret.write_text(new_token())
    secret.chmod(0o600)
    table = {
        "catalog": {"url": url},
        "blobs": objects.table("s3"),
        **settings,
    }
    async with AsyncExitStack() as stack:
        nodes = {}
        for _ in range(number):
            address = f"http://127.0.0.1:{free_port()}"
            node = {"address": address, "secret_file": str(secret)}
            one = mirror_of(upstream or site.upstream, site.place("node"), node=node, **table)
            nodes[address] = await stack.enter_async_context(one)
        yield nodes


def processor_seconds(pid: int) -> float:
    """Seconds of a core that a process and its children that live have used."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
    return own + sum(processor_seconds(int(child)) for child in children)


def memory_bytes(pid: int) -> int:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def hits(site: Site) -> AsyncIterator[Row]:
    """One node on PostgreSQL and objects with a warm cache, beside the same node on SQLite and a directory."""
    async with stores():
        with running_postgres(durable=True) as server:
            async with cluster(site, server.url(server.fresh()), 1) as nodes:
                (node,) = nodes.values()
                for what, path, headers in (("small page", SMALL, ASKED), ("10 KB file", TEN_KB, {})):
                    await asked(node, path, headers)
                    await asked(site.mirror, path, headers)
                    for one in (node, site.mirror):
                        bind(one, 1)
                    yield await _beside(site, what, path, headers, node)
                yield await _questions(site, server, node)
                held, embedded = memory_bytes(node.pid) / MB, memory_bytes(site.mirror.pid) / MB
                yield Row(
                    what="memory of a node; beside it one on SQLite", ours=f"{held:.0f} MiB",
                    beside=f"{embedded:.0f} MiB", figure=held / embedded, better="less",
                )  # fmt: skip


async def _beside(site: Site, what: str, path: str, headers: Mapping[str, str], node: Spawned) -> Row:
    def loading(one: Spawned) -> Callable[[], Any]:
        return lambda: load(one.url.rstrip("/") + path, CLIENTS, SECONDS, headers)

    with client_core():
        mine, others, figure = await in_turn(site.loads, loading(node), loading(site.mirror), lambda one: one.requests)
    return Row(
        what=f"{what} of a node on PostgreSQL and objects, beside SQLite",
        ours=f"{mine:.0f}/s", beside=f"{others:.0f}/s", figure=figure, target=0.95,
    )  # fmt: skip


async def _questions(site: Site, server: PostgresServer, node: Spawned) -> Row:
    """How many transactions and object requests there are for hits, above those of a node that nobody asks."""

    async def transactions() -> int:
        await asyncio.sleep(1.5)  # the database tells what a session did within a second of its last work
        return int(await asyncio.to_thread(server.sql, "SELECT sum(xact_commit) FROM pg_stat_database"))

    async def used(during: Callable[[], Any]) -> int:
        before = await transactions()
        await asyncio.gather(during(), asyncio.sleep(QUIET_SECONDS))
        return await transactions() - before

    async def nothing() -> None: ...

    before = await requests_of(node)
    idle = await used(nothing)
    busy = await used(lambda: load(node.url.rstrip("/") + SMALL, CLIENTS, SECONDS, ASKED))
    asked_objects = await requests_of(node) - before
    more = max(0, busy - idle)
    return Row(
        what="queries and object requests for a second of hits",
        ours=f"{more} + {asked_objects}", beside=f"idle {idle}", figure=asked_objects, target=0, better="less", unit="",
    )  # fmt: skip


async def crowd(nodes: Sequence[Client], path: str, clients: int) -> list[Download]:
    """One file by so many clients of each node at the same moment."""
    each = await asyncio.gather(
        *(asyncio.to_thread(download, f"{node.url.rstrip('/')}{path}", clients) for node in nodes)
    )
    return [one for part in each for one in part]


class ColdCrowd(msgspec.Struct):
    """Clients of all nodes that want one cold file, and afterwards as many of one node that want another."""

    whole: float
    """Seconds until the last client has all of it."""
    beside: float
    """The same of one node."""
    first: float
    """Seconds until the last client of all nodes has the first byte."""
    requests: int
    """How often upstream was asked."""
    processor: float
    """Seconds of a core that all nodes took, until every one of them had stored what it stores."""
    processor_beside: float
    """The same of one node."""


async def cold(site: Site) -> AsyncIterator[Row]:
    """A cold file that clients of all nodes want, beside as many clients of one node."""
    size = COLD_BYTES if site.rounds > 1 else 10 * MB
    rate = size // PACED_SECONDS
    async with stores(), paced(site.upstream.url, rate) as url:
        with running_postgres(durable=True) as server:
            for how, upstream in (("", site.upstream), (f" from {rate // MB} MB/s", replace(site.upstream, url=url))):
                async with cluster(site, server.url(server.fresh()), NODES, upstream) as nodes:
                    crowds = [await _cold_crowd(site, upstream, [*nodes.values()], size) for _ in range(site.rounds)]
                for row in _cold_rows(f"cold {size // MB} MB{how}", crowds):
                    yield row


async def _cold_crowd(site: Site, upstream: Nginx, nodes: Sequence[Spawned], size: int) -> ColdCrowd:
    wholes, firsts, used, requests = [], [], [], 0
    for which in (nodes, nodes[:1]):
        name = site.place("cold").name
        path = await asyncio.to_thread(site.tree.blob, name, size)
        for node in which:
            await node.get(f"/simple/{name}/")
        before = sum(processor_seconds(node.pid) for node in which)
        ended = await crowd(which, path, NODES * CLIENTS_OF_A_NODE // len(which))
        assert all(one.size == size for one in ended), "a client has another number of bytes"
        await asyncio.sleep(1)  # for what is stored behind the end
        used.append(sum(processor_seconds(node.pid) for node in which) - before)
        wholes.append(max(one.whole for one in ended))
        firsts.append(max(one.first for one in ended))
        requests = max(requests, times_asked(upstream, path))
        os.unlink(f"{site.tree.root}{path}")
    return ColdCrowd(wholes[0], wholes[1], firsts[0], requests, used[0], used[1])


def _cold_rows(what: str, crowds: Sequence[ColdCrowd]) -> Iterator[Row]:
    def middle(figure: Callable[[ColdCrowd], float]) -> float:
        return statistics.median(map(figure, crowds))

    what = f"{what}, {NODES * CLIENTS_OF_A_NODE} clients of {NODES} nodes"
    requests = max(one.requests for one in crowds)
    yield Row(what=f"{what}: upstream requests", ours=str(requests), figure=requests, unit="", target=1, better="less")
    yield Row(
        what=f"{what}; beside it of one",
        ours=f"{middle(lambda one: one.whole):.2f} s", beside=f"{middle(lambda one: one.beside):.2f} s",
        figure=middle(lambda one: one.whole / one.beside), target=1.1, better="less",
    )  # fmt: skip
    yield Row(
        what="the same: of a core, all nodes; beside it one",
        ours=f"{middle(lambda one: one.processor):.2f} s", beside=f"{middle(lambda one: one.processor_beside):.2f} s",
        figure=middle(lambda one: one.processor / one.processor_beside), better="less",
    )  # fmt: skip
    first = middle(lambda one: one.first) * 1e3
    yield Row(
        what="the same: last client's first byte", ours=f"{first:.0f} ms", figure=first, unit="ms", target=100,
        better="less",
    )  # fmt: skip


async def takeover(site: Site) -> AsyncIterator[Row]:
    """The node that fetches is killed at 60 % of a file, which clients of others want as well."""
    size = SLOW_BYTES if site.rounds > 1 else SLOW_BYTES // 4
    slow = f"limit_rate {SLOW_BYTES_PER_SECOND}; {index_of(site.tree.root)}"
    pauses, broken = [], 0
    async with stores(), nginx(site.place("slow"), slow, log=True) as upstream:
        with running_postgres() as server:
            for number in range(site.rounds):
                name = f"taken-over-{number}"
                path = await asyncio.to_thread(site.tree.blob, name, size)
                database = server.fresh()
                async with cluster(site, server.url(database), NODES, upstream) as nodes:
                    for node in nodes.values():
                        await node.get(f"/simple/{name}/")
                    running = [
                        (address, asyncio.create_task(watched_download(node.url.rstrip("/") + path)))
                        for address, node in nodes.items()
                        for _ in range(2)
                    ]
                    await asyncio.sleep(0.6 * size / SLOW_BYTES_PER_SECOND)
                    killed = await asyncio.to_thread(server.sql, "SELECT owner FROM flights", database)
                    await nodes[killed].end(signal.SIGKILL)
                    ended = [(address, await task) for address, task in running]
                others = [one for address, one in ended if address != killed]
                broken += sum(not one.whole for one in others)
                pauses.append(max(one.longest_pause for one in others))
    yield Row(
        what="kill -9 of the node that fetches: clients of others broken off",
        ours=str(broken), figure=broken, unit="", target=0, better="less",
    )  # fmt: skip
    pause = max(pauses)
    yield Row(
        what="the same: their longest pause", ours=f"{pause:.1f} s", figure=pause, unit="s", target=5, better="less"
    )


async def visible(site: Site) -> AsyncIterator[Row]:
    """From an upload that one node has answered to the answer of another that shows it."""
    secret = new_token()
    rights = {"rights": ["read", "upload"], "repositories": ["*"], "projects": ["*"]}
    auth = {"tokens": {"ci": {"sha256": digest(secret), **rights}}}
    number = UPLOADS if site.rounds > 1 else QUICK_UPLOADS
    times, missing = [], 0
    async with stores():
        with running_postgres(durable=True) as server:
            async with cluster(site, server.url(server.fresh()), 2, auth=auth) as nodes:
                first, second = nodes.values()
                for each in range(number):
                    built = wheel("visible", f"1.{each}")
                    data = form(fields_of(built).items(), built.filename, built.content)
                    reply = await first.ask("POST", "/legacy/", data, Authorization=basic(secret))
                    assert reply.status == 200, reply.text
                    began = time.perf_counter()
                    page = await second.get("/simple/visible/")
                    times.append(time.perf_counter() - began)
                    missing += built.filename not in page.text
    p50, p99 = (percentile(times, part) * 1e3 for part in (0.5, 0.99))
    yield Row(
        what=f"{number} uploads on one node, not in the next answer of another",
        ours=str(missing), figure=missing, unit="", target=0, better="less",
    )  # fmt: skip
    yield Row(
        what="the other node's answer after an upload: p50, p99", ours=f"{p50:.1f}, {p99:.1f} ms", figure=p99, unit="ms"
    )


async def workers(site: Site) -> AsyncIterator[Row]:
    """One worker and two: what a parsed request costs, and how many there are in a second."""
    figures = []
    for number in (1, 2):
        words = ("--workers", str(number)) if number > 1 else ()
        async with mirror_of(site.upstream, site.place("workers"), *words) as mirror:
            # A request with TE is never answered by repeating an earlier answer.
            url, headers = f"{mirror.url.rstrip('/')}{SMALL}", {**ASKED, "TE": "trailers"}
            await asked(mirror, SMALL, headers)
            await load(url, CLIENTS, SECONDS, headers)
            costs, speeds = [], []
            for _ in range(site.loads):
                before, began = processor_seconds(mirror.pid), time.perf_counter()
                one = await load(url, CLIENTS, SECONDS, headers)
                answered = one.requests * (time.perf_counter() - began)
                costs.append((processor_seconds(mirror.pid) - before) / answered)
                speeds.append(one.requests)
            figures.append((statistics.median(costs), statistics.median(speeds)))
    (one_cost, one_speed), (two_cost, two_speed) = figures
    yield Row(
        what="a core's time for a parsed page, 2 workers; beside it 1",
        ours=f"{two_cost * 1e6:.0f} µs", beside=f"{one_cost * 1e6:.0f} µs", figure=one_cost / two_cost, target=0.9,
    )  # fmt: skip
    yield Row(
        what="parsed pages, 2 workers; beside it 1 (the client needs a core, too)",
        ours=f"{two_speed:.0f}/s", beside=f"{one_speed:.0f}/s", figure=two_speed / one_speed,
    )  # fmt: skip


async def nodes(site: Site) -> AsyncIterator[Row]:
    """All of these, what the object store costs, and how many commits a second there are."""
    for measurement in (hits, cold, takeover, visible, workers, object_rows, commits):
        async for row in measurement(site):
            yield row


MEASUREMENTS: Mapping[str, Callable[[Site], AsyncIterator[Row]]] = {
    "nodes": nodes,
    "node-hits": hits,
    "node-cold": cold,
    "node-takeover": takeover,
    "node-visible": visible,
    "workers": workers,
}
