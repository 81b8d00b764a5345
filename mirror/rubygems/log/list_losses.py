"""The doubt about an upstream's list of versions that lacks a great part of ours, and what ends it.

A second answer minutes later confirms a loss, and so do the pages: where upstream no longer has those of some lost
gems, taken by chance, while it has one of a gem that it goes on listing, the list is believed at once.
"""

import asyncio
import time
from collections.abc import Callable

from mirror.errors import NotFound, UpstreamProtocolError
from mirror.index import losses
from mirror.index.page_samples import pages_are_gone
from mirror.model import Page
from mirror.rubygems import pages
from mirror.rubygems.log.versions_map import VersionsMap
from mirror.upstream import Upstream


class ListLosses:
    """The losses of one upstream's list."""

    def __init__(self, upstream: Upstream, clock: Callable[[], float] = time.time) -> None:
        self._upstream = upstream
        self._clock = clock
        self._doubt: losses.Doubt | None = None
        """About the last list, while it lacks a great part of ours."""

    async def check(self, known: VersionsMap, listed: VersionsMap, least: int = 0, *, has_pages: bool = True) -> None:
        """Check that a new list does not lack a great part of the known one, unless that is confirmed.

        Fewer than `least` gems are no great part. `has_pages`: upstream has a page of each gem. Raises
        UpstreamProtocolError.
        """
        before = await asyncio.to_thread(list, known)
        lost = await asyncio.to_thread(losses.lost, before, listed)
        doubt = None
        if len(lost) >= least:
            doubt = losses.doubt(self._doubt, len(lost), len(before), self._clock(), losses.LIST)
        if doubt is not None and has_pages and await pages_are_gone(lost, listed, self._has_page):
            doubt = None
        self._doubt = doubt
        if doubt is not None:
            raise UpstreamProtocolError(
                f"{self._upstream.name}: its list of versions lacks {doubt} gems at once; the old one is kept"
                " until the next answers confirm it."
            )

    async def _has_page(self, name: str) -> bool:
        """Return whether upstream has a page of a gem that lists any version. Raises Invalid, UpstreamError."""
        try:
            response = await self._upstream.get(pages.request_for(self._upstream.url, Page("project", name)))
        except NotFound:
            return False
        assert response is not None, "an unconditional request has a response"
        return bool(pages.parse_info(response.body, name, self._upstream.url).files)
