"""Real clients behind upstreams that lie, ask for patience or expire their links: an install is as if all were well."""

import asyncio
from pathlib import Path

import pytest

from tests.builders import wheel
from tests.clients.test_pypi import IMPATIENT, INSTALLED, NEWER, Pip, Uv, client, only_pypi, pip, publish
from tests.serving import serving, spawned
from tests.simulator import CutCompression, Drip, HangUp, Instead, LongHeader, Simulator, Status

__all__ = ["client"]

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

CLIENTS = pytest.mark.parametrize("client", ["pip", "pip==23.3.2", "uv"], indirect=True)

MAINTENANCE = b"<!DOCTYPE html><title>Back soon</title><h1>Maintenance</h1><a href='https://status.example/'>status</a>"
BLOCKED = b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><body>blocked by policy</body></html>"
PAGE_LIES = {
    "maintenance": Instead(MAINTENANCE),
    "blocked": Instead(BLOCKED, "application/xhtml+xml"),
    "nothing": Instead(b""),
    "quota": Instead(b'{"error": "quota"}', "application/json"),
    "gzipped": CutCompression("gzip"),
    "zstandard": CutCompression("zstd"),
    "hungup": HangUp(1500),
    "forbidden": Status(403),
}
"""What the page of the project of that name answers once it is held."""


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@CLIENTS
async def test_a_held_project_installs_whatever_its_index_answers_later(
    simulator: Simulator, tmp_path: Path, client: Pip | Uv
) -> None:
    for name in PAGE_LIES:
        for number in range(20):
            simulator.publish(wheel(name, f"1.{number}"))
    newest = dict.fromkeys(PAGE_LIES, "1.19")
    changing = {"network": {"retries": 0}, "pages": {"fresh": 0, "stale_while_revalidate": 0}}
    async with spawned(tmp_path / "data", only_pypi(simulator), **changing) as mirror:
        assert await client.install(mirror, tmp_path / "before", "--no-deps", *PAGE_LIES) == newest
        injected = {name: simulator.inject(f"/simple/{name}/", lie) for name, lie in PAGE_LIES.items()}
        assert await client.install(mirror, tmp_path / "after", "--no-deps", *PAGE_LIES) == newest
        assert [name for name, one in injected.items() if not one.hits] == []


async def test_a_file_that_is_to_be_asked_for_in_an_hour_is_installed_within_the_patience_of_the_client(
    simulator: Simulator, tmp_path: Path
) -> None:
    publish(simulator)
    injected = simulator.inject(f"*{NEWER.filename}", Status(429, retry_after=3600), times=1)
    both = {name: pip(name) for name in ("pip", "pip==23.3.2")}  # uv waits for some seconds only
    async with spawned(tmp_path / "data", only_pypi(simulator)) as mirror:
        installing = (client.install(mirror, tmp_path / name, "app") for name, client in both.items())
        assert await asyncio.gather(*installing) == [INSTALLED, INSTALLED]
        assert injected.hits


@CLIENTS
async def test_long_header_lines_of_an_index_are_not_noticed(
    simulator: Simulator, tmp_path: Path, client: Pip | Uv
) -> None:
    publish(simulator)
    simulator.inject("*", LongHeader(30_000))
    async with spawned(tmp_path / "data", only_pypi(simulator)) as mirror:
        assert await client.install(mirror, tmp_path / "home", "app") == INSTALLED


@CLIENTS
async def test_a_page_in_place_of_a_file_without_a_digest_is_not_kept(
    simulator: Simulator, tmp_path: Path, client: Pip | Uv
) -> None:
    simulator.pypi.configure(hashes=(), sizes=False, metadata=False)
    simulator.publish(NEWER)
    simulator.inject("*.whl", Instead(MAINTENANCE))
    async with spawned(tmp_path / "data", only_pypi(simulator)) as mirror:
        with pytest.raises(AssertionError, match=r"(?i)error"):
            await client.install(mirror, tmp_path / "before", "library", **IMPATIENT)
        simulator.heal()
        assert await client.install(mirror, tmp_path / "after", "library") == {"library": "2.5"}


@CLIENTS
async def test_a_slow_large_file_that_nothing_verifies_arrives_before_the_client_gives_up(
    simulator: Simulator, tmp_path: Path, client: Pip | Uv
) -> None:
    large = wheel("large", "1.0", size=3_000_000)
    simulator.pypi.configure(hashes=(), sizes=False, metadata=False)
    simulator.publish(large)
    simulator.inject("*.whl", Drip(piece=large.size // 10, pause=0.4))  # four seconds for the whole of it
    async with spawned(tmp_path / "data", only_pypi(simulator)) as mirror:
        impatient = IMPATIENT | {"PIP_TIMEOUT": "2", "UV_HTTP_TIMEOUT": "2"}
        found = await client.install(mirror, tmp_path / "home", "--no-deps", "large", **impatient)
    assert found == {"large": "1.0"}


@CLIENTS
@pytest.mark.parametrize("status", [403, 404])
async def test_a_client_that_asks_for_a_file_alone_gets_it_after_its_link_has_expired(
    simulator: Simulator, tmp_path: Path, client: Pip | Uv, status: int
) -> None:
    clock = Clock()
    simulator.publish(NEWER)
    async with serving(tmp_path / "data", only_pypi(simulator), clock=clock) as mirror:
        assert (await mirror.get("/simple/library/")).status == 200
        expire(simulator, status)
        clock.now += 20
        link = f"library @ {mirror.url}packages/library/{NEWER.filename}#sha256={NEWER.sha256}"
        found = await client.install(mirror, tmp_path / "home", "--no-deps", link, **IMPATIENT)
    assert found == {"library": "2.5"}


def expire(simulator: Simulator, status: int) -> None:
    """Let the link of the file lead to nothing but this status; its page has a new one."""
    old = simulator.pypi.relink("library", NEWER.filename)
    simulator.inject(f"{old}*", Status(status))
