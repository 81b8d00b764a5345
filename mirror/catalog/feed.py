"""The journal's table, and the statements that append an event in another table's transaction."""

import secrets
from collections.abc import Sequence
from functools import lru_cache

import msgspec

from mirror.catalog.database import Database, Row, Statement, Value
from mirror.model import Event

NEXT_SERIAL: Statement = ("UPDATE counters SET value = value + 1 WHERE name = 'feed'", ())
"""The statement in front of each `event_sql`."""


def event_sql(unless: str = "") -> str:
    """Return the statement that appends an event and returns its serial, to be run behind `NEXT_SERIAL`.

    Its values are the moment, source, project, kind, file name and detail. `unless` is a query over these, and one more
    value ($7): where it has a row, the event is not written, and no row is returned. A serial that is skipped so is
    never given out.
    """
    condition = f"WHERE NOT EXISTS ({unless}) AND" if unless else "WHERE"
    return (
        "INSERT INTO feed (serial, at, source, project, kind, filename, detail)"
        f" SELECT value, $1, $2, $3, $4, $5, $6 FROM counters {condition} name = 'feed' RETURNING serial"
    )


APPEND_EVENT = event_sql()


def record(
    at: float, source: str, project: str, kind: str, filename: str = "", detail: str = "{}"
) -> tuple[Statement, Statement]:
    """Return the two statements that append one event; the second returns its serial."""
    return NEXT_SERIAL, (APPEND_EVENT, (at, source, project, kind, filename, detail))


def record_all(events: Sequence[tuple[float, str, str, str, str]]) -> tuple[Statement, Statement]:
    """Return the two statements that append several events; the second returns all serials.

    An event is (at, source, project, kind, filename).
    """
    values: list[Value] = [value for row, event in enumerate(events, 1) for value in (row, *event)]
    return (
        ("UPDATE counters SET value = value + $1 WHERE name = 'feed'", (len(events),)),
        (_recording(len(events)), (len(events), *values)),
    )


@lru_cache(maxsize=128)
def _recording(count: int) -> str:
    """Return the statement that appends so many events: $1 is their number, then come six values for each."""
    types = ("BIGINT", "DOUBLE PRECISION", "TEXT", "TEXT", "TEXT", "TEXT")  # those of the first row are those of all
    first = ", ".join(f"CAST(${at + 2} AS {kind})" for at, kind in enumerate(types))
    rest = (", ".join(f"${6 * row + at + 2}" for at in range(6)) for row in range(1, count))
    return (
        "INSERT INTO feed (serial, at, source, project, kind, filename, detail)"
        " SELECT counters.value - $1 + event.column1, event.column2, event.column3, event.column4, event.column5,"
        f" event.column6, '{{}}' FROM counters, (VALUES ({'), ('.join([first, *rest])})) AS event"
        " WHERE counters.name = 'feed' RETURNING serial"
    )


def _event(row: Row) -> Event:
    serial, at, source, project, kind, filename, detail = row
    return Event(
        serial=serial, at=at, source=source, project=project, kind=kind, filename=filename,
        detail=msgspec.json.decode(detail),
    )  # fmt: skip


_PAST_ALL = (1 << 63) - 1


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the journal."""

    id: str
    """The identity of the journal."""
    forgotten: int
    """The newest serial whose event is no longer kept; 0 when all are."""
    newest: int
    """The newest serial ever given out."""


class CatalogHead(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers that tell whether anything has changed that every node must see at once."""

    serial: int
    """The newest serial ever given out."""
    accounts: int
    """The generation of users and tokens."""
    logs: int
    """How often a log has changed."""
    uploaded: frozenset[str]
    """The repositories that ever had an upload or a released name."""


UPLOADED_IN = (
    "INSERT INTO uploaded_repositories (repository, since) VALUES ($1, current_seconds($2)) ON CONFLICT DO NOTHING"
)
"""The statement that records that a repository has uploads; its values are its name and the time of this machine."""


class FeedTable:
    """The table of events, by serial."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, event: Event) -> int:
        """Append one event in a transaction of its own and return the serial it got; `event.serial` is ignored."""
        detail = msgspec.json.encode(event.detail).decode()
        rows = await self._database.write(
            *record(event.at, event.source, event.project, event.kind, event.filename, detail)
        )
        serial: int = rows[1][0][0]
        return serial

    async def since(self, serial: int, limit: int = 1000) -> list[Event]:
        """Return at most `limit` events after `serial`, oldest first."""
        rows = await self._database.read(
            "SELECT serial, at, source, project, kind, filename, detail FROM feed"
            " WHERE serial > $1 ORDER BY serial LIMIT $2",
            serial, limit,
        )  # fmt: skip
        return [_event(row) for row in rows]

    async def before(self, serial: int, limit: int = 50) -> list[Event]:
        """Return at most `limit` events before `serial`, newest first."""
        rows = await self._database.read(
            "SELECT serial, at, source, project, kind, filename, detail FROM feed"
            " WHERE serial < $1 ORDER BY serial DESC LIMIT $2",
            serial, limit,
        )  # fmt: skip
        return [_event(row) for row in rows]

    async def bounds(self) -> tuple[int, int]:
        """Return the oldest serial that is still kept (0 when none is), and the newest ever given out."""
        ((oldest, newest),) = await self._database.read(
            "SELECT (SELECT coalesce(min(serial), 0) FROM feed), value FROM counters WHERE name = 'feed'"
        )
        return oldest, newest

    async def head(self) -> CatalogHead:
        """Return what tells whether anything has changed, with one query."""
        numbers: dict[str, int] = {}
        uploaded: list[str] = []
        for kind, name, value in await self._database.read(
            "SELECT 0, name, value FROM counters WHERE name IN ('feed', 'accounts', 'logs')"
            " UNION ALL SELECT 1, repository, 0 FROM uploaded_repositories"
        ):
            if kind:
                uploaded.append(name)
            else:
                numbers[name] = value
        return CatalogHead(
            serial=numbers["feed"],
            accounts=numbers["accounts"],
            logs=numbers["logs"],
            uploaded=frozenset(uploaded),
        )

    async def uploads_age(self, repository: str, now: float) -> float:
        """Return for how many seconds a repository has had uploads; 0 for one that has none. `now`: of this machine."""
        rows = await self._database.read(
            "SELECT current_seconds($2) - since FROM uploaded_repositories WHERE repository = $1", repository, now
        )
        return float(rows[0][0]) if rows else 0.0

    async def position(self) -> Position:
        """Return the state of the journal and its identity."""
        known = await self._marks()
        if "feed id" not in known:
            # Made with the first question: a catalog that has begun anew has another journal, though its serials grow.
            await self._database.write(
                (
                    "INSERT INTO counters (name, value) VALUES ('feed id', $1) ON CONFLICT (name) DO NOTHING",
                    (secrets.randbits(62),),
                )
            )
            known = await self._marks()
        return Position(id=f"{known['feed id']:x}", forgotten=known.get("feed forgotten", 0), newest=known["feed"])

    async def renew(self) -> Position:
        """Give the journal another identity, and return its state: those who follow it compare all that both hold."""
        await self._database.write(
            (
                "INSERT INTO counters (name, value) VALUES ('feed id', $1)"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (secrets.randbits(62),),
            )
        )
        return await self.position()

    async def _marks(self) -> dict[str, int]:
        return dict(
            await self._database.read(
                "SELECT name, value FROM counters WHERE name IN ('feed', 'feed id', 'feed forgotten')"
            )
        )

    async def trim(self, before: float) -> None:
        """Forget the events older than a moment, from the oldest on: none that comes after one which is kept."""
        await self._database.write(
            (
                "INSERT INTO counters (name, value) SELECT 'feed forgotten', max(serial) FROM feed WHERE serial <"
                " (SELECT coalesce(min(serial), $2) FROM feed WHERE at >= $1) HAVING max(serial) IS NOT NULL"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (before, _PAST_ALL),
            ),
            ("DELETE FROM feed WHERE serial <= (SELECT value FROM counters WHERE name = 'feed forgotten')", ()),
        )
