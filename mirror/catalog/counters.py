"""Running totals that outlive a restart: requests by outcome, bytes served and fetched; in all, and by the hour."""

from collections.abc import Mapping

from mirror.catalog.database import Database, Statement

KEPT_HOURS = 400 * 24
"""How long the totals of single hours are kept."""


class Counters:
    """Name → total."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, amounts: Mapping[str, int], hour: int | None = None) -> None:
        """Add to totals, and to those of an hour since the epoch; a name that is new begins at zero."""
        statements: list[Statement] = [
            (
                "INSERT INTO counters (name, value) VALUES ($1, $2)"
                " ON CONFLICT (name) DO UPDATE SET value = counters.value + excluded.value",
                (name, amount),
            )
            for name, amount in amounts.items()
        ]
        if hour is not None:
            statements += [
                (
                    "INSERT INTO hours (hour, name, value) VALUES ($1, $2, $3)"
                    " ON CONFLICT (hour, name) DO UPDATE SET value = hours.value + excluded.value",
                    (hour, name, amount),
                )
                for name, amount in amounts.items()
            ]
            statements.append(("DELETE FROM hours WHERE hour < $1", (hour - KEPT_HOURS,)))
        await self._database.write(*statements)

    async def spans(self, since: int, hours: int) -> list[tuple[int, str, int]]:
        """(number of the span, name, sum) from an hour on, in spans of so many hours; empty ones are left out."""
        rows = await self._database.read(
            "SELECT hour / $2, name, sum(value) FROM hours WHERE hour >= $1 GROUP BY hour / $2, name", since, hours
        )
        return [(int(span), name, int(value)) for span, name, value in rows]

    async def all(self) -> dict[str, int]:
        """Every total."""
        return dict(await self._database.read("SELECT name, value FROM counters"))
