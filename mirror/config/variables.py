"""Which environment variables that begin with MIRROR_ are settings, and which ones others have put there. Pure.

A cluster gives every container variables about each of its services: a service `mirror` alone makes MIRROR_PORT,
MIRROR_SERVICE_HOST and MIRROR_PORT_8484_TCP, `mirror-cache` makes MIRROR_CACHE_PORT. They must not keep the mirror from
starting, while a misspelt setting must: it would be missed when it is needed most.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Literal

PREFIX = "MIRROR_"
NOT_SETTINGS = frozenset({"MIRROR_CONFIG"})
"""Variables with the prefix that are the mirror's own, but not settings."""
NEAR = 0.75
"""How alike (0 to 1) a name is to a setting's that it is taken for a misspelling of."""

_SERVICE = re.compile(
    r"\AMIRROR(?:_[A-Z0-9_]+)??_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
"""The names of service links that can be nothing else."""
_LINK = re.compile(r"(?:tcp|udp|sctp)://[^/]*")
_CONTAINER = re.compile(r"/[^/]+/[^/]+")
"""What the old container links have in …_NAME: the names of two containers."""

Meaning = Literal["setting", "foreign", "misspelt", "unknown"]


def meaning(name: str, value: str, tables: Mapping[str, Iterable[str]]) -> tuple[Meaning, str]:
    """Return what a variable is, and for a misspelt setting the name that is meant.

    `tables` has every setting at the top, with the keys of those that are tables.
    """
    key, *nested = name.removeprefix(PREFIX).lower().split("__")
    if name in NOT_SETTINGS or key in tables:
        return "setting", ""
    if _is_link(name, value):
        return "foreign", ""
    if near := _near(key, tables):
        return "misspelt", "__".join((PREFIX + near, *nested)).upper()
    return "unknown", ""


def _is_link(name: str, value: str) -> bool:
    return (
        _SERVICE.fullmatch(name) is not None
        or (name.endswith("_PORT") and _LINK.fullmatch(value) is not None)
        or (name.endswith("_NAME") and _CONTAINER.fullmatch(value) is not None)
        or "_ENV_" in name
    )


def _near(key: str, tables: Mapping[str, Iterable[str]]) -> str:
    """Return the setting that a key misspells; empty where it is far from all of them."""
    for table, keys in tables.items():  # MIRROR_STORE_LIMIT, with one underscore instead of two
        if key.startswith(f"{table}_") and (
            rest := difflib.get_close_matches(key.removeprefix(f"{table}_"), list(keys), 1)
        ):
            return f"{table}__{rest[0]}"
    return next(iter(difflib.get_close_matches(key, list(tables), 1, NEAR)), "")
