"""Promise 13: every command works over a database and objects, beside a node and without any."""

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from mirror.cli import COMMANDS, main
from tests.builders import gem, sdist, wheel
from tests.nodes.cluster import cluster, only_pypi
from tests.nodes.commands import run_command
from tests.objects import table
from tests.serving import repositories, serving, write_settings
from tests.simulator import Simulator
from tests.uploading import make_token, upload

PYPI = ("--repository", "pypi")
FREE_OF_STORES = {"serve", "check-config", "lock", "key"}
"""What has nothing to do with catalog and files, or is run by all other tests."""


class Commands:
    """Runs commands in this process, and remembers which."""

    def __init__(
        self,
        config: Path,
        served: bool,
        other: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self._config = config
        self.served = served
        """Whether a node serves meanwhile."""
        self.other = other
        """The URL of another mirror."""
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self.names: set[str] = set()

    async def __call__(self, *words: str | Path, status: int | None = 0, given: str = "") -> str:
        """The output of a command, whose exit status is as expected (None: any); `given` is its standard input."""
        name, *rest = map(str, words)
        self.names.add(name)
        self._capsys.readouterr()
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        found = await asyncio.to_thread(main, [name, *rest, "--config", str(self._config)])
        said = self._capsys.readouterr()
        assert status in (found, None), f"{words}: {said.out}{said.err}"
        return said.out


@pytest.fixture(params=["beside a node", "without a node"])
async def run(
    request: pytest.FixtureRequest, tmp_path: Path, simulator: Simulator, postgres_url: str,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Commands]:  # fmt: skip
    """Commands over a mirror in PostgreSQL and S3, which has an upstream and another mirror to follow."""
    for built in (wheel("six", "1.0", size=50_000), sdist("six", "1.0")):
        simulator.publish(built)
    simulator.rubygems.push(gem("rack", "3.0"))
    there: dict[str, Any] = {"catalog": {"url": postgres_url}, "blobs": table("s3"), "store": {"min_age": "0s"}}
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(serving(tmp_path / "other", repositories(simulator)))
        assert (await upload(other, await make_token(other), wheel("theirs", "1.0"))).status == 200
        followed = {"format": "pypi", "mount": "/followed", "upstreams": [f"{other.url}simple/"]}
        both = repositories(simulator, followed=followed)
        config = write_settings(tmp_path / "node", both, **there)
        served = request.param == "beside a node"
        if served:
            node = await stack.enter_async_context(serving(tmp_path / "node", both, **there))
            address = node.url.removeprefix("http://").rstrip("/")
            config.write_text(config.read_text().replace("127.0.0.1:0", address))
        yield Commands(config, served, other.url, capsys, monkeypatch)


async def test_promise_13_every_command_works_over_a_database_and_objects(run: Commands, tmp_path: Path) -> None:
    ours = [wheel("ours", f"1.{number}", size=10_000) for number in range(3)]
    for one in ours:
        (tmp_path / one.filename).write_bytes(one.content)
    assert "added" in await run("add", *(tmp_path / one.filename for one in ours), *PYPI)
    await accounts(run)
    await fetching(run)
    await own_files(run)
    await between_mirrors(run, tmp_path)
    await maintenance(run, tmp_path)
    assert set(COMMANDS) - FREE_OF_STORES - run.names == {"move"}  # which has tests of its own


async def accounts(run: Commands) -> None:
    await run("token", "create", "--name", "ci", "--right", "upload")
    assert "ci" in await run("token", "list")
    await run("token", "revoke", "ci")
    await run("user", "add", "ann", given="correct horse battery\n")
    assert "ann" in await run("user", "list")


async def fetching(run: Commands) -> None:
    await run("sync", "pypi:six", "gem:rack", "--no-deps")
    await run("check", "pypi:six", "--no-deps")
    assert json.loads(await run("status", "--json"))["files"] >= 2
    assert "six" in await run("explain", "six", "1.0", *PYPI)
    await run("report", "removed")


async def own_files(run: Commands) -> None:
    await run("yank", "ours", "1.0", "--reason", "broken", *PYPI)
    await run("unyank", "ours", "1.0", *PYPI)
    await run("delete", "ours", "1.2", "--yes", *PYPI)
    await run("release", "ours", *PYPI, status=1)
    await run("rebuild")


async def between_mirrors(run: Commands, tmp_path: Path) -> None:
    await run("inventory", "-o", tmp_path / "inventory")
    await run("export", "--all", "-o", tmp_path / "bundle", "--unsigned")
    await run("export", "--static", tmp_path / "static")
    assert list((tmp_path / "static").rglob("*.whl"))
    await asyncio.to_thread(
        main, ["export", "--all", "-o", str(tmp_path / "others"), "--unsigned", "--data-dir", str(tmp_path / "other")]
    )
    await run("import", tmp_path / "others", "--unsigned")
    await run("follow", run.other, "--once", "--repository", "pypi", "--into", "followed")
    assert "theirs" in await run("explain", "theirs", "1.0", "--repository", "followed")
    await run("promote", f"{run.other}simple/", "--project", "theirs", "--into", "followed")


async def maintenance(run: Commands, tmp_path: Path) -> None:
    assert "0 bad" in await run("verify")
    await run("sweep", "--dry-run", "--limit", "1KB", status=1)
    await run("backup", tmp_path / "backup")
    said = await run("doctor", status=None)
    assert "ok  mirror/catalog: " in said
    assert "ok  mirror/object-store: " in said
    assert [line.split()[1] for line in said.splitlines() if " fails " in line] == (
        [] if run.served else ["mirror/running:"]
    )
    await run("sweep", "--limit", "1KB", status=1)
    assert len(list((tmp_path / "backup" / "uploads").rglob("*.json"))) >= 3  # a deleted one has a record, too
    await run("restore", tmp_path / "backup", "--data-dir", tmp_path / "restored")
    assert len(list((tmp_path / "restored" / "blobs").glob("??/*"))) >= 4  # of uploads, with their sidecars


async def test_promise_13_commands_work_beside_several_nodes_and_each_shows_what_they_did(
    simulator: Simulator, postgres_url: str, tmp_path: Path
) -> None:
    six, ours = wheel("six", "1.0", size=50_000), wheel("ours", "1.0")
    simulator.publish(six)
    (tmp_path / ours.filename).write_bytes(ours.content)
    async with cluster(tmp_path, only_pypi(simulator), 2, catalog=postgres_url, blobs=table("s3")) as nodes:
        first, second = (node.data_dir for node in nodes)
        synced, added = await asyncio.gather(
            run_command(first, "sync", "pypi:six", "--no-deps"),
            run_command(second, "add", str(tmp_path / ours.filename), *PYPI),
        )
        assert "added" in added, synced
        simulator.forget()
        for node in nodes:
            assert ours.filename in (await node.process.get("/simple/ours/")).text
            assert (await node.process.get(f"/packages/six/{six.filename}")).body == six.content
        assert simulator.count("GET", f"*/{six.filename}") == 0
        said = await asyncio.gather(
            run_command(second, "status", "--json"),
            run_command(first, "verify"),
            run_command(second, "export", "--all", "-o", str(tmp_path / "bundle"), "--unsigned"),
        )
        assert json.loads(said[0])["files"] >= 1
        assert "0 bad" in said[1]
        await run_command(second, "yank", "ours", "1.0", *PYPI)
        for node in nodes:
            assert "data-yanked" in (await node.process.get("/simple/ours/")).text
