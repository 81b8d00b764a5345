"""Rendered pages on disk: served after a restart without being made again, never once anything changed."""

import os
from pathlib import Path
from typing import Any

import pytest

from mirror.model import Project
from mirror.pypi import pages
from mirror.server.connection import ConnectionProtocol
from tests.builders import Built, wheel
from tests.serving import Reply, Serving, repositories, serving
from tests.simulator import Simulator, Status
from tests.uploading import make_token, upload

JSON = "application/vnd.pypi.simple.v1+json"
SIX = [wheel("six", f"1.{number}") for number in range(20)]
OWN = wheel("acme", "1.0")


class Renders:
    """Counts what the routes render."""

    def __init__(self) -> None:
        self.names: list[str] = []


@pytest.fixture
def renders(monkeypatch: pytest.MonkeyPatch) -> Renders:
    counted, render = Renders(), pages.render_json

    def render_json(project: Project, *rest: Any) -> bytes:
        counted.names.append(project.name)
        return render(project, *rest)

    monkeypatch.setattr(pages, "render_json", render_json)
    return counted


@pytest.fixture
def index(simulator: Simulator) -> Simulator:
    for one in SIX:
        simulator.publish(one)
    return simulator


async def page(mirror: Serving, name: str = "six", **headers: str) -> Reply:
    reply = await mirror.get(f"/simple/{name}/", Accept=JSON, **headers)
    assert reply.status == 200, reply.text
    return reply


def files(reply: Reply) -> list[str]:
    return [file["filename"] for file in reply.json()["files"]]


def names(*built: Built) -> list[str]:
    return [one.filename for one in built]


async def test_a_page_is_served_after_a_restart_without_being_read_or_rendered(
    index: Simulator, renders: Renders, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    async with serving(data, repositories(index)) as mirror:
        first = await page(mirror)
        etag = (await page(mirror, Accept_Encoding="gzip")).headers["ETag"]
    asked = index.count()
    async with serving(data, repositories(index)) as mirror:
        again = await page(mirror)
        assert (again.body, again.outcome) == (first.body, "hit")
        assert not mirror.mirror.repositories["pypi"].views
        conditional = {"Accept": JSON, "Accept_Encoding": "gzip", "If_None_Match": etag}
        assert (await mirror.get("/simple/six/", **conditional)).status == 304
    assert renders.names == ["six"]
    assert index.count() == asked


async def test_a_page_that_memory_has_no_room_for_is_read_from_disk(
    index: Simulator, renders: Renders, tmp_path: Path
) -> None:
    async with serving(tmp_path / "data", repositories(index), pages={"memory": 20_000}) as mirror:
        first = await page(mirror)
        assert mirror.mirror.page_cache._saver is not None
        await mirror.mirror.page_cache._saver.flush()
        for _ in range(3):
            assert (await page(mirror)).body == first.body
    assert renders.names == ["six"]


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="reading without waiting is Linux's")
async def test_pages_that_memory_has_no_room_for_are_replayed_from_disk_until_they_change(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: list[bytes] = []
    forward = ConnectionProtocol._forward

    def count(connection: ConnectionProtocol, data: bytes) -> None:
        handled.append(data)
        forward(connection, data)

    names = [f"acme{number}" for number in range(12)]
    for name in names:
        simulator.publish(wheel(name, "1.0"))
    async with serving(tmp_path / "data", repositories(simulator), pages={"memory": 40_000}) as mirror:
        for _ in range(2):
            first = {name: await page(mirror, name) for name in names}
            assert mirror.mirror.page_cache._saver is not None
            await mirror.mirror.page_cache._saver.flush()
        with monkeypatch.context() as patched:
            patched.setattr(ConnectionProtocol, "_forward", count)
            assert [(await page(mirror, name)).body for name in names] == [first[name].body for name in names]
        assert not handled
        assert len(mirror.mirror.page_cache._pages) < len(names)
        newer = wheel(names[0], "2.0")
        simulator.publish(newer)
        assert newer.filename in files(await page(mirror, names[0], Cache_Control="no-cache"))
        assert newer.filename in files(await page(mirror, names[0])), "the others are right no longer"


async def test_an_upload_a_yank_and_a_deletion_are_seen_at_once_and_after_a_restart(tmp_path: Path) -> None:
    repository = {"pypi": {"format": "pypi", "upstreams": []}}
    data, newer = tmp_path / "data", wheel("acme", "2.0")
    async with serving(data, repository) as mirror:
        token = await make_token(mirror, ["upload", "yank", "admin"])
        assert (await upload(mirror, token, OWN)).status == 200
        assert files(await page(mirror, "acme")) == names(OWN)
    async with serving(data, repository) as mirror:
        assert files(await page(mirror, "acme")) == names(OWN)
        token = await make_token(mirror, ["upload", "yank", "admin"])
        assert (await upload(mirror, token, newer)).status == 200
        assert files(await page(mirror, "acme")) == names(OWN, newer)
        await mirror.mirror.publishers["pypi"].yank(OWN.filename, "broken")
        assert [one["yanked"] for one in (await page(mirror, "acme")).json()["files"]] == ["broken", False]
    async with serving(data, repository) as mirror:
        assert [one["yanked"] for one in (await page(mirror, "acme")).json()["files"]] == ["broken", False]
        await mirror.mirror.publishers["pypi"].delete(newer.filename)
    async with serving(data, repository) as mirror:
        assert files(await page(mirror, "acme")) == names(OWN)


async def test_a_change_upstream_is_seen_after_a_restart(index: Simulator, tmp_path: Path) -> None:
    data, newer = tmp_path / "data", wheel("six", "2.0")
    ages = {"fresh": 0, "stale_while_revalidate": 0}
    async with serving(data, repositories(index), pages=ages) as mirror:
        await page(mirror)
    index.publish(newer)
    async with serving(data, repositories(index), pages=ages) as mirror:
        reply = await page(mirror)
        assert (files(reply), reply.outcome) == (names(*SIX, newer), "miss")
    index.remove("six")
    async with serving(data, repositories(index), pages=ages) as mirror:
        assert (await mirror.get("/simple/six/", Accept=JSON)).status == 404


async def test_a_page_whose_upstream_is_down_stands_in_from_disk(
    index: Simulator, renders: Renders, tmp_path: Path
) -> None:
    data, ages = tmp_path / "data", {"fresh": 0, "stale_while_revalidate": 0}
    async with serving(data, repositories(index), pages=ages) as mirror:
        first = await page(mirror)
    index.inject("/simple/*", Status(503))
    async with serving(data, repositories(index), pages=ages, network={"retries": 0}) as mirror:
        reply = await page(mirror)
        assert (reply.body, reply.outcome) == (first.body, "stale")
    assert renders.names == ["six"]


RULE = {"name": "no-1.0", "kind": "deny", "projects": ["six"], "versions": "==1.0", "reason": "broken"} | {
    "repositories": ["pypi"]
}


async def test_another_policy_shows_other_files_at_once(index: Simulator, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for policy, shown in [([], SIX), ([RULE], SIX[1:]), ([], SIX)]:
        async with serving(data, repositories(index), policy=policy) as mirror:
            assert files(await page(mirror)) == names(*shown)


async def test_other_sources_show_other_files_at_once(index: Simulator, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with serving(data, repositories(index)) as mirror:
        assert files(await page(mirror)) == names(*SIX)
        assert (await upload(mirror, await make_token(mirror), OWN)).status == 200
        assert b"acme" in (await mirror.get("/simple/", Accept=JSON)).body
    async with serving(data, {"pypi": {"format": "pypi", "upstreams": []}}) as mirror:
        assert (await mirror.get("/simple/six/", Accept=JSON)).status == 404
        assert [one["name"] for one in (await mirror.get("/simple/", Accept=JSON)).json()["projects"]] == ["acme"]
    async with serving(data, repositories(index, pypi={"private": ["six"]})) as mirror:
        assert (await mirror.get("/simple/six/", Accept=JSON)).status == 404
        assert [one["name"] for one in (await mirror.get("/simple/", Accept=JSON)).json()["projects"]] == ["acme"]
    async with serving(data, repositories(index)) as mirror:
        assert files(await page(mirror)) == names(*SIX)


@pytest.mark.usefixtures("embedded")
async def test_a_lost_catalog_is_not_made_up_for_by_rendered_pages(index: Simulator, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with serving(data, repositories(index)) as mirror:
        await page(mirror)
    for path in data.glob("catalog.sqlite*"):
        path.unlink()
    async with serving(data, repositories(index), offline=True) as mirror:
        assert (await mirror.get("/simple/six/", Accept=JSON)).status == 503


@pytest.mark.parametrize("damage", ["bytes", "cut", "deleted"])
async def test_a_damaged_cache_is_made_again(index: Simulator, renders: Renders, tmp_path: Path, damage: str) -> None:
    data = tmp_path / "data"
    async with serving(data, repositories(index)) as mirror:
        first = [await page(mirror, Accept_Encoding="gzip") for _ in range(2)][1]
    for path in [*data.glob("rendered/*/*")]:
        size = path.stat().st_size
        match damage:
            case "bytes":
                path.write_bytes(os.urandom(size))
            case "cut":
                path.write_bytes(path.read_bytes()[: size // 2])
            case "deleted":
                path.unlink()
    for rendered in (["six", "six"], ["six", "six"]):
        async with serving(data, repositories(index)) as mirror:
            assert (await page(mirror, Accept_Encoding="gzip")).body == first.body
        assert renders.names == rendered


async def test_without_room_on_disk_nothing_is_kept_there(index: Simulator, renders: Renders, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for _ in range(2):
        async with serving(data, repositories(index), pages={"disk": 0}) as mirror:
            await page(mirror)
        assert not (data / "rendered").exists()
    assert renders.names == ["six", "six"]


async def test_pages_as_of_a_date_are_not_kept_on_disk(index: Simulator, renders: Renders, tmp_path: Path) -> None:
    async with serving(tmp_path / "data", repositories(index)) as mirror:
        reply = await mirror.get("/at/2100-01-01/simple/six/", Accept=JSON)
        assert reply.status == 200
        await mirror.mirror.page_cache.close()
        assert not mirror.mirror.store.rendered.places
