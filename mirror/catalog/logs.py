"""Byte streams that only grow, kept in chunks: appending costs what is appended, and a restart reads back the same."""

import asyncio
import sys
from collections.abc import Sequence

from mirror.catalog.database import Database, Row

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LARGE = 64 << 10
"""Bytes from which (de)compressing leaves the event loop."""


class Logs:
    """Named streams. Chunks are compressed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, name: str) -> bytes:
        """The whole stream; empty when there is none."""
        rows = await self._database.read("SELECT body FROM logs WHERE name = $1 ORDER BY seq", name)
        if sum(len(body) for (body,) in rows) < LARGE:
            return _joined(rows)
        return await asyncio.to_thread(_joined, rows)

    async def append(self, name: str, chunk: bytes) -> None:
        """Add to the end."""
        await self._database.write(
            (
                "INSERT INTO logs (name, seq, body) SELECT $1, coalesce(max(seq), 0) + 1, $2 FROM logs WHERE name = $1",
                (name, await _packed(chunk)),
            )
        )

    async def replace(self, name: str, chunks: Sequence[bytes]) -> None:
        """Put other content in its place, all at once."""
        packed = [await _packed(chunk) for chunk in chunks]
        await self._database.write(
            ("DELETE FROM logs WHERE name = $1", (name,)),
            *(
                ("INSERT INTO logs (name, seq, body) VALUES ($1, $2, $3)", (name, seq, body))
                for seq, body in enumerate(packed, 1)
            ),
        )

    async def chunks(self, name: str) -> int:
        """How many chunks the stream has."""
        ((count,),) = await self._database.read("SELECT count(*) FROM logs WHERE name = $1", name)
        return int(count)


def _joined(rows: Sequence[Row]) -> bytes:
    return b"".join(zstd.decompress(body) for (body,) in rows)


async def _packed(chunk: bytes) -> bytes:
    if len(chunk) < LARGE:
        return zstd.compress(chunk, 3)
    return await asyncio.to_thread(zstd.compress, chunk, 3)
