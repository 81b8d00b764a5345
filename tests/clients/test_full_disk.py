"""pip and uv while the mirror's disk is full: they install more than fits."""

import sys
from pathlib import Path

import pytest

from tests.builders import wheel
from tests.clients.python import running, uv
from tests.serving import repositories, spawned
from tests.simulator import Simulator

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]


@pytest.mark.parametrize("client", ["pip", "uv"])
async def test_more_is_installed_than_the_disk_of_the_mirror_holds(
    small_disk: Path, simulator: Simulator, tmp_path: Path, client: str
) -> None:
    names = [f"project{number}" for number in range(12)]
    for name in names:
        simulator.publish(wheel(name, "1.0", size=6_000_000))
    begin = {
        "pip": [sys.executable, "-m", "pip", "install", "--no-cache-dir", "--index-url"],
        "uv": [uv(), "pip", "install", "--python", sys.executable, "--no-cache", "--default-index"],
    }
    async with spawned(small_disk, repositories(simulator)) as mirror:
        await running(*begin[client], f"{mirror.url}simple/", "--target", tmp_path / "installed", *names)
        assert len(list((tmp_path / "installed").glob("*.dist-info"))) == 12
        # uv asks for all of them at once: half of the disk is promised to those that come first, and the rest of them
        # share what is left until it is full.
        least = {"pip": 6, "uv": 4}[client]
        assert least <= len(list((small_disk / "blobs").glob("??/*"))) - len(names) <= 8  # and each wheel's metadata
