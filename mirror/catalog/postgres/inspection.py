"""Looking at the database from outside, beside running nodes: nothing is written or locked."""

import statistics
import time
from collections.abc import Callable, Mapping

import msgspec

from mirror.catalog.flights import ALIVE_SECONDS
from mirror.catalog.migration import migrations
from mirror.catalog.postgres.connecting import DatabaseServer
from mirror.catalog.postgres.schema import CLOCK, refusal, schema_number, strangers_catalog

NODES_SCHEMA = 17
"""The number of the migration that made the table of nodes."""
_FILES = "SELECT value FROM counters WHERE name = 'objects identity'"
QUESTIONS = 5
"""How often the time of an answer is measured."""


class DatabaseInspection(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an inspection of a database."""

    trouble: str = ""
    """The reason for which it cannot be used; empty when it can."""
    latency: float = 0.0
    """The usual time until an answer, in seconds."""
    offset: float = 0.0
    """The time of its clock minus that of this machine, in seconds."""
    schema: int = 0
    """The number of the newest migration that it has seen; 0 when no node has used it yet."""
    known: int = 0
    """The number of the newest migration that this version knows."""
    newest: float | None = None
    """When something changed last, in seconds since the epoch."""
    nodes: tuple[str, ...] = ()
    """The addresses of the nodes that have shown a sign of life."""
    files: int | None = None
    """The identity of the object store that has the files; None for none."""


async def inspect_database(
    url: str, password: Callable[[], str | None], repositories: Mapping[str, str] | None = None
) -> DatabaseInspection:
    """Look at the database.

    `repositories` has the format of each repository of this mirror by its name; None for any mirror's database.
    """
    known = migrations()[-1].number
    try:
        connection = await DatabaseServer(url, password).connect()
        try:
            latencies, offsets = [], []
            for _ in range(QUESTIONS):
                asked, began = time.time(), time.perf_counter()
                rows = await connection.fetch(f"SELECT {CLOCK}")
                latencies.append(time.perf_counter() - began)
                offsets.append(float(str(rows[0][0])) - asked - latencies[-1] / 2)
            schema = await schema_number(connection)
            newest = await connection.fetch("SELECT max(at) FROM feed") if schema else [(None,)]
            alive = f"SELECT address FROM nodes WHERE seen > {CLOCK} - {ALIVE_SECONDS} ORDER BY address"
            nodes = await connection.fetch(alive) if schema >= NODES_SCHEMA else []
            strange = await strangers_catalog(connection, repositories) if schema and repositories is not None else ""
            files = await connection.fetch(_FILES) if schema else []
        finally:
            connection.terminate()
    except Exception as error:
        if (sentence := refusal(error)) is None:
            raise
        return DatabaseInspection(trouble=str(sentence), known=known)
    return DatabaseInspection(
        latency=statistics.median(latencies),
        offset=statistics.median(offsets),
        schema=schema,
        known=known,
        trouble=f"catalog.url: {strange}" if strange else "",
        files=int(str(files[0][0])) if files else None,
        newest=None if newest[0][0] is None else float(str(newest[0][0])),
        nodes=tuple(str(row[0]) for row in nodes),
    )
