"""Running totals that outlive a restart: requests by outcome, bytes served and fetched."""

from collections.abc import Mapping

from mirror.catalog.database import Database


class Counters:
    """Name → total."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, amounts: Mapping[str, int]) -> None:
        """Add to totals; a name that is new begins at zero."""
        await self._database.write(
            *(
                (
                    "INSERT INTO counters (name, value) VALUES ($1, $2)"
                    " ON CONFLICT (name) DO UPDATE SET value = counters.value + excluded.value",
                    (name, amount),
                )
                for name, amount in amounts.items()
            )
        )

    async def all(self) -> dict[str, int]:
        """Every total."""
        return dict(await self._database.read("SELECT name, value FROM counters"))
