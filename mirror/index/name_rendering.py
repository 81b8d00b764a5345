"""Pure: lists of names, merged, rendered and compressed, all of it in an isolated process where they are long.

The surprise: that process is started for it, so what is imported here is little.
"""

import hashlib
import importlib
from collections.abc import Callable, Container, Mapping, Sequence

import msgspec

from mirror.index.packing import COMPRESS, DECOMPRESS, PackedNames, PackedPage
from mirror.model import Format, Names, UpstreamResponse


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


def merge_names(
    sources: Sequence[Names], private: Sequence[tuple[str, ...]], taken: Sequence[Container[str]] = ()
) -> Names:
    """Merge the names of sources, in their order.

    `private` are patterns of names that each source may not have, `taken` the names that belong to sources before it.
    """
    serials: dict[str, int | None] = {}
    display: dict[str, str] = {}
    for names, patterns, others in zip(sources, private, taken or [()] * len(sources), strict=True):
        if not (serials or patterns or others):  # all of them, as from a single source; there may be a million
            serials, display = {**names.serials}, {**names.display}
            continue
        if patterns:
            from mirror.policy import matches  # an isolated process mostly does without its imports
        for name, serial in names.serials.items():
            if name in serials or name in others or (patterns and matches(patterns, name)):
                continue
            serials[name] = serial
            if name in names.display:
                display[name] = names.display[name]
    newest = max((names.serial for names in sources if names.serial is not None), default=None)
    ordered = sorted(serials)
    if ordered != [*serials]:
        serials = {name: serials[name] for name in ordered}
    return Names(serials=serials, display=display, serial=newest)


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
