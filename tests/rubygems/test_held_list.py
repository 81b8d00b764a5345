"""Several upstreams: the list that is held of each decides what it has, whatever happens to the upstream."""

import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mirror.model import File
from mirror.rubygems import pages
from tests.builders import gem
from tests.serving import Serving, serving
from tests.simulator import Fault, Instead, Simulator, Stall, Status
from tests.uploading import make_token, push


@pytest.fixture
async def second() -> AsyncIterator[Simulator]:
    async with Simulator() as simulator:
        yield simulator


def both(first: Simulator, second: Simulator, **more: Any) -> Mapping[str, Any]:
    return {"rubygems": {"format": "rubygems", "upstreams": [first.url, second.url], **more}}


async def poll(mirror: Serving) -> str:
    """Return `/versions` after each upstream was asked."""
    for one in mirror.mirror.upstream_indexes.values():
        one.asked_at = 0
    reply = await mirror.get("versions", Cache_Control="no-cache")
    assert reply.status == 200
    return reply.text


def fill(private: Simulator, public: Simulator) -> None:
    for version in ("1.0", "2.0"):
        private.push(gem("acme", version))
        public.push(gem("acme", f"6{version}"))
    for name in ("rack", "tilt"):
        public.push(gem(name, "3.0"))


async def test_an_upstream_is_not_asked_for_what_its_list_lacks(
    simulator: Simulator, second: Simulator, tmp_path: Path
) -> None:
    fill(simulator, second)
    async with serving(tmp_path / "data", both(simulator, second)) as mirror:
        await poll(mirror)
        simulator.forget()
        for path in (
            "info/rack",
            "gems/rack-3.0.gem",
            "quick/Marshal.4.8/rack-3.0.gemspec.rz",
            "api/v1/gems/rack.json",
        ):
            assert (await mirror.get(path)).status == 200, path
        for path in ("info/none", "gems/none-3.0.gem"):
            assert (await mirror.get(path)).status == 404, path
        assert simulator.requests == []
        assert second.count("GET", "*none*") == 0


TROUBLES: Mapping[str, Fault | None] = {
    "down": None,
    "closed": Status(401),
    "forbidden": Status(403),
    "404": Status(404),
    "410": Status(410),
    "500": Status(500),
    "a login page": Instead(b"<html><form>Log in</form></html>"),
    "nothing at all": Instead(b""),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.parametrize("restarted", [False, True])
async def test_an_upstream_in_trouble_takes_nothing_away_and_gives_nothing_away(
    simulator: Simulator, second: Simulator, tmp_path: Path, trouble: str, restarted: bool
) -> None:
    fill(simulator, second)
    async with AsyncExitStack() as stack:
        settings = {"network": {"retries": 0}}
        if restarted:
            async with serving(tmp_path / "data", both(simulator, second), **settings) as mirror:
                await poll(mirror)
        mirror = await stack.enter_async_context(serving(tmp_path / "data", both(simulator, second), **settings))
        await poll(mirror)
        if (fault := TROUBLES[trouble]) is None:
            await simulator.go_down()
        else:
            simulator.inject("/*", fault)
        second.push(gem("new", "1.0"))
        listed = await poll(mirror)
        assert "\nnew 1.0 " in listed
        assert "6" not in listed.partition("\nacme ")[2].split(" ")[0]
        for path in ("info/rack", "gems/tilt-3.0.gem", "info/new", "gems/new-1.0.gem"):
            assert (await mirror.get(path)).status == 200, path
        assert second.count("GET", "*acme*") == 0
        reply = await mirror.get("info/acme")
        assert b"6" not in reply.body.split(b" ")[0]
        assert second.count("GET", "*acme*") == 0


@pytest.mark.parametrize("trouble", [*TROUBLES, "timeout"])
@pytest.mark.parametrize("before", ["held", "nothing"])
async def test_a_later_index_answers_only_for_what_an_earlier_one_never_had(
    simulator: Simulator, second: Simulator, tmp_path: Path, trouble: str, before: str
) -> None:
    fill(simulator, second)
    network = {"retries": 0, "page_timeout": 1, "connect_timeout": 1, "read_timeout": 0.5}
    async with serving(tmp_path / "data", both(simulator, second), network=network) as mirror:
        if before == "held":
            await poll(mirror)
            for path in ("info/acme", "gems/acme-1.0.gem"):
                assert (await mirror.get(path)).status == 200
        fault = Stall() if trouble == "timeout" else TROUBLES[trouble]
        if fault is None:
            await simulator.go_down()
        else:
            simulator.inject("/*", fault)
        for path in ("versions", "info/acme", "gems/acme-61.0.gem", "versions", "info/acme"):
            reply = await mirror.get(path, Cache_Control="no-cache")
            theirs = b"61.0" in reply.body and reply.status == 200
            allowed = before == "nothing" and trouble == "404"
            assert allowed or not theirs, path
        assert (second.count("GET", "/gems/acme*") > 0) is (before == "nothing" and trouble == "404")
        if before == "held":
            assert b"\n1.0 " in (await mirror.get("info/acme")).body
            assert (await mirror.get("gems/acme-1.0.gem")).status == 200
        simulator.heal()


async def test_an_index_that_has_no_list_is_an_empty_one_until_it_has(
    simulator: Simulator, second: Simulator, tmp_path: Path
) -> None:
    fill(simulator, second)
    for path in ("/versions", "/*specs.4.8.gz"):
        simulator.inject(path, Status(404))
    async with serving(tmp_path / "data", both(simulator, second)) as mirror:
        assert "\nrack 3.0 " in await poll(mirror)
        assert (await mirror.get("info/rack")).status == 200
        asked = simulator.count("GET", "/versions")
        await poll(mirror)
        assert simulator.count("GET", "/versions") > asked
        simulator.heal()
        simulator.push(gem("rack", "9.0"))
        assert "\nrack -3.0,9.0 " in await poll(mirror)


async def test_an_only_upstream_without_a_list_is_an_empty_index(simulator: Simulator, tmp_path: Path) -> None:
    simulator.inject("/*", Status(404))
    only = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", only) as mirror:
        for path in ("versions", "names", "specs.4.8.gz"):
            assert (await mirror.get(path)).status == 200, path


async def test_a_gem_that_a_new_list_has_is_found_before_anyone_asked_for_the_list(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.push(gem("rack", "3.0"))
    only = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", only) as mirror:
        await poll(mirror)
        simulator.push(gem("tilt", "1.0"))
        assert (await mirror.get("info/tilt")).status == 404  # its list is no minute old
        for one in mirror.mirror.upstream_indexes.values():
            one.asked_at = 0
        assert (await mirror.get("gems/tilt-1.0.gem")).status == 200


async def test_the_name_of_a_gem_that_is_gone_is_not_taken_over(
    simulator: Simulator, second: Simulator, tmp_path: Path
) -> None:
    fill(simulator, second)
    simulator.push(gem("other", "1.0"))
    async with serving(tmp_path / "data", both(simulator, second)) as mirror:
        await poll(mirror)
        for version in ("1.0", "2.0"):
            simulator.rubygems.yank("acme", version)
        simulator.rubygems.rewrite()
        assert "acme" not in simulator.rubygems.versions().decode()
        assert " -1.0,-2.0 " in await poll(mirror)
        assert "6" not in (await poll(mirror)).rpartition("\nacme ")[2].split(" ")[0]
        assert (await mirror.get("info/acme")).body == b"---\n"
    async with serving(tmp_path / "data", both(simulator, second)) as mirror:
        assert "6" not in (await poll(mirror)).rpartition("\nacme ")[2].split(" ")[0]
        assert (await mirror.get("info/acme")).body == b"---\n"
        assert (await mirror.get("gems/acme-61.0.gem")).status == 404
        await mirror.mirror.catalog.claims.release("rubygems", "acme", time.time())
        mirror.mirror.journal.changed("uploads:rubygems", "acme")
        await mirror.mirror.published_indexes["rubygems"].show(["acme"])
        assert "61.0" in (await poll(mirror)).rpartition("\nacme ")[2]
        reply = await mirror.get("gems/acme-61.0.gem")
        assert reply.status == 200, reply.text


async def test_a_gem_that_a_page_showed_before_the_list_came_stays_its_upstreams(
    simulator: Simulator, second: Simulator, tmp_path: Path
) -> None:
    fill(simulator, second)
    simulator.inject("/*versions", Status(500))
    simulator.inject("/*specs*", Status(500))
    async with serving(tmp_path / "data", both(simulator, second), network={"retries": 0}) as mirror:
        assert (await mirror.get("info/acme")).status == 200
        simulator.heal()
        for version in ("1.0", "2.0"):
            simulator.rubygems.yank("acme", version)
        simulator.rubygems.rewrite()
        assert "acme" not in simulator.rubygems.versions().decode()
        assert "6" not in (await poll(mirror)).partition("\nacme ")[2].split(" ")[0]
        assert (await mirror.get("gems/acme-61.0.gem")).status == 404


async def test_the_name_of_a_deleted_upload_is_not_taken_over(simulator: Simulator, tmp_path: Path) -> None:
    simulator.push(gem("acme", "66.0"))
    only = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", only) as mirror:
        await push(mirror, await make_token(mirror), gem("acme", "1.0").content)
        await poll(mirror)
        await mirror.mirror.publishers["rubygems"].delete("acme-1.0.gem")
        assert "66.0" not in await poll(mirror)
        assert b"66.0" not in (await mirror.get("info/acme")).body
        assert (await mirror.get("gems/acme-66.0.gem")).status == 404
    async with serving(tmp_path / "data", only) as mirror:
        assert "66.0" not in await poll(mirror)


async def test_a_version_that_is_listed_with_the_digest_of_the_old_page_arrives(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.push(gem("rack", "3.0"))
    only = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", only) as mirror:
        await poll(mirror)
        old = (await mirror.get("info/rack")).body
        simulator.push(gem("rack", "3.1"))
        stale = hashlib.md5(old).hexdigest()
        simulator.rubygems.lines[-1] = replace(simulator.rubygems.lines[-1], md5=stale)
        assert (await poll(mirror)).endswith(f"rack 3.1 {stale}\n")
        for _ in range(3):
            assert b"\n3.1 " in (await mirror.get("info/rack")).body
        assert simulator.count("GET", "/info/rack") <= 3


async def test_no_cache_asks_for_a_page_although_the_list_has_its_digest(simulator: Simulator, tmp_path: Path) -> None:
    simulator.push(gem("rack", "3.0"))
    only = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", only) as mirror:
        await poll(mirror)
        for headers, asked in (({}, 1), ({}, 1), ({"Cache_Control": "no-cache"}, 2)):
            assert (await mirror.get("info/rack", **headers)).status == 200
            assert simulator.count("GET", "/info/rack") == asked


async def test_a_page_that_cannot_be_rendered_leaves_the_stored_one(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.push(gem("rack", "3.0"))
    only = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", only) as mirror:
        await poll(mirror)
        before = await mirror.get("info/rack")

        def fail(file: File) -> bytes:
            if file.version == "3.1":
                raise ValueError(file.version)
            return info_line(file)

        info_line = pages.info_line
        monkeypatch.setattr(pages, "info_line", fail)
        simulator.push(gem("rack", "3.1"))
        await poll(mirror)
        assert ((after := await mirror.get("info/rack")).status, after.body) == (200, before.body)
        assert simulator.count("GET", "/info/rack") > 1


async def test_a_list_that_loses_a_great_part_at_once_is_believed_after_some_minutes(
    simulator: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"gem{number}" for number in range(20)]
    for name in names:
        simulator.push(gem(name, "1.0"))
    only = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    clock = Clock()
    async with serving(tmp_path / "data", only, clock=clock) as mirror:
        await poll(mirror)
        kept = simulator.rubygems.lines
        simulator.rubygems.lines = kept[:10]
        simulator.push(gem("new", "1.0"))
        for seconds in (0, 60, 60, 120):
            clock.now += seconds
            log = mirror.mirror.published_indexes["rubygems"].log
            assert log is not None
            assert set(log.map) == set(names)
            assert (await mirror.get("info/gem15")).status == 200
            listed = await poll(mirror)
        assert "lacks 10 of 20 gems at once" in caplog.text
        assert listed.count(" -1.0 ") == 10
        assert "\nnew 1.0 " in listed


@pytest.mark.parametrize("control", ["there", "gone as well"])
async def test_a_great_loss_is_believed_at_once_where_the_pages_are_gone_too(
    simulator: Simulator, tmp_path: Path, control: str
) -> None:
    names = [f"gem{number}" for number in range(20)]
    for name in names:
        simulator.push(gem(name, "1.0"))
    only = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", only) as mirror:
        before = await poll(mirror)
        simulator.rubygems.lines = simulator.rubygems.lines[:10]
        simulator.rubygems._touch()
        for name in names if control == "gone as well" else names[10:]:
            simulator.inject(f"/info/{name}", Status(404))
        simulator.forget()
        listed = await poll(mirror)
        assert simulator.count("GET", "/info/*") == 9
        if control == "there":
            assert listed.count(" -1.0 ") == 10
        else:
            assert listed == before


async def test_a_list_that_loses_a_great_part_and_has_it_again_was_never_believed(
    simulator: Simulator, tmp_path: Path
) -> None:
    for number in range(20):
        simulator.push(gem(f"gem{number}", "1.0"))
    only = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", only) as mirror:
        before = await poll(mirror)
        kept = simulator.rubygems.lines
        for lines in (kept[:10], kept, []):
            simulator.rubygems.lines = lines
            simulator.rubygems._touch()
            assert await poll(mirror) == before


class Clock:
    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


LINES = {"lines": b"g 1 x\n" * 1_000_001, "versions": b"g " + b"1," * 6_000_000 + b"1 x\n"}


@pytest.mark.parametrize("what", LINES)
async def test_a_list_of_too_many_things_leaves_the_one_that_is_held(
    simulator: Simulator, tmp_path: Path, what: str
) -> None:
    simulator.push(gem("rack", "3.0"))
    only = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", only) as mirror:
        before = await poll(mirror)
        simulator.inject("/versions", Instead(b"created_at: x\n---\n" + LINES[what]))
        assert await poll(mirror) == before


async def test_a_page_of_too_many_lines_leaves_the_one_that_is_held(simulator: Simulator, tmp_path: Path) -> None:
    simulator.push(gem("rack", "3.0"))
    only = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", only) as mirror:
        await poll(mirror)
        before = (await mirror.get("info/rack")).body
        simulator.inject("/info/rack", Instead(b"---\n" + b"".join(b"%d |\n" % number for number in range(50_001))))
        assert (await mirror.get("info/rack", Cache_Control="no-cache")).body == before
