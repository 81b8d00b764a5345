"""What may go, in the order in which it goes: slices of the held files, of any number, by the index of their use.

Whether a file has to stay is decided in SQL, file by file, so that no one needs all of them in memory. Everything here
is read on the connection for long reads.
"""

from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache

import msgspec

from mirror.catalog.database import VALUES_PER_QUERY, Database, Row
from mirror.catalog.files import FILE_COLUMNS, HeldFile, held_file

SLICE_FILES = 1000
"""Files in one slice."""
_PAST_ALL = "g"
"""Comes after each digest."""


Position = tuple[float, str, str, str, str]
"""When it was used, its digest, source, project and file name."""
START: Position = (-1.0, "", "", "", "")


class SidecarNaming(msgspec.Struct, frozen=True):
    """The name of a sidecar of one ecosystem: an ending, in the place of that of its file."""

    ending: str
    instead_of: str
    """The ending of the file's name; empty where the sidecar's is appended."""


class EvictionSlice(msgspec.Struct, frozen=True):
    """Some files in the order of their last use."""

    candidates: list[HeldFile]
    """Those that may go; one for each blob."""
    shared: set[str]
    """The digests of those that are held under other names, too."""
    end: Position | None
    """The position of the next slice; None when there is none."""


_ORDER = "used, digest, source, project, filename"
_IS_NAMED = (
    "EXISTS (SELECT 1 FROM {0} WHERE {0}.source = {1}.source AND {0}.project = {1}.project"
    " AND {0}.filename = {1}.filename)"
)
_STAYS = (
    _IS_NAMED.format("sets", "slice"),
    _IS_NAMED.format("removed", "slice"),
    "EXISTS (SELECT 1 FROM uploads WHERE uploads.digest = slice.digest AND deleted = 0)",
    "EXISTS (SELECT 1 FROM uploads WHERE uploads.sidecar = slice.digest AND deleted = 0)",
)
"""Whether a file may not go at all: a member of a set, a file that upstream no longer lists, an upload."""
_STAYS_BY_ANOTHER_NAME = (
    "EXISTS (SELECT 1 FROM files AS name WHERE name.digest = slice.digest AND (name.used > slice.used"
    " OR name.used = slice.used AND (name.source, name.project, name.filename)"
    " > (slice.source, slice.project, slice.filename)"
    f" OR {_IS_NAMED.format('sets', 'name')} OR {_IS_NAMED.format('removed', 'name')}))"
)
"""Whether the blob of a file was used later under another name, or may not go for the sake of that."""
_HAS_SEVERAL_NAMES = "EXISTS (SELECT 1 FROM files AS name WHERE name.digest = {}.digest LIMIT 1 OFFSET 1)"
"""Whether the blob of a file is held under other names, too; only the index of digests is read."""
_GOES, _GOES_WITH_OTHERS, _STAYS_HERE = 0, 1, 2
"""What becomes of a file in a slice; with others: its blob has several names."""


def _is_sidecar(namings: int) -> str:
    """Return the condition that a file is the sidecar of one that is held: by endings, two for each naming, from $7."""
    cases = []
    for number in range(namings):
        ending, instead_of = (f"CAST(${7 + 2 * number + at} AS TEXT)" for at in range(2))
        stem = f"substr(slice.filename, 1, length(slice.filename) - length({ending}))"
        cases.append(f"WHEN slice.filename LIKE '%' || {ending} THEN {stem} || {instead_of}")
    return (
        "EXISTS (SELECT 1 FROM files AS owner WHERE owner.source = slice.source AND owner.project = slice.project"
        f" AND owner.filename = CASE {' '.join(cases)} END)"
    )


class EvictionOrder:
    """Reads the tables of files, uploads, sets and removed files."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def slice(self, after: Position, used_before: float, sidecars: Sequence[SidecarNaming]) -> EvictionSlice:
        """Return the next files after a position, which were used at a moment or before.

        A sidecar whose file is held is no candidate: it goes with that.
        """
        endings = [ending for naming in sidecars for ending in (naming.ending, naming.instead_of)]
        rows = await self._database.scan(_selecting_slice(len(sidecars)), *after, used_before, *endings)
        candidates, shared = _files_of(row for row in rows if row[-1] != _STAYS_HERE)
        if len(rows) < SLICE_FILES:
            return EvictionSlice(candidates, shared, None)
        last = held_file(rows[-1][:-1])
        return EvictionSlice(candidates, shared, (last.used, last.digest, last.source, last.project, last.filename))

    async def named(self, digests: Collection[str]) -> list[HeldFile]:
        """Return every name under which any of these blobs is held."""
        files, _ = await self._files(("digest",), [(digest,) for digest in digests])
        return files

    async def files(self, names: Collection[tuple[str, str, str]]) -> tuple[list[HeldFile], set[str]]:
        """Return those of these files that are held, and the digests of which there are other names, too.

        A name is source, project and file name.
        """
        return await self._files(("source", "project", "filename"), list(names))

    async def held(self, beginning: str) -> set[str]:
        """Return the digests of what is held, of those that begin with up to two hexadecimal digits."""
        # In one row: the driver lets other threads have the interpreter before each.
        ((joined,),) = await self._database.scan(
            "SELECT string_agg(digest, ',') FROM files WHERE digest >= $1 AND digest < $2", *_range(beginning)
        )
        return set(joined.split(",")) if joined else set()

    async def uploaded(self, beginning: str) -> set[str]:
        """Return the digests of uploads and their sidecars, of those that begin with up to two hexadecimal digits."""
        rows = await self._database.scan(
            "SELECT digest FROM uploads WHERE digest >= $1 AND digest < $2 AND deleted = 0"
            " UNION SELECT sidecar FROM uploads WHERE sidecar >= $1 AND sidecar < $2 AND deleted = 0",
            *_range(beginning),
        )
        return {digest for (digest,) in rows}

    async def all_held(self, beginning: str) -> list[HeldFile]:
        """Return every name of the blobs whose digests begin with up to two hexadecimal digits."""
        rows = await self._database.scan(
            f"SELECT {FILE_COLUMNS} FROM files WHERE digest >= $1 AND digest < $2", *_range(beginning)
        )
        return [held_file(row) for row in rows]

    async def _files(self, columns: Sequence[str], keys: Sequence[tuple[str, ...]]) -> tuple[list[HeldFile], set[str]]:
        """Return the files that have one of these values in the columns, and which digests have other names."""
        rows: list[Row] = []
        for start in range(0, len(keys), VALUES_PER_QUERY):
            some = keys[start : start + VALUES_PER_QUERY]
            rows += await self._database.scan(
                _selecting_files(tuple(columns), len(some)), *(value for key in some for value in key)
            )
        return _files_of(rows)


@lru_cache(maxsize=8)
def _selecting_slice(namings: int) -> str:
    """Return the query for the next files after a position ($1 to $5), used at $6 or before; see `_is_sidecar`.

    The last column is what becomes of the file. Most are decided by the first look-ups, so that order counts.
    """
    stays = " OR ".join([*([_is_sidecar(namings)] if namings else []), *_STAYS])
    return (
        f"SELECT {FILE_COLUMNS}, CASE WHEN {stays} THEN {_STAYS_HERE}"
        f" WHEN NOT {_HAS_SEVERAL_NAMES.format('slice')} THEN {_GOES}"
        f" WHEN {_STAYS_BY_ANOTHER_NAME} THEN {_STAYS_HERE} ELSE {_GOES_WITH_OTHERS} END FROM"
        f" (SELECT {FILE_COLUMNS} FROM files WHERE ({_ORDER}) > ($1, $2, $3, $4, $5) AND used >= $1 AND used <= $6"
        f" ORDER BY {_ORDER} LIMIT {SLICE_FILES}) AS slice ORDER BY {_ORDER}"
    )


@lru_cache(maxsize=4 * VALUES_PER_QUERY)
def _selecting_files(columns: tuple[str, ...], count: int) -> str:
    """Return the query for the files that have one of so many groups of values in these columns of the table."""
    found = ", ".join(f"files.{column}" for column in FILE_COLUMNS.split(", "))
    same = " AND ".join(f"files.{column} = wanted.{column}" for column in columns)
    places = iter(range(1, 1 + count * len(columns)))
    wanted = ", ".join(f"({', '.join(f'${next(places)}' for _ in columns)})" for _ in range(count))
    # A cross join: SQLite looks up each of these values, and would otherwise read the whole table.
    return (
        f"WITH wanted ({', '.join(columns)}) AS (VALUES {wanted})"
        f" SELECT {found}, CASE WHEN {_HAS_SEVERAL_NAMES.format('files')} THEN 1 ELSE 0 END"
        f" FROM wanted CROSS JOIN files WHERE {same}"
    )


def _files_of(rows: Iterable[Row]) -> tuple[list[HeldFile], set[str]]:
    """Return the files of rows that end in whether the blob has several names, and the digests of those that have."""
    files, shared = [], set()
    for row in rows:
        files.append(held_file(row[:-1]))
        if row[-1]:
            shared.add(files[-1].digest)
    return files, shared


def _range(beginning: str) -> tuple[str, str]:
    """Return the first digest that begins so, and what comes after the last."""
    if not beginning:
        return "", _PAST_ALL
    after = int(beginning, 16) + 1
    return beginning, f"{after:0{len(beginning)}x}" if after < 16 ** len(beginning) else _PAST_ALL
