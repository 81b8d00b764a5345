"""What is held: the blob of each file or sidecar that a source lists, and when it was last used."""

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

import msgspec

from mirror.catalog.database import VALUES_PER_QUERY, Database, Row, Statement, among
from mirror.catalog.feed import APPEND_EVENT, NEXT_SERIAL, record_all
from mirror.catalog.totals import CatalogTotals, file_removed, files_added
from mirror.errors import StorageError

FILES_PER_STATEMENT = 100
"""Files that one statement writes."""
FEW_FILES = 32
"""Files of a project up to which looking for them is quick enough for `Database.find`."""


class HeldFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file or sidecar whose bytes we have."""

    source: str
    project: str
    filename: str
    digest: str
    size: int
    stored: float = 0
    used: float = 0
    uses: int = 0


FILE_COLUMNS = "source, project, filename, digest, size, stored, used, uses"


def held_file(row: Row) -> HeldFile:
    """Return a file from a row of FILE_COLUMNS."""
    source, project, filename, digest, size, stored, used, uses = row
    return HeldFile(
        source=source, project=project, filename=filename, digest=digest, size=size,
        stored=stored, used=used, uses=uses,
    )  # fmt: skip


@lru_cache(maxsize=2 * FILES_PER_STATEMENT)
def _adding(count: int, kind: str) -> str:
    """Return the statement that adds so many files, or as many sidecars, each with six values."""
    rows = (", ".join(f"${6 * row + at}" for at in (1, 2, 3, 4, 5, 6, 6)) for row in range(count))
    # A file that is held already is left as it is: a process that stood still may come late. A sidecar that was made
    # again holds for the file that is there now.
    stored = "excluded.stored"
    if kind != "sidecar":
        stored = "CASE WHEN files.digest = excluded.digest THEN files.stored ELSE excluded.stored END"
    return (
        f"INSERT INTO files ({FILE_COLUMNS}) VALUES {', '.join(f'({row}, 0)' for row in rows)}"
        " ON CONFLICT (source, project, filename) DO UPDATE SET digest = excluded.digest,"
        f" size = excluded.size, stored = {stored}"
    )


@lru_cache(maxsize=FILES_PER_STATEMENT)
def _counting(count: int) -> str:
    """Return the statement that counts so many files that are about to be added, each with five values."""
    rows = [
        f"(${5 * row + 1}, ${5 * row + 2}, ${5 * row + 3}, ${5 * row + 4}, CAST(${5 * row + 5} AS BIGINT))"
        for row in range(count)
    ]
    return files_added(f"VALUES {', '.join(rows)}")


def _adding_all(files: Sequence[HeldFile], kind: str) -> list[Statement]:
    """Return the statements that count and add files of one kind, no two of which have the same name."""
    counted = [value for one in files for value in (one.source, one.project, one.filename, one.digest, one.size)]
    added = [
        value for one in files for value in (one.source, one.project, one.filename, one.digest, one.size, one.stored)
    ]
    return [(_counting(len(files)), counted), (_adding(len(files), kind), added)]


_THIS_FILE = "source = $1 AND project = $2 AND filename = $3"


class Files:
    """The table of held files."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._totals = CatalogTotals(database)
        self._uses: dict[tuple[str, str, str], tuple[int, float]] = {}

    def note_use(self, source: str, project: str, filename: str, at: float) -> None:
        """Note that a file was requested; recorded by the next `flush_uses`. Costs a look-up."""
        key = (source, project, filename)
        self._uses[key] = self._uses.get(key, (0, 0.0))[0] + 1, at

    async def flush_uses(self) -> None:
        """Record the uses that were noted. Raises StorageError, and then keeps them."""
        uses, self._uses = self._uses, {}
        try:
            if uses:
                await self.used((*key, count, at) for key, (count, at) in uses.items())
        except StorageError:
            for key, (count, at) in uses.items():
                more, last = self._uses.get(key, (0, at))
                self._uses[key] = count + more, max(at, last)
            raise

    def noted_use(self, held: HeldFile) -> float:
        """Return when a file was last used, with the uses that are not recorded yet."""
        _, at = self._uses.get((held.source, held.project, held.filename), (0, 0.0))
        return max(held.used, at)

    async def all(self) -> list[HeldFile]:
        """Return everything that is held, with the uses that are not recorded yet."""
        held = [held_file(row) for row in await self._database.read(f"SELECT {FILE_COLUMNS} FROM files")]
        for at, one in enumerate(held):
            if (noted := self._uses.get((one.source, one.project, one.filename))) is not None:
                held[at] = msgspec.structs.replace(one, used=max(one.used, noted[1]))
        return held

    async def forget_all(self, held: Iterable[HeldFile]) -> None:
        """Remove these files, unless they have been stored again since."""
        this_one = f"{_THIS_FILE} AND stored = $4"
        statements: list[Statement] = []
        for one in held:
            values = (one.source, one.project, one.filename, one.stored)
            statements += [(file_removed(this_one), values), (f"DELETE FROM files WHERE {this_one}", values)]
        await self._database.write(*statements)

    async def get(self, source: str, project: str, filename: str) -> HeldFile | None:
        """Return what is held under a name, or None."""
        rows = await self._database.find(
            f"SELECT {FILE_COLUMNS} FROM files WHERE source = $1 AND project = $2 AND filename = $3",
            source, project, filename,
        )  # fmt: skip
        return held_file(rows[0]) if rows else None

    async def add(self, held: HeldFile, kind: str = "file") -> int:
        """Record that a file or sidecar is held, and return the serial of its event."""
        rows = await self._database.write(
            NEXT_SERIAL,
            (APPEND_EVENT, (held.stored, held.source, held.project, kind, held.filename, "{}")),
            *_adding_all([held], kind),
        )
        serial: int = rows[1][0][0]
        return serial

    async def add_all(self, many: Sequence[tuple[HeldFile, str]]) -> int:
        """Record several files with their kinds in one transaction, and return the serial of the last event."""
        statements: list[Statement] = []
        newest_at = 0
        for start in range(0, len(many), FILES_PER_STATEMENT):
            some = many[start : start + FILES_PER_STATEMENT]
            statements += record_all([(one.stored, one.source, one.project, kind, one.filename) for one, kind in some])
            newest_at = len(statements) - 1
            for wanted in dict.fromkeys(kind for _, kind in some):
                names = {(one.source, one.project, one.filename): one for one, kind in some if kind == wanted}
                statements += _adding_all([*names.values()], wanted)  # the last one of each name
        rows = await self._database.write(*statements)
        newest: int = max(serial for (serial,) in rows[newest_at])
        return newest

    async def forget(self, source: str, project: str, filename: str) -> None:
        """Remove a file: it is no longer held."""
        values = (source, project, filename)
        await self._database.write(
            (file_removed(_THIS_FILE), values), (f"DELETE FROM files WHERE {_THIS_FILE}", values)
        )

    async def used(self, uses: Iterable[tuple[str, str, str, int, float]]) -> None:
        """Add up uses: (source, project, filename, how many more, when last)."""
        await self._database.write(
            *(
                (
                    "UPDATE files SET uses = uses + $4, used = $5 WHERE source = $1 AND project = $2 AND filename = $3",
                    use,
                )
                for use in uses
            )
        )

    async def of_project(self, source: str, project: str) -> list[HeldFile]:
        """Return everything held of one project."""
        query = f"SELECT {FILE_COLUMNS} FROM files WHERE source = $1 AND project = $2 ORDER BY filename"
        rows = await self._database.find(f"{query} LIMIT {FEW_FILES}", source, project)
        if len(rows) == FEW_FILES:  # there may be any number
            rows = await self._database.read(query, source, project)
        return [held_file(row) for row in rows]

    async def has_any(self, source: str, project: str) -> bool:
        """Return whether anything is held of a project."""
        rows = await self._database.read(
            "SELECT 1 FROM files WHERE source = $1 AND project = $2 LIMIT 1", source, project
        )
        return bool(rows)

    async def named(self, digest: str) -> list[HeldFile]:
        """Return every name under which a blob is held."""
        rows = await self._database.read(f"SELECT {FILE_COLUMNS} FROM files WHERE digest = $1", digest)
        return [held_file(row) for row in rows]

    async def needed(self, digests: Collection[str]) -> set[str]:
        """Return which of these blobs are held under any name."""
        return await among(self._database, "SELECT digest FROM files WHERE digest IN ({})", digests)

    async def labels(self, digests: Sequence[str]) -> dict[str, list[tuple[str, ...]]]:
        """Return the source and name of each file that has one of these blobs, by digest: the labels of the blobs."""
        found: dict[str, list[tuple[str, ...]]] = {}
        for start in range(0, len(digests), VALUES_PER_QUERY):
            some = digests[start : start + VALUES_PER_QUERY]
            places = ", ".join(f"${at}" for at in range(1, len(some) + 1))
            rows = await self._database.read(
                f"SELECT digest, source, filename FROM files WHERE digest IN ({places}) ORDER BY source, filename",
                *some,
            )
            for digest, *label in rows:
                found.setdefault(digest, []).append(tuple(label))
        return found

    async def totals(self) -> tuple[int, int]:
        """Return how many blobs are held, and how many bytes they have."""
        return await self._totals.files()
