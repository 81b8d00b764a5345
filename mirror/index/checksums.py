"""Checksums of our own, for files whose index lists none: those of the bytes that are held.

What was fetched without a checksum is believed as it came the first time; from then on, clients can lock it. Off unless
the operator wants it, since a checksum that the index did not give looks like one that it did.

The surprise: a page with such a checksum differs from upstream's, so what publishes its digest has to look at it
again when a file becomes held, or is no longer (`changed`).
"""

import asyncio
from collections.abc import Callable, Mapping

import msgspec

from mirror.catalog import Catalog
from mirror.index.cache import BoundedCache, LoadingCache, MemoryBudget
from mirror.model import File, Project

DIGEST_BYTES = 400
"""Bytes that a file's name and digest take in memory (estimated)."""


class HeldChecksums:
    """The checksums of the held files of one source, on the pages that lack them."""

    def __init__(
        self, source: str, with_checksum: Callable[[File, str], File], catalog: Catalog, memory: MemoryBudget
    ) -> None:
        self.changed: list[Callable[[str], None]] = []
        """Called with a project whose page lacks checksums when what is held of it may have changed."""
        self._source = source
        self._files = catalog.files
        self._with_checksum = with_checksum
        self._lacking: BoundedCache[str, None] = BoundedCache(memory)
        self._held: LoadingCache[str, Mapping[str, str]] = LoadingCache(memory, lambda held: DIGEST_BYTES * len(held))

    def lacks(self, project: str) -> bool:
        """Return whether the page of a project, as it was read last, lacks checksums that may be ours to give."""
        return project in self._lacking

    async def complete(self, revision: str, project: Project) -> tuple[str, Project]:
        """Return a project with our checksums where its page has none, and its revision."""
        if all(file.sha256 for file in project.files):
            self._lacking.forget(project.name)
            return revision, project
        self._lacking.put(project.name, None)
        held = await self._held.get(project.name, lambda: self._read(project.name)) or {}
        if not held:
            return revision, project
        return await asyncio.to_thread(_completed, revision, project, held, self._with_checksum)

    async def _read(self, project: str) -> Mapping[str, str]:
        return {held.filename: held.digest for held in await self._files.of_project(self._source, project)}

    def forget(self, project: str) -> None:
        """Read again what is held of a project, since that may have changed."""
        if project in self._lacking:
            self._held.forget(project)
            for listener in self.changed:
                listener(project)

    async def close(self) -> None:
        """Stop what is being read."""
        await self._held.close()


def _completed(
    revision: str, project: Project, held: Mapping[str, str], with_checksum: Callable[[File, str], File]
) -> tuple[str, Project]:
    files = tuple(
        with_checksum(file, held[file.filename]) if not file.sha256 and file.filename in held else file
        for file in project.files
    )
    names = [file.filename for file, before in zip(files, project.files, strict=True) if file is not before]
    if not names:
        return revision, project
    ours = (f"{name} {held[name]}" for name in names)
    return "\0".join((revision, "checksums", *ours)), msgspec.structs.replace(project, files=files)
