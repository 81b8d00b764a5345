"""An upstream's own legacy index, which is passed on while it lists just what the published index does.

Its files are stored as all its pages are, so that they survive a restart and travel in bundles. Whether one is passed
on depends on nothing but that file and the log: mirrors that hold the same serve the same bytes, offline as well. When
it is found out is another matter, and the same for all nodes of a mirror (`specs_comparisons`).

The surprise: upstream is asked for a file only where the log says something else than the file that is stored, since
most states of a list are seen by no client that reads the legacy index. While it is asked, or has not caught up with
its own list, clients get the file that is made here.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from mirror.errors import Invalid, MirrorError
from mirror.index.cache import SingleFlight
from mirror.index.freshness import Freshness
from mirror.index.source import Document, DocumentBody, Source
from mirror.isolation.processes import IsolatedProcesses
from mirror.model import Page
from mirror.rubygems.index import SpecsKind, listed_digest, specs_digest
from mirror.rubygems.log.published_log import PublishedLog
from mirror.rubygems.log.specs_comparisons import SpecsComparison, SpecsComparisons
from mirror.rubygems.log.upstream_index import UpstreamIndex

logger = logging.getLogger(__name__)

WAIT_SECONDS = 5.0
"""For which a client waits for upstream's file, while ours could be made."""
AGAIN_SECONDS = 60.0
"""Between two requests for a file that lists something else than the log."""
LARGE_GEMS = 20_000
"""Gems in a log from which a comparison takes seconds of a processor …"""
LARGE_SECONDS = 600.0
"""… and is made so seldom."""
SMALL_BYTES = 256 << 10
"""Bytes of a file, decompressed, up to which it is read in a thread; a larger one is read in an isolated process."""
READING_SECONDS = 60.0
"""More than the usual call of such a process: the public index has two million versions."""


class UpstreamSpecs:
    """The legacy index of the one upstream of a repository."""

    def __init__(
        self,
        source: Source,
        upstream: UpstreamIndex,
        isolated: IsolatedProcesses,
        compared: SpecsComparisons,
        *,
        offline: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._source = source
        self._upstream = upstream
        self._isolated = isolated
        self._offline = offline
        self._clock = clock
        self.compared = compared
        self._digests: dict[SpecsKind, tuple[str, bytes]] = {}
        """The revision of a file with the digest of what it lists; an empty one where it cannot be read."""
        self._begun: dict[SpecsKind, float] = {}
        """When the comparison that runs was begun, in seconds of the event loop."""
        self._flight: SingleFlight[SpecsKind, None] = SingleFlight()

    async def get(self, log: PublishedLog, kind: SpecsKind) -> Document | None:
        """Return upstream's file if it lists what the log does; None if not, or if that is not known yet."""
        await self.compared.read_on()
        stored = await self._stored(kind)
        if not self._is_settled(log, kind, stored):
            await self._wait(log, kind)
            stored = await self._stored(kind)
        known = self.compared.known.get(kind)
        if stored is None or known is None or not known.same:
            return None
        return stored if (known.log, known.revision) == (log.etag, stored.revision) else None

    def _is_settled(self, log: PublishedLog, kind: SpecsKind, stored: Document | None) -> bool:
        """Return whether it is too early to compare the file with the log, or to ask upstream for another one."""
        known = self.compared.known.get(kind)
        if known is None:
            return False
        age, pause = self._clock() - known.at, LARGE_SECONDS if len(log.map) > LARGE_GEMS else 0.0
        if (known.log, known.revision) != (log.etag, stored.revision if stored else ""):
            return 0 <= age < pause
        return known.same or self._offline or 0 <= age < max(pause, AGAIN_SECONDS)

    async def _wait(self, log: PublishedLog, kind: SpecsKind) -> None:
        """Compare the file with the log, and wait for that; of one that takes long, only the first clients wait."""
        now = asyncio.get_running_loop().time()
        if kind not in self._flight:
            self._begun[kind] = now
        comparing = self._flight.start(kind, partial(self._compare, log, kind))
        await asyncio.wait({comparing}, timeout=max(0.0, self._begun[kind] + WAIT_SECONDS - now))

    async def _compare(self, log: PublishedLog, kind: SpecsKind) -> None:
        """Find out whether the file lists what the log does, and ask upstream for a newer one if it does not."""
        listed = await asyncio.to_thread(listed_digest, log.map, kind)
        body = await self._read(kind)
        same = body is not None and await self._digest(kind, body) == listed
        if not same and not self._offline and await self._may_list_same(log):
            try:
                await self._source.document(Page(kind), Freshness.ANEW)
            except MirrorError as error:
                logger.info("%s.4.8.gz is made here: %s", kind, error)
            body = await self._read(kind)
            same = body is not None and await self._digest(kind, body) == listed
        revision = body.revision if body else ""
        await self.compared.put(kind, SpecsComparison(log.etag, revision, same, self._clock()))

    async def _may_list_same(self, log: PublishedLog) -> bool:
        """Return whether the log lists just what upstream's list of versions does."""
        listed = self._upstream.map
        return listed is not None and await asyncio.to_thread(listed.lists_same, log.map)

    async def _stored(self, kind: SpecsKind) -> Document | None:
        try:
            return await self._source.document(Page(kind), Freshness.HELD)
        except MirrorError:
            return None

    async def _read(self, kind: SpecsKind) -> DocumentBody | None:
        try:
            stored = await self._stored(kind)
            return await stored.read() if stored is not None else None
        except MirrorError as error:
            logger.info("%s.4.8.gz is made here: %s", kind, error)
            return None

    async def _digest(self, kind: SpecsKind, body: DocumentBody) -> bytes:
        """Return the digest of what a file lists; an empty one where it cannot be read."""
        known = self._digests.get(kind)
        if known is None or known[0] != body.revision:
            self._digests[kind] = known = body.revision, await self._read_digest(kind, body.content)
        return known[1]

    async def _read_digest(self, kind: SpecsKind, content: bytes) -> bytes:
        try:
            return await asyncio.to_thread(specs_digest, content, SMALL_BYTES)
        except Invalid:
            pass  # too large, or no such file at all: for the isolated process to find out
        try:
            function = f"{specs_digest.__module__}:{specs_digest.__name__}"
            return await self._isolated.run(function, content, more_seconds=READING_SECONDS)
        except MirrorError as error:
            logger.warning("upstream's %s.4.8.gz is not passed on: %s", kind, error)
            return b""

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._flight.close()
