"""What is held, project by project: for people who browse, and for mirrors that follow this one and begin.

Keyset pages over indexes, never the whole of a table in memory.
"""

from collections.abc import Sequence

import msgspec

from mirror.catalog.database import Database, Value


class HeldProject(msgspec.Struct, frozen=True, kw_only=True):
    """A project of which something is held."""

    name: str
    files: int
    """Held, without sidecars."""
    size: int
    """Bytes, with sidecars."""
    used: float
    """When one of its files was last fetched or stored, in seconds since the epoch."""


class Browse:
    """Reads the tables of files and pages by project."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def held(
        self,
        repository: str,
        sources: Sequence[str],
        *,
        like: str = "%",
        unlike: str = "",
        after: str = "",
        sidecar: str,
        limit: int,
    ) -> list[HeldProject]:
        """Return projects held from these sources or uploaded to the repository, by name, those after the name `after`.

        `like` and `unlike` are patterns from `contains` or `begins`; an empty `unlike` excludes nothing. `sidecar` is
        the ending of sidecars' file names.
        """
        fitting = (
            "project > $2 AND lower(project) LIKE lower($3) ESCAPE '!'"
            " AND ($4 = '' OR lower(project) NOT LIKE lower($4) ESCAPE '!')"
        )
        # The names of the page first, source by source in the order of the index, so that each stops after a few.
        parts = [
            f"SELECT DISTINCT project FROM files WHERE source = ${7 + number} AND {fitting}"
            " AND filename NOT LIKE $5 ESCAPE '!'"
            for number in range(len(sources))
        ]
        parts.append(f"SELECT DISTINCT project FROM uploads WHERE repository = $1 AND deleted = 0 AND {fitting}")
        names = _first(parts, "project", limit="$6")
        read = self._database.read if like == "%" else self._database.scan  # a search looks at every name
        rows = await read(
            "SELECT project, sum(CASE WHEN filename LIKE $5 ESCAPE '!' THEN 0 ELSE 1 END), sum(size), max(used) FROM ("
            f" SELECT project, filename, size, used FROM files WHERE source IN ({_numbered(7, sources)})"
            f" AND project IN ({names}) UNION ALL SELECT project, filename, size, uploaded FROM uploads"
            f" WHERE repository = $1 AND deleted = 0 AND project IN ({names})"
            ") AS held GROUP BY project ORDER BY project",
            repository, after, like, unlike, f"%{_literal(sidecar)}", limit, *sources,
        )  # fmt: skip
        return [HeldProject(name=name, files=int(files), size=int(size), used=used) for name, files, size, used in rows]

    async def among(self, repository: str, sources: Sequence[str], names: Sequence[str], *, sidecar: str) -> set[str]:
        """Return those of the names of which a file is held; `sidecar` is the ending of sidecars' file names."""
        if not names:
            return set()
        those = f"project IN ({_numbered(3, names)}) AND filename NOT LIKE $2 ESCAPE '!'"
        rows = await self._database.read(
            f"SELECT project FROM files WHERE source IN ({_numbered(3 + len(names), sources)}) AND {those}"
            f" UNION SELECT project FROM uploads WHERE repository = $1 AND deleted = 0 AND {those}",
            repository, f"%{_literal(sidecar)}", *names, *sources,
        )  # fmt: skip
        return {name for (name,) in rows}

    async def known(
        self, sources: Sequence[str], *, like: str = "%", unlike: str = "", after: str = "", limit: int
    ) -> list[str]:
        """Return the names of projects whose pages are stored, held or not; for the arguments see `held`."""
        parts = [
            f"SELECT name FROM pages WHERE source = ${5 + number} AND kind = 'project' AND found = 1"
            " AND name > $1 AND lower(name) LIKE lower($2) ESCAPE '!'"
            " AND ($3 = '' OR lower(name) NOT LIKE lower($3) ESCAPE '!')"
            for number in range(len(sources))
        ]
        if not parts:
            return []
        read = self._database.read if like == "%" else self._database.scan
        rows = await read(_first(parts, "name", limit="$4"), after, like, unlike, limit, *sources)
        return [name for (name,) in rows]


def contains(text: str) -> str:
    """Return the pattern of names that have `text` in them."""
    return f"%{_literal(text)}%"


def begins(text: str) -> str:
    """Return the pattern of names that begin with `text`."""
    return f"{_literal(text)}%"


def _first(parts: Sequence[str], column: str, limit: str) -> str:
    """Return the query of the first values of a column in several queries, each of which stops after as many."""
    each = (
        f"SELECT {column} FROM ({part} ORDER BY {column} LIMIT {limit}) AS part{number}"
        for number, part in enumerate(parts)
    )
    return f"SELECT {column} FROM ({' UNION '.join(each)}) AS parts ORDER BY {column} LIMIT {limit}"


def _numbered(first: int, values: Sequence[object]) -> str:
    return ", ".join(f"${number}" for number in range(first, first + len(values)))


def _literal(text: str) -> str:
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")


class HeldThing(msgspec.Struct, frozen=True):
    """A page (then without the other fields), a file or a sidecar."""

    project: str
    filename: str = ""
    digest: str = ""
    size: int = 0


class Contents:
    """Reads what is stored of several sources at once, by project."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def projects(self, sources: Sequence[str], repository: str, after: str, limit: int) -> list[str]:
        """Return at most `limit` names after `after`, sorted, of projects with a page, a file or an upload here."""
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
        """Return everything that is held of one project: its page first, if it has one."""
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
