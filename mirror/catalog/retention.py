"""Why files are kept: sets name them, or upstream no longer lists them; and who has fetched those since."""

from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import msgspec

from mirror.catalog.database import Database, Statement
from mirror.catalog.feed import record
from mirror.model import File

ROWS_PER_STATEMENT = 200
"""Rows that one statement writes."""


class SetMember(msgspec.Struct, frozen=True, order=True):
    """One file or sidecar in a set, by the name under which it is held."""

    source: str
    project: str
    filename: str


class Sets:
    """The table of sets."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, name: str, members: Iterable[SetMember]) -> None:
        """Add members to a set."""
        await self._database.write(*_inserts(name, members))

    async def replace(self, name: str, members: Iterable[SetMember]) -> None:
        """Replace the members of a set; without any, the set ceases to exist."""
        await self._database.write(("DELETE FROM sets WHERE name = $1", (name,)), *_inserts(name, members))

    async def names(self) -> dict[str, int]:
        """Return the number of members of each set, by its name."""
        return dict(await self._database.read("SELECT name, count(*) FROM sets GROUP BY name ORDER BY name"))

    async def members(self, name: str) -> list[SetMember]:
        """Return the members of a set."""
        rows = await self._database.read(
            "SELECT source, project, filename FROM sets WHERE name = $1 ORDER BY source, project, filename", name
        )
        return [SetMember(*row) for row in rows]

    async def holding(self, member: SetMember) -> list[str]:
        """Return the sets that name a file or sidecar: without any, it may be evicted."""
        rows = await self._database.read(
            "SELECT name FROM sets WHERE source = $1 AND project = $2 AND filename = $3 ORDER BY name",
            member.source, member.project, member.filename,
        )  # fmt: skip
        return [name for (name,) in rows]


def _inserts(name: str, members: Iterable[SetMember]) -> list[Statement]:
    unique = sorted(set(members))
    statements: list[Statement] = []
    for start in range(0, len(unique), ROWS_PER_STATEMENT):
        some = unique[start : start + ROWS_PER_STATEMENT]
        places = ", ".join(f"($1, ${3 * row + 2}, ${3 * row + 3}, ${3 * row + 4})" for row in range(len(some)))
        values = [value for one in some for value in (one.source, one.project, one.filename)]
        sql = f"INSERT INTO sets (name, source, project, filename) VALUES {places} ON CONFLICT DO NOTHING"
        statements.append((sql, (name, *values)))
    return statements


Why = Literal["file", "project", "quarantine"]
"""The file is no longer on its page; the project is no longer in the index; the project is in quarantine."""


class RemovedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A removed file in a report."""

    source: str
    project: str
    filename: str
    since: float
    """Seconds since the epoch: when we noticed."""
    why: str


class Fetch(msgspec.Struct, frozen=True, kw_only=True):
    """The fetches of a removed file by one client: how many, and when the last was."""

    filename: str
    client: str
    """The address."""
    who: str
    """The name in the audit log."""
    fetches: int
    last: float


class RemovalReport(msgspec.Struct, frozen=True):
    """A removed file with its fetches."""

    file: RemovedFile
    fetches: tuple[Fetch, ...] = ()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(File).decode


class RemovedFiles:
    """The tables of removed files and of their fetches."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def projects(self, source: str) -> frozenset[str]:
        """Return the projects of a source that have removed files."""
        rows = await self._database.read("SELECT DISTINCT project FROM removed WHERE source = $1", source)
        return frozenset(project for (project,) in rows)

    async def of_project(self, source: str, project: str) -> tuple[File, ...]:
        """Return the removed files of a project, as its page listed them."""
        rows = await self._database.read(
            "SELECT facts FROM removed WHERE source = $1 AND project = $2 ORDER BY since, filename", source, project
        )
        return tuple(_decode(facts) for (facts,) in rows)

    async def change(
        self, source: str, project: str, gone: Sequence[File], why: Why, back: Collection[str], now: float
    ) -> list[int]:
        """Record files that are gone, with an event for each, and remove those that are back; return the serials."""
        statements: list[Statement] = [
            ("DELETE FROM removed WHERE source = $1 AND project = $2 AND filename = $3", (source, project, filename))
            for filename in back
        ]
        kept = len(statements)
        for file in gone:
            statements += [
                *record(now, source, project, "removed", file.filename),
                (
                    "INSERT INTO removed (source, project, filename, since, why, facts) VALUES ($1, $2, $3, $4, $5, $6)"
                    " ON CONFLICT (source, project, filename) DO NOTHING",
                    (source, project, file.filename, now, why, _encode(file)),
                ),
            ]
        rows = await self._database.write(*statements)
        return [result[0][0] for result in rows[kept + 1 :: 3]]

    async def fetched(self, source: str, project: str, filename: str, client: str, who: str, now: float) -> None:
        """Record a fetch of a removed file."""
        await self._database.write(
            (
                "INSERT INTO removed_fetches (source, project, filename, client, who, fetches, last)"
                " VALUES ($1, $2, $3, $4, $5, 1, $6)"
                " ON CONFLICT (source, project, filename, client, who)"
                " DO UPDATE SET fetches = removed_fetches.fetches + 1, last = excluded.last",
                (source, project, filename, client, who, now),
            )
        )

    async def report(self) -> list[RemovalReport]:
        """Return everything that is recorded, the newest removal first."""
        files = await self._database.read(
            "SELECT source, project, filename, since, why FROM removed ORDER BY since DESC, source, project, filename"
        )
        fetches = await self._database.read(
            "SELECT source, project, filename, client, who, fetches, last FROM removed_fetches ORDER BY last DESC"
        )
        of: dict[tuple[str, str, str], list[Fetch]] = {}
        for source, project, filename, client, who, count, last in fetches:
            fetch = Fetch(filename=filename, client=client, who=who, fetches=count, last=last)
            of.setdefault((source, project, filename), []).append(fetch)
        return [
            RemovalReport(
                RemovedFile(source=source, project=project, filename=filename, since=since, why=why),
                tuple(of.get((source, project, filename), ())),
            )
            for source, project, filename, since, why in files
        ]
