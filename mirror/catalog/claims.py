"""Which source a name belongs to: what each ever had, what was released, and what later sources were seen to give.

An index that is down, or that answers 404 for what it always had, must not lose its names to another one. So what it
had is recorded beside its pages, and outlives them.
"""

from collections.abc import Collection, Iterable
from functools import lru_cache

from yarl import URL

from mirror.catalog.database import Database, placeholders
from mirror.catalog.feed import UPLOADED_IN, record

NAMES_PER_STATEMENT = 200
"""Names that one statement writes."""
ANY_REPOSITORY = "*"
"""In the table of what was shown: pages that came with a bundle, or are older than the table."""


def owner_of(source: str) -> str:
    """Return the index that a source is, without its login: another login does not give its names away."""
    return str(URL(source).with_user(None)) if "@" in source else source


@lru_cache(maxsize=64)
def claim(count: int) -> str:
    """Return the statement that records that an owner has so many projects.

    Its values are the owner, and the project and the moment of each.
    """
    return (
        f"INSERT INTO claims (owner, project, at) VALUES {placeholders(count, 2, 2, before='$1, ')}"
        " ON CONFLICT (owner, project) DO UPDATE SET at = excluded.at"
    )


CLAIM = claim(1)
"""The statement that records that an owner has a project."""


class Claims:
    """The tables of claims, releases, and of what was shown."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, repository: str, project: str, sources: Iterable[str]) -> set[str]:
        """Return which of these sources ever had a project that was not released in the repository since."""
        rows = await self._database.read(
            "SELECT owner FROM claims WHERE project = $1 AND at >"
            " coalesce((SELECT at FROM releases WHERE repository = $2 AND project = $1), -1)",
            project, repository,
        )  # fmt: skip
        owners = {owner_of(owner) for (owner,) in rows}
        return {source for source in sources if owner_of(source) in owners}

    async def names(self, repository: str, source: str) -> set[str]:
        """Return the names of all projects that a source ever had, without those released in the repository since."""
        rows = await self._database.read(
            "SELECT claims.project FROM claims LEFT JOIN releases"
            " ON releases.repository = $1 AND releases.project = claims.project"
            " WHERE owner IN ($2, $3) AND claims.at > coalesce(releases.at, -1)",
            repository, source, owner_of(source),
        )  # fmt: skip
        return {name for (name,) in rows}

    async def all_names(self, source: str) -> set[str]:
        """Return the names of all projects that a source ever had, whatever was released."""
        rows = await self._database.read("SELECT project FROM claims WHERE owner IN ($1, $2)", source, owner_of(source))
        return {name for (name,) in rows}

    async def released(self, repository: str) -> set[str]:
        """Return the names that were released in a repository, and that no source has had since."""
        rows = await self._database.read(
            "SELECT project FROM releases WHERE repository = $1 AND NOT EXISTS"
            " (SELECT 1 FROM claims WHERE claims.project = releases.project AND claims.at > releases.at)",
            repository,
        )
        return {project for (project,) in rows}

    async def former(self, repository: str) -> set[str]:
        """Return the uploaded projects all of whose files were deleted, without those released since."""
        rows = await self._database.read(
            "SELECT uploads.project FROM uploads LEFT JOIN releases"
            " ON releases.repository = uploads.repository AND releases.project = uploads.project"
            " WHERE uploads.repository = $1 GROUP BY uploads.project"
            " HAVING min(deleted) = 1 AND max(changed) > coalesce(max(releases.at), -1)",
            repository,
        )
        return {project for (project,) in rows}

    async def add(self, source: str, projects: Collection[str], at: float) -> None:
        """Record that a source has, or had until now, these projects."""
        names = sorted(projects)
        for start in range(0, len(names), NAMES_PER_STATEMENT):
            some = names[start : start + NAMES_PER_STATEMENT]
            await self._database.write(*((CLAIM, (owner_of(source), name, at)) for name in some))

    async def release(self, repository: str, project: str, at: float) -> int:
        """Record that no source of a repository owns a name any more, with an event; return the event's serial."""
        rows = await self._database.write(
            *record(at, f"uploads:{repository}", project, "release"),
            (
                "INSERT INTO releases (repository, project, at) VALUES ($1, $2, $3)"
                " ON CONFLICT (repository, project) DO UPDATE SET at = excluded.at",
                (repository, project, at),
            ),
            (UPLOADED_IN, (repository, at)),
        )
        serial: int = rows[1][0][0]
        return serial

    async def show(self, repository: str, project: str, source: str) -> None:
        """Record that a repository shows the project of a source that is not its first."""
        await self._database.write(
            (
                "INSERT INTO shown (repository, project, source) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                (repository, project, source),
            )
        )

    async def was_shown(self, repository: str, project: str, source: str) -> bool:
        """Return whether a repository has shown the project of a source before."""
        rows = await self._database.read(
            "SELECT 1 FROM shown WHERE repository IN ($1, $2) AND project = $3 AND source = $4",
            repository, ANY_REPOSITORY, project, source,
        )  # fmt: skip
        return bool(rows)
