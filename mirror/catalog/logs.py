"""Byte streams that only grow, in chunks: appending costs what is appended, and a restart reads the same back."""

import asyncio
import logging
import sys
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from mirror.catalog.database import Database, Statement
from mirror.errors import StorageFull

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

logger = logging.getLogger(__name__)

COMPRESS_IN_LOOP_BYTES = 64 << 10
"""Bytes from which (de)compressing leaves the event loop."""


TAKE_TURNS: Statement = ("UPDATE counters SET value = value WHERE name = 'feed'", ())
"""The statement with which a transaction waits for all others that write to the journal or to a log, as in an engine
that lets several transactions write at once each would otherwise not see what the others add."""


class LogPosition(msgspec.Struct, frozen=True):
    """A position in a stream, which is its end until some process writes to it."""

    first: int = 0
    """The number of the oldest chunk, which is another one once the stream has been replaced."""
    last: int = 0
    """The number of the newest chunk."""
    waiting: int = 0
    """How often this process has written behind it what waits for room."""

    @property
    def chunks(self) -> int:
        """The number of chunks up to here."""
        return (self.last - self.first + 1 if self.last else 0) + self.waiting


START = LogPosition()
"""The position in front of a stream, which is that of one that does not exist yet."""


class LogGrowth(msgspec.Struct, frozen=True):
    """The bytes of a stream behind a position."""

    position: LogPosition
    """Where it ends."""
    content: bytes
    anew: bool
    """Whether that is the whole stream, since what the reader knew is no part of it."""


class Logs:
    """The table of named streams, in compressed chunks.

    Several processes may write to one stream: each says where it takes the end to be, and is refused where that is not
    so. What the disk has no room for waits in memory, and is read like all the rest: `flush` writes it once there is.
    Where another process has written meanwhile, that counts, and what waited is given up.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, _Waiting] = {}
        self._writing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def read(self, name: str) -> bytes:
        """Return the whole stream; empty when there is none."""
        return (await self.read_on(name, START)).content

    async def read_on(self, name: str, after: LogPosition) -> LogGrowth:
        """Return what a stream has behind a position."""
        async with self._writing[name]:  # what waits must not be written between the two looks
            waiting = self._waiting.get(name)
            if waiting is not None and await self._position(name) != waiting.after:
                self._give_up(name)
                waiting = None
            if waiting is not None and after == waiting.position:
                return LogGrowth(after, b"", anew=False)
            known = after if waiting is None and not after.waiting else START
            position, bodies = await self._bodies(name, known)
            anew = known == START or position.first != known.first or position.last < known.last
            if anew and known != START:
                position, bodies = await self._bodies(name, START)
            if waiting is not None:
                position = waiting.position
                bodies = [waiting.body] if waiting.anew else [*bodies, waiting.body]
        if sum(map(len, bodies)) < COMPRESS_IN_LOOP_BYTES:
            return LogGrowth(position, _joined(bodies), anew)
        return LogGrowth(position, await asyncio.to_thread(_joined, bodies), anew)

    async def position(self, name: str) -> LogPosition:
        """Return where a stream ends now."""
        async with self._writing[name]:
            waiting = self._waiting.get(name)
            stored = await self._position(name)
            return stored if waiting is None or waiting.after != stored else waiting.position

    async def append(self, name: str, chunk: bytes, after: LogPosition) -> LogPosition | None:
        """Append to a stream that ends at a position; return its new end, or None where it ends elsewhere."""
        return await self._write(name, chunk, after, anew=False)

    async def replace(self, name: str, content: bytes, after: LogPosition) -> LogPosition | None:
        """Replace a stream that ends at a position; return its new end, or None where it ends elsewhere."""
        return await self._write(name, content, after, anew=True)

    async def flush(self) -> None:
        """Write what waits for room. Raises StorageFull while there is none."""
        for name in list(self._waiting):
            async with self._writing[name]:
                if (waiting := self._waiting.get(name)) is None:
                    continue
                if await self._store(name, waiting.body, waiting.after, anew=waiting.anew) is None:
                    self._give_up(name)
                self._waiting.pop(name, None)

    def _give_up(self, name: str) -> None:
        """Forget what waits for room, since another process has written to the stream."""
        del self._waiting[name]
        logger.warning("the log %r was written by another process: what waited for room is worked out again", name)

    async def _position(self, name: str) -> LogPosition:
        """Return where a stream ends in the database."""
        ((first, last),) = await self._database.read(
            "SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM logs WHERE name = $1", name
        )
        return LogPosition(int(first), int(last))

    async def _bodies(self, name: str, after: LogPosition) -> tuple[LogPosition, list[bytes]]:
        """Return where a stream ends in the database, and its chunks behind a position, of the same moment."""
        rows = await self._database.read(
            "SELECT bounds.oldest, bounds.newest, logs.body FROM"
            " (SELECT coalesce(min(seq), 0) AS oldest, coalesce(max(seq), 0) AS newest FROM logs WHERE name = $1)"
            " AS bounds LEFT JOIN logs ON logs.name = $1 AND logs.seq > $2 ORDER BY logs.seq",
            name,
            after.last,
        )
        first, last, _ = rows[0]
        return LogPosition(int(first), int(last)), [body for _, _, body in rows if body is not None]

    async def _write(self, name: str, content: bytes, after: LogPosition, *, anew: bool) -> LogPosition | None:
        # Shielded: who leaves in the middle must not leave open whether it was written.
        return await asyncio.shield(self._written(name, await _packed(content), after, anew=anew))

    async def _written(self, name: str, body: bytes, after: LogPosition, *, anew: bool) -> LogPosition | None:
        async with self._writing[name]:
            end, waiting = after, self._waiting.get(name)
            if after.waiting if waiting is None else after != waiting.position:
                return None
            if waiting is not None:
                end, anew = waiting.after, anew or waiting.anew
                body = body if anew and not waiting.anew else waiting.body + body
            try:
                position = await self._store(name, body, end, anew=anew)
            except StorageFull as error:
                logger.error("what is new in the log %r is not written yet: %s", name, error)
                self._waiting[name] = waiting = _Waiting(body, end, anew, after.waiting + 1)
                return waiting.position
            self._waiting.pop(name, None)
            return position

    async def _store(self, name: str, body: bytes, after: LogPosition, *, anew: bool) -> LogPosition | None:
        """Write a chunk behind a position, or in place of all up to there; return its own, or None where it is not."""
        # One number is left out in front of what replaces all: so no other writer's chunks are taken for that.
        seq = after.last + (2 if anew else 1)
        statements: list[Statement] = [
            TAKE_TURNS,
            (
                "INSERT INTO logs (name, seq, body) SELECT $1, CAST($2 AS BIGINT), $3"
                " WHERE (SELECT coalesce(max(seq), 0) FROM logs WHERE name = $1) = $4 RETURNING seq",
                (name, seq, body, after.last),
            ),
        ]
        if anew:
            statements.append(
                (
                    "DELETE FROM logs WHERE name = $1 AND seq < $2"
                    " AND EXISTS (SELECT 1 FROM logs AS ours WHERE ours.name = $1 AND ours.seq = $2)"
                    " AND NOT EXISTS (SELECT 1 FROM logs AS theirs WHERE theirs.name = $1 AND theirs.seq = $2 - 1)",
                    (name, seq),
                )
            )
        _, accepted, *_ = await self._database.write(*statements)
        if not accepted:
            return None
        return LogPosition(seq if anew or not after.last else after.first, seq)


class SharedLog:
    """One stream as far as this process knows it, to which other processes append as well."""

    def __init__(self, logs: Logs, name: str) -> None:
        self.position = START
        """Up to where it is known: the reader moves it once it has taken over what `growth` returned."""
        self._logs = logs
        self._name = name

    async def growth(self) -> LogGrowth:
        """Return what other processes have written."""
        return await self._logs.read_on(self._name, self.position)

    async def is_outdated(self) -> bool:
        """Return whether what is stored is not what is known here, unless that changes just now."""
        known = self.position
        return await self._logs.position(self._name) != known == self.position

    async def append(self, chunk: bytes, most_chunks: int) -> bool:
        """Append to it; return False, with nothing written, where another process has written meanwhile.

        After so many appends, the stream is stored in one piece again.
        """
        position = await self._logs.append(self._name, chunk, self.position)
        if position is None:
            return False
        if position.chunks > most_chunks:
            position = await self._logs.replace(self._name, await self._logs.read(self._name), position) or position
        self.position = position
        return True

    async def replace(self, content: bytes) -> bool:
        """Replace it; return False, with nothing written, where another process has written meanwhile."""
        position = await self._logs.replace(self._name, content, self.position)
        self.position = position or self.position
        return position is not None


class _Waiting(msgspec.Struct, frozen=True):
    """The part of a log that is still to be written."""

    body: bytes
    after: LogPosition
    """The end of what is stored."""
    anew: bool
    """Whether it replaces what is stored, instead of following it."""
    writes: int

    @property
    def position(self) -> LogPosition:
        """The end of the log as this process knows it."""
        return msgspec.structs.replace(self.after, waiting=self.writes)


def _joined(chunks: Sequence[bytes]) -> bytes:
    return b"".join(map(zstd.decompress, chunks))


async def _packed(chunk: bytes) -> bytes:
    if len(chunk) < COMPRESS_IN_LOOP_BYTES:
        return zstd.compress(chunk, 3)
    return await asyncio.to_thread(zstd.compress, chunk, 3)
