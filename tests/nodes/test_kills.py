"""Promises 2, 3, 4 and 8: a process is killed, or stands still, at any moment and with everything under way."""

import asyncio
import os
import random
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Protocol

import aiohttp
import pytest

from tests import objects
from tests.builders import Built
from tests.nodes.cluster import cluster, download
from tests.nodes.commands import run_command
from tests.nodes.gem_log import log_of_all
from tests.nodes.rounds import QUICK_TO_DOUBT, Crowd, Rounds, is_object, served
from tests.nodes.workers import ROUNDS, clients_of_one, patient, workers_of
from tests.postgres import PostgresServer
from tests.serving import Client, Spawned, spawned
from tests.simulator import Simulator

TOKEN = ("token", "create", "--name", "t", "--right", "upload", "--project", "*")
MACHINE_ROUNDS = 5
"""Every so many rounds, all processes of a machine are struck, where there are several machines."""
CODE = f"""
from mirror.catalog.postgres import schema
for limit in ("lock_timeout", "session_timeout"):
    schema.BEGIN = schema.BEGIN.replace(f"{{limit}} = '5s'", f"{{limit}} = '1s'")
schema.END_STANDING = schema.END_STANDING.replace("'3s'", "'1s'")
{QUICK_TO_DOUBT}
"""
"""The command, which also leaves a process that stands still less time in the middle of a transaction."""
HUNG = f"""
from mirror.service import workers
workers.HUNG_SECONDS = 3.0
{QUICK_TO_DOUBT}
"""
"""The command, which soon kills a worker that stands still: it may hold up all others by its lock of the catalog."""


class Machine(Protocol):
    """A machine with processes that answer."""

    @property
    def process(self) -> Spawned:
        """Its supervisor."""

    async def start(self) -> None:
        """Start it anew."""


class OnlyMachine:
    """The one machine of a mirror without others."""

    def __init__(self, process: Spawned) -> None:
        self.process = process

    async def start(self) -> None:
        raise AssertionError("only some of its processes are struck")


class Playground:
    """Machines with some processes each, and the rounds that are played with them."""

    def __init__(self, simulator: Simulator, machines: list[Machine], rounds: Rounds) -> None:
        self.machines = machines
        self._simulator = simulator
        self.rounds = rounds
        self._counts = [len(workers_of(machine.process)) for machine in machines]

    @asynccontextmanager
    async def crowd(self, number: int) -> AsyncIterator[tuple[Machine, list[int], Crowd]]:
        """The machine of a round, which of its processes are struck, and the clients."""
        machine, *others = random.Random(number).sample(self.machines, len(self.machines))
        elsewhere = [other.process for other in others]
        if others and number % MACHINE_ROUNDS == MACHINE_ROUNDS - 1:
            mirror = machine.process
            async with AsyncExitStack() as stack:
                # Sessions of their own: that of the machine is closed when it is started anew.
                clients = [
                    Client(mirror.url, await stack.enter_async_context(aiohttp.ClientSession())) for _ in range(3)
                ]
                crowd = Crowd(*clients, others=elsewhere * 3, other=elsewhere[0])
                yield machine, [mirror.pid, *workers_of(mirror)], crowd
            return
        async with clients_of_one(machine.process, 3, 1 if others else 4) as (victim, clients):
            *here, last = [*clients[3:], *elsewhere * 2, *elsewhere[:1]]
            yield machine, [victim], Crowd(*clients[:3], others=here, other=last)

    async def kill(self, number: int, machine: Machine, struck: list[int], crowd: Crowd) -> None:
        """Play a round in which processes are killed; those in their place show the same."""

        async def kill() -> "asyncio.Task[float]":
            send_all(struck, signal.SIGKILL)
            return asyncio.create_task(self.restore(machine, struck))

        built, restoring = await self.rounds.play(number, crowd, kill)
        seconds = await restoring
        self.rounds.counts["workers replaced within a second"] += len(struck) == 1 and seconds < 1
        requests = self._simulator.count("GET", "*.whl")
        await log_of_all([one.process for one in self.machines])
        got = await download(f"{machine.process.url}packages/{built.name}/{built.filename}")
        assert (got.whole, got.digest) == (True, built.sha256)
        assert self._simulator.count("GET", "*.whl") == requests
        self.rounds.counts["processes killed"] += len(struck)

    async def let_stand_still(self, number: int, machine: Machine, struck: list[int], crowd: Crowd) -> None:
        """Play a round in which processes stand still, and go on."""

        async def stop() -> bool:
            return send_all(struck, signal.SIGSTOP)

        def go_on() -> bool:
            return send_all(struck, signal.SIGCONT)

        try:
            await self.rounds.play(number, crowd, stop, go_on)
        finally:
            go_on()  # for a stopped process does not notice that its supervisor has gone
        await self.restore(machine, [])
        self.rounds.counts["processes that stood still"] += len(struck)

    async def restore(self, machine: Machine, struck: list[int]) -> float:
        """Wait until killed processes have been replaced; the seconds that took."""
        began = time.monotonic()
        if machine.process.pid in struck:
            await machine.process.process.wait()
            await machine.start()
        count = self._counts[self.machines.index(machine)]
        while {*struck} & {*(workers := workers_of(machine.process))} or len(workers) < count:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        return time.monotonic() - began


@asynccontextmanager
async def workers(simulator: Simulator, directory: Path, code: str) -> AsyncIterator[Playground]:
    """Four workers of one machine, over SQLite and a directory."""

    def rows() -> dict[str, object]:
        with closing(sqlite3.connect(directory / "data" / "catalog.sqlite")) as catalog:
            found = catalog.execute("SELECT filename, source, project, digest, stored FROM files").fetchall()
        return {row[0]: row for row in found}

    async with spawned(directory / "data", served(simulator), "--workers", "4", code=code) as mirror:
        rounds = Rounds(simulator, await run_command(directory / "data", *TOKEN), rows)
        await rounds.prepare([mirror])
        yield Playground(simulator, [OnlyMachine(mirror)], rounds)


@asynccontextmanager
async def nodes(simulator: Simulator, directory: Path, postgres: PostgresServer) -> AsyncIterator[Playground]:
    """Two workers on each of two machines, over one database and one object store."""
    database, blobs = postgres.fresh(), objects.table("s3")

    def rows() -> dict[str, object]:
        lines = postgres.sql("SELECT filename, source, project, digest, stored FROM files", database).splitlines()
        return {line.partition("|")[0]: line for line in lines}

    async def is_stored(built: Built) -> bool:
        return await is_object(blobs, built.sha256)

    catalog = postgres.url(database)
    async with cluster(directory, served(simulator), 2, catalog=catalog, blobs=blobs, workers=2, code=CODE) as both:
        rounds = Rounds(simulator, await run_command(both[0].data_dir, *TOKEN), rows, is_stored)
        await rounds.prepare([node.process for node in both])
        yield Playground(simulator, [*both], rounds)


@pytest.fixture(params=["workers", "nodes"])
async def playground(request: pytest.FixtureRequest, simulator: Simulator, tmp_path: Path) -> AsyncIterator[Playground]:
    """Processes of one machine, or of several."""
    async with AsyncExitStack() as stack:
        if request.param == "workers":
            yield await stack.enter_async_context(workers(simulator, tmp_path, HUNG))
        else:
            postgres = request.getfixturevalue("postgres")
            yield await stack.enter_async_context(nodes(simulator, tmp_path, postgres))


def send_all(processes: list[int], number: signal.Signals) -> bool:
    """Send processes a signal; whether all of them still ran."""
    for pid in processes:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
    return True


@patient
async def test_promise_2_promise_3_promise_4_and_promise_8_hold_whenever_a_process_is_killed_or_stands_still(
    playground: Playground, report: Callable[[str], None]
) -> None:
    """Both set-ups together have as many kills as there are rounds, and as many that stand still."""
    for number in ROUNDS:
        async with playground.crowd(number) as (machine, struck, crowd):
            if number % 2:
                await playground.let_stand_still(number, machine, struck, crowd)
            else:
                await playground.kill(number, machine, struck, crowd)
    for one in playground.machines:
        assert await one.process.end() == 0
    report(playground.rounds.report)
