"""Small files: those that arrive together are made durable and recorded together, and none spoils another."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from mirror.blobs import SmallBlob, StoredBlob
from mirror.blobs.local import LocalBlobs
from mirror.catalog import Catalog, HeldFile
from mirror.catalog.sqlite import SQLite
from mirror.errors import StorageFull
from mirror.index.journal import Journal
from mirror.index.small_files import SmallFileWriter
from mirror.transfer import TAIL_BYTES
from mirror.transfer.transfer import SMALL_BYTES
from tests.builders import wheel
from tests.contract.pypi import held, mirroring, patient
from tests.simulator import Corrupt, Cut, Simulator, Stall

SMALL = wheel("thing", "1.0")


class Desk:
    """A writer, its store and its catalog."""

    def __init__(self, directory: Path) -> None:
        self.database = SQLite(directory / "catalog.sqlite")
        self.catalog = Catalog(self.database)
        self.blobs = LocalBlobs(directory)
        self.journal = Journal(self.catalog.feed)
        self.writer = SmallFileWriter(self.catalog, self.blobs, self.journal)

    async def store(self, number: int) -> bool:
        content = b"%d" % number
        blob = SmallBlob(content=content, digest=hashlib.sha256(content).hexdigest(), label=("s", f"{number}.whl"))
        row = HeldFile(
            source="s", project="p", filename=f"{number}.whl", digest=blob.digest, size=len(content), stored=1.0
        )
        return await self.writer.store(blob, row)

    async def recorded(self) -> list[str]:
        return [one.filename for one in await self.catalog.files.of_project("s", "p")]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk(tmp_path)
    await made.database.open()
    yield made
    await made.writer.close()
    await made.catalog.close()


async def test_files_that_arrive_while_others_are_written_are_written_together(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_all, batches, first_is_in, go_on = desk.blobs.store_all, list[int](), asyncio.Event(), asyncio.Event()

    async def slow(blobs: Sequence[SmallBlob]) -> list[StoredBlob]:
        batches.append(len(blobs))
        first_is_in.set()
        await go_on.wait()
        return await store_all(blobs)

    monkeypatch.setattr(desk.blobs, "store_all", slow)
    storing = [asyncio.create_task(desk.store(0))]
    await first_is_in.wait()
    storing += [asyncio.create_task(desk.store(number)) for number in range(1, 10)]
    await asyncio.sleep(0)
    assert not any(one.done() for one in storing)
    go_on.set()
    assert all(await asyncio.gather(*storing))
    assert batches == [1, 9]
    assert await desk.recorded() == [f"{number}.whl" for number in range(10)]
    assert desk.journal.serial == max(event.serial for event in await desk.journal.since(0))


async def test_what_is_recorded_is_in_the_store_before(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    add_all = desk.catalog.files.add_all

    async def checked(many: Sequence[tuple[HeldFile, str]]) -> int:
        assert all([await desk.blobs.find(row.digest) for row, _ in many])
        return await add_all(many)

    monkeypatch.setattr(desk.catalog.files, "add_all", checked)
    assert all(await asyncio.gather(*(desk.store(number) for number in range(5))))


async def test_a_store_without_room_for_all_takes_those_that_fit(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    store_all = desk.blobs.store_all

    async def nearly_full(blobs: Sequence[SmallBlob]) -> list[StoredBlob]:
        if len(blobs) > 1 or blobs[0].content == b"3":
            raise StorageFull("full")
        return await store_all(blobs)

    monkeypatch.setattr(desk.blobs, "store_all", nearly_full)
    results = await asyncio.gather(*(desk.store(number) for number in range(5)), return_exceptions=True)
    assert [isinstance(result, StorageFull) for result in results] == [False, False, False, True, False]
    assert await desk.recorded() == ["0.whl", "1.whl", "2.whl", "4.whl"]


async def test_a_catalog_that_fails_leaves_the_files_in_the_store(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(many: Sequence[tuple[HeldFile, str]]) -> int:
        raise RuntimeError("no catalog")

    monkeypatch.setattr(desk.catalog.files, "add_all", broken)
    assert await asyncio.gather(*(desk.store(number) for number in range(3))) == [False] * 3
    assert "could not be recorded in the catalog" in caplog.text
    assert len([blob async for blob in desk.blobs.walk()]) == 3


async def test_small_blobs_are_written_beside_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set[str]()
    monkeypatch.setattr("mirror.blobs.bulk.write_at", lambda *_: threads.add(threading.current_thread().name))
    blobs = LocalBlobs(tmp_path)
    await blobs.store_all([SmallBlob(content=b"", digest=hashlib.sha256(b"").hexdigest())])
    assert threads
    assert threading.current_thread().name not in threads


async def test_a_small_file_that_breaks_off_is_fetched_again_unseen(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(SMALL)
    simulator.inject("*.whl", Cut(after=100), times=1)
    async with mirroring(tmp_path / "data", simulator, network=patient()) as mirror:
        reply = await mirror.get(f"/packages/thing/{SMALL.filename}")
        assert (reply.status, reply.body, reply.outcome) == (200, SMALL.content, "miss")
        assert await held(mirror) == {SMALL.sha256}


async def test_clients_read_what_has_come_of_a_file_that_does_not_come_at_once(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.transfer.small.SMALL_SECONDS", 0.0)
    built = wheel("thing", "2.0", size=SMALL_BYTES - 10_000)
    assert TAIL_BYTES < len(built.content) < SMALL_BYTES
    simulator.publish(built)
    stalled = simulator.inject("*.whl", Stall(after=TAIL_BYTES + 50_000))
    async with mirroring(tmp_path / "data", simulator) as mirror:
        async with mirror.session.get(f"{mirror.url}packages/thing/{built.filename}") as response:
            assert await response.content.readexactly(50_000) == built.content[:50_000]
            stalled.release()
            assert await response.read() == built.content[50_000:]
        assert await held(mirror) == {built.sha256}


async def test_a_small_file_answers_alike_when_it_is_fetched_and_when_it_is_held(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(SMALL)
    async with mirroring(tmp_path / "data", simulator) as mirror:
        first, second = [await mirror.get(f"/packages/thing/{SMALL.filename}") for _ in range(2)]
        assert (first.outcome, second.outcome) == ("miss", "hit")
        assert first.body == second.body == SMALL.content
        different = ("Date", "X-Mirror-Cache")
        one, other = [{n: v for n, v in reply.headers.items() if n not in different} for reply in (first, second)]
        assert one == other
        assert simulator.count("GET", "*.whl") == 1


async def test_a_small_file_with_a_wrong_byte_is_neither_given_nor_kept(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(SMALL)
    simulator.inject("*.whl", Corrupt(), times=1)
    async with mirroring(tmp_path / "data", simulator, network=patient()) as mirror:
        assert (await mirror.get(f"/packages/thing/{SMALL.filename}")).status == 502
        assert await held(mirror) == set()
        assert (await mirror.get(f"/packages/thing/{SMALL.filename}")).body == SMALL.content
