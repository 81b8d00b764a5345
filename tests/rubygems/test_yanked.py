"""What is yanked: our own gems are gone until they are un-yanked, and upstream's stay where they are held."""

from pathlib import Path
from typing import Any

import pytest

from tests.builders import gem
from tests.serving import Serving, serving
from tests.simulator import Simulator
from tests.uploading import change_gem, make_token, push

PATHS = ("gems/acme-1.0.gem", "quick/Marshal.4.8/acme-1.0.gemspec.rz")


def upstreams(simulator: Simulator) -> dict[str, Any]:
    return {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}


async def statuses(mirror: Serving) -> list[int]:
    return [(await mirror.get(path)).status for path in PATHS]


@pytest.mark.parametrize(("setting", "status"), [(None, 403), ("hide", 403), ("serve", 200)])
async def test_a_yanked_gem_of_our_own_is_refused_until_it_is_unyanked(
    tmp_path: Path, setting: str | None, status: int
) -> None:
    own = {"rubygems": {"format": "rubygems", "upstreams": []}}
    policies = {"yanked": setting} if setting else {}
    async with serving(tmp_path / "data", own, policies=policies) as mirror:
        key = await make_token(mirror)
        for version in ("1.0", "1.1"):
            await push(mirror, key, gem("acme", version).content)
        for _ in range(2):
            assert await statuses(mirror) == [200, 200]
        await change_gem(mirror, key, "yank", "acme", "1.0")
        assert await statuses(mirror) == [status, status]
        assert "\n1.0 " not in (await mirror.get("info/acme")).text
        assert "1.1" in (await mirror.get("info/acme")).text
        await change_gem(mirror, key, "yank", "acme", "1.1")
        assert (await mirror.get("info/acme")).body == b"---\n"
        assert await statuses(mirror) == [status, status]
        await change_gem(mirror, key, "unyank", "acme", "1.0")
        assert await statuses(mirror) == [200, 200]
        assert "\n1.0 " in (await mirror.get("info/acme")).text
        assert (await mirror.get("gems/acme-1.1.gem")).status == status


async def test_a_held_gem_that_upstream_yanks_stays_in_the_index_for_locked_installs(
    simulator: Simulator, tmp_path: Path
) -> None:
    for name, version in (("acme", "1.0"), ("acme", "1.1"), ("sole", "1.0"), ("never", "1.0"), ("never", "1.1")):
        simulator.push(gem(name, version))
    held = ("gems/acme-1.0.gem", "gems/sole-1.0.gem")
    async with serving(tmp_path / "data", upstreams(simulator)) as mirror:
        for path in ("versions", "info/acme", "info/sole", "info/never", *held):
            assert (await mirror.get(path)).status == 200
        for name in ("acme", "sole", "never"):
            simulator.yank_gem(name, "1.0")
        for one in mirror.mirror.upstream_indexes.values():
            one.asked_at = 0
        log = mirror.mirror.published_indexes["rubygems"]
        await mirror.get("versions", Cache_Control="no-cache")
        assert log.log is not None
        listed = {name: set(log.log.map.versions(name)) for name in ("acme", "sole", "never")}
        assert listed == {"acme": {"1.0", "1.1"}, "sole": {"1.0"}, "never": {"1.1"}}
        await in_the_index(mirror)
    await simulator.go_down()
    async with serving(tmp_path / "data", upstreams(simulator), offline=True) as mirror:
        await in_the_index(mirror)


async def in_the_index(mirror: Serving) -> None:
    for name, kept in (("acme", True), ("sole", True), ("never", False)):
        assert ("\n1.0 " in (await mirror.get(f"info/{name}")).text) is kept, name
    for path in ("gems/acme-1.0.gem", "gems/sole-1.0.gem"):
        assert (await mirror.get(path)).status == 200
