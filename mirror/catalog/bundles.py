"""What bundles read from the catalog and write into it: staged out of sight, then made visible in one transaction."""

import secrets
import sys
from collections.abc import Sequence

import msgspec

from mirror.catalog.database import Database, Statement, Value
from mirror.catalog.feed import UPLOADED_IN, record
from mirror.catalog.logs import COUNT_CHANGE
from mirror.catalog.totals import STAGED_PAGES_ADDED, files_added
from mirror.catalog.uploads import UploadRow, writing

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class StoredPage(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table of pages, without its body."""

    source: str
    kind: str
    name: str
    checked: float
    found: bool
    revision: str = ""
    url: str = ""
    content_type: str = ""
    etag: str | None = None
    last_modified: str | None = None
    serial: int | None = None


class RemovedRow(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a file that upstream no longer lists."""

    filename: str
    since: float
    why: str
    facts: bytes


class StagedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file or sidecar that will be held."""

    event: str
    """`file` or `sidecar`."""
    source: str
    project: str
    filename: str
    digest: str
    size: int


class ImportedSerials(msgspec.Struct, frozen=True):
    """The serials up to which content of another mirror was imported."""

    whole: int = 0
    """Everything up to this serial of its journal was imported."""
    newest: int = 0
    """The highest serial that any of its bundles had."""


class ImportedLog(msgspec.Struct, frozen=True, kw_only=True):
    """A change of a log: an addition to its end, or other content."""

    name: str
    content: bytes
    replace: bool


class BundleImport(msgspec.Struct, frozen=True, kw_only=True):
    """The changes that become visible together with the pages and files that are staged for a bundle."""

    bundle: str
    origin: str
    seen: ImportedSerials
    """From now on."""
    at: float
    pages: int
    """How many are staged."""
    files: int
    removed: Sequence[tuple[str, str, RemovedRow]] = ()
    """(source, project, row): all removed files of the projects whose pages are staged."""
    uploads: Sequence[tuple[str, UploadRow]] = ()
    """With the kind of their events."""
    logs: Sequence[ImportedLog] = ()


_PAGE = "source, kind, name, checked, found, revision, url, content_type, etag, last_modified, serial"
_PAGE_CHANGES = ", ".join(f"{name} = excluded.{name}" for name in (*_PAGE.split(", ")[3:], "body"))
ROWS_PER_TRANSACTION = 200
"""Rows that are staged in one transaction."""


class Bundles:
    """The tables of bundles, and the content of other tables as a bundle needs it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def node(self) -> str:
        """Return the identity of this node, which the first call makes up."""
        await self._database.write(
            ("INSERT INTO node (only_row, id) VALUES (1, $1) ON CONFLICT DO NOTHING", (secrets.token_hex(16),))
        )
        ((node,),) = await self._database.read("SELECT id FROM node")
        return str(node)

    async def seen(self) -> dict[str, ImportedSerials]:
        """Return the imported serials of every mirror from which a bundle was imported."""
        rows = await self._database.read("SELECT origin, whole, newest FROM imports")
        return {origin: ImportedSerials(int(whole), int(newest)) for origin, whole, newest in rows}

    async def moment(self) -> tuple[int, int, int]:
        """Return numbers that differ when a bundle's content may have changed; the first is the journal's serial."""
        ((serial, chunks, size),) = await self._database.read(
            "SELECT (SELECT value FROM counters WHERE name = 'feed'), count(*), coalesce(sum(length(body)), 0)"
            " FROM logs"
        )
        return int(serial), int(chunks), int(size)

    async def pages(self, source: str) -> list[StoredPage]:
        """Return every page of a source, including those that upstream no longer has."""
        rows = await self._database.read(f"SELECT {_PAGE} FROM pages WHERE source = $1 ORDER BY kind, name", source)
        names = _PAGE.split(", ")
        return [
            StoredPage(**fields | {"found": bool(fields["found"])})
            for fields in (dict(zip(names, row, strict=True)) for row in rows)
        ]

    async def removed(self, source: str) -> dict[str, list[RemovedRow]]:
        """Return the removed files of a source, by project."""
        found: dict[str, list[RemovedRow]] = {}
        rows = await self._database.read(
            "SELECT project, filename, since, why, facts FROM removed WHERE source = $1 ORDER BY project, filename",
            source,
        )
        for project, filename, since, why, facts in rows:
            found.setdefault(project, []).append(RemovedRow(filename=filename, since=since, why=why, facts=facts))
        return found

    async def files(self, source: str) -> list[tuple[str, str, str, int]]:
        """Return (project, filename, digest, size) of everything that is held from a source."""
        rows = await self._database.read(
            "SELECT project, filename, digest, size FROM files WHERE source = $1 ORDER BY project, filename", source
        )
        return [(project, filename, digest, int(size)) for project, filename, digest, size in rows]

    # Taking in

    async def clear(self, keep: str = "") -> None:
        """Drop what is staged for all bundles but one."""
        await self._database.write(
            ("DELETE FROM staged_pages WHERE bundle <> $1", (keep,)),
            ("DELETE FROM staged_files WHERE bundle <> $1", (keep,)),
        )

    async def staged(self, bundle: str) -> set[int]:
        """Return the places of the pages that are staged for a bundle, perhaps by a process that was killed."""
        rows = await self._database.read("SELECT place FROM staged_pages WHERE bundle = $1", bundle)
        return {int(place) for (place,) in rows}

    async def stage_page(self, bundle: str, place: int, page: StoredPage, body: bytes) -> None:
        """Stage one page; one that is staged already stays."""
        event = page.kind if page.found else "removed"
        values: list[Value] = [
            page.source, page.kind, page.name, page.checked, int(page.found), page.revision, page.url,
            page.content_type, page.etag, page.last_modified, page.serial,
            zstd.compress(body, 3) if page.found else b"",
        ]  # fmt: skip
        numbers = ", ".join(f"${number}" for number in range(4, 4 + len(values)))
        await self._database.write(
            (
                f"INSERT INTO staged_pages (bundle, place, event, {_PAGE}, body) VALUES ($1, $2, $3, {numbers})"
                " ON CONFLICT DO NOTHING",
                (bundle, place, event, *values),
            )
        )

    async def stage_files(self, bundle: str, files: Sequence[StagedFile]) -> None:
        """Stage these files, and no others."""
        await self._database.write(("DELETE FROM staged_files WHERE bundle = $1", (bundle,)))
        for start in range(0, len(files), ROWS_PER_TRANSACTION):
            await self._database.write(
                *(
                    (
                        "INSERT INTO staged_files (bundle, place, event, source, project, filename, digest, size)"
                        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
                        (bundle, place, one.event, one.source, one.project, one.filename, one.digest, one.size),
                    )
                    for place, one in enumerate(files[start : start + ROWS_PER_TRANSACTION], start + 1)
                )
            )

    async def announce(self, origin: str, at: float) -> None:
        """Let a serving mirror read the journal more often: an import is about to happen."""
        await self._database.write(*record(at, f"bundle:{origin}", "", "importing"))

    async def take(self, change: BundleImport) -> int:
        """Make everything staged visible at once; return the serial of the import's event, which is the first one."""
        statements: list[Statement] = [
            *record(change.at, f"bundle:{change.origin}", "", "import"),
            *_events("staged_pages", "staged_pages.name", "''", change.bundle, change.pages, change.at),
            (STAGED_PAGES_ADDED, (change.bundle,)),
            (
                f"INSERT INTO pages ({_PAGE}, body) SELECT {_PAGE}, body FROM staged_pages WHERE bundle = $1"
                f" ON CONFLICT (source, kind, name) DO UPDATE SET {_PAGE_CHANGES}",
                (change.bundle,),
            ),
            (
                "INSERT INTO claims (owner, project, at) SELECT source, name, checked FROM staged_pages"
                " WHERE bundle = $1 AND kind = 'project' AND found = 1"
                " ON CONFLICT (owner, project) DO UPDATE SET at = excluded.at",
                (change.bundle,),
            ),
            (
                "INSERT INTO shown (repository, project, source) SELECT '*', name, source FROM staged_pages"
                " WHERE bundle = $1 AND kind = 'project' AND found = 1 ON CONFLICT DO NOTHING",
                (change.bundle,),
            ),
            (
                "DELETE FROM removed WHERE (source, project) IN"
                " (SELECT source, name FROM staged_pages WHERE bundle = $1 AND kind = 'project')",
                (change.bundle,),
            ),
            *(
                (
                    "INSERT INTO removed (source, project, filename, since, why, facts)"
                    " VALUES ($1, $2, $3, $4, $5, $6)",
                    (source, project, row.filename, row.since, row.why, row.facts),
                )
                for source, project, row in change.removed
            ),
            *_events("staged_files", "project", "filename", change.bundle, change.files, change.at),
            (
                files_added("SELECT source, project, filename, digest, size FROM staged_files WHERE bundle = $1"),
                (change.bundle,),
            ),
            (
                "INSERT INTO files (source, project, filename, digest, size, stored, used, uses)"
                " SELECT source, project, filename, digest, size, $2, $2, 0 FROM staged_files WHERE bundle = $1"
                " ON CONFLICT (source, project, filename) DO UPDATE SET digest = excluded.digest,"
                " size = excluded.size, stored = excluded.stored",
                (change.bundle, change.at),
            ),
        ]
        statements += _upload_statements(change)
        statements += _log_statements(change)
        statements += [
            (
                "INSERT INTO imports (origin, whole, newest) VALUES ($1, $2, $3)"
                " ON CONFLICT (origin) DO UPDATE SET whole = excluded.whole, newest = excluded.newest",
                (change.origin, change.seen.whole, change.seen.newest),
            ),
            ("DELETE FROM staged_pages", ()),
            ("DELETE FROM staged_files", ()),
        ]
        rows = await self._database.write(*statements)
        serial: int = rows[1][0][0]
        return serial

    # Records beside the files

    async def unrecorded(self) -> list[tuple[str, str]]:
        """Return (repository, filename) of the uploads whose records have not been written yet."""
        return [(repository, name) for repository, name in await self._database.read("SELECT * FROM unrecorded")]

    async def recorded(self, uploads: Sequence[tuple[str, str]]) -> None:
        """Note that the records of these uploads were written."""
        if uploads:
            await self._database.write(
                *(("DELETE FROM unrecorded WHERE repository = $1 AND filename = $2", one) for one in uploads)
            )


def _upload_statements(change: BundleImport) -> list[Statement]:
    """Return the statements that write the uploads of a bundle, with their events."""
    statements: list[Statement] = []
    for kind, row in change.uploads:
        upload = row.upload
        statements += [
            *record(change.at, f"uploads:{upload.repository}", upload.project, kind, upload.filename),
            writing(row),
            (UPLOADED_IN, (upload.repository, change.at)),
            (
                "INSERT INTO unrecorded (repository, filename) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                (upload.repository, upload.filename),
            ),
        ]
    return statements


def _log_statements(change: BundleImport) -> list[Statement]:
    """Return the statements that write the logs of a bundle."""
    statements: list[Statement] = [COUNT_CHANGE] if change.logs else []
    for log in change.logs:
        # A number is left out in front of what replaces a log, as in `Logs`.
        statements.append(
            (
                "INSERT INTO logs (name, seq, body)"
                f" SELECT $1, coalesce(max(seq), 0) + {2 if log.replace else 1}, $2 FROM logs WHERE name = $1",
                (log.name, zstd.compress(log.content, 3)),
            )
        )
        if log.replace:
            newest = "(SELECT max(seq) FROM logs WHERE name = $1)"
            statements.append((f"DELETE FROM logs WHERE name = $1 AND seq < {newest}", (log.name,)))
        statements.append(
            (
                "INSERT INTO log_times (name, seq, at) SELECT $1, max(seq), current_seconds($2) FROM logs"
                " WHERE name = $1 ON CONFLICT (name) DO UPDATE SET seq = excluded.seq,"
                " at = CASE WHEN excluded.at > log_times.at + 1 THEN excluded.at ELSE log_times.at + 1 END",
                (log.name, change.at),
            )
        )
    return statements


def _events(table: str, project: str, filename: str, bundle: str, count: int, at: float) -> tuple[Statement, Statement]:
    """Return the statements that append an event for each staged row, in the order of their places."""
    return (
        ("UPDATE counters SET value = value + $1 WHERE name = 'feed'", (count,)),
        (
            "INSERT INTO feed (serial, at, source, project, kind, filename, detail)"
            f" SELECT counters.value - $1 + row_number() OVER (ORDER BY place), $2, source, {project}, event,"
            f" {filename}, '{{}}'"
            f" FROM {table}, counters WHERE bundle = $3 AND counters.name = 'feed'",
            (count, at, bundle),
        ),
    )
