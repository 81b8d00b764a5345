"""A data directory with a million held files, made in a minute.

`python -m tests.benchmarks.great_store DIR --files 1000000` fills DIR as years of use would: projects with a page and
25 wheels, each with its sidecar; names that upstream never had; an event for each file. The blobs have a size and no
content, so that they take no space. `--no-blobs` leaves them out. The rows of `tests.benchmarks.great_rows` use it.
"""

import asyncio
import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import click
import msgspec

from mirror.catalog import Catalog
from mirror.catalog.sqlite import SQLite

SOURCE = "http://127.0.0.1:9/simple/"
"""The upstream of everything, where no one listens."""
FILES_PER_PROJECT = 50
"""Files and sidecars, as many of each."""
MISSING = 5_000
"""Names that upstream never had."""
WHEEL_BYTES, SIDECAR_BYTES = 40_000, 1_500
YEAR_SECONDS = 365 * 86_400.0


class GreatStore(msgspec.Struct, frozen=True):
    """What a data directory was filled with."""

    files: int
    bytes: int
    projects: int


def make(directory: Path, files: int, *, blobs: bool = True, source: str = SOURCE) -> GreatStore:
    """Fill a new data directory with so many files and sidecars of an upstream."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / "catalog.sqlite"
    asyncio.run(_begin(path))
    now = time.time()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -200000")
        connection.executemany(
            "INSERT INTO files (source, project, filename, digest, size, stored, used, uses)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 1)",
            ((source, *row) for row in _files(files, now)),
        )
        projects = -(-files // FILES_PER_PROJECT)
        _pages(connection, projects, now, source)
        connection.execute(
            "INSERT INTO feed (serial, at, source, project, kind, filename, detail)"
            " SELECT row_number() OVER (ORDER BY stored), stored, source, project, 'file', filename, '{}' FROM files"
        )
        connection.execute("UPDATE counters SET value = (SELECT max(serial) FROM feed) WHERE name = 'feed'")
        connection.execute("ANALYZE")
    asyncio.run(_finish(path))
    if blobs:
        _make_blobs(directory / "blobs", files)
    size = sum(WHEEL_BYTES + SIDECAR_BYTES for _ in range(files // 2)) + files % 2 * WHEEL_BYTES
    return GreatStore(files, size, projects)


async def _begin(path: Path) -> None:
    database = SQLite(path)
    await database.open()
    await database.close()


async def _finish(path: Path) -> None:
    """Count what was written past the catalog."""
    database = SQLite(path)
    await database.open()
    logging.getLogger("mirror.catalog.totals").setLevel(logging.ERROR)  # that they are wrong is no news here
    await Catalog(database).totals.recount()
    await database.close()


def _digest(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def _files(count: int, now: float) -> Iterator[tuple[str, str, str, int, float, float]]:
    """Yield project, file name, digest, bytes, when it was stored, and when it was used."""
    for number in range(count):
        project, place = divmod(number, FILES_PER_PROJECT)
        name = f"project-{project:06d}"
        filename = f"project_{project:06d}-1.{place // 2}-py3-none-any.whl{'.metadata' * (place % 2)}"
        stored = now - YEAR_SECONDS + YEAR_SECONDS * number / count
        used = stored + (now - stored) * (number * 7919 % 1000) / 1000
        yield name, filename, _digest(number), SIDECAR_BYTES if place % 2 else WHEEL_BYTES, stored, used


def _pages(connection: sqlite3.Connection, projects: int, now: float, source: str) -> None:
    body = bytes.fromhex("28b52ffd200211000000") + bytes(600)
    connection.executemany(
        "INSERT INTO pages (source, kind, name, checked, found, revision, url, content_type, body)"
        " VALUES (?, 'project', ?, ?, 1, 'r', ?, 'text/html', ?)",
        (
            (source, f"project-{number:06d}", now - number, f"{source}project-{number:06d}/", body)
            for number in range(projects)
        ),
    )
    connection.executemany(
        "INSERT INTO pages (source, kind, name, checked, found, revision, url, content_type, body)"
        " VALUES (?, 'project', ?, ?, 0, '', '', '', x'')",
        ((source, f"never-{number:06d}", now - number) for number in range(MISSING)),
    )
    connection.execute(
        "INSERT INTO claims (owner, project, at) SELECT source, name, checked FROM pages WHERE found = 1"
    )


def _make_blobs(root: Path, files: int) -> None:
    for shard in range(256):
        (root / f"{shard:02x}").mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(some: range) -> None:
        for number in some:
            digest = _digest(number)
            fd = os.open(f"{root}/{digest[:2]}/{digest}", os.O_WRONLY | os.O_CREAT, 0o600)
            os.ftruncate(fd, SIDECAR_BYTES if number % FILES_PER_PROJECT % 2 else WHEEL_BYTES)
            os.close(fd)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, (range(start, min(start + 10_000, files)) for start in range(0, files, 10_000))))


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--files", default=1_000_000, show_default=True, help="Files and sidecars.")
@click.option("--no-blobs", is_flag=True, help="Only the catalog.")
def main(directory: Path, files: int, no_blobs: bool) -> None:
    """Fill a new data directory."""
    began = time.monotonic()
    made = make(directory, files, blobs=not no_blobs)
    click.echo(f"{made.files:,} files of {made.projects:,} projects in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
