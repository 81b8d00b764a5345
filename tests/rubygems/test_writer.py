"""The writer of a published log: one task, events from a queue, and a future for those who wait."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mirror.catalog import START, Catalog, LogGrowth, LogPosition, Logs
from mirror.catalog.claims import Claims
from mirror.catalog.sqlite import SQLite
from mirror.errors import UpstreamUnavailable
from mirror.index.freshness import Freshness
from mirror.index.precedence import Precedence
from mirror.rubygems.log import local_entries
from mirror.rubygems.log import writer as writer_module
from mirror.rubygems.log.events import PageChange, Update, UpstreamChange
from mirror.rubygems.log.name_owners import NameOwners
from mirror.rubygems.log.published_index import PublishedIndex
from mirror.rubygems.log.published_log import UpstreamMaps, wanted_map
from mirror.rubygems.log.versions_map import LocalEntry, VersionsMap
from tests.builders import gem
from tests.serving import Serving, serving
from tests.uploading import make_token, push

MD5 = "1" * 32


class Disk:
    """Logs that can be slow, or fail."""

    def __init__(self, catalog: Catalog) -> None:
        self.logs = catalog.logs
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.failing: set[bytes] = set()
        """What stands in a chunk that cannot be written."""
        self.appended: list[tuple[str, bytes]] = []
        self.append, self.logs.append = self.logs.append, self.append_slowly
        self.slow = asyncio.Event()
        """Set when a write waits for the disk."""

    async def append_slowly(self, name: str, chunk: bytes, after: LogPosition, now: float) -> LogPosition | None:
        if not self.go_on.is_set():
            self.slow.set()
        await self.go_on.wait()
        if any(mark in chunk for mark in self.failing):
            raise OSError("The disk has failed.")
        self.appended.append((name, chunk))
        return await self.append(name, chunk, after, now)


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Serving]:
    repository = {"rubygems": {"format": "rubygems", "upstreams": []}}
    async with serving(tmp_path / "data", repository) as served:
        await served.get("versions")
        yield served


def index_of(mirror: Serving) -> PublishedIndex:
    return mirror.mirror.published_indexes["rubygems"]


def change(name: str, *versions: str) -> PageChange:
    return PageChange(name, LocalEntry(versions, MD5))


def lines(index: PublishedIndex) -> Sequence[bytes]:
    assert index.log is not None
    return index.log.slice().splitlines()[2:]


async def test_events_that_come_together_become_one_append(mirror: Serving) -> None:
    index, disk = index_of(mirror), Disk(mirror.mirror.catalog)
    tails = await asyncio.gather(
        *(index.writer.post(change(name, "1.0")) for name in ("rack", "tilt")), index.writer.post(Update())
    )
    assert set(tails) == {f"rack 1.0 {MD5}\ntilt 1.0 {MD5}\n".encode()} or set(tails) == {
        f"tilt 1.0 {MD5}\nrack 1.0 {MD5}\n".encode()
    }
    assert [name for name, _ in disk.appended] == ["own rubygems", "published rubygems"]


async def test_of_two_events_about_one_gem_the_later_counts(mirror: Serving) -> None:
    index = index_of(mirror)
    await asyncio.gather(index.writer.post(change("rack", "1.0")), index.writer.post(change("rack", "2.0")))
    assert lines(index) == [f"rack 2.0 {MD5}".encode()]
    assert await index.writer.apply(change("rack", "2.0")) == b""


async def test_what_comes_while_the_disk_is_busy_is_written_next_and_readers_do_not_wait(mirror: Serving) -> None:
    index, disk = index_of(mirror), Disk(mirror.mirror.catalog)
    disk.go_on.clear()
    first = index.writer.post(change("rack", "1.0"))
    await disk.slow.wait()
    second = index.writer.post(change("tilt", "1.0"))
    assert "rack" not in (await mirror.get("versions")).text, "it is persisted before it is seen"
    assert not index.writer.idle
    disk.go_on.set()
    assert await first == f"rack 1.0 {MD5}\n".encode()
    assert await second == f"tilt 1.0 {MD5}\n".encode()
    assert index.writer.idle
    assert (await mirror.get("versions")).text.endswith(f"rack 1.0 {MD5}\ntilt 1.0 {MD5}\n")


async def test_an_event_that_fails_is_reported_to_its_waiter_and_the_writer_goes_on(mirror: Serving) -> None:
    index, disk = index_of(mirror), Disk(mirror.mirror.catalog)
    disk.failing.add(b"rack")
    with pytest.raises(OSError, match="has failed"):
        await index.writer.apply(change("rack", "1.0"))
    assert lines(index) == []
    assert await index.writer.apply(change("tilt", "1.0")) == f"tilt 1.0 {MD5}\n".encode()
    disk.failing.clear()
    await index.writer.apply(change("rack", "1.0"))
    assert lines(index) == [f"tilt 1.0 {MD5}".encode(), f"rack 1.0 {MD5}".encode()]


async def test_what_was_stored_but_could_not_be_appended_is_appended_with_the_next_event(mirror: Serving) -> None:
    index, disk = index_of(mirror), Disk(mirror.mirror.catalog)
    disk.failing.add(b"rack 1.0")  # the line of the log; the entry is stored as JSON
    with pytest.raises(OSError, match="has failed"):
        await index.writer.apply(change("rack", "1.0"))
    disk.failing.clear()
    assert await index.writer.apply(Update()) == f"rack 1.0 {MD5}\n".encode()


async def test_a_client_that_leaves_does_not_take_its_event_with_it(mirror: Serving) -> None:
    index, disk = index_of(mirror), Disk(mirror.mirror.catalog)
    disk.go_on.clear()
    waiting = asyncio.create_task(index.writer.apply(change("rack", "1.0")))
    await disk.slow.wait()
    waiting.cancel()
    disk.go_on.set()
    await index.writer.apply(Update())
    assert lines(index) == [f"rack 1.0 {MD5}".encode()]


async def test_closing_while_it_is_busy_cancels_its_waiters(mirror: Serving) -> None:
    index, disk = index_of(mirror), Disk(mirror.mirror.catalog)
    disk.go_on.clear()
    busy = index.writer.post(change("rack", "1.0"))
    await disk.slow.wait()
    queued = index.writer.post(change("tilt", "1.0"))
    async with asyncio.timeout(5):
        await index.close()
    assert busy.cancelled()
    assert queued.cancelled()
    assert lines(index) == []


async def test_a_retired_writer_writes_what_came_before_and_nothing_after_until_it_goes_on(mirror: Serving) -> None:
    index, disk = index_of(mirror), Disk(mirror.mirror.catalog)
    before = index.writer.post(change("rack", "1.0"))
    await index.retire()
    assert (await before).endswith(f"rack 1.0 {MD5}\n".encode())
    disk.appended.clear()
    assert await index.writer.apply(change("tilt", "1.0")) == b""
    assert disk.appended == []
    index.resume()
    assert await index.writer.apply(change("tilt", "2.0")) == f"tilt 2.0 {MD5}\n".encode()


async def test_a_gem_that_is_pushed_to_a_retired_writer_is_listed_once_it_goes_on(mirror: Serving) -> None:
    index, key = index_of(mirror), await make_token(mirror)
    mirror.mirror.publishers["rubygems"].published = do_nothing
    await push(mirror, key, gem("rack", "1.0").content)
    await index.retire()
    assert b"1.0 " in (await mirror.get("info/rack")).body
    index.resume()
    assert "rack 1.0 " in (await mirror.get("versions")).text


async def test_nothing_is_written_over_a_log_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = SQLite(tmp_path / "catalog.sqlite")
    await database.open()
    catalog = Catalog(database)
    await catalog.logs.append("published rubygems", b"damaged", START)

    async def fail(name: str, after: LogPosition) -> LogGrowth:
        raise OSError("The disk has failed.")

    repository = {"rubygems": {"format": "rubygems", "upstreams": []}}
    async with serving(tmp_path / "data", repository) as served:
        index = index_of(served)
        await index.writer.opened
        again = PublishedIndex(served.mirror.repositories["rubygems"], [], catalog)
        monkeypatch.setattr(catalog.logs, "read_on", fail)
        again.open()
        with pytest.raises(OSError, match="has failed"):
            await again.current()
        with pytest.raises(OSError, match="has failed"):
            await again.writer.apply(change("rack", "1.0"))
        await again.retire()
        await again.close()
    monkeypatch.undo()
    assert await catalog.logs.read("published rubygems") == b"damaged"
    await database.close()


@pytest.mark.parametrize("asks", ["a client", "a change"])
async def test_a_log_that_could_not_be_read_once_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks: str
) -> None:
    repository = {"rubygems": {"format": "rubygems", "upstreams": []}}
    async with serving(tmp_path / "data", repository) as mirror:
        await index_of(mirror).writer.apply(Update())
        await index_of(mirror).writer.apply(change("rack", "1.0"))
        published = index_of(mirror).log
        assert published is not None

    async def fail(self: Claims, repository: str) -> set[str]:
        raise OSError("The disk has failed.")

    failures = []
    with monkeypatch.context() as patched:
        patched.setattr(Claims, "released", fail)
        stack = AsyncExitStack()
        mirror = await stack.enter_async_context(serving(tmp_path / "data", repository))
        for _ in range(5):
            with pytest.raises(OSError, match="has failed") as failure:
                await index_of(mirror).current(Freshness.NOW)
            failures.append(failure.value)
    assert len(set(map(id, failures))) == 1, "it is read again after a pause, not with each request"
    monkeypatch.setattr(writer_module, "OPEN_AGAIN_SECONDS", 0.0)
    async with stack:
        if asks == "a client":
            assert (await index_of(mirror).current(Freshness.NOW)).slice().startswith(published.slice())
        await index_of(mirror).writer.apply(change("tilt", "2.0"))
        assert (await index_of(mirror).current()).slice().startswith(published.slice())
        assert any(line.startswith(b"tilt 2.0 ") for line in lines(index_of(mirror)))


async def do_nothing(project: str) -> None:
    """List no upload."""


async def test_an_event_that_is_posted_after_the_end_does_not_wait_for_ever(mirror: Serving) -> None:
    index = index_of(mirror)
    await index.close()
    assert index.writer.post(change("rack", "1.0")).cancelled()


async def test_a_page_that_was_made_before_a_push_does_not_take_it_off_the_log(mirror: Serving) -> None:
    index, key = index_of(mirror), await make_token(mirror)
    await push(mirror, key, gem("acme", "1.0").content)
    old = await index.view("acme")
    await push(mirror, key, gem("acme", "1.1").content)
    await index.render(old)
    versions, page = await mirror.get("versions"), await mirror.get("info/acme")
    assert versions.text.splitlines()[-1].endswith(f"1.1 {hashlib.md5(page.body).hexdigest()}")


async def test_a_push_whose_page_cannot_be_made_at_once_is_listed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    settings = {"rubygems": {"format": "rubygems", "upstreams": []}}
    async with serving(tmp_path / "data", settings, clock=lambda: now) as mirror:
        await mirror.get("versions")
        key = await make_token(mirror)

        async def fail(*arguments: object) -> None:
            raise UpstreamUnavailable("The upstream that has other versions of it does not answer.")

        with monkeypatch.context() as patched:
            patched.setattr(mirror.mirror.repositories["rubygems"], "project", fail)
            assert (await push(mirror, key, gem("acme", "1.0").content)).status == 200
        now += 61
        assert "acme 1.0 " in (await mirror.get("versions")).text


async def test_a_gem_that_cannot_be_stored_does_not_keep_others_off_the_log(tmp_path: Path) -> None:
    now = time.time()
    settings = {"rubygems": {"format": "rubygems", "upstreams": []}}
    async with serving(tmp_path / "data", settings, clock=lambda: now) as mirror:
        await mirror.get("versions")
        key, index, disk = await make_token(mirror), index_of(mirror), Disk(mirror.mirror.catalog)
        mirror.mirror.publishers["rubygems"].published = do_nothing
        for name in ("rack", "tilt"):
            await push(mirror, key, gem(name, "1.0").content)
        disk.failing.add(b"rack")
        with pytest.raises(OSError, match="has failed"):
            await index.show(["rack", "tilt"])
        disk.failing.clear()
        now += 61
        listed = (await mirror.get("versions")).text.splitlines()[2:]
        assert sorted(line.split()[0] for line in listed) == ["rack", "tilt"]


async def test_a_retirement_does_not_fail_with_the_writes_before_it_and_takes_no_change_with_it(
    mirror: Serving,
) -> None:
    index, disk, listed = index_of(mirror), Disk(mirror.mirror.catalog), VersionsMap()
    listed.set("tilt", ["1.0"], MD5)
    disk.failing.add(b"rack")
    failing = index.writer.post(change("rack", "1.0"))
    await index.retire()
    assert failing.exception()
    await index.writer.apply(UpstreamChange(0, listed, frozenset({"tilt"})))
    assert lines(index) == []
    disk.failing.clear()
    index.resume()
    await index.writer.apply(Update())
    assert lines(index) == [f"tilt 1.0 {MD5}".encode()]


async def test_a_disk_that_fails_at_the_start_does_not_end_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = {"rubygems": {"format": "rubygems", "upstreams": []}}
    async with serving(tmp_path / "data", repository) as mirror:
        await index_of(mirror).writer.apply(Update())
        line = local_entries._line("rack", LocalEntry(("1.0",), MD5))
        await mirror.mirror.catalog.logs.append("own rubygems", line, START)

    async def fail(self: Logs, name: str, chunk: bytes, after: LogPosition) -> None:
        raise OSError("The disk has failed.")

    with monkeypatch.context() as patched:
        patched.setattr(Logs, "append", fail)
        stack = AsyncExitStack()
        mirror = await stack.enter_async_context(serving(tmp_path / "data", repository))
        await index_of(mirror).writer.opened
    async with stack:
        assert lines(index_of(mirror)) == []
        await index_of(mirror).writer.apply(Update())
        assert lines(index_of(mirror)) == [f"rack 1.0 {MD5}".encode()]


def test_the_name_of_a_gem_that_is_gone_stays_with_the_upstream_that_had_it() -> None:
    before, after, other = VersionsMap(), VersionsMap(), VersionsMap()
    before.set("acme", ["1.0"], "a" * 32)
    before.set("torch", ["1.0"], "b" * 32)
    for name in ("acme", "torch", "rack"):
        other.set(name, ["66.0"], "c" * 32)
    assert after.keep_names(before.known()) == ["acme", "torch"]
    owners = NameOwners(Precedence(union=("torch",)))
    maps = UpstreamMaps((after, other), owners)
    assert list(wanted_map([after, other], owners, {})) == ["torch", "rack"]
    released = NameOwners(released={"acme"})
    assert list(wanted_map([after, other], released, {})) == ["acme", "rack"]
    assert [name for name in ("acme", "torch", "rack") if maps.entry(name)] == ["torch", "rack"]
