"""Following an upstream: only the tail is transferred, and only a verified response replaces the copy."""

import asyncio
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest
from yarl import URL

from mirror.catalog import Catalog, LogGrowth, LogPosition
from mirror.catalog.sqlite import SQLite
from mirror.errors import UpstreamError
from mirror.rubygems.log.upstream_index import UpstreamIndex
from mirror.rubygems.log.versions_map import parse_versions
from mirror.upstream import Upstream, UpstreamOptions
from tests.builders import gem
from tests.simulator import (
    Body,
    Corrupt,
    Cut,
    EmptyPartial,
    Fault,
    GzipDespiteRange,
    Headers,
    IgnoreRange,
    RangeNotSatisfiable,
    RotateEtag,
    Simulator,
    Status,
    Truncate,
    WrongOverlap,
    no_digest,
)


class Following:
    """An UpstreamIndex with its parts, and what it reported."""

    def __init__(self, simulator: Simulator, catalog: Catalog) -> None:
        self.simulator = simulator
        self.catalog = catalog
        self.upstream = Upstream("gems", URL(simulator.url), UpstreamOptions(retries=0))
        self.reported: list[Collection[str]] = []
        self.index = self.begin()

    def begin(self) -> UpstreamIndex:
        """Make another index, as after a restart."""
        self.index = UpstreamIndex(self.upstream, "gems", self.catalog)
        self.index.listeners.append(self.reported.append)
        return self.index

    async def stored(self) -> bytes:
        """Return the copy as a restart would read it."""
        return await self.catalog.logs.read("upstream gems")

    def agrees(self) -> bool:
        """Return whether the map equals what upstream lists."""
        return self.index.map == parse_versions(self.simulator.rubygems.versions())

    def transferred(self) -> int:
        """Return the bytes of /versions that were sent since the last call."""
        sent = self.simulator.bytes_sent("/versions")
        self.simulator.forget()
        return sent


@pytest.fixture
async def following(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Following]:
    for number in range(200):
        simulator.rubygems.record_info(f"gem-{number}", f"---\n1.0 |checksum:{number:064}\n".encode())
    simulator.push(gem("rack", "3.0"))
    database = SQLite(tmp_path / "catalog.sqlite")
    await database.open()
    one = Following(simulator, Catalog(database))
    yield one
    await one.index.close()
    await one.upstream.close()
    await database.close()


async def test_only_what_upstream_appends_is_transferred(following: Following, simulator: Simulator) -> None:
    assert await following.index.refresh()
    assert following.agrees()
    assert following.transferred() > 4000
    simulator.push(gem("rack", "3.1"))
    assert await following.index.refresh()
    assert following.agrees()
    assert following.transferred() < 100
    assert following.reported[-1] == {"rack"}
    assert await following.stored() == simulator.rubygems.versions()


async def test_two_processes_that_follow_one_upstream_store_each_line_once(
    following: Following, simulator: Simulator
) -> None:
    first = following.index
    second = UpstreamIndex(following.upstream, "gems", Catalog(following.catalog.database))
    try:
        for number in range(6):
            simulator.push(gem("rack", f"4.{number}"))
            await asyncio.gather(first.refresh(), second.refresh())
            assert await following.stored() == simulator.rubygems.versions()
            for one in (first, second):
                await one.read_on()
                assert one.map == parse_versions(simulator.rubygems.versions())
        simulator.push(gem("rack", "5.0"))
        await first.refresh()
        simulator.forget()
        await second.read_on()
        assert second.map == first.map
        assert not simulator.asked("GET", "/versions"), "what another process has fetched is not asked for"
    finally:
        await second.close()


async def test_a_process_that_begins_as_another_one_has_just_asked_takes_over_what_that_got(
    following: Following, simulator: Simulator
) -> None:
    second = UpstreamIndex(following.upstream, "gems", Catalog(following.catalog.database))
    second._stored._holder = "another"
    try:
        simulator.inject("/versions", Status(500), times=1)
        with pytest.raises(UpstreamError):
            await following.index.refresh(60.0)
        assert await second.refresh(60.0), "the other one has got nothing, so that this one asks for itself"
        assert second.map == parse_versions(simulator.rubygems.versions())
    finally:
        await second.close()


async def test_nothing_new_costs_nothing_also_after_a_restart(following: Following, simulator: Simulator) -> None:
    await following.index.refresh()
    following.transferred()
    assert not await following.index.refresh()
    assert simulator.asked("GET", "/versions")[0].status == 304
    restarted = following.begin()
    await restarted.open()
    assert following.agrees()
    simulator.forget()
    assert not await restarted.refresh()
    assert following.transferred() == 1  # the overlap shows that the copy is whole


async def test_a_copy_that_could_not_be_read_is_read_again_and_not_replaced(
    following: Following, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    await following.index.refresh()
    restarted = following.begin()

    async def fail(name: str, after: LogPosition) -> LogGrowth:
        raise OSError("The disk has failed.")

    with monkeypatch.context() as patched:
        patched.setattr(following.catalog.logs, "read_on", fail)
        for attempt in (restarted.open, restarted.refresh):
            with pytest.raises(OSError, match="has failed"):
                await attempt()
    assert restarted.map is None
    following.transferred()
    await restarted.refresh()
    assert following.agrees()
    assert following.transferred() == 1  # the copy was there all the time


async def test_what_upstream_ever_had_is_known_before_its_list_is(following: Following) -> None:
    await following.catalog.claims.add(str(following.upstream.url), ["acme"], 1.0)
    await following.index.refresh()
    assert following.index.map is not None
    assert following.index.map.knows("acme")
    assert "acme" not in following.index.map


@pytest.mark.parametrize("change", ["rewrite", "unyank", "late"])
async def test_what_is_no_append_is_fetched_completely_and_only_differences_are_reported(
    following: Following, simulator: Simulator, change: str
) -> None:
    simulator.push(gem("rack", "3.1"))
    simulator.yank_gem("rack", "3.1")
    await following.index.refresh()
    following.reported.clear()
    if change == "rewrite":
        simulator.rewrite()
    elif change == "unyank":
        simulator.unyank_gem("rack", "3.1")
    else:
        simulator.push(gem("tilt", "1.0"), before_last=1)
    changed = await following.index.refresh()
    assert following.agrees()
    assert await following.stored() == simulator.rubygems.versions()
    assert (changed, list(following.reported)) == {
        "rewrite": (False, [frozenset()]),
        "unyank": (True, [{"rack"}]),
        "late": (True, [{"tilt"}]),
    }[change]


LIES: dict[str, Fault] = {
    "416": RangeNotSatisfiable(),
    "an empty 206": EmptyPartial(),
    "a 206 without digest": no_digest(),
    "a 206 without Content-Range": Headers({"Content-Range": None}),
    "a 206 of another place": Headers({"Content-Range": "bytes 0-5/6"}),
    "a wrong overlap": WrongOverlap(),
    "a damaged tail": Corrupt(-5),
    "gzip of a range": GzipDespiteRange(),
    "gzip of everything": GzipDespiteRange(status=200),
    "everything instead of a range": IgnoreRange(),
    "another ETag each time": RotateEtag(),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
async def test_an_answer_that_does_not_verify_is_followed_by_one_question_for_everything(
    following: Following, simulator: Simulator, lie: Fault
) -> None:
    await following.index.refresh()
    simulator.push(gem("rack", "3.1"))
    simulator.inject("/versions", lie, times=1)
    simulator.forget()
    assert await following.index.refresh()
    assert following.agrees()
    assert await following.stored() == simulator.rubygems.versions()
    assert 1 <= simulator.count("GET", "/versions") <= 2


REFUSED: dict[str, Fault] = {
    "500": Status(500),
    "404": Status(404),
    "cut off": Cut(300),
    "truncated with matching headers": Truncate(300),
    "truncated at a line": Truncate(3127),
    "a page of errors": Body(b"<html>Sorry</html>\n"),
    "nothing": Truncate(0),
    "another digest": Corrupt(50),
}


@pytest.mark.parametrize("fault", REFUSED.values(), ids=REFUSED)
async def test_a_good_copy_is_never_replaced_by_a_bad_one(
    following: Following, simulator: Simulator, fault: Fault
) -> None:
    await following.index.refresh()
    good, listed = await following.stored(), following.index.map
    simulator.rewrite()
    simulator.push(gem("rack", "3.1"))
    simulator.inject("/versions", fault)
    with pytest.raises(UpstreamError):
        await following.index.refresh()
    assert await following.stored() == good
    assert following.index.map is listed
    simulator.heal()
    assert await following.index.refresh()
    assert following.agrees()


async def test_many_who_ask_at_once_ask_upstream_once(following: Following, simulator: Simulator) -> None:

    await asyncio.gather(*(following.index.refresh() for _ in range(20)))
    assert simulator.count("GET", "/versions") == 1


async def test_an_upstream_with_only_the_legacy_index_is_followed_through_its_specs(
    following: Following, simulator: Simulator
) -> None:
    simulator.rubygems.configure(legacy_only=True)
    simulator.push(gem("rack", "3.1.pre1"))
    simulator.push(gem("ffi", "1.0", platform="java"))
    assert await following.index.refresh()
    assert following.index.map is not None
    assert following.index.map.versions("rack") == ("3.0", "3.1.pre1")
    assert following.index.map.versions("ffi") == ("1.0-java",)
    simulator.forget()
    assert not await following.index.refresh()
    assert {request.status for request in simulator.asked("GET", "/*specs*")} == {304}
    simulator.push(gem("rack", "3.2"))
    simulator.rubygems._changed = simulator.rubygems._changed.replace(year=2040)
    assert await following.index.refresh()
    assert following.index.map.versions("rack") == ("3.0", "3.2", "3.1.pre1")
    assert following.reported[-1] == {"rack"}


async def test_an_upstream_that_gets_a_compact_index_is_followed_by_it_from_then_on(
    following: Following, simulator: Simulator
) -> None:
    simulator.rubygems.configure(legacy_only=True)
    await following.index.refresh()
    simulator.rubygems.configure(legacy_only=False)
    restarted = following.begin()
    await restarted.open()
    await restarted.refresh()
    assert following.agrees()
    assert await following.stored() == simulator.rubygems.versions()
