"""Long lists of names, which are merged, rendered and compressed in an isolated process.

A list of a million names takes more than a second to read and to render, and in this process everybody would wait for
it, whatever thread it is in. So the stored lists go to the other process as they are, compressed, and the finished page
comes back. Short lists are quicker to read here.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from mirror.index.name_rendering import ListInput, RenderedNames, render_list
from mirror.index.source import NameListing
from mirror.isolation.processes import IsolatedProcesses, IsolationError

LONG_BYTES = 256 << 10
"""Bytes of stored lists, compressed, from which they are read in another process."""


class ListRenderer:
    """Renders the names of a repository elsewhere."""

    def __init__(self, format: str, isolated: IsolatedProcesses) -> None:
        self._format = format
        self._isolated = isolated

    async def render(
        self, listings: Sequence[NameListing], private: Sequence[tuple[str, ...]], taken: Sequence[set[str]], how: str
    ) -> tuple[list[str], RenderedNames] | None:
        """Return the revisions of what was read, and the page of merged names; None where they are better read here.

        `how` is the import path of the function that renders, and the content coding, with a space between.
        """
        packed = [await listing.pack() if listing.pack else None for listing in listings]
        if sum(len(one.body) for one in packed if one) < LONG_BYTES:
            return None
        loaded = [None if one else await listing.load() for one, listing in zip(packed, listings, strict=True)]
        inputs = [
            ListInput(one, other.names if other else None, patterns, sorted(names))
            for one, other, patterns, names in zip(packed, loaded, private, taken, strict=True)
        ]
        content = await asyncio.to_thread(msgspec.msgpack.encode, inputs)
        try:
            function = f"{render_list.__module__}:{render_list.__name__}"
            answer = await self._isolated.run(function, content, self._format, *how.split())
        except IsolationError:
            return None
        rendered = msgspec.msgpack.decode(answer, type=RenderedNames)
        for listing, newer in zip(listings, rendered.newer, strict=True):
            if listing.compared is not None:
                listing.compared(newer)
        read = [one or other for one, other in zip(packed, loaded, strict=True)]
        return [one.revision for one in read if one is not None], rendered
