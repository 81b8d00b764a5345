"""The life of an upstream's index, as bundler sees it through the mirror: hardly a byte of /versions travels twice."""

import asyncio
import json
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.builders import gem
from tests.clients.ruby import Home, Ruby, rubies
from tests.serving import Spawned, repositories, spawned
from tests.simulator import (
    Cut,
    EmptyPartial,
    Fault,
    GzipDespiteRange,
    RangeNotSatisfiable,
    Simulator,
    Status,
    Truncate,
    WrongOverlap,
    no_digest,
)

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

MANY = 3000
"""Gems besides the one that changes: so many that the whole of /versions would be noticed."""
LEAST = 50_000


class Walk:
    """One client's way through the history."""

    def __init__(self, data_dir: Path, simulator: Simulator) -> None:
        self.data_dir = data_dir
        self.simulator = simulator
        self.mirror: Spawned
        self.home: Home
        self.printed: list[str] = []

    async def sees(self, line: str) -> None:
        """Wait until this is the last line of the mirror, which looks upstream when a client asks."""
        async with asyncio.timeout(20):
            while not await self._says_last(line):  # noqa: ASYNC110  the mirror is another process
                await asyncio.sleep(0.3)

    async def _says_last(self, line: str) -> bool:
        body = (await self.mirror.get("versions", Cache_Control="no-cache")).text
        return body.endswith(f"\n{line}\n")

    async def lock(self, step: str) -> tuple[set[str], int]:
        """`bundle lock --update`: what is locked, and the bytes of /versions that travelled for it."""
        before = len(self._answers())
        await self.home.bundle("lock", "--update")
        answers = self._answers()
        while len(answers) == before:
            await asyncio.sleep(0.05)  # the access log comes a little later
            answers = self._answers()
        answers = answers[before:]
        self.printed.append(f"{step}: " + ", ".join(f"{status} with {sent} bytes" for status, sent in answers))
        return self.home.locked(), sum(sent for _, sent in answers)

    def _answers(self) -> list[tuple[int, int]]:
        """Status and bytes of every answer to /versions that bundler got."""
        lines = [line for line in self.data_dir.with_suffix(".log").read_text().splitlines() if line.startswith("{")]
        entries = [entry for line in lines if (entry := json.loads(line)).get("path", "").endswith("/versions")]
        return [(entry["status"], entry["bytes"]) for entry in entries if "bundler" in entry["agent"]]


@pytest.mark.parametrize("ruby", rubies(), ids=str)
async def test_bundler_walks_through_the_history_of_an_upstream_at_a_few_bytes_a_step(
    simulator: Simulator, tmp_path: Path, ruby: Ruby, report: Callable[[str], None]
) -> None:
    for number in range(MANY):
        simulator.rubygems.record_info(f"gem-number-{number}", f"---\n1.0 |checksum:{number:064}\n".encode())
    simulator.push(gem("tiny", "1.0"))

    def md5() -> str:
        return simulator.rubygems.md5("tiny")

    data_dir = tmp_path / "data"
    upstreams = repositories(simulator)
    walk = Walk(data_dir, simulator)

    async with AsyncExitStack() as stack:
        walk.mirror = await stack.enter_async_context(spawned(data_dir, upstreams, log={"access": True}))
        # The URL must outlive the restart: bundler keeps its copy of the index by it.
        listen = walk.mirror.url.removeprefix("http://").rstrip("/")
        walk.home = stack.enter_context(ruby.home(walk.mirror.url))
        await walk.home.bundle("config", "list", gemfile='gem "tiny"\n')

        locked, sent = await walk.lock("first sync")
        assert "tiny (1.0)" in locked
        assert sent > LEAST

        simulator.push(gem("tiny", "1.1"))
        await walk.sees(f"tiny 1.1 {md5()}")
        locked, sent = await walk.lock("upstream appends")
        assert "tiny (1.1)" in locked
        assert sent <= 1024

        simulator.rewrite()
        simulator.push(gem("tiny", "1.2"))
        await walk.sees(f"tiny 1.2 {md5()}")
        locked, sent = await walk.lock("upstream is rewritten")
        assert "tiny (1.2)" in locked
        assert sent <= 1024

        await walk.mirror.end(signal.SIGKILL)
        walk.mirror = await stack.enter_async_context(
            spawned(data_dir, upstreams, "--listen", listen, log={"access": True})
        )
        locked, sent = await walk.lock("the mirror is killed and starts again")
        assert "tiny (1.2)" in locked
        assert sent <= 1024

        simulator.yank_gem("tiny", "1.2")
        await walk.sees(f"tiny -1.2 {md5()}")
        (walk.home.place / "Gemfile.lock").unlink()  # bundler 2.3 never goes below a locked version, yanked or not
        locked, sent = await walk.lock("a gem is yanked")
        assert "tiny (1.1)" in locked
        assert sent <= 1024

        simulator.unyank_gem("tiny", "1.2")
        await walk.sees(f"tiny 1.2 {md5()}")
        locked, sent = await walk.lock("and un-yanked")
        assert "tiny (1.2)" in locked
        assert sent <= 1024

        report("\n  ".join([await walk.home.versions(), *walk.printed]))


FAULTS: dict[str, Fault] = {
    "416": RangeNotSatisfiable(),
    "an empty 206": EmptyPartial(),
    "a 206 without digest": no_digest(),
    "a wrong overlap": WrongOverlap(),
    "gzip of a range": GzipDespiteRange(),
    "a truncated 200": Truncate(4000),
    "hung up": Cut(10),
    "500": Status(500),
}


async def test_bundler_notices_nothing_of_an_upstream_that_misbehaves(simulator: Simulator, tmp_path: Path) -> None:
    simulator.push(gem("tiny", "1.0"))
    for number in range(100):
        simulator.rubygems.record_info(f"gem-number-{number}", f"---\n1.0 |checksum:{number:064}\n".encode())
    data_dir = tmp_path / "data"
    walk = Walk(data_dir, simulator)
    async with AsyncExitStack() as stack:
        walk.mirror = await stack.enter_async_context(
            spawned(data_dir, repositories(simulator), log={"access": True}, network={"retries": 0})
        )
        walk.home = stack.enter_context(Ruby().home(walk.mirror.url))
        await walk.home.bundle("config", "list", gemfile='gem "tiny"\n')
        await walk.lock("first sync")
        for number, (name, fault) in enumerate(FAULTS.items(), 1):
            version = f"1.{number}"
            simulator.push(gem("tiny", version))
            spoiled = simulator.inject("/versions", fault)
            page = simulator.inject("/info/tiny", Status(500), times=1)
            while not spoiled.hits:  # a demand for an answer of now is not passed on more often than every 2 s
                assert (await walk.mirror.get("versions", Cache_Control="no-cache")).status == 200, name
                await asyncio.sleep(0.2)
            await walk.lock(name)
            simulator.faults.remove(spoiled)
            await walk.sees(f"tiny {version} {simulator.rubygems.md5('tiny')}")
            await walk.lock(f"after {name}, and 500 on a page")
            assert page.hits, name
            locked, sent = await walk.lock("healed")
            assert f"tiny ({version})" in locked, name
            assert sent <= 1024, name
        log = data_dir.with_suffix(".log").read_text()
        assert "specs.4.8" not in log  # bundler never gave up the compact index
        assert '"status":404' not in log
        assert '"status":5' not in log
