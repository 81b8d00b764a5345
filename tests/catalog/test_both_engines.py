"""What the catalog's SQL relies on, and every engine has to give: order, numbers, patterns, one writer at a time."""

import asyncio
import random

import pytest

from mirror.catalog import (
    START,
    Catalog,
    Cursor,
    HeldFile,
    Lease,
    RemovedFiles,
    SetMember,
    Token,
    Upload,
    UploadRow,
    User,
)
from mirror.catalog.bundles import BundleImport, ImportedLog, ImportedSerials, RemovedRow, StagedFile, StoredPage
from mirror.catalog.holdings import begins, contains
from mirror.errors import Conflict, ConstraintViolation, LostLease
from mirror.model import Event, File, Page, Stamp, UpstreamResponse
from tests.catalog.conftest import Opener
from tests.catalog.test_totals import BLOBS, SOURCES, applied, counted
from tests.catalog.test_totals import NAMES as TOTALLED

NAMES = ["B", "RedCloth", "Z", "_x", "a", "a-b", "a.b", "ab", "b%", "é"]
"""In the order of their bytes, which is that of no language."""


def held(project: str, filename: str = "one.whl", **facts: object) -> HeldFile:
    values = {"source": "up", "digest": "d" * 64, "size": 10, "stored": 5.0} | facts
    return HeldFile(project=project, filename=filename, **values)  # type: ignore[arg-type]


def uploaded(project: str, filename: str, **facts: object) -> UploadRow:
    values = {"digest": "e" * 64, "size": 7, "uploaded": 3.5, "changed": 3.5, "uploader": "ann", "origin": "::1"}
    upload = Upload(repository="team", project=project, filename=filename, **values | facts)  # type: ignore[arg-type]
    return UploadRow(upload=upload, sidecar="f" * 64, facts='{"version": "1.0"}')


def page(body: bytes = b"{}") -> UpstreamResponse:
    return UpstreamResponse(url="https://index.example/simple/x/", content_type="text/html", body=body)


async def test_who_writes_to_a_catalog_that_was_closed_waits_for_no_one(open_catalog: Opener) -> None:
    catalog = await open_catalog()
    await catalog.close()
    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="not open"):
            await catalog.leases.give_back("any")


async def test_the_digests_of_what_is_held_are_found_by_their_beginning(catalog: Catalog) -> None:
    files = [held(name, digest=digest * 64) for name, digest in (("a", "0"), ("b", "a"), ("c", "a"), ("d", "f"))]
    await catalog.files.add_all([(one, "file") for one in files])
    order = catalog.eviction
    assert await order.held("") == {"0" * 64, "a" * 64, "f" * 64}
    assert await order.held("a") == await order.held("aa") == {"a" * 64}
    assert await order.held("ff") == {"f" * 64}
    assert await order.held("b") == set()


async def test_text_is_ordered_by_its_bytes(catalog: Catalog) -> None:
    await catalog.files.add_all([(held(name), "file") for name in reversed(NAMES)])
    for name in NAMES:
        await catalog.pages.put("up", Page("project", name), page(), Stamp(1, True, "r"))
    assert await catalog.pages.known("up", "project") == NAMES
    assert await catalog.contents.projects(["up"], "team", "", 100) == NAMES
    assert await catalog.contents.projects(["up"], "team", "a", 3) == ["a-b", "a.b", "ab"]
    assert [one.name for one in await catalog.browse.held("team", ["up"], sidecar=".meta", limit=99)] == NAMES
    assert await catalog.browse.known(["up"], after="Z", limit=3) == ["_x", "a", "a-b"]


async def test_patterns_match_in_either_case_and_take_signs_as_they_are(catalog: Catalog) -> None:
    await catalog.files.add_all([(held(name), "file") for name in NAMES])
    for name in NAMES:
        await catalog.pages.put("up", Page("project", name), page(), Stamp(1, True, "r"))
    browse = catalog.browse

    async def found(like: str, unlike: str = "") -> list[str]:
        rows = await browse.held("team", ["up"], like=like, unlike=unlike, sidecar=".meta", limit=99)
        assert [row.name for row in rows] == await browse.known(["up"], like=like, unlike=unlike, limit=99)
        return [row.name for row in rows]

    assert await found(contains("redcloth")) == ["RedCloth"]
    assert await found(begins("red")) == ["RedCloth"]
    assert await found(contains("b"), begins("b")) == ["a-b", "a.b", "ab"]
    assert await found(contains("%")) == ["b%"]
    assert await found(contains("_")) == ["_x"]
    assert await browse.among("team", ["up"], ["a", "nothing", "é"], sidecar=".meta") == {"a", "é"}


async def test_sums_and_counts_are_whole_numbers_and_times_are_floats(catalog: Catalog) -> None:
    await catalog.files.add(held("six", size=1 << 60))
    await catalog.files.add(held("six", "two.whl", digest="2" * 64, size=3))
    totals = await catalog.files.totals()
    assert totals == (2, (1 << 60) + 3)
    assert [type(value) for value in totals] == [int, int]
    rows = await catalog.database.read("SELECT sum(size), max(used), count(*), min(digest) FROM files")
    assert [type(value) for value in rows[0]] == [int, float, int, str]
    ((young,),) = await catalog.database.read("SELECT used >= $1 FROM files WHERE filename = 'two.whl'", 5.0)
    assert (young, type(young)) == (1, int)
    await catalog.counters.add({"hits": 2}, 10)
    await catalog.counters.add({"hits": 3}, 11)
    assert await catalog.counters.spans(10, 24) == [(0, "hits", 5)]
    assert await catalog.pages.states({"up": 0.5}) == {"fresh": 0, "stale": 0, "missing": 0}
    assert await catalog.bundles.moment() == ((await catalog.feed.bounds())[1], 0, 0)


@pytest.mark.parametrize("value", ["plain", "", "ünïcödé 🎉", "a'b\"c;--", "%s $1 {}"])
async def test_text_comes_back_as_it_was_given(catalog: Catalog, value: str) -> None:
    await catalog.claims.show(value, value, value)
    assert await catalog.claims.was_shown(value, value, value)
    assert await catalog.database.read("SELECT repository FROM shown") == [(value,)]


async def test_the_serials_of_the_journal_become_visible_in_order(open_catalog: Opener) -> None:
    one, two, reader = [await open_catalog() for _ in range(3)]
    writing = True

    async def write(catalog: Catalog, name: str) -> None:
        for number in range(40):
            await catalog.feed.append(Event(serial=0, at=number, source=name, project="six", kind="page"))

    async def read() -> int:
        seen = looks = 0
        while writing or seen < 80:
            for event in await reader.feed.since(seen):
                assert event.serial == seen + 1, "one below it became visible later"
                seen = event.serial
            looks += 1
        return looks

    reading = asyncio.create_task(read())
    await asyncio.gather(write(one, "one"), write(two, "two"))
    writing = False
    assert await reading > 1


async def test_what_one_has_written_another_reads_at_once(open_catalog: Opener) -> None:
    one, two = await open_catalog(), await open_catalog()
    for number in range(50):
        await one.uploads.put_all([(uploaded("acme", f"acme-{number}.whl"), "{}")], "upload", "uploads:team")
        assert len(await two.uploads.of_project("team", "acme")) == number + 1
        one, two = two, one


async def test_uploads_are_written_renamed_and_counted(catalog: Catalog) -> None:
    uploads = catalog.uploads
    await uploads.put_all([(uploaded("acme", "Acme-1.0.whl"), "{}")], "upload", "uploads:team")
    await uploads.put_all([(uploaded("acme", "acme-2.0.whl", deleted=True), "{}")], "upload", "uploads:team")
    assert await uploads.newest("team", "acme") == 3.5
    assert await uploads.newest("team", "none") == 0
    assert await uploads.projects("team") == {"acme": 3.5}
    assert await uploads.totals() == (1, 7)
    assert await uploads.uses(["e" * 64, "f" * 64, "0" * 64]) == {"e" * 64, "f" * 64}
    await uploads.rename("Acme-1.0.whl", uploaded("acme", "acme-1.0.whl"), "uploads:team")
    assert [row.upload.filename for row in await uploads.all("team")] == ["acme-1.0.whl", "acme-2.0.whl"]
    assert await uploads.get("team", "Acme-1.0.whl") is None


async def test_totals_are_what_counting_gives(catalog: Catalog) -> None:
    choice = random.Random(7)
    names = [(source, name) for source in SOURCES for name in TOTALLED]
    for number in range(60):
        what = choice.choice(["add", "add all", "forget", "forget all", "import", "page", "no page", "old page"])
        files = [(name, choice.choice(BLOBS)) for name in choice.sample(names, choice.randint(1, 4))]
        await applied(catalog, what, files)
        assert await catalog.files.totals() == await counted(catalog), (number, what)
    assert not await catalog.totals.recount()
    await catalog.database.write(("UPDATE totals SET files = 7", ()), ("UPDATE page_totals SET projects = 9", ()))
    assert await catalog.totals.recount()
    assert await catalog.files.totals() == await counted(catalog)


async def test_accounts_are_added_once_and_sessions_make_room(catalog: Catalog) -> None:
    accounts = catalog.accounts
    before = await accounts.generation()
    await accounts.add_user(User(name="ann", password="x"))
    with pytest.raises(Conflict):
        await accounts.add_user(User(name="ann", password="y"))
    await accounts.add_token(Token(name="ci", sha256="1" * 64, owner="ann"))
    with pytest.raises(Conflict):
        await accounts.add_token(Token(name="other", sha256="1" * 64))
    assert await accounts.remove_user("ann")
    assert not await accounts.remove_user("ann")
    assert await accounts.tokens() == []
    assert await accounts.generation() > before


async def test_a_bundle_is_taken_in_with_everything_that_was_staged(catalog: Catalog) -> None:
    bundles = catalog.bundles
    stored = StoredPage(source="up", kind="project", name="six", checked=1.5, found=True, revision="r")
    await bundles.stage_page("b", 1, stored, b"<html>")
    await bundles.stage_page("b", 1, stored, b"again")
    await bundles.stage_page("b", 2, StoredPage(source="up", kind="project", name="x", checked=1, found=False), b"")
    staged = StagedFile(event="file", source="up", project="six", filename="s.whl", digest="9" * 64, size=4)
    await bundles.stage_files("b", [staged])
    assert await bundles.staged("b") == {1, 2}
    await catalog.logs.append("v", b"old", START)
    row = RemovedRow(filename="gone.whl", since=1.0, why="file", facts=b"\x80")
    change = BundleImport(
        bundle="b", origin="o", seen=ImportedSerials(3, 4), at=9.0, pages=2, files=1,
        removed=[("up", "six", row)], uploads=[("upload", uploaded("acme", "acme-1.0.whl"))],
        logs=[ImportedLog(name="v", content=b"new", replace=True)],
    )  # fmt: skip
    first = await bundles.take(change)
    events = await catalog.feed.since(0)
    assert [(event.serial - first, event.kind) for event in events] == [
        (0, "import"), (1, "project"), (2, "removed"), (3, "file"), (4, "upload"),
    ]  # fmt: skip
    assert (await catalog.logs.read("v"), await bundles.seen()) == (b"new", {"o": ImportedSerials(3, 4)})
    assert [one.found for one in await bundles.pages("up")] == [True, False]
    assert (await bundles.removed("up"))["six"] == [row]
    assert await bundles.files("up") == [("six", "s.whl", "9" * 64, 4)]
    assert await bundles.unrecorded() == [("team", "acme-1.0.whl")]
    await bundles.recorded([("team", "acme-1.0.whl")])
    assert await bundles.unrecorded() == []
    assert len(await bundles.node()) == 32
    assert await bundles.node() == await bundles.node()


async def test_the_journal_forgets_from_its_oldest_end(catalog: Catalog) -> None:
    for at in (1.0, 2.0, 3.0):
        await catalog.feed.append(Event(serial=0, at=at, source="up", project="six", kind="page"))
    await catalog.feed.trim(2.5)
    assert [event.at for event in await catalog.feed.since(0)] == [3.0]
    position = await catalog.feed.position()
    assert (position.forgotten, position.newest) == (2, 3)
    await catalog.feed.trim(99.0)
    assert (await catalog.feed.position()).forgotten == 3
    assert [event.serial for event in await catalog.feed.before(99)] == []


async def test_claims_releases_and_removals(catalog: Catalog) -> None:
    claims, removed = catalog.claims, catalog.removed
    await claims.add("up", ["six", "ten"], 5.0)
    assert await claims.of("team", "six", ["up", "other"]) == {"up"}
    await claims.release("team", "six", 6.0)
    assert await claims.of("team", "six", ["up"]) == set()
    assert (await claims.names("team", "up"), await claims.all_names("up")) == ({"ten"}, {"six", "ten"})
    assert await claims.released("team") == {"six"}
    assert await claims.former("team") == set()
    gone = File(filename="six-1.whl", version="1", digests={}, url="")
    serials = await removed.change("up", "six", [gone], "file", [], 7.0)
    assert len(serials) == 1
    await removed.fetched("up", "six", "six-1.whl", "::1", "ann", 8.0)
    await removed.fetched("up", "six", "six-1.whl", "::1", "ann", 9.0)
    (report,) = await removed.report()
    assert [(fetch.fetches, fetch.last) for fetch in report.fetches] == [(2, 9.0)]
    await catalog.files.add(held("six", "six-1.whl"))
    await catalog.sets.add("ci", [SetMember("up", "six", "six-1.whl")])
    assert await catalog.sets.holding(SetMember("up", "six", "six-1.whl")) == ["ci"]
    assert await removed.change("up", "six", [], "file", ["six-1.whl"], 8.0) == []
    assert isinstance(removed, RemovedFiles)


async def test_cursors_sidecars_and_pages_that_are_missing(catalog: Catalog) -> None:
    await catalog.cursors.put("up", Cursor("feed", 7, 1.5))
    assert await catalog.cursors.get("up") == Cursor("feed", 7, 1.5)
    await catalog.no_sidecars.add("up", "six", "six.whl", "", 1.0)
    assert await catalog.no_sidecars.of_project("up", "six") == {"six.whl": ""}
    for number in range(5):
        await catalog.pages.miss("up", Page("project", f"none{number}"), float(number))
    assert await catalog.pages.trim_missing("up", 1.0, 2) == 3
    assert await catalog.pages.touch("up", Page("project", "none4"), Stamp(9, True, "r")) is False
    assert await catalog.pages.serials("up") == {}


async def test_a_lease_is_held_by_one_and_goes_on_with_a_new_epoch(open_catalog: Opener) -> None:
    one, two = await open_catalog(), await open_catalog()
    lease = await one.leases.take("sweep", 1000.0, 3600)
    assert lease is not None
    assert await two.leases.take("sweep", 1000.0, 3600) is None
    assert await one.leases.take("sweep", 1000.0, 3600) == lease, "taking it again renews it"
    assert await one.leases.renew(lease, 1000.0, 3600)
    await one.leases.give_back("sweep")
    assert not await one.leases.renew(lease, 1000.0, 3600)
    other = await two.leases.take("sweep", 1000.0, 3600)
    assert other is not None
    assert other.epoch > lease.epoch


async def test_what_is_done_under_a_lease_that_is_lost_changes_nothing(open_catalog: Opener) -> None:
    one, two = await open_catalog(), await open_catalog()
    lease = await one.leases.take("sweep", 1000.0, 0.0)  # at its end at once, as after a long pause
    assert lease is not None
    under = one.under(lease)
    await under.feed.append(Event(serial=0, at=1, source="up", project="six", kind="page"))
    assert await two.leases.take("sweep", 1000.0, 60) is not None
    with pytest.raises(LostLease, match="sweep"):
        await under.feed.append(Event(serial=0, at=2, source="up", project="six", kind="page"))
    assert not await one.leases.renew(lease, 1000.0, 60)
    assert [event.at for event in await one.feed.since(0)] == [1.0]
    with pytest.raises(ConstraintViolation):
        await two.database.write(("INSERT INTO leases (name, holder, until) VALUES ('sweep', 'x', 0)", ()))


async def test_work_under_a_lease_is_broken_off_as_another_process_takes_it(open_catalog: Opener) -> None:
    one, two = await open_catalog(), await open_catalog()
    stopped = asyncio.Event()

    async def endless(lease: Lease) -> None:
        try:
            await one.database.write(("UPDATE leases SET until = 0", ()))  # as after a long pause
            assert await two.leases.take("job", 1000.0, 60) is not None
            await asyncio.Event().wait()
        finally:
            stopped.set()

    with pytest.raises(LostLease):
        await asyncio.wait_for(one.leases.run("job", lambda: 1000.0, 0.3, endless), 30)
    assert stopped.is_set()

    async def quick(lease: Lease) -> int:
        return lease.epoch

    assert await one.leases.run("job", lambda: 1000.0, 60, quick) is None, "another process has it"
    await two.leases.give_back("job")
    assert await one.leases.run("job", lambda: 1000.0, 60, quick, keep=True)
    assert await two.leases.run("job", lambda: 1000.0, 60, quick) is None, "it was done a moment ago"
    assert await one.leases.run("job", lambda: 1000.0, 60, quick)
    assert await two.leases.run("job", lambda: 1000.0, 60, quick)


async def test_two_that_take_one_lease_at_the_same_moment_do_not_both_get_it(open_catalog: Opener) -> None:
    nodes = [await open_catalog() for _ in range(3)]
    for number in range(10):
        taken = await asyncio.gather(*(node.leases.take(f"set {number}", 1000.0, 3600) for node in nodes))
        assert sum(lease is not None for lease in taken) == 1
