"""What comparing upstream's legacy index with the published one has shown, for all processes over one catalog the same.

A comparison takes a while, and a large list is seldom compared. So processes that each went by their own results would
serve different files of the same content for as long. The result of whichever process has compared last counts for all.
"""

import logging
from collections.abc import Callable

import msgspec

from mirror.catalog import SharedLog
from mirror.errors import StorageError
from mirror.rubygems.index import SpecsKind

logger = logging.getLogger(__name__)

ATTEMPTS = 5
"""Attempts to store a result while other processes store theirs."""


class SpecsComparison(msgspec.Struct, frozen=True):
    """The result of comparing a stored file with a log."""

    log: str
    """The ETag of the log that it was compared with."""
    revision: str
    """Of the file; empty where there is none."""
    same: bool
    at: float
    """When they were compared, in seconds since the epoch."""


class SpecsComparisons:
    """The last result for each file, of this process or of all that share the catalog."""

    def __init__(self, stored: SharedLog | None = None) -> None:
        """`stored` is where processes share them, if there are several."""
        self.known: dict[SpecsKind, SpecsComparison] = {}
        self.behind = True
        """Whether another process may have stored a result since they were read."""
        self.on_store: Callable[[], None] = lambda: None
        """Called when a result was stored."""
        self._stored = stored

    async def read_on(self) -> None:
        """Take up what other processes have stored; where the catalog does not answer, go on without."""
        if self._stored is None or not self.behind:
            return
        self.behind = False
        try:
            growth = await self._stored.growth()
        except StorageError:
            self.behind = True
            return
        self._stored.position = growth.position
        try:
            if growth.content:
                self.known.update(msgspec.json.decode(growth.content, type=dict[SpecsKind, SpecsComparison]))
        except msgspec.MsgspecError as error:  # of another version: the next result takes its place
            logger.warning("what other processes know of upstream's specs files cannot be read: %s", error)

    async def put(self, kind: SpecsKind, result: SpecsComparison) -> None:
        """Let a result be the last one, for all."""
        self.known[kind] = result
        if self._stored is None:
            return
        try:
            for _ in range(ATTEMPTS):
                if await self._stored.replace(msgspec.json.encode(self.known)):
                    self.on_store()
                    return
                self.behind = True
                await self.read_on()
                self.known[kind] = result
        except StorageError as error:
            logger.warning("which %s.4.8.gz is served may differ from other processes: %s", kind, error)
