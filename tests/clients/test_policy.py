"""Real clients and policy: a cooldown that ends while they look, and an index as of a date."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mirror.server import connection
from mirror.server.facts import ResponseRecord
from mirror.server.group import ConnectionGroup
from tests.builders import gem, sdist, wheel
from tests.clients import require_client
from tests.clients.ruby import Home, Ruby, rubies
from tests.serving import Client, repositories, serving
from tests.simulator import Simulator

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

START = datetime(2026, 8, 3, 10, tzinfo=UTC)
COOLDOWN = {"name": "rest", "kind": "cooldown", "reason": "New releases rest for three days.", "age": "3 days"}


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = START.timestamp()

    def __call__(self) -> float:
        return self.now


async def run(*words: str, home: Path) -> tuple[int, str]:
    """Exit status and everything printed."""
    process = await asyncio.create_subprocess_exec(
        *words,
        env={"HOME": str(home), "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed = (await process.communicate())[0].decode()
    return process.returncode or 0, printed


class Python:
    """pip and uv, each time with an empty home."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._count = 0

    def _target(self) -> Path:
        self._count += 1
        return self._place / str(self._count)

    async def pip(self, index: str, *what: str) -> tuple[int, str, set[str]]:
        """Status, output, and the distributions that are installed."""
        target = self._target()
        status, printed = await run(
            *(require_client("pip"), "--isolated", "install", "--no-cache-dir", "--disable-pip-version-check"),
            *("--no-deps", "--retries", "0", "--index-url", f"{index}simple/", "--target", str(target), *what),
            home=self._place,
        )
        return status, printed, installed(target)

    async def uv(self, index: str, *what: str) -> tuple[int, str, set[str]]:
        """The same."""
        target = self._target()
        status, printed = await run(
            *(require_client("uv"), "pip", "install", "--no-config", "--no-cache", "--python", sys.executable),
            *("--index-url", f"{index}simple/", "--target", str(target), *what),
            home=self._place,
        )
        return status, printed, installed(target)


def installed(target: Path) -> set[str]:
    return {path.name.removesuffix(".dist-info") for path in target.glob("*.dist-info")}


def publish(simulator: Simulator) -> None:
    for version, days in (("1.0", 10), ("2.0", 2)):
        at = START - timedelta(days=days)
        simulator.publish(wheel("acme", version), uploaded=at)
        simulator.publish(sdist("acme", version), uploaded=at)
        simulator.push(gem("acme", version), created=at)
    for number in range(40):
        simulator.push(gem(f"other-{number}", "1.0"), created=START - timedelta(days=100))


@pytest.mark.parametrize("client", ["pip", "uv"])
async def test_python_clients_see_a_version_from_the_second_on_that_its_cooldown_is_over(
    simulator: Simulator, tmp_path: Path, client: str
) -> None:
    publish(simulator)
    clock, python = Clock(), Python(tmp_path / "home")
    (tmp_path / "home").mkdir()
    install = python.pip if client == "pip" else python.uv
    async with serving(tmp_path / "data", repositories(simulator), clock=clock, policy=[COOLDOWN]) as mirror:
        assert (await install(mirror.url, "acme"))[2] == {"acme-1.0"}
        status, printed, _ = await install(mirror.url, "acme==2.0")
        assert status != 0, printed
        url = f"{mirror.url}packages/acme/acme-2.0-py3-none-any.whl"
        status, printed, _ = await install(mirror.url, url)
        assert status != 0
        assert "403" in printed
        refused = await mirror.get("packages/acme/acme-2.0-py3-none-any.whl")
        assert (refused.status, COOLDOWN["reason"] in refused.text) == (403, True)
        assert simulator.count("GET", "*acme-2.0*") == 0
        clock.now += 86400 - 1
        assert (await install(mirror.url, "acme"))[2] == {"acme-1.0"}
        clock.now += 2
        assert (await install(mirror.url, "acme"))[2] == {"acme-2.0"}


@pytest.mark.parametrize("ruby", rubies(), ids=str)
async def test_ruby_clients_see_a_version_from_the_second_on_that_its_cooldown_is_over(
    simulator: Simulator, tmp_path: Path, ruby: Ruby, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(simulator)
    clock, answers = Clock(), recorded(monkeypatch)
    async with serving(tmp_path / "data", repositories(simulator), clock=clock, policy=[COOLDOWN]) as mirror:
        with ruby.home(mirror.url) as bundler:
            await bundler.bundle("lock", gemfile='gem "acme"\n')
            assert "acme (1.0)" in bundler.locked()
            assert await gem_installs(ruby, mirror) == "acme 1.0"
            assert (await mirror.get("gems/acme-2.0.gem")).status == 403
            clock.now += 86400 - 1
            await bundler.bundle("update", "acme")
            assert "acme (1.0)" in bundler.locked()
            clock.now += 2
            answers.clear()
            await bundler.bundle("update", "acme")
            assert "acme (2.0)" in bundler.locked()
            updates = [(status, sent) for path, status, sent in answers if path == "/versions"]
            assert [status for status, _ in updates] == [206]
            assert updates[0][1] < 200
            await bundler.bundle("install")
            assert await gem_installs(ruby, mirror) == "acme 2.0"


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """(path, status, bytes) of every answer."""
    answers: list[tuple[str, int, int]] = []
    record = connection.record_response

    def remembering(group: ConnectionGroup, response: ResponseRecord) -> None:
        answers.append((response.facts.path, response.status, response.sent))
        record(group, response)

    monkeypatch.setattr(connection, "record_response", remembering)
    return answers


async def gem_installs(ruby: Ruby, mirror: Client, root: str = "") -> str:
    """What `gem install acme` installs in a new home."""
    with ruby.home(mirror.url + root) as home:
        await home.run("gem", "install", "acme")
        return await names(home)


async def names(home: Home) -> str:
    listed = await home.run("gem", "list", "--local", "^acme$")
    return " ".join(listed.replace("(", "").replace(")", "").split())


@pytest.mark.parametrize(("date", "version"), [("2026-07-31", "1.0"), ("2026-08-01", "2.0")])
async def test_every_client_installs_what_was_newest_on_a_date(
    simulator: Simulator, tmp_path: Path, date: str, version: str
) -> None:
    publish(simulator)
    simulator.publish(wheel("acme", "3.0"), uploaded=START)
    simulator.push(gem("acme", "3.0"), created=START)
    python = Python(tmp_path / "home")
    (tmp_path / "home").mkdir()
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        then = f"{mirror.url}at/{date}/"
        for install in (python.pip, python.uv):
            _, printed, found = await install(then, "acme")
            assert found == {f"acme-{version}"}, printed
            assert (await install(mirror.url, "acme"))[2] == {"acme-3.0"}
        for ruby in rubies():
            assert await gem_installs(ruby, mirror, f"at/{date}/") == f"acme {version}"
            with ruby.home(then) as home:
                await home.bundle("lock", gemfile='gem "acme"\n')
                assert f"acme ({version})" in home.locked()
                await home.bundle("install")
