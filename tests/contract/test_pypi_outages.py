"""Cut off: the mirror set offline, and upstreams that are down, silent or slow."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.builders import sdist, wheel
from tests.serving import Serving
from tests.simulator import Simulator, Stall, Status

from .pypi import JSON, NOW, eventually, filenames, is_sentence, mirroring, page_of, patient

THING = wheel("thing", "1.0", size=300_000)
OTHER = sdist("thing", "1.0")
FILE = f"/packages/thing/{THING.filename}"
PATIENCE = 0.3
"""Seconds that the mirrors of these tests wait for a connection."""
STALE = {"fresh": 0, "stale_while_revalidate": 0}
QUICK = {"connect_timeout": PATIENCE, "read_timeout": 1, "retries": 0}


async def fill(mirror: Serving, simulator: Simulator) -> dict[str, bytes]:
    """Fetch all that there is; path → body."""
    simulator.publish(THING, provenance=True)
    simulator.publish(OTHER)
    paths = ["/simple/", "/simple/thing/", "/pypi/thing/json", FILE, f"{FILE}.metadata"]
    paths += [f"/integrity/thing/1.0/{THING.filename}/provenance"]
    return {path: (await mirror.get(path)).body for path in paths}


async def test_offline_everything_held_is_served_and_nobody_is_asked(simulator: Simulator, tmp_path: Path) -> None:
    async with mirroring(tmp_path / "data", simulator, pages=STALE) as mirror:
        before = await fill(mirror, simulator)
    simulator.forget()
    async with mirroring(tmp_path / "data", simulator, pages=STALE, offline=True) as mirror:
        for path, body in before.items():
            for headers in ({}, {}, NOW):
                reply = await mirror.get(path, **headers)
                assert reply.status == 200, path
                if path != "/pypi/thing/json":  # names our port
                    assert reply.body == body, path
                assert reply.outcome == "offline", path
    assert simulator.count() == 0


@pytest.mark.parametrize(
    "path",
    [
        "/simple/unheard-of/",
        "/pypi/unheard-of/json",
        f"/packages/thing/{OTHER.filename}",
        "/packages/unheard-of/unheard_of-1.0-py3-none-any.whl",
    ],
)
async def test_offline_what_is_not_held_is_said_to_be_so(simulator: Simulator, tmp_path: Path, path: str) -> None:
    async with mirroring(tmp_path / "data", simulator) as mirror:
        await fill(mirror, simulator)
    simulator.forget()
    async with mirroring(tmp_path / "data", simulator, offline=True) as mirror:
        reply = await mirror.get(path)
        assert reply.status == 503
        assert "offline" in reply.text
        assert is_sentence(reply)
    assert simulator.count() == 0


async def test_offline_an_empty_mirror_lists_what_it_holds(simulator: Simulator, tmp_path: Path) -> None:
    async with mirroring(tmp_path / "data", simulator) as mirror:
        simulator.publish(THING)
        await page_of(mirror, "thing")
    async with mirroring(tmp_path / "data", simulator, offline=True) as mirror:
        listing = (await mirror.get("/simple/", Accept=JSON)).json()
        assert [project["name"] for project in listing["projects"]] == ["thing"]


async def test_offline_the_json_api_and_metadata_are_made_of_what_is_held(simulator: Simulator, tmp_path: Path) -> None:
    async with mirroring(tmp_path / "data", simulator) as mirror:
        simulator.publish(THING)
        await mirror.get(FILE)
    async with mirroring(tmp_path / "data", simulator, offline=True) as mirror:
        assert (await mirror.get(f"{FILE}.metadata")).body == THING.metadata
        page = (await mirror.get("/pypi/thing/json")).json()
        assert page["info"]["summary"] == "The thing of the tests"
        assert set(page["releases"]) == {"1.0"}


# Down


@pytest.mark.parametrize("how", ["refused", "silent", "hanging"])
async def test_with_upstream_gone_everything_fetched_is_served_without_a_wait(
    simulator: Simulator, tmp_path: Path, how: str
) -> None:
    async with mirroring(tmp_path / "data", simulator, pages=STALE, network=QUICK) as mirror:
        before = await fill(mirror, simulator)
        await simulator.go_down(how)
        started = time.monotonic()
        for path, body in before.items():
            for headers in ({}, NOW):
                reply = await mirror.get(path, **headers)
                assert (reply.status, reply.body) == (200, body)
                assert reply.outcome == ("hit" if path.startswith("/packages") else "stale")
        # Twelve questions, of which one waits for the limit; the rest of the time is for a busy machine.
        assert time.monotonic() - started < PATIENCE + 5
        new = await mirror.get("/simple/unheard-of/")
        assert new.status == 503
        assert 10 <= int(new.headers["Retry-After"]) <= 30
        assert is_sentence(new)


async def test_a_silent_upstream_is_waited_for_once(simulator: Simulator, tmp_path: Path) -> None:
    network = {"connect_timeout": PATIENCE, "read_timeout": 60, "retries": 0}
    async with mirroring(tmp_path / "data", simulator, pages=STALE, network=network) as mirror:
        names = [f"thing{number}" for number in range(20)]
        for name in names:
            simulator.publish(wheel(name, "1.0"))
            await page_of(mirror, name)
        stalled = simulator.inject("/simple/*", Stall())
        started = time.monotonic()
        assert [(await page_of(mirror, name)).outcome for name in names] == ["stale"] * 20
        assert time.monotonic() - started < 20 * PATIENCE  # much less than a wait for each
        simulator.publish(wheel("thing0", "2.0"))
        stalled.release()

        async def shown() -> bool:
            return len(await filenames(mirror, "thing0")) == 2

        await eventually(shown)


async def test_a_breaker_spares_a_dead_upstream(simulator: Simulator, tmp_path: Path) -> None:
    network = {"retries": 0, "breaker_failures": 3, "breaker_seconds": 3600}
    async with mirroring(tmp_path / "data", simulator, network=network) as mirror:
        simulator.inject("*", Status(500))
        for number in range(10):
            assert (await mirror.get(f"/simple/thing{number}/")).status == 503
        assert simulator.count() == 3
        (upstream,) = (await mirror.get("/-/status")).json()["upstreams"]
        assert (upstream["state"], upstream["breaker"]) == ("down", "open")
        assert upstream["paused"] == {"classes": ["page"], "addresses": 0}
        assert upstream["last_cause"] == "status"
        metrics = (await mirror.get("/metrics")).text
        assert f'class="page",repository="pypi",upstream="{upstream["name"]}"}} 1.0' in metrics


async def test_one_address_that_is_left_alone_is_seen_and_clients_wait_no_longer_than_said(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.inject("/simple/thing/", Status(429, 3600))
    async with mirroring(tmp_path / "data", simulator, network=patient()) as mirror:
        for _ in range(2):
            reply = await mirror.get("/simple/thing/")
            assert (reply.status, 10 <= int(reply.headers["Retry-After"]) <= 30) == (503, True)
        (upstream,) = (await mirror.get("/-/status")).json()["upstreams"]
        assert upstream["paused"] == {"classes": [], "addresses": 1}
        assert "mirror_upstream_paused_addresses" in (await mirror.get("/metrics")).text


async def test_an_upstream_that_comes_back_is_asked_again(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(THING)
    network = {"retries": 0, "breaker_failures": 1, "breaker_seconds": 0.1}
    async with mirroring(tmp_path / "data", simulator, network=network) as mirror:
        await simulator.go_down()
        assert (await mirror.get("/simple/thing/")).status == 503
        await simulator.come_back()

        async def back() -> bool:
            return (await mirror.get("/simple/thing/")).outcome == "miss"

        await eventually(back)


async def test_retry_after_is_obeyed_and_clients_wait_half_a_minute_at_most(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.inject("*", Status(503, retry_after=1800))
    async with mirroring(tmp_path / "data", simulator) as mirror:
        for _ in range(3):
            reply = await mirror.get("/simple/thing/")
            assert reply.status == 503
            assert 10 <= int(reply.headers["Retry-After"]) <= 30  # for a client may sleep so long
    assert simulator.count(path="/simple/thing/") == 1


async def test_what_passes_is_tried_again(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(THING)
    simulator.inject("/simple/thing/", Status(502), times=1)
    async with mirroring(tmp_path / "data", simulator) as mirror:
        assert (await page_of(mirror, "thing")).outcome == "miss"
    assert simulator.count() == 2


async def test_stale_if_error_has_an_end(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(THING)
    ages = {**STALE, "stale_if_error": 0}
    async with mirroring(tmp_path / "data", simulator, pages=ages, network=patient()) as mirror:
        await page_of(mirror, "thing")
        await simulator.go_down()
        assert (await mirror.get("/simple/thing/")).status == 503


async def test_a_held_file_needs_no_fresh_page(simulator: Simulator, tmp_path: Path) -> None:
    async with mirroring(tmp_path / "data", simulator) as mirror:
        simulator.publish(THING)
        await mirror.get(FILE)
    await simulator.go_down("hanging")
    ages = {**STALE, "stale_if_error": 0}
    async with mirroring(tmp_path / "data", simulator, pages=ages, network={"connect_timeout": 60}) as mirror:
        reply = await mirror.get(FILE)
        assert (reply.outcome, reply.body) == ("hit", THING.content)


async def test_a_joined_page_and_its_clients_share_one_question(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(THING)
    stalled = simulator.inject("/simple/thing/", Stall())
    async with mirroring(tmp_path / "data", simulator) as mirror:
        asking = [asyncio.create_task(mirror.get("/simple/thing/")) for _ in range(10)]
        await simulator.until(lambda: simulator.count() == 1)
        await asyncio.sleep(0.1)
        stalled.release()
        outcomes = [reply.outcome for reply in await asyncio.gather(*asking)]
        assert outcomes.count("miss") == 1
        assert "joined" in outcomes
        assert set(outcomes) <= {"miss", "joined", "hit"}  # a hit is one that came when all was over
    assert simulator.count() == 1
