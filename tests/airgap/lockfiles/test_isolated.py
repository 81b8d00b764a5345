"""Lock files are read in a process of their own: the same result and errors, and no variables but those asked for."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.airgap.lockfiles import read
from mirror.airgap.lockfiles.isolated import read_isolated
from mirror.errors import Invalid, InvalidLock
from mirror.isolation.processes import IsolatedProcesses

DATA = Path(__file__).parent / "data"
NAMES = {"uv-forks.txt": "uv.lock", "poetry-2.1.txt": "poetry.lock", "gemfile-2.3.txt": "Gemfile.lock"}


@pytest.fixture
async def processes() -> AsyncIterator[IsolatedProcesses]:
    running = IsolatedProcesses(most=1, call_seconds=5.0)
    yield running
    await running.close()


@pytest.mark.parametrize(("data", "name"), NAMES.items(), ids=NAMES)
async def test_the_result_is_that_of_reading_here(
    data: str, name: str, tmp_path: Path, processes: IsolatedProcesses
) -> None:
    path = tmp_path / name
    path.write_text((DATA / data).read_text())
    assert await read_isolated(path, processes) == read(path)


async def test_variables_are_those_of_the_mirror_also_in_files_that_are_included(
    tmp_path: Path, processes: IsolatedProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIX", "1.16")
    monkeypatch.delenv("NOT_SET", raising=False)
    (tmp_path / "base.txt").write_text("six==${SIX}\n")
    path = tmp_path / "requirements.txt"
    path.write_text("-r base.txt\n--index-url https://${NOT_SET}.example/\n")
    requirements = await read_isolated(path, processes)
    assert [pin.requirement for pin in requirements.pins] == ["six==1.16"]
    assert requirements == read(path, os.environ)


async def test_an_error_names_the_file_and_the_line(tmp_path: Path, processes: IsolatedProcesses) -> None:
    path = tmp_path / "uv.lock"
    path.write_text("version = 1\n= 2\n")
    with pytest.raises(Invalid, match=r"uv\.lock, line 2: it is not TOML"):
        await read_isolated(path, processes)


async def test_a_file_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("a==1\n" * 100_000)
    processes = IsolatedProcesses(most=1, call_seconds=0.05)
    try:
        with pytest.raises(InvalidLock, match="takes longer"):
            await read_isolated(path, processes)
    finally:
        await processes.close()
