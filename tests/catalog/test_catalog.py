"""The catalog: what is written is there after a restart, in one commit with its event, and damage is survived."""

import asyncio
import math
import time
from pathlib import Path

import msgspec
import pytest

from mirror.catalog import START, Catalog, HeldFile, LogGrowth, LogPosition, SetMember, SharedLog, logs
from mirror.catalog.files import FEW_FILES
from mirror.catalog.sqlite import SQLite
from mirror.errors import ConstraintViolation
from mirror.model import Event, Page, Stamp, UpstreamResponse
from tests.catalog.conftest import Opener

SIX = Page("project", "six")


async def opened(path: Path) -> Catalog:
    database = SQLite(path)
    await database.open()
    return Catalog(database)


def answer(body: bytes = b"{}", etag: str | None = '"1"') -> UpstreamResponse:
    return UpstreamResponse(
        url="https://index.example/simple/six/", content_type="text/html", body=body, etag=etag, serial=7
    )


async def test_a_page_comes_back_as_it_was_stored(catalog: Catalog) -> None:
    assert await catalog.pages.get("up", SIX) is None
    await catalog.pages.put("up", SIX, answer(b"x" * 100_000), Stamp(1000, True, "r1"))
    assert await catalog.pages.answer("up", SIX) == answer(b"x" * 100_000)
    row = await catalog.pages.get("up", SIX)
    assert row is not None
    assert (row.stamp, row.etag, row.serial) == (Stamp(1000, True, "r1"), '"1"', 7)
    assert await catalog.pages.get("other", SIX) is None


async def test_only_a_new_revision_is_news(catalog: Catalog) -> None:
    first = await catalog.pages.put("up", SIX, answer(), Stamp(1, True, "r1"))
    again = await catalog.pages.put("up", SIX, answer(), Stamp(2, True, "r1"))
    changed = await catalog.pages.put("up", SIX, answer(b"[]"), Stamp(3, True, "r2"))
    assert first is not None
    assert again is None
    assert changed is not None
    assert changed > first
    assert [(event.kind, event.project) for event in await catalog.feed.since(0)] == [("project", "six")] * 2


async def test_a_page_that_goes_away_is_news_once(catalog: Catalog) -> None:
    assert await catalog.pages.miss("up", SIX, 1) is None
    await catalog.pages.put("up", SIX, answer(), Stamp(2, True, "r1"))
    assert await catalog.pages.miss("up", SIX, 3) is not None
    assert await catalog.pages.miss("up", SIX, 4) is None
    assert await catalog.pages.answer("up", SIX) is None
    row = await catalog.pages.get("up", SIX)
    assert row is not None
    assert not row.stamp.found


async def test_held_files_are_found_by_name_and_by_digest(catalog: Catalog) -> None:
    held = HeldFile(source="up", project="six", filename="six-1.whl", digest="d" * 64, size=10, stored=5)
    await catalog.files.add(held)
    await catalog.files.add(HeldFile(source="b", project="six", filename="six-1.whl", digest="d" * 64, size=10))
    found = await catalog.files.get("up", "six", "six-1.whl")
    assert found is not None
    assert (found.digest, found.size, found.stored, found.used, found.uses) == ("d" * 64, 10, 5, 5, 0)
    assert {one.source for one in await catalog.files.named("d" * 64)} == {"up", "b"}
    assert await catalog.files.totals() == (1, 10)
    await catalog.files.used([("up", "six", "six-1.whl", 3, 9.0)])
    (used,) = await catalog.files.of_project("up", "six")
    assert (used.uses, used.used) == (3, 9.0)
    await catalog.files.forget("up", "six", "six-1.whl")
    assert await catalog.files.get("up", "six", "six-1.whl") is None


@pytest.mark.parametrize("count", [FEW_FILES - 1, FEW_FILES, FEW_FILES + 1])
async def test_a_project_has_all_its_held_files_however_many(catalog: Catalog, count: int) -> None:
    names = [f"six-{number:03d}.whl" for number in range(count)]
    await catalog.files.add_all(
        [(HeldFile(source="up", project="six", filename=name, digest="d" * 64, size=10), "file") for name in names]
    )
    assert [one.filename for one in await catalog.files.of_project("up", "six")] == names


def end_of(position: LogPosition | None) -> LogPosition:
    """Where a log ends that was written."""
    assert position is not None
    return position


async def test_logs_append_and_replace(catalog: Catalog) -> None:
    logs = catalog.logs
    assert await logs.read("v") == b""
    one = end_of(await logs.append("v", b"one\n", START))
    two = end_of(await logs.append("v", b"two\n", one))
    assert await logs.append("other", b"else\n", START)
    assert (await logs.read("v"), two.chunks, await logs.position("v")) == (b"one\ntwo\n", 2, two)
    assert await logs.read_on("v", one) == LogGrowth(two, b"two\n", anew=False)
    three = end_of(await logs.replace("v", b"three\n", two))
    four = end_of(await logs.append("v", b"four\n", three))
    assert await logs.read("v") == b"three\nfour\n"
    assert four.chunks == 2
    for known in (START, one, two):
        assert await logs.read_on("v", known) == LogGrowth(four, b"three\nfour\n", anew=True)
    assert await logs.read_on("v", four) == LogGrowth(four, b"", anew=False)


async def test_who_takes_a_log_to_end_elsewhere_writes_nothing(open_catalog: Opener) -> None:
    ours, theirs = (await open_catalog()).logs, (await open_catalog()).logs
    one = end_of(await ours.append("v", b"one\n", START))
    two = end_of(await theirs.append("v", b"two\n", one))
    for after in (START, one):
        assert await ours.append("v", b"lost\n", after) is None
        assert await ours.replace("v", b"lost\n", after) is None
    three = end_of(await theirs.append("v", b"three\n", two))
    assert await ours.replace("v", b"lost\n", one) is None, "two more than it knew"
    assert await ours.read("v") == b"one\ntwo\nthree\n"
    anew = end_of(await ours.replace("v", b"anew\n", three))
    assert await theirs.append("v", b"lost\n", three) is None
    assert await theirs.read_on("v", three) == LogGrowth(anew, b"anew\n", anew=True)


async def test_of_those_who_write_at_the_same_time_one_is_accepted(open_catalog: Opener) -> None:
    writers = [(await open_catalog()).logs for _ in range(3)]
    end, content = START, b""
    for number in range(10):
        chunks = [b"%d %d\n" % (number, at) for at in range(3)]
        replacing = number == 5
        write = [one.replace if replacing else one.append for one in writers]
        ends = await asyncio.gather(*(one("v", chunk, end) for one, chunk in zip(write, chunks, strict=True)))
        ((accepted, end),) = [(chunk, one) for chunk, one in zip(chunks, ends, strict=True) if one is not None]
        content = accepted if replacing else content + accepted
        assert {await one.read("v") for one in writers} == {content}


async def test_two_states_of_a_log_are_never_of_the_same_second(open_catalog: Opener) -> None:
    ours, theirs = (await open_catalog()).logs, (await open_catalog()).logs
    end, times = START, list[int]()
    for number in range(4):
        write = (ours.replace if number == 2 else ours.append) if number % 2 else theirs.append
        end = end_of(await write("v", b"%d\n" % number, end))
        times.append(int(end.at))
        assert await ours.position("v") == await theirs.position("v") == end
        assert (await theirs.read_on("v", START)).position == end
    assert times == sorted(set(times))


async def test_one_process_asks_upstream_and_all_others_leave_it_to_that_one(
    open_catalog: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = await open_catalog()
    first, second = SharedLog(catalog.logs, "v"), SharedLog((await open_catalog()).logs, "v")
    second._holder = "another"
    async with first.refreshing(60.0) as ours:
        assert ours.ours
        async with second.refreshing() as theirs:
            assert (theirs.ours, theirs.running, theirs.began) == (False, True, ours.began)
        before = time.time() - 0.5
        late = await second._logs.begin_refresh("v", "another", before, 60.0, math.inf)
        assert not late.ours, "it read the clock a moment earlier, and wrote later"
    async with second.refreshing(60.0) as recent:
        assert (recent.ours, recent.running) == (False, False)
    async with second.refreshing(since=ours.began) as late:
        assert not late.ours, "it was asked no earlier than that"
    async with first.refreshing(60.0) as again:
        assert again.ours, "who asked last knows by itself whether it is too early"
    async with second.refreshing() as anew:
        assert anew.ours
    monkeypatch.setattr(logs, "REFRESH_SECONDS", 0.001)
    assert (await first._logs.begin_refresh("v", "dead", time.time(), 0.0, math.inf)).ours
    await asyncio.sleep(0.01)
    async with second.refreshing(60.0) as instead:
        assert instead.ours, "the process that asked has died"
    set_back = await first._logs.begin_refresh("v", "first", time.time() - 60, 60.0, math.inf)
    assert set_back.ours != catalog.database.shared, "the clock of a machine was set back"


async def test_counters_add_up(catalog: Catalog) -> None:
    await catalog.counters.add({"a": 1, "b": 2})
    await catalog.counters.add({"a": 10})
    totals = await catalog.counters.all()
    assert (totals["a"], totals["b"]) == (11, 2)


async def test_many_writers_share_commits_and_one_that_fails_fails_alone(catalog: Catalog) -> None:
    insert = "INSERT INTO leases (name, holder, until) VALUES ($1, 'me', 0)"
    results = await asyncio.gather(
        *(catalog.database.write((insert, (str(number % 90),))) for number in range(100)), return_exceptions=True
    )
    assert sum(isinstance(result, ConstraintViolation) for result in results) == 10
    assert await catalog.database.read("SELECT count(*) FROM leases") == [(90,)]


@pytest.mark.parametrize("value", [1 << 70, "\udc80"])
async def test_a_value_that_does_not_fit_fails_alone_and_the_next_is_written(
    catalog: Catalog, value: str | int
) -> None:
    insert = "INSERT INTO leases (name, holder, until) VALUES ($1, 'me', 0)"
    async with asyncio.timeout(5):
        with pytest.raises((OverflowError, UnicodeEncodeError)):
            await catalog.database.write((insert, (value,)))
        results = await asyncio.gather(
            *(catalog.database.write((insert, (one,))) for one in ("a", value, "b")), return_exceptions=True
        )
    assert [isinstance(result, Exception) for result in results] == [False, True, False]
    assert await catalog.database.read("SELECT name FROM leases ORDER BY name") == [("a",), ("b",)]


async def test_a_transaction_that_breaks_a_constraint_leaves_nothing(catalog: Catalog) -> None:
    insert = "INSERT INTO leases (name, holder, until) VALUES ($1, 'me', 0)"
    await catalog.database.write((insert, ("taken",)))
    with pytest.raises(ConstraintViolation):
        await catalog.database.write((insert, ("new",)), (insert, ("taken",)))
    assert await catalog.database.read("SELECT name FROM leases") == [("taken",)]


async def test_everything_is_there_after_a_restart(open_catalog: Opener) -> None:
    catalog = await open_catalog()
    await catalog.pages.put("up", SIX, answer(), Stamp(1, True, "r"))
    serial = await catalog.feed.append(Event(serial=0, at=1, source="up", project="six", kind="yank", detail={"a": 1}))
    await catalog.close()
    again = await open_catalog()
    assert await again.pages.answer("up", SIX) == answer()
    assert (await again.feed.bounds())[1] == serial
    assert (await again.feed.since(serial - 1))[0].detail == {"a": 1}


async def test_two_processes_write_one_catalog(open_catalog: Opener) -> None:
    one, two = await open_catalog(), await open_catalog()
    await asyncio.gather(*(node.counters.add({"n": 1}) for node in (one, two) for _ in range(20)))
    assert (await one.counters.all())["n"] == 40


async def test_a_damaged_file_is_set_aside_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "catalog.sqlite"
    path.write_bytes(b"this is no database, but it is long enough to be looked at" * 100)
    catalog = await opened(path)
    assert await catalog.pages.get("up", SIX) is None
    await catalog.close()
    assert len(list(tmp_path.glob("catalog.sqlite.damaged-*"))) == 1
    assert "damaged" in caplog.text


async def test_damage_that_shows_in_use_is_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "catalog.sqlite"
    catalog = await opened(path)
    for number in range(200):
        await catalog.pages.put("up", Page("project", f"p{number}"), answer(b"%d" % number), Stamp(1, True, "r"))
    await catalog.database.read("PRAGMA wal_checkpoint(TRUNCATE)")
    await catalog.close()
    catalog = await opened(path)
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)
    assert await catalog.pages.get("up", Page("project", "p150")) is None
    await catalog.pages.put("up", SIX, answer(), Stamp(1, True, "r"))
    assert await catalog.pages.answer("up", SIX) == answer()
    await catalog.close()
    assert "damaged" in caplog.text


async def test_of_two_processes_that_see_damage_one_begins_a_new_file_and_the_other_uses_it(tmp_path: Path) -> None:
    path = tmp_path / "catalog.sqlite"
    one = await opened(path)
    for number in range(200):
        await one.pages.put("up", Page("project", f"p{number}"), answer(b"%d" % number), Stamp(1, True, "r"))
    await one.database.read("PRAGMA wal_checkpoint(TRUNCATE)")
    await one.close()
    one, two, three = [await opened(path) for _ in range(3)]
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    with path.open("r+b") as file:
        file.write(content)
    for catalog in (one, two):
        assert await catalog.pages.get("up", Page("project", "p150")) is None
    await three.pages.put("up", SIX, answer(), Stamp(1, True, "r"))  # it has seen no damage, and must not write there
    assert [await catalog.pages.answer("up", SIX) for catalog in (one, two, three)] == [answer()] * 3
    for catalog in (one, two, three):
        await catalog.close()
    assert len(list(tmp_path.glob("catalog.sqlite.damaged-*[0-9]"))) == 1


@pytest.mark.parametrize(("kind", "digest", "stored"), [("file", "a", 1), ("file", "b", 9), ("sidecar", "a", 9)])
async def test_a_file_that_is_recorded_late_by_another_process_is_left_as_it_is(
    catalog: Catalog, kind: str, digest: str, stored: float
) -> None:
    first = HeldFile(source="up", project="six", filename="six-1.whl", digest="a", size=10, stored=1)
    late = msgspec.structs.replace(first, digest=digest, stored=9)
    other = msgspec.structs.replace(late, filename="six-2.whl")
    await catalog.files.add(first, kind)
    await catalog.files.add(late, kind)
    await catalog.files.add(other, kind)
    await catalog.files.add_all([(late, kind), (other, "file"), (other, "sidecar")])
    found = [await catalog.files.get("up", "six", one.filename) for one in (late, other)]
    assert [one and (one.digest, one.stored) for one in found] == [(digest, stored), (digest, 9)]


async def test_many_files_are_recorded_in_one_transaction_with_an_event_for_each(catalog: Catalog) -> None:
    await catalog.feed.append(Event(serial=0, at=1, source="up", project="x", kind="page"))
    many = [
        (HeldFile(source="up", project="six", filename=f"six-{n}.whl", digest=f"{n:064x}", size=n, stored=5), "file")
        for n in range(250)
    ]
    assert await catalog.files.add_all(many) == 251
    assert await catalog.files.add_all([(msgspec.structs.replace(many[7][0], size=99), "sidecar")]) == 252
    held = await catalog.files.get("up", "six", "six-7.whl")
    assert held is not None
    assert (held.size, held.digest) == (99, f"{7:064x}")
    events = await catalog.feed.since(1)
    assert [event.serial for event in events] == list(range(2, 253))
    assert [event.filename for event in events] == [f"six-{n}.whl" for n in range(250)] + ["six-7.whl"]
    assert events[-1] == Event(serial=252, at=5, source="up", project="six", kind="sidecar", filename="six-7.whl")


async def test_a_set_names_what_it_was_given_and_can_be_replaced(catalog: Catalog) -> None:
    members = [SetMember("up", "six", f"six-{n}.whl") for n in range(450)]
    await catalog.sets.add("ci", members[:400])
    await catalog.sets.add("ci", members[300:])
    await catalog.sets.add("laptop", members[:1])
    assert await catalog.sets.names() == {"ci": 450, "laptop": 1}
    assert await catalog.sets.holding(members[0]) == ["ci", "laptop"]
    await catalog.sets.replace("ci", members[:2])
    assert await catalog.sets.members("ci") == members[:2]
    assert await catalog.sets.holding(members[5]) == []
    await catalog.sets.replace("ci", [])
    assert await catalog.sets.names() == {"laptop": 1}


async def test_a_catalog_that_is_not_open_says_so_instead_of_waiting_for_ever(tmp_path: Path) -> None:
    catalog = Catalog(SQLite(tmp_path / "catalog.sqlite"))
    async with asyncio.timeout(5):
        for use in (catalog.counters.all(), catalog.counters.add({"a": 1}), catalog.database.scan("SELECT 1")):
            with pytest.raises(RuntimeError, match="not open"):
                await use
        await catalog.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_long_scan_keeps_no_one_from_reading(catalog: Catalog) -> None:
    numbers = "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < $1)"
    scans = [asyncio.create_task(catalog.database.scan(f"{numbers} SELECT count(*) FROM numbers", 3_000_000))]
    scans += [asyncio.create_task(catalog.database.scan("SELECT 1")) for _ in range(9)]
    for _ in range(20):
        assert await catalog.pages.get("up", SIX) is None
    assert not any(scan.done() for scan in scans)
    assert (await asyncio.gather(*scans))[0] == [(3_000_000,)]


async def test_a_caller_who_leaves_does_not_take_the_connection_along(catalog: Catalog) -> None:
    for _ in range(10):
        reading = asyncio.create_task(catalog.counters.all())
        await asyncio.sleep(0)
        reading.cancel()
    assert (await catalog.counters.all())["feed"] == 0
