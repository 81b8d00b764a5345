"""Finished pages in memory: made once, never older than what changed while they were made."""

import asyncio
import threading

import pytest

from mirror.index.freshness import Freshness
from mirror.model import Outcome
from mirror.server.pages import TRIES, PageCache, PageInput

KEY = ("pypi", "six", "simple", "text/html")


class Thing:
    """What a page is made of, and how often it was looked at."""

    def __init__(self) -> None:
        self.revision = 0
        self.until = 100.0
        self.outcome: Outcome = "miss"
        self.asked: list[Freshness] = []
        self.rendered = 0
        self.heavy = False

    async def get(self, demand: Freshness) -> PageInput:
        self.asked.append(demand)
        await asyncio.sleep(0)
        revision = self.revision

        def render() -> bytes:
            self.rendered += 1
            return b"revision %d" % revision

        return PageInput(
            revision=str(revision), until=self.until, outcome=self.outcome, render=render, media_type="text/plain",
            heavy=self.heavy,
        )  # fmt: skip


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def answers(clock: Clock) -> PageCache:
    return PageCache(1_000_000, clock)


@pytest.fixture
def thing() -> Thing:
    return Thing()


async def body(answers: PageCache, thing: Thing, demand: Freshness = Freshness.USUAL) -> tuple[bytes, Outcome]:
    answer, outcome = await answers.obtain(KEY, demand, thing.get)
    return answer.bodies["identity"], outcome


async def test_a_page_is_made_once(answers: PageCache, thing: Thing) -> None:
    assert await body(answers, thing) == (b"revision 0", "miss")
    assert await body(answers, thing) == (b"revision 0", "hit")
    assert (thing.asked, thing.rendered) == ([Freshness.USUAL], 1)


async def test_many_at_once_make_it_once(answers: PageCache, thing: Thing) -> None:
    outcomes = [outcome for _, outcome in await asyncio.gather(*(body(answers, thing) for _ in range(5)))]
    assert sorted(outcomes) == ["joined"] * 4 + ["miss"]
    assert thing.rendered == 1


async def test_when_its_time_is_over_it_is_looked_at_but_not_made_again(
    answers: PageCache, thing: Thing, clock: Clock
) -> None:
    await body(answers, thing)
    clock.now, thing.until, thing.outcome = 100, 200, "hit"
    assert await body(answers, thing) == (b"revision 0", "hit")
    clock.now = 150
    await body(answers, thing)
    assert (len(thing.asked), thing.rendered) == (2, 1)


async def test_whoever_wants_it_now_makes_us_look(answers: PageCache, thing: Thing) -> None:
    await body(answers, thing)
    await body(answers, thing, Freshness.NOW)
    assert thing.asked == [Freshness.USUAL, Freshness.NOW]


async def test_what_changed_is_made_again(answers: PageCache, thing: Thing) -> None:
    await body(answers, thing)
    thing.revision = 1
    assert await body(answers, thing) == (b"revision 0", "hit")
    answers.forget("pypi", "other")
    assert await body(answers, thing) == (b"revision 0", "hit")
    answers.forget("pypi", "six")
    assert await body(answers, thing) == (b"revision 1", "miss")
    answers.clear()
    assert len(thing.asked) == 2
    await body(answers, thing)
    assert len(thing.asked) == 3


async def test_a_change_while_it_is_looked_at_is_in_the_page(answers: PageCache, thing: Thing) -> None:
    first = asyncio.create_task(body(answers, thing))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert thing.asked == [Freshness.USUAL]
    thing.revision = 1
    answers.forget("pypi", "six")
    assert await first == (b"revision 1", "miss")
    # The second look asks nobody, however fresh the client wanted it: what the first brought is stored.
    assert thing.asked == [Freshness.USUAL, Freshness.ANY]
    assert await body(answers, thing) == (b"revision 1", "hit")


async def test_who_comes_after_a_change_never_sees_what_was_before(answers: PageCache, thing: Thing) -> None:
    """An upload has been answered; the page that it changes is being rendered for somebody else at that moment."""
    thing.heavy = True
    begun, go_on, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    async def get(demand: Freshness) -> PageInput:
        content = await thing.get(demand)
        old, render = thing.revision == 0, content.render

        def slow() -> bytes:
            if old:
                loop.call_soon_threadsafe(begun.set)
                go_on.wait(10)
            return render()

        return PageInput(
            revision=content.revision, until=100, outcome="miss", render=slow, media_type="text/plain", heavy=True
        )

    before = asyncio.create_task(answers.obtain(KEY, Freshness.USUAL, get))
    await begun.wait()
    thing.revision = 1
    answers.forget("pypi", "six")
    after = asyncio.create_task(answers.obtain(KEY, Freshness.USUAL, get))
    await asyncio.sleep(0)
    go_on.set()
    assert [(await task)[0].bodies["identity"] for task in (before, after)] == [b"revision 1"] * 2


async def test_other_projects_that_change_are_no_reason_to_look_again(answers: PageCache, thing: Thing) -> None:
    first = asyncio.create_task(body(answers, thing))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    answers.forget("pypi", "other")
    await first
    assert (await body(answers, thing))[1] == "hit"
    assert len(thing.asked) == 1


async def test_what_changes_all_the_time_is_served_but_not_kept(answers: PageCache, thing: Thing) -> None:
    async def get(demand: Freshness) -> PageInput:
        thing.revision += 1
        answers.forget("pypi", "six")
        return await thing.get(demand)

    answer, _ = await answers.obtain(KEY, Freshness.USUAL, get)
    assert len(thing.asked) == 1 + TRIES
    assert not answer.validity.live
    await answers.obtain(KEY, Freshness.USUAL, get)
    assert len(thing.asked) == 2 * (1 + TRIES)


@pytest.mark.parametrize(("first", "again"), [("miss", "hit"), ("stale", "stale"), ("offline", "offline")])
async def test_out_of_memory_it_is_still_stale_or_offline(
    answers: PageCache, thing: Thing, first: Outcome, again: Outcome
) -> None:
    thing.outcome = first
    assert (await body(answers, thing))[1] == first
    assert (await body(answers, thing))[1] == again


async def test_memory_is_bounded(clock: Clock) -> None:
    answers = PageCache(10_000, clock)

    async def get(demand: Freshness) -> PageInput:
        return PageInput(revision="1", until=100, outcome="miss", render=lambda: b"x" * 3000, media_type="text/plain")

    for number in range(50):
        await answers.obtain(("pypi", f"project{number}", "simple"), Freshness.USUAL, get)
    assert answers._memory.weight <= 10_000
    assert len(answers._memory) > 0


async def test_an_error_is_not_kept(answers: PageCache, thing: Thing) -> None:
    async def fail(demand: Freshness) -> PageInput:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await answers.obtain(KEY, Freshness.USUAL, fail)
    assert await body(answers, thing) == (b"revision 0", "miss")
