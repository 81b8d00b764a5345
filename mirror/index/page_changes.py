"""What it means that a page has changed: which files and names are gone, and whether that is to be believed yet.

The surprise: a page that lost a great part is refused here like one that does not parse, until a second answer minutes
later says the same (`losses`), so that what is stored goes on; a list of names is believed at once where pages of the
lost ones are gone as well. And an HTML page without any file never replaces a JSON page that has some: an index that
speaks JSON does not stop to, but portals and maintenance pages speak HTML.
"""

import logging
from collections.abc import Awaitable, Callable

from mirror.catalog import Claims, PageRow
from mirror.errors import UpstreamProtocolError
from mirror.index.cache import BoundedCache, MemoryBudget
from mirror.index.losses import CONFIRMED_AFTER_SECONDS, LIST, PAGE, Doubt, Tolerance, doubt, is_great, lost
from mirror.index.page_reader import PageReader
from mirror.index.page_samples import pages_are_gone
from mirror.index.page_store import PageStore, warn_if_full
from mirror.index.removals import Removals
from mirror.model import Names, Page, Project, UpstreamResponse

logger = logging.getLogger(__name__)


class PageChanges:
    """Compares pages of one source with those that they are about to replace."""

    def __init__(
        self,
        source: str,
        store: PageStore,
        reader: PageReader,
        removals: Removals,
        claims: Claims,
        memory: MemoryBudget,
        has_page: Callable[[str], Awaitable[bool]],
    ) -> None:
        """`has_page` asks upstream whether it has a page of a project. Raises MirrorError where that is not known."""
        self._has_page = has_page
        self._source = source
        self._store = store
        self._reader = reader
        self._removals = removals
        self._claims = claims
        self._doubts: BoundedCache[Page, Doubt] = BoundedCache(memory)
        self._names = 0
        """How many names the stored list has; 0 where that has not been counted yet."""

    async def check_project(
        self, page: Page, before: PageRow | None, after: Project, response: UpstreamResponse, now: float, listed: bool
    ) -> None:
        """Record which files upstream no longer lists. Raises UpstreamProtocolError when that is not believed yet.

        `listed`: its own index of pages lists this very one.
        """
        if before is None or not before.stamp.found:
            await self._compare(page, None, after, now)
            return
        old = await self._stored_project(page)
        if old is not None and old.files and not after.files and _is_html(response) and not _is_html_type(before):
            raise UpstreamProtocolError(
                f"{self._source} answered an HTML page without any file for {page.name}, whose page has"
                f" {len(old.files)} and was JSON; the stored one goes on."
            )
        if old is not None and not listed and after.status != "quarantined":
            names = {file.filename for file in after.files}
            gone = lost([file.filename for file in old.files], names)
            self._believe(page, len(gone), len(old.files), now, PAGE)
        await self._compare(page, old, after, now)

    async def check_missing(self, page: Page, now: float) -> None:
        """Record that upstream no longer has a project of which there is a page."""
        await self._compare(page, await self._stored_project(page), None, now)

    async def check_names(self, page: Page, before: PageRow | None, after: Names, now: float) -> None:
        """Compare lists of names. Raises UpstreamProtocolError when one that became shorter is not believed yet."""
        known = before is not None and before.stamp.found
        if known and (self._names == 0 or len(after.serials) < self._names):
            old = await self._stored_names(page)
            if old is not None:
                gone = lost(old.serials, after.serials)
                great = is_great(len(gone), len(old.serials), LIST)
                if great and await pages_are_gone(gone, after.serials, self._has_page):
                    self._doubts.forget(page)
                else:
                    self._believe(page, len(gone), len(old.serials), now, LIST)
                with warn_if_full("which names upstream no longer lists"):
                    await self._claims.add(self._source, gone, now)
        self._names = len(after.serials)

    def _believe(self, page: Page, gone: int, of: int, now: float, tolerance: Tolerance) -> None:
        """Raise UpstreamProtocolError when so many things of so many are gone that it is not believed yet."""
        doubted = doubt(self._doubts.value(page), gone, of, now, tolerance)
        if doubted is None:
            self._doubts.forget(page)
            return
        self._doubts.put(page, doubted)
        raise UpstreamProtocolError(
            f"{self._source} no longer lists {doubted} {'files of ' + page.name if page.name else 'projects'}; the"
            f" stored list goes on until it says so again in {CONFIRMED_AFTER_SECONDS / 60:.0f} minutes."
        )

    async def _compare(self, page: Page, old: Project | None, after: Project | None, now: float) -> None:
        async def listed_before() -> Project | None:
            return old

        with warn_if_full(f"which files of {page.name} are gone"):
            await self._removals.compare(page.name, listed_before if old else None, after, now)

    async def _stored_project(self, page: Page) -> Project | None:
        stored = await self._store.read(page)
        if stored is None:
            return None
        try:
            return await self._store.project(page, stored[1])
        except UpstreamProtocolError:
            return None

    async def _stored_names(self, page: Page) -> Names | None:
        stored = await self._store.read(page)
        if stored is None:
            return None
        try:
            return await self._reader.names(stored[1])
        except UpstreamProtocolError:
            return None


def _is_html(response: UpstreamResponse) -> bool:
    return "html" in response.content_type.lower()


def _is_html_type(row: PageRow) -> bool:
    return "html" in row.content_type.lower()
