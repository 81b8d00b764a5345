"""A worker, as a process: `python -m mirror.bulk.worker SOCKET…`, one for each socket that it is started with.

It forks first: modules are loaded once. Everything is done on one thread on purpose: a second one that makes thousands
of short calls into the kernel slows both down. The disk is waited for while the other workers fetch. It ends when its
socket does.
"""

import asyncio
import os
import pickle
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BufferedRWPair

from mirror.blobs import MemoryBody, Part
from mirror.bulk.orders import ENCODER, LENGTH, ORDERS, Brought, Kit, Order
from mirror.errors import Invalid, MirrorError, UpstreamProtocolError
from mirror.loops import event_loops, keep_smooth
from mirror.model import File, Format
from mirror.transfer.digests import Digests
from mirror.upstream import RawAnswer, Upstream, address, moment

PATIENCE = 300.0
"""Seconds that a batch may take; what has not come by then is left undone."""

Fetched = list[tuple[str, str, Part]]
"""A file and perhaps its sidecar: file names, kinds, bytes that are verified."""


async def bring(kit: Kit, orders: Sequence[Order]) -> list[list[Brought]]:
    """Fetch and store; nothing stands for an order that did not succeed."""
    fetched: list[Fetched] = [[] for _ in orders]
    waiting: Iterator[tuple[int, Order]] = iter(enumerate(orders))

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
        kit.blobs.store_all([part for one in fetched for _, _, part in one])
    except (MirrorError, OSError):
        return [[] for _ in orders]
    return [[Brought(name, kind, part.digest, len(part.content)) for name, kind, part in one] for one in fetched]


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


def serve(messages: BufferedRWPair) -> None:
    """Do what is ordered, batch after batch, until nobody orders any more."""
    first = _next(messages)
    if not first:
        return  # nobody has anything to bring
    kit: Kit = pickle.loads(first)
    keep_smooth()
    with asyncio.Runner(loop_factory=event_loops()) as runner:
        # An OSError: who gave the orders is gone.
        with suppress(OSError):
            while message := _next(messages):
                answer = ENCODER.encode(runner.run(bring(kit, ORDERS.decode(message))))
                messages.write(LENGTH.pack(len(answer)) + answer)
                messages.flush()
        for upstream in kit.upstreams.values():
            runner.run(upstream.close())


def _next(messages: BufferedRWPair) -> bytes:
    """The next message; nothing when there will be no more."""
    head = messages.read(LENGTH.size)
    return messages.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else b""


def main(sockets: Sequence[int]) -> None:
    """Become one process for each socket."""
    mine, *others = sockets
    for number in others:
        if os.fork() == 0:
            mine = number
            break
    for number in sockets:
        if number != mine:
            os.close(number)  # else its worker would never see its end
    with suppress(OSError), socket.socket(fileno=mine) as connection, connection.makefile("rwb") as messages:
        serve(messages)


if __name__ == "__main__":
    main([int(number) for number in sys.argv[1:]])
