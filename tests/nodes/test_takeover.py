"""Promise 2: a process that fetches for the others may be killed, or stand still, at any moment."""

import asyncio
import hashlib
import os
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import NamedTuple

from tests.builders import Built, wheel
from tests.contract.pypi import eventually
from tests.nodes.cluster import Download, download, only_pypi
from tests.nodes.workers import PAUSE_SECONDS, clients_of_each
from tests.serving import Client, Spawned, spawned
from tests.simulator import Simulator
from tests.simulator.faults import Drip

SIZE = 12_000_000


class Flight(NamedTuple):
    """A file that one worker fetches and others follow."""

    mirror: Spawned
    leader: int
    led: "asyncio.Task[Download]"
    """The download of the leader's client."""
    following: "list[asyncio.Task[Download]]"
    built: Built

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.built.content).hexdigest()


@asynccontextmanager
async def flight(simulator: Simulator, directory: Path, name: str = "wanted") -> AsyncIterator[Flight]:
    """A file on its slow way to one worker of three, and from there to two clients of each of the others."""
    built = wheel(name, "1.0", size=SIZE)
    simulator.publish(built)
    file = f"*{built.filename}"
    simulator.inject(file, Drip(64 * 1024, 0.01))
    async with (
        spawned(directory / "data", only_pypi(simulator), "--workers", "3") as mirror,
        clients_of_each(mirror, 2) as clients,
    ):

        def fetch(client: Client) -> "asyncio.Task[Download]":
            return asyncio.create_task(download(f"{mirror.url}packages/{name}/{built.filename}", client.session))

        for each in clients.values():
            await each[0].get(f"/simple/{name}/")
        leader, *others = clients
        led = fetch(clients[leader][0])
        await simulator.until(lambda: simulator.bytes_sent(file) > 0)
        following = [fetch(client) for pid in others for client in clients[pid]]
        try:
            yield Flight(mirror, leader, led, following, built)
        finally:
            for task in (led, *following):
                task.cancel()


async def part_has_come(simulator: Simulator, part: float) -> None:
    """Wait until upstream has sent this part of the file."""
    await simulator.until(lambda: simulator.bytes_sent("*.whl") >= part * SIZE, timeout=30)


async def test_promise_2_a_process_that_stood_still_is_passed_over_and_changes_nothing_when_it_goes_on(
    simulator: Simulator, tmp_path: Path
) -> None:
    def rows() -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(tmp_path / "data" / "catalog.sqlite")) as catalog:
            return catalog.execute("SELECT source, project, filename, digest, stored FROM files").fetchall()

    async with flight(simulator, tmp_path) as flying:
        await part_has_come(simulator, 0.6)
        os.kill(flying.leader, signal.SIGSTOP)
        try:
            got = await asyncio.gather(*flying.following)
        finally:
            os.kill(flying.leader, signal.SIGCONT)
        assert all(one.whole for one in got)
        assert {one.digest for one in got} == {flying.digest}
        assert max(one.longest_pause for one in got) <= PAUSE_SECONDS
        assert len(simulator.asked("GET", "*.whl")) == 2

        async def is_recorded() -> bool:
            return len(rows()) == 1

        await eventually(is_recorded)  # the end of a large file does not wait for the disk
        before, blob = rows(), tmp_path / "data" / "blobs"
        found = [(path, path.stat().st_ino) for path in blob.rglob("*") if path.is_file()]
        led = await flying.led
        assert led.whole
        assert led.digest == flying.digest
        assert await flying.mirror.end() == 0
        assert rows() == before
        assert [(path, path.stat().st_ino) for path in blob.rglob("*") if path.is_file()] == found
        assert not list((tmp_path / "data" / "flights").iterdir())
