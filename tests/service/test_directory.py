"""The data directory belongs to one user: its modes, its lock, and how a running mirror proves that it has it."""

import asyncio
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mirror.cli.ask import proves
from mirror.service import directory
from mirror.service.directory import RunningMirror
from tests.builders import wheel
from tests.serving import repositories, spawned, write_settings
from tests.simulator import Simulator


def modes(data_dir: Path) -> dict[str, int]:
    """The modes of the directory and of everything in it that give others any right."""
    found = {str(path.relative_to(data_dir)): path.lstat().st_mode for path in (data_dir, *data_dir.rglob("*"))}
    return {path: stat.S_IMODE(mode) for path, mode in found.items() if mode & 0o077}


async def test_all_that_a_mirror_makes_is_its_own(simulator: Simulator, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        simulator.publish(built := wheel("six", "1.16"))
        async with spawned(tmp_path / "data", repositories(simulator)) as mirror:
            assert (await mirror.get(f"/packages/six/{built.filename}")).status == 200
            assert modes(tmp_path / "data") == {}
        assert modes(tmp_path / "data") == {}
    finally:
        os.umask(before)


@pytest.mark.parametrize("command", [["user", "add", "alice"], ["token", "create", "--name", "t"], ["restore"]])
def test_so_is_what_commands_make(command: list[str], simulator: Simulator, tmp_path: Path) -> None:
    config = write_settings(tmp_path / "data", None)
    words = [*command, str(tmp_path / "backup")] if command == ["restore"] else command
    if command == ["restore"]:
        for step in (["user", "add", "bob"], ["backup", str(tmp_path / "backup")]):
            _run([*step, "--config", str(config)])
        (tmp_path / "data").rename(tmp_path / "old")
        assert modes(tmp_path / "backup") == {}
    _run([*words, "--config", str(config)])
    assert modes(tmp_path / "data") == {}


def _run(words: list[str]) -> None:
    subprocess.run(
        [sys.executable, "-m", "mirror", *words], check=True, input="correct horse battery\n", text=True,
        capture_output=True, umask=0o022, cwd=Path(__file__).parents[2],
    )  # fmt: skip


def test_a_directory_that_exists_keeps_its_mode_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "lock").touch(mode=0o644)
    os.close(directory.lock(tmp_path))
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600
    assert "chmod -R go=" in caplog.text
    assert directory.open_to_others(tmp_path)


def test_the_lock_names_the_process_that_has_it_and_nothing_that_another_left(tmp_path: Path) -> None:
    assert directory.served_by(tmp_path) is None
    directory.publish(tmp_path, ["http://127.0.0.1:1"], b"old")
    assert directory.served_by(tmp_path) is None
    held = directory.lock(tmp_path)
    assert directory.served_by(tmp_path) == RunningMirror()
    directory.publish(tmp_path, ["http://127.0.0.1:2"], b"secret")
    assert directory.served_by(tmp_path) == RunningMirror(("http://127.0.0.1:2",), b"secret")
    (tmp_path / "running").chmod(0o666)
    assert directory.served_by(tmp_path) == RunningMirror(), "others may have written it"
    os.close(held)


async def test_a_mirror_proves_that_it_has_its_data_directory(simulator: Simulator, tmp_path: Path) -> None:
    async with (
        spawned(tmp_path / "data", repositories(simulator)) as mirror,
        spawned(tmp_path / "other", repositories(simulator)) as other,
    ):
        running = directory.served_by(tmp_path / "data")
        assert running is not None
        assert proves(running.urls[0], running.secret)
        assert not proves(other.url, running.secret)
        assert not proves(simulator.url, running.secret)
        assert not proves(mirror.url, b"")
        assert (await mirror.get("/-/proof/short")).status == 404


async def test_no_command_gives_a_token_to_who_cannot_prove_it(simulator: Simulator, tmp_path: Path) -> None:
    rules = {"rules": [{"read": ["@developers"]}]}
    async with spawned(tmp_path / "data", repositories(simulator), auth=rules):
        running = directory.served_by(tmp_path / "data")
        assert running is not None
        directory.publish(tmp_path / "data", [simulator.url], running.secret)
        config = (tmp_path / "data").with_suffix(".toml")
        done = await _sync(config)
        assert done.returncode == 2
        assert "does not prove" in done.stderr
        assert not [one for one in simulator.requests if "Authorization" in one.headers]


async def _sync(config: Path) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-m", "mirror", "sync", "six==1.16", "--no-deps", "--config", str(config)]
    return await asyncio.to_thread(
        subprocess.run, words, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60
    )
