"""What a bundle looks like: its manifest, its list of digests, and the headers of its members. Pure.

A bundle is a tar with regular files only, in this order:

    SHA256SUMS          a line for each of the files below, as `sha256sum -c` reads it
    SHA256SUMS.sig      who signed that list (Ed25519), unless nobody did
    manifest.json       what it is, and what each of the rest is
    pages/ab/….gz       index pages as upstream wrote them, and logs of gem indexes; named by their SHA-256, as all are
    blobs/ab/…          files and their sidecars

Reading is strict on purpose: a header that an ordinary tar would understand (links, devices, long names, sparse files)
but that we never write is an error, and no name is ever used as a path.
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
BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
"""What a tar ends with."""

LARGEST_SUMS = 512 << 20
LARGEST_MANIFEST = 1 << 30
LARGEST_SIGNATURE = 4096
LARGEST_PAGE = 1 << 30
"""Bytes of a page or log when it is unpacked."""

_LINE = re.compile(r"([0-9a-f]{64})  (manifest\.json|(?:pages|blobs)/([0-9a-f]{2})/([0-9a-f]{64})(\.gz)?)", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


class DamagedBundle(Invalid):
    """A bundle that is not as it was written: cut, altered, or no bundle at all."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """One repository of the mirror that a bundle comes from."""

    format: str
    sources: tuple[str, ...]
    """The URLs of its upstreams, in order."""


class PageEntry(StoredPage, frozen=True, kw_only=True, omit_defaults=True):
    """A page, with what is removed of its project. One that upstream has no more is not `found`, and has no body."""

    removed: tuple[RemovedRow, ...] = ()
    body: str = ""
    """The SHA-256 of the member with its body, which is gzip."""
    length: int = 0
    """Bytes of the body, unpacked."""


class FileEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A file or sidecar that is held."""

    source: str
    project: str
    filename: str
    kind: Literal["file", "sidecar"]
    digest: str
    size: int


class LogEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The list of versions of a gem index: an upstream's, or what a repository publishes itself (and its notes)."""

    role: Literal["upstream", "published", "own"]
    name: str
    """The upstream's URL, or the repository."""
    start: int = 0
    """The byte that the body begins with; what is before it has to be there already."""
    before: str = ""
    """The SHA-256 of all the bytes before `start`."""
    body: str
    length: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle is."""

    format: int = VERSION
    node: str
    """Who made it."""
    made: float
    since: int
    """What happened there up to this serial has to be here already; 0: nothing."""
    serial: int
    """Up to which serial its content goes."""
    whole: bool
    """Whether it has all that changed between the two; otherwise a selection of it."""
    made_for: str = ""
    """The one node that it fits; empty when it fits any."""
    repositories: Mapping[str, Origin]
    pages: tuple[PageEntry, ...] = ()
    files: tuple[FileEntry, ...] = ()
    uploads: tuple[UploadRow, ...] = ()
    logs: tuple[LogEntry, ...] = ()
    blobs: Mapping[str, int] = {}
    """Digest → size, of the blobs that are in it."""


class BundleMember(msgspec.Struct, frozen=True):
    """The header of a file in a tar."""

    name: str
    size: int
    modified: int
    """Seconds since the epoch."""

    @property
    def padding(self) -> int:
        return -self.size % BLOCK


def page_path(digest: str) -> str:
    """Where a page or log is in a bundle."""
    return f"pages/{digest[:2]}/{digest}.gz"


def blob_path(digest: str) -> str:
    """Where a blob is in a bundle."""
    return f"blobs/{digest[:2]}/{digest}"


def digest_of(path: str) -> str:
    """The digest in the name of a member."""
    return path.rpartition("/")[2].removesuffix(".gz")


def write_header(member: BundleMember) -> bytes:
    """The tar header of a member: the same bytes for the same member, on every machine."""
    info = tarfile.TarInfo(member.name)
    info.size, info.mtime, info.mode = member.size, member.modified, 0o644
    return info.tobuf(tarfile.GNU_FORMAT)


def read_header(block: bytes) -> BundleMember | None:
    """The member that a block of a tar begins; None at its end. Raises Damaged for all that we do not write."""
    if not block.strip(b"\0"):
        return None
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
    except (tarfile.HeaderError, ValueError, OverflowError):
        raise DamagedBundle(
            "The bundle is cut or altered, or is no bundle: there is no tar header where one should be."
        ) from None
    if info.type != tarfile.REGTYPE or info.size < 0 or block[345:500].strip(b"\0"):
        raise DamagedBundle(
            f"The bundle holds {info.name[:100]!r}, which is not a plain file; mirrors write none of these."
        )
    return BundleMember(info.name, info.size, max(0, min(int(info.mtime), 1 << 40)))


def write_sums(sums: Mapping[str, str]) -> bytes:
    """Path → digest, as `sha256sum -c` reads it."""
    return "".join(f"{digest}  {path}\n" for path, digest in sums.items()).encode()


def read_sums(content: bytes) -> dict[str, str]:
    """Path → digest, in the order of the members. Raises Damaged for paths that no bundle has."""
    sums: dict[str, str] = {}
    try:
        lines = content.decode("ascii").split("\n")
    except UnicodeDecodeError:
        lines = [""]
    if lines.pop() != "":
        raise DamagedBundle(f"The bundle's {SUMS} is cut.")
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            raise DamagedBundle(f"The bundle's {SUMS} has a line that no mirror writes: {line[:150]!r}.")
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
    """A manifest as JSON, with a line for each entry so that ordinary tools can look into it."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=0)


def read_manifest(content: bytes) -> Manifest:
    """The manifest of a bundle. Raises Damaged when it contradicts itself, Invalid for another version."""
    try:
        version = msgspec.json.decode(content, type=_Version).format
        if version != VERSION:
            raise Invalid(
                f"The bundle is of the format {version}, and this mirror reads {VERSION}: use a newer mirror."
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedBundle(f"The bundle's {MANIFEST} cannot be understood: {error}.") from None
    digests = [*manifest.blobs, *(one.digest for one in manifest.files), *(one.body for one in manifest.logs)]
    digests += [page.body for page in manifest.pages if page.found]
    digests += [
        digest for row in manifest.uploads if not row.upload.deleted for digest in (row.upload.digest, row.sidecar)
    ]
    if not all(map(_DIGEST.fullmatch, digests)):
        raise DamagedBundle(f"The bundle's {MANIFEST} names a digest that is none.")
    sizes = [
        *manifest.blobs.values(),
        *(one.size for one in manifest.files),
        *(one.upload.size for one in manifest.uploads),
    ]
    lengths = [page.length for page in manifest.pages] + [log.length for log in manifest.logs]
    if min([0, manifest.since, *sizes, *lengths]) < 0 or max([0, *lengths]) > LARGEST_PAGE:
        raise DamagedBundle(f"The bundle's {MANIFEST} names a size that nothing can have.")
    if not 0 <= manifest.since <= manifest.serial < 1 << 62:
        raise DamagedBundle(
            f"The bundle's {MANIFEST} goes from {manifest.since} to {manifest.serial}, which is no range."
        )
    return manifest


def check_facts(row: UploadRow) -> None:
    """Raises Damaged unless what is said of an upload's content is about that upload."""
    try:
        facts = msgspec.json.decode(row.facts, type=File)
    except (msgspec.MsgspecError, RecursionError):
        facts = None
    if facts is None or facts.filename != row.upload.filename or facts.sha256 != row.upload.digest:
        raise DamagedBundle(f"The bundle contradicts itself about the upload {row.upload.filename[:200]!r}.")


class _Version(msgspec.Struct):
    format: int


def members(manifest: Manifest) -> list[str]:
    """The paths of everything that a manifest says is in the bundle, in order; itself not."""
    bodies = {entry.body for entry in manifest.logs} | {entry.body for entry in manifest.pages if entry.found}
    return [*map(page_path, sorted(bodies)), *map(blob_path, sorted(manifest.blobs))]
