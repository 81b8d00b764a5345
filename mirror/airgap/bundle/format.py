"""The format of a bundle: its manifest, its list of digests, and the headers of its members. Pure.

A bundle is a tar of regular files only, in this order:

    SHA256SUMS          a line for each file below but its signature, as `sha256sum -c` reads it
    SHA256SUMS.sig      the signature of that list (Ed25519), if any
    manifest.json       where it comes from, and what each of the other files is
    pages/ab/….gz       index pages as the upstream sent them, and logs of gem indexes; named by SHA-256
    blobs/ab/…          files and their sidecars, named by SHA-256

Reading is strict on purpose: a header that an ordinary tar understands (links, devices, long names, sparse files) but
that is never written here is an error, and no name is ever used as a path.
"""

import re
import tarfile
from collections.abc import Mapping
from typing import Literal

import msgspec

from mirror.catalog.bundles import RemovedRow, StoredPage
from mirror.catalog.uploads import UploadRow
from mirror.errors import Invalid
from mirror.model import File

VERSION = 1
SUMS = "SHA256SUMS"
SIGNATURE = "SHA256SUMS.sig"
MANIFEST = "manifest.json"
BLOCK_BYTES = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK_BYTES)
"""The end of a tar."""

MAX_SUMS_BYTES = 512 << 20
MAX_MANIFEST_BYTES = 1 << 30
MAX_SIGNATURE_BYTES = 4096
MAX_PAGE_BYTES = 1 << 30
"""Of a page or log, decompressed."""

MAX_TIME_SECONDS = 1 << 36
"""Seconds since the epoch that a time may have: the year 4147."""

_LINE = re.compile(r"([0-9a-f]{64})  (manifest\.json|(?:pages|blobs)/([0-9a-f]{2})/([0-9a-f]{64})(\.gz)?)", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


class DamagedBundle(Invalid):
    """A bundle that is not as it was written: truncated, altered, or no bundle at all."""


class BundleRepository(msgspec.Struct, frozen=True, kw_only=True):
    """One repository of the mirror that a bundle comes from."""

    format: str
    sources: tuple[str, ...]
    """The URLs of its upstreams, in order."""


class PageEntry(StoredPage, frozen=True, kw_only=True, omit_defaults=True):
    """A page, with the files removed from its project. A page that the upstream no longer has is not `found`."""

    removed: tuple[RemovedRow, ...] = ()
    body: str = ""
    """The SHA-256 of the member with its body, which is gzip; empty for a page that is not `found`."""
    length: int = 0
    """Bytes of the body, decompressed."""


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A held file or sidecar."""

    source: str
    project: str
    filename: str
    kind: Literal["file", "sidecar"]
    digest: str
    size: int


class LogEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The log of a gem index: an upstream's, or the one that a repository publishes (and its state)."""

    role: Literal["upstream", "published", "own"]
    name: str
    """The upstream's URL, or the repository."""
    start: int = 0
    """Where the body begins in the log; the importing mirror must have everything before."""
    before: str = ""
    """The SHA-256 of everything before `start`."""
    body: str
    length: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The description of a bundle and of all its members."""

    format: int = VERSION
    node: str
    """The mirror that made it."""
    made: float
    since: int
    """The importing mirror must have everything up to this serial; 0: nothing."""
    serial: int
    """Its content reaches up to this serial."""
    whole: bool
    """Whether it has everything that changed between the two serials; otherwise a selection."""
    made_for: str = ""
    """The only mirror that it is for; empty when it is for any."""
    repositories: Mapping[str, BundleRepository]
    pages: tuple[PageEntry, ...] = ()
    files: tuple[FileEntry, ...] = ()
    uploads: tuple[UploadRow, ...] = ()
    logs: tuple[LogEntry, ...] = ()
    blobs: Mapping[str, int] = {}
    """Digest → size of the blobs in it."""
    modified: Mapping[str, int] = {}
    """Digest → when the blob was stored, in seconds since the epoch: its Last-Modified on both mirrors."""
    expires: float | None = None
    """The moment after which it is not imported, in seconds since the epoch."""


class BundleMember(msgspec.Struct, frozen=True):
    """The header of a file in a tar."""

    name: str
    size: int
    modified: int
    """Seconds since the epoch."""

    @property
    def padding(self) -> int:
        return -self.size % BLOCK_BYTES


def page_path(digest: str) -> str:
    """Return the path of a page or log in a bundle."""
    return f"pages/{digest[:2]}/{digest}.gz"


def blob_path(digest: str) -> str:
    """Return the path of a blob in a bundle."""
    return f"blobs/{digest[:2]}/{digest}"


def digest_of(path: str) -> str:
    """Return the digest in the path of a member."""
    return path.rpartition("/")[2].removesuffix(".gz")


def write_header(member: BundleMember) -> bytes:
    """Return the tar header of a member: the same bytes on every machine."""
    info = tarfile.TarInfo(member.name)
    info.size, info.mtime, info.mode = member.size, member.modified, 0o644
    return info.tobuf(tarfile.GNU_FORMAT)


def read_header(block: bytes) -> BundleMember | None:
    """Parse a tar header; return None at the end. Raises DamagedBundle for everything that is never written here."""
    if not block.strip(b"\0"):
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, ValueError, OverflowError):
        raise DamagedBundle("The bundle is truncated or altered, or not a bundle: a tar header is missing.") from None
    if info.type != tarfile.REGTYPE or info.size < 0 or block[345:500].strip(b"\0"):
        raise DamagedBundle(
            f"The bundle contains {info.name[:100]!r}, which is not a plain file as mirrors write them."
        )
    return BundleMember(info.name, info.size, max(0, min(int(info.mtime), 1 << 40)))


def write_sums(sums: Mapping[str, str]) -> bytes:
    """Return path → digest as text for `sha256sum -c`."""
    return "".join(f"{digest}  {path}\n" for path, digest in sums.items()).encode()


def read_sums(content: bytes) -> dict[str, str]:
    """Parse path → digest, in the order of the members. Raises DamagedBundle for paths that no bundle has."""
    sums: dict[str, str] = {}
    try:
        lines = content.decode("ascii").split("\n")
    except UnicodeDecodeError:
        lines = [""]
    if lines.pop() != "":
        raise DamagedBundle(f"The bundle's {SUMS} is truncated.")
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            raise DamagedBundle(f"The bundle's {SUMS} has an invalid line: {line[:150]!r}.")
        digest, path, shard, named, packed = found.groups()
        if path in sums:
            raise DamagedBundle(f"The bundle's {SUMS} has {path} twice.")
        if path != MANIFEST and (named != digest or shard != named[:2] or (packed is not None) != path.startswith("p")):
            raise DamagedBundle(f"The bundle's {SUMS} has a line whose digest is not that of its file: {line[:150]!r}.")
        sums[path] = digest
    if next(iter(sums), "") != MANIFEST:
        raise DamagedBundle(f"The bundle's {SUMS} does not begin with {MANIFEST}.")
    return sums


def write_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as JSON, with a line for each entry so that ordinary tools can read it."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=0)


def read_manifest(content: bytes) -> Manifest:
    """Parse a manifest. Raises DamagedBundle when it contradicts itself, Invalid for another version."""
    try:
        version = msgspec.json.decode(content, type=_Version).format
        if version != VERSION:
            raise Invalid(f"The bundle has format {version} and this mirror reads {VERSION}: use a newer mirror.")
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedBundle(f"The bundle's {MANIFEST} cannot be parsed: {error}.") from None
    digests = [*manifest.blobs, *(one.digest for one in manifest.files), *(one.body for one in manifest.logs)]
    digests += [page.body for page in manifest.pages if page.found]
    digests += [
        digest for row in manifest.uploads if not row.upload.deleted for digest in (row.upload.digest, row.sidecar)
    ]
    if not all(map(_DIGEST.fullmatch, digests)):
        raise DamagedBundle(f"The bundle's {MANIFEST} has an invalid digest.")
    sizes = [
        *manifest.blobs.values(),
        *(one.size for one in manifest.files),
        *(one.upload.size for one in manifest.uploads),
    ]
    lengths = [page.length for page in manifest.pages] + [log.length for log in manifest.logs]
    if min([0, manifest.since, *sizes, *lengths]) < 0 or max([0, *lengths]) > MAX_PAGE_BYTES:
        raise DamagedBundle(f"The bundle's {MANIFEST} has an impossible size.")
    times = [manifest.made, manifest.expires or 0.0, *manifest.modified.values()]
    if not 0 <= min(times) <= max(times) < MAX_TIME_SECONDS:
        raise DamagedBundle(f"The bundle's {MANIFEST} has an impossible time.")
    if not 0 <= manifest.since <= manifest.serial < 1 << 62:
        raise DamagedBundle(
            f"The bundle's {MANIFEST} goes from {manifest.since} to {manifest.serial}, which is not a range."
        )
    return manifest


def check_facts(row: UploadRow) -> File:
    """Return the recorded facts about an upload's content. Raises DamagedBundle unless they belong to that upload."""
    try:
        facts = msgspec.json.decode(row.facts, type=File)
    except (msgspec.MsgspecError, RecursionError):
        facts = None
    if facts is None or facts.filename != row.upload.filename or facts.sha256 != row.upload.digest:
        raise DamagedBundle(f"The bundle contradicts itself about the upload {row.upload.filename[:200]!r}.")
    return facts


class _Version(msgspec.Struct):
    format: int


def members(manifest: Manifest) -> list[str]:
    """Return the paths of all members that a manifest names, in order, without the manifest."""
    bodies = {entry.body for entry in manifest.logs} | {entry.body for entry in manifest.pages if entry.found}
    return [*map(page_path, sorted(bodies)), *map(blob_path, sorted(manifest.blobs))]
