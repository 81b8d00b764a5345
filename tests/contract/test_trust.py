"""Two upstreams in order: the later one must not take a name from the earlier one (dependency confusion).

`ourlib` is a name of the internal index, which comes first. The public one has a file under that name as well.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import wheel
from tests.contract.pypi import JSON, NOW, filenames, mirroring, patient
from tests.serving import Serving, spawned
from tests.simulator import Instead, Simulator, Stall, Status

OURS = wheel("ourlib", "1.0")
THEIRS = wheel("ourlib", "99.0")
COMMON = wheel("common", "1.0")
NEWER = wheel("common", "2.0")
LOGIN = b"<!DOCTYPE html><html><head><title>Sign in</title></head><form><input name=user></form></html>"


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def public() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


def answers(fault: Status | Instead | Stall) -> "Callable[[Simulator], Awaitable[None]]":
    async def inject(simulator: Simulator) -> None:
        simulator.inject("*", fault)

    return inject


async def goes_down(simulator: Simulator) -> None:
    await simulator.go_down()


SITUATIONS: dict[str, Callable[[Simulator], Awaitable[None]]] = {
    "404 fresh": answers(Status(404)),
    "404 old and down": goes_down,
    "410": answers(Status(410)),
    "401": answers(Status(401)),
    "403": answers(Status(403)),
    "500": answers(Status(500)),
    "503": answers(Status(503)),
    "login page": answers(Instead(LOGIN)),
    "empty": answers(Instead(b"")),
    "timeout": answers(Stall()),
}


def public_answers(situation: str, held: bool) -> bool:
    """Whether the public index may answer for a name of the internal one."""
    return situation == "404 fresh" and not held


async def seen(mirror: Serving, public: Simulator) -> str:
    """Everything that the mirror shows of `ourlib`, and what the public index was asked."""
    asked = public.count()
    shown = [(await mirror.get("/simple/ourlib/", Accept=JSON, **headers)).text for headers in ({}, NOW, {})]
    file = await mirror.get(f"/packages/ourlib/{THEIRS.filename}")
    return " ".join([*shown, THEIRS.filename if file.status == 200 else ""]) + " PUBLIC INDEX" * (
        public.count() > asked
    )


@pytest.mark.parametrize("held", [True, False], ids=["held", "never asked"])
@pytest.mark.parametrize("situation", SITUATIONS)
async def test_a_later_index_answers_only_after_a_fresh_404_for_what_the_earlier_one_never_had(
    simulator: Simulator, public: Simulator, tmp_path: Path, situation: str, held: bool
) -> None:
    clock = Clock()
    network = patient(connect_timeout=0.2, read_timeout=0.2, page_timeout=0.5)
    async with mirroring(tmp_path / "data", simulator, public, network=network, clock=clock) as mirror:
        if held:
            simulator.publish(OURS)
            assert await filenames(mirror, "ourlib") == [OURS.filename]
        elif situation == "404 old and down":
            assert (await mirror.get("/simple/ourlib/")).status == 404
        public.publish(THEIRS)
        clock.now += 100_000
        await SITUATIONS[situation](simulator)
        shown = await seen(mirror, public)
        assert (THEIRS.filename in shown) == public_answers(situation, held), shown
        assert ("PUBLIC INDEX" in shown) == public_answers(situation, held)
    offline = {"offline": True, "clock": clock}
    async with mirroring(tmp_path / "data", simulator, public, network=network, **offline) as mirror:
        shown = await seen(mirror, public)
        assert (THEIRS.filename in shown) == public_answers(situation, held), shown


@pytest.mark.parametrize("situation", [one for one in SITUATIONS if one not in ("404 fresh", "410")])
async def test_while_the_first_index_is_silent_the_next_goes_on_with_what_it_gave(
    simulator: Simulator, public: Simulator, tmp_path: Path, situation: str
) -> None:
    clock = Clock()
    public.publish(COMMON)
    network = patient(connect_timeout=0.2, read_timeout=0.2, page_timeout=0.5)
    async with mirroring(tmp_path / "data", simulator, public, network=network, clock=clock) as mirror:
        assert await filenames(mirror, "common") == [COMMON.filename]
        clock.now += 100_000
        public.publish(NEWER)
        public.publish(wheel("other", "1.0"))
        await SITUATIONS[situation](simulator)
        asked = public.count()
        assert await filenames(mirror, "common") == [COMMON.filename]
        assert public.count() == asked
        assert (await mirror.get(f"/packages/common/{COMMON.filename}")).body == COMMON.content  # its page lists it
        assert (await mirror.get("/simple/other/")).status in (502, 503)


async def test_what_another_repository_fetched_is_not_given_while_the_first_index_is_silent(
    simulator: Simulator, public: Simulator, tmp_path: Path
) -> None:
    public.publish(THEIRS)
    both = {
        "pypi": {"format": "pypi", "upstreams": [simulator.simple_url, public.simple_url]},
        "open": {"format": "pypi", "upstreams": [public.simple_url]},
    }
    await simulator.go_down()
    async with spawned(tmp_path / "data", both, network=patient(connect_timeout="1s")) as mirror:
        assert (await mirror.get("/open/simple/ourlib/")).status == 200
        assert (await mirror.get("/simple/ourlib/")).status in (502, 503)


async def test_a_name_that_was_given_up_is_released_by_the_operator(
    simulator: Simulator, public: Simulator, tmp_path: Path
) -> None:
    simulator.publish(OURS)
    public.publish(THEIRS)
    public.publish(COMMON)
    repository = {"format": "pypi", "upstreams": [simulator.simple_url, public.simple_url]}
    ages: dict[str, Any] = {"fresh": "0s", "stale_while_revalidate": "0s", "negative": "0s"}
    async with spawned(tmp_path / "data", {"pypi": repository}, pages=ages) as mirror:
        assert (await mirror.get(f"/packages/ourlib/{OURS.filename}")).status == 200
        gone = simulator.inject("/simple/ourlib/", Status(404))
        reply = await mirror.get("/simple/ourlib/")
        assert (reply.status, "mirror release ourlib" in reply.text) == (404, True)
        status, said, complained = await release("OurLib", tmp_path)
        assert (status, said.startswith("released: ourlib in pypi")) == (0, True), complained
        assert "audit" in complained
        async with asyncio.timeout(10):
            while (await mirror.get("/simple/ourlib/")).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert THEIRS.filename in (await mirror.get("/simple/ourlib/")).text
        gone.release()
        simulator.heal()
        assert OURS.filename in (await mirror.get("/simple/ourlib/", **NOW)).text
        status, _, complained = await release("common", tmp_path)
        assert (status, "nothing to release" in complained) == (1, True)


async def release(name: str, folder: Path) -> tuple[int, str, str]:
    words = ["release", name, "--config", str(folder / "data.toml")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    said, complained = await process.communicate()
    return process.returncode or 0, said.decode(), complained.decode()
