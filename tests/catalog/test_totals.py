"""Totals that are kept: whatever is added, replaced, imported and removed, they are what counting would give."""

import asyncio
import logging
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirror.catalog import Catalog, HeldFile
from mirror.catalog.bundles import BundleImport, ImportedSerials, StagedFile, StoredPage
from mirror.catalog.migration import migrations
from mirror.catalog.sqlite import SQLite
from mirror.model import Page, Stamp, UpstreamResponse

SOURCES, NAMES, BLOBS = ("a", "b"), ("one", "two", "three"), range(4)
ANSWER = UpstreamResponse(url="https://index.example/", content_type="text/html", body=b"x")

name = st.tuples(st.sampled_from(SOURCES), st.sampled_from(NAMES))
file = st.tuples(name, st.sampled_from(BLOBS))
change = st.one_of(
    st.tuples(st.just("add"), st.lists(file, min_size=1, max_size=1)),
    st.tuples(st.just("add all"), st.lists(file, min_size=1, max_size=6)),
    st.tuples(st.just("forget"), st.lists(file, min_size=1, max_size=1)),
    st.tuples(st.just("forget all"), st.lists(file, min_size=1, max_size=6, unique_by=lambda one: one[0])),
    st.tuples(st.just("import"), st.lists(file, min_size=1, max_size=6, unique_by=lambda one: one[0])),
    st.tuples(st.just("page"), st.lists(file, min_size=1, max_size=1)),
    st.tuples(st.just("no page"), st.lists(file, min_size=1, max_size=1)),
    st.tuples(st.just("old page"), st.lists(file, min_size=1, max_size=1)),
)


def held(one: tuple[tuple[str, str], int]) -> HeldFile:
    (source, project), blob = one
    return HeldFile(
        source=source, project=project, filename=f"{project}.whl", digest=f"{blob:064x}", size=10**blob, stored=5
    )


async def applied(catalog: Catalog, what: str, files: list[tuple[tuple[str, str], int]]) -> None:
    (source, project), blob = files[0]
    page = Page("project", project)
    work: dict[str, Callable[[], Awaitable[object]]] = {
        "add": lambda: catalog.files.add(held(files[0])),
        "add all": lambda: catalog.files.add_all([(held(one), "file") for one in files]),
        "forget": lambda: catalog.files.forget(source, project, f"{project}.whl"),
        "forget all": lambda: catalog.files.forget_all([held(one) for one in files]),
        "import": lambda: imported(catalog, files),
        "page": lambda: catalog.pages.put(source, page, ANSWER, Stamp(blob, True, f"r{blob}")),
        "no page": lambda: catalog.pages.miss(source, page, blob),
        "old page": lambda: catalog.pages.forget(source, project, blob),
    }
    await work[what]()


async def imported(catalog: Catalog, files: list[tuple[tuple[str, str], int]]) -> None:
    """Import a bundle with these files, and a page for each name, found where the blob's number is even."""
    for place, ((source, project), blob) in enumerate(files, 1):
        row = StoredPage(source=source, kind="project", name=project, checked=2, found=blob % 2 == 0)
        await catalog.bundles.stage_page("bundle", place, row, b"x")
    staged = [
        StagedFile(
            event="file", source=one.source, project=one.project, filename=one.filename, digest=one.digest,
            size=one.size,
        )
        for one in map(held, files)
    ]  # fmt: skip
    await catalog.bundles.stage_files("bundle", staged)
    seen = ImportedSerials(1, 1)
    await catalog.bundles.take(
        BundleImport(bundle="bundle", origin="o", seen=seen, at=5, pages=len(files), files=len(files))
    )


async def counted(catalog: Catalog) -> tuple[int, int]:
    rows = await catalog.database.read("SELECT count(*), coalesce(sum(size), 0) FROM (SELECT DISTINCT digest, size"
                                       " FROM files) AS blobs")  # fmt: skip
    return rows[0][0], rows[0][1]


@given(st.lists(change, max_size=15))
@settings(max_examples=40, deadline=None)
def test_totals_are_what_counting_gives_whatever_is_done(
    changes: list[tuple[str, list[tuple[tuple[str, str], int]]]],
) -> None:
    async def check() -> None:
        database = SQLite(Path(directory) / "catalog.sqlite")
        await database.open()
        catalog = Catalog(database)
        for what, files in changes:
            await applied(catalog, what, files)
            assert await catalog.files.totals() == await counted(catalog), what
        pages = "SELECT source, count(*) FROM pages WHERE kind = 'project' AND found = 1 GROUP BY source"
        assert await catalog.pages.totals() == dict(await database.read(pages))
        assert not await catalog.totals.recount()
        await catalog.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(check())


async def test_totals_that_are_wrong_are_corrected_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = SQLite(tmp_path / "catalog.sqlite")
    await database.open()
    catalog = Catalog(database)
    await catalog.files.add(held((("a", "one"), 1)))
    await catalog.pages.put("a", Page("project", "one"), ANSWER, Stamp(1, True, "r"))
    await database.write(("UPDATE totals SET files = 7, bytes = 0", ()), ("UPDATE page_totals SET projects = 9", ()))
    with caplog.at_level(logging.WARNING, logger="mirror.catalog.totals"):
        assert await catalog.totals.recount()
    assert "wrong by -6 files, 10 bytes and -8 pages" in caplog.text
    assert await catalog.files.totals() == (1, 10)
    assert await catalog.pages.totals() == {"a": 1}
    assert not await catalog.totals.recount()
    await catalog.close()


async def test_an_older_catalog_is_counted_once_when_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = [migration for migration in migrations() if migration.number <= 14]
    monkeypatch.setattr("mirror.catalog.migration.migrations", lambda: known)
    path = tmp_path / "catalog.sqlite"
    first = SQLite(path)
    await first.open()
    catalog = Catalog(first)
    await catalog.files.add_all([(held((("a", "one"), 1)), "file"), (held((("b", "two"), 1)), "file")])
    await catalog.files.add(held((("a", "two"), 2)))
    await catalog.pages.put("a", Page("project", "one"), ANSWER, Stamp(1, True, "r"))
    await catalog.pages.miss("a", Page("project", "two"), 1)
    await catalog.close()
    with closing(sqlite3.connect(path)) as older:
        for statement in ("TABLE totals", "TABLE page_totals", "INDEX pages_by_age", "INDEX uploads_by_digest",
                          "INDEX uploads_by_sidecar"):  # fmt: skip
            older.execute(f"DROP {statement}")
        older.execute("PRAGMA user_version = 13")
    again = SQLite(path)
    await again.open()
    catalog = Catalog(again)
    assert await catalog.files.totals() == (2, 110)
    assert await catalog.pages.totals() == {"a": 1}
    await catalog.close()


async def test_pages_are_counted_by_their_state(tmp_path: Path) -> None:
    database = SQLite(tmp_path / "catalog.sqlite")
    await database.open()
    catalog = Catalog(database)
    for number in range(5):
        await catalog.pages.put("a", Page("project", f"p{number}"), ANSWER, Stamp(number, True, "r"))
    await catalog.pages.put("a", Page("names", ""), ANSWER, Stamp(9, True, "r"))
    await catalog.pages.miss("a", Page("project", "p0"), 9)
    await catalog.pages.miss("a", Page("project", "never"), 9)
    assert await catalog.pages.states({"a": 3, "b": 0}) == {"fresh": 2, "stale": 2, "missing": 2}
    await catalog.close()
