"""Byte streams that only grow, in chunks: appending costs what is appended, and a restart reads the same back."""

import asyncio
import logging
import sys
from collections import defaultdict
from collections.abc import Sequence

import msgspec

from mirror.catalog.database import Database
from mirror.errors import StorageFull

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

logger = logging.getLogger(__name__)

COMPRESS_IN_LOOP_BYTES = 64 << 10
"""Bytes from which (de)compressing leaves the event loop."""


class Logs:
    """The table of named streams, in compressed chunks.

    What the disk has no room for waits in memory, and is read like all the rest: `flush` writes it once there is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[str, _Waiting] = {}
        self._writing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def read(self, name: str) -> bytes:
        """Return the whole stream; empty when there is none."""
        chunks = await self._chunks(name)
        if sum(map(len, chunks)) < COMPRESS_IN_LOOP_BYTES:
            return _joined(chunks)
        return await asyncio.to_thread(_joined, chunks)

    async def append(self, name: str, chunk: bytes) -> None:
        """Append to a stream."""
        await self._write(name, [await _packed(chunk)], anew=False)

    async def replace(self, name: str, chunks: Sequence[bytes]) -> None:
        """Replace the content of a stream, all at once."""
        await self._write(name, [await _packed(chunk) for chunk in chunks], anew=True)

    async def chunks(self, name: str) -> int:
        """Return how many chunks a stream has."""
        ((stored,),) = await self._database.read("SELECT count(*) FROM logs WHERE name = $1", name)
        waiting = self._waiting.get(name, _NOTHING)
        return len(waiting.chunks) + (0 if waiting.anew else int(stored))

    async def flush(self) -> None:
        """Write what waits for room. Raises StorageFull while there is none."""
        for name in list(self._waiting):
            async with self._writing[name]:
                if (waiting := self._waiting.get(name)) is not None:
                    await self._flush(name, waiting)

    async def _chunks(self, name: str) -> list[bytes]:
        async with self._writing[name]:  # what waits must not be written between the two looks
            waiting = self._waiting.get(name, _NOTHING)
            rows = await self._database.read("SELECT body FROM logs WHERE name = $1 ORDER BY seq", name)
            return [*(() if waiting.anew else (body for (body,) in rows)), *waiting.chunks]

    async def _write(self, name: str, chunks: Sequence[bytes], *, anew: bool) -> None:
        # Shielded: who leaves in the middle must not leave open whether it was written.
        await asyncio.shield(self._written(name, chunks, anew=anew))

    async def _written(self, name: str, chunks: Sequence[bytes], *, anew: bool) -> None:
        async with self._writing[name]:
            waiting = self._waiting.get(name, _NOTHING)
            if not anew:
                chunks, anew = (*waiting.chunks, *chunks), waiting.anew
            news = _Waiting(tuple(chunks), anew)
            try:
                await self._flush(name, news)
            except StorageFull as error:
                self._waiting[name] = news
                logger.error("what is new in the log %r is not written yet: %s", name, error)

    async def _flush(self, name: str, waiting: "_Waiting") -> None:
        await self._database.write(
            *([("DELETE FROM logs WHERE name = $1", (name,))] if waiting.anew else []),
            *(
                (
                    "INSERT INTO logs (name, seq, body)"
                    " SELECT $1, coalesce(max(seq), 0) + 1, $2 FROM logs WHERE name = $1",
                    (name, chunk),
                )
                for chunk in waiting.chunks
            ),
        )
        self._waiting.pop(name, None)


class _Waiting(msgspec.Struct, frozen=True):
    """The part of a log that is still to be written."""

    chunks: tuple[bytes, ...] = ()
    anew: bool = False
    """Whether it replaces what is stored, instead of following it."""


_NOTHING = _Waiting()


def _joined(chunks: Sequence[bytes]) -> bytes:
    return b"".join(map(zstd.decompress, chunks))


async def _packed(chunk: bytes) -> bytes:
    if len(chunk) < COMPRESS_IN_LOOP_BYTES:
        return zstd.compress(chunk, 3)
    return await asyncio.to_thread(zstd.compress, chunk, 3)
