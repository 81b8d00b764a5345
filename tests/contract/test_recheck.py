"""Clients that always say `max-age=0` or `no-cache` do not make the mirror ask its upstream each time."""

import asyncio
from pathlib import Path

from tests.builders import wheel
from tests.contract.pypi import NOW, filenames, mirroring, page_of
from tests.simulator import Simulator
from tests.uploading import make_token, upload


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


async def test_a_page_is_asked_for_once_in_a_while_however_often_clients_demand_it(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(wheel("thing", "1.0"))
    clock = Clock()
    async with mirroring(tmp_path / "data", simulator, clock=clock, pages={"recheck": "2s"}) as mirror:
        for headers in (NOW, {"Cache-Control": "max-age=0"}, {"Pragma": "no-cache"}):
            await asyncio.gather(*(page_of(mirror, "thing", **headers) for _ in range(20)))
        assert simulator.count("GET", "/simple/thing/") == 1
        simulator.publish(wheel("thing", "2.0"))
        clock.now += 2
        assert len((await page_of(mirror, "thing", **NOW)).json()["files"]) == 2
        for _ in range(20):
            await page_of(mirror, "thing", **NOW)
            assert (await mirror.get("/simple/missing/", **NOW)).status == 404
        assert simulator.count("GET", "/simple/thing/") == 2
        assert simulator.count("GET", "/simple/missing/") == 1


async def test_an_upload_is_seen_at_once_whatever_was_asked_just_before(simulator: Simulator, tmp_path: Path) -> None:
    async with mirroring(tmp_path / "data", simulator, clock=Clock(), pages={"recheck": "1h"}) as mirror:
        secret = await make_token(mirror)
        assert (await mirror.get("/simple/thing/", **NOW)).status == 404
        for version in ("1.0", "2.0"):
            assert (await upload(mirror, secret, wheel("thing", version))).status == 200
            reply = await mirror.get("/simple/thing/", **NOW)
            assert f"thing-{version}" in reply.text
        assert len(await filenames(mirror, "thing")) == 2
