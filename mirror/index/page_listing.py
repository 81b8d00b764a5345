"""What an index of an upstream's own lists: all of its projects, and the revisions of their pages."""

from collections.abc import Awaitable, Callable, Container

import msgspec

from mirror.model import Project, UpstreamResponse

LAG_SECONDS = 30.0
"""Time after which an upstream that serves an older page than it lists is asked again."""
LISTED_SECONDS = 3600.0
"""Time for which a page is fresh that upstream's own index lists as it is: a change announces itself there."""


async def _no_update() -> None:
    """Do nothing."""


class PageListing(msgspec.Struct, frozen=True):
    """The entries of the pages of projects in an index of upstream's own, which decides what upstream has."""

    names: Container[str]
    """The projects that it lists; for others, upstream is not asked."""
    revision: Callable[[str], str | None]
    """Returns the revision of a project's page; None when the index does not tell."""
    make: Callable[[str], Awaitable[UpstreamResponse]] | None = None
    """Makes a project's page, where upstream has none. Raises NotFound, UpstreamError."""
    update: Callable[[], Awaitable[None]] = _no_update
    """Asks for the index where that is due, and waits a moment for it. Raises nothing: the old one stands in."""
    void: str = ""
    """The revision of a page that shows nothing: so has a project of which all is gone."""
    complete: Callable[[Project], bool] = lambda project: True
    """Returns whether a project, as its page has it, lacks nothing that the index lists of it."""
