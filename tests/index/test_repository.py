"""One served index: who is asked, who wins, and that nothing old is shown after a change."""

import asyncio
from collections.abc import Sequence

import pytest

from mirror.catalog import Catalog
from mirror.catalog.sqlite import SQLite
from mirror.errors import (
    NotFound,
    Offline,
    UnknownFile,
    UnknownProject,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror.index.freshness import Freshness
from mirror.index.journal import Journal
from mirror.index.repository import TRIES, Repository
from mirror.index.source import Listing, NameListing, OpenFile
from mirror.model import File, Names, Outcome, Page, Project, UpstreamResponse
from mirror.policy import policy_for
from mirror.pypi import FORMAT, versions


class Fake:
    """A source that says what it is told to."""

    def __init__(self, name: str, *filenames: str, local: bool = False) -> None:
        self.name = name
        self.local = local
        self.filenames: tuple[str, ...] = filenames
        self.error: Exception | None = None
        self.outcome: Outcome = "hit"
        self.until = 100.0
        self.revision = ""
        self.asked: list[tuple[str, Freshness]] = []
        self.paused = asyncio.Event()
        self.paused.set()

    async def names(self, demand: Freshness = Freshness.USUAL) -> NameListing:
        serials = dict.fromkeys(["six", "acme-secret"], 7)
        return NameListing(Names(serials=serials, serial=7), self.name, self.until, self.outcome)

    async def project(self, name: str, demand: Freshness = Freshness.USUAL) -> Listing:
        self.asked.append((name, demand))
        files = tuple(File(filename=one, version="1", source=self.name) for one in self.filenames)
        error = self.error
        await self.paused.wait()
        if error:
            raise error
        if not files:
            raise UnknownProject(name)
        revision = self.revision or repr(files)
        return Listing(Project(name=name, files=files), revision, self.until, self.outcome)

    async def open(self, project: str, file: File) -> OpenFile:
        raise AssertionError("no test opens a file")

    async def sidecar(self, project: str, file: File) -> OpenFile:
        raise AssertionError("no test opens a sidecar")

    async def document(self, page: Page, demand: Freshness = Freshness.USUAL) -> UpstreamResponse | None:
        raise NotFound("no document")

    async def close(self) -> None:
        pass


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def repository(
    *sources: Fake, private: Sequence[str] = (), union: Sequence[str] = (), clock: Clock | None = None
) -> Repository:
    """A repository of these sources without any rules."""
    feed = Journal(Catalog(SQLite.__new__(SQLite)).feed)  # nothing is written: it only tells
    return Repository(
        "pypi", FORMAT, sources, policy=policy_for("pypi", (), versions), private=private, union=union, feed=feed,
        clock=clock or Clock(),
    )  # fmt: skip


async def names_of(repository: Repository, demand: Freshness = Freshness.USUAL) -> list[str]:
    return [file.filename for file in (await repository.project("six", demand)).project.files]


# Who is asked


async def test_the_first_source_that_has_it_wins_and_the_next_is_not_asked() -> None:
    first, second = Fake("a", "six-1.tar.gz"), Fake("b", "six-9.tar.gz")
    assert await names_of(repository(first, second)) == ["six-1.tar.gz"]
    assert second.asked == []


async def test_the_next_source_is_asked_for_what_the_first_has_not() -> None:
    assert await names_of(repository(Fake("a"), Fake("b", "six-9.tar.gz"))) == ["six-9.tar.gz"]


@pytest.mark.parametrize(
    "error", [UpstreamUnavailable("down"), UpstreamRefused("who?"), UpstreamProtocolError("nonsense")]
)
async def test_a_source_whose_answer_is_not_known_is_never_passed(error: Exception) -> None:
    first, second = Fake("a"), Fake("b", "six-9.tar.gz")
    first.error = error
    with pytest.raises(type(error)):
        await names_of(repository(first, second))
    assert second.asked == []


async def test_a_dead_source_is_passed_for_what_it_last_said_it_has_not() -> None:
    first, second = Fake("a"), Fake("b", "six-9.tar.gz")
    first.error = UpstreamUnavailable("down")
    first.error.last_known_missing = True
    served = repository(first, second)
    assert await names_of(served) == ["six-9.tar.gz"]
    second.filenames = ()
    served.forget("six")
    with pytest.raises(UpstreamUnavailable):  # and not "there is no such project"
        await names_of(served)


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
    assert list(listing.names.serials) == ["six"]
    ours = await repository(Fake("ours", local=True), Fake("a"), private=["acme-*"]).names()
    assert list(ours.names.serials) == ["acme-secret", "six"]


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


# Changes


async def test_a_change_while_sources_are_asked_is_in_the_view() -> None:
    source = Fake("a", "six-1.tar.gz")
    source.paused.clear()
    served = repository(source)
    before = asyncio.create_task(names_of(served, Freshness.NOW))
    while not source.asked:  # noqa: ASYNC110
        await asyncio.sleep(0)
    source.filenames = ("six-1.tar.gz", "six-2.tar.gz")
    served.forget("six")  # what the feed says, once an upload is answered
    after = asyncio.create_task(names_of(served, Freshness.NOW))  # joins the question that began before
    await asyncio.sleep(0)
    source.paused.set()
    assert await before == await after == ["six-1.tar.gz", "six-2.tar.gz"]
    assert [demand for _, demand in source.asked] == [Freshness.NOW, Freshness.ANY]
    assert await names_of(served) == ["six-1.tar.gz", "six-2.tar.gz"]


async def test_what_changes_all_the_time_is_answered_all_the_same() -> None:
    source = Fake("a", "six-1.tar.gz")
    served = repository(source)
    ask = source.project

    async def restless(name: str, demand: Freshness = Freshness.USUAL) -> Listing:
        served.forget("six")
        return await ask(name, demand)

    source.project = restless  # type: ignore[method-assign]
    assert await names_of(served) == ["six-1.tar.gz"]
    assert len(source.asked) == 1 + TRIES


async def test_listeners_hear_of_changes() -> None:
    heard: list[str] = []
    served = repository(Fake("a", "six-1.tar.gz"))
    served.changed.append(heard.append)
    await served.project("six")
    served.forget("six")
    served.forget_some(["x", "y"])
    await served.project("six")
    served.forget_some(None)
    assert heard[:4] == ["six", "x", "y", "six"]
