"""gem and bundler against a running mirror, with an upstream and without."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import addressed_gem, gem
from tests.clients.ruby import Home, Ruby, rubies
from tests.genuine import GEMS
from tests.serving import repositories, serving, spawned
from tests.simulator import Simulator, Status
from tests.uploading import make_token, push

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

GEMFILE = 'gem "sinatra"\ngem "io-console"\n'


async def everything(home: Home) -> dict[str, object]:
    """What users do, and what came of it."""
    await home.bundle("install", gemfile=GEMFILE)
    used = await home.run("bundle", "exec", "ruby", "-e", "require 'sinatra/base'; puts Sinatra::VERSION")
    extension = await home.run("bundle", "exec", "ruby", "-e", "require 'io/console'; puts $LOADED_FEATURES.last")
    locked = home.locked()
    await home.run("gem", "install", "sinatra")
    await home.run("gem", "install", "tiny", "-v", "1.0")
    await home.run("gem", "fetch", "sinatra")
    return {
        "used": used.strip().splitlines()[-1],
        "extension": re.search(r"/gems/.*/io/console.*", extension) is not None,
        "locked": locked,
        "list": await home.run("gem", "list", "-r"),
        "search": await home.run("gem", "search", "^sin"),
        "outdated": await home.run("gem", "outdated"),
        "info": await home.run("gem", "info", "-r", "sinatra"),
        "fetched": (home.place / "sinatra-4.1.1.gem").read_bytes() == (GEMS / "sinatra-4.1.1.gem").read_bytes(),
    }


@pytest.mark.parametrize("ruby", rubies(), ids=str)
async def test_everything_works_and_works_again_offline_with_a_new_home(
    simulator: Simulator, tmp_path: Path, ruby: Ruby, report: Callable[[str], None]
) -> None:
    simulator.load_genuine(GEMS)
    simulator.push(gem("tiny", "1.0"))
    simulator.push(gem("tiny", "2.0"))
    upstreams = repositories(simulator)

    async with spawned(tmp_path / "data", upstreams) as mirror:
        with ruby.home(mirror.url) as home:
            report(await home.versions())
            first = await everything(home)
        assert await mirror.end() == 0
    assert first["used"] == "4.1.1"
    assert first["extension"]
    assert first["fetched"]
    assert {"sinatra (4.1.1)", "io-console (0.8.0)", "rack (3.1.16)"} <= first["locked"]  # type: ignore[operator]
    assert "sinatra (4.1.1)" in str(first["list"])
    assert "tiny (2.0)" in str(first["list"])
    assert str(first["search"]).split() == ["sinatra", "(4.1.1)"]
    assert "tiny (1.0 < 2.0)" in str(first["outdated"])
    assert "https://sinatrarb.com/" in str(first["info"]) or "sinatra (4.1.1)" in str(first["info"])

    await simulator.go_down()
    simulator.forget()
    async with spawned(tmp_path / "data", upstreams, "--offline") as mirror:
        with ruby.home(mirror.url) as home:
            assert await everything(home) == first
    assert simulator.requests == []


async def test_an_upstream_that_is_down_is_not_noticed_by_who_had_everything(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.load_genuine(GEMS)
    simulator.push(gem("tiny", "1.0"))
    simulator.push(gem("tiny", "2.0"))
    ruby = Ruby()
    async with spawned(tmp_path / "data", repositories(simulator)) as mirror:
        with ruby.home(mirror.url) as home:
            first = await everything(home)
    await simulator.go_down("silent")
    async with spawned(tmp_path / "data", repositories(simulator)) as mirror:
        with ruby.home(mirror.url) as home:
            assert await everything(home) == first


@pytest.mark.parametrize("ruby", rubies(), ids=str)
async def test_clients_that_do_not_know_content_addresses_install_what_they_know(
    simulator: Simulator, tmp_path: Path, ruby: Ruby
) -> None:
    machine = "x86_64-linux-gnu"
    for built in (
        gem("native", "1.0"),
        addressed_gem("native", "1.0", "3.1", platform=machine),
        addressed_gem("native", "1.0", "3.3", platform=machine),
        addressed_gem("native", "2.0", "3.3", platform=machine),
    ):
        simulator.push(built)
    async with spawned(tmp_path / "data", repositories(simulator)) as mirror:
        with ruby.home(mirror.url) as home:
            await home.bundle("install", gemfile='gem "native"\n')
            assert home.locked() == {"native (1.0)"}
            await home.run("gem", "install", "native")
            assert "native (1.0)" in await home.run("gem", "list")
            listed = await home.run("gem", "list", "-r", "--all")
            assert listed.split() == ["native", "(1.0)"]


@pytest.mark.parametrize("ruby", rubies(), ids=str)
async def test_a_listed_gem_without_a_page_takes_nothing_else_away(
    simulator: Simulator, tmp_path: Path, ruby: Ruby
) -> None:
    for built in (gem("tiny", "1.0"), gem("tiny", "2.0", dependencies={"lost": ">= 0"}), gem("lost", "1.0")):
        simulator.push(built)
    simulator.inject("/info/lost", Status(404))
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        with ruby.home(mirror.url) as home:
            await home.bundle("lock", gemfile='gem "tiny"\n')
            assert home.locked() == {"tiny (1.0)"}
            await home.bundle("install")
            assert simulator.count(path="/info/lost") > 0
            assert simulator.count(path="/*specs.4.8.gz") == 0  # it has not given up the compact index


@pytest.mark.parametrize("ruby", [one for one in rubies() if one.name != "machine"], ids=str)
async def test_a_gem_that_was_pushed_for_a_c_library_installs_where_that_is(tmp_path: Path, ruby: Ruby) -> None:
    async with serving(tmp_path / "data", {"rubygems": {"format": "rubygems", "upstreams": []}}) as mirror:
        secret = await make_token(mirror)
        with ruby.home(mirror.url) as home:
            machine = (await home.run("ruby", "-e", "puts Gem::Platform.local")).strip()
            assert machine.endswith("-linux-gnu")
            for platform in ("ruby", machine, machine.replace("-gnu", "-musl")):
                assert (await push(mirror, secret, gem("native", "1.0", platform=platform).content)).status == 200
            await home.run("gem", "install", "native")
            assert f"native-1.0-{machine}" in {path.name for path in (home.place / "gems/gems").iterdir()}
            await home.bundle("install", gemfile='gem "native"\n')
            assert f"native (1.0-{machine})" in home.locked()
