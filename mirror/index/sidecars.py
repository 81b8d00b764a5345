"""What has no sidecar: files of an upstream out of which none can be made.

That is noticed when a client asks for one that its page has promised. It is remembered, and pages promise none from
then on, so that the next client reads the file instead.
"""

from collections.abc import Mapping
from functools import partial

import msgspec

from mirror.catalog import Catalog
from mirror.errors import StorageError
from mirror.index.cache import MemoryBudget, RareRows
from mirror.index.journal import Journal
from mirror.model import File, Project

FILE_NAME_BYTES = 400
"""Bytes that a file's name and digest take in memory (estimated)."""


class SidecarGaps:
    """The files of one source that have no sidecar."""

    def __init__(self, source: str, catalog: Catalog, journal: Journal, memory: MemoryBudget) -> None:
        self._source = source
        self._table = catalog.no_sidecars
        self._journal = journal
        self.rows: RareRows[Mapping[str, str]] = RareRows(
            memory,
            lambda files: FILE_NAME_BYTES * len(files),
            partial(self._table.projects, source),
            partial(self._table.of_project, source),
        )
        """File name → digest, "" where the index lists none."""
        self.forget = self.rows.forget
        self.close = self.rows.close

    async def add(self, project: str, file: File, now: float) -> bool:
        """Remember a file; return whether that is news. On a full disk nothing is remembered."""
        if (await self.rows.of(project) or {}).get(file.filename) == _digest(file):
            return False
        try:
            serial = await self._table.add(self._source, project, file.filename, _digest(file), now)
        except StorageError:
            return False
        self._journal.recorded(serial)
        self.forget(project)
        return True


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
