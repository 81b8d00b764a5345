"""Several nodes: each a `mirror serve` of its own, over one PostgreSQL database and one store of files.

    async with cluster(tmp_path, only_pypi(simulator), 3, catalog=postgres_url) as nodes:
        nodes[0].stop()                       # SIGSTOP; `go_on` for SIGCONT
        await nodes[1].end(signal.SIGKILL)
        await nodes[1].start()                # at the address that it had
        await nodes.next().get("/simple/x/")  # round-robin over those that run

The files are in a directory that all of them share, or with `blobs=objects.table("s3")` in an object store. Everything
else that is given is their settings.
"""

import asyncio
import hashlib
import itertools
import json
import math
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from tests.servers import kept_ports
from tests.serving import Client, Spawned, Table, repositories, spawned
from tests.simulator import Simulator
from tests.simulator.faults import Fault
from tests.simulator.wire import SimulatedResponse

SECRET = "not a secret, but long enough for one"
"""What the nodes prove to each other."""


def only_pypi(simulator: Simulator) -> dict[str, Any]:
    """The repository of Python alone, with the simulator as its upstream."""
    return {"pypi": repositories(simulator)["pypi"]}


class Node:
    """One node, which keeps its address and its data directory when it is started again."""

    def __init__(
        self, data_dir: Path, repositories: Table, listen: str, settings: Mapping[str, Any], code: str = ""
    ) -> None:
        """`code`, if any, is run in place of the command, unless `start` is given another one."""
        self.data_dir = data_dir
        self.url = f"http://{listen}/"
        self.address = str(settings.get("node", {}).get("address", ""))
        """Where the other nodes reach it."""
        self._repositories = repositories
        self._settings = {**settings, "listen": [listen]}
        self._code = code
        self._stack = AsyncExitStack()
        self._process: Spawned | None = None

    @property
    def process(self) -> Spawned:
        """The process, with an HTTP client of its own."""
        assert self._process is not None, "it was not started"
        return self._process

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.process.returncode is None

    @property
    def said(self) -> str:
        """Its log."""
        return self.data_dir.with_suffix(".log").read_text()

    async def start(self, code: str = "") -> None:
        """Start it, and wait until it answers; `code`, if any, is run in place of the command."""
        await self._stack.aclose()
        made = spawned(self.data_dir, self._repositories, code=code or self._code, **self._settings)
        self._process = await self._stack.enter_async_context(made)

    async def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; its exit status."""
        return await self.process.end(how)

    def stop(self) -> None:
        """Let it stand still (SIGSTOP)."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on after `stop` (SIGCONT)."""
        os.kill(self.process.pid, signal.SIGCONT)

    async def close(self) -> None:
        """Kill it if it runs."""
        await self._stack.aclose()


class Nodes(list[Node]):
    """The nodes of one mirror."""

    def __init__(self, nodes: list[Node]) -> None:
        super().__init__(nodes)
        self._numbers = itertools.count()

    def next(self) -> Client:
        """The next one in turn of those that run."""
        running = [node for node in self if node.running]
        return running[next(self._numbers) % len(running)].process


@asynccontextmanager
async def cluster(
    directory: Path,
    repositories: Table,
    count: int,
    *,
    catalog: str,
    blobs: Table | None = None,
    own: Mapping[int, Table] | None = None,
    addressed: bool = True,
    workers: int = 1,
    code: str = "",
    **settings: Any,
) -> AsyncIterator[Nodes]:
    """So many nodes, of which the first one starts before the others.

    `own` are settings of single ones, by their number from 0 on.
    `addressed`: each has an address at which the others reach it. `workers` are the processes of each; `code`, if any,
    is run in place of the command.
    """
    files, secret = directory / "files", directory / "node-secret"
    files.mkdir(exist_ok=True)
    secret.write_text(SECRET)
    nodes = Nodes([])
    ports = kept_ports(2 * count)
    for number, (port, inner) in enumerate(zip(ports[:count], ports[count:], strict=True)):
        data_dir = directory / f"node{number}"
        data_dir.mkdir(mode=0o700, exist_ok=True)
        table: dict[str, Any] = {"catalog": {"url": catalog}} | settings
        address = {"address": f"http://127.0.0.1:{inner}", "secret_file": str(secret)}
        table["node"] = (address if addressed else {}) | {"workers": workers}
        if blobs is None:
            (data_dir / "blobs").symlink_to(files)
        else:
            table["blobs"] = dict(blobs)
        table |= (own or {}).get(number, {})
        nodes.append(Node(data_dir, repositories, f"127.0.0.1:{port}", table, code))
    try:
        for node in nodes[:1]:
            await node.start()  # which makes the tables
        await asyncio.gather(*(node.start() for node in nodes[1:]))
        yield nodes
    finally:
        for node in nodes:
            await node.close()


async def silent_nodes(node: Node) -> str:
    """What `mirror doctor` sees of the other nodes; empty where all answer."""
    words = ("-m", "mirror", "doctor", "--json", "--config", str(node.data_dir.with_suffix(".toml")))
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    findings = json.loads(said)["sections"][0]["findings"]
    (finding,) = [finding for finding in findings if finding["name"] == "mirror/nodes"]
    return str(finding["seen"]) if finding["verdict"] == "fails" else ""


class Download(NamedTuple):
    """A download as its client saw it."""

    digest: str
    size: int
    first_byte_at: float
    """On the clock of `time.monotonic`; infinite where none came."""
    longest_pause: float
    """Seconds between two pieces, or before the first one."""
    whole: bool
    """Whether as many bytes came as were promised, with status 200."""


async def download(url: str, session: aiohttp.ClientSession | None = None) -> Download:
    """Fetch a file, on a connection of its own where no session is given."""
    if session is None:
        async with aiohttp.ClientSession() as own:
            return await download(url, own)
    hasher, size, first, pause, whole = hashlib.sha256(), 0, math.inf, 0.0, False
    before = time.monotonic()
    try:
        async with session.get(url) as response:
            async for piece in response.content.iter_any():
                now = time.monotonic()
                first, pause, before = min(first, now), max(pause, now - before), now
                hasher.update(piece)
                size += len(piece)
            whole = response.status == 200
    except (aiohttp.ClientError, ConnectionError):
        pass
    return Download(hasher.hexdigest(), size, first, max(pause, time.monotonic() - before), whole)


FIRST_BYTES = 128 * 1024
"""Bytes that upstream sends at first in `burst`: what the load of all others costs is no part of the first byte."""


@dataclass(frozen=True)
class StallTwice(Fault):
    """Stop before the headers, and once more after FIRST_BYTES of the body."""

    def spoil(self, answer: SimulatedResponse) -> None:
        answer.stall_before, answer.stall_at = True, FIRST_BYTES


async def burst(
    simulator: Simulator, filename: str, downloads: Iterable[Coroutine[Any, Any, Download]]
) -> tuple[set[str], float, str]:
    """Begin downloads of a file that upstream gives once all wait for it, with one request for all of them.

    Returns the digests that came, the seconds from upstream's first byte to the last client's first one, and a report.
    """
    stalled = simulator.inject(f"*{filename}", StallTwice())
    fetching = [asyncio.create_task(one) for one in downloads]
    await simulator.until(lambda: simulator.count("GET", f"*{filename}") > 0)
    await asyncio.sleep(0.5 + len(fetching) / 100)  # for the other processes to follow, which no one else can see
    began = time.monotonic()
    stalled.released.set()
    stalled.released.clear()  # who waits goes on, until it waits for the second time
    await asyncio.sleep(len(fetching) / 100)
    stalled.release()
    got = await asyncio.gather(*fetching)
    latest = max(one.first_byte_at for one in got) - began
    assert all(one.whole for one in got)
    assert simulator.count("GET", f"*{filename}") == 1
    text = f"{len(got)} clients in {time.monotonic() - began:.1f} s, the last first byte after {latest:.3f} s"
    return {one.digest for one in got}, latest, text
