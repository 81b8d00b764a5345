"""What one repository holds, project by project: for a mirror that follows this one and begins, or has lost track."""

from collections.abc import Sequence

import msgspec

from mirror.catalog.database import Database, Value


class HeldThing(msgspec.Struct, frozen=True):
    """A page (without the rest), or a file or sidecar."""

    project: str
    filename: str = ""
    digest: str = ""
    size: int = 0


class Contents:
    """Reads what is stored of several sources at once, by project."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def projects(self, sources: Sequence[str], repository: str, after: str, limit: int) -> list[str]:
        """At most `limit` names after `after`, sorted, of projects that have a page, a file or an upload here."""
        found: set[str] = set()
        questions: list[tuple[str, tuple[Value, ...]]] = [
            (
                "SELECT DISTINCT project FROM uploads WHERE repository = $1 AND deleted = 0 AND project > $2"
                " ORDER BY project LIMIT $3",
                (repository, after, limit),
            )
        ]
        for source in sources:
            questions += [
                (
                    "SELECT name FROM pages WHERE source = $1 AND kind = 'project' AND found = 1 AND name > $2"
                    " ORDER BY name LIMIT $3",
                    (source, after, limit),
                ),
                (
                    "SELECT DISTINCT project FROM files WHERE source = $1 AND project > $2 ORDER BY project LIMIT $3",
                    (source, after, limit),
                ),
            ]
        for sql, values in questions:
            found |= {name for (name,) in await self._database.read(sql, *values)}
        return sorted(found)[:limit]

    async def of_project(self, sources: Sequence[str], repository: str, project: str) -> list[HeldThing]:
        """Everything of one project that is held: its page first, if there is one to be shown."""
        things = [
            HeldThing(*row)
            for row in await self._database.read(
                "SELECT project, filename, digest, size FROM uploads"
                " WHERE repository = $1 AND project = $2 AND deleted = 0 ORDER BY filename",
                repository, project,
            )
        ]  # fmt: skip
        paged = bool(things)
        for source in sources:
            rows = await self._database.read(
                "SELECT 1 FROM pages WHERE source = $1 AND kind = 'project' AND name = $2 AND found = 1",
                source, project,
            )  # fmt: skip
            paged = paged or bool(rows)
            things += [
                HeldThing(*row)
                for row in await self._database.read(
                    "SELECT project, filename, digest, size FROM files WHERE source = $1 AND project = $2"
                    " ORDER BY filename",
                    source, project,
                )
            ]  # fmt: skip
        return [*([HeldThing(project)] if paged else []), *things]
