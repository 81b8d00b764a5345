"""Reading a bundle from its beginning: who signed it, what it is, whether it fits here, and its members one by one.

Everything is read once and in order, so a bundle can be larger than memory, and nothing behind the manifest is looked
at before the manifest is known to be good. What becomes of it is in `load`.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from mirror.airgap.bundle import format
from mirror.airgap.bundle.format import BundleMember, DamagedBundle, Manifest
from mirror.airgap.bundle.signing import Keys, PublicKey
from mirror.catalog.bundles import Seen
from mirror.errors import Conflict, Forbidden

CHUNK = 1 << 20


class Reader:
    """The members of a bundle, which may be in parts, one after the other."""

    def __init__(self, parts: Sequence[Path]) -> None:
        """Raises OSError."""
        self._files: list[BinaryIO] = []
        self._at = 0
        for path in parts:
            self._files.append(path.open("rb"))
        self.size = sum(path.stat().st_size for path in parts)
        """Bytes of all parts."""

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()

    def _read(self, size: int) -> bytes:
        """So many bytes. Raises Damaged where there are fewer."""
        pieces = []
        while size:
            piece = self._files[self._at].read(size) if self._at < len(self._files) else b""
            if piece:
                pieces.append(piece)
                size -= len(piece)
            elif self._at + 1 < len(self._files):
                self._at += 1
            else:
                raise DamagedBundle("The bundle is cut: it ends in the middle. Copy it again, with all of its parts.")
        return b"".join(pieces)

    def header(self) -> BundleMember | None:
        """The next member, None at the end. What is before it has been read."""
        member = format.read_header(self._read(format.BLOCK))
        if member is None:
            self._read(format.BLOCK)
        elif member.size > self.size:
            raise DamagedBundle(f"The bundle is cut or altered: {member.name[:100]!r} would be larger than the whole.")
        return member

    def content(self, member: BundleMember) -> Iterator[bytes]:
        """The bytes of the member whose header was just read."""
        left = member.size
        while left:
            chunk = self._read(min(CHUNK, left))
            left -= len(chunk)
            yield chunk
        self._read(member.padding)

    def small(self, name: str, limit: int) -> bytes:
        """The whole of the next member, which has to be that one. Raises Damaged."""
        member = self.header()
        if member is None or member.name != name or member.size > limit:
            raise DamagedBundle(f"The bundle is cut or altered, or is no bundle: {name} is not where it should be.")
        return b"".join(self.content(member))


class Head(msgspec.Struct, frozen=True):
    """What stands at the beginning of a bundle."""

    id: str
    """The digest of its list of digests."""
    manifest: Manifest
    signed_by: PublicKey | None


def read_head(reader: Reader, keys: Keys, *, unsigned: bool) -> Head:
    """Who signed a bundle and what it is. Raises Damaged, Forbidden, Invalid."""
    listed = reader.small(format.SUMS, format.LARGEST_SUMS)
    member = reader.header()
    signed_by = None
    if member is not None and member.name == format.SIGNATURE and member.size <= format.LARGEST_SIGNATURE:
        signature = b"".join(reader.content(member))
        if not unsigned:
            signed_by = keys.verify(listed, signature)
        member = reader.header()
    elif not unsigned:
        raise Forbidden("The bundle is not signed, so anybody may have made it: --unsigned takes it all the same.")
    sums = format.read_sums(listed)
    if member is None or member.name != format.MANIFEST or member.size > format.LARGEST_MANIFEST:
        raise DamagedBundle(f"The bundle is cut or altered: {format.MANIFEST} is not where it should be.")
    content = b"".join(reader.content(member))
    if hashlib.sha256(content).hexdigest() != sums[format.MANIFEST]:
        raise DamagedBundle(f"The bundle is altered: its {format.MANIFEST} is not what {format.SUMS} says.")
    manifest = format.read_manifest(content)
    if [format.MANIFEST, *format.members(manifest)] != list(sums):
        raise DamagedBundle(f"The bundle contradicts itself: {format.MANIFEST} and {format.SUMS} name different files.")
    return Head(hashlib.sha256(listed).hexdigest(), manifest, signed_by)


def follows(manifest: Manifest, node: str, seen: Seen) -> Seen:
    """Up to where a bundle brings the mirror `node`, which has `seen` its origin. Raises Conflict."""
    if manifest.node == node:
        raise Conflict("The bundle was made by this very mirror: there is nothing to take in.")
    if manifest.made_for not in ("", node):
        raise Conflict(
            "The bundle was made for another mirror, and has only what that one lacked: export one for this."
        )
    if manifest.serial < seen.newest:
        raise Conflict(
            f"The bundle is older than what is here: it goes to {manifest.serial}, and {seen.newest} was taken in."
        )
    if not manifest.whole:
        return Seen(seen.whole, manifest.serial)
    if manifest.since > seen.whole:
        raise Conflict(
            f"There is a gap: the bundle begins after {manifest.since}, and here all up to {seen.whole} was taken in."
            " Take in first what is between them, or export with an inventory of this mirror (--for)."
        )
    if manifest.made_for and manifest.since != seen.whole:
        raise Conflict(
            "The bundle was made for an earlier state of this mirror: make a new inventory for the next one."
        )
    if not manifest.made_for and manifest.serial <= seen.whole:
        raise Conflict(f"The bundle was taken in before: it goes to {manifest.serial}, and {seen.whole} is here.")
    return Seen(manifest.serial, manifest.serial)
