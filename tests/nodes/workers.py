"""Workers of one `mirror serve --workers N`: which processes they are, and a client for each."""

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.serving import Client, Spawned

FULL = bool(os.environ.get("NODES_FULL"))
"""Whether tests take as many processes, clients and bytes as what is promised says, and those run that take long."""
on_demand = pytest.mark.skipif(not FULL, reason="takes long: set NODES_FULL=1")
patient = pytest.mark.timeout(900)


def _rounds(text: str) -> range:
    first, _, end = text.rpartition("-")
    return range(int(first or 0), int(end))


ROUNDS = _rounds(os.environ.get("NODES_ROUNDS", "20"))
"""The rounds of kills, pauses and races, each with its own chances: on demand 200 of them, or a part as `100-200`."""
MANY = len(ROUNDS) > 20
PAUSE_SECONDS = 5.0
"""The longest pause that a client sees when another process than its own dies."""


def workers_of(mirror: Spawned) -> list[int]:
    """The processes that answer."""
    children = Path(f"/proc/{mirror.pid}/task/{mirror.pid}/children").read_text().split()
    return sorted(map(int, children))


def worker_at(port: int, workers: list[int]) -> int | None:
    """The process that has the server's end of a connection from this local port; None while none has it."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[2].rpartition(":")[2], 16) == port:
            inodes.add(fields[9])
    for pid in workers:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(entry)
            except OSError:
                continue
            if (found := re.fullmatch(r"socket:\[(\d+)\]", target)) and found[1] in inodes:
                return pid
    return None


@asynccontextmanager
async def client_of_each(mirror: Spawned) -> AsyncIterator[dict[int, Client]]:
    """A client for each worker, whose one connection that worker answers."""
    async with clients_of_each(mirror, 1) as clients:
        yield {pid: each[0] for pid, each in clients.items()}


@asynccontextmanager
async def clients_of_each(mirror: Spawned, count: int) -> AsyncIterator[dict[int, list[Client]]]:
    """So many clients for each worker, whose one connection that worker answers; others are closed again."""
    clients: dict[int, list[Client]] = {pid: [] for pid in workers_of(mirror)}
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(120):
            while any(len(each) < count for each in clients.values()):
                client, pid = await _connect(mirror, [*clients])
                if pid is None or len(clients[pid]) >= count:
                    await client.session.close()
                    continue
                await stack.enter_async_context(client.session)
                clients[pid].append(client)
        yield clients


@asynccontextmanager
async def clients_of_one(mirror: Spawned, count: int, others: int) -> AsyncIterator[tuple[int, list[Client]]]:
    """A worker with so many clients or more, which come first, and so many or more of others; with one connection each.

    It is whichever has got that many first.
    """
    clients: dict[int, list[Client]] = {}
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(120):
            while True:
                client, pid = await _connect(mirror, workers_of(mirror))
                await stack.enter_async_context(client.session)
                if pid is not None:
                    clients.setdefault(pid, []).append(client)
                chosen = max(clients, key=lambda one: len(clients[one]))
                rest = [client for one in clients if one != chosen for client in clients[one]]
                if len(clients[chosen]) >= count and len(rest) >= others:
                    break
        yield chosen, clients[chosen][:count] + rest


async def _connect(mirror: Spawned, workers: list[int]) -> tuple[Client, int | None]:
    """A client with one connection, and which of these workers answers it."""
    used: list[socket.socket] = []

    def connect(address: Any) -> socket.socket:
        used.append(socket.socket(address[0]))
        return used[-1]

    session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1, socket_factory=connect))
    client = Client(mirror.url, session)
    await client.get("/health")
    return client, worker_at(used[-1].getsockname()[1], workers)
