"""Reading the embedded catalog from outside, beside a running server: nothing is written or locked for long."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from mirror.catalog.uploads import RECORDED, Upload, recorded_upload


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an inspection of a catalog."""

    damage: str | None
    """The fault that SQLite reports; None when it is sound."""
    unfinished: bool = False
    """Whether it was too large to be checked in time."""
    newest: float | None = None
    """When something changed last, in seconds since the epoch."""


def inspect(path: Path, limit_seconds: float = 60.0) -> Inspection:
    """Look through the whole file, for at most `limit_seconds`. Raises OSError when it cannot be opened."""
    with _opened(path) as connection:
        stop = threading.Timer(limit_seconds, connection.interrupt)
        stop.start()
        try:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            (newest,) = connection.execute("SELECT max(at) FROM feed").fetchone()
        except sqlite3.DatabaseError as error:
            code = error.sqlite_errorcode & 0xFF  # the low byte of extended codes
            if code == sqlite3.SQLITE_INTERRUPT:
                return Inspection(damage=None, unfinished=True)
            if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
                return Inspection(damage=str(error))
            # Another user's, locked, of another version: that is no damage.
            raise OSError(None, str(error), str(path)) from error
        finally:
            stop.cancel()
        return Inspection(damage=None if verdict == "ok" else str(verdict), newest=newest)


def held_projects(path: Path, sources: Sequence[str], most: int = 4) -> tuple[str, ...]:
    """Return the projects of which these sources hold the fewest bytes. Raises OSError when it cannot be read."""
    places = ", ".join("?" * len(sources))
    with _opened(path) as connection:
        try:
            rows = connection.execute(
                f"SELECT project FROM files WHERE source IN ({places})"
                " GROUP BY project ORDER BY sum(size), project LIMIT ?",
                (*sources, most),
            ).fetchall()
        except sqlite3.DatabaseError as error:
            raise OSError(None, str(error), str(path)) from error
    return tuple(row[0] for row in rows)


def copy_catalog(path: Path, target: Path) -> None:
    """Write a consistent copy of the catalog to a new file, whatever is written meanwhile. Raises OSError."""
    with _opened(path) as connection:
        try:
            connection.execute("VACUUM INTO ?", (str(target),))
        except sqlite3.Error as error:
            raise OSError(None, str(error), str(path)) from error


def uploaded_blobs(path: Path) -> list[str]:
    """Return the digests of all uploads and of their sidecars. Raises OSError when it cannot be read."""
    rows = _select(path, "SELECT digest, sidecar FROM uploads WHERE deleted = 0")
    return list(dict.fromkeys(digest for row in rows for digest in row if digest))


def uploaded_names(path: Path) -> list[tuple[str, str, str]]:
    """Return repository, project and file name of all uploads, also of deleted ones. Raises OSError."""
    rows = _select(path, "SELECT repository, project, filename FROM uploads")
    return [(repository, project, filename) for repository, project, filename in rows]


def recorded_uploads(path: Path) -> Iterator[Upload]:
    """Yield all uploads, also deleted ones, as their records have them. Raises OSError when it cannot be read."""
    with _opened(path) as connection:
        try:
            for row in connection.execute(f"SELECT {RECORDED} FROM uploads ORDER BY repository, filename"):
                yield recorded_upload(row)
        except sqlite3.Error as error:
            raise OSError(None, str(error), str(path)) from error


def _select(path: Path, sql: str) -> list[tuple[str, ...]]:
    with _opened(path) as connection:
        try:
            return connection.execute(sql).fetchall()
        except sqlite3.Error as error:
            raise OSError(None, str(error), str(path)) from error


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise OSError(None, str(error), str(path)) from error
    try:
        yield connection
    finally:
        connection.close()
