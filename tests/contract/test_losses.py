"""What is no index, and an index that lost a great part at once, never empties what is held."""

import json
from pathlib import Path

import pytest

from mirror.index.losses import CONFIRMED_AFTER_SECONDS
from tests.builders import wheel
from tests.contract.pypi import JSON, NOW, filenames, mirroring
from tests.serving import Serving
from tests.simulator import Instead, Simulator, Status

BUILT = [wheel("thing", f"{number}.0") for number in range(12)]
NO_INDEX = {
    "maintenance": b"<html><head><title>Maintenance</title></head><body>Back at 10.</body></html>",
    "portal": b'<!DOCTYPE html><title>Welcome</title><a href="http://portal.example/login">Continue</a>',
    "blocked by policy": b"<html><body><h1>Blocked by policy</h1><p>Ask the help desk.</p></body></html>",
    "meta refresh": b'<html><head><meta http-equiv="refresh" content="0; url=/login"></head></html>',
    "xhtml": b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body><p>Hello</p></body></html>',
    "bare link": b'<a href="/elsewhere">elsewhere, please</a>',
    "titled like an index": b"<html><head><title>Index of /simple/thing/</title></head><body></body></html>",
}


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


async def names(mirror: Serving) -> list[str]:
    reply = await mirror.get("/simple/", Accept=JSON, **NOW)
    assert reply.status == 200, reply.text
    return [project["name"] for project in reply.json()["projects"]]


@pytest.mark.parametrize("content_type", ["text/html", "application/xhtml+xml"])
@pytest.mark.parametrize("what", NO_INDEX)
async def test_html_that_is_no_index_empties_nothing_also_after_a_restart_offline(
    simulator: Simulator, tmp_path: Path, what: str, content_type: str
) -> None:
    simulator.publish(BUILT[0])
    clock = Clock()
    async with mirroring(tmp_path / "data", simulator, clock=clock) as mirror:
        assert await filenames(mirror, "thing") == [BUILT[0].filename]
        assert (await mirror.get(f"/packages/thing/{BUILT[0].filename}")).status == 200
        assert await names(mirror) == ["thing"]
        for path in ("/simple/", "/simple/thing/", "/simple/other/"):
            simulator.inject(path, Instead(NO_INDEX[what], content_type))
        for _ in range(2):
            clock.now += 100_000
            assert await filenames(mirror, "thing") == [BUILT[0].filename]
            assert what == "titled like an index" or await names(mirror) == ["thing"]
            assert (await mirror.get("/simple/other/")).status == (502 if what != "titled like an index" else 200)
    async with mirroring(tmp_path / "data", simulator, clock=clock, offline=True) as mirror:
        assert await filenames(mirror, "thing") == [BUILT[0].filename]
        assert (await mirror.get(f"/packages/thing/{BUILT[0].filename}")).status == 200


def without(reply: bytes, key: str, keep: int) -> Instead:
    """The JSON document with only some of the things that it lists."""
    page = json.loads(reply)
    page[key] = page[key][:keep]
    return Instead(json.dumps(page).encode(), JSON)


async def test_a_page_that_lost_most_of_its_files_is_believed_when_it_says_so_again_minutes_later(
    simulator: Simulator, tmp_path: Path
) -> None:
    for one in BUILT:
        simulator.publish(one)
    clock = Clock()
    async with mirroring(
        tmp_path / "data", simulator, clock=clock, pages={"fresh": 1, "stale_while_revalidate": 0}
    ) as m:
        everything = await filenames(m, "thing")
        assert len(everything) == len(BUILT)
        page = (await m.get("/simple/thing/", Accept=JSON)).body
        simulator.inject("/simple/thing/", without(page, "files", 3))
        clock.now += 10
        assert await filenames(m, "thing") == everything
        clock.now += CONFIRMED_AFTER_SECONDS - 1
        assert await filenames(m, "thing") == everything
        clock.now += 1
        assert len(await filenames(m, "thing")) == 3


async def test_a_list_that_lost_many_names_is_doubted_and_one_that_lost_a_few_is_not(
    simulator: Simulator, tmp_path: Path
) -> None:
    for number in range(600):
        simulator.publish(wheel(f"thing{number}", "1.0"))
    clock = Clock()
    async with mirroring(
        tmp_path / "data", simulator, clock=clock, pages={"fresh": 1, "stale_while_revalidate": 0}
    ) as m:
        assert len(await names(m)) == 600
        page = (await m.get("/simple/", Accept=JSON)).body
        fewer = simulator.inject("/simple/", without(page, "projects", 597))
        clock.now += 10
        assert len(await names(m)) == 597
        fewer.release()
        simulator.heal()
        simulator.inject("/simple/", without(page, "projects", 100))
        clock.now += 10
        assert len(await names(m)) == 597
    async with mirroring(
        tmp_path / "data", simulator, clock=clock, pages={"fresh": 1, "stale_while_revalidate": 0}
    ) as m:
        assert len(await names(m)) == 597  # doubted again, by a process that had not counted the stored ones
        clock.now += CONFIRMED_AFTER_SECONDS
        assert len(await names(m)) == 100


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "still there"])
async def test_a_list_that_lost_many_names_is_believed_at_once_where_their_pages_are_gone(
    simulator: Simulator, tmp_path: Path, gone: bool
) -> None:
    for number in range(100):
        simulator.publish(wheel(f"thing{number}", "1.0"))
    clock = Clock()
    ages = {"fresh": 1, "stale_while_revalidate": 0}
    async with mirroring(tmp_path / "data", simulator, clock=clock, pages=ages) as mirror:
        assert len(await names(mirror)) == 100
        page = json.loads((await mirror.get("/simple/", Accept=JSON)).body)
        left = {project["name"] for project in page["projects"][:50]}
        if gone:
            for project in page["projects"][50:]:
                simulator.pypi.remove(project["name"])
        else:
            simulator.inject("/simple/", without(json.dumps(page).encode(), "projects", 50))
        clock.now += 10
        assert set(await names(mirror)) == (left if gone else {project["name"] for project in page["projects"]})
        assert simulator.count("GET", "/simple/*/") <= 9


async def test_an_index_that_answers_404_to_everything_confirms_no_loss(simulator: Simulator, tmp_path: Path) -> None:
    for number in range(100):
        simulator.publish(wheel(f"thing{number}", "1.0"))
    clock = Clock()
    ages = {"fresh": 1, "stale_while_revalidate": 0}
    async with mirroring(tmp_path / "data", simulator, clock=clock, pages=ages) as mirror:
        assert len(await names(mirror)) == 100
        page = (await mirror.get("/simple/", Accept=JSON)).body
        simulator.inject("/simple/", without(page, "projects", 50))
        simulator.inject("/simple/*/", Status(404))
        clock.now += 10
        assert len(await names(mirror)) == 100
