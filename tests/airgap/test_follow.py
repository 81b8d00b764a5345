"""One mirror follows another: what changes there is here at once, what it holds is held, and nothing is lost."""

import asyncio
import itertools
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from yarl import URL

from mirror.airgap.follow import Follower, NoFeed, RemoteMirror
from mirror.airgap.follow import follower as follower_module
from mirror.airgap.follow import remote as remote_module
from mirror.airgap.follow.follower import ATTEMPTS, TRIAL_NAMES, Untrustworthy
from mirror.airgap.follow.remote import MAX_LINE_BYTES, FeedBatch, FeedLine, FeedPosition, HeldFileLine
from mirror.catalog import Cursor
from mirror.errors import MirrorError, NotFound, StorageFull, UpstreamProtocolError, UpstreamUnavailable
from mirror.pypi import FORMAT as PYPI
from mirror.upstream import Upstream, UpstreamOptions
from tests.builders import Built, gem, sdist, wheel
from tests.serving import Client, Serving, Spawned, repositories, serving, spawned, write_settings
from tests.simulator import Simulator
from tests.uploading import change_gem, make_token, push, upload

JSON = "application/vnd.pypi.simple.v1+json"
PATIENCE = 20.0
"""Seconds for what takes milliseconds, on a slow machine."""
EMPTY = {"pypi": {"format": "pypi"}, "rubygems": {"format": "rubygems"}}


def of(mirror: Client, **more: Any) -> dict[str, dict[str, Any]]:
    """Return the repositories of a mirror that follows this one."""
    table = {"follow": True, **more}
    return {
        "pypi": {"format": "pypi", "upstreams": [{"url": f"{mirror.url}simple/", **table}]},
        "rubygems": {"format": "rubygems", "upstreams": [{"url": mirror.url, **table}]},
    }


async def until(question: Callable[[], Awaitable[Any]], why: str) -> float:
    """Wait until a check returns True; return the seconds that it took."""
    began = time.monotonic()
    while not await question():
        assert time.monotonic() - began < PATIENCE, why
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def held(mirror: Serving) -> set[str]:
    """Return the names of all held files of upstreams, without sidecars."""
    files = await mirror.mirror.catalog.files.all()
    return {one.filename for one in files if not one.filename.endswith((".metadata", ".gemspec.rz"))}


async def holds(mirror: Serving, *builts: Built) -> float:
    """Wait until exactly these are held; return the seconds that it took."""
    wanted = {built.filename for built in builts}

    async def reached() -> bool:
        return await held(mirror) == wanted

    return await until(reached, f"{wanted} should be held")


async def listed(mirror: Client, project: str = "acme") -> dict[str, Any]:
    """Return file name → yanked, of the simple page."""
    reply = await mirror.get(f"simple/{project}/", Accept=JSON)
    return {one["filename"]: one["yanked"] for one in reply.json()["files"]} if reply.status == 200 else {}


async def caught_up(mirror: Serving, other: Serving) -> None:
    """Wait until the follower has applied everything."""

    async def reached() -> bool:
        following = mirror.mirror.state.following.values()
        # A follower learns with its next response, some seconds later, that changes concern the other repository only.
        done = any(one.serial >= other.mirror.journal.serial for one in following)
        return done and all(one.behind == 0 for one in following)

    await until(reached, "it should catch up")


@asynccontextmanager
async def pair(tmp_path: Path, first: dict[str, Any] = EMPTY, **more: Any) -> AsyncIterator[tuple[Serving, Serving]]:
    """A mirror and one that follows it."""
    async with serving(tmp_path / "a", first) as a, serving(tmp_path / "b", of(a, **more)) as b:
        yield a, b


# What reaches the other one


async def test_an_upload_is_held_by_the_follower_before_anybody_asks(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b):
        await caught_up(b, a)
        secret = await make_token(a)
        assert (await b.get("simple/acme/")).status == 404, "that there is none is known, and must not last"
        mine = wheel("acme", "1.0")
        assert (await upload(a, secret, mine)).status == 200
        took = await holds(b, mine)
        print(f"a wheel is held {1000 * took:.0f} ms after its upload was answered")
        assert await listed(b) == {mine.filename: False}
        await caught_up(b, a)
        reply = await b.get(f"packages/acme/{mine.filename}")
        assert (reply.body, reply.outcome) == (mine.content, "hit")
        assert (await b.get(f"packages/acme/{mine.filename}.metadata")).outcome == "hit"


async def test_a_gem_reaches_the_follower_with_its_place_in_the_index(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b):
        await caught_up(b, a)
        secret = await make_token(a)
        mine = gem("acme", "1.0")
        assert (await push(a, secret, mine.content)).status == 200
        took = await holds(b, mine)
        print(f"a gem is held {1000 * took:.0f} ms after its push was answered")
        assert (await b.get("versions")).text.splitlines()[-1].startswith("acme 1.0 ")
        newer = gem("acme", "1.1")
        await push(a, secret, newer.content)
        await holds(b, mine, newer)
        assert (await b.get("info/acme")).text == (await a.get("info/acme")).text
        assert (await change_gem(a, secret, "yank", "acme", "1.0")).status == 200
        await caught_up(b, a)
        # The follower holds it, and goes on with locked installs, as with any gem that its upstream takes back.
        assert ["\n1.0 " in (await one.get("info/acme")).text for one in (a, b)] == [False, True]


async def test_yank_unyank_and_delete_reach_the_follower(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b):
        secret = await make_token(a, ("upload", "yank", "admin"))
        one, two = wheel("acme", "1.0"), sdist("acme", "1.0")
        for built in (one, two):
            await upload(a, secret, built)
        await holds(b, one, two)
        for act, expected in (
            (a.mirror.publishers["pypi"].yank(one.filename, "broken"), {one.filename: "broken", two.filename: False}),
            (a.mirror.publishers["pypi"].unyank(one.filename), {one.filename: False, two.filename: False}),
            (a.mirror.publishers["pypi"].delete(one.filename), {two.filename: False}),
        ):
            await act
            await caught_up(b, a)
            assert await listed(b) == expected
        assert await listed(a) == await listed(b)


async def test_what_the_other_one_fetches_for_its_clients_comes_too(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(six := wheel("six", "1.16"))
    simulator.push(rack := gem("rack", "3.0"))
    async with pair(tmp_path, repositories(simulator)) as (a, b):
        await caught_up(b, a)
        await a.get(f"packages/six/{six.filename}")
        await a.get(f"gems/{rack.filename}")
        await holds(b, six, rack)
        asked = len(simulator.requests)
        assert (await b.get(f"packages/six/{six.filename}")).body == six.content
        assert len(simulator.requests) == asked


async def test_only_the_chosen_projects_are_followed(tmp_path: Path) -> None:
    async with pair(tmp_path, follow_only=["Acme.*", "tool"]) as (a, b):
        secret = await make_token(a)
        wanted = [wheel("acme-a", "1.0"), wheel("tool", "1.0")]
        for built in (wheel("other", "1.0"), *wanted, wheel("toolbox", "1.0")):
            await upload(a, secret, built)
        await caught_up(b, a)
        await holds(b, *wanted)
        assert (await b.get("simple/other/")).status == 200, "the rest comes when it is asked for"


async def test_own_uploads_stay_where_they_are_and_hide_the_others(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b):
        mine, theirs = wheel("acme", "2.0"), wheel("acme", "1.0")
        await upload(b, await make_token(b), mine)
        await upload(a, await make_token(a), theirs)
        await caught_up(b, a)
        assert await listed(b) == {mine.filename: False}
        assert await listed(a) == {theirs.filename: False}
        assert await held(b) == set()


# Away for a while


async def test_a_follower_that_was_away_catches_up_and_fetches_nothing_twice(tmp_path: Path) -> None:
    async with serving(tmp_path / "a", EMPTY) as a:
        secret = await make_token(a)
        before, meanwhile = wheel("acme", "1.0"), wheel("acme", "1.1")
        await upload(a, secret, before)
        async with serving(tmp_path / "b", of(a)) as b:
            await holds(b, before)
            await caught_up(b, a)
        await upload(a, secret, meanwhile)
        await push(a, secret, (pushed := gem("acme", "1.0")).content)
        async with serving(tmp_path / "b", of(a)) as b:
            took = await holds(b, before, meanwhile, pushed)
            print(f"caught up {1000 * took:.0f} ms after the start")
            await caught_up(b, a)
            # Both journals are done: of each repository, what concerns it.
            await until(lambda: _follows(b), "both should be done")
            assert all(one.resynchronised == 0 for one in b.mirror.state.following.values())
            assert b.mirror.state.following[f"pypi {URL(a.url).authority}"].files == 1


async def test_files_of_projects_that_are_fetched_at_once_are_all_counted(tmp_path: Path) -> None:
    async with serving(tmp_path / "a", EMPTY) as a:
        secret = await make_token(a)
        async with serving(tmp_path / "b", of(a)) as b:
            await upload(a, secret, first := wheel("first", "1.0"))
            await holds(b, first)
            await caught_up(b, a)
        files = [wheel(f"acme-{number}", "1.0") for number in range(12)]
        for built in files:
            await upload(a, secret, built)
        async with serving(tmp_path / "b", of(a)) as b:
            await holds(b, first, *files)
            await caught_up(b, a)
            await until(lambda: _follows(b), "both should be done")
            assert b.mirror.state.following[f"pypi {URL(a.url).authority}"].files == 12


async def test_beyond_the_window_it_says_so_and_compares_what_both_hold(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "a", EMPTY) as a:
        secret = await make_token(a, ("upload", "admin"))
        kept, gone, new = wheel("acme", "1.0"), wheel("bygone", "1.0"), wheel("novel", "1.0")
        for built in (kept, gone):
            await upload(a, secret, built)
        async with serving(tmp_path / "b", of(a)) as b:
            await holds(b, kept, gone)
            await caught_up(b, a)
        await upload(a, secret, new)
        await a.mirror.publishers["pypi"].delete(gone.filename)
        await a.mirror.catalog.feed.trim(time.time() + 60)
        caplog.clear()
        async with serving(tmp_path / "b", of(a)) as b:
            await holds(b, kept, gone, new)
            await caught_up(b, a)
            assert "no longer has the events after serial 2" in caplog.text
            following = b.mirror.state.following[f"pypi {URL(a.url).authority}"]
            assert (following.resynchronised, following.files, following.behind) == (1, 1, 0)
            assert await listed(b, "bygone") == {}, "what is gone there is gone here"
            assert await listed(b, "novel") == {new.filename: False}


async def test_another_journal_at_the_same_address_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unused_tcp_port: int
) -> None:
    async with serving(tmp_path / "a", EMPTY) as a:
        await upload(a, await make_token(a), first := wheel("acme", "1.0"))
        async with serving(tmp_path / "b", of(a)) as b:
            await holds(b, first)
            await caught_up(b, a)
            await a.mirror.store.database.write(("UPDATE counters SET value = 77 WHERE name = 'feed id'", ()))
            await upload(a, await make_token(a), second := wheel("acme", "1.1"))
            await holds(b, first, second)
            await until(lambda: _said(caplog, "has started a new journal"), "it should say so")


async def _said(caplog: pytest.LogCaptureFixture, what: str) -> bool:
    return what in caplog.text


@pytest.mark.usefixtures("embedded")  # elsewhere the lease of who was killed has to end first
async def test_the_cursor_outlives_a_kill(tmp_path: Path) -> None:
    async with serving(tmp_path / "a", EMPTY) as a:
        secret = await make_token(a)
        builts = [wheel("acme", f"1.{number}") for number in range(6)]
        for number, built in enumerate(builts):
            async with spawned(tmp_path / "b", of(a)) as b:
                await upload(a, secret, built)

                async def there(b: Spawned = b, built: Built = built, first: bool = number == 0) -> bool:
                    if (await b.get(f"packages/acme/{built.filename}")).outcome != "hit":
                        return False
                    following = (await b.get("-/status")).json()["following"]
                    # Both followers have a cursor once they have compared; what is new then concerns one of them.
                    compared = all(one["behind"] == 0 for one in following) if first else True
                    return compared and max(one["serial"] for one in following) == a.mirror.journal.serial

                await until(there, f"{built.filename} should be held")
                await b.end(signal.SIGKILL)
            said = (tmp_path / "b.log").read_text()
            assert said.count("is followed from now on") == 2, f"compared anew after kill {number}"
        async with serving(tmp_path / "b", of(a)) as last:
            await holds(last, *builts)


async def test_a_follower_survives_an_outage_of_the_other_one(tmp_path: Path, unused_tcp_port: int) -> None:
    async with spawned_at(tmp_path / "a", unused_tcp_port) as a:
        upstreams = of(a)
    network = {"breaker_seconds": 0.2, "connect_timeout": 1}
    async with serving(tmp_path / "b", upstreams, network=network) as b:

        async def troubled() -> bool:
            return all(one.last_error for one in b.mirror.state.following.values())

        await until(troubled, "an outage should be seen")
        async with spawned_at(tmp_path / "a", unused_tcp_port):

            async def fine() -> bool:
                return all(one.behind == 0 for one in b.mirror.state.following.values())

            await until(fine, "it should come back by itself")


@asynccontextmanager
async def spawned_at(data_dir: Path, port: int) -> AsyncIterator[Spawned]:
    """A mirror of its own process at a certain port."""
    async with spawned(data_dir, EMPTY, "--listen", f"127.0.0.1:{port}") as mirror:
        yield mirror


# Chains


async def test_a_chain_of_three_passes_everything_on_and_each_keeps_its_own(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(six := wheel("six", "1.16"))
    simulator.push(rack := gem("rack", "3.0"))
    async with (
        serving(tmp_path / "a", repositories(simulator)) as a,
        serving(tmp_path / "b", of(a)) as b,
        serving(tmp_path / "c", of(b)) as c,
    ):
        for mirror in (b, c):
            await until(lambda mirror=mirror: _follows(mirror), "it should follow")  # type: ignore[misc]
        builts = wheel("acme", "1.0"), gem("acme", "1.0")
        own = {mirror: wheel(name, "1.0") for mirror, name in ((a, "of-a"), (b, "of-b"), (c, "of-c"))}
        began = time.monotonic()
        secret = await make_token(a)
        await upload(a, secret, builts[0])
        await push(a, secret, builts[1].content)
        for mirror, built in own.items():
            await upload(mirror, await make_token(mirror), built)
        await holds(c, *builts, own[a], own[b])
        print(f"through two mirrors within {1000 * (time.monotonic() - began):.0f} ms")
        paths = ("simple/acme/", "simple/six/", f"packages/six/{six.filename}", f"gems/{rack.filename}", "info/rack")
        for path in paths:
            replies = [await mirror.get(path, Accept=JSON) for mirror in (a, b, c)]
            assert {reply.status for reply in replies} == {200}
            pages = [
                reply.body.replace(mirror.url.encode(), b"/")
                for mirror, reply in zip((a, b, c), replies, strict=True)
            ]  # fmt: skip
            assert pages[0] == pages[1] == pages[2], path
            serials = {reply.headers.get("X-PyPI-Last-Serial") for reply in replies}
            assert len(serials) == 1, path
        for path in (f"packages/six/{six.filename}", f"packages/acme/{builts[0].filename}.metadata", "info/acme"):
            etags = {(await mirror.get(path)).headers["ETag"] for mirror in (a, b, c)}
            assert len(etags) == 1, path
        for name in ("six", "acme"):
            documents = [(await mirror.get(f"pypi/{name}/json")).json() for mirror in (a, b, c)]
            assert documents[0]["info"] == documents[1]["info"] == documents[2]["info"]
        await upload(a, secret, newer := wheel("acme", "1.1"))
        await holds(c, *builts, newer, own[a], own[b], six, rack)
        documents = [(await mirror.get("pypi/acme/json")).json() for mirror in (a, b, c)]
        assert [document["info"]["version"] for document in documents] == ["1.1"] * 3
        assert [(await mirror.get("simple/of-c/")).status for mirror in (a, b, c)] == [404, 404, 200]
        assert [(await mirror.get("simple/of-b/")).status for mirror in (a, b, c)] == [404, 200, 200]


async def _follows(mirror: Serving) -> bool:
    following = mirror.mirror.state.following.values()
    return len(following) == 2 and all(one.behind == 0 for one in following)


# What a hostile mirror may say


@asynccontextmanager
async def claiming(body: bytes, serial: str = "5", **headers: str) -> AsyncIterator[RemoteMirror]:
    """Serve a mirror that answers every request for its journal and holdings like this."""

    async def answer(request: web.Request) -> web.Response:
        if request.query.get("since") == "newest":
            return web.Response(headers={"X-Mirror-Feed": "f", "X-Mirror-Serial": serial})
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body, headers={"X-Mirror-Feed": "f", "X-Mirror-Serial": serial} | named)

    app = web.Application()
    app.add_routes([web.get("/-/feed", answer), web.get("/-/holdings", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = URL(f"http://127.0.0.1:{runner.addresses[0][1]}/simple/")
    upstream = Upstream("hostile", url, UpstreamOptions(retries=0))
    try:
        yield RemoteMirror(upstream, "simple/", PYPI.canonical)
    finally:
        await upstream.close()
        await runner.cleanup()


def line(serial: object, project: str = "acme") -> bytes:
    return f'{{"serial":{serial},"time":1.0,"project":"{project}","kind":"upload"}}\n'.encode()


@pytest.mark.parametrize(
    "body",
    [
        line(2),  # not after where we are
        line(6),  # beyond what the answer covers
        line(5) + line(4),
        line(1 << 70),
        line("null"),
        line(3, "x" * MAX_LINE_BYTES),
        b"[" * 10_000,
        b"\xff\xfe\n",
        b"<html>",
    ],
    ids=["old", "beyond", "backwards", "absurd", "none", "long", "deep", "no text", "no lines"],
)
async def test_what_no_feed_says_is_refused(body: bytes) -> None:
    async with claiming(body) as remote:
        with pytest.raises(UpstreamProtocolError):
            await remote.events("f", 2, 0)


async def test_an_answer_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "MAX_RESPONSE_BYTES", 1000)
    async with claiming(line(3) * 100) as remote:
        with pytest.raises(UpstreamProtocolError):
            await remote.events("f", 2, 0)


async def test_holdings_that_go_round_in_circles_end() -> None:
    async with claiming(b"", X_Mirror_Next="acme") as remote:
        with pytest.raises(UpstreamProtocolError, match="repeats"):
            _ = [part async for part in remote.holdings()]


class InventingMirror:
    """A mirror whose holdings never end, and whose journal is always ahead. None of its names exists."""

    name = "hostile"
    wait_seconds = 0.0

    def __init__(self, names_in_part: int = 100) -> None:
        self.names = 0
        self._names_in_part = names_in_part

    async def holdings(self) -> AsyncIterator[tuple[FeedPosition, list[HeldFileLine]]]:
        while True:
            first, self.names = self.names, self.names + self._names_in_part
            position = FeedPosition(feed="f", serial=5, newest=9)
            yield position, [HeldFileLine(project=f"p{n}", kind="page") for n in range(first, self.names)]

    async def events(self, feed: str, since: int, wait: float) -> FeedBatch:
        self.names += 1
        lines = [FeedLine(serial=since + 1, time=1.0, project=f"p{since}", kind="page")]
        return FeedBatch(lines, FeedPosition(feed="f", serial=since + 1, newest=since + 1000))

    def canonical(self, name: str) -> str:
        return name


class Nothing:
    """An Applier that finds nothing, or everything."""

    def __init__(self, exists: bool) -> None:
        self._exists = exists

    async def index(self) -> None: ...

    async def page(self, project: str) -> None:
        if not self._exists:
            raise NotFound(project)

    async def file(self, project: str, filename: str) -> bool:
        return True


def follower(remote: InventingMirror, exists: bool, mirror: Serving) -> Follower:
    async def nothing() -> list[str]:
        return []

    return Follower("x", cast(RemoteMirror, remote), Nothing(exists), mirror.mirror.catalog.cursors, nothing)


async def test_a_mirror_that_invents_names_without_end_is_given_up(tmp_path: Path) -> None:
    remote = InventingMirror()
    async with serving(tmp_path / "a", EMPTY) as mirror:
        with pytest.raises(Untrustworthy, match="does not have"):
            await follower(remote, False, mirror).catch_up()
    assert remote.names == TRIAL_NAMES


async def test_a_mirror_whose_names_exist_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "NAMES_A_DAY", 2000)
    remote = InventingMirror()
    async with serving(tmp_path / "a", EMPTY) as mirror:
        with pytest.raises(Untrustworthy, match="in a day"):
            await follower(remote, True, mirror).catch_up()
    assert remote.names == 2100


async def test_catching_up_ends_at_what_was_the_newest_event_when_it_began(tmp_path: Path) -> None:
    remote = InventingMirror()
    async with serving(tmp_path / "a", EMPTY) as mirror:
        await mirror.mirror.catalog.cursors.put("x", Cursor("f", 5, 0.0))
        await follower(remote, True, mirror).catch_up()
    assert remote.names == 1000


async def test_holdings_without_an_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_module, "MAX_HOLDINGS_LINES", 3)
    async with claiming(line(1) * 4) as remote:
        with pytest.raises(UpstreamProtocolError, match="more than any mirror"):
            _ = [part async for part in remote.holdings()]


@pytest.mark.parametrize("text", ["a\\u0000b", "a\\nb"])
async def test_text_that_cannot_be_stored_is_refused(text: str) -> None:
    async with claiming(line(3, text)) as remote:
        with pytest.raises(UpstreamProtocolError):
            await remote.events("f", 2, 0)


async def test_a_journal_whose_name_is_not_plain_text_is_none() -> None:
    async with claiming(b"", X_Mirror_Feed="f\xff") as remote:
        await remote.position()
        with pytest.raises(NotFound):
            _ = [part async for part in remote.holdings()]


@pytest.mark.parametrize("name", ["../../etc", "ACME", "", "a b", "a/b"])
async def test_a_name_that_cannot_be_one_is_nothing(name: str) -> None:
    async with claiming(b"") as remote:
        assert remote.canonical(name) is None


@pytest.mark.parametrize("serial", ["-1", "x", "9" * 30, ""])
async def test_an_upstream_that_is_no_mirror_has_no_feed(serial: str) -> None:
    async with claiming(b"", serial=serial) as remote:
        with pytest.raises(NoFeed):
            await remote.position()


@pytest.mark.parametrize(
    ("mount", "prefix"), [("/", ""), ("/team", "team/"), ("/deep/team", "deep/team/")], ids=["root", "mount", "deep"]
)
async def test_the_feed_is_found_from_the_index_of_any_mount(tmp_path: Path, mount: str, prefix: str) -> None:
    table = {"team": {"format": "pypi", "mount": mount}, "other": {"format": "pypi", "mount": "/else"}}
    async with serving(tmp_path / "a", table) as a:
        upstream = Upstream("a", URL(f"{a.url}{prefix}simple/"))
        try:
            assert (await RemoteMirror(upstream, "simple/", PYPI.canonical).position()).repository == "team"
        finally:
            await upstream.close()


async def test_the_status_says_how_far_behind_it_is(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b):
        await upload(a, await make_token(a), wheel("acme", "1.0"))
        await caught_up(b, a)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mirror", "status", "--url", b.url, stdout=asyncio.subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        said, _ = await process.communicate()
        assert f"following pypi {URL(a.url).authority}: serial 1 of 1, 0 s behind\n" in said.decode()


async def test_a_mirror_that_never_lets_wait_is_not_asked_without_end(tmp_path: Path) -> None:
    async with pair(tmp_path) as (a, b):
        await caught_up(b, a)
        before = sum(upstream.health().requests for upstream in b.mirror.upstreams.values())
        a.endpoints.feed.stop()
        await asyncio.sleep(1)
        assert sum(upstream.health().requests for upstream in b.mirror.upstreams.values()) - before < 20


class FailingApplier:
    """An Applier that fails a given number of times, with the same error."""

    def __init__(self, error: MirrorError, times: int) -> None:
        self.error = error
        self.times = times
        self.pages: list[str] = []

    async def index(self) -> None: ...

    async def page(self, project: str) -> None:
        self.pages.append(project)
        if project == "acme" and self.times:
            self.times -= 1
            raise self.error

    async def file(self, project: str, filename: str) -> bool:
        return True


async def steps(mirror: Serving, applier: FailingApplier, count: int) -> list[int]:
    """Return the cursor after each of so many steps, from the beginning of a journal with one event."""
    async with claiming(line(5) + line(5, "other")) as remote:

        async def nothing() -> list[str]:
            return []

        one = Follower("x", remote, applier, mirror.mirror.catalog.cursors, nothing)
        await mirror.mirror.catalog.cursors.put("x", Cursor("f", 2, 0.0))
        serials = []
        for _ in range(count):
            with suppress(MirrorError):
                await one.step()
            cursor = await mirror.mirror.catalog.cursors.get("x")
            assert cursor is not None
            serials.append(cursor.serial)
        return serials


async def test_the_cursor_does_not_pass_a_failure(tmp_path: Path) -> None:
    async with serving(tmp_path / "a", EMPTY) as mirror:
        applier = FailingApplier(UpstreamUnavailable("Not now."), 2)
        assert await steps(mirror, applier, 3) == [2, 2, 5]
        assert applier.pages.count("other") == 3, "one failure does not keep the rest"


async def test_what_fails_for_ever_does_not_stop_the_rest_but_a_full_disk_does(tmp_path: Path) -> None:
    async with serving(tmp_path / "a", EMPTY) as mirror:
        assert await steps(mirror, FailingApplier(UpstreamUnavailable("Never."), 99), ATTEMPTS) == [2] * (
            ATTEMPTS - 1
        ) + [5]
        assert await steps(mirror, FailingApplier(StorageFull("Full."), 99), ATTEMPTS + 2) == [2] * (ATTEMPTS + 2)


# The command


async def follow(settings: Path, *words: str) -> tuple[int, str]:
    """Run `mirror follow`; return its exit status and output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", "follow", *words, "--config", str(settings),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_the_command_brings_everything_once_and_goes_on_where_it_was(tmp_path: Path) -> None:
    async with serving(tmp_path / "a", EMPTY) as a:
        secret = await make_token(a)
        mine, pushed = wheel("acme", "1.0"), gem("acme", "1.0")
        await upload(a, secret, mine)
        await push(a, secret, pushed.content)
        settings = write_settings(tmp_path / "b", of(a, follow=False))
        status, said = await follow(settings, a.url, "--once")
        assert status == 0, said
        assert "0 s behind; 1 pages and 1 files fetched" in said
        await upload(a, secret, newer := wheel("acme", "1.1"))
        await upload(a, secret, wheel("other", "1.1"))
        status, said = await follow(settings, a.url, "--once", "--repository", "pypi", "--into", "pypi")
        assert status == 0, said
        assert "rubygems" not in said
        assert "is followed from now on" not in said
        async with serving(tmp_path / "b", of(a, follow=False), offline=True) as b:
            assert await held(b) == {mine.filename, pushed.filename, newer.filename, "other-1.1-py3-none-any.whl"}
            assert (await b.get(f"packages/acme/{newer.filename}")).body == newer.content
            assert (await b.get(f"gems/{pushed.filename}")).body == pushed.content


async def test_the_command_works_beside_a_running_mirror(tmp_path: Path) -> None:
    async with serving(tmp_path / "a", EMPTY) as a, spawned(tmp_path / "b", of(a, follow=False)) as b:
        secret = await make_token(a)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mirror", "follow", a.url, "--config", str(tmp_path / "b.toml"),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        try:
            assert process.stdout is not None
            for _ in range(2):
                await asyncio.wait_for(process.stdout.readline(), 30)
            for repository, built, send in (
                ("pypi", mine := wheel("acme", "1.0"), upload(a, secret, mine)),
                ("rubygems", ruby := gem("acme", "1.0"), push(a, secret, ruby.content)),
            ):
                await send

                async def there(repository: str = repository, built: Built = built) -> bool:
                    return built.filename in (await b.get(f"-/holdings?repository={repository}")).text

                took = await until(there, f"{built.filename} should come")
                print(f"beside: {built.filename} after {1000 * took:.0f} ms")
        finally:
            process.terminate()
            await process.wait()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["http://other.example/"], "is no upstream"),
        (["ftp://x"], "ftp://x"),
        (["{a}", "--into", "none"], "no repository"),
    ],
)
async def test_the_command_says_what_is_missing(tmp_path: Path, words: list[str], why: str) -> None:
    async with serving(tmp_path / "a", EMPTY) as a:
        settings = write_settings(tmp_path / "b", of(a))
        status, said = await follow(settings, *(word.replace("{a}", a.url) for word in words))
        assert status == 2
        assert why in said


async def test_the_command_says_that_a_mirror_invents_names(tmp_path: Path) -> None:
    names = itertools.count()

    async def answer(request: web.Request) -> web.Response:
        lines = [b'{"project":"p%09d","kind":"page"}\n' % next(names) for _ in range(TRIAL_NAMES)]
        headers = {"X-Mirror-Feed": "f", "X-Mirror-Serial": "5", "X-Mirror-Next": f"p{next(names):09d}"}
        return web.Response(body=b"".join(lines) if request.path == "/-/holdings" else b"", headers=headers)

    app = web.Application()
    app.add_routes([web.get("/-/feed", answer), web.get("/-/holdings", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    config = write_settings(tmp_path / "data", {"pypi": {"format": "pypi", "upstreams": [f"{url}simple/"]}})
    status, said = await follow(config, url, "--once")
    await runner.cleanup()
    assert status == 1
    assert "claims to hold names that it does not have" in said
    assert "Traceback" not in said
    assert next(names) <= 2 * TRIAL_NAMES + 10


async def test_a_token_file_lets_the_command_read_what_is_closed(tmp_path: Path) -> None:
    auth = {"rules": [{"projects": ["*"], "read": ["authenticated"]}]}
    async with serving(tmp_path / "a", EMPTY, auth=auth) as a:
        await upload(a, await make_token(a), mine := wheel("acme", "1.0"))
        reader = tmp_path / "token"
        reader.write_text(await make_token(a, ("read",)))
        settings = write_settings(tmp_path / "b", of(a, follow=False))
        status, said = await follow(settings, f"{a.url}simple/", "--once")
        assert status == 1, said
        status, said = await follow(settings, f"{a.url}simple/", "--once", "--token-file", str(reader))
        assert status == 0, said
        async with serving(tmp_path / "b", of(a, follow=False), offline=True) as b:
            assert await held(b) == {mine.filename}
