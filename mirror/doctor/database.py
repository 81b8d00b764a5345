"""Checks of the catalog's database, where that is a server that several nodes share."""

from collections.abc import Mapping

from mirror.doctor.findings import Finding, Requirement

SLOW_SECONDS = 0.02
"""The time until an answer of the database from which cold pages and uploads are noticeably slow."""
OFFSET_SECONDS = 5.0
"""How far the clocks of a node and of the database may differ."""

_ANSWERS = Requirement(
    "mirror/catalog",
    "The catalog's database answers, and fits this version.",
    "every client: what is held is not found, and uploads are refused with 503",
)
_LATENCY = Requirement(
    "mirror/database-latency",
    f"The database answers within {SLOW_SECONDS * 1000:.0f} ms.",
    "clients that request what is not in memory yet, and all who upload",
)
_CLOCK = Requirement(
    "mirror/database-clock",
    f"The clocks of this machine and of the database agree within {OFFSET_SECONDS:.0f} seconds.",
    "everyone who reads times in the log of this machine; all that is stored has the time of the database",
)
_NODES = Requirement(
    "mirror/nodes",
    "The other nodes answer this machine at their addresses, and have the same secret.",
    "upstreams, which are asked once more by each node that does not reach the others",
)


def check_nodes(answers: Mapping[str, bool]) -> Finding:
    """Judge which of the nodes that serve have answered, by their addresses."""
    silent = [address for address, answered in answers.items() if not answered]
    if silent:
        return _NODES.fails(f"{', '.join(silent)}: no answer, or another secret")
    return _NODES.ok(f"{', '.join(answers)}" if answers else "none serves at the moment")


def check_database(trouble: str, latency: float, offset: float, schema: int, known: int) -> list[Finding]:
    """Judge an inspection of the database: times are in seconds, `schema` and `known` are numbers of migrations."""
    if trouble:
        return [_ANSWERS.fails(trouble)]
    if schema > known:
        return [_ANSWERS.fails(f"a newer version made it (schema {schema}, known is {known}): upgrade this node")]
    note = f"{latency * 1000:.1f} ms"
    return [
        _ANSWERS.ok(f"schema {schema} of {known}"),
        _LATENCY.judge(latency <= SLOW_SECONDS, note),
        _CLOCK.judge(abs(offset) <= OFFSET_SECONDS, f"that of the database is {offset:+.1f} s from here"),
    ]
