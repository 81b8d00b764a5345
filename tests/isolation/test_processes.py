"""Isolated processes: what they return, what they may not do, and that nothing hostile takes the mirror with it."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.errors import Invalid, UpstreamProtocolError
from mirror.isolation.processes import IsolatedProcesses, IsolationError

FUNCTIONS = "tests.isolation.functions"


@pytest.fixture
async def processes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[IsolatedProcesses]:
    monkeypatch.setattr("mirror.isolation.processes._ROOT", str(Path(__file__).parents[2]))
    running = IsolatedProcesses(call_seconds=5.0)
    yield running
    await running.close()


async def test_a_function_runs_elsewhere_and_its_result_comes_back(processes: IsolatedProcesses) -> None:
    large = os.urandom(3 << 20)
    assert await processes.run(f"{FUNCTIONS}:reverse", large) == large[::-1]
    assert int(await processes.run(f"{FUNCTIONS}:number", b"")) != os.getpid()


async def test_a_process_serves_many_calls(processes: IsolatedProcesses) -> None:
    assert await processes.run(f"{FUNCTIONS}:number", b"") == await processes.run(f"{FUNCTIONS}:number", b"")


async def test_processes_that_were_started_beforehand_serve_the_first_calls(
    processes: IsolatedProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    await processes.start()
    monkeypatch.setattr("mirror.isolation.processes.sys.executable", "/nowhere")
    calls = (processes.run(f"{FUNCTIONS}:number", b"") for _ in range(2))
    assert len({*await asyncio.gather(*calls)}) == 2


async def test_errors_of_the_mirror_come_back_as_they_are(processes: IsolatedProcesses) -> None:
    with pytest.raises(Invalid, match=r"^This is not right\.$"):
        await processes.run(f"{FUNCTIONS}:refuse", b"", "invalid")
    with pytest.raises(UpstreamProtocolError, match=r"^This is not right\.$"):
        await processes.run(f"{FUNCTIONS}:refuse", b"", "upstream")


@pytest.mark.parametrize(
    ("function", "arguments", "sentence"),
    [
        ("grow", [str(2 << 30)], "too much memory"),
        ("crash", [], "too much memory"),
        ("nest", [], "RecursionError"),
        ("missing", [], "AttributeError"),
    ],
)
async def test_what_goes_wrong_is_an_error_and_the_next_call_is_served(
    processes: IsolatedProcesses, function: str, arguments: list[str], sentence: str
) -> None:
    with pytest.raises(IsolationError, match=sentence):
        await processes.run(f"{FUNCTIONS}:{function}", b"", *arguments)
    assert await processes.run(f"{FUNCTIONS}:reverse", b"ab") == b"ba"


async def test_what_takes_too_long_is_stopped_while_others_are_served(processes: IsolatedProcesses) -> None:
    processes._call_seconds = 1.0
    began = time.monotonic()
    spinning = asyncio.create_task(processes.run(f"{FUNCTIONS}:spin", b""))
    processes._call_seconds = 5.0
    assert await processes.run(f"{FUNCTIONS}:reverse", b"ab") == b"ba"
    with pytest.raises(IsolationError, match="longer than"):
        await spinning
    assert time.monotonic() - began < 15


async def test_a_call_about_a_large_file_may_take_longer(processes: IsolatedProcesses) -> None:
    processes._call_seconds = 0.001
    assert await processes.run(f"{FUNCTIONS}:reverse", b"ab", more_seconds=60) == b"ba"
    with pytest.raises(IsolationError, match="longer than 1 s"):
        await processes.run(f"{FUNCTIONS}:spin", b"", more_seconds=1)


async def test_it_may_not_write_open_much_or_read_the_environment(
    processes: IsolatedProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    target = tmp_path / "escaped"
    assert await processes.run(f"{FUNCTIONS}:escape", b"", str(target)) == b""
    assert not target.exists() or target.read_bytes() == b""


async def test_closing_leaves_no_process_behind(processes: IsolatedProcesses) -> None:
    running = int(await processes.run(f"{FUNCTIONS}:number", b""))
    await processes.close()
    assert not Path(f"/proc/{running}").exists()


async def test_a_process_that_was_killed_meanwhile_is_replaced(processes: IsolatedProcesses) -> None:
    running = int(await processes.run(f"{FUNCTIONS}:number", b""))
    os.kill(running, signal.SIGKILL)
    await processes._idle[0].wait()
    assert int(await processes.run(f"{FUNCTIONS}:number", b"")) != running
