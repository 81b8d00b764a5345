"""Requests by the hour: totals that outlive a restart, in spans of any length."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.catalog import Catalog
from mirror.catalog.coordination import KEPT_HOURS
from mirror.catalog.sqlite import SQLite
from mirror.errors import StorageFull
from mirror.model import Event
from mirror.telemetry.metrics import Metrics
from mirror.telemetry.statistics import HOUR, Statistics

NOON = 20_000 * 24 * HOUR + 12 * HOUR + 600.0


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[Catalog]:
    database = SQLite(tmp_path / "catalog.sqlite")
    await database.open()
    catalog = Catalog(database)
    yield catalog
    await catalog.close()


async def test_requests_are_counted_in_the_hour_in_which_they_were_written_down(catalog: Catalog) -> None:
    now = NOON
    metrics = Metrics()
    statistics = Statistics(catalog, metrics, clock=lambda: now)
    metrics.count_response("pypi", "file", "miss", 200, 1000, 0.1)
    await statistics.flush()
    now += HOUR
    for _ in range(3):
        metrics.count_response("pypi", "file", "hit", 200, 1000, 0.1)
    metrics.count_response("pypi", "file", "joined", 200, 500, 0.1)
    metrics.count_response("", "other", "", 200, 99, 0.1)
    hours = await statistics.history(3, 1)
    assert [(span.requests, span.hits, span.saved, span.fetched) for span in hours] == [
        (0, 0, 0, 0),
        (1, 0, 0, 1000),
        (4, 4, 3500, 0),
    ]
    assert hours[-1].start == NOON - 600 + HOUR
    (day,) = await statistics.history(1, 24)
    assert (day.requests, day.hits, day.saved, day.fetched, day.start) == (5, 4, 3500, 1000, NOON - 600 - 12 * HOUR)


async def test_requests_are_counted_once_when_two_ask_for_the_totals_at_the_same_time(catalog: Catalog) -> None:
    metrics = Metrics()
    statistics = Statistics(catalog, metrics, clock=lambda: NOON)
    for _ in range(3):
        metrics.count_response("pypi", "file", "hit", 200, 1000, 0.1)
    asking = [statistics.totals(), statistics.flush(), statistics.totals(), statistics.flush(), statistics.totals()]
    totals = [result for result in await asyncio.gather(*asking) if result is not None]
    assert [one["hits"] for one in totals] == [{"hit": 3, "miss": 0, "joined": 0, "stale": 0, "offline": 0}] * 3
    assert (await catalog.counters.all())["requests.hit"] == 3
    assert [span.hits for span in await statistics.history(1, 1)] == [3]


async def test_totals_are_shown_without_being_written(catalog: Catalog) -> None:
    metrics = Metrics()
    statistics = Statistics(catalog, metrics, clock=lambda: NOON)
    metrics.count_response("pypi", "file", "hit", 200, 1000, 0.1)
    assert (await statistics.totals())["bytes_served"] == 1000
    assert [span.saved for span in await statistics.history(1, 24)] == [1000]
    assert "requests.hit" not in await catalog.counters.all()


async def test_requests_that_found_no_room_are_counted_later(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    statistics = Statistics(catalog, metrics, clock=lambda: NOON)

    async def full(*_: object) -> None:
        raise StorageFull("The disk is full.")

    metrics.count_response("pypi", "file", "hit", 200, 1000, 0.1)
    with monkeypatch.context() as patch:
        patch.setattr(catalog.counters, "add", full)
        await statistics.flush()
    await statistics.flush()
    assert (await catalog.counters.all())["requests.hit"] == 1


async def test_the_course_outlives_a_restart_and_old_hours_are_forgotten(catalog: Catalog) -> None:
    hour = int(NOON // HOUR)
    await catalog.counters.add({"requests.hit": 5}, hour - KEPT_HOURS - 1)
    await catalog.counters.add({"requests.hit": 7}, hour - 24)
    restarted = Statistics(catalog, Metrics(), clock=lambda: NOON)
    assert [span.requests for span in await restarted.history(3, 24)] == [0, 7, 0]
    await catalog.counters.add({"requests.hit": 1}, hour)
    assert sum(value for _, _, value in await catalog.counters.spans(0, 24)) == 8
    totals = await restarted.totals()
    assert totals["hits"] == {"hit": 13, "miss": 0, "joined": 0, "stale": 0, "offline": 0}


async def test_the_journal_is_read_backwards_too(catalog: Catalog) -> None:
    for number in range(5):
        await catalog.feed.append(Event(serial=0, at=number, source="s", project=f"p{number}", kind="project"))
    newest = await catalog.feed.before(100, 2)
    assert [event.project for event in newest] == ["p4", "p3"]
    assert [event.project for event in await catalog.feed.before(newest[-1].serial, 10)] == ["p2", "p1", "p0"]
