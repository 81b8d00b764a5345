"""gem over the legacy index: what travels again when nothing has changed, and when something has."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from yarl import URL

from tests.builders import gem
from tests.clients.ruby import Ruby, rubies
from tests.serving import serving
from tests.simulator import Simulator
from tests.tcp import tcp_server
from tests.uploading import change_gem, make_token, push

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]


@dataclass
class Relay:
    """A listener that passes everything on, and counts what comes back."""

    url: str
    received: int = 0

    def take(self) -> int:
        """Return the bytes since the last call."""
        received, self.received = self.received, 0
        return received


@asynccontextmanager
async def relaying(target: URL) -> AsyncIterator[Relay]:
    async def passing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: bool) -> None:
        while chunk := await reader.read(1 << 16):
            relay.received += len(chunk) * back
            writer.write(chunk)
            await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs, ours = await asyncio.open_connection(target.host, target.port)
        await asyncio.gather(passing(reader, ours, False), passing(theirs, writer, True), return_exceptions=True)

    async with tcp_server(connected) as port:
        relay = Relay(f"http://127.0.0.1:{port}/")
        yield relay


class Clock:
    """A minute behind, so that the clients' copies are made after the last change, and not in its second."""

    behind = 60.0

    def __call__(self) -> float:
        return time.time() - self.behind


@pytest.mark.parametrize("ruby", rubies(), ids=str)
async def test_a_list_that_has_not_changed_is_not_transferred_again(
    simulator: Simulator, tmp_path: Path, ruby: Ruby, report: Callable[[str], None]
) -> None:
    random, clock = Random(1), Clock()
    for number in range(300):
        simulator.push(gem(f"{random.randbytes(12).hex()}-{number}", "1.0"))
    only = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", only, clock=clock) as mirror, relaying(URL(mirror.url)) as relay:
        with ruby.home(relay.url) as home:
            first, transferred = await home.run("gem", "list", "-r"), relay.take()
            again, repeated = await home.run("gem", "list", "-r"), relay.take()
            assert first == again
            assert first.count("(1.0)") == 300
            assert (transferred > 5000, repeated < 1024) == (True, True), (transferred, repeated)
            report(f"{await home.versions()}: gem list -r {transferred} bytes, then {repeated}")
            simulator.push(gem("new", "1.0"))
            clock.behind = 0.0
            for one in mirror.mirror.upstream_indexes.values():
                one.asked_at = 0
            await mirror.get("versions", Cache_Control="no-cache")
            assert "new (1.0)" in await home.run("gem", "list", "-r")


@pytest.mark.parametrize("ruby", rubies(), ids=str)
async def test_a_locked_version_that_upstream_yanks_is_installed_and_one_of_our_own_is_not(
    simulator: Simulator, tmp_path: Path, ruby: Ruby
) -> None:
    for version in ("1.0", "1.1"):
        simulator.push(gem("theirs", version))
    only = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", only) as mirror:
        key = await make_token(mirror)
        for version in ("1.0", "1.1"):
            await push(mirror, key, gem("own", version).content)
        with ruby.home(mirror.url) as home:
            await home.bundle("install", gemfile='gem "theirs"\n')
            lock = (home.place / "Gemfile.lock").read_text()
        assert "theirs (1.1)" in lock
        simulator.yank_gem("theirs", "1.1")
        await change_gem(mirror, key, "yank", "own", "1.1")
        for one in mirror.mirror.upstream_indexes.values():
            one.asked_at = 0
        await mirror.get("versions", Cache_Control="no-cache")
        with ruby.home(mirror.url) as home:
            (home.place / "Gemfile.lock").write_text(lock)
            await home.run("bundle", "config", "set", "--global", "frozen", "true")
            await home.bundle("install", gemfile='gem "theirs"\n')
            assert "theirs (1.1)" in await home.run("gem", "list")
            await home.run("gem", "install", "own")
            assert "own (1.0)" in await home.run("gem", "list")
            with pytest.raises(AssertionError, match="Could not find"):
                await home.run("gem", "install", "own", "-v", "1.1")
