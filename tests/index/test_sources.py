"""An upstream with everything that it ever answered kept: what is asked, stored and reported."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import msgspec
import pytest
from yarl import URL

from mirror.blobs.local import LocalBlobs
from mirror.catalog import Catalog
from mirror.catalog.database import Row, Value
from mirror.catalog.files import HeldFile
from mirror.catalog.sqlite import SQLite
from mirror.errors import DigestMismatch, NotFound, Offline, UnknownProject, UpstreamProtocolError, UpstreamUnavailable
from mirror.index import page_store
from mirror.index.cache import MemoryBudget
from mirror.index.freshness import Ages, Freshness
from mirror.index.journal import Journal
from mirror.index.page_listing import LAG_SECONDS, PageListing
from mirror.index.source import OpenFile, SourceOptions
from mirror.index.upstream import CachedUpstream
from mirror.index.upstream_files import UpstreamFiles
from mirror.index.upstream_pages import UpstreamPages
from mirror.isolation.processes import IsolatedProcesses
from mirror.model import Page, Project, UpstreamRequest, UpstreamResponse
from mirror.pypi import FORMAT
from mirror.transfer import Transfers
from mirror.upstream import Upstream, UpstreamOptions
from tests.builders import wheel
from tests.serving import serving
from tests.simulator import Body, Simulator, Stall, Status

SIX = wheel("six", "1.16", size=100_000)
NEWER = wheel("six", "1.17")
AGES = Ages(fresh=100, stale_while_revalidate=50, stale_if_error=1000, negative=10)
PAGE = Page("project", "six")


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """Everything that a source needs, and sources that share it."""

    def __init__(self, directory: Path, simulator: Simulator) -> None:
        self.catalog = Catalog(SQLite(directory / "catalog.sqlite"))
        self.blobs = LocalBlobs(directory)
        self.feed = Journal(self.catalog.feed)
        self.reported: list[tuple[str, str]] = []
        """What others hear from the journal."""
        self.outdated: list[list[str] | None] = []
        """What the repository hears from its source."""
        self.feed.listen(lambda source, project: self.reported.append((source, project)), [simulator.simple_url])
        self.transfers = Transfers(self.blobs)
        self.clock = Clock()
        self.simulator = simulator
        self._made: list[CachedUpstream] = []

    def source(self, *, offline: bool = False, limit: int = 64 << 20, connect: float = 3) -> CachedUpstream:
        """One more, with nothing in its memory."""
        client = UpstreamOptions(retries=0, breaker_failures=1000, connect_timeout=connect)
        upstream = Upstream("upstream", URL(self.simulator.simple_url), client)
        catalog, journal, memory = self.catalog, self.feed, MemoryBudget(64 << 20)
        options = SourceOptions(ages=AGES, page_limit=limit, offline=offline, clock=self.clock)
        made = CachedUpstream(
            UpstreamPages(FORMAT, upstream, catalog, journal, memory, IsolatedProcesses(), options),
            UpstreamFiles(FORMAT, upstream, catalog, self.blobs, self.transfers, journal, memory, options),
            journal,
            options,
        )
        made.outdated = lambda projects: self.outdated.append(None if projects is None else list(projects))
        self._made.append(made)
        return made

    async def close(self) -> None:
        await self.transfers.close(5)
        for made in self._made:
            await made.close()
            await made.upstream.close()
        await self.catalog.close()


@pytest.fixture
async def desk(tmp_path: Path, simulator: Simulator) -> AsyncIterator[Desk]:
    simulator.publish(SIX)
    made = Desk(tmp_path, simulator)
    assert isinstance(made.catalog.database, SQLite)
    await made.catalog.database.open()
    yield made
    await made.close()


async def project(source: CachedUpstream, freshness: Freshness = Freshness.USUAL) -> Project:
    listing = await source.project("six", freshness)
    assert listing.project is not None
    return listing.project


async def content(opened: OpenFile) -> bytes:
    return b"".join([chunk async for chunk in opened.body.read()])


async def filenames(source: CachedUpstream, freshness: Freshness = Freshness.USUAL) -> list[str]:
    return [file.filename for file in (await project(source, freshness)).files]


# Pages


async def test_a_page_is_stored_as_it_came_and_reported_to_others_once(desk: Desk) -> None:
    source = desk.source()
    listing = await source.project("six")
    assert listing.outcome == "miss"
    assert listing.until == desk.clock.now + AGES.fresh
    assert {file.source for file in (await project(source)).files} == {source.name}
    answer = await desk.catalog.pages.answer(source.name, PAGE)
    assert answer is not None
    assert hashlib.sha256(answer.body).hexdigest() == listing.revision
    assert desk.reported == [(source.name, "six")]
    assert desk.outdated == [], "who has asked knows"
    events = await desk.feed.since(0)
    assert [(event.kind, event.project) for event in events] == [("project", "six")]


@pytest.mark.parametrize(
    ("age", "outcome", "asked"), [(99, "hit", 0), (100, "stale", 1), (149, "stale", 1), (150, "miss", 1)]
)
async def test_what_the_age_of_a_page_means(desk: Desk, age: float, outcome: str, asked: int) -> None:
    source = desk.source()
    await source.project("six")
    desk.clock.now += age
    desk.simulator.forget()
    assert (await source.project("six")).outcome == outcome
    await desk.simulator.until(lambda: desk.simulator.count() == asked)


async def test_a_confirmed_page_is_fresh_again_and_no_one_hears_of_it(desk: Desk) -> None:
    source = desk.source()
    before = await source.project("six")
    desk.clock.now += 1000
    after = await source.project("six")
    assert (after.project, after.revision) == (before.project, before.revision)
    assert (await source.project("six", known=before.revision)).project is None
    assert after.until == desk.clock.now + AGES.fresh
    assert [request.status for request in desk.simulator.requests] == [200, 304]
    assert len(desk.reported) == 1
    assert (await desk.source().project("six")).outcome == "hit"  # the confirmation is stored too


async def test_a_confirmation_is_not_for_a_page_that_another_process_has_replaced(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, other = desk.source(), desk.source()
    before = await source.project("six")
    ask = source.upstream.get

    async def ask_slowly(request: UpstreamRequest, **validators: str | None) -> UpstreamResponse | None:
        response = await ask(request, **validators)
        desk.simulator.publish(NEWER)
        await other.project("six", Freshness.NOW)
        return response

    monkeypatch.setattr(source.upstream, "get", ask_slowly)
    after = await source.project("six", Freshness.NOW, known=before.revision)
    assert after.project is not None
    assert len(after.project.files) == 2


async def test_what_is_read_later_has_the_revision_of_what_is_read(desk: Desk) -> None:
    source = desk.source()
    names, document = await source.names(), await source.document(PAGE)
    assert document is not None
    assert (await names.load()).revision == names.revision
    assert (await document.read()).revision == document.revision
    desk.simulator.publish(wheel("other", "1"))
    desk.simulator.publish(NEWER)
    await source.names(Freshness.NOW)
    await source.document(PAGE, Freshness.NOW)
    assert (await names.load()).revision != names.revision
    revision, content = await document.read()
    assert revision == FORMAT.revision(content) != document.revision


async def test_a_clock_that_was_set_back_makes_no_page_immortal(desk: Desk) -> None:
    source = desk.source()
    await source.project("six")
    desk.clock.now -= 1_000_000
    assert (await source.project("six")).outcome == "miss"


async def test_what_is_missing_is_believed_for_a_while(desk: Desk) -> None:
    source = desk.source()
    for step, asked in ((0, 1), (9, 1), (2, 2)):
        desk.clock.now += step
        with pytest.raises(UnknownProject):
            await source.project("nothing")
        assert desk.simulator.count() == asked


async def test_a_stored_page_stands_in_for_a_failing_upstream_for_so_long(desk: Desk) -> None:
    source = desk.source()
    await source.project("six")
    desk.simulator.inject("*", Status(500))
    desk.clock.now += AGES.fresh + 999
    assert (await source.project("six")).outcome == "stale"
    desk.clock.now += 1
    with pytest.raises(UpstreamUnavailable):
        await source.project("six")
    assert (await source.project("six", Freshness.ANY)).outcome == "hit"


async def test_what_is_held_is_given_without_a_question(desk: Desk) -> None:
    source = desk.source()
    await source.project("six")
    desk.clock.now += 10_000
    asked = desk.simulator.count()
    listing = await source.project("six", Freshness.HELD)
    assert (listing.outcome, listing.project is not None) == ("stale", True)
    with pytest.raises(Offline):
        await source.project("other", Freshness.HELD)
    assert desk.simulator.count() == asked


async def test_what_a_source_has_had_is_recorded_for_good_whoever_is_logged_in(desk: Desk) -> None:
    source, claims = desk.source(), desk.catalog.claims
    await source.project("six")
    desk.simulator.inject("/simple/former/", Status(410))
    for missing in ("other", "former"):
        with pytest.raises(UnknownProject):
            await source.project(missing)
    await desk.catalog.pages.forget(source.name, "six", before=desk.clock.now + 1)
    with_login = source.name.replace("://", "://user@")
    for name, owned in (("six", True), ("former", True), ("other", False)):
        assert bool(await claims.of("pypi", name, [with_login])) is owned
    assert await claims.names("pypi", with_login) == {"six", "former"}
    await claims.release("pypi", "six", desk.clock.now)
    assert await claims.names("pypi", source.name) == {"former"}
    assert await claims.names("team", source.name) == {"six", "former"}


async def test_pages_that_never_were_are_remembered_for_a_while_and_up_to_a_number(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def remembered() -> int:
        sql = "SELECT count(*) FROM pages WHERE found = 0"
        return int((await desk.catalog.database.read(sql))[0][0])

    async def ask(names: Iterable[str]) -> None:
        for name in names:
            with pytest.raises(UnknownProject):
                await source.project(name)

    monkeypatch.setattr(page_store, "TRIM_EVERY", 10)
    source = desk.source()
    await source.project("six")
    await ask(f"other{number}" for number in range(25))
    assert await remembered() == 25
    desk.clock.now += AGES.negative
    await ask(f"later{number}" for number in range(5))  # the thirtieth looks after the others
    assert await remembered() == 5
    monkeypatch.setattr(page_store, "MOST_MISSING", 8)
    for number in range(20):
        desk.clock.now += 0.01
        await ask([f"many{number}"])
    assert await remembered() <= 8
    desk.simulator.inject("/simple/six/", Status(404))
    desk.clock.now += 10_000
    await ask(["six"])
    desk.clock.now += 10_000
    await source.pages.store.trim_missing(desk.clock.now)
    assert await remembered() == 1  # what there was is no name that anyone can invent


async def test_nobody_waits_longer_than_the_limit_who_has_something_stored(desk: Desk) -> None:
    source = desk.source(connect=0.05)
    await source.project("six")
    with pytest.raises(UnknownProject):
        await source.project("nothing")
    desk.clock.now += 1000
    stalled = desk.simulator.inject("/simple/*", Stall())
    assert (await source.project("six")).outcome == "stale"
    asked = desk.simulator.count()
    assert (await source.project("six", Freshness.NOW)).outcome == "stale"
    with pytest.raises(UpstreamUnavailable):
        await source.project("nothing")
    assert desk.simulator.count() == asked  # one question is enough to find out
    new = asyncio.create_task(source.project("other"))
    await desk.simulator.until(lambda: desk.simulator.count() == asked + 1)  # who has nothing has to wait
    stalled.release()
    with pytest.raises(UnknownProject):
        await new
    while (await source.project("six")).outcome == "stale":  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_pages_above_the_limit_are_refused(desk: Desk) -> None:
    with pytest.raises(UpstreamProtocolError, match="larger than 100 bytes"):
        await desk.source(limit=100).project("six")


async def test_a_page_that_does_not_parse_changes_nothing(desk: Desk) -> None:
    source = desk.source()
    desk.simulator.pypi.configure(gzip=False)
    await source.project("six")
    desk.clock.now += 1000
    desk.simulator.publish(NEWER)
    desk.simulator.inject("/simple/six/", Body(b"[]"))
    assert await filenames(source) == [SIX.filename]
    assert len(desk.reported) == 1
    assert len(await desk.feed.since(0)) == 1


async def test_a_listed_revision_is_believed_more_than_any_age(desk: Desk) -> None:
    source = desk.source()
    listing = await source.project("six")
    source.pages.listing = PageListing({"six"}, lambda name: listing.revision)
    desk.clock.now += 1e9
    assert (await source.project("six")).outcome == "hit"
    assert desk.simulator.count() == 1
    source.pages.listing = PageListing({"six"}, lambda name: "another")
    assert (await source.project("six")).outcome == "miss"
    assert (await source.project("six")).outcome == "stale"  # upstream lags behind its own index
    assert desk.simulator.count() == 2
    desk.clock.now += LAG_SECONDS
    assert (await source.project("six")).outcome == "miss"


async def test_a_page_whose_body_is_lost_or_damaged_is_fetched_again(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    await desk.source().project("six")
    for damage in ("DELETE FROM pages", "UPDATE pages SET body = x'00'"):
        caplog.clear()
        source = desk.source()
        assert await source.pages.store.row(PAGE) is not None  # it is known, and then it is gone
        await desk.catalog.database.write((damage, ()))
        assert await filenames(source) == [SIX.filename]
        assert "is lost or damaged" in caplog.text
    assert [request.status for request in desk.simulator.requests] == [200] * 3
    await desk.catalog.database.write(("UPDATE pages SET body = x'00'", ()))
    with pytest.raises(Offline):
        await desk.source(offline=True).project("six")


async def test_a_newer_serial_in_the_list_of_names_makes_a_page_old(desk: Desk) -> None:
    source = desk.source()
    await source.project("six")
    await source.names()
    assert (await source.project("six")).outcome == "hit"
    desk.simulator.publish(NEWER)
    desk.clock.now += 10
    desk.outdated.clear()
    await source.names(Freshness.NOW)
    assert desk.outdated == [None]  # so that no memory holds the old page
    listing = await source.project("six")
    assert listing.project is not None
    assert (listing.outcome, len(listing.project.files)) == ("miss", 2)
    assert (await source.project("six")).outcome == "hit"


async def test_without_a_list_the_names_are_those_held(desk: Desk) -> None:
    source = desk.source()
    await source.project("six")
    desk.simulator.inject("/simple/", Status(500))
    before = await source.names()
    assert (list((await before.load()).names.serials), before.outcome) == (["six"], "stale")
    desk.simulator.publish(wheel("other", "1"))
    await source.project("other")
    desk.simulator.inject("/simple/", Status(500))
    after = await source.names()
    assert list((await after.load()).names.serials) == ["other", "six"]
    assert after.revision != before.revision


async def test_a_page_that_is_refreshed_in_the_background_outdates_what_is_shown(desk: Desk) -> None:
    source = desk.source()
    await source.project("six")
    desk.clock.now += AGES.fresh
    assert (await source.project("six")).outcome == "stale"
    await desk.simulator.until(lambda: desk.simulator.count() == 2)
    while (await source.project("six")).outcome == "stale":  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert desk.outdated == [], "it was confirmed"
    desk.simulator.publish(NEWER)
    desk.clock.now += AGES.fresh
    assert (await source.project("six")).outcome == "stale"
    async with asyncio.timeout(10):
        while desk.outdated != [["six"]]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert len(await filenames(source)) == 2


async def test_the_first_cold_page_costs_three_looks_at_the_catalog(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    read, find = desk.catalog.database.read, desk.catalog.database.find

    async def counted(sql: str, *values: Value) -> list[Row]:
        asked.append(sql)
        return await read(sql, *values)

    async def counted_find(sql: str, *values: Value) -> list[Row]:
        asked.append(sql)
        return await find(sql, *values)

    monkeypatch.setattr(desk.catalog.database, "read", counted)
    monkeypatch.setattr(desk.catalog.database, "find", counted_find)
    source = desk.source()
    assert len(await filenames(source)) == 1
    assert len(asked) == 3, asked  # its state, what upstream has taken back, and which files have no sidecar
    assert (await source.project("six")).outcome == "hit"
    assert len(asked) == 4  # the stored page, since nothing was known


# Files


async def test_a_file_is_given_from_the_store_to_the_source_that_delivered_it_alone(desk: Desk) -> None:
    source = desk.source()
    file = (await project(source)).files[0]
    await desk.blobs.write(SIX.content)  # an upload of another repository, say
    with pytest.raises(Offline):
        await desk.source(offline=True).open("six", file)
    assert await content(await source.open("six", file)) == SIX.content
    assert desk.simulator.count("GET", "*.whl") == 1
    assert (await source.open("six", file)).outcome == "hit"
    assert (await desk.source(offline=True).open("six", file)).outcome == "offline"
    assert [blob.digest async for blob in desk.blobs.walk()] == [SIX.sha256]


async def test_a_page_that_lists_the_digest_of_a_file_does_not_get_its_bytes(desk: Desk) -> None:
    source = desk.source()
    file = (await project(source)).files[0]
    secret = await desk.blobs.write(b"a private file")
    listed = msgspec.structs.replace(file, digests={"sha256": secret.digest}, size=None)
    with pytest.raises(DigestMismatch):
        await content(await source.open("six", listed))


async def test_after_the_loss_of_the_catalog_a_source_has_what_it_delivered_under_that_name_alone(desk: Desk) -> None:
    source = desk.source()
    file = (await project(source)).files[0]
    assert await content(await source.open("six", file)) == SIX.content
    await desk.catalog.files.forget(source.name, "six", file.filename)  # as in a new catalog
    with pytest.raises(Offline):
        await desk.source(offline=True).open("six", msgspec.structs.replace(file, filename="six-1.18-py3-none-any.whl"))
    assert (await desk.source(offline=True).open("six", file)).outcome == "offline"
    assert await desk.catalog.files.get(source.name, "six", file.filename) is not None
    assert desk.simulator.count("GET", "*.whl") == 1


async def test_a_fetched_file_is_recorded_with_an_event(desk: Desk) -> None:
    source = desk.source()
    file = (await project(source)).files[0]
    opened = await source.open("six", file)
    assert b"".join([chunk async for chunk in opened.body.read()]) == SIX.content
    held = await desk.catalog.files.get(source.name, "six", SIX.filename)
    assert held is not None
    assert (held.digest, held.size) == (SIX.sha256, SIX.size)
    assert (await desk.feed.since(0))[-1].filename == SIX.filename


async def test_a_file_that_is_listed_with_other_bytes_does_not_make_us_forget_those_held(desk: Desk) -> None:
    source = desk.source()
    file = (await project(source)).files[0]
    opened = await source.open("six", file)
    assert b"".join([chunk async for chunk in opened.body.read()]) == SIX.content
    with pytest.raises(Offline):
        await desk.source(offline=True).open("six", msgspec.structs.replace(file, digests={"sha256": "0" * 64}))
    assert await desk.catalog.files.get(source.name, "six", SIX.filename) is not None


async def test_who_asks_for_a_file_at_the_same_moment_shares_the_look_ups(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = desk.source()
    file = (await project(source)).files[0]
    read, looked_up = desk.catalog.files.of_project, 0

    async def of_project(*words: str) -> list[HeldFile]:
        nonlocal looked_up
        looked_up += 1
        return await read(*words)

    monkeypatch.setattr(desk.catalog.files, "of_project", of_project)
    opened = await asyncio.gather(*(source.open("six", file) for _ in range(20)))
    assert sorted(one.outcome for one in opened) == ["joined"] * 19 + ["miss"]
    assert looked_up == 1
    for one in opened:
        assert b"".join([chunk async for chunk in one.body.read()]) == SIX.content
    assert desk.simulator.count("GET", "*.whl") == 1


async def test_metadata_of_a_held_wheel_is_made_here_when_it_is_what_the_index_promises(desk: Desk) -> None:
    source = desk.source()
    file = (await project(source)).files[0]
    assert await content(await source.open("six", file)) == SIX.content
    assert await content(await source.sidecar("six", file)) == SIX.metadata
    assert desk.simulator.count("GET", "*.metadata") == 0


async def test_a_sidecar_that_nothing_vouches_for_is_compared_once_its_file_is_held(desk: Desk) -> None:
    desk.simulator.pypi.configure(metadata=False)
    source = desk.source()
    file = (await project(source)).files[0]
    forged = FORMAT.sidecar_name(file)
    first = await source.sidecar("six", file)
    assert (await content(first), first.provisional) == (SIX.metadata, True)
    invented = await desk.blobs.write(SIX.metadata + b"Requires-Dist: evil\n")
    held = await desk.catalog.files.get(source.name, "six", forged)
    assert held is not None
    await desk.catalog.files.add(msgspec.structs.replace(held, digest=invented.digest, size=invented.size), "sidecar")
    source.forget("six")
    before = await source.sidecar("six", file)
    assert (before.body.digest, before.provisional) == (invented.digest, True)
    desk.clock.now += 1
    assert await content(await source.open("six", file)) == SIX.content
    after = await source.sidecar("six", file)
    assert (await content(after), after.provisional) == (SIX.metadata, False)
    again = await source.sidecar("six", file)
    assert (again.outcome, again.provisional) == ("hit", False)


async def test_a_sidecar_whose_digest_is_promised_is_final_before_its_file_is_held(desk: Desk) -> None:
    source = desk.source()
    file = (await project(source)).files[0]
    outcomes = [await source.sidecar("six", file) for _ in range(2)]
    assert [(one.outcome, one.provisional) for one in outcomes] == [("miss", False), ("hit", False)]


async def test_metadata_that_differs_from_the_promise_is_asked_for(desk: Desk) -> None:
    other = SIX.metadata + b"Keywords: rewritten\n"
    desk.simulator.publish(SIX, metadata=other)
    source = desk.source()
    file = (await project(source)).files[0]
    await desk.blobs.write(SIX.content)
    opened = await source.sidecar("six", file)
    assert b"".join([chunk async for chunk in opened.body.read()]) == other
    assert desk.simulator.count("GET", "*.metadata") == 1


async def test_a_sidecar_that_another_process_has_replaced_is_looked_up_again(desk: Desk) -> None:
    source = desk.source()
    file = (await project(source)).files[0]

    async def sidecar() -> bytes:
        return b"".join([chunk async for chunk in (await source.sidecar("six", file)).body.read()])

    assert await sidecar() == await sidecar() == SIX.metadata
    held = await desk.catalog.files.get(source.name, "six", FORMAT.sidecar_name(file))
    assert held is not None
    other = await desk.blobs.write(b"other")
    await desk.catalog.files.add(msgspec.structs.replace(held, digest=other.digest, size=other.size))
    assert await sidecar() == SIX.metadata
    source.forget("six")
    assert await sidecar() == b"other"


@pytest.mark.parametrize("status", [401, 403, 404, 410])
@pytest.mark.parametrize("what", ["file", "sidecar", "head", "part"])
async def test_a_link_that_is_refused_or_gone_is_looked_up_anew(desk: Desk, status: int, what: str) -> None:
    desk.simulator.pypi.configure(metadata=False, sizes=False)
    source = desk.source()
    file = (await project(source)).files[0]
    old = desk.simulator.pypi.relink("six", SIX.filename)
    desk.simulator.inject(f"{old}*", Status(status))
    desk.clock.now += 20  # the page is fresh, and no one asks for it
    match what:
        case "file":
            assert await content(await source.open("six", file)) == SIX.content
        case "sidecar":
            assert await content(await source.sidecar("six", file)) == SIX.metadata
        case "head":
            assert (await source.open("six", file, "head")).body.size == SIX.size
        case _:
            part = (await source.open("six", file, "part")).body
            assert b"".join([chunk async for chunk in part.read(0, 9)]) == SIX.content[:9]
    assert desk.simulator.count("GET", "/simple/six/") == 2
    assert desk.outdated == [["six"]]


async def test_a_file_that_is_gone_costs_one_look_at_its_page_in_some_seconds(desk: Desk) -> None:
    source = desk.source()
    file = (await project(source)).files[0]
    desk.simulator.inject("*.whl", Status(404))
    desk.clock.now += 20
    for _ in range(5):
        with pytest.raises(NotFound):
            await source.open("six", file)
    assert desk.simulator.count("GET", "/simple/six/") == 2


async def test_a_file_that_was_replaced_behind_its_link_goes_through_policy_first(desk: Desk) -> None:
    source = desk.source()
    file = (await project(source)).files[0]
    desk.simulator.publish(wheel("six", "1.16", size=90_000))
    desk.simulator.inject(URL(file.url).path, Status(404))
    desk.clock.now += 20
    with pytest.raises(NotFound):
        await source.open("six", file)
    assert desk.outdated == [["six"]]


async def test_repositories_that_share_an_upstream_show_what_either_of_them_fetches(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(SIX)
    one = {"format": "pypi", "upstreams": [simulator.simple_url]}
    repositories = {"one": {**one, "mount": "/one"}, "two": {**one, "mount": "/two"}}
    async with serving(tmp_path / "data", repositories) as mirror:
        before = [(await mirror.get(f"{mount}/simple/six/")).body for mount in ("one", "two")]
        simulator.publish(NEWER)
        fetched = await mirror.get("one/simple/six/", Cache_Control="no-cache")
        shown = await mirror.get("two/simple/six/")
        assert fetched.body == shown.body != before[0] == before[1]
        assert simulator.count("GET", "/simple/six/") == 2
