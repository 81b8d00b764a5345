"""Records of OSV that one process reads for all: two processes over one catalog, each with its own copy of a folder."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mirror.catalog import Catalog
from mirror.catalog.sqlite import SQLite
from mirror.errors import ConfigError, StorageUnavailable
from mirror.index.journal import Journal
from mirror.policy.osv import Advisory, OsvIndex, RangeEvent
from mirror.policy.records import stamp
from mirror.service import shared_records
from mirror.service.shared_records import SharedRecords, pack, unpack

EVERY_SECONDS = 60.0


def records(identity: str, stamped: str = "") -> OsvIndex:
    advisory = Advisory(id=identity, severity="high", ranges=((RangeEvent(introduced="0"), RangeEvent(fixed="2.0")),))
    return OsvIndex(digest=identity, stamp=stamped, projects={("PyPI", "acme"): (advisory,)}, records=1, skipped=2)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Copy:
    """The copy of a folder that one machine has; it counts how often it was read."""

    def __init__(self) -> None:
        self.records: OsvIndex | None = records("first")
        self.reads = 0
        self.meanwhile: Callable[[], Awaitable[object]] | None = None
        """What happens while it is read."""

    async def read(self, folder: str) -> OsvIndex:
        return await self.look(folder, OsvIndex())

    async def look(self, folder: str, known: OsvIndex) -> OsvIndex:
        self.reads += 1
        if self.meanwhile is not None:
            await self.meanwhile()
        if self.records is None:
            raise ConfigError("There is no readable folder.")
        return self.records


class Process:
    """One of the processes: its copy of the folder, and what it knows."""

    def __init__(self, catalog: Catalog, clock: Clock, folder: Path) -> None:
        self.copy = Copy()
        self.journal = Journal(catalog.feed)
        self.shared = SharedRecords(self.copy, catalog, self.journal, clock, EVERY_SECONDS)
        self.known = OsvIndex()
        self._folder = str(folder)

    async def start(self) -> str:
        self.known = await self.shared.read(self._folder)
        return self.known.digest

    async def look(self) -> str:
        self.known = await self.shared.look(self._folder, self.known)
        return self.known.digest

    async def newest(self) -> str:
        self.known = await self.shared.newest(self._folder, self.known)
        return self.known.digest


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def two(tmp_path: Path, clock: Clock) -> AsyncIterator[tuple[Process, Process]]:
    (tmp_path / "osv").mkdir()
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(2):
            database = SQLite(tmp_path / "catalog.sqlite")
            await database.open()
            stack.push_async_callback(database.close)
            made.append(Process(Catalog(database), clock, tmp_path / "osv"))
        yield made[0], made[1]


def test_records_are_the_same_after_they_were_stored() -> None:
    whole = records("first", "stamp")
    assert unpack(pack(whole)) == whole
    assert unpack(pack(OsvIndex(digest="none"))) == OsvIndex(digest="none")


def test_more_records_than_can_be_stored_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_records, "MOST_STORED_BYTES", 10)
    with pytest.raises(ConfigError, match="more than 10 bytes"):
        pack(records("first"))


async def test_one_process_reads_its_folder_and_the_other_takes_up_what_it_found(two: tuple[Process, Process]) -> None:
    one, other = two
    assert await one.start() == "first"
    assert await one.look() == "first"
    other.copy.records = None  # not even a folder is needed while another process is at it
    assert [await other.start(), await other.look()] == ["first", "first"]
    one.copy.records = records("second")
    assert await other.newest() == "first"
    assert await one.look() == "second"
    assert await other.newest() == "second"
    assert other.copy.reads == 0


async def test_a_process_whose_folder_cannot_be_read_passes_the_lease_on(two: tuple[Process, Process]) -> None:
    one, other = two
    await one.start()
    await one.look()
    one.copy.records, other.copy.records = None, records("second")
    assert await other.start() == "first"
    with pytest.raises(ConfigError):
        await one.look()
    assert one.known.digest == "first"
    assert await other.look() == "second"
    assert await one.newest() == "second"


async def test_the_other_process_goes_on_where_one_has_ended(two: tuple[Process, Process], clock: Clock) -> None:
    one, other = two
    await one.start()
    await one.look()
    await other.start()
    other.copy.records = records("second")
    assert await other.look() == "first"
    clock.now += 3 * EVERY_SECONDS  # it was killed
    assert await other.look() == "second"
    await other.shared.close()
    one.copy.records = records("third")
    assert await one.look() == "third"


async def test_a_process_that_was_stopped_while_it_read_stores_nothing(
    two: tuple[Process, Process], clock: Clock
) -> None:
    one, other = two
    await one.start()
    await one.look()
    await other.start()
    one.copy.records, other.copy.records = records("old"), records("new")

    async def stand_still() -> None:
        clock.now += 3 * EVERY_SECONDS
        assert await other.look() == "new"

    one.copy.meanwhile = stand_still
    assert await one.look() == "new"
    assert await other.newest() == "new"


async def test_while_the_database_is_away_each_goes_by_its_own_copy_and_agrees_with_the_others_afterwards(
    two: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    await one.start()
    await one.look()
    await other.start()
    other.copy.records = records("own")

    async def fail(*arguments: object) -> None:
        raise StorageUnavailable("The database does not answer.")

    with monkeypatch.context() as away:
        away.setattr(SQLite, "read", fail)
        assert await other.look() == "own"
    assert await other.look() == "first"


async def test_what_was_stored_is_not_believed_where_the_files_have_changed_since(
    two: tuple[Process, Process], clock: Clock, tmp_path: Path
) -> None:
    one, other = two
    one.copy.records = records("first", stamp(tmp_path / "osv"))
    await one.start()
    await one.look()
    await one.shared.close()  # the whole mirror is stopped
    assert await other.start() == "first"
    assert other.copy.reads == 0, "the files look as they did when they were read"
    (tmp_path / "osv" / "new.json").write_text("{}")
    other.copy.records = records("second")
    assert await other.start() == "second"
