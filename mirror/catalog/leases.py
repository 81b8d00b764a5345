"""The right of one process to do a thing, for a while: one statement takes it, whoever comes first."""

import os
import secrets

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
