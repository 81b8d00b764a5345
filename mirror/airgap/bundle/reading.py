"""Reading a bundle from its beginning: its signature, its manifest, whether it fits here, and its members one by one.

Everything is read once and in order, so a bundle can be larger than memory, and nothing after the manifest is read
before the manifest is verified. `load` decides what to do with it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from mirror.airgap.bundle import format
from mirror.airgap.bundle.contents import unzipped
from mirror.airgap.bundle.format import BundleMember, DamagedBundle, Manifest
from mirror.airgap.bundle.signing import Keys, PublicKey
from mirror.catalog.bundles import ImportedSerials
from mirror.errors import Conflict, Forbidden

CHUNK_BYTES = 1 << 20
MAX_END_BYTES = 1 << 20
"""Bytes of zeros that may follow the last file: tar writes records of 10 KiB, or larger ones on request."""


class BundleReader:
    """Reads the members of a bundle, which may be in parts, one after the other."""

    def __init__(self, parts: Sequence[Path]) -> None:
        """Open the parts. Raises OSError."""
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
        """Read exactly `size` bytes. Raises DamagedBundle where there are fewer."""
        chunks = []
        while size:
            chunk = self._files[self._at].read(size) if self._at < len(self._files) else b""
            if chunk:
                chunks.append(chunk)
                size -= len(chunk)
            elif self._at + 1 < len(self._files):
                self._at += 1
            else:
                raise DamagedBundle("The bundle is truncated. Copy it again, with all of its parts.")
        return b"".join(chunks)

    def header(self) -> BundleMember | None:
        """Read the next header, None at the end. The content of the member before must have been read."""
        member = format.read_header(self._read(format.BLOCK_BYTES))
        if member is None:
            self._check_end()
        elif member.size > self.size:
            raise DamagedBundle(
                f"The bundle is truncated or altered: {member.name[:100]!r} would be larger than the bundle."
            )
        return member

    def _check_end(self) -> None:
        """Check that nothing but zeros follows: tools fill up the last record. Raises DamagedBundle."""
        rest = self._read(format.BLOCK_BYTES)
        for file in self._files[self._at :]:
            rest += file.read(MAX_END_BYTES + 1 - min(len(rest), MAX_END_BYTES))
        if len(rest) > MAX_END_BYTES or rest.strip(b"\0"):
            raise DamagedBundle("The bundle is altered: there is something behind its end.")

    def content(self, member: BundleMember) -> Iterator[bytes]:
        """Yield the bytes of the member whose header was just read."""
        left = member.size
        while left:
            chunk = self._read(min(CHUNK_BYTES, left))
            left -= len(chunk)
            yield chunk
        if self._read(member.padding).strip(b"\0"):  # no signature covers it, so it must be what mirrors write
            raise DamagedBundle(f"The bundle is altered: there is something between {member.name} and the next file.")

    def verified(self, member: BundleMember) -> Iterator[bytes]:
        """Yield the content; at its end, raise DamagedBundle unless it has the digest in the member's path."""
        found = hashlib.sha256()
        for chunk in self.content(member):
            found.update(chunk)
            yield chunk
        if found.hexdigest() != format.digest_of(member.name):
            raise DamagedBundle(f"The bundle is altered: {member.name} has the SHA-256 {found.hexdigest()}.")

    def page(self, member: BundleMember, length: int) -> bytes:
        """Return a page or log of `length` bytes, decompressed and verified. Raises DamagedBundle."""
        packed = b"".join(self.verified(member))
        try:
            body = unzipped(packed, length)
        except ValueError as error:
            raise DamagedBundle(f"The bundle is altered: {member.name}: {error}.") from None
        if len(body) != length:
            raise DamagedBundle(f"The bundle is altered: {member.name} has another length than in {format.MANIFEST}.")
        return body

    def small(self, name: str, limit: int) -> bytes:
        """Read the whole next member, which must have that name. Raises DamagedBundle."""
        member = self.header()
        if member is None or member.name != name or member.size > limit:
            raise DamagedBundle(f"The bundle is truncated or altered, or not a bundle: {name} is missing.")
        return b"".join(self.content(member))


class BundleHead(msgspec.Struct, frozen=True):
    """The verified beginning of a bundle."""

    id: str
    """The digest of its list of digests."""
    manifest: Manifest
    signed_by: PublicKey | None


def read_head(reader: BundleReader, keys: Keys, *, unsigned: bool) -> BundleHead:
    """Read and verify the beginning of a bundle. Raises DamagedBundle, Forbidden, Invalid."""
    listed = reader.small(format.SUMS, format.MAX_SUMS_BYTES)
    member = reader.header()
    signed_by = None
    if member is not None and member.name == format.SIGNATURE and member.size <= format.MAX_SIGNATURE_BYTES:
        signature = b"".join(reader.content(member))
        if not unsigned:
            signed_by = keys.verify(listed, signature)
        member = reader.header()
    elif not unsigned:
        raise Forbidden("The bundle is not signed, so anyone may have made it: --unsigned imports it nevertheless.")
    sums = format.read_sums(listed)
    if member is None or member.name != format.MANIFEST or member.size > format.MAX_MANIFEST_BYTES:
        raise DamagedBundle(f"The bundle is truncated or altered: {format.MANIFEST} is missing.")
    content = b"".join(reader.content(member))
    if hashlib.sha256(content).hexdigest() != sums[format.MANIFEST]:
        raise DamagedBundle(f"The bundle is altered: its {format.MANIFEST} does not have the digest in {format.SUMS}.")
    manifest = format.read_manifest(content)
    if [format.MANIFEST, *format.members(manifest)] != list(sums):
        raise DamagedBundle(f"The bundle contradicts itself: {format.MANIFEST} and {format.SUMS} name different files.")
    return BundleHead(hashlib.sha256(listed).hexdigest(), manifest, signed_by)


def follows(manifest: Manifest, node: str, seen: ImportedSerials) -> ImportedSerials:
    """Return what mirror `node`, having `seen` the origin of a bundle, has after its import. Raises Conflict."""
    if manifest.node == node:
        raise Conflict("The bundle was made by this mirror: there is nothing to import.")
    if manifest.made_for not in ("", node):
        raise Conflict(
            "The bundle was made for another mirror, and has only what that one lacked: export one for this mirror."
        )
    if manifest.serial < seen.newest:
        raise Conflict(
            f"The bundle is older than the last one: it reaches serial {manifest.serial}, and {seen.newest} is here."
        )
    if not manifest.whole:
        return ImportedSerials(seen.whole, manifest.serial)
    if manifest.since > seen.whole:
        raise Conflict(
            f"There is a gap: the bundle begins after serial {manifest.since}, and everything up to {seen.whole} was"
            " imported. Import first what is between them, or export with an inventory of this mirror (--for)."
        )
    if manifest.made_for and manifest.since != seen.whole:
        raise Conflict(
            "The bundle was made for an earlier state of this mirror: make a new inventory for the next one."
        )
    if not manifest.made_for and manifest.serial <= seen.whole:
        raise Conflict(
            f"The bundle was imported before: it reaches serial {manifest.serial}, and {seen.whole} was imported."
        )
    return ImportedSerials(manifest.serial, manifest.serial)
