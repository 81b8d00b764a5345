"""Pages that are answered before they are written."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from mirror.errors import StorageFull, UnknownProject
from mirror.index import page_store
from mirror.index.freshness import Freshness
from mirror.index.upstream import CachedUpstream
from mirror.model import Page, Stamp, UpstreamResponse
from tests.builders import wheel
from tests.index.test_sources import NEWER, PAGE, SIX, Desk, content, filenames, project
from tests.simulator import Simulator


class SlowDisk:
    """Holds back what is written of pages until it is released."""

    def __init__(self, desk: Desk) -> None:
        self.begun = 0
        self.error: Exception | None = None
        self.broken = {"six"}
        self.released = asyncio.Event()
        self._put_all = desk.catalog.pages.put_all

    async def put_all(
        self, source: str, answers: Mapping[Page, tuple[UpstreamResponse, Stamp]], owner: str = ""
    ) -> dict[Page, int]:
        self.begun += 1
        await self.released.wait()
        if self.error is not None and self.broken & {page.name for page in answers}:
            raise self.error
        return await self._put_all(source, answers, owner)


@pytest.fixture
async def desk(tmp_path: Path, simulator: Simulator) -> AsyncIterator[Desk]:
    simulator.publish(SIX)
    made = Desk(tmp_path, simulator)
    made.feed.subscriptions.clear()  # no one else in this process reads what a source writes
    await made.catalog.database.open()
    yield made
    await made.close()


@pytest.fixture
def disk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    slow = SlowDisk(desk)
    monkeypatch.setattr(desk.catalog.pages, "put_all", slow.put_all)
    return slow


async def until(true: Callable[[], bool]) -> None:
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not become so")


async def test_a_page_is_answered_and_counts_as_stored_before_it_is_written(desk: Desk, disk: SlowDisk) -> None:
    source = desk.source()
    assert await filenames(source) == [SIX.filename]
    await until(lambda: disk.begun == 1)
    assert await filenames(source) == [SIX.filename]
    source.forget("six")
    assert await filenames(source) == [SIX.filename], "the file of a page is found without the page in memory"
    assert desk.simulator.count("GET", "/simple/six/") == 1, "what is being written is not asked for again"
    assert await desk.catalog.pages.get(source.name, PAGE) is None
    disk.released.set()
    await source.close()
    assert await desk.catalog.pages.get(source.name, PAGE) is not None
    assert [event.kind for event in await desk.feed.since(0)] == ["project"]


async def test_pages_that_come_together_are_written_together(desk: Desk, disk: SlowDisk) -> None:
    for number in range(5):
        desk.simulator.publish(wheel(f"member{number}", "1.0"))
    source = desk.source()
    await asyncio.gather(*(source.project(f"member{number}") for number in range(5)))
    disk.released.set()
    await source.pages.store.written()
    assert disk.begun == 1
    assert await source.pages.store.projects() == [f"member{number}" for number in range(5)]
    assert [event.serial for event in await desk.feed.since(0)] == [1, 2, 3, 4, 5]


async def test_a_file_becomes_durable_while_its_page_is_written_and_is_recorded_after_it(
    desk: Desk, disk: SlowDisk
) -> None:
    source = desk.source()
    (file,) = (await project(source)).files
    opening = asyncio.create_task(source.open("six", file))
    await until(lambda: desk.blobs.may_hold(SIX.sha256))
    await until(lambda: disk.begun == 1)
    assert await desk.catalog.files.of_project(source.name, "six") == []
    assert not opening.done()
    disk.released.set()
    assert await content(await opening) == SIX.content
    assert [event.kind for event in await desk.feed.since(0)] == ["project", "file"]


async def test_a_newer_page_is_written_before_it_is_answered(desk: Desk, disk: SlowDisk) -> None:
    source = desk.source()
    await filenames(source)
    desk.simulator.publish(NEWER)
    asking = asyncio.create_task(filenames(source, Freshness.ANEW))
    await until(lambda: desk.simulator.count("GET", "/simple/six/") == 2)
    await asyncio.sleep(0.05)
    assert not asking.done(), "other processes may have the older one"
    disk.released.set()
    assert len(await asking) == 2
    answer = await desk.catalog.pages.answer(source.name, PAGE)
    assert answer is not None
    assert NEWER.filename.encode() in answer.body


async def test_that_a_page_is_gone_is_stored_behind_it(desk: Desk, disk: SlowDisk) -> None:
    source = desk.source()
    await filenames(source)
    desk.simulator.remove("six")
    asking = asyncio.create_task(source.project("six", Freshness.ANEW))
    await until(lambda: desk.simulator.count("GET", "/simple/six/") == 2)
    disk.released.set()
    with pytest.raises(UnknownProject):
        await asking
    row = await desk.catalog.pages.get(source.name, PAGE)
    assert row is not None
    assert not row.stamp.found


async def test_a_page_that_keeps_its_name_from_other_sources_is_durable_before_it_is_answered(
    desk: Desk, disk: SlowDisk
) -> None:
    source = desk.source()
    source.precedes = True
    await waits_for_the_disk(source, disk)
    assert await desk.catalog.claims.all_names(source.name) == {"six"}


async def test_a_page_that_others_here_read_is_stored_before_it_is_answered(desk: Desk, disk: SlowDisk) -> None:
    source = desk.source()
    desk.feed.listen(lambda source, project: desk.reported.append((source, project)), [source.name])
    await waits_for_the_disk(source, disk)
    assert desk.reported == [(source.name, "six")], "others are told of what they can read"


async def test_no_more_is_answered_ahead_of_the_disk_than_a_bound(
    desk: Desk, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_store, "ARRIVING_BYTES", -1)
    await waits_for_the_disk(desk.source(), disk)


async def waits_for_the_disk(source: CachedUpstream, disk: SlowDisk) -> None:
    """Ask for a page, and see that the answer comes when the disk has it."""
    asking = asyncio.create_task(filenames(source))
    await until(lambda: disk.begun == 1)
    await asyncio.sleep(0.05)
    assert not asking.done()
    disk.released.set()
    assert await asking == [SIX.filename]


async def test_the_names_of_what_is_stored_have_what_is_being_written(desk: Desk, disk: SlowDisk) -> None:
    source = desk.source()
    await filenames(source)
    asking = asyncio.create_task(source.pages.store.projects())
    await until(lambda: disk.begun == 1)
    disk.released.set()
    assert await asking == ["six"]


async def test_no_file_is_recorded_before_its_page(desk: Desk, disk: SlowDisk) -> None:
    source = desk.source()
    listed = (await source.project("six")).project
    assert listed is not None
    opening = asyncio.create_task(source.open("six", listed.files[0]))
    await until(lambda: desk.simulator.count("GET", "*.whl") == 1)
    await asyncio.sleep(0.05)
    assert await desk.catalog.files.get(source.name, "six", SIX.filename) is None
    disk.released.set()
    assert await content(await opening) == SIX.content
    assert await desk.catalog.files.get(source.name, "six", SIX.filename) is not None
    assert await desk.catalog.pages.get(source.name, PAGE) is not None


async def test_a_page_for_which_there_turns_out_to_be_no_room_stays_in_memory(desk: Desk, disk: SlowDisk) -> None:
    disk.error = StorageFull("full")
    disk.released.set()
    source = desk.source()
    await filenames(source)
    await source.pages.store.written()
    assert await filenames(source) == [SIX.filename]
    assert desk.simulator.count("GET", "/simple/six/") == 1


async def test_a_page_that_cannot_be_written_is_asked_for_again_and_hinders_no_other(
    desk: Desk, disk: SlowDisk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.simulator.publish(wheel("other", "1.0"))
    source = desk.source()
    await asyncio.gather(filenames(source), source.project("other"))
    disk.error = RuntimeError("odd")
    disk.released.set()
    assert await source.pages.store.projects() == ["other"]
    assert "the page project six could not be stored" in caplog.text
    disk.error = None
    assert await filenames(source) == [SIX.filename]
    assert desk.simulator.count("GET", "/simple/six/") == 2
