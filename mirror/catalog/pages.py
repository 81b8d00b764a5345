"""Pages as upstream answered them: raw bodies, compressed, with what is needed to ask again conditionally."""

import asyncio
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import msgspec

from mirror.catalog.claims import CLAIM, claim
from mirror.catalog.database import Database, Value, placeholders
from mirror.catalog.feed import NEXT_SERIAL, event_sql
from mirror.catalog.totals import OLD_PAGE_REMOVED, PAGE_REMOVED, CatalogTotals, projects_added
from mirror.model import Page, Stamp, UpstreamResponse

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


_REMOVED = event_sql(
    unless="SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM pages WHERE source = $2 AND kind = $7 AND name = $3 AND found = 1)"
)


UNPACKED_IN_LOOP_BYTES = 64 << 10
"""Bytes of a compressed page up to which unpacking it is quicker than the hop to a thread."""
COMPRESSED_IN_LOOP_BYTES = 128 << 10
"""Bytes up to which compressing for the store is quicker than the hop to a thread: a tenth of a millisecond."""
LEVEL = 3
"""How well bodies are compressed, from 1 to 22."""
REUSED_COMPRESSOR_BYTES = 32 << 10
"""Bytes of a body up to which making a compressor takes longer than compressing."""
_COMPRESSOR = zstd.ZstdCompressor(LEVEL)
MISSING_AT_ONCE = 1000
"""Pages that are missing upstream of which one statement forgets."""


class PageRow(msgspec.Struct, frozen=True, kw_only=True):
    """A stored page, without its body."""

    stamp: Stamp
    url: str = ""
    content_type: str = ""
    etag: str | None = None
    last_modified: str | None = None
    serial: int | None = None


@lru_cache(maxsize=64)
def _changed(count: int) -> str:
    """Return the statement that appends events for those of so many pages whose revision is not stored.

    Its values are their number, the source, and of each: its own number, moment, name, kind and revision.
    """
    types = ("BIGINT", "DOUBLE PRECISION", "TEXT", "TEXT", "TEXT")  # those of the first row are those of all
    return (
        "INSERT INTO feed (serial, at, source, project, kind, filename, detail)"
        " SELECT counters.value - $1 + page.column1, page.column2, CAST($2 AS TEXT), page.column3, page.column4, '',"
        f" '{{}}' FROM counters, (VALUES {placeholders(count, 5, 3, types)}) AS page WHERE counters.name = 'feed'"
        " AND NOT EXISTS (SELECT 1 FROM pages WHERE pages.source = $2 AND pages.kind = page.column4"
        " AND pages.name = page.column3 AND pages.found = 1 AND pages.revision = page.column5)"
        " RETURNING serial, project, kind"
    )


@lru_cache(maxsize=64)
def _stored(count: int) -> str:
    """Return the statement that stores so many pages."""
    return (
        "INSERT INTO pages (source, found, kind, name, checked, revision,"
        " url, content_type, etag, last_modified, serial, body)"
        f" VALUES {placeholders(count, 10, 2, before='$1, 1, ')}"
        " ON CONFLICT (source, kind, name) DO UPDATE SET checked = excluded.checked, found = 1,"
        " revision = excluded.revision, url = excluded.url, content_type = excluded.content_type,"
        " etag = excluded.etag, last_modified = excluded.last_modified, serial = excluded.serial,"
        " body = excluded.body"
    )


async def _packed(body: bytes) -> bytes:
    """Return a body as it is stored."""
    if len(body) <= REUSED_COMPRESSOR_BYTES:
        return _COMPRESSOR.compress(body, _COMPRESSOR.FLUSH_FRAME)
    large = len(body) > COMPRESSED_IN_LOOP_BYTES
    return await asyncio.to_thread(zstd.compress, body, LEVEL) if large else zstd.compress(body, LEVEL)


class Pages:
    """The table of pages, by source and address."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._totals = CatalogTotals(database)

    async def get(self, source: str, page: Page) -> PageRow | None:
        """Return what is known of a page, or None."""
        rows = await self._database.find(
            "SELECT checked, found, revision, url, content_type, etag, last_modified, serial"
            " FROM pages WHERE source = $1 AND kind = $2 AND name = $3",
            source, page.kind, page.name,
        )  # fmt: skip
        for checked, found, revision, url, content_type, etag, last_modified, serial in rows:
            return PageRow(
                stamp=Stamp(checked, bool(found), revision),
                url=url,
                content_type=content_type,
                etag=etag,
                last_modified=last_modified,
                serial=serial,
            )
        return None

    async def read(self, source: str, page: Page) -> tuple[str, UpstreamResponse] | None:
        """Return the stored response and its revision; None when none is stored or readable, or upstream has none."""
        packed = await self.read_packed(source, page)
        if packed is None:
            return None
        revision, response = packed
        try:
            if len(response.body) <= UNPACKED_IN_LOOP_BYTES:
                body = zstd.decompress(response.body)
            else:
                body = await asyncio.to_thread(zstd.decompress, response.body)
        except zstd.ZstdError:
            return None
        return revision, msgspec.structs.replace(response, body=body)

    async def read_packed(self, source: str, page: Page) -> tuple[str, UpstreamResponse] | None:
        """Return the stored response, with its body in zstd, and its revision; None where there is none."""
        rows = await self._database.read(
            "SELECT revision, url, content_type, etag, last_modified, serial, body"
            " FROM pages WHERE source = $1 AND kind = $2 AND name = $3 AND found = 1",
            source, page.kind, page.name,
        )  # fmt: skip
        for revision, url, content_type, etag, last_modified, serial, body in rows:
            return revision, UpstreamResponse(
                url=url,
                content_type=content_type,
                body=body,
                etag=etag,
                last_modified=last_modified,
                serial=serial,
            )
        return None

    async def answer(self, source: str, page: Page) -> UpstreamResponse | None:
        """Return the stored response, or None; see `read`."""
        found = await self.read(source, page)
        return None if found is None else found[1]

    async def serials(self, source: str) -> dict[str, int]:
        """Return the serial of each stored project page that has one, by the project's name."""
        return dict(
            await self._database.read(
                "SELECT name, serial FROM pages"
                " WHERE source = $1 AND kind = 'project' AND found = 1 AND serial IS NOT NULL",
                source,
            )
        )

    async def put(self, source: str, page: Page, answer: UpstreamResponse, stamp: Stamp, owner: str = "") -> int | None:
        """Store an answer; see `put_all`. Returns the event's serial, or None."""
        return (await self.put_all(source, {page: (answer, stamp)}, owner)).get(page)

    async def put_all(
        self, source: str, answers: Mapping[Page, tuple[UpstreamResponse, Stamp]], owner: str = ""
    ) -> dict[Page, int]:
        """Store answers, and in the same transaction an event for each whose revision is a new one.

        The pages of projects make their names those of `owner`, the source if there is none. Returns the serial of each
        event.
        """
        changes: list[Value] = [len(answers), source]
        rows: list[Value] = [source]
        names: list[Value] = []
        claims: list[Value] = [owner or source]
        for number, (page, (answer, stamp)) in enumerate(answers.items(), 1):
            changes += number, stamp.checked, page.name, page.kind, stamp.revision
            rows += page.kind, page.name, stamp.checked, stamp.revision, answer.url, answer.content_type
            rows += answer.etag, answer.last_modified, answer.serial, await _packed(answer.body)
            if page.kind == "project":
                names.append(page.name)
                claims += page.name, stamp.checked
        projects = len(names)
        _, events, *_ = await self._database.write(
            ("UPDATE counters SET value = value + $1 WHERE name = 'feed'", (len(answers),)),
            (_changed(len(answers)), changes),
            *([(projects_added(projects), (source, *names))] if projects else []),
            (_stored(len(answers)), rows),
            *([(claim(projects), claims)] if projects else []),
        )
        return {Page(kind, name): serial for serial, name, kind in events}

    async def touch(self, source: str, page: Page, stamp: Stamp) -> bool:
        """Record that upstream has confirmed the page; return False where another revision of it is stored."""
        (confirmed,) = await self._database.write(
            ("UPDATE pages SET checked = $4 WHERE source = $1 AND kind = $2 AND name = $3"
             " AND found = 1 AND revision = $5 RETURNING 1",
             (source, page.kind, page.name, stamp.checked, stamp.revision)),
        )  # fmt: skip
        return bool(confirmed)

    async def miss(self, source: str, page: Page, checked: float, owner: str = "") -> int | None:
        """Record that upstream has no such page; return the serial of the event when there had been one.

        `owner` is who owns its name from now on, where upstream says itself that there was such a page.
        """
        kind = "removed" if page.kind == "project" else page.kind
        rows = await self._database.write(
            NEXT_SERIAL,
            (_REMOVED, (checked, source, page.name, kind, "", "{}", page.kind)),
            *([(PAGE_REMOVED, (source, page.name))] if page.kind == "project" else []),
            (
                "INSERT INTO pages (source, kind, name, checked, found, revision, url, content_type, body)"
                " VALUES ($1, $2, $3, $4, 0, '', '', '', $5)"
                " ON CONFLICT (source, kind, name) DO UPDATE SET checked = excluded.checked, found = 0,"
                " etag = NULL, last_modified = NULL",
                (source, page.kind, page.name, checked, b""),
            ),
            *([(CLAIM, (owner, page.name, checked))] if owner and page.kind == "project" else []),
        )  # fmt: skip
        return rows[1][0][0] if rows[1] else None

    async def forget(self, source: str, project: str, before: float) -> None:
        """Remove the stored page of a project, unless upstream confirmed it at `before` or later."""
        values = (source, project, before)
        await self._database.write(
            (OLD_PAGE_REMOVED, values),
            ("DELETE FROM pages WHERE source = $1 AND kind = 'project' AND name = $2 AND checked < $3", values),
        )

    async def trim_missing(self, source: str, before: float, most: int) -> int:
        """Forget pages that a source never had: those checked before a moment, and the oldest beyond so many.

        Returns how many went, at most `MISSING_AT_ONCE`.
        """
        rows = await self._database.read(
            "SELECT checked FROM pages WHERE source = $1 AND found = 0 AND revision = ''"
            " ORDER BY checked DESC LIMIT 1 OFFSET $2",
            source, most,
        )  # fmt: skip
        oldest = max(before, rows[0][0]) if rows else before
        (gone,) = await self._database.write(
            (
                "DELETE FROM pages WHERE (source, kind, name) IN (SELECT source, kind, name FROM pages"
                " WHERE source = $1 AND found = 0 AND revision = '' AND checked <= $2 ORDER BY checked LIMIT $3)"
                " RETURNING 1",
                (source, oldest, MISSING_AT_ONCE),
            )
        )
        return len(gone)

    async def known(self, source: str, kind: str) -> list[str]:
        """Return the names of all stored pages of one kind, sorted."""
        rows = await self._database.read(
            "SELECT name FROM pages WHERE source = $1 AND kind = $2 AND found = 1 ORDER BY name", source, kind
        )
        return [name for (name,) in rows]

    async def states(self, fresh: Mapping[str, float]) -> dict[Literal["fresh", "stale", "missing"], int]:
        """Return how many projects' pages are in which state.

        `fresh`: source → since when a page must have been checked.
        """
        stored = await self._totals.projects()
        counting = (
            "SELECT (SELECT count(*) FROM pages WHERE source = $1 AND kind = 'project' AND found = 1"
            " AND checked >= $2), (SELECT count(*) FROM pages WHERE source = $1 AND kind = 'project' AND found = 0)"
        )
        states: dict[Literal["fresh", "stale", "missing"], int] = {"fresh": 0, "stale": 0, "missing": 0}
        for source, since in fresh.items():
            ((young, missing),) = await self._database.scan(counting, source, since)
            states["fresh"] += young
            states["stale"] += max(0, stored.get(source, 0) - young)
            states["missing"] += missing
        return states

    async def totals(self) -> dict[str, int]:
        """Return how many projects' pages are stored, by source."""
        return await self._totals.projects()
