"""Files of a union that several of its sources list with the same digest: where one fails, another gives them.

The surprise: it is never asked whether another source of other projects has the bytes. Only a union shows the files of
all its sources together, so only there does no name become known to a source that would not have been asked for it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from mirror.errors import MirrorError, NotFound, Unavailable, UpstreamError
from mirror.index.freshness import Freshness
from mirror.index.source import OpenFile, Source
from mirror.model import File
from mirror.transfer import Origin

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 5.0
"""Time for which a client waits for the first bytes from one source before another is asked as well."""


class OtherSources:
    """The other sources of a union that may list a file, each asked once."""

    def __init__(self, project: str, file: File, sources: Sequence[Source]) -> None:
        self._project = project
        self._file = file
        self._left = list(sources)

    async def holder(self) -> tuple[Source, File] | None:
        """Return a source that holds the file, with its entry."""
        for source in self._left:
            entry = await self._entry(source)
            if entry is not None and await source.holds(self._project, entry):
                return source, entry
        return None

    async def next(self) -> tuple[Source, File] | None:
        """Return the next source that lists the file, with its entry."""
        while self._left:
            source = self._left.pop(0)
            entry = await self._entry(source)
            if entry is not None:
                return source, entry
        return None

    async def next_origin(self, error: MirrorError) -> Origin | None:
        """Return where a transfer that failed in its middle goes on."""
        while (found := await self.next()) is not None:
            source, entry = found
            origin = source.origin(self._project, entry)
            if origin is not None:
                logger.info("%s; %s goes on from %s", error, entry.filename, source.name)
                return origin
        return None

    async def _entry(self, source: Source) -> File | None:
        """Return the entry of the file at a source, where that is of the same bytes."""
        try:
            listing = await source.project(self._project, Freshness.ANY)
        except (NotFound, Unavailable, UpstreamError):
            return None
        entry = listing.project.file(self._file.filename) if listing.project is not None else None
        same = entry is not None and entry.sha256 == self._file.sha256 and not entry.alternatives
        return entry if same and self._file.size in (None, entry and entry.size) else None


async def open_from_any(
    source: Source,
    others: OtherSources,
    project: str,
    file: File,
    open_at: Callable[[Source, File], Awaitable[OpenFile]],
) -> OpenFile:
    """Return what `open_at` opens at a source, or at another one where that fails or lets clients wait.

    Raises the first source's error where no other gives the file either.
    """
    if not await source.holds(project, file) and (holder := await others.holder()) is not None:
        return await open_at(*holder)
    first = asyncio.ensure_future(open_at(source, file))
    first.add_done_callback(lambda done: None if done.cancelled() else done.exception())  # it may be no one's by then
    await asyncio.wait([first], timeout=PATIENCE_SECONDS)
    if first.done() and first.exception() is None:
        return first.result()
    while (other := await others.next()) is not None:
        try:
            opened = await open_at(*other)
        except (NotFound, Unavailable, UpstreamError) as error:
            logger.info("%s has no %s either: %s", other[0].name, file.filename, error)
        else:
            logger.warning("%s does not give %s: it comes from %s", source.name, file.filename, other[0].name)
            return opened
    return await first
