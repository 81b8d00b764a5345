"""Pages that several processes want: one of them asks upstream, and the others read what it has stored."""

from collections.abc import Awaitable, Callable

from mirror.catalog import PageRow
from mirror.index.page_store import PageState, PageStore
from mirror.index.source import SourceOptions
from mirror.model import Page
from mirror.transfer import flight_name

RECENT_SECONDS = 2.0
"""Seconds before a process wanted to ask in which another one may have asked, so that the answer will do."""

Ask = Callable[[Page, PageRow | None], Awaitable[PageState]]
"""Asks upstream for a page, given what is known of it."""


def asked_once(ask: Ask, store: PageStore, source: str, options: SourceOptions) -> Ask:
    """Return what asks for a page of a source once for all processes that want it; `ask` where there is only one."""
    flights = options.flights
    if flights is None:
        return ask

    async def ask_or_read(page: Page, row: PageRow | None) -> PageState:
        since = options.clock() - RECENT_SECONDS

        async def look() -> PageState | None:
            found = await store.row_anew(page)
            if found is None or (row is not None and found.stamp.checked <= row.stamp.checked):
                return None
            # A clock of another machine that is ahead must not make an old answer a new one.
            recent = since <= found.stamp.checked <= options.clock() + RECENT_SECONDS
            return PageState(found, "joined") if recent else None

        name = flight_name("page", source, page.kind, page.name)
        return await flights.once(name, look, lambda: ask(page, row))

    return ask_or_read
