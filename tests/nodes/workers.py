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

from tests.serving import Client, Spawned


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
    workers = workers_of(mirror)
    clients: dict[int, Client] = {}
    async with AsyncExitStack() as stack:
        async with asyncio.timeout(30):
            while len(clients) < len(workers):
                used: list[socket.socket] = []

                def connect(address: Any, used: list[socket.socket] = used) -> socket.socket:
                    used.append(socket.socket(address[0]))
                    return used[-1]

                connector = aiohttp.TCPConnector(limit=1, socket_factory=connect)
                session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
                client = Client(mirror.url, session)
                await client.get("/health")
                if (pid := worker_at(used[-1].getsockname()[1], workers)) is not None:
                    clients.setdefault(pid, client)
        yield clients
