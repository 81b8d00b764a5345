"""Our own log: it only grows, lists what our pages show, and survives restarts, rewrites and several upstreams."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mirror.rubygems.log import writer
from mirror.rubygems.log.events import PageChange
from mirror.rubygems.log.published_index import PublishedIndex
from mirror.rubygems.log.versions_map import LocalEntry
from tests.builders import gem
from tests.serving import Serving, serving
from tests.simulator import Simulator


def upstreams(*simulators: Simulator, **more: Any) -> Mapping[str, Any]:
    return {"rubygems": {"format": "rubygems", "upstreams": [one.url for one in simulators], **more}}


async def log(mirror: Serving, *, poll: bool = True) -> str:
    """What the mirror publishes, after asking its upstreams."""
    for one in mirror.mirror.upstream_indexes.values() if poll else ():
        one.asked_at = 0
    reply = await mirror.get("versions", Cache_Control="no-cache" if poll else "max-age=60")
    assert reply.status == 200
    assert reply.headers["ETag"] == f'"{hashlib.md5(reply.body).hexdigest()}"'
    return reply.text


async def opened(mirror: Serving) -> None:
    """Wait until what was stored has been read; before that, answers come from the stored log alone."""
    await mirror.mirror.published_indexes["rubygems"].writer.opened


async def shows(index: PublishedIndex, name: str, versions: Sequence[str], page: bytes) -> bytes:
    """Let a gem's page show something of our own; return the bytes by which the log grew."""
    entry = LocalEntry(tuple(versions), md5(page))
    index._local.schedule(name, entry.until)
    return await index.writer.apply(PageChange(name, entry))


def md5(body: bytes) -> str:
    return hashlib.md5(body).hexdigest()


def serve(data_dir: Path, repositories: Mapping[str, Any], **settings: Any) -> Any:
    return serving(data_dir, repositories, network={"retries": 0}, **settings)


async def test_a_restart_serves_the_same_bytes_and_asks_upstream_for_one(simulator: Simulator, tmp_path: Path) -> None:
    simulator.push(gem("rack", "3.0"))
    async with serve(tmp_path / "data", upstreams(simulator)) as mirror:
        await log(mirror)
        simulator.push(gem("rack", "3.1"))
        before = await log(mirror)
    simulator.forget()
    async with serve(tmp_path / "data", upstreams(simulator)) as mirror:
        assert (await mirror.get("versions")).text == before
        await opened(mirror)
        assert await log(mirror) == before
        # The first answer may have had upstream asked as well, if what is stored had been read by then.
        assert 1 <= simulator.bytes_sent("/versions") == simulator.count("GET", "/versions") <= 2


async def test_the_log_only_grows_whatever_upstream_does(simulator: Simulator, tmp_path: Path) -> None:
    simulator.push(gem("rack", "3.0"))
    simulator.push(gem("tilt", "1.0"))
    async with serve(tmp_path / "data", upstreams(simulator)) as mirror:
        old = await log(mirror)

        async def grown() -> str:
            nonlocal old
            new = await log(mirror)
            assert new.startswith(old)
            added, old = new.removeprefix(old), new
            return added

        simulator.push(gem("rack", "3.1"))
        assert await grown() == f"rack 3.1 {simulator.rubygems.md5('rack')}\n"
        simulator.rewrite()
        assert await grown() == ""
        simulator.yank_gem("rack", "3.1")
        assert await grown() == f"rack -3.1 {simulator.rubygems.md5('rack')}\n"
        simulator.unyank_gem("rack", "3.1")
        assert await grown() == f"rack 3.1 {simulator.rubygems.md5('rack')}\n"
        simulator.push(gem("abc", "1.0"), before_last=2)
        assert await grown() == f"abc 1.0 {simulator.rubygems.md5('abc')}\n"
        simulator.yank_gem("tilt", "1.0")
        simulator.rewrite()
        assert await grown() == f"tilt -1.0 {md5(b'---' + bytes([10]))}\n"


async def test_memory_holds_one_map_for_the_log_its_upstream_and_the_pages_of_that(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.push(gem("rack", "3.0"))
    for _ in range(2):  # once with a new log, once with a stored one
        async with serve(tmp_path / "data", upstreams(simulator)) as mirror:
            await log(mirror)
            (upstream,) = mirror.mirror.upstream_indexes.values()
            (pages,) = upstream._pages
            published = mirror.mirror.published_indexes["rubygems"].log
            assert published
            assert upstream.map
            assert pages.listing
            assert pages.listing.names is upstream.map
            assert upstream.map._entries["rack"] is published.map._entries["rack"]


async def test_what_upstream_appended_before_a_crash_is_published_after_it(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.push(gem("rack", "3.0"))
    async with serve(tmp_path / "data", upstreams(simulator)) as mirror:
        before = await log(mirror)
        (followed,) = mirror.mirror.upstream_indexes.values()
        line = f"tilt 1.0 {'0' * 31}1\n"
        logs, name = mirror.mirror.catalog.logs, f"upstream {followed.name}"
        assert await logs.append(name, line.encode(), await logs.position(name))
    async with serve(tmp_path / "data", upstreams(simulator), offline=True) as mirror:
        await opened(mirror)
        assert await log(mirror) == before + line


async def test_a_log_that_grew_too_long_is_begun_anew_at_a_restart(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SLACK_BYTES", 0)
    monkeypatch.setattr(writer, "MOST_CHUNKS", 4)
    simulator.push(gem("rack", "3.0"))
    async with serve(tmp_path / "data", upstreams(simulator)) as mirror:
        for version in range(12):
            simulator.push(gem("rack", f"4.{version}"))
            long = await log(mirror)
    async with serve(tmp_path / "data", upstreams(simulator), offline=True) as mirror:
        await opened(mirror)
        short = await log(mirror)
        assert len(short) < len(long)
        assert short.endswith(f"\nrack 3.0,{','.join(f'4.{n}' for n in range(12))} {simulator.rubygems.md5('rack')}\n")


async def test_the_first_upstream_that_lists_a_gem_is_the_only_one_that_counts(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(Simulator())
        simulator.push(gem("rack", "3.0"))
        second.push(gem("rack", "9.9"))
        second.push(gem("tilt", "1.0"))
        mirror = await stack.enter_async_context(serve(tmp_path / "data", upstreams(simulator, second)))
        lines = (await log(mirror)).splitlines()[2:]
        assert lines == [f"rack 3.0 {simulator.rubygems.md5('rack')}", f"tilt 1.0 {second.rubygems.md5('tilt')}"]
        assert (await mirror.get("info/rack")).body == simulator.rubygems.info("rack")
        assert (await mirror.get("info/tilt")).body == second.rubygems.info("tilt")
        assert (await mirror.get("gems/rack-9.9.gem")).status == 404
        assert (await mirror.get("gems/tilt-1.0.gem")).status == 200
        simulator.push(gem("tilt", "2.0"))
        assert (await log(mirror)).endswith(f"\ntilt -1.0,2.0 {simulator.rubygems.md5('tilt')}\n")
        assert (await mirror.get("info/tilt")).body == simulator.rubygems.info("tilt")


async def test_nothing_is_listed_for_an_upstream_that_was_never_reached(simulator: Simulator, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(Simulator())
        simulator.push(gem("rack", "3.0"))
        second.push(gem("tilt", "1.0"))
        await simulator.go_down()
        mirror = await stack.enter_async_context(serve(tmp_path / "data", upstreams(simulator, second)))
        assert (await mirror.get("versions")).status == 503  # it could list tilt as well
        await simulator.come_back()
        await second.go_down()
        text = await log(mirror)
        assert text.splitlines()[2:3] == [f"rack 3.0 {simulator.rubygems.md5('rack')}"]


async def test_private_names_are_neither_listed_nor_requested(simulator: Simulator, tmp_path: Path) -> None:
    simulator.push(gem("acme-secret", "1.0"))
    simulator.push(gem("rack", "3.0"))
    async with serve(tmp_path / "data", upstreams(simulator, private=["acme-*"])) as mirror:
        assert "acme" not in await log(mirror)
        assert "acme" not in (await mirror.get("names")).text
        for path in ("info/acme-secret", "gems/acme-secret-1.0.gem", "api/v1/gems/acme-secret.json"):
            assert (await mirror.get(path)).status == 404
        simulator.push(gem("acme-other", "1.0"))
        assert "acme" not in await log(mirror)
        assert simulator.count(None, "*acme*") == 0


async def test_what_a_page_of_ours_shows_is_in_the_log_and_stays_there_over_a_restart(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.push(gem("rack", "3.0"))
    simulator.push(gem("rack", "3.1"))
    simulator.push(gem("tilt", "1.0"))
    page = b"---\n3.0 |checksum:0\n"
    async with serve(tmp_path / "data", upstreams(simulator)) as mirror:
        first = await log(mirror)
        ours = mirror.mirror.published_indexes["rubygems"]
        assert await shows(ours, "rack", ["3.0"], page) == f"rack -3.1 {md5(page)}\n".encode()
        assert await shows(ours, "rack", ["3.0"], page) == b""
        assert await shows(ours, "tilt", [], b"---\n") == f"tilt -1.0 {md5(b'---' + bytes([10]))}\n".encode()
        held = await log(mirror)
        assert held.startswith(first)
        assert "tilt" not in (await mirror.get("names")).text
    await simulator.go_down()
    async with serve(tmp_path / "data", upstreams(simulator)) as mirror:
        assert await log(mirror) == held
        await opened(mirror)
        for _ in range(3):
            assert await log(mirror) == held
        await simulator.come_back()
        mirror.mirror.upstreams[next(iter(mirror.mirror.upstreams))]._hosts.known.clear()
        # Looked at again, the pages turn out to be those of upstream.
        await mirror.mirror.published_indexes["rubygems"].show(["rack", "tilt"])
        healed = (await log(mirror)).removeprefix(held).splitlines()
        assert sorted(healed) == [
            f"rack 3.1 {simulator.rubygems.md5('rack')}",
            f"tilt 1.0 {simulator.rubygems.md5('tilt')}",
        ]


async def test_a_page_of_ours_is_checked_again_when_upstream_changes_the_gem(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.push(gem("rack", "3.0"))
    simulator.push(gem("rack", "3.1"))
    async with serve(tmp_path / "data", upstreams(simulator)) as mirror:
        await log(mirror)
        await shows(mirror.mirror.published_indexes["rubygems"], "rack", ["3.0"], b"---\n3.0 |checksum:0\n")
        simulator.push(gem("rack", "3.2"))
        await log(mirror)
        assert (await log(mirror)).endswith(f"\nrack 3.1,3.2 {simulator.rubygems.md5('rack')}\n")


async def test_a_union_is_listed_as_its_merged_page_and_follows_both_upstreams(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        second = await stack.enter_async_context(Simulator())
        simulator.push(gem("rack", "3.0"))
        second.push(gem("rack", "3.1"))
        mirror = await stack.enter_async_context(serve(tmp_path / "data", upstreams(simulator, second, union=["rack"])))
        await log(mirror)
        page = (await mirror.get("info/rack")).body
        assert page == simulator.rubygems.info("rack") + second.rubygems.info("rack").removeprefix(b"---\n")
        assert (await log(mirror)).endswith(f"\nrack 3.1 {md5(page)}\n")
        second.push(gem("rack", "3.2"))
        await log(mirror)
        text = await log(mirror)
        page = (await mirror.get("info/rack")).body
        assert b"\n3.2 " in page
        assert text.endswith(f"\nrack 3.2 {md5(page)}\n")


async def test_an_old_copy_that_stands_in_changes_nothing_in_the_log(simulator: Simulator, tmp_path: Path) -> None:
    simulator.push(gem("rack", "3.0"))
    async with serve(tmp_path / "data", upstreams(simulator)) as mirror:
        await log(mirror)
        old = (await mirror.get("info/rack")).body
        behind = simulator.rubygems.info("rack")
        simulator.push(gem("rack", "3.1"))
        listed = await log(mirror)
        current = simulator.rubygems.info
        simulator.rubygems.info = lambda name: behind  # type: ignore[method-assign]
        assert (await mirror.get("info/rack")).body == old  # a copy of the upstream somewhere is behind its index
        simulator.rubygems.info = current  # type: ignore[method-assign]
        assert await log(mirror) == listed


async def test_two_repositories_follow_one_upstream_once(simulator: Simulator, tmp_path: Path) -> None:
    simulator.push(gem("rack", "3.0"))
    simulator.push(gem("acme-tools", "1.0"))
    both = {
        "rubygems": {"format": "rubygems", "upstreams": [simulator.url]},
        "team": {"format": "rubygems", "upstreams": [simulator.url], "private": ["acme-*"]},
    }
    async with serve(tmp_path / "data", both) as mirror:
        await mirror.get("versions")
        assert "acme-tools" not in (await mirror.get("team/versions")).text
        assert simulator.count("GET", "/versions") == 1
        simulator.push(gem("rack", "3.1"))
        for one in mirror.mirror.upstream_indexes.values():
            one.asked_at = 0
        for path in ("versions", "team/versions"):
            reply = await mirror.get(path, Cache_Control="no-cache")
            assert reply.text.endswith(f"\nrack 3.1 {simulator.rubygems.md5('rack')}\n")
        assert simulator.count("GET", "/versions") == 2


async def test_pages_of_an_upstream_with_only_the_legacy_index_are_made_once_from_its_gemspecs(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.rubygems.configure(legacy_only=True)
    simulator.push(gem("rack", "3.0", dependencies={"tilt": ">= 1.0"}))
    simulator.push(gem("rack", "3.1"))
    simulator.push(gem("tilt", "1.0"))
    async with serve(tmp_path / "data", upstreams(simulator)) as mirror:
        assert (await log(mirror)).splitlines()[2:] == [f"rack 3.0,3.1 {'0' * 32}", f"tilt 1.0 {'0' * 32}"]
        page = await mirror.get("info/rack")
        assert page.text == "---\n3.0 tilt:>= 1.0|\n3.1 |\n"
        assert (await mirror.get("gems/rack-3.0.gem")).body == simulator.rubygems.gems["rack-3.0"].spec.content
        text = await log(mirror)
        assert text.endswith(f"\nrack -3.0,3.0 {md5(page.body)}\n")
    simulator.forget()
    async with serve(tmp_path / "data", upstreams(simulator)) as mirror:
        assert (await mirror.get("info/rack")).body == page.body
        assert await log(mirror) == text
        assert simulator.count(None, "/quick/*") == 0


async def test_a_policy_that_comes_back_is_in_the_log_again_as_a_page_is_requested(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.push(gem("rack", "3.0"))
    simulator.push(gem("rack", "2.0"))
    rule = {"name": "old", "kind": "deny", "versions": "< 3", "reason": "It is old."}
    async with serve(tmp_path / "data", upstreams(simulator), policy=[rule]) as mirror:
        await log(mirror)
        deny = mirror.mirror.policies.of("rubygems")
        for _ in range(2):
            page = (await mirror.get("info/rack")).body
            assert b"\n2.0 " not in page
            assert (await log(mirror)).splitlines()[-1].endswith(f" {md5(page)}")
            allow = msgspec.structs.replace(deny, rules=(), digest="none")
            mirror.mirror._policy_changed("rubygems", allow)
            assert (await log(mirror)).splitlines()[-1].endswith(f" {simulator.rubygems.md5('rack')}")
            assert (await mirror.get("info/rack")).body == simulator.rubygems.info("rack")
            mirror.mirror._policy_changed("rubygems", deny)
