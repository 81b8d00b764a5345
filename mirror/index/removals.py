"""What an upstream has taken back: files that we hold and its pages list no more.

They are noticed when a page changes, and recorded with what the page said of them, so that whoever installs from a lock
file can go on, also offline and after a restart. What becomes of them is for policy to say. A file that we did not hold
when it went is not here: we could not give it to anybody.
"""

import logging

from mirror.catalog import Catalog
from mirror.catalog.removed import Why
from mirror.index.cache import BoundedCache
from mirror.index.flight import Changes
from mirror.index.journal import Journal
from mirror.model import File, Project

logger = logging.getLogger(__name__)

REMEMBERED = 20_000
"""For how many projects and files what was removed stays in memory."""


class Removals:
    """Those of one source."""

    def __init__(self, source: str, catalog: Catalog, feed: Journal) -> None:
        self._source = source
        self._catalog = catalog
        self._feed = feed
        self._known: BoundedCache[str, tuple[File, ...]] = BoundedCache(REMEMBERED)
        self._changes: Changes[str] = Changes()
        feed.listen(self._heard)

    async def of(self, project: str) -> tuple[File, ...]:
        """The removed files of a project."""
        known = self._known.get(project)
        if known is None:
            with self._changes.watch(project) as watch:
                known = await self._catalog.removed.of_project(self._source, project)
            if not watch.changed:
                self._known.put(project, known, weight=1 + len(known))
        return known

    def _heard(self, source: str, project: str) -> None:
        if source == self._source:
            self._forget(project)

    def _forget(self, project: str) -> None:
        self._changes.tell(project)
        self._known.forget(project)

    async def compare(self, name: str, before: Project | None, after: Project | None, now: float) -> None:
        """Record what is held of a project and was listed `before`, and is not `after`; None: there is no such page.

        A project that is in quarantine lists nothing, whatever its page says (PEP 792).
        """
        known = {file.filename for file in await self.of(name)}
        held = {held.filename for held in await self._catalog.files.of_project(self._source, name)}
        if not known and not held:
            return
        quarantined = after is not None and after.status == "quarantined"
        listed = {file.filename: file for file in after.files} if after else {}
        candidates = {file.filename: file for file in before.files} if before else {}
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
            logger.warning("%s lists %s no more (%s), which is held here", self._source, file.filename, why)
        for serial in await self._catalog.removed.change(self._source, name, gone, why, back, now):
            self._feed.recorded(serial)
        self._forget(name)
