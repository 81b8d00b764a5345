"""One served index: who is asked, who wins, and that nothing old is shown after a change."""

import asyncio
from collections.abc import Container, Iterable, Sequence

import msgspec
import pytest

from mirror.catalog import Catalog, Claims
from mirror.catalog.sqlite import SQLite
from mirror.errors import (
    NotFound,
    Offline,
    ReservedName,
    UnknownFile,
    UnknownProject,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror.index.cache import MemoryBudget, Validity
from mirror.index.freshness import Freshness
from mirror.index.gathering import SourceOrder
from mirror.index.journal import Journal
from mirror.index.precedence import Precedence
from mirror.index.repository import Repository
from mirror.index.source import Document, Listing, LoadedNames, NameListing, OpenFile, Outdated
from mirror.index.view import ViewStamp
from mirror.model import File, Names, Outcome, Page, Project
from mirror.policy import policy_for
from mirror.pypi import FORMAT, versions


class Fake:
    """A source that lists what a test wants it to."""

    def __init__(self, name: str, *filenames: str, local: bool = False) -> None:
        self.name = name
        self.local = local
        self.projects: Container[str] | None = None
        self.outdated: Outdated = lambda projects: None
        self.filenames: tuple[str, ...] = filenames
        self.error: Exception | None = None
        self.outcome: Outcome = "hit"
        self.until = 100.0
        self.revision = ""
        self.removed: frozenset[str] = frozenset()
        self.asked: list[tuple[str, Freshness]] = []
        self.parsed = 0
        self.forgotten: list[str] = []
        self.paused = asyncio.Event()
        self.paused.set()

    async def names(self, freshness: Freshness = Freshness.USUAL) -> NameListing:
        async def load() -> LoadedNames:
            return LoadedNames(self.name, Names(serials=dict.fromkeys(["six", "acme-secret"], 7), serial=7))

        return NameListing(revision=self.name, until=self.until, outcome=self.outcome, load=load)

    async def project(self, name: str, freshness: Freshness = Freshness.USUAL, known: str = "") -> Listing:
        self.asked.append((name, freshness))
        files = tuple(File(filename=one, version="1", source=self.name) for one in self.filenames)
        error = self.error
        await self.paused.wait()
        if error:
            raise error
        if not files:
            raise UnknownProject(name)
        revision = self.revision or repr(files)
        self.parsed += revision != known
        project = None if revision == known else Project(name=name, files=files)
        return Listing(revision=revision, until=self.until, outcome=self.outcome, project=project, removed=self.removed)

    async def open(self, project: str, file: File) -> OpenFile:
        raise AssertionError("no test opens a file")

    async def sidecar(self, project: str, file: File) -> OpenFile:
        raise AssertionError("no test opens a sidecar")

    async def document(self, page: Page, freshness: Freshness = Freshness.USUAL) -> Document | None:
        raise NotFound("no document")

    def forget(self, project: str) -> None:
        self.forgotten.append(project)

    async def close(self) -> None:
        pass


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class MemoryClaims(Claims):
    """The tables of claims, in memory."""

    def __init__(self) -> None:
        self.had: set[str] = set()
        """The sources that ever had the project."""
        self.given: set[str] = set()
        """The sources that have given it, though they are not the first."""

    async def of(self, repository: str, project: str, sources: Iterable[str]) -> set[str]:
        return self.had.intersection(sources)

    async def names(self, repository: str, source: str) -> set[str]:
        return set()

    async def former(self, repository: str) -> set[str]:
        return set()

    async def show(self, repository: str, project: str, source: str) -> None:
        self.given.add(source)

    async def was_shown(self, repository: str, project: str, source: str) -> bool:
        return source in self.given


JOURNAL = Journal(Catalog(SQLite.__new__(SQLite)).feed)  # nothing is written: it only reports


def repository(
    *sources: Fake,
    private: Sequence[str] = (),
    union: Sequence[str] = (),
    clock: Clock | None = None,
    memory: int = 1_000_000,
    claims: MemoryClaims | None = None,
) -> Repository:
    """A repository of these sources without any rules."""
    precedence = Precedence(private=tuple(private), union=tuple(union))
    return Repository(
        "pypi", FORMAT, SourceOrder("pypi", sources, precedence, claims or MemoryClaims()),
        policy=policy_for("pypi", (), versions), journal=JOURNAL, memory=MemoryBudget(memory), clock=clock or Clock(),
    )  # fmt: skip


async def names_of(repository: Repository, freshness: Freshness = Freshness.USUAL) -> list[str]:
    return [file.filename for file in (await repository.project("six", freshness)).project.files]


# Who is asked


async def test_the_first_source_that_has_it_wins_and_the_next_is_not_asked() -> None:
    first, second = Fake("a", "six-1.tar.gz"), Fake("b", "six-9.tar.gz")
    assert await names_of(repository(first, second)) == ["six-1.tar.gz"]
    assert second.asked == []


async def test_the_next_source_is_asked_for_what_the_first_has_not() -> None:
    assert await names_of(repository(Fake("a"), Fake("b", "six-9.tar.gz"))) == ["six-9.tar.gz"]


async def test_a_source_whose_projects_are_in_memory_is_asked_for_those_alone() -> None:
    uploads, upstream = Fake("a", "six-1.tar.gz", local=True), Fake("b", "six-9.tar.gz")
    uploads.projects = {"acme"}
    assert await names_of(repository(uploads, upstream)) == ["six-9.tar.gz"]
    assert uploads.asked == []
    uploads.projects = {"six"}
    assert await names_of(repository(uploads, upstream)) == ["six-1.tar.gz"]


@pytest.mark.parametrize(
    "error", [UpstreamUnavailable("down"), UpstreamRefused("who?"), UpstreamProtocolError("nonsense")]
)
async def test_a_source_whose_answer_is_not_known_is_never_passed(error: Exception) -> None:
    first, second = Fake("a"), Fake("b", "six-9.tar.gz")
    first.error = error
    with pytest.raises(type(error)):
        await names_of(repository(first, second))
    assert second.asked == []


@pytest.mark.parametrize(
    "error", [UpstreamUnavailable("down"), UpstreamRefused("who?"), UpstreamProtocolError("nonsense"), Offline("off")]
)
async def test_while_a_source_is_silent_the_next_goes_on_with_what_it_gave(error: Exception) -> None:
    first, second, claims = Fake("a"), Fake("b", "six-9.tar.gz"), MemoryClaims()
    served = repository(first, second, claims=claims)
    assert await names_of(served) == ["six-9.tar.gz"]
    first.error = error
    served.forget("six")
    assert await names_of(served) == ["six-9.tar.gz"]
    assert [freshness for _, freshness in second.asked] == [Freshness.USUAL, Freshness.HELD]
    second.filenames = ()
    served.forget("six")
    with pytest.raises(type(error)):  # and not "there is no such project"
        await names_of(served)


async def test_a_source_is_never_passed_for_what_it_ever_had() -> None:
    first, second, claims = Fake("a"), Fake("b", "six-9.tar.gz"), MemoryClaims()
    claims.had = {"a"}
    served = repository(first, second, claims=claims)
    with pytest.raises(ReservedName, match="mirror release six"):
        await names_of(served)
    first.error = UpstreamUnavailable("down")
    claims.given = {"b"}  # before the first one had it
    with pytest.raises(UpstreamUnavailable):
        await names_of(served)
    assert second.asked == []


async def test_offline_what_no_source_holds_is_offline_and_not_unknown() -> None:
    first, second = Fake("a"), Fake("b")
    first.error = Offline("not held")
    with pytest.raises(Offline):
        await names_of(repository(first, second))


async def test_a_union_asks_all_and_the_earlier_one_wins_a_file_name() -> None:
    first, second = Fake("a", "six-1.tar.gz"), Fake("b", "six-1.tar.gz", "six-9.tar.gz")
    view = await repository(first, second, union=["s*"]).project("six")
    assert [(file.filename, file.source) for file in view.project.files] == [
        ("six-1.tar.gz", "a"),
        ("six-9.tar.gz", "b"),
    ]


async def test_a_private_name_is_asked_of_no_upstream() -> None:
    ours, upstream = Fake("ours", local=True), Fake("a", "six-1.tar.gz")
    served = repository(ours, upstream, private=["six"])
    with pytest.raises(UnknownProject):
        await names_of(served)
    assert (len(ours.asked), upstream.asked) == (1, [])
    with pytest.raises(UnknownProject):
        await served.file("six", "six-1.tar.gz")
    assert upstream.asked == []


async def test_private_names_of_upstreams_are_not_listed() -> None:
    listing = await repository(Fake("a"), private=["acme-*"]).names()
    assert list((await listing.load()).names.serials) == ["six"]
    ours = await repository(Fake("ours", local=True), Fake("a"), private=["acme-*"]).names()
    assert list((await ours.load()).names.serials) == ["acme-secret", "six"]


# What is remembered


async def test_a_view_is_remembered_until_its_time_is_over() -> None:
    source, clock = Fake("a", "six-1.tar.gz"), Clock()
    source.outcome = "miss"
    served = repository(source, clock=clock)
    assert [(await served.project("six")).outcome for _ in range(3)] == ["miss", "hit", "hit"]
    clock.now = 100
    assert (await served.project("six")).outcome == "miss"
    assert len(source.asked) == 2
    assert (await served.project("six", Freshness.NOW)).outcome == "miss"


async def test_equal_pages_of_two_sources_are_two_pages() -> None:
    first, second = Fake("a", "six-1.tar.gz"), Fake("b", "six-1.tar.gz")
    first.revision = second.revision = "the same"
    clock = Clock()
    served = repository(first, second, clock=clock)
    assert (await served.file("six", "six-1.tar.gz")).source == "a"
    first.filenames, clock.now = (), 100
    assert (await served.project("six")).project.files[0].source == "b"


async def test_a_file_is_found_on_a_page_however_old_without_a_question() -> None:
    source, clock = Fake("a", "six-1.tar.gz"), Clock()
    served = repository(source, clock=clock)
    await served.project("six")
    clock.now, source.error = 1e9, UpstreamUnavailable("down")
    assert (await served.file("six", "six-1.tar.gz")).filename == "six-1.tar.gz"
    assert len(source.asked) == 1


async def test_a_file_that_is_not_on_the_page_may_be_newer_than_the_page() -> None:
    source, clock = Fake("a", "six-1.tar.gz"), Clock()
    served = repository(source, clock=clock)
    await served.project("six")
    with pytest.raises(UnknownFile):
        await served.file("six", "six-2.tar.gz")
    clock.now, source.filenames = 100, ("six-1.tar.gz", "six-2.tar.gz")
    assert (await served.file("six", "six-2.tar.gz")).filename == "six-2.tar.gz"


async def test_a_page_that_is_confirmed_is_not_parsed_again_and_its_validity_goes_on() -> None:
    source, clock = Fake("a", "six-1.tar.gz"), Clock()
    served = repository(source, clock=clock)
    before = await served.project("six")
    clock.now, source.until = 100, 200
    after = await served.project("six")
    assert after.project is before.project
    assert after.validity is before.validity
    assert before.validity.holds(150)
    assert source.parsed == 1


async def test_a_union_of_which_one_source_has_changed_is_merged_anew() -> None:
    first, second, clock = Fake("a", "six-1.tar.gz"), Fake("b", "six-2.tar.gz"), Clock()
    served = repository(first, second, union=["six"], clock=clock)
    before = await served.project("six")
    clock.now, second.filenames = 100, ("six-2.tar.gz", "six-3.tar.gz")
    assert await names_of(served) == ["six-1.tar.gz", "six-2.tar.gz", "six-3.tar.gz"]
    assert not before.validity.live


async def test_a_view_that_there_is_no_room_for_is_served_until_it_changes() -> None:
    source = Fake("a", "six-1.tar.gz")
    served = repository(source, memory=100)
    view = await served.project("six")
    assert served.validity("six", view.files["six-1.tar.gz"]) is None
    assert view.validity.holds(0)
    served.forget("six")
    assert not view.validity.holds(0)


async def nothing_stored() -> None:
    """There is no page on disk."""


async def test_what_makes_room_leaves_its_stamp_and_is_replayed_until_it_changes() -> None:
    source = Fake("a", "six-1.tar.gz")
    served = repository(source, memory=6500)
    view = await served.project("six")
    file = served.validity("six", view.files["six-1.tar.gz"])
    assert file is not None
    await served.project("seven")
    assert "six" not in served.views
    stamp = await served.stamp("six", Freshness.USUAL, nothing_stored)
    assert stamp.validity is view.validity
    assert source.parsed == 2
    assert file.holds(0)
    served.forget("six")
    assert not view.validity.holds(0)
    assert not file.holds(0)


@pytest.mark.parametrize("change", ["project", "policy", "source", "seen"])
async def test_what_no_stamp_is_left_of_is_replayed_until_it_changes(change: str) -> None:
    source = Fake("a", "six-1.tar.gz")
    served = repository(source, memory=6000)
    view = await served.project("six")
    for number in range(10):
        await served.project(f"other-{number}")
    assert "six" not in served._stamps
    assert view.validity.holds(0)
    match change:
        case "project":
            served.forget("six")
        case "policy":
            served.set_policy(served.policy)
        case "source":
            source.outdated(None)
        case "seen":
            source.filenames = ("six-2.tar.gz",)
            await served.project("six", Freshness.NOW)
    assert not view.validity.holds(0)


async def test_a_stamp_on_disk_spares_reading_the_page_for_as_long_as_it_is_the_same() -> None:
    source, clock = Fake("a", "six-1.tar.gz"), Clock()
    before = await repository(source, clock=clock).project("six")
    ended = msgspec.structs.replace(before, validity=Validity(0, live=False))

    async def stored() -> ViewStamp:
        return ended

    served = repository(source, clock=clock)
    stamp = await served.stamp("six", Freshness.USUAL, stored)
    assert (stamp.revision, source.parsed) == (before.revision, 1)
    assert stamp.validity.holds(0)
    clock.now, source.until = 100, 200
    assert (await served.stamp("six", Freshness.USUAL, stored)).validity is stamp.validity
    source.filenames = ("six-2.tar.gz",)
    changed = await served.stamp("six", Freshness.NOW, stored)
    assert changed.revision != before.revision
    assert not stamp.validity.live
    assert [file.filename for file in (await served.project("six")).project.files] == ["six-2.tar.gz"]


async def test_a_stamp_of_other_settings_is_not_believed() -> None:
    source = Fake("a", "six-1.tar.gz")
    before = await repository(source).project("six")

    async def stored() -> ViewStamp:
        return msgspec.structs.replace(before, revision=before.revision.replace("\0", "\0another policy ", 1))

    stamp = await repository(source).stamp("six", Freshness.USUAL, stored)
    assert stamp.revision == before.revision
    assert source.parsed == 2


async def test_a_project_that_has_gone_is_not_served_from_its_stamp() -> None:
    source = Fake("a", "six-1.tar.gz")
    before = await repository(source).project("six")

    async def stored() -> ViewStamp:
        return before

    source.filenames = ()
    with pytest.raises(UnknownProject):
        await repository(source).stamp("six", Freshness.USUAL, stored)


async def test_a_file_that_is_withheld_while_it_is_opened_is_never_replayed() -> None:
    source = Fake("a", "six-1.tar.gz")
    served = repository(source)
    file = await served.file("six", "six-1.tar.gz")
    assert served.validity("six", file) is not None
    source.filenames = ("six-2.tar.gz",)
    await served.project("six", Freshness.NOW)
    assert served.validity("six", file) is None


async def test_a_removed_file_is_known_as_one_also_without_its_view_in_memory() -> None:
    source = Fake("a", "six-1.tar.gz")
    source.removed = frozenset(source.filenames)
    served = repository(source, memory=100)
    file = await served.file("six", "six-1.tar.gz")
    assert await served.removed("six", file.filename)


async def test_a_project_that_is_gone_is_no_longer_shown() -> None:
    source = Fake("a", "six-1.tar.gz")
    served = repository(source)
    view = await served.project("six")
    source.filenames = ()
    with pytest.raises(UnknownProject):
        await served.project("six", Freshness.NOW)
    assert not view.validity.live
    with pytest.raises(UnknownProject):
        await served.project("six")


# Changes


async def test_who_asks_after_a_change_never_gets_what_was_before() -> None:
    source = Fake("a", "six-1.tar.gz")
    source.paused.clear()
    served = repository(source)
    before = asyncio.create_task(served.project("six"))
    while not source.asked:  # noqa: ASYNC110
        await asyncio.sleep(0)
    source.filenames = ("six-1.tar.gz", "six-2.tar.gz")
    served.forget("six")  # an upload is answered
    after = asyncio.create_task(names_of(served))
    await asyncio.sleep(0.01)
    source.paused.set()
    assert await after == ["six-1.tar.gz", "six-2.tar.gz"]
    old = await before  # who asked before the change may get what was there then, but it is not kept
    assert not old.validity.holds(0)
    assert await names_of(served) == ["six-1.tar.gz", "six-2.tar.gz"]
    assert len(source.asked) == 2


async def test_of_two_answers_at_the_same_time_neither_is_kept() -> None:
    source = Fake("a", "six-1.tar.gz")
    source.paused.clear()
    served = repository(source)
    slow = asyncio.create_task(names_of(served))
    while not source.asked:  # noqa: ASYNC110
        await asyncio.sleep(0)
    source.filenames = ("six-2.tar.gz",)
    fast = asyncio.create_task(names_of(served, Freshness.NOW))
    await asyncio.sleep(0.01)
    source.paused.set()
    assert [await slow, await fast] == [["six-1.tar.gz"], ["six-2.tar.gz"]]
    assert await names_of(served) == ["six-2.tar.gz"]


async def test_a_policy_that_changes_ends_what_was_seen_through_the_old_one() -> None:
    served = repository(Fake("a", "six-1.tar.gz"))
    view = await served.project("six")
    served.set_policy(policy_for("pypi", (), versions, removed="keep"))
    assert not view.validity.live
    assert (await served.project("six")).revision != view.revision


async def test_a_new_list_of_names_has_every_page_looked_at_again_and_parses_none() -> None:
    source = Fake("a", "six-1.tar.gz")
    served = repository(source)
    view = await served.project("six")
    source.outdated(None)
    assert not view.validity.live
    assert await names_of(served) == ["six-1.tar.gz"]
    assert (len(source.asked), source.parsed) == (2, 1)


async def test_a_repository_hears_of_what_others_change_and_not_of_its_own_sources() -> None:
    source = Fake("shared", "six-1.tar.gz")
    served = repository(source)
    view = await served.project("six")
    JOURNAL.changed("shared", "six", source)
    assert (source.forgotten, view.validity.live) == ([], True)
    JOURNAL.changed("other", "six", object())
    assert (source.forgotten, view.validity.live) == ([], True)
    JOURNAL.changed("shared", "six", object())
    assert (source.forgotten, view.validity.live) == (["six"], False)
    await served.close()
    JOURNAL.changed("shared", "six", object())
    assert source.forgotten == ["six"]


async def test_an_upload_is_on_the_list_of_names_at_once() -> None:
    served = repository(Fake("uploads:pypi", local=True))
    names = await served.names()
    assert await served.names() is not None
    assert names.validity.live
    JOURNAL.changed("uploads:pypi", "six")
    assert not names.validity.live


async def test_listeners_hear_of_changes() -> None:
    heard: list[str] = []
    source = Fake("a", "six-1.tar.gz")
    served = repository(source)
    served.changed.append(heard.append)
    await served.project("six")
    served.forget("six")
    served.forget_some(["x", "y"])
    await served.project("six")
    assert heard == ["six", "x", "y"]
    source.filenames = ("six-2.tar.gz",)
    await served.project("six", Freshness.NOW)
    assert heard == ["six", "x", "y", "six"]
