"""SingleFlight: one run per key, owned by nobody who asks. And what is done together."""

import asyncio

import pytest

from mirror.index.flight import SingleFlight, together


async def test_callers_of_one_key_share_one_run() -> None:
    flight: SingleFlight[str, int] = SingleFlight()
    runs = 0

    async def work() -> int:
        nonlocal runs
        runs += 1
        await asyncio.sleep(0)
        return runs

    results = await asyncio.gather(*(flight.run("a", work) for _ in range(10)))
    assert [value for value, _ in results] == [1] * 10
    assert sorted(joined for _, joined in results) == [False] + [True] * 9
    assert (await flight.run("a", work)) == (2, False)


async def test_all_callers_get_the_error_and_the_next_one_tries_again() -> None:
    flight: SingleFlight[str, int] = SingleFlight()

    async def fail() -> int:
        await asyncio.sleep(0)
        raise KeyError("x")

    results = await asyncio.gather(*(flight.run("a", fail) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [KeyError] * 3
    assert len(flight) == 0


async def test_a_caller_that_leaves_changes_nothing() -> None:
    flight: SingleFlight[str, str] = SingleFlight()
    release = asyncio.Event()

    async def work() -> str:
        await release.wait()
        return "done"

    leaver = asyncio.create_task(flight.run("a", work))
    stayer = asyncio.create_task(flight.run("a", work))
    await asyncio.sleep(0)
    leaver.cancel()
    await asyncio.sleep(0)
    release.set()
    assert await stayer == ("done", True)
    with pytest.raises(asyncio.CancelledError):
        await leaver


async def test_an_error_that_nobody_waits_for_is_no_warning() -> None:
    flight: SingleFlight[str, None] = SingleFlight()

    async def fail() -> None:
        raise ValueError

    await asyncio.wait([flight.start("a", fail)])
    assert "a" not in flight


async def test_closing_stops_what_runs() -> None:
    flight: SingleFlight[str, None] = SingleFlight()
    task = flight.start("a", asyncio.Event().wait)  # type: ignore[arg-type]
    await flight.close()
    assert task.cancelled()


async def test_what_is_done_together_ends_together() -> None:
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


async def test_an_error_of_one_part_stops_the_others_and_comes_as_it_is() -> None:
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


async def test_who_is_cancelled_while_things_are_done_together_is_cancelled() -> None:
    task = asyncio.create_task(together(asyncio.sleep(60), asyncio.sleep(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
