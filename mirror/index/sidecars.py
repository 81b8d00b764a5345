"""What has no sidecar: files of an upstream out of which none can be made.

That is noticed when a client asks for one that its page has promised. It is remembered, and pages promise none from
then on, so that the next client reads the file instead.
"""

from collections.abc import Collection, Mapping

import msgspec

from mirror.catalog import Catalog
from mirror.errors import StorageFull
from mirror.index.cache import LoadingCache, MemoryBudget, SingleFlight
from mirror.index.journal import Journal
from mirror.model import File, Project

FILE_NAME_BYTES = 400
"""Bytes that a file's name and digest take in memory (estimated)."""


class SidecarGaps:
    """The files of one source that have no sidecar."""

    def __init__(self, source: str, catalog: Catalog, journal: Journal, memory: MemoryBudget) -> None:
        self._source = source
        self._catalog = catalog
        self._journal = journal
        self.projects: Collection[str] | None = None
        """Those that have such files, where that is in memory."""
        self._reading: SingleFlight[str, Collection[str]] = SingleFlight()
        self._known: LoadingCache[str, Mapping[str, str]] = LoadingCache(
            memory, lambda files: FILE_NAME_BYTES * len(files)
        )

    async def of(self, project: str) -> Mapping[str, str]:
        """Return the files of a project that have no sidecar: file name → digest, "" where the index lists none."""
        projects = self.projects
        if projects is None:
            projects, _ = await self._reading.run("", self._read_projects)
        if project not in projects:
            return {}
        return await self._known.get(project, lambda: self._catalog.no_sidecars.of_project(self._source, project)) or {}

    async def _read_projects(self) -> Collection[str]:
        projects = await self._catalog.no_sidecars.projects(self._source)
        if self._reading.owns(""):
            self.projects = projects
        return projects

    async def add(self, project: str, file: File, now: float) -> bool:
        """Remember a file; return whether that is news. On a full disk nothing is remembered."""
        if (await self.of(project)).get(file.filename) == _digest(file):
            return False
        try:
            serial = await self._catalog.no_sidecars.add(self._source, project, file.filename, _digest(file), now)
        except StorageFull:
            return False
        self._journal.recorded(serial)
        self.forget(project)
        return True

    def forget(self, project: str) -> None:
        """Read them again, since they have changed."""
        self.projects = None
        self._reading.pop("", None)
        self._known.forget(project)

    async def close(self) -> None:
        """Stop what is being read."""
        await self._reading.close()
        await self._known.close()


def with_gaps(revision: str, project: Project, gaps: Mapping[str, str]) -> tuple[str, Project]:
    """Return a project whose files are marked that have no sidecar, and its revision."""
    marked = {file.filename for file in project.files if gaps.get(file.filename) == _digest(file)}
    if not marked:
        return revision, project
    files = [
        msgspec.structs.replace(file, sidecar=False) if file.filename in marked else file for file in project.files
    ]
    return "\0".join((revision, "no sidecar", *sorted(marked))), msgspec.structs.replace(project, files=tuple(files))


def _digest(file: File) -> str:
    return file.sha256 or ""
