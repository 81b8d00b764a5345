"""Rows that are named by their key: read on the event loop, and by threads where that would take long."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from unittest.mock import ANY

import pytest

from mirror.catalog import sqlite
from mirror.catalog.database import Row, Value
from mirror.catalog.sqlite import SCANNERS, SQLite


@pytest.fixture
async def finding(tmp_path: Path) -> AsyncIterator[tuple[SQLite, list[str]]]:
    """A catalog in a file, and which of its queries threads answered."""
    database, threads = SQLite(tmp_path / "catalog.sqlite"), []
    await database.open()
    read = database.read

    async def noted(sql: str, *values: Value) -> list[Row]:
        threads.append(sql)
        return await read(sql, *values)

    database.read = noted  # type: ignore[method-assign]
    yield database, threads
    await database.close()


async def test_a_row_that_is_named_by_its_key_is_read_at_once(finding: tuple[SQLite, list[str]]) -> None:
    database, threads = finding
    found = database.find("SELECT value FROM counters WHERE name = $1", "feed")
    with pytest.raises(StopIteration) as ended:
        found.send(None)
    assert ended.value.value == [(0,)]
    await database.write(("UPDATE counters SET value = 7 WHERE name = $1", ["feed"]))
    assert await database.find("SELECT value FROM counters WHERE name = $1", "feed") == [(7,)]
    assert threads == []


async def test_rows_are_read_in_threads_while_that_takes_long(
    finding: tuple[SQLite, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    database, threads = finding
    monkeypatch.setattr(sqlite, "SLOW_LOOKUP_SECONDS", -1.0)
    for _ in range(5):
        assert await database.find("SELECT 1") == [(1,)]
    assert len(threads) == 3


async def test_a_row_is_waited_for_in_a_thread_where_another_process_keeps_it(
    finding: tuple[SQLite, list[str]], tmp_path: Path
) -> None:
    database, threads = finding
    with closing(connect(tmp_path / "catalog.sqlite", isolation_level=None, timeout=0)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert await database.find("SELECT 1") == [(1,)], "who writes keeps no one from reading"
        other.execute("ROLLBACK")
    assert threads == []
    assert database._finder is not None
    database._finder.close()
    assert await database.find("SELECT 1") == [(1,)]
    assert threads == ["SELECT 1"]


async def test_a_long_read_does_not_make_another_one_wait(finding: tuple[SQLite, list[str]]) -> None:
    database, _ = finding
    counting = (
        "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 3000000) SELECT count(*) FROM n"
    )
    long, short = (asyncio.create_task(database.scan(sql)) for sql in (counting, "SELECT 1"))
    done, _ = await asyncio.wait({long, short}, return_when=asyncio.FIRST_COMPLETED)
    assert done == {short}
    assert await long == [(3_000_000,)]


async def test_a_long_read_that_is_cancelled_early_leaves_no_connection_open(finding: tuple[SQLite, list[str]]) -> None:
    database, _ = finding
    await database.scan("SELECT 1")  # its connection stays open for the next one
    before = threading.active_count()
    taken = [asyncio.create_task(database.scan("SELECT 1")) for _ in range(SCANNERS)]
    await asyncio.sleep(0)  # one of them has begun to open another connection
    taken[-1].cancel()
    assert await asyncio.gather(*taken, return_exceptions=True) == [[(1,)], ANY]
    assert taken[-1].cancelled()
    for _ in range(1000):  # the thread of the connection ends a moment after it
        if threading.active_count() > before:
            await asyncio.sleep(0.01)
    assert threading.active_count() == before
    assert await database.scan("SELECT 1") == [(1,)]
