"""One URL's trouble stays there: whatever one file, page, document or list does, all else is served as before."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.builders import gem, wheel
from tests.contract.pypi import eventually
from tests.serving import Serving, repositories, serving
from tests.simulator import Cut, CutCompression, Fault, HangUp, Injection, Simulator, Stall, Status

BROKEN, OTHER, COLD = wheel("broken", "1.0"), wheel("other", "1.0"), wheel("cold", "1.0")
NETWORK = {"retries": 1, "read_timeout": 0.3, "page_timeout": 1, "stale_timeout": 0.3, "breaker_failures": 3}
WITHIN_SECONDS = 4.0
"""Less than anyone waits for an upstream in trouble (5 s and more), and more than a busy machine takes."""

TROUBLES: Mapping[str, Fault] = {
    **{f"{status}": Status(status) for status in (429, 503, 500, 502, 504, 403)},
    **{f"{status}, Retry-After": Status(status, retry_after=3600) for status in (429, 503, 500)},
    "hang": Stall(),
    "hang in the body": Stall(after=10),
    "reset": Cut(after=0, reset=True),
}
PLACES = {
    "file": (f"/packages/*{BROKEN.filename}", f"/packages/broken/{BROKEN.filename}"),
    "page": ("/simple/broken/", "/simple/broken/"),
    "JSON": ("/pypi/broken/json", "/pypi/broken/json"),
    "list": ("/simple/", "/simple/"),
    "gem": ("/gems/broken-1.0.gem", "/gems/broken-1.0.gem"),
    "info": ("/info/broken", "/info/broken"),
    "gem JSON": ("/api/v1/gems/broken.json", "/api/v1/gems/broken.json"),
    "versions": ("/versions", "/versions"),
}
"""What is in trouble: the address upstream, and that here."""
OTHERS = [
    "/simple/other/", f"/packages/other/{OTHER.filename}", "/pypi/other/json", "/gems/other-1.0.gem", "/info/other",
    "/quick/Marshal.4.8/other-1.0.gemspec.rz",
]  # fmt: skip
COLDS = ["/simple/cold/", f"/packages/cold/{COLD.filename}", "/pypi/cold/json", "/gems/cold-1.0.gem", "/info/cold"]


@asynccontextmanager
async def mirroring(simulator: Simulator, data_dir: Path) -> AsyncIterator[Serving]:
    """A mirror that holds `other` and has never heard of `broken` and `cold`."""
    for one in (BROKEN, OTHER, COLD):
        simulator.publish(one)
    for name in ("broken", "other", "cold"):
        simulator.push(gem(name, "1.0"))
    async with serving(
        data_dir, repositories(simulator), network=NETWORK, pages={"fresh": 0, "stale_while_revalidate": 0}
    ) as mirror:
        for path in ("/versions", *OTHERS):
            assert (await mirror.get(path)).status == 200
        yield mirror


async def served(mirror: Serving, paths: list[str]) -> None:
    """Check that all of these are given at once."""
    began = time.monotonic()
    replies = await asyncio.gather(*(mirror.get(path) for path in paths))
    took = time.monotonic() - began
    assert {path: reply.status for path, reply in zip(paths, replies, strict=True)} == dict.fromkeys(paths, 200)
    assert took < WITHIN_SECONDS


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_what_one_address_does_changes_nothing_for_others(
    simulator: Simulator, tmp_path: Path, trouble: str, place: str
) -> None:
    upstream, here = PLACES[place]
    async with mirroring(simulator, tmp_path / "data") as mirror:
        injected = simulator.inject(upstream, TROUBLES[trouble])
        if place in ("file", "gem") and trouble in ("hang in the body", "reset"):
            await interrupted(mirror, here, injected)
        else:
            # Once more where the answer itself asks for a pause; else until there is one.
            for _ in range(2 if "Retry-After" in trouble else NETWORK["breaker_failures"] + 1):
                await ask(mirror, here)
        assert injected.hits
        await served(mirror, [*COLDS, *OTHERS])
        assert {one["breaker"] for one in await upstreams(mirror)} == {"closed"}


async def ask(mirror: Serving, path: str) -> None:
    """Ask for what is in trouble, and meanwhile for all else."""
    for followed in mirror.mirror.upstream_indexes.values():
        followed.asked_at = 0
    asking = asyncio.create_task(mirror.get(path, Cache_Control="no-cache"))
    await served(mirror, OTHERS)
    reply = await asking
    if reply.status == 503:
        assert 10 <= int(reply.headers["Retry-After"]) <= 30


async def interrupted(mirror: Serving, path: str, injected: Injection) -> None:
    """Ask for a file that breaks off, until it has been continued several times; what comes of it takes long."""
    asking = asyncio.create_task(mirror.get(path))
    await served(mirror, OTHERS)

    async def is_often_continued() -> bool:
        return injected.hits >= NETWORK["breaker_failures"]

    await eventually(is_often_continued)
    assert not asking.done()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def upstreams(mirror: Serving) -> list[dict[str, Any]]:
    """What the mirror says of its upstreams."""
    found: list[dict[str, Any]] = (await mirror.get("/-/status")).json()["upstreams"]
    return found


@pytest.mark.parametrize("lie", [CutCompression("gzip"), CutCompression("zstd"), HangUp(3000)], ids=repr)
async def test_a_page_that_is_cut_never_replaces_the_one_that_is_held(
    simulator: Simulator, tmp_path: Path, lie: Fault
) -> None:
    for number in range(300):
        simulator.publish(wheel("large", f"1.{number}"))
    async with serving(
        tmp_path / "data", repositories(simulator), network=NETWORK, pages={"fresh": 0, "stale_while_revalidate": 0}
    ) as mirror:
        whole = await mirror.get("/simple/large/")
        simulator.publish(wheel("large", "2.0"))
        injected = simulator.inject("/simple/large/", lie)
        for _ in range(2):
            reply = await mirror.get("/simple/large/")
            assert (reply.status, reply.body, reply.outcome) == (200, whole.body, "stale")
        assert injected.hits
        simulator.heal()
        await asyncio.sleep(0)
        reply = await mirror.get("/simple/large/")
        assert reply.body.count(b"large-") >= whole.body.count(b"large-")
