"""Gems that are named after their content: from an upstream to where there is no network, as others are."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from rubymarshal.reader import loads

from mirror.cli import main
from tests.builders import addressed_gem, gem
from tests.serving import Serving, repositories, serving, write_settings
from tests.simulator import Simulator

OLD, NEW = addressed_gem("native", "1.0", "3.3"), addressed_gem("native", "1.0", "3.4")
SOURCE, PLATFORM = gem("native", "1.0"), gem("native", "1.0", platform="x86_64-linux")
ALL = (SOURCE, PLATFORM, OLD, NEW)
LOCK = f"""GEM
  remote: https://gems.example/
  specs:
    native (1.0-x86_64-linux)

PLATFORMS
  x86_64-linux

DEPENDENCIES
  native

CONTENT ADDRESSES
  native (1.0-x86_64-linux) {NEW.sha256[:8]} sha256={NEW.sha256}

CHECKSUMS
  native (1.0-x86_64-linux) sha256={PLATFORM.sha256}

RUBY VERSION
   ruby 3.4.1

BUNDLED WITH
   4.1.0
"""


@pytest.fixture
def upstream(simulator: Simulator) -> Simulator:
    for built in ALL:
        simulator.push(built)
    return simulator


class Commands:
    """Commands of the mirror over one data directory."""

    def __init__(self, simulator: Simulator, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.data_dir = data_dir
        self.repositories = repositories(simulator)
        self.settings = write_settings(data_dir, self.repositories)
        self.capsys = capsys

    async def __call__(self, *words: str | Path, status: int = 0) -> str:
        self.capsys.readouterr()
        ended = await asyncio.to_thread(main, [*map(str, words), "--config", str(self.settings)])
        said = self.capsys.readouterr()
        assert ended == status, said
        return said.out + said.err

    @asynccontextmanager
    async def offline(self) -> AsyncIterator[Serving]:
        async with serving(self.data_dir, self.repositories, offline=True) as mirror:
            yield mirror


@pytest.fixture
def here(upstream: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(upstream, tmp_path / "data", capsys)


async def test_they_are_served_as_upstream_lists_them(upstream: Simulator, tmp_path: Path) -> None:
    async with serving(tmp_path / "data", repositories(upstream)) as mirror:
        info = await mirror.get("info/native")
        assert info.body == upstream.rubygems.info("native")
        for built in ALL:
            assert (await mirror.get(f"gems/{built.filename}")).body == built.content
            quick = await mirror.get(f"quick/Marshal.4.8/{built.filename.removesuffix('.gem')}.gemspec.rz")
            assert quick.status == 200
        rows = loads(gzip.decompress((await mirror.get("specs.4.8.gz")).body))
        assert sorted(str(platform) for _, _, platform in rows) == ["ruby", "x86_64-linux"]


async def test_policy_judges_them_by_their_real_platform_and_explains_it(upstream: Simulator, tmp_path: Path) -> None:
    darwin = addressed_gem("native", "1.0", "3.4", platform="arm64-darwin")
    upstream.push(darwin)
    policy = [{"name": "macs", "kind": "files", "reason": "Macs.", "platforms": ["*darwin*"], "action": "hide"}]
    async with serving(tmp_path / "data", repositories(upstream), policy=policy) as mirror:
        lines = (await mirror.get("info/native")).text.splitlines()
        assert [line.split()[0] for line in lines[1:]] == ["1.0", f"1.0-{darwin.sha256[:8]}"]
        explained = (await mirror.get("-/explain/rubygems/native/1.0")).text
        assert NEW.filename in explained
        page = (await mirror.get("-/projects/rubygems/native/")).text
        assert darwin.filename in page
        assert "~&gt; 3.4.0" in page
        assert "arm64-darwin" in page


async def test_a_lock_is_fetched_checked_and_carried_away(here: Commands, tmp_path: Path) -> None:
    lock = tmp_path / "Gemfile.lock"
    lock.write_text(LOCK)
    linux = ("--platform", "linux-x86_64")
    assert "no" in await here("check", lock, *linux, status=1)
    await here("sync", lock, *linux)
    await here("check", lock, *linux)
    held = [PLATFORM, NEW]
    async with here.offline() as mirror:
        for built in held:
            assert (await mirror.get(f"gems/{built.filename}")).body == built.content
        assert (await mirror.get(f"gems/{OLD.filename}")).status == 503, "it is for another Ruby"

    await here("export", "--all", "--unsigned", "-o", tmp_path / "bundle")
    there = Commands.__new__(Commands)
    there.__dict__.update(here.__dict__, data_dir=tmp_path / "there")
    there.settings = write_settings(there.data_dir, here.repositories)
    await there("import", tmp_path / "bundle", "--unsigned")
    await there("check", lock, *linux)
    async with there.offline() as mirror:
        for built in held:
            assert (await mirror.get(f"gems/{built.filename}")).body == built.content

    await here("export", "--static", tmp_path / "tree")
    tree = tmp_path / "tree"
    for built in held:
        assert (tree / "gems" / built.filename).read_bytes() == built.content
        assert (tree / "quick/Marshal.4.8" / f"{built.filename.removesuffix('.gem')}.gemspec.rz").exists()
    info = (tree / "info/native").read_bytes()
    assert f"1.0-{NEW.sha256[:8]} " in info.decode()
    assert f"1.0-{NEW.sha256[:8]}" in (tree / "versions").read_text()
    assert NEW.sha256[:8].encode() not in gzip.decompress((tree / "specs.4.8.gz").read_bytes())


async def test_they_are_added_and_yanked_by_their_address(here: Commands, tmp_path: Path) -> None:
    for built in (OLD, NEW):
        path = tmp_path / built.filename
        path.write_bytes(built.content)
        assert f"added: {built.filename}" in await here("add", path)
    assert f"yank: {OLD.filename}" in await here("yank", "native", f"1.0-{OLD.sha256[:8]}")
    async with here.offline() as mirror:
        lines = (await mirror.get("info/native")).text.splitlines()
        assert [line.split()[0] for line in lines[1:]] == [f"1.0-{NEW.sha256[:8]}"]
    said = await here("yank", "native", "1.0-x86_64-linux")
    assert NEW.filename in said
