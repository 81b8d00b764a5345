"""What an upstream has taken back: files that we hold and its pages no longer list.

They are noticed when a page changes, and recorded with what the page said of them, so that installs from a lock file
go on, also offline and after a restart. What becomes of them is for policy to decide. A file that we did not hold when
it went is not here: we could not give it to anyone.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec

from mirror.catalog import Catalog
from mirror.catalog.retention import Why
from mirror.index.cache import FILE_BYTES, MemoryBudget, RareRows
from mirror.index.journal import Journal
from mirror.model import File, Project

logger = logging.getLogger(__name__)


class Removals:
    """The removed files of one source."""

    def __init__(self, source: str, catalog: Catalog, journal: Journal, memory: MemoryBudget) -> None:
        self._source = source
        self._catalog = catalog
        self._journal = journal
        self.rows: RareRows[tuple[File, ...]] = RareRows(
            memory, lambda files: FILE_BYTES * len(files), partial(catalog.removed.projects, source), self._read_files
        )
        self.forget = self.rows.forget
        self.close = self.rows.close

    async def of(self, project: str) -> tuple[File, ...]:
        """Return the removed files of a project."""
        return await self.rows.of(project) or ()

    async def _read_files(self, project: str) -> tuple[File, ...]:
        files = await self._catalog.removed.of_project(self._source, project)
        return tuple(msgspec.structs.replace(file, source=self._source) for file in files)

    async def compare(
        self, name: str, before: Callable[[], Awaitable[Project | None]] | None, after: Project | None, now: float
    ) -> None:
        """Record what is held of a project and is no longer listed, and forget what is listed again.

        `before` returns what was listed so far, as far as it can be read; None when there was no page. `after` is what
        is listed now; None when there is no such page. A project in quarantine lists nothing, whatever its page
        contains (PEP 792).
        """
        known = {file.filename for file in await self.of(name)}
        quarantined = after is not None and after.status == "quarantined"
        listed = {file.filename: file for file in after.files} if after else {}
        if before is None and not quarantined and not known:
            return
        held = {held.filename for held in await self._catalog.files.of_project(self._source, name)}
        if not known and not held:
            return
        old = await before() if before else None
        candidates = {file.filename: file for file in old.files} if old else {}
        if quarantined:
            candidates |= listed
            listed = {}
        gone = [
            file
            for filename, file in candidates.items()
            if filename in held and filename not in listed and filename not in known
        ]
        back = [filename for filename in known if filename in listed]
        if not gone and not back:
            return
        why: Why = "quarantine" if quarantined else "file" if after else "project"
        for file in gone:
            logger.warning("%s no longer lists %s (%s), which is held here", self._source, file.filename, why)
        for serial in await self._catalog.removed.change(self._source, name, gone, why, back, now):
            self._journal.recorded(serial)
        self.forget(name)


def with_removed(revision: str, project: Project, removed: Sequence[File]) -> tuple[str, Project, frozenset[str]]:
    """Return a project with those of its removed files that it does not list by now, its revision, and their names."""
    listed = {file.filename for file in project.files} if removed else set()
    left = [file for file in removed if file.filename not in listed]
    if not left:
        return revision, project, frozenset()
    versions = dict.fromkeys((*project.versions, *(file.version for file in left)))
    project = msgspec.structs.replace(project, files=(*project.files, *left), versions=tuple(versions))
    # The same page can leave other files behind than it did before, or other bytes under the same name.
    revisions = (f"{file.filename} {file.sha256 or ''}" for file in left)
    return "\0".join((revision, *revisions)), project, frozenset(file.filename for file in left)
