"""500 inputs of each fuzzer, and every input that once found a fault."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.fuzz.fuzzer import Check, Fuzzer, run
from tests.fuzz.registry import FUZZERS


@pytest.mark.parametrize("name", FUZZERS)
@pytest.mark.timeout(300)
async def test_no_input_does_what_none_may_do(name: str) -> None:
    result = await run(FUZZERS[name], 500, seed=0, most=1)
    assert not result.failures, f"{result.failures[0].data[:2000]!r}\n{result.failures[0].text}"
    assert result.share > 0.1, "too few inputs were understood, so that little behind the parser was tested"


async def test_an_input_is_slow_by_what_it_costs_itself_and_not_by_what_others_cost_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.fuzz.fuzzer.SLOW_SECONDS", 0.2)
    worked = asyncio.Event()

    async def check(data: bytes) -> bool:
        if data == b"slow":
            began = time.process_time()
            await asyncio.sleep(0)  # the other one begins
            while time.process_time() - began < 0.3:
                pass
            worked.set()
        await worked.wait()
        return True

    @asynccontextmanager
    async def opened() -> AsyncIterator[Check]:
        yield check

    fuzzer = Fuzzer("none", lambda: [b"slow", b"waits"], opened, at_once=2)
    monkeypatch.setattr("tests.fuzz.fuzzer.inputs", lambda *_: iter(fuzzer.seeds()))
    result = await run(fuzzer, 2, seed=0)
    assert [failure.data for failure in result.failures] == [b"slow"]
    assert (result.checked, result.understood) == (2, 1)


async def test_inputs_that_are_checked_at_once_are_all_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(data: bytes) -> bool:
        await asyncio.sleep(0)
        return data == b"understood"

    @asynccontextmanager
    async def opened() -> AsyncIterator[Check]:
        yield check

    monkeypatch.setattr("tests.fuzz.fuzzer.inputs", lambda *_: iter([b"understood", b"not understood"] * 20))
    result = await run(Fuzzer("none", list, opened, at_once=8), 40, seed=0)
    assert (result.checked, result.understood) == (40, 20)
