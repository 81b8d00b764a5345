"""One log of gems, however many processes append to it: nothing is lost, nothing is repeated, all see the same."""

import asyncio
import hashlib
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from mirror.catalog import Catalog
from mirror.catalog.sqlite import SQLite
from mirror.errors import StorageFull
from mirror.index.cache import Validity
from mirror.index.precedence import Precedence
from mirror.index.repository import Repository
from mirror.rubygems.log import writer
from mirror.rubygems.log.events import PageChange, Update
from mirror.rubygems.log.local_entries import LocalEntries
from mirror.rubygems.log.policy_review import PolicyReview
from mirror.rubygems.log.versions_map import LocalEntry, parse_versions
from mirror.rubygems.log.writer import LogWriter
from tests.catalog.conftest import engine

NAMES = ("acme", "rack", "tilt")


class NoPolicy:
    """A repository without rules."""

    policy = SimpleNamespace(rules=(), allow_rules=())


class Process:
    """A writer over a catalog of its own, as another process has it."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.local = LocalEntries(catalog.logs, "gems", lambda: None)
        review = PolicyReview(cast("Repository", NoPolicy()))
        self.writer = LogWriter("gems", (), Precedence(), catalog, self.local, review, lambda: None)

    @property
    def content(self) -> bytes:
        assert self.writer.log is not None
        return self.writer.log.slice()

    async def read_on(self) -> None:
        self.writer.behind = True
        await self.writer.apply(Update())

    async def lists(self, name: str, *versions: str, of: Validity | None = None) -> bytes:
        md5 = hashlib.md5(f"{name} {versions}".encode(), usedforsecurity=False).hexdigest()
        return await self.writer.apply(PageChange(name, LocalEntry(versions, md5), of))


Start = Callable[[], Awaitable[Process]]


@pytest.fixture(params=["sqlite", "postgresql"])
async def start(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Start]:
    """Starts one more process over the same catalog, with each engine."""
    started: list[Process] = []
    url = request.getfixturevalue("catalog_url") if request.param == "postgresql" else ""

    async def start_one() -> Process:
        database = engine(url) if url else SQLite(tmp_path / "catalog.sqlite")
        await database.open()
        started.append(Process(Catalog(database)))
        started[-1].writer.start()
        await started[-1].read_on()
        return started[-1]

    yield start_one
    for one in started:
        await one.writer.close()
        await one.catalog.close()


def lines(content: bytes) -> list[bytes]:
    return content.splitlines()[2:]


async def test_who_loses_reads_on_and_appends_behind_it(start: Start) -> None:
    first, second = await start(), await start()
    await first.lists("acme", "1.0")
    assert (await second.lists("rack", "1.0")).startswith(b"rack 1.0 ")
    await first.lists("tilt", "1.0")
    await second.read_on()
    assert first.content == second.content
    assert [line.split()[0] for line in lines(first.content)] == [b"acme", b"rack", b"tilt"]
    assert first.writer.log is not None
    assert first.writer.log.etag == hashlib.md5(first.content, usedforsecurity=False).hexdigest()


async def test_what_another_process_has_listed_is_not_listed_again(start: Start) -> None:
    first, second = await start(), await start()
    await first.lists("acme", "1.0")
    assert await second.lists("acme", "1.0") == b""
    assert second.content == first.content


async def test_a_page_that_has_changed_in_another_process_is_not_listed_as_it_was(start: Start) -> None:
    first, second = await start(), await start()
    await first.lists("acme", "1.0")
    await second.read_on()
    view = Validity(math.inf)
    second.local.on_read = lambda names: view.end() if "acme" in names else None
    await first.lists("acme", "1.0", "1.1")
    await second.lists("acme", "1.0", "0.9", of=view)
    assert second.content == first.content
    assert b"acme 1.1 " in second.content
    assert second.local.due["acme"] == 0.0, "its page is checked again"


async def test_a_log_that_is_written_anew_in_one_piece_is_the_same_for_all(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MOST_CHUNKS", 4)
    first, second = await start(), await start()
    for number in range(12):
        await (first, second)[number % 2].lists("acme", f"1.{number}")
    await first.read_on()
    assert first.content == second.content == await first.catalog.logs.read("published gems")
    assert (await first.catalog.logs.position("published gems")).chunks < 5


async def test_a_log_that_is_begun_anew_in_its_shortest_form_is_the_same_for_all(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SLACK_BYTES", 0)
    first, second = await start(), await start()
    for number in range(8):
        await (first, second)[number % 2].lists("acme", f"1.{number}")
    await first.read_on()
    before = first.content
    first.writer._changed = None  # as after anything of which it is not known how much was done
    await first.read_on()
    assert len(first.content) < len(before)
    assert (await second.lists("rack", "1.0")).startswith(b"rack 1.0 ")
    await first.read_on()
    assert first.content == second.content == await first.catalog.logs.read("published gems")
    assert [line.split()[:2] for line in lines(first.content)] == [[b"acme", b"1.7"], [b"rack", b"1.0"]]


async def test_what_waits_for_room_counts_unless_another_process_was_first(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await start(), await start()
    await first.lists("acme", "1.0")
    await second.read_on()

    async def fail(*statements: object) -> list[object]:
        raise StorageFull("The disk is full.")

    with monkeypatch.context() as full:
        full.setattr(first.catalog.logs._database, "write", fail)
        await first.lists("rack", "1.0")
    assert b"rack" in first.content, "it is served, and waits"
    await first.catalog.logs.flush()
    await second.read_on()
    assert second.content == first.content
    with monkeypatch.context() as full:
        full.setattr(first.catalog.logs._database, "write", fail)
        await first.lists("tilt", "1.0")
    await second.lists("tilt", "2.0")
    await first.catalog.logs.flush()
    await first.read_on()
    assert first.content == second.content


@asynccontextmanager
async def slowly(processes: list[Process], chance: random.Random) -> AsyncIterator[None]:
    """Every access to the logs waits now and then, so that all orders come about."""
    for one in processes:
        for name in ("append", "replace", "read_on"):
            access = getattr(one.catalog.logs, name)

            async def wait(*arguments: object, access: Callable[..., Awaitable[object]] = access) -> object:
                await asyncio.sleep(chance.random() / 500)
                return await access(*arguments)

            setattr(one.catalog.logs, name, wait)
    yield


@pytest.mark.parametrize("seed", range(3))
async def test_however_they_interleave_every_version_is_listed_once_and_all_see_the_same(
    start: Start, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(writer, "MOST_CHUNKS", 6)
    chance = random.Random(seed)
    processes = [await start() for _ in range(3)]
    seen = b""
    async with slowly(processes, chance):
        # Each gem belongs to one process, as each page is of one moment: what a gem lists is never doubtful here.
        async def work(one: Process, name: str) -> None:
            for number in range(8):
                await one.lists(name, *(f"1.{each}" for each in range(number + 1)))
                if chance.random() < 0.3:
                    await one.read_on()

        await asyncio.gather(*map(work, processes, NAMES))
        for one in processes:
            await one.read_on()
    contents = {one.content for one in processes}
    assert len(contents) == 1
    (seen,) = contents
    assert seen == await processes[0].catalog.logs.read("published gems")
    added = [(line.split()[0], item) for line in lines(seen) for item in line.split()[1].split(b",")]
    assert len(added) == len(set(added)) == 8 * len(NAMES)
    listed = parse_versions(seen)
    for one in processes:
        assert one.writer.log is not None
        assert one.writer.log.etag == hashlib.md5(seen, usedforsecurity=False).hexdigest()
        assert one.writer.log.map == listed
        assert one.local.entries.keys() == set(NAMES)
