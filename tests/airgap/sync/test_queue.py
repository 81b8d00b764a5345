"""Coroutines that run together."""

import asyncio

import pytest

from mirror.airgap.sync.queue import together


async def test_coroutines_run_at_the_same_time() -> None:
    done: list[str] = []
    ready = asyncio.Event()

    async def first() -> None:
        await ready.wait()
        done.append("first")

    async def second() -> None:
        done.append("second")
        ready.set()

    await together(first(), second())
    assert done == ["second", "first"]


async def test_an_error_of_one_stops_the_others_and_is_raised_itself() -> None:
    stopped = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async def fail() -> None:
        await asyncio.sleep(0)
        raise KeyError("it")

    with pytest.raises(KeyError, match="it"):
        await together(wait(), together(wait(), fail()))
    assert stopped.is_set()


async def test_cancelling_the_caller_cancels_it() -> None:
    task = asyncio.create_task(together(asyncio.sleep(60), asyncio.sleep(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
