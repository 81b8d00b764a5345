"""Sets: the files and sidecars that were fetched on purpose. What a set names is never evicted."""

from collections.abc import Iterable

import msgspec

from mirror.catalog.database import Database, Statement

AT_ONCE = 200
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
        """Let a set name these as well."""
        await self._database.write(*_inserts(name, members))

    async def replace(self, name: str, members: Iterable[SetMember]) -> None:
        """Let a set name these and nothing else; without any, there is no such set."""
        await self._database.write(("DELETE FROM sets WHERE name = $1", (name,)), *_inserts(name, members))

    async def names(self) -> dict[str, int]:
        """Every set, with how many files and sidecars it names."""
        return dict(await self._database.read("SELECT name, count(*) FROM sets GROUP BY name ORDER BY name"))

    async def members(self, name: str) -> list[SetMember]:
        """What a set names."""
        rows = await self._database.read(
            "SELECT source, project, filename FROM sets WHERE name = $1 ORDER BY source, project, filename", name
        )
        return [SetMember(*row) for row in rows]

    async def held(self) -> set[str]:
        """The digests of everything that is held because a set names it."""
        rows = await self._database.read(
            "SELECT DISTINCT files.digest FROM sets JOIN files ON files.source = sets.source"
            " AND files.project = sets.project AND files.filename = sets.filename"
        )
        return {digest for (digest,) in rows}

    async def holding(self, member: SetMember) -> list[str]:
        """The sets that name a file or sidecar: without any, it may be evicted."""
        rows = await self._database.read(
            "SELECT name FROM sets WHERE source = $1 AND project = $2 AND filename = $3 ORDER BY name",
            member.source, member.project, member.filename,
        )  # fmt: skip
        return [name for (name,) in rows]


def _inserts(name: str, members: Iterable[SetMember]) -> list[Statement]:
    unique = sorted(set(members))
    statements: list[Statement] = []
    for start in range(0, len(unique), AT_ONCE):
        some = unique[start : start + AT_ONCE]
        places = ", ".join(f"($1, ${3 * row + 2}, ${3 * row + 3}, ${3 * row + 4})" for row in range(len(some)))
        values = [value for one in some for value in (one.source, one.project, one.filename)]
        sql = f"INSERT INTO sets (name, source, project, filename) VALUES {places} ON CONFLICT DO NOTHING"
        statements.append((sql, (name, *values)))
    return statements
