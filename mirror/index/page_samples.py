"""Whether names that a list lacks are gone at their upstream: some of their pages are asked for, taken by chance."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence

from mirror.errors import MirrorError, NotFound
from mirror.model import Format, Page
from mirror.upstream import Upstream

PAGES_ASKED = 8
"""Lost names whose pages are asked for."""
WAIT_SECONDS = 5.0
"""Time for which they are waited for."""


async def pages_are_gone(
    lost: Sequence[str], listed: Iterable[str], has_page: Callable[[str], Awaitable[bool]]
) -> bool:
    """Return whether upstream has no pages of names that its list lacks, and has one of a name that it lists.

    `has_page` may raise MirrorError for what is not known.
    """
    control = next(iter(listed), None)
    if control is None:
        return False  # an index that has lost everything confirms nothing
    asked = random.sample(lost, min(PAGES_ASKED, len(lost)))
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            has, *others = await asyncio.gather(*(has_page(name) for name in (control, *asked)))
    except (MirrorError, TimeoutError):
        return False
    return has and not any(others)


async def has_page(upstream: Upstream, format: Format, name: str) -> bool:
    """Ask upstream whether it has a page of a project; nothing is stored. Raises UpstreamError."""
    try:
        await upstream.get(format.request_for(upstream.url, Page("project", name)))
    except NotFound:
        return False
    return True
