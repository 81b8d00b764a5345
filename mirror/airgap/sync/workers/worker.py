"""A worker process: `python -m mirror.airgap.sync.workers.worker SOCKETS …`, a fork for each list of sockets.

It forks first: modules are loaded once. Each of its sockets is a hand, which has one batch at a time. Everything but
making files durable is done on one thread on purpose: a second one that makes thousands of short calls into the kernel
slows both down. It ends when its sockets do.
"""

import asyncio
import os
import pickle
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from mirror.airgap.sync.workers.messages import ENCODER, ORDERS, Job, JobResult, WorkerConfig, receive, send
from mirror.blobs import MemoryBody, Part
from mirror.errors import Invalid, MirrorError, UpstreamProtocolError
from mirror.model import File, Format
from mirror.runtime import event_loops, tune_runtime
from mirror.transfer.digests import Digests
from mirror.upstream import RawAnswer, Upstream, address, moment

PATIENCE = 300.0
"""Seconds that a batch may take; what has not come by then is left undone."""

Fetched = list[tuple[str, str, Part]]
"""A file and perhaps its sidecar: file names, kinds, bytes that are verified."""


async def bring(kit: WorkerConfig, orders: Sequence[Job]) -> list[list[JobResult]]:
    """Fetch and store; nothing stands for an order that did not succeed."""
    fetched: list[Fetched] = [[] for _ in orders]
    waiting: Iterator[tuple[int, Job]] = iter(enumerate(orders))

    async def work() -> None:
        for number, order in waiting:
            try:
                upstream = kit.upstreams[order.file.source]
                fetched[number] = await fetch(upstream, kit.formats[order.format], order.file)
            except (MirrorError, OSError):
                pass  # the usual way finds out more

    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*(work() for _ in range(kit.connections)))
    try:
        await kit.blobs.store_all([part for one in fetched for _, _, part in one])
    except (MirrorError, OSError):
        return [[] for _ in orders]
    return [[JobResult(name, kind, part.digest, len(part.content)) for name, kind, part in one] for one in fetched]


async def fetch(upstream: Upstream, format: Format, file: File) -> Fetched:
    """A small file, with its sidecar where that can be made from it. Raises NotFound, UpstreamError."""
    raw = await upstream.fetch_small(address(file.url), file.size or 0)
    if len(raw.body) != file.size:
        raise UpstreamProtocolError(f"{file.filename} has not the {file.size} bytes promised.")
    digests = Digests(file.digests)
    digests.update(raw.body)
    part = Part(content=raw.body, digest=digests.verified(file.filename), date=_date(file, raw))
    fetched: Fetched = [(file.filename, "file", part)]
    if format.has_sidecar(file) and (made := await _sidecar(format, file, part)) is not None:
        fetched.append((format.sidecar_name(file), "sidecar", made))
    return fetched


async def _sidecar(format: Format, file: File, part: Part) -> Part | None:
    """The sidecar as the file itself has it; None when it cannot be had from it, or its index promises another."""
    try:
        made = await format.sidecar_make(file, MemoryBody(part.content, part.digest))
        format.sidecar_check(file, made)
    except (Invalid, UpstreamProtocolError):
        return None
    return Part(content=made, digest=MemoryBody.of(made).digest)


def _date(file: File, raw: RawAnswer) -> int | None:
    date = int(file.uploaded.timestamp()) if file.uploaded else moment(raw.headers.get("Last-Modified"))
    return None if date is None else min(max(0, date), int(time.time()))


async def serve(number: int) -> None:
    """Be a hand: do what is ordered through a socket, batch after batch, until nobody orders any more."""
    # An OSError: who gave the orders is gone.
    with suppress(asyncio.IncompleteReadError, OSError):
        reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=number))
        kit: WorkerConfig = pickle.loads(await receive(reader))
        try:
            while True:
                orders = ORDERS.decode(await receive(reader))
                send(writer, ENCODER.encode(await bring(kit, orders)))
                await writer.drain()
        finally:
            writer.close()
            for upstream in kit.upstreams.values():
                await upstream.close()


async def work(sockets: Sequence[int]) -> None:
    """Be a worker."""
    await asyncio.gather(*map(serve, sockets))


def main(workers: Sequence[Sequence[int]]) -> None:
    """Become one process for each list of sockets."""
    mine, *others = workers
    for sockets in others:
        if os.fork() == 0:
            mine = sockets
            break
    for sockets in workers:
        if sockets is not mine:
            for number in sockets:
                os.close(number)  # else its worker would never see its end
    tune_runtime()
    with asyncio.Runner(loop_factory=event_loops()) as runner:
        runner.run(work(mine))


if __name__ == "__main__":
    main([[int(number) for number in sockets.split(",")] for sockets in sys.argv[1:]])
