"""The numbered migrations of the catalog, which every engine applies in its own way.

A file is written once for all engines: types are spelled so that SQLite and PostgreSQL both take them, and a line that
begins with `-- postgresql:` is for PostgreSQL only, a comment to all others. Migrations only expand: a version of the
mirror goes on working with a catalog that the next version has migrated.
"""

import sqlite3
from collections.abc import Callable, Iterator
from importlib.resources import files

import msgspec

from mirror.catalog.database import Row

POSTGRESQL_LINE = "-- postgresql:"


class Migration(msgspec.Struct, frozen=True):
    """One numbered file."""

    number: int
    name: str
    text: str

    def statements(self, only: str = "") -> Iterator[str]:
        """Return the statements; `only` is the comment that begins the lines which are for this engine only."""
        lines = []
        for line in self.text.splitlines():
            bare = line.lstrip()
            if only and bare.startswith(only):
                lines.append(bare.removeprefix(only))
            elif not bare.startswith("--"):
                lines.append(line)
        return (statement for statement in "\n".join(lines).split(";") if statement.strip())


def migrations() -> list[Migration]:
    """Return all migrations, oldest first."""
    entries = [entry for entry in files("mirror.catalog").joinpath("migrations").iterdir() if entry.name[:4].isdigit()]
    found = [Migration(int(entry.name[:4]), entry.name, entry.read_text()) for entry in entries]
    return sorted(found, key=lambda migration: migration.number)


def migrate_sqlite(run: Callable[[str], list[Row]], thorough: bool) -> None:
    """Apply what a database of SQLite has not seen, each in a transaction of its own; check it first where `thorough`.

    `run` runs one statement. Raises sqlite3.DatabaseError for a damaged one.
    """
    if thorough:
        (verdict, *_) = run("PRAGMA quick_check(1)")
        if verdict != ("ok",):
            damage = sqlite3.DatabaseError(str(verdict[0]))
            damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damage
    for migration in migrations():
        run("BEGIN IMMEDIATE")
        ((version,),) = run("PRAGMA user_version")
        if version < migration.number:
            # executescript would commit first; one statement at a time stays inside the transaction.
            for statement in migration.statements():
                run(statement)
            run(f"PRAGMA user_version = {migration.number}")
        run("COMMIT")
