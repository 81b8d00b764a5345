"""The right of one process to do a thing, for a while: one statement takes it, whoever comes first."""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from mirror.catalog.database import Database


class Leases:
    """The table of leases."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._holder = f"{os.getpid()}-{secrets.token_hex(8)}"

    async def take(self, name: str, now: float, seconds: float) -> bool:
        """Take or renew a lease, unless somebody else has it at this moment."""
        rows = await self._database.write(
            (
                "INSERT INTO leases (name, holder, until) VALUES ($1, $2, $4)"
                " ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until"
                " WHERE leases.until <= $3 OR leases.holder = excluded.holder RETURNING holder",
                (name, self._holder, now, now + seconds),
            )
        )
        return bool(rows[0])

    async def give_back(self, name: str) -> None:
        """Let others take a lease that this process has."""
        await self._database.write(("DELETE FROM leases WHERE name = $1 AND holder = $2", (name, self._holder)))

    @asynccontextmanager
    async def held(self, name: str, clock: Callable[[], float], seconds: float) -> AsyncIterator[bool]:
        """A lease for the length of the block, renewed in time however long that is; False where another has it."""
        if not await self.take(name, clock(), seconds):
            yield False
            return
        renewing = asyncio.create_task(self._renew(name, clock, seconds))
        try:
            yield True
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await self.give_back(name)

    async def _renew(self, name: str, clock: Callable[[], float], seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds / 3)
            await self.take(name, clock(), seconds)
