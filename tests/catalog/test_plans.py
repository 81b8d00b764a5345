"""No request makes the catalog read a whole table that grows with what is held."""

import asyncio
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mirror.catalog.sqlite import SQLite
from tests.benchmarks import great_store
from tests.builders import wheel
from tests.maintenance.stores import upload
from tests.serving import repositories, serving
from tests.simulator import Simulator

GROWING = ("claims", "feed", "files", "hours", "pages", "removed", "sets", "uploads")
SCAN = re.compile(rf"SCAN ({'|'.join(GROWING)})\b(?! USING COVERING INDEX)")
BROWSER = {"Accept": "text/html"}


async def test_no_request_reads_a_whole_table(
    tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    await asyncio.to_thread(great_store.make, data, 5_000, blobs=False, source=simulator.simple_url)
    built = wheel("six", "1.0")
    simulator.publish(built)
    asked: dict[str, tuple[Any, ...]] = {}
    read, find, write = SQLite.read, SQLite.find, SQLite.write

    async def noted_read(self: SQLite, sql: str, *values: Any) -> Any:
        asked[sql] = values
        return await read(self, sql, *values)

    async def noted_find(self: SQLite, sql: str, *values: Any) -> Any:
        asked[sql] = values
        return await find(self, sql, *values)

    async def noted_write(self: SQLite, *statements: Any) -> Any:
        asked.update(statements)
        return await write(self, *statements)

    async with serving(data, repositories(simulator)) as mirror:
        await upload(mirror, wheel("ours", "1.0"))
        await mirror.get("/simple/")  # lists of names are read as a whole, once
        monkeypatch.setattr(SQLite, "read", noted_read)
        monkeypatch.setattr(SQLite, "find", noted_find)
        monkeypatch.setattr(SQLite, "write", noted_write)
        requests: list[tuple[str, dict[str, str]]] = [
            ("/simple/six/", {}), (f"/packages/six/{built.filename}", {}), ("/simple/ours/", {}),
            (f"/packages/six/{built.filename}.metadata", {}), ("/simple/six/", {"Cache_Control": "no-cache"}),
            ("/-/status", {}), ("/metrics", {}), ("/ready", {}), ("/", BROWSER), ("/-/projects/", BROWSER),
            ("/-/projects/?from=0.project-000050", BROWSER), ("/-/projects/pypi/six/", BROWSER),
            ("/-/activity/", BROWSER),
        ]  # fmt: skip
        for path, headers in requests:
            assert (await mirror.get(path, **headers)).status == 200, path
        await mirror.mirror.statistics.flush()
        monkeypatch.undo()
    assert len(asked) > 25
    with closing(sqlite3.connect(data / "catalog.sqlite")) as connection:
        connection.create_function("current_seconds", 1, lambda given: given)
        for sql, values in asked.items():
            named = {str(number): value for number, value in enumerate(values, 1)}
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", named)]
            assert not [step for step in plan if SCAN.search(step)], f"{sql}\n{plan}"
