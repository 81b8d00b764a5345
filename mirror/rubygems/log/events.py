"""What may change the published log, as values that its writer takes from a queue."""

from typing import TypeAlias

import msgspec

from mirror.index.cache import Validity
from mirror.rubygems.log.versions_map import LocalEntry, VersionsMap


class UpstreamChange(msgspec.Struct, frozen=True):
    """An upstream lists these gems otherwise than before."""

    upstream: int
    """Which of the repository's upstreams, by its place."""
    listed: VersionsMap
    """All that it lists now."""
    names: frozenset[str]


class PageChange(msgspec.Struct, frozen=True):
    """A gem's page shows what the entry lists; None: what its upstream lists."""

    name: str
    entry: LocalEntry | None
    of: Validity | None = None
    """What has to be valid as the page is listed, else it has changed meanwhile and is checked again; None: nothing."""


class ReviewEnd(msgspec.Struct, frozen=True):
    """Policy has seen the changes of these gems, except those whose pages could not be fetched."""

    names: frozenset[str]
    failed: frozenset[str]


class Release(msgspec.Struct, frozen=True):
    """The operator may have released the names of these gems."""

    names: frozenset[str]


class Update(msgspec.Struct, frozen=True):
    """The log is needed: bring it up to date, and begin it where there is none."""


LogEvent: TypeAlias = UpstreamChange | PageChange | ReviewEnd | Release | Update
