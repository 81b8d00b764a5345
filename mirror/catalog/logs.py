"""Byte streams that only grow, in chunks: appending costs what is appended, and a restart reads the same back."""

import asyncio
import logging
import math
import os
import secrets
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec

from mirror.catalog.database import Database, Statement
from mirror.errors import StorageError, StorageFull

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

logger = logging.getLogger(__name__)

COMPRESS_IN_LOOP_BYTES = 64 << 10
"""Bytes from which (de)compressing leaves the event loop."""


REFRESH_SECONDS = 15.0
"""Time for which a process has the right to ask an upstream, renewed while it does."""
COUNT_CHANGE: Statement = ("UPDATE counters SET value = value + 1 WHERE name = 'logs'", ())
"""The statement in front of each change. It also lets transactions wait for each other, as in an engine that lets
several write at once each would otherwise not see what the others add."""


class LogPosition(msgspec.Struct, frozen=True):
    """A position in a stream, which is its end until some process writes to it."""

    first: int = 0
    """The number of the oldest chunk, which is another one once the stream has been replaced."""
    last: int = 0
    """The number of the newest chunk."""
    waiting: int = 0
    """How often this process has written behind it what waits for room."""
    at: float = 0.0
    """When the stream grew to here, in seconds since the epoch by the database's clock; 0 where that is not known."""

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


class Refresh(msgspec.Struct, frozen=True):
    """The state of asking an upstream for what a stream copies."""

    ours: bool
    """Whether this process is to ask."""
    began: float
    """When a process last began to ask, in seconds since the epoch by the database's clock."""
    running: bool
    """Whether another process asks at this moment."""
    now: float
    """By the same clock."""


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

    async def append(self, name: str, chunk: bytes, after: LogPosition, now: float | None = None) -> LogPosition | None:
        """Append to a stream that ends at a position; return its new end, or None where it ends elsewhere.

        `now` is the time of this machine, if not the usual one.
        """
        return await self._write(name, chunk, after, now, anew=False)

    async def replace(
        self, name: str, content: bytes, after: LogPosition, now: float | None = None
    ) -> LogPosition | None:
        """Replace a stream that ends at a position; return its new end, or None where it ends elsewhere."""
        return await self._write(name, content, after, now, anew=True)

    async def flush(self) -> None:
        """Write what waits for room. Raises StorageFull while there is none."""
        for name in list(self._waiting):
            async with self._writing[name]:
                if (waiting := self._waiting.get(name)) is None:
                    continue
                if await self._store(name, waiting.body, waiting.after, time.time(), anew=waiting.anew) is None:
                    self._give_up(name)
                self._waiting.pop(name, None)

    async def begin_refresh(self, name: str, holder: str, now: float, pause: float, since: float) -> Refresh:
        """Take the right to ask for what a stream copies, unless another holder has it or has asked lately.

        A process that has asked last knows by itself whether it is too early.
        """
        claim = (
            "INSERT INTO log_refreshes (name, holder, at, until)"
            " VALUES ($1, $2, current_seconds($3), current_seconds($3) + $4) ON CONFLICT (name) DO UPDATE"
            " SET holder = excluded.holder, at = excluded.at, until = excluded.until"
            # A clock was set back; a little later is another process that read the clock later and wrote earlier.
            " WHERE log_refreshes.at > excluded.at + $4 OR (log_refreshes.until <= excluded.at AND"
            " (log_refreshes.until > log_refreshes.at OR (log_refreshes.at < $6 AND"  # its process has died
            " (log_refreshes.holder = excluded.holder OR log_refreshes.at <= excluded.at - $5)))) RETURNING at"
        )
        try:
            (rows,) = await self._database.write((claim, (name, holder, now, REFRESH_SECONDS, pause, since)))
        except StorageFull:
            return Refresh(True, now, False, now)  # who cannot write asks for itself
        if rows:
            return Refresh(True, rows[0][0], False, rows[0][0])
        asked = "SELECT at, until, current_seconds($2) FROM log_refreshes WHERE name = $1"
        ((began, until, moment),) = await self._database.read(asked, name, now)
        return Refresh(False, began, until > moment, moment)

    async def renew_refresh(self, name: str, holder: str, now: float) -> None:
        """Keep the right to ask."""
        renew = "UPDATE log_refreshes SET until = current_seconds($3) + $4 WHERE name = $1 AND holder = $2"
        await self._database.write((renew, (name, holder, now, REFRESH_SECONDS)))

    async def end_refresh(self, name: str, holder: str) -> None:
        """Give back the right to ask, as there is an answer."""
        end = "UPDATE log_refreshes SET until = at WHERE name = $1 AND holder = $2"
        await self._database.write((end, (name, holder)))

    def _give_up(self, name: str) -> None:
        """Forget what waits for room, since another process has written to the stream."""
        del self._waiting[name]
        logger.warning("the log %r was written by another process: what waited for room is worked out again", name)

    async def _position(self, name: str) -> LogPosition:
        """Return where a stream ends in the database."""
        ((first, last, at),) = await self._database.read(f"SELECT oldest, newest, at FROM {_BOUNDS}", name)
        return LogPosition(int(first), int(last), at=at)

    async def _bodies(self, name: str, after: LogPosition) -> tuple[LogPosition, list[bytes]]:
        """Return where a stream ends in the database, and its chunks behind a position, of the same moment."""
        rows = await self._database.read(
            f"SELECT bounds.oldest, bounds.newest, bounds.at, logs.body FROM {_BOUNDS}"
            " LEFT JOIN logs ON logs.name = $1 AND logs.seq > $2 ORDER BY logs.seq",
            name,
            after.last,
        )
        first, last, at, _ = rows[0]
        return LogPosition(int(first), int(last), at=at), [body for *_, body in rows if body is not None]

    async def _write(
        self, name: str, content: bytes, after: LogPosition, now: float | None, *, anew: bool
    ) -> LogPosition | None:
        now = time.time() if now is None else now
        # Shielded: who leaves in the middle must not leave open whether it was written.
        return await asyncio.shield(self._written(name, await _packed(content), after, now, anew=anew))

    async def _written(
        self, name: str, body: bytes, after: LogPosition, now: float, *, anew: bool
    ) -> LogPosition | None:
        async with self._writing[name]:
            end, waiting = after, self._waiting.get(name)
            if after.waiting if waiting is None else after != waiting.position:
                return None
            if waiting is not None:
                end, anew = waiting.after, anew or waiting.anew
                body = body if anew and not waiting.anew else waiting.body + body
            try:
                position = await self._store(name, body, end, now, anew=anew)
            except StorageFull as error:
                logger.error("what is new in the log %r is not written yet: %s", name, error)
                self._waiting[name] = waiting = _Waiting(body, end, anew, after.waiting + 1, max(now, _next(after)))
                return waiting.position
            self._waiting.pop(name, None)
            return position

    async def _store(self, name: str, body: bytes, after: LogPosition, now: float, *, anew: bool) -> LogPosition | None:
        """Write a chunk behind a position, or in place of all up to there; return its own, or None where it is not."""
        # One number is left out in front of what replaces all: so no other writer's chunks are taken for that.
        seq = after.last + (2 if anew else 1)
        statements: list[Statement] = [
            COUNT_CHANGE,
            (
                "INSERT INTO log_times (name, seq, at) SELECT $1, CAST($2 AS BIGINT),"
                " CASE WHEN current_seconds($3) > $4 THEN current_seconds($3) ELSE $4 END"
                " WHERE (SELECT coalesce(max(seq), 0) FROM logs WHERE name = $1) = $5"
                " ON CONFLICT (name) DO UPDATE SET seq = excluded.seq, at = excluded.at RETURNING at",
                (name, seq, now, _next(after), after.last),
            ),
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
        _, times, accepted, *_ = await self._database.write(*statements)
        if not accepted:
            return None
        return LogPosition(seq if anew or not after.last else after.first, seq, at=times[0][0])


_THIS_START = secrets.token_hex(8)
"""What no other start of the mirror has; its workers differ by their numbers."""
_BOUNDS = (
    "(SELECT oldest, newest, coalesce((SELECT at FROM log_times WHERE name = $1 AND seq = newest), 0.0) AS at FROM"
    " (SELECT coalesce(min(seq), 0) AS oldest, coalesce(max(seq), 0) AS newest FROM logs WHERE name = $1) AS ends"
    ") AS bounds"
)
"""A row with the numbers of the oldest and newest chunk of the log $1, and when that was written."""


def _next(after: LogPosition) -> float:
    """Return the earliest time of a state that follows: dates of HTTP have whole seconds."""
    return math.floor(after.at) + 1.0


class SharedLog:
    """One stream as far as this process knows it, to which other processes append as well."""

    def __init__(self, logs: Logs, name: str, clock: Callable[[], float] = time.time) -> None:
        self.position = START
        """Up to where it is known: the reader moves it once it has taken over what `growth` returned."""
        self._logs = logs
        self._name = name
        self._clock = clock
        self._holder = f"{os.getpid()} {_THIS_START}"

    async def growth(self) -> LogGrowth:
        """Return what other processes have written."""
        return await self._logs.read_on(self._name, self.position)

    async def append(self, chunk: bytes, most_chunks: int) -> bool:
        """Append to it; return False, with nothing written, where another process has written meanwhile.

        After so many appends, the stream is stored in one piece again.
        """
        position = await self._logs.append(self._name, chunk, self.position, self._clock())
        if position is None:
            return False
        if position.chunks > most_chunks:
            whole = await self._logs.read(self._name)
            position = await self._logs.replace(self._name, whole, position, self._clock()) or position
        self.position = position
        return True

    async def replace(self, content: bytes) -> bool:
        """Replace it; return False, with nothing written, where another process has written meanwhile."""
        position = await self._logs.replace(self._name, content, self.position, self._clock())
        self.position = position or self.position
        return position is not None

    # One process asks for all

    @asynccontextmanager
    async def refreshing(self, pause: float = 0.0, since: float = math.inf) -> AsyncIterator[Refresh]:
        """Have other processes leave it to this one to ask upstream, unless one of them asks or has asked lately.

        Lately is less than `pause` seconds ago, or later than `since`, by the database's clock.
        """
        state = await self._logs.begin_refresh(self._name, self._holder, self._clock(), pause, since)
        if not state.ours:
            yield state
            return
        renewing = asyncio.create_task(self._renew())
        try:
            yield state
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            with suppress(StorageError):  # it ends by itself
                await self._logs.end_refresh(self._name, self._holder)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS / 3)
            with suppress(StorageError):
                await self._logs.renew_refresh(self._name, self._holder, self._clock())


class _Waiting(msgspec.Struct, frozen=True):
    """The part of a log that is still to be written."""

    body: bytes
    after: LogPosition
    """The end of what is stored."""
    anew: bool
    """Whether it replaces what is stored, instead of following it."""
    writes: int
    at: float
    """When it was last added to."""

    @property
    def position(self) -> LogPosition:
        """The end of the log as this process knows it."""
        return msgspec.structs.replace(self.after, waiting=self.writes, at=self.at)


def _joined(chunks: Sequence[bytes]) -> bytes:
    return b"".join(map(zstd.decompress, chunks))


async def _packed(chunk: bytes) -> bytes:
    if len(chunk) < COMPRESS_IN_LOOP_BYTES:
        return zstd.compress(chunk, 3)
    return await asyncio.to_thread(zstd.compress, chunk, 3)
