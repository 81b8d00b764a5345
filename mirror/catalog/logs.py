"""Byte streams that only grow, kept in chunks: appending costs what is appended, and a restart reads back the same."""

import sys
from collections.abc import Sequence

from mirror.catalog.database import Database

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


class Logs:
    """Named streams. Chunks are compressed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, name: str) -> bytes:
        """The whole stream; empty when there is none."""
        rows = await self._database.read("SELECT body FROM logs WHERE name = $1 ORDER BY seq", name)
        return b"".join(zstd.decompress(body) for (body,) in rows)

    async def append(self, name: str, chunk: bytes) -> None:
        """Add to the end."""
        await self._database.write(
            (
                "INSERT INTO logs (name, seq, body) SELECT $1, coalesce(max(seq), 0) + 1, $2 FROM logs WHERE name = $1",
                (name, zstd.compress(chunk, 3)),
            )
        )

    async def replace(self, name: str, chunks: Sequence[bytes]) -> None:
        """Put other content in its place, all at once."""
        await self._database.write(
            ("DELETE FROM logs WHERE name = $1", (name,)),
            *(
                ("INSERT INTO logs (name, seq, body) VALUES ($1, $2, $3)", (name, seq, zstd.compress(chunk, 3)))
                for seq, chunk in enumerate(chunks, 1)
            ),
        )

    async def chunks(self, name: str) -> int:
        """How many chunks the stream has."""
        ((count,),) = await self._database.read("SELECT count(*) FROM logs WHERE name = $1", name)
        return int(count)
