"""Caches over one budget, single flight, loading once, and validity."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.index.cache import (
    ENTRY_BYTES,
    FILE_BYTES,
    BoundedCache,
    LoadingCache,
    MemoryBudget,
    SingleFlight,
    Validity,
)
from mirror.model import File


def test_what_was_not_used_goes_first_over_all_caches() -> None:
    budget = MemoryBudget(3 * ENTRY_BYTES)
    pages: BoundedCache[str, int] = BoundedCache(budget)
    files: BoundedCache[str, int] = BoundedCache(budget)
    pages.put("a", 1)
    files.put("a", 2)
    files.put("b", 3)
    assert pages.value("a") == 1
    files.put("c", 4)
    assert [pages.peek("a"), files.peek("a"), files.peek("b"), files.peek("c")] == [1, None, 3, 4]


def test_a_new_entry_is_kept_although_all_others_are_used() -> None:
    cache: BoundedCache[str, int] = BoundedCache(MemoryBudget(2 * ENTRY_BYTES))
    for number, key in enumerate("ab"):
        cache.put(key, number)
        cache[key].used = True
    cache.put("c", 2)
    assert list(cache) == ["b", "c"]
    cache.put("d", 3)
    assert list(cache) == ["c", "d"], "a mark counts once"


def test_a_peek_is_no_use() -> None:
    cache: BoundedCache[str, int] = BoundedCache(MemoryBudget(2 * ENTRY_BYTES))
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.peek("a") == 1
    cache.put("c", 3)
    assert list(cache) == ["b", "c"]


def test_what_is_heavier_than_the_budget_is_not_kept_and_reported_as_evicted() -> None:
    evicted: list[int] = []
    budget = MemoryBudget(1000)
    cache: BoundedCache[str, int] = BoundedCache(budget, lambda key, value: evicted.append(value))
    cache.put("a", 1, weight=400)
    cache.put("b", 2, weight=1001)
    assert (list(cache), evicted) == (["a"], [2])
    cache.put("c", 3, weight=400)
    assert (list(cache), evicted) == (["c"], [2, 1])
    cache.put("c", 4)
    cache.forget("c")
    assert evicted == [2, 1], "what is replaced or forgotten on purpose is not evicted"
    assert budget.weight == 0


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(0, 12), st.booleans())))
def test_the_weight_is_what_is_kept_and_never_above_the_limit(steps: list[tuple[int, int, int, bool]]) -> None:
    budget = MemoryBudget(10 * ENTRY_BYTES)
    caches: list[BoundedCache[int, int]] = [BoundedCache(budget), BoundedCache(budget)]
    weights: dict[tuple[int, int], int] = {}
    for which, key, weight, forget in steps:
        if forget:
            caches[which].forget(key)
        else:
            caches[which].put(key, weight, weight * ENTRY_BYTES)
            weights[which, key] = (weight + 1) * ENTRY_BYTES
        kept = [(number, key) for number, cache in enumerate(caches) for key in cache]
        assert budget.weight == sum(weights[one] for one in kept)
        assert budget.weight <= budget.limit_bytes


def test_the_budget_counts_what_entries_really_take() -> None:
    def filled(count: int) -> BoundedCache[int, tuple[File, ...]]:
        cache: BoundedCache[int, tuple[File, ...]] = BoundedCache(MemoryBudget(1 << 40))
        for project in range(count):
            files = tuple(_file(project, number) for number in range(10))
            cache.put(project, files, FILE_BYTES * len(files))
        return cache

    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    cache = filled(200)
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    counted = cache._budget.weight
    assert counted / 1.3 < taken < counted * 1.3


def _file(project: int, number: int) -> File:
    """An entry like that of a wheel on a page of an index."""
    digest = f"{1000 * project + number:064x}"
    filename = f"some_project-{project}.{number}-cp313-cp313-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
    return File(
        filename=filename,
        version=f"{project}.{number}",
        digests={"sha256": digest},
        url=f"https://upstream.example/packages/{digest[:2]}/{digest}/{filename}",
        size=100_000 + number,
        requires=f">=3.{number}",
        extra={"core-metadata": {"sha256": digest[::-1]}, "upload-time": f"2026-01-01T00:00:00.{number:06}Z"},
    )


def test_a_limited_validity_has_its_own_moment_and_ends_with_the_whole() -> None:
    page = Validity(100)
    file = Validity(200, page)
    assert (page.holds(99), page.holds(100), file.holds(199), file.holds(200)) == (True, False, True, False)
    page.end()
    assert not page.holds(1)
    assert not file.holds(1)


async def test_a_value_is_loaded_once_and_again_after_it_was_forgotten() -> None:
    cache: LoadingCache[str, int] = LoadingCache(MemoryBudget(10_000), lambda value: 0)
    stored, go_on = 1, asyncio.Event()

    async def load() -> int | None:
        found = stored
        await go_on.wait()
        return found

    before = asyncio.create_task(cache.get("a", load))
    await asyncio.sleep(0.01)
    stored = 2
    cache.forget("a")
    after = asyncio.create_task(cache.get("a", load))
    await asyncio.sleep(0.01)
    go_on.set()
    assert [await after, await before] == [2, 1]
    assert cache.peek("a") == 2, "who was too late must not put the old value in place of the new one"
    stored = 3
    assert await cache.get("a", load) == 2
    cache.put("a", 4)
    assert await cache.get("a", load) == 4


async def test_nothing_is_kept_where_there_is_nothing() -> None:
    cache: LoadingCache[str, int] = LoadingCache(MemoryBudget(10_000), lambda value: 0)
    asked = 0

    async def load() -> int | None:
        nonlocal asked
        asked += 1
        return None

    assert [await cache.get("a", load), await cache.get("a", load)] == [None, None]
    assert asked == 2


# Single flight


@pytest.fixture(params=[False, True], ids=["in its turn", "at once"])
def at_once(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_work_that_waits_for_nothing_is_over_before_anyone_could_join_it(at_once: bool) -> None:
    flight: SingleFlight[str, bool] = SingleFlight(at_once=at_once)

    async def work() -> bool:
        return flight.owns("a")

    async def fail() -> bool:
        raise KeyError("x")

    for _ in range(2):
        assert await flight.run("a", work) == (True, False)
        with pytest.raises(KeyError):
            await flight.run("b", fail)
    assert not flight


async def test_callers_of_one_key_share_one_run(at_once: bool) -> None:
    flight: SingleFlight[str, int] = SingleFlight(at_once=at_once)
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


async def test_all_callers_get_the_error_and_the_next_one_tries_again(at_once: bool) -> None:
    flight: SingleFlight[str, int] = SingleFlight(at_once=at_once)

    async def fail() -> int:
        await asyncio.sleep(0)
        raise KeyError("x")

    results = await asyncio.gather(*(flight.run("a", fail) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [KeyError] * 3
    assert len(flight) == 0


async def test_a_caller_that_leaves_changes_nothing(at_once: bool) -> None:
    flight: SingleFlight[str, str] = SingleFlight(at_once=at_once)
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


@pytest.mark.parametrize("forget", [lambda flight: None, lambda flight: flight.pop("a"), lambda flight: flight.clear()])
async def test_closing_stops_what_runs(forget: Callable[[SingleFlight[str, bool]], object]) -> None:
    flight: SingleFlight[str, bool] = SingleFlight()
    task = flight.start("a", asyncio.Event().wait)
    forget(flight)
    await flight.close()
    assert task.cancelled()


async def test_after_it_is_forgotten_work_goes_on_but_no_one_joins_it(at_once: bool) -> None:
    flight: SingleFlight[str, int] = SingleFlight(at_once=at_once)
    go_on = asyncio.Event()
    owned: list[bool] = []

    async def work(number: int) -> int:
        await go_on.wait()
        owned.append(flight.owns("a"))
        return number

    first = asyncio.create_task(flight.run("a", lambda: work(1)))
    await asyncio.sleep(0.01)
    flight.pop("a")
    second = asyncio.create_task(flight.run("a", lambda: work(2)))
    await asyncio.sleep(0.01)
    go_on.set()
    assert [await first, await second] == [(1, False), (2, False)]
    assert owned == [False, True]
    assert len(flight) == 0
