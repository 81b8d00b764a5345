"""How much is held, kept by the transactions that change it: a great catalog is never counted to show a number.

Each statement here stands in a transaction before the one that changes the table, and computes from what is there by
then how the totals will change. A blob counts once, however many names it is held under.

The surprise: on PostgreSQL two transactions that add the same blob at the same time must not both count it. So what
changes files in a transaction with an event takes the serial first, which lets one of them wait for the other.
"""

import logging
from functools import lru_cache

from mirror.catalog.database import Database, Statement, placeholders

logger = logging.getLogger(__name__)

_SAME_NAME = "{0}.source = {1}.source AND {0}.project = {1}.project AND {0}.filename = {1}.filename"
_ADD_UP = (
    "UPDATE totals SET files = totals.files + change.files, bytes = totals.bytes + change.bytes FROM"
    " (SELECT CAST(coalesce(sum(files), 0) AS BIGINT) AS files, CAST(coalesce(sum(bytes), 0) AS BIGINT) AS bytes"
    " FROM changes) AS change"
)


def files_added(rows: str) -> str:
    """Return the statement that counts files which are about to be held, or to replace those of the same names.

    `rows` is a query of source, project, filename, digest and size, without two rows of one name.
    """
    return (
        f"WITH added (source, project, filename, digest, size) AS ({rows}), changes (files, bytes) AS ("
        " SELECT 1, size FROM (SELECT DISTINCT digest, size FROM added WHERE NOT EXISTS"
        " (SELECT 1 FROM files WHERE files.digest = added.digest)) AS fresh"
        " UNION ALL SELECT -1, -size FROM (SELECT DISTINCT files.digest, files.size FROM added JOIN files"
        f" ON {_SAME_NAME.format('files', 'added')} WHERE files.digest NOT IN (SELECT digest FROM added)"
        " AND NOT EXISTS (SELECT 1 FROM files AS other WHERE other.digest = files.digest AND NOT EXISTS"
        f" (SELECT 1 FROM added AS same WHERE {_SAME_NAME.format('same', 'other')}))) AS replaced) {_ADD_UP}"
    )


def file_removed(where: str) -> str:
    """Return the statement that counts the one file, if any, that is about to be removed by a condition."""
    return (
        "WITH changes (files, bytes) AS (SELECT -1, -size FROM files WHERE"
        f" {where} AND NOT EXISTS (SELECT 1 FROM files AS other WHERE other.digest = files.digest"
        f" AND NOT ({_SAME_NAME.format('other', 'files')}))) {_ADD_UP}"
    )


_HAS_PAGE = "EXISTS (SELECT 1 FROM pages WHERE source = $1 AND kind = 'project' AND name = $2 AND found = 1{})"
PAGE_REMOVED = f"UPDATE page_totals SET projects = projects - 1 WHERE source = $1 AND {_HAS_PAGE.format('')}"
"""Counts the page of a project that is about to go; its values are source and name."""
OLD_PAGE_REMOVED = (
    f"UPDATE page_totals SET projects = projects - 1 WHERE source = $1 AND {_HAS_PAGE.format(' AND checked < $3')}"
)
"""The same, unless upstream confirmed it at the third value or later."""


@lru_cache(maxsize=64)
def projects_added(count: int) -> str:
    """Return the statement that counts the pages of so many projects that are about to be stored.

    Its values are the source and the names.
    """
    return (
        "INSERT INTO page_totals (source, projects) SELECT CAST($1 AS TEXT), count(*)"
        f" FROM (VALUES {placeholders(count, 1, 2, ['TEXT'])}) AS added WHERE NOT EXISTS (SELECT 1 FROM pages"
        " WHERE source = $1 AND kind = 'project' AND name = added.column1 AND found = 1)"
        " ON CONFLICT (source) DO UPDATE SET projects = page_totals.projects + excluded.projects"
    )


STAGED_PAGES_ADDED = (
    "INSERT INTO page_totals (source, projects) SELECT staged.source, sum(staged.found - coalesce(pages.found, 0))"
    " FROM staged_pages AS staged LEFT JOIN pages ON pages.source = staged.source AND pages.kind = staged.kind"
    " AND pages.name = staged.name WHERE staged.bundle = $1 AND staged.kind = 'project' GROUP BY staged.source"
    " ON CONFLICT (source) DO UPDATE SET projects = page_totals.projects + excluded.projects"
)
"""Counts the pages of a bundle that are about to become visible."""


class CatalogTotals:
    """The tables of totals."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def files(self) -> tuple[int, int]:
        """Return how many blobs are held, and how many bytes they have."""
        ((files, size),) = await self._database.read("SELECT files, bytes FROM totals")
        return int(files), int(size)

    async def projects(self) -> dict[str, int]:
        """Return how many projects' pages are stored, by source, without those that have none."""
        rows = await self._database.read("SELECT source, projects FROM page_totals WHERE projects <> 0")
        return {source: int(projects) for source, projects in rows}

    async def recount(self) -> bool:
        """Count everything again, while others go on, and correct what differs; return whether anything did."""
        # What was kept and what is there, out of one view of the catalog: the difference is the fault, whatever
        # changes from then on.
        ((files, size),) = await self._database.scan(
            "SELECT blobs.files - totals.files, blobs.bytes - totals.bytes FROM totals, (SELECT count(*) AS files,"
            " coalesce(sum(size), 0) AS bytes FROM (SELECT DISTINCT digest, size FROM files) AS distinct_blobs)"
            " AS blobs"
        )
        pages = await self._database.scan(
            "SELECT source, sum(found) FROM (SELECT source, 1 AS found FROM pages WHERE kind = 'project' AND found = 1"
            " UNION ALL SELECT source, -projects FROM page_totals) AS counted GROUP BY source HAVING sum(found) <> 0"
        )
        wrong: list[Statement] = []
        if files or size:
            wrong.append(("UPDATE totals SET files = files + $1, bytes = bytes + $2", (int(files), int(size))))
        wrong += [
            (
                "INSERT INTO page_totals (source, projects) VALUES ($1, $2)"
                " ON CONFLICT (source) DO UPDATE SET projects = page_totals.projects + excluded.projects",
                (source, int(difference)),
            )
            for source, difference in pages
        ]
        if wrong:
            logger.warning(
                "the totals of the catalog were wrong by %d files, %d bytes and %d pages; they are corrected",
                files, size, sum(int(difference) for _, difference in pages),
            )  # fmt: skip
            await self._database.write(*wrong)
        return bool(wrong)
