"""Clients behind mirrors that follow one another: what was uploaded to the first installs from the others at once."""

import itertools
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.airgap.test_follow import caught_up, holds, of
from tests.builders import gem, wheel
from tests.clients.python import running, uv
from tests.clients.ruby import Ruby
from tests.serving import Serving, repositories, serving
from tests.simulator import Simulator
from tests.uploading import make_token, push, upload

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

GENEROUS = 30.0
"""Seconds from an upload to the end of its installation from the next mirror, on a slow machine: two where there is
nothing else to do, of which the clients themselves take nearly all.
"""


@pytest.fixture
async def chain(simulator: Simulator, tmp_path: Path) -> AsyncIterator[list[Serving]]:
    """Three mirrors, each following the one before it; the first has the simulator as its upstream."""
    simulator.publish(wheel("library", "1.0"))
    simulator.push(gem("rack", "3.0"))
    async with AsyncExitStack() as stack:
        mirrors = [await stack.enter_async_context(serving(tmp_path / "0", repositories(simulator)))]
        for number in (1, 2):
            table = of(mirrors[-1])
            mirrors.append(await stack.enter_async_context(serving(tmp_path / str(number), table)))
        for before, after in itertools.pairwise(mirrors):
            await caught_up(after, before)
        yield mirrors


async def pip_install(mirror: Serving, target: Path, *wanted: str) -> set[str]:
    """What pip installs into a directory from a mirror alone."""
    index = f"{mirror.url}simple/"
    await running(sys.executable, "-m", "pip", "install", "--no-cache-dir", "--target", target, "-i", index, *wanted)
    return names(target)


async def uv_install(mirror: Serving, target: Path, *wanted: str) -> set[str]:
    """The same with uv."""
    options = ("--no-cache", "--python", sys.executable, "--target", target, "--default-index", f"{mirror.url}simple/")
    await running(uv(), "pip", "install", *options, *wanted)
    return names(target)


def names(target: Path) -> set[str]:
    return {path.name.removesuffix(".dist-info") for path in target.glob("*.dist-info")}


async def test_an_upload_to_the_first_installs_from_the_second_at_once(chain: list[Serving], tmp_path: Path) -> None:
    first, second, _ = chain
    secret = await make_token(first)
    for number, install in enumerate((uv_install, pip_install)):
        built = wheel("acme", f"1.{number}", requires=["library"])
        assert (await upload(first, secret, built)).status == 200
        began = time.monotonic()
        assert await install(second, tmp_path / install.__name__, "acme") == {f"acme-1.{number}", "library-1.0"}
        took = time.monotonic() - began
        began = time.monotonic()
        await install(first, tmp_path / f"first-{install.__name__}", "acme")
        print(f"{install.__name__}: {time.monotonic() - began:.2f} s from the first mirror itself")
        print(f"{install.__name__}: {took:.2f} s from the answer to the upload to the end of the installation")
        assert took < GENEROUS
    ruby = Ruby()
    with ruby.home(second.url) as home:
        assert (await push(first, secret, gem("acme", "1.0").content)).status == 200
        began = time.monotonic()
        await home.run("gem", "install", "acme")
        took = time.monotonic() - began
        print(f"gem: {took:.2f} s from the answer to the push to the end of the installation")
        assert took < GENEROUS


async def test_every_client_installs_through_three_mirrors(
    chain: list[Serving], tmp_path: Path, simulator: Simulator
) -> None:
    first, second, third = chain
    secret = await make_token(first)
    mine, ruby = (
        wheel("acme", "1.0", requires=["library", "of-second"]),
        gem("acme", "1.0", dependencies={"rack": [">= 2"]}),
    )
    own, newer = wheel("of-second", "1.0"), gem("own", "1.0")
    await upload(second, await make_token(second), own)
    await push(third, await make_token(third), newer.content)
    await upload(first, secret, mine)
    await push(first, secret, ruby.content)
    await holds(third, mine, ruby, own)
    everything = {"acme-1.0", "library-1.0", "of_second-1.0"}
    assert await pip_install(third, tmp_path / "pip", "acme") == everything
    assert await uv_install(third, tmp_path / "uv", "acme") == everything
    with Ruby().home(third.url) as home:
        await home.run("gem", "install", "acme", "own")
        said = await home.run("gem", "list", "--local")
        assert {"acme (1.0)", "own (1.0)", "rack (3.0)"} <= set(said.splitlines())
    with Ruby().home(third.url) as home:
        await home.bundle("lock", gemfile='gem "acme"\n')
        assert home.locked() == {"acme (1.0)", "rack (3.0)"}
        await home.bundle("install")
    simulator_asked = len(simulator.requests)
    assert await uv_install(third, tmp_path / "again", "acme") == everything
    assert len(simulator.requests) == simulator_asked, "what each of them holds, it asks nobody for"
