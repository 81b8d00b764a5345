"""The journal for other mirrors: what is reported to whom, waiting, WebSockets, and the window."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mirror.api import feed
from mirror.config import Settings
from mirror.model import Event
from mirror.service.process import Service
from tests.builders import gem, sdist, wheel
from tests.serving import Client, Serving, repositories, serving
from tests.simulator import Simulator
from tests.uploading import make_token, push, upload

EMPTY = {"pypi": {"format": "pypi"}, "rubygems": {"format": "rubygems"}}


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def reported(mirror: Client, question: str = "since=0", **headers: str) -> list[tuple[str, str, str, str]]:
    """Repository, project, kind and file name of each line."""
    reply = await mirror.get(f"-/feed?{question}", **headers)
    assert reply.status == 200, reply.text
    return [(one["repository"], one["project"], one["kind"], one["filename"]) for one in lines(reply.text)]


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path / "data", EMPTY) as mirror:
        yield mirror


async def test_everything_that_happens_is_reported_in_order_by_repository(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(six := wheel("six", "1.16"))
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        secret = await make_token(mirror)
        await mirror.get("simple/six/")
        await mirror.get(f"packages/six/{six.filename}")
        await upload(mirror, secret, mine := wheel("acme", "1.0"))
        await push(mirror, secret, gem("acme", "2.0").content)
        await mirror.ask("POST", f"-/yank/pypi/{mine.filename}", Authorization=secret)
        found = await reported(mirror)
        assert ("pypi", "six", "page", "") in found
        assert found.index(("pypi", "six", "page", "")) < found.index(("pypi", "six", "file", six.filename))
        assert ("pypi", "acme", "upload", mine.filename) in found
        assert ("rubygems", "acme", "upload", "acme-2.0.gem") in found
        assert {one[0] for one in await reported(mirror, "since=0&repository=rubygems")} == {"rubygems"}
        assert {one[0] for one in await reported(mirror, "since=0&index=/simple/")} == {"pypi"}
        reply = await mirror.get("-/feed")
        serials = [one["serial"] for one in lines(reply.text)]
        assert serials == sorted(serials)
        assert reply.headers["X-Mirror-Serial"] == str(serials[-1])
        assert await reported(mirror, f"since={serials[-1]}") == []
        assert len(await reported(mirror, f"since={serials[-2]}")) == 1
        assert simulator.url not in reply.text, "no address of an upstream is reported"


async def test_documents_that_are_got_when_they_are_asked_for_are_no_news(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(wheel("six", "1.16"))
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        await mirror.get("pypi/six/json")
        assert {kind for _, _, kind, _ in await reported(mirror)} <= {"page", "names"}


async def test_who_may_not_read_a_project_does_not_hear_of_it(tmp_path: Path) -> None:
    auth = {"read": {"acme-secret": ["alice"]}}
    async with serving(tmp_path / "data", EMPTY, **closed(auth)) as mirror:
        secret = await make_token(mirror, ("upload",))
        insider = await make_token(mirror, ("read",), ("acme-*",))
        await upload(mirror, secret, wheel("acme-secret", "1.0"))
        await upload(mirror, secret, wheel("open", "1.0"))
        await upload(mirror, secret, wheel("acme-secret", "1.1"))
        assert [project for _, project, _, _ in await reported(mirror)] == ["open"]
        assert [project for _, project, _, _ in await reported(mirror, Authorization=f"Bearer {insider}")] == [
            "acme-secret", "open", "acme-secret",
        ]  # fmt: skip
        reply = await mirror.get("-/feed")
        assert reply.headers["X-Mirror-Serial"] == "3", "what is none of our business counts as reported"
        assert (await mirror.get("-/feed", Authorization="Bearer mirror_wrong")).status == 401
        for question in ("", "&repository=pypi"):
            held = await mirror.get(f"-/holdings?{question}")
            assert "secret" not in held.text + str(held.headers)
        assert "acme-secret" in (await mirror.get("-/holdings", Authorization=f"Bearer {insider}")).text


async def test_where_nothing_is_open_the_feed_asks_for_a_login(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", EMPTY, **closed({"read": {"*": ["authenticated"]}})) as mirror:
        for path in ("-/feed", "-/feed?repository=pypi", "-/holdings"):
            assert (await mirror.get(path)).status == 401
        secret = await make_token(mirror, ("read",))
        assert (await mirror.get("-/feed", Authorization=f"Bearer {secret}")).status == 200


def closed(auth: dict[str, Any]) -> dict[str, Any]:
    """Settings with these readers of projects."""
    return {"auth": {"rules": [{"projects": [name], "read": who} for name, who in auth["read"].items()]}}


async def test_who_waits_hears_at_once(mirror: Serving) -> None:
    secret = await make_token(mirror)
    asking = asyncio.create_task(mirror.get("-/feed?since=0&wait=30"))
    await asyncio.sleep(0.2)
    assert not asking.done()
    began = time.monotonic()
    await upload(mirror, secret, wheel("acme", "1.0"))
    reply = await asyncio.wait_for(asking, 10)
    assert [one["kind"] for one in lines(reply.text)] == ["upload"]
    print(f"reported {1000 * (time.monotonic() - began):.0f} ms after the upload was begun")


async def test_waiting_ends_without_news(mirror: Serving) -> None:
    reply = await mirror.get("-/feed?since=0&wait=0.2")
    assert (reply.status, reply.body) == (200, b"")
    assert reply.headers["X-Mirror-Serial"] == "0"


async def test_what_concerns_others_does_not_end_the_waiting(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", EMPTY, **closed({"read": {"acme-*": ["alice"]}})) as mirror:
        secret = await make_token(mirror)
        asking = asyncio.create_task(mirror.get("-/feed?since=0&wait=30"))
        await upload(mirror, secret, wheel("acme-secret", "1.0"))
        await asyncio.sleep(0.2)
        assert not asking.done()
        await upload(mirror, secret, wheel("open", "1.0"))
        assert [one["project"] for one in lines((await asking).text)] == ["open"]


async def test_only_so_many_may_wait(mirror: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "WAITING_PER_ADDRESS", 2)
    waiting = [asyncio.create_task(mirror.get("-/feed?since=0&wait=30")) for _ in range(2)]
    await asyncio.sleep(0.2)
    reply = await mirror.get("-/feed?since=0&wait=30")
    assert reply.status == 503
    assert "Retry-After" in reply.headers
    assert (await mirror.get("-/feed?since=0")).status == 200
    await upload(mirror, await make_token(mirror), wheel("acme", "1.0"))
    assert {reply.status for reply in await asyncio.gather(*waiting)} == {200}


async def test_the_end_of_the_process_waits_for_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", EMPTY, limits={"shutdown_grace": 30}) as mirror:
        asking = asyncio.create_task(mirror.get("-/feed?since=0&wait=60"))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        mirror.endpoints.feed.stop()
        assert (await asyncio.wait_for(asking, 10)).status == 200
        assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "question", ["since=x", "since=-1", "since=1e9", "since=99999999999999999999", "wait=x", "wait=nan"]
)
async def test_nonsense_is_refused(mirror: Serving, question: str) -> None:
    assert (await mirror.get(f"-/feed?{question}")).status == 400


@pytest.mark.parametrize("question", ["repository=other", "index=/other/simple/"])
async def test_an_unknown_repository_is_not_found(mirror: Serving, question: str) -> None:
    assert (await mirror.get(f"-/feed?{question}")).status == 404
    assert (await mirror.get(f"-/holdings?{question}")).status == 404


# The window


async def test_a_place_that_is_too_old_is_gone_and_the_answer_says_what_to_do(mirror: Serving) -> None:
    for at in (100.0, 200.0, 300.0):
        await mirror.mirror.journal.append(Event(serial=0, at=at, source="uploads:pypi", project="acme", kind="upload"))
    await mirror.mirror.catalog.feed.trim(250)
    reply = await mirror.get("-/feed?since=1")
    assert reply.status == 410
    said = reply.json()
    assert (said["oldest"], said["newest"], said["resynchronise"]) == (2, 3, "/-/holdings")
    assert "no longer known" in said["error"]
    assert len(lines((await mirror.get("-/feed?since=2")).text)) == 1
    await mirror.mirror.catalog.feed.trim(1000)
    assert (await mirror.get("-/feed?since=2")).status == 410
    assert (await mirror.get("-/feed?since=3")).status == 200


async def test_the_journal_is_kept_for_as_long_as_the_settings_say(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", EMPTY, feed={"keep": "1s"}) as mirror:
        await upload(mirror, await make_token(mirror), wheel("acme", "1.0"))
        for _ in range(200):
            if (await mirror.get("-/feed?since=0")).status == 410:
                break
            await asyncio.sleep(0.1)
        else:
            pytest.fail("the journal should become shorter")


async def test_trimming_forgets_nothing_that_comes_after_what_is_kept(mirror: Serving) -> None:
    for at in (100.0, 300.0, 200.0, 400.0):
        await mirror.mirror.journal.append(Event(serial=0, at=at, source="uploads:pypi", project="acme", kind="upload"))
    await mirror.mirror.catalog.feed.trim(250)
    assert [one["serial"] for one in lines((await mirror.get("-/feed?since=1")).text)] == [2, 3, 4]


async def test_a_place_of_the_future_or_of_another_feed_is_a_conflict(mirror: Serving) -> None:
    reply = await mirror.get("-/feed?since=7")
    assert reply.status == 409
    assert reply.json()["newest"] == 0
    known = reply.headers["X-Mirror-Feed"]
    assert (await mirror.get(f"-/feed?since=0&feed={known}")).status == 200
    assert (await mirror.get("-/feed?since=0&feed=other")).status == 409


# WebSockets


async def test_a_websocket_gets_the_same_lines(mirror: Serving) -> None:
    secret = await make_token(mirror)
    await upload(mirror, secret, wheel("acme", "1.0"))
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{mirror.url}-/feed?since=0") as socket:
        first = await socket.receive_json(timeout=10)
        await upload(mirror, secret, sdist("acme", "1.1"))
        second = await socket.receive_json(timeout=10)
    assert [first, second] == lines((await mirror.get("-/feed")).text)


async def test_a_websocket_of_another_site_is_refused(mirror: Serving) -> None:
    own = mirror.url.rstrip("/")
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await session.ws_connect(f"{mirror.url}-/feed", origin="https://evil.example")
        assert refusal.value.status == 403
        async with session.ws_connect(f"{mirror.url}-/feed", origin=own):
            pass


async def test_a_websocket_is_closed_for_who_talks_and_at_the_end(mirror: Serving) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.ws_connect(f"{mirror.url}-/feed") as socket:
            await socket.send_str("hello")
            assert (await socket.receive(timeout=10)).type is aiohttp.WSMsgType.CLOSE
        async with session.ws_connect(f"{mirror.url}-/feed") as socket:
            mirror.endpoints.feed.stop()
            message = await socket.receive(timeout=10)
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)


async def test_a_websocket_may_be_quiet_for_longer_than_a_client_may_be_slow(tmp_path: Path) -> None:
    limits = {"stall": 0.5, "head_time": 0.5, "idle": 1, "shutdown_grace": 2}
    async with (
        serving(tmp_path / "data", EMPTY, limits=limits) as mirror,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{mirror.url}-/feed") as socket,
    ):
        await asyncio.sleep(4.5)  # the crowd of connections is looked at every two seconds
        await upload(mirror, await make_token(mirror), wheel("acme", "1.0"))
        assert (await socket.receive_json(timeout=10))["kind"] == "upload"


async def test_a_reload_sends_those_who_wait_to_the_new_mirror(tmp_path: Path) -> None:
    table = {"listen": ["127.0.0.1:0"], "data_dir": str(tmp_path / "data"), "repositories": EMPTY}
    settings = Settings.model_validate(table | {"log": {"access": False}, "limits": {"shutdown_grace": 2}})
    service = Service(settings)
    await service.start()
    try:
        url = f"{service.urls[0].rstrip('/')}/-/feed?since=0"

        async def wait() -> int:
            async with session.get(f"{url}&wait=60") as response:
                return response.status

        async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0.3)
            await service.reload(settings)
            assert await asyncio.wait_for(waiting, 10) == 200
            assert (await socket.receive(timeout=10)).data == 1001
        async with aiohttp.ClientSession() as session:
            again = asyncio.create_task(wait())
            await asyncio.sleep(0.3)
            assert not again.done()
            again.cancel()
    finally:
        await service.stop(politely=False)


# What is held


async def test_what_is_held_is_listed_project_by_project(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "PROJECTS_PER_RESPONSE", 2)
    builts = {name: wheel(name, "1.0") for name in ("a", "b", "c", "d")}
    for name in "abc":
        simulator.publish(builts[name])
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        await upload(mirror, await make_token(mirror), builts["d"])
        await mirror.get("simple/a/")
        for name in "bc":
            await mirror.get(f"packages/{name}/{builts[name].filename}")
        held, after = [], ""
        for _ in range(10):
            reply = await mirror.get(f"-/holdings?repository=pypi&after={after}")
            held += lines(reply.text)
            after = reply.headers.get("X-Mirror-Next", "")
            if not after:
                break
        assert [one["project"] for one in held if one["kind"] == "page"] == ["a", "b", "c", "d"]
        assert {one["filename"]: one["sha256"] for one in held if one["kind"] == "file"} == {
            builts[name].filename: builts[name].sha256 for name in "bcd"
        }
