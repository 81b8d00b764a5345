"""Long lists of names, which are merged, rendered and compressed in an isolated process.

A list of a million names takes more than a second to read and to render, and in this process everybody would wait for
it, whatever thread it is in. So the stored lists go to the other process as they are, compressed, and the finished page
comes back. Short lists are quicker to read here.
"""

import asyncio
import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence

import msgspec

from mirror.index.merge import merge_names
from mirror.index.packing import COMPRESS, DECOMPRESS, PackedPage
from mirror.index.source import NameListing, PackedNames
from mirror.isolation import IsolatedProcesses, IsolationError
from mirror.model import Format, Names, UpstreamResponse

LONG_BYTES = 256 << 10
"""Bytes of stored lists, compressed, from which they are read in another process."""


class ListInput(msgspec.Struct, frozen=True, array_like=True):
    """The names of one source, as they go to the other process."""

    packed: PackedNames | None
    names: Names | None
    private: tuple[str, ...]
    """Patterns of names that the source may not have."""
    taken: list[str]
    """Names that belong to sources before it."""


class RenderedNames(msgspec.Struct, frozen=True, array_like=True):
    """A page of names, as it comes back."""

    page: PackedPage
    serial: int | None
    newer: list[dict[str, int]]
    """For each source, the projects whose stored pages have older serials than its list, with those of the list."""


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
            answer = await self._isolated.run(f"{__name__}:render_list", content, self._format, *how.split())
        except IsolationError:
            return None
        rendered = msgspec.msgpack.decode(answer, type=RenderedNames)
        for listing, newer in zip(listings, rendered.newer, strict=True):
            if listing.compared is not None:
                listing.compared(newer)
        read = [one or other for one, other in zip(packed, loaded, strict=True)]
        return [one.revision for one in read if one is not None], rendered


def render_list(content: bytes, format: str, renderer: str, encoding: str) -> bytes:
    """Merge, render and compress names in this process. Raises UpstreamProtocolError."""
    inputs = msgspec.msgpack.decode(content, type=list[ListInput])
    formats: Format = importlib.import_module(f"mirror.{format}").FORMAT
    names = [_names(one, formats) for one in inputs]
    newer = [_newer(one.packed.stored if one.packed else {}, listed) for one, listed in zip(inputs, names, strict=True)]
    merged = merge_names(names, [one.private for one in inputs], [{*one.taken} for one in inputs])
    module, _, function = renderer.partition(":")
    render: Callable[[Names], bytes] = getattr(importlib.import_module(module), function)
    body = render(merged)
    page = PackedPage(encoding, COMPRESS[encoding](body), len(body), hashlib.sha256(body).digest())
    return msgspec.msgpack.encode(RenderedNames(page, merged.serial, newer))


def _names(one: ListInput, format: Format) -> Names:
    if one.packed is None:
        return one.names or Names()
    facts = msgspec.json.decode(one.packed.facts, type=UpstreamResponse)
    return format.parse_names(msgspec.structs.replace(facts, body=DECOMPRESS["zstd"](one.packed.body)))


def _newer(stored: Mapping[str, int], listed: Names) -> dict[str, int]:
    newer = ((name, listed.serials.get(name), serial) for name, serial in stored.items())
    return {name: found for name, found, serial in newer if found is not None and serial < found}
