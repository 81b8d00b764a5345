"""Files of which no sidecar can be made."""

from mirror.catalog.database import Database
from mirror.catalog.feed import record


class NoSidecars:
    """The table of files of which no sidecar can be made."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def projects(self, source: str) -> frozenset[str]:
        """Return the projects of a source that have such files."""
        rows = await self._database.read("SELECT DISTINCT project FROM no_sidecar WHERE source = $1", source)
        return frozenset(project for (project,) in rows)

    async def of_project(self, source: str, project: str) -> dict[str, str]:
        """Return such files of a project: file name → the digest that the index listed, "" for none."""
        return dict(
            await self._database.read(
                "SELECT filename, digest FROM no_sidecar WHERE source = $1 AND project = $2", source, project
            )
        )

    async def add(self, source: str, project: str, filename: str, digest: str, now: float) -> int:
        """Record a file, with an event, since the page of its project changes by it; return the event's serial."""
        rows = await self._database.write(
            *record(now, source, project, "page"),
            (
                "INSERT INTO no_sidecar (source, project, filename, digest, since) VALUES ($1, $2, $3, $4, $5)"
                " ON CONFLICT (source, project, filename) DO UPDATE SET digest = excluded.digest,"
                " since = excluded.since",
                (source, project, filename, digest, now),
            ),
        )
        serial: int = rows[1][0][0]
        return serial
