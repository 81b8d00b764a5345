"""SingleFlight: one run per key, owned by nobody who asks."""

import asyncio

import pytest

from mirror.index.flight import SingleFlight


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
