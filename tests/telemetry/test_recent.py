"""Results that are made at most so often."""

import asyncio

import pytest

from mirror.api.recent import RECENT_SECONDS, RESULTS_AT_ONCE, RecentResults


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.api.recent.PAUSE_SECONDS", 0)


async def test_a_few_requests_get_results_of_their_own_and_a_crowd_gets_the_last_one() -> None:
    now, made = [100.0], [0]

    async def make(kind: str) -> str:
        made[0] += 1
        return f"{kind} {made[0]}"

    results: RecentResults[str] = RecentResults(lambda: now[0])

    async def get(kind: str) -> str:
        return await results.get(kind, lambda: make(kind))

    once = int(RESULTS_AT_ONCE)
    assert [await get("a") for _ in range(once)] == [f"a {number + 1}" for number in range(once)]
    assert {await get("a") for _ in range(20)} == {f"a {once}"}
    now[0] += RECENT_SECONDS
    assert await get("a") == f"a {once + 1}"
    assert await get("a") == f"a {once + 1}"
    assert await get("b") == f"b {once + 2}", "there is no last one of that kind"
    await results.close()


async def test_the_last_result_of_a_kind_is_given_again_for_a_second_however_many_kinds_are_requested() -> None:
    now = [100.0]

    async def make() -> float:
        return now[0]

    results: RecentResults[float] = RecentResults(lambda: now[0])
    oldest = 0.0
    for number in range(60):
        for kind in ("a", "b", "c"):
            oldest = max(oldest, now[0] - await results.get(kind, make))
        if number >= RESULTS_AT_ONCE:
            now[0] += RECENT_SECONDS / 4
    assert RECENT_SECONDS / 2 <= oldest < RECENT_SECONDS
    await results.close()


async def test_those_who_request_at_the_same_time_share_a_result() -> None:
    made = [0]

    async def make() -> int:
        made[0] += 1
        await asyncio.sleep(0)
        return made[0]

    results: RecentResults[int] = RecentResults()
    assert await asyncio.gather(*(results.get("", make) for _ in range(5))) == [1] * 5
    await results.close()
