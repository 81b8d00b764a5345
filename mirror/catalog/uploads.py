"""Files of our own: the table from which pages are made. The truth about them stands beside the files."""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from mirror.catalog.database import Database, Row, Statement, among
from mirror.catalog.feed import APPEND_EVENT, NEXT_SERIAL, UPLOADED_IN


class Upload(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one file of our own that its bytes do not contain."""

    repository: str
    project: str
    filename: str
    digest: str
    size: int
    uploaded: float
    """Seconds since the epoch, to the millisecond."""
    changed: float
    """When it was last uploaded, yanked, un-yanked or deleted: rises within a project, also when the clock does not."""
    uploader: str
    origin: str
    """Where it came from: an address, or a path on this machine."""
    yanked: str | None = None
    """The reason, which may be empty; None when it is not yanked."""
    deleted: bool = False
    """Its bytes are gone, and its name is never used again."""
    attestations: str = ""
    """The document about its attestations that is served, if it came with any."""


class UploadRow(msgspec.Struct, frozen=True, kw_only=True):
    """An upload, with what was read from the file."""

    upload: Upload
    sidecar: str
    """The digest of its sidecar; empty when deleted."""
    facts: str
    """A `model.File` as JSON; empty when deleted."""


class _Version(msgspec.Struct):
    """The part of the facts that two spellings of a name have in common."""

    version: str


RECORDED = (
    "repository, project, filename, digest, size, uploaded, changed, uploader, origin, yanked, deleted, attestations"
)
"""The columns of what a record has."""
_COLUMNS = f"{RECORDED}, sidecar, facts"


def recorded_upload(row: Row) -> Upload:
    """Return the upload that the columns of RECORDED are about."""
    fields = dict(zip(RECORDED.split(", "), row, strict=True))
    return Upload(**fields | {"deleted": bool(fields["deleted"])})


def _row(row: Row) -> UploadRow:
    *recorded, sidecar, facts = row
    return UploadRow(upload=recorded_upload(tuple(recorded)), sidecar=sidecar, facts=facts)


def writing(row: UploadRow) -> Statement:
    """Return the statement that writes an upload as it is now."""
    upload = row.upload
    return (
        f"INSERT INTO uploads ({_COLUMNS})"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
        " ON CONFLICT (repository, filename) DO UPDATE SET project = excluded.project,"
        " digest = excluded.digest, size = excluded.size, uploaded = excluded.uploaded,"
        " changed = excluded.changed, uploader = excluded.uploader, origin = excluded.origin,"
        " yanked = excluded.yanked, deleted = excluded.deleted, attestations = excluded.attestations,"
        " sidecar = excluded.sidecar, facts = excluded.facts",
        (
            upload.repository, upload.project, upload.filename, upload.digest, upload.size, upload.uploaded,
            upload.changed, upload.uploader, upload.origin, upload.yanked, int(upload.deleted),
            upload.attestations, row.sidecar, row.facts,
        ),
    )  # fmt: skip


def unchanged_since(repository: str, project: str, newest: float) -> Statement:
    """Return the statement that makes its transaction fail where a project has changed after `newest`.

    It adds a row without a name then, which the table does not allow.
    """
    return (
        "INSERT INTO uploads (repository, project, filename) SELECT $1, $2, NULL WHERE $3 <>"
        " (SELECT coalesce(max(changed), 0) FROM uploads WHERE repository = $1 AND project = $2)",
        (repository, project, newest),
    )


class Uploads:
    """The table of uploads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, repository: str, filename: str) -> UploadRow | None:
        """Return the upload of that name, deleted or not, or None."""
        rows = await self._database.read(
            f"SELECT {_COLUMNS} FROM uploads WHERE repository = $1 AND filename = $2", repository, filename
        )
        return _row(rows[0]) if rows else None

    async def of_project(self, repository: str, project: str) -> list[UploadRow]:
        """Return every upload of a project, including deleted ones, in the order in which they came."""
        rows = await self._database.read(
            f"SELECT {_COLUMNS} FROM uploads WHERE repository = $1 AND project = $2 ORDER BY uploaded, filename",
            repository, project,
        )  # fmt: skip
        return [_row(row) for row in rows]

    async def newest(self, repository: str, project: str) -> float:
        """Return when a project last changed; 0 when it never had an upload."""
        rows = await self._database.read(
            "SELECT coalesce(max(changed), 0) FROM uploads WHERE repository = $1 AND project = $2", repository, project
        )
        return float(rows[0][0])

    async def projects(self, repository: str) -> dict[str, float]:
        """Return when each project last changed that has a file which is not deleted, by its name, sorted."""
        rows = await self._database.read(
            "SELECT project, max(changed) FROM uploads WHERE repository = $1"
            " GROUP BY project HAVING min(deleted) = 0 ORDER BY project",
            repository,
        )
        return dict(rows)

    async def put_all(
        self,
        rows: Sequence[tuple[UploadRow, str]],
        kind: str,
        source: str,
        newest: Mapping[tuple[str, str], float] | None = None,
    ) -> list[int]:
        """Write uploads of a repository, each with an event of that kind and its detail; return the serials.

        `newest` has by repository and project when these changed last, as far as the caller knows. Raises
        ConstraintViolation where that is no longer so, and then nothing is written: all is one transaction.
        """
        if not rows:
            return []
        before = [unchanged_since(*place, changed) for place, changed in (newest or {}).items()]
        before += [
            (UPLOADED_IN, (name, rows[0][0].upload.changed)) for name in {row.upload.repository for row, _ in rows}
        ]
        statements: list[Statement] = []
        for row, detail in rows:
            upload = row.upload
            event = (upload.changed, source, upload.project, kind, upload.filename, detail)
            statements += [NEXT_SERIAL, (APPEND_EVENT, event), writing(row)]
        results = (await self._database.write(*before, *statements))[len(before) :]
        return [serial for ((serial,),) in results[1::3]]

    async def rename(self, filename: str, row: UploadRow, source: str) -> None:
        """Put an upload in the place of the one that was named `filename`, with the events that others follow."""
        upload = row.upload
        place = (upload.changed, source, upload.project)
        await self._database.write(
            ("DELETE FROM uploads WHERE repository = $1 AND filename = $2", (upload.repository, filename)),
            writing(row),
            NEXT_SERIAL,
            (APPEND_EVENT, (*place, "delete", filename, "{}")),
            NEXT_SERIAL,
            (APPEND_EVENT, (*place, "upload", upload.filename, "{}")),
        )

    async def all(self, repository: str) -> list[UploadRow]:
        """Return every upload, including deleted ones."""
        rows = await self._database.read(
            f"SELECT {_COLUMNS} FROM uploads WHERE repository = $1 ORDER BY filename", repository
        )
        return [_row(row) for row in rows]

    async def behind(self, repository: str, filename: str, most: int) -> list[UploadRow]:
        """Return the next uploads of all repositories behind one, by repository and file name."""
        rows = await self._database.read(
            f"SELECT {_COLUMNS} FROM uploads WHERE (repository, filename) > ($1, $2)"
            " ORDER BY repository, filename LIMIT $3",
            repository, filename, most,
        )  # fmt: skip
        return [_row(row) for row in rows]

    async def count(self, repository: str) -> int:
        """Return how many uploads are recorded, including deleted ones."""
        rows = await self._database.read("SELECT count(*) FROM uploads WHERE repository = $1", repository)
        return int(rows[0][0])

    async def uses(self, digests: Collection[str]) -> set[str]:
        """Return which of these blobs any upload needs, for itself or as its sidecar."""
        return await among(
            self._database,
            "SELECT blob FROM (SELECT digest AS blob FROM uploads WHERE deleted = 0"
            " UNION SELECT sidecar FROM uploads WHERE deleted = 0) AS ours WHERE blob IN ({})",
            digests,
        )

    async def blobs(self) -> set[str]:
        """Return every blob that any upload needs."""
        rows = await self._database.read(
            "SELECT digest FROM uploads WHERE deleted = 0 UNION SELECT sidecar FROM uploads WHERE deleted = 0"
        )
        return {digest for (digest,) in rows}

    async def totals(self) -> tuple[int, int]:
        """Return how many files of our own there are, and how many bytes they have."""
        rows = await self._database.read("SELECT count(*), coalesce(sum(size), 0) FROM uploads WHERE deleted = 0")
        return int(rows[0][0]), int(rows[0][1])
