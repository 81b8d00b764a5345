"""What a mirror holds, as a small list, and what another one lacks of it. Pure but for (un)packing.

Everything in it has a key and a mark, and equal marks mean that nothing has to be carried. The bytes of a log are not
compared here: whoever has them decides how much is new (`tail`).
"""

import gzip
import hashlib
import zlib
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from mirror.errors import Invalid

Mark = TypeVar("Mark")

VERSION = 1
LARGEST = 1 << 30
"""Bytes of an inventory, unpacked."""

PageKey = tuple[str, str, str]
"""Source, kind, name."""
FileKey = tuple[str, str, str]
"""Source, project, file name."""
UploadKey = tuple[str, str]
"""Repository, file name."""
LogKey = tuple[str, str]
"""Role, name."""


class LogMark(msgspec.Struct, frozen=True, array_like=True):
    """How long a log is, and the digest of all of it."""

    length: int
    sha256: str


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What one mirror holds."""

    node: str = ""
    """Whose it is."""
    imported: Mapping[str, int] = {}
    """Node → the serial up to which nothing of its is lacking."""
    pages: Mapping[PageKey, str] = {}
    """Those that upstream has."""
    files: Mapping[FileKey, str] = {}
    """Their digests."""
    uploads: Mapping[UploadKey, str] = {}
    logs: Mapping[LogKey, LogMark] = {}
    blobs: frozenset[str] = frozenset()
    """Everything whose bytes are here."""


class Lacking(msgspec.Struct, frozen=True, kw_only=True):
    """What one mirror has to be given to hold what another one holds."""

    pages: frozenset[PageKey] = frozenset()
    gone: frozenset[PageKey] = frozenset()
    """Pages that upstream has no more."""
    files: frozenset[FileKey] = frozenset()
    uploads: frozenset[UploadKey] = frozenset()
    logs: frozenset[LogKey] = frozenset()


def difference(have: Inventory, want: Inventory, gone: frozenset[PageKey] = frozenset()) -> Lacking:
    """What `have` lacks of `want`; `gone` are the pages of which the other side knows that upstream has them no more.

    What only `have` holds is its own business. The same inventories have the same difference, whatever their order.
    """
    return Lacking(
        pages=frozenset(key for key, mark in want.pages.items() if have.pages.get(key) != mark),
        gone=frozenset(key for key in gone if key in have.pages),
        files=frozenset(key for key, digest in want.files.items() if have.files.get(key) != digest),
        uploads=frozenset(key for key, mark in want.uploads.items() if have.uploads.get(key) != mark),
        logs=frozenset(key for key, mark in want.logs.items() if have.logs.get(key) != mark),
    )


def tail(content: bytes, known: LogMark | None) -> int:
    """The byte of a log that somebody lacks first who has `known` of it; 0 when what they have is another one."""
    if known is None or not 0 < known.length <= len(content):
        return 0
    return known.length if hashlib.sha256(content[: known.length]).hexdigest() == known.sha256 else 0


class _Packed(msgspec.Struct, frozen=True, kw_only=True):
    """An inventory as JSON has it: mappings by tuples become nested ones."""

    inventory: int
    """The version of the format."""
    node: str
    imported: dict[str, int]
    pages: dict[str, dict[str, dict[str, str]]]
    files: dict[str, dict[str, dict[str, str]]]
    uploads: dict[str, dict[str, str]]
    logs: dict[str, dict[str, LogMark]]
    blobs: list[str]
    """Those that no file has."""


def pack(inventory: Inventory) -> bytes:
    """An inventory as compressed JSON: the same bytes for the same one."""
    packed = _Packed(
        inventory=VERSION,
        node=inventory.node,
        imported=dict(sorted(inventory.imported.items())),
        pages=_nested(inventory.pages),
        files=_nested(inventory.files),
        uploads=_nested({("", *key): mark for key, mark in inventory.uploads.items()}).get("", {}),
        logs=_nested({("", *key): mark for key, mark in inventory.logs.items()}).get("", {}),
        blobs=sorted(inventory.blobs - set(inventory.files.values())),
    )
    return gzip.compress(msgspec.json.encode(packed), 9, mtime=0)


def unpack(content: bytes) -> Inventory:
    """The inventory that was packed. Raises Invalid."""
    try:
        packed = msgspec.json.decode(unzipped(content, LARGEST), type=_Packed)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise Invalid(f"That is not an inventory of a mirror: {error}.") from None
    if packed.inventory != VERSION:
        raise Invalid(f"The inventory is of the format {packed.inventory}, and this mirror reads {VERSION}.")
    files = _flat(packed.files)
    return Inventory(
        node=packed.node,
        imported=packed.imported,
        pages=_flat(packed.pages),
        files=files,
        uploads={(first, second): mark for first, inner in packed.uploads.items() for second, mark in inner.items()},
        logs={(first, second): mark for first, inner in packed.logs.items() for second, mark in inner.items()},
        blobs=frozenset(packed.blobs).union(files.values()),
    )


def unzipped(content: bytes, limit: int) -> bytes:
    """The one gzip stream that `content` is. Raises ValueError when it is none, or holds more than `limit` bytes."""
    unpacking = zlib.decompressobj(wbits=31)
    try:
        body = unpacking.decompress(content, limit + 1)
    except zlib.error:
        raise ValueError("it is not compressed as it should be") from None
    if len(body) > limit:
        raise ValueError("it is larger than it says" if limit < LARGEST else "it is too large")
    if not unpacking.eof or unpacking.unused_data:
        raise ValueError("it is cut, or something follows it")
    return body


def _nested(flat: Mapping[tuple[str, str, str], Mark]) -> dict[str, dict[str, dict[str, Mark]]]:
    nested: dict[str, dict[str, dict[str, Mark]]] = {}
    for (first, second, third), mark in sorted(flat.items(), key=lambda item: item[0]):
        nested.setdefault(first, {}).setdefault(second, {})[third] = mark
    return nested


def _flat(nested: Mapping[str, Mapping[str, Mapping[str, str]]]) -> dict[tuple[str, str, str], str]:
    return {
        (first, second, third): mark
        for first, inner in nested.items()
        for second, innermost in inner.items()
        for third, mark in innermost.items()
    }
