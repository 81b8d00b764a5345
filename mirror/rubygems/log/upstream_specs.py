"""An upstream's own legacy index, which is passed on while the published index lists the very same.

Rendering two million versions as Marshal takes long, and upstream has done it already. Its files are fetched once for
each state of its list; where that takes longer than a moment, clients get ours meanwhile. The surprise: only the bytes
are passed on. Their date is ours, since a client's copy is as old as the list that it was made from here.
"""

import asyncio
import logging
import zlib
from collections.abc import Sequence

from mirror.errors import Invalid, UpstreamError
from mirror.index.cache import BoundedCache, MemoryBudget, SingleFlight
from mirror.model import UpstreamResponse
from mirror.rubygems.index import SpecsKind, number_of_rows
from mirror.rubygems.log.upstream_index import UpstreamIndex
from mirror.rubygems.log.versions_map import VersionsMap
from mirror.rubygems.marshal.reading import inflate, number_of_specs

logger = logging.getLogger(__name__)

WAIT_SECONDS = 2.0
"""For which a client waits for upstream's file, while ours could be made."""
SPECS_BYTES = 128 << 20
"""The most that a file may have, decompressed."""


class UpstreamSpecs:
    """The files of the upstream of a published index, if it has one alone."""

    def __init__(self, upstreams: Sequence[UpstreamIndex], memory: MemoryBudget, offline: bool) -> None:
        self._upstream = upstreams[0] if len(upstreams) == 1 else None
        self._offline = offline
        self._files: BoundedCache[SpecsKind, tuple[VersionsMap, UpstreamResponse]] = BoundedCache(memory)
        """What upstream listed when a file was fetched, with the file; the newest of each kind."""
        self._differing: dict[SpecsKind, VersionsMap] = {}
        """What upstream listed when its file was found to list something else."""
        self._equal: tuple[VersionsMap, VersionsMap, bool] | None = None
        """The two maps that were compared last, and whether they are equal."""
        self._flight: SingleFlight[SpecsKind, None] = SingleFlight()

    async def get(self, published: VersionsMap, kind: SpecsKind) -> bytes | None:
        """Return upstream's gzipped file if it lists what is published; None if not, or if it is not here yet."""
        upstream = self._upstream
        if upstream is None or (listed := upstream.map) is None or not upstream.has_specs:
            return None
        if self._equal is None or self._equal[0] is not listed or self._equal[1] is not published:
            self._equal = listed, published, await asyncio.to_thread(listed.lists_same, published)
        if not self._equal[2] or self._differing.get(kind) is listed:
            return None
        known = self._files.value(kind)
        if (known is None or known[0] is not listed) and not self._offline:
            before = known[1] if known else None
            fetching = self._flight.start(kind, lambda: self._fetch(upstream, kind, listed, before))
            await asyncio.wait({fetching}, timeout=WAIT_SECONDS)
            known = self._files.value(kind)
        return known[1].body if known is not None and known[0] is listed else None

    async def _fetch(
        self, upstream: UpstreamIndex, kind: SpecsKind, listed: VersionsMap, known: UpstreamResponse | None
    ) -> None:
        """Fetch a file for what upstream lists, and keep it if it lists as many versions."""
        try:
            response = await upstream.specs(kind, known)
            data = await asyncio.to_thread(inflate, response.body, 16 + zlib.MAX_WBITS, SPECS_BYTES, f"{kind}.4.8.gz")
            same = number_of_specs(data) == await asyncio.to_thread(number_of_rows, listed, kind)
        except (UpstreamError, Invalid) as error:
            logger.info("%s.4.8.gz is made here: %s", kind, error)
            self._differing[kind] = listed
            return
        if same and upstream.map is listed:
            self._files.put(kind, (listed, response), len(response.body))
        else:
            self._differing[kind] = listed

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._flight.close()
