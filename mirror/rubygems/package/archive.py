"""The tar that a gem is, and the one inside of it: headers read and checked, nothing extracted.

`scan` yields the byte ranges that it needs instead of reading, so that it serves a file on disk and a Body alike.
"""

import re
from collections.abc import Generator
from typing import NamedTuple, TypeAlias

from mirror.errors import Invalid

BLOCK_BYTES = 512
"""A tar consists of blocks of this size."""
_MEMBERS = 64


class ArchiveMember(NamedTuple):
    """One entry of a tar: where its bytes start and how many they are."""

    name: str
    kind: bytes
    link: str
    start: int
    size: int

    @property
    def stop(self) -> int:
        """The offset of the next header."""
        return self.start + -(-self.size // BLOCK_BYTES) * BLOCK_BYTES


Scan: TypeAlias = Generator[tuple[int, int], bytes, dict[str, ArchiveMember]]
"""Yields the (start, stop) that it wants to see, is sent those bytes, and returns the members by name."""


def scan(size: int, until: str | None = None) -> Scan:
    """Walk over the headers of a gem of `size` bytes, as far as the member `until`. Raises Invalid."""
    members: dict[str, ArchiveMember] = {}
    at = 0
    ended = False
    while at + BLOCK_BYTES <= size:
        member = read_header((yield at, at + BLOCK_BYTES), at + BLOCK_BYTES)
        if member is None:
            ended = True
            break
        if member.kind not in {b"0", b"\0"} or "/" in member.name or member.name in {"", ".", ".."}:
            raise Invalid("The gem holds something besides plain files.")
        if member.name in members or len(members) == _MEMBERS:
            raise Invalid("The gem holds the same file twice, or too many files.")
        if member.start + member.size > size:
            raise Invalid("The gem is cut off.")
        members[member.name] = member
        if member.name == until:
            return members
        at = member.stop
    if "metadata.gz" not in members:
        raise Invalid("The file is not a gem: it has no metadata.gz.")
    if not ended:
        raise Invalid("The gem is cut off.")
    return members


def read_header(block: bytes, start: int) -> ArchiveMember | None:
    """Return the member that a tar header describes, None for the empty block at the end. Raises Invalid."""
    if not any(block):
        return None
    if sum(block) - sum(block[148:156]) + 8 * 0x20 != _octal(block[148:156]):
        raise Invalid("The file is not a gem: its tar headers are damaged.")
    name, link = _field(block[:100]), _field(block[157:257])
    if block[257:262] == b"ustar" and (prefix := _field(block[345:500])):
        name = f"{prefix}/{name}"
    return ArchiveMember(name, block[156:157], link, start, _octal(block[124:136]))


def _field(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _octal(raw: bytes) -> int:
    digits = raw.strip(b" \0") or b"0"
    if not re.fullmatch(rb"[0-7]+", digits):
        raise Invalid("The file is not a gem: its tar headers are damaged.")
    return int(digits, 8)
