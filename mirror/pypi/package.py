"""Inspect wheels and sdists on disk: their metadata, and whether they may be published.

Nothing is ever unpacked to a disk. Archives are hostile: how much is read, inflated and kept in memory is limited
beforehand. `zipfile` and `tarfile` read through the classes here and in `wheel`, which enforce this.

The surprise: an sdist may have links, because real sdists do, but none that could lead out of its directory.
"""

import hashlib
import io
import os
import posixpath
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from mirror.errors import Invalid
from mirror.model import AcceptedUpload, File
from mirror.pypi.metadata import METADATA_LIMIT, DistributionIdentity, identify, validate
from mirror.pypi.names import canonical, parse_filename, same_version
from mirror.pypi.wheel import ZIP_ERRORS, RangeReader, metadata_entry, read_member

ENTRIES_LIMIT = 50_000
BOMB_SIZE, BOMB_RATIO = 64 << 20, 50
"""An archive is a bomb when it unpacks to more bytes than the first, and to more than its own size times the second."""
_DEPTH_LIMIT = 100
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_TAR_READ_LIMIT = 64 << 10  # a header of the pax format is read at once, as long as it claims to be
_TAR_ERRORS = (tarfile.TarError, zlib.error, struct.error, EOFError, ValueError, OSError, OverflowError, LookupError)
_DRIVE = re.compile(r"[A-Za-z]:")


def inspect(filename: str, path: Path) -> File:
    """Inspect a wheel or an sdist on disk, with its digests: sha256, md5 and blake2b_256.

    `extra` has `metadata` (the core metadata's text; its fields: `metadata.info_from_metadata`) and for a wheel
    `core-metadata` (its digest, PEP 714). Blocking. Raises Invalid for anything that must not be published.
    """
    parts = parse_filename(filename)
    with path.open("rb") as file:
        if parts.kind == "sdist" and not filename.endswith(".zip"):
            raw = _sdist_tar(file)
        else:
            raw = _archive(file, filename, wheel=parts.kind == "wheel")
        identity = validate(raw)
        if identity.project != parts.project or not same_version(identity.version, parts.version):
            raise Invalid(
                f"{filename} contains {identity.project} {identity.version}, "
                f"but its name is that of {parts.project} {parts.version}."
            )
        file.seek(0)
        size, digests = _digests(file)
    extra: dict[str, Any] = {"metadata": raw.decode()}
    if parts.kind == "wheel":
        extra["core-metadata"] = {"sha256": hashlib.sha256(raw).hexdigest()}
    return File(
        filename=filename,
        version=parts.version,
        digests=digests,
        size=size,
        requires=identity.requires,
        extra=extra,
    )


def _archive(file: BinaryIO, filename: str, *, wheel: bool) -> bytes:
    """Check every entry, and return METADATA of a wheel or PKG-INFO of a zipped sdist. Raises Invalid."""
    size = os.fstat(file.fileno()).st_size
    reader = RangeReader(size, lambda start, stop: os.pread(file.fileno(), stop - start, start))
    try:
        with zipfile.ZipFile(reader) as archive:
            names = _check_entries(archive.infolist(), size)
            if wheel:
                entry = metadata_entry(archive, filename)
                directory = entry.filename.partition("/")[0]
                for required in ("WHEEL", "RECORD"):  # PEP 427
                    if f"{directory}/{required}" not in names:
                        raise Invalid(f"The wheel has no {directory[:200]}/{required}.")
                _check_directory(directory, identify(raw := read_member(archive, reader, entry)))
                return raw
            tops = {name.partition("/")[0] for name in names}
            if len(tops) != 1 or f"{(top := tops.pop())}/PKG-INFO" not in names:
                raise Invalid("An sdist needs one directory at its top, with PKG-INFO in it.")
            return read_member(archive, reader, archive.getinfo(f"{top}/PKG-INFO"))
    except ZIP_ERRORS as error:
        raise Invalid("The file is not a sound zip file.") from error


def _check_directory(directory: str, identity: DistributionIdentity) -> None:
    name, _, version = directory.removesuffix(".dist-info").rpartition("-")
    if canonical(name) != identity.project or not same_version(version.replace("_", "-"), identity.version):
        raise Invalid(
            f"The directory {directory[:200]} contains the metadata of {identity.project} {identity.version}."
        )


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> set[str]:
    """Return the names of all entries. Raises Invalid for a bomb, and for unsafe or repeated names."""
    if len(entries) > ENTRIES_LIMIT:
        raise Invalid(f"The archive has more than {ENTRIES_LIMIT} entries.")
    names: set[str] = set()
    packed = unpacked = 0
    for entry in entries:
        # `orig_filename` is the name in the file; `filename` ends at a NUL.
        name = _safe_path(entry.orig_filename)
        if name in names:
            raise Invalid(f"The archive has the entry {name[:200]!r} twice.")
        names.add(name)
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise Invalid(f"The archive has a symbolic link, {name[:200]!r}: zip archives must have none.")
        if entry.flag_bits & 0x1 or entry.compress_type not in _METHODS:
            raise Invalid(f"{name[:200]!r} in the archive is encrypted or compressed in an unusual way.")
        packed += entry.compress_size
        unpacked += entry.file_size
    if packed > size:
        raise Invalid("The entries of the archive overlap.")
    _check_bomb(unpacked, size)
    return names


def _check_bomb(unpacked: int, size: int) -> None:
    if unpacked > BOMB_SIZE and unpacked > BOMB_RATIO * size:
        raise Invalid(f"The archive unpacks to more than {BOMB_RATIO} times its size.")


def _safe_path(path: str) -> str:
    """Return the path of an entry below the top of the archive. Raises Invalid when it leads elsewhere."""
    path = path.rstrip("/")
    while path.startswith("./"):
        path = path[2:]
    parts = path.split("/")
    if (
        path.startswith("/")
        or len(path) > 4096
        or len(parts) > _DEPTH_LIMIT
        or ".." in parts
        or "" in parts
        or "\\" in path
        or _DRIVE.match(path)
        or not all(character.isprintable() for character in path)
    ):
        raise Invalid(f"The archive has an entry with the unsafe path {path[:200]!r}.")
    return path


class _GzipStream(io.RawIOBase):
    """A gzip stream as a file for `tarfile`: it is read forwards only, and a bomb is refused."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._inflate = zlib.decompressobj(wbits=31)
        self._buffer = b""
        self._inflated = 0
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or offset < self._position:
            raise Invalid("The archive's headers lead backwards.")
        while self._position < offset and self._take(offset - self._position):
            pass
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _TAR_READ_LIMIT:
            raise Invalid(f"The archive has a header of more than {_TAR_READ_LIMIT} bytes.")
        taken: list[bytes] = []
        while size and (chunk := self._take(size)):
            taken.append(chunk)
            size -= len(chunk)
        return b"".join(taken)

    def finish(self) -> None:
        """Check that only padding follows, in the archive and after it. Raises Invalid."""
        while chunk := self._take(_TAR_READ_LIMIT):
            if chunk.strip(b"\0"):
                raise Invalid("The archive continues after its end.")
        rest = self._inflate.unused_data
        while rest:
            if rest.strip(b"\0"):
                raise Invalid("The archive is followed by something else.")
            rest = self._file.read(_TAR_READ_LIMIT)

    def _take(self, size: int) -> bytes:
        """Return up to `size` bytes, at least one unless the stream has ended."""
        while not self._buffer and not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._file.read(_TAR_READ_LIMIT)
            if not packed:
                raise Invalid("The archive is cut off.")
            self._buffer = self._inflate.decompress(packed, 4 * _TAR_READ_LIMIT)
            self._inflated += len(self._buffer)
            _check_bomb(self._inflated, self._size)
        chunk, self._buffer = self._buffer[:size], self._buffer[size:]
        self._position += len(chunk)
        return chunk


def _sdist_tar(file: BinaryIO) -> bytes:
    """Check every entry of an sdist, and return its PKG-INFO. Raises Invalid."""
    stream = _GzipStream(file)
    try:
        with tarfile.TarFile(fileobj=stream, mode="r") as archive:
            raw = _check_members(archive)
        stream.finish()
    except _TAR_ERRORS as error:
        raise Invalid("The file is not a sound .tar.gz file.") from error
    return raw


def _check_members(archive: tarfile.TarFile) -> bytes:
    tops: set[str] = set()
    links: set[str] = set()
    found: list[bytes] = []
    count = 0
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # else tarfile keeps every one in memory
        count += 1
        if count > ENTRIES_LIMIT:
            raise Invalid(f"The archive has more than {ENTRIES_LIMIT} entries.")
        if member.isdir() and member.name in (".", "./", ""):
            continue
        name = _safe_path(member.name)
        top, _, inner = name.partition("/")
        tops.add(top)
        if len(tops) > 1:
            raise Invalid("An sdist has one directory at its top, and all else in it (PEP 625).")
        if links and _ancestors(name) & links:
            raise Invalid(f"The archive has an entry inside of a link: {name[:200]!r}.")
        if member.issym() or member.islnk():
            links.add(name)
            _check_link(member, name, top)
        elif member.issparse() or not (member.isfile() or member.isdir()):
            raise Invalid(f"The archive has an entry that is neither file nor directory nor link: {name[:200]!r}.")
        if inner == "PKG-INFO":
            found.append(_small_member(archive, member))
    if len(found) != 1:
        raise Invalid(f"The sdist has {len(found)} PKG-INFO files in its top directory, not one.")
    return found[0]


def _ancestors(path: str) -> set[str]:
    parts = path.split("/")
    return {"/".join(parts[:count]) for count in range(1, len(parts))}


def _check_link(member: tarfile.TarInfo, name: str, top: str) -> None:
    """Check that a link stays in the sdist's directory, also through other links. Raises Invalid."""
    target = member.linkname
    # A symbolic link is relative to its place, a hard link to the archive. `..` behind a name may cross another link.
    parts = target.split("/")
    climbs = ".." in parts[parts.count("..") if member.issym() else 0 :]
    lands = posixpath.normpath(posixpath.join(posixpath.dirname(name), target) if member.issym() else target)
    if climbs or target.startswith("/") or "\\" in target or (lands != top and not lands.startswith(f"{top}/")):
        raise Invalid(f"The archive has a link that leads out of it: {name[:200]!r}.")


def _small_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member) if member.isreg() else None
    if content is None or member.size > METADATA_LIMIT:
        raise Invalid(f"PKG-INFO is not a file of at most {METADATA_LIMIT} bytes.")
    chunks: list[bytes] = []
    while chunk := content.read(_TAR_READ_LIMIT):
        chunks.append(chunk)
    return b"".join(chunks)


def _digests(file: BinaryIO) -> tuple[int, dict[str, str]]:
    sha256, md5, blake2b = hashlib.sha256(), hashlib.md5(usedforsecurity=False), hashlib.blake2b(digest_size=32)
    size = 0
    while chunk := file.read(1 << 20):
        size += len(chunk)
        for update in (sha256.update, md5.update, blake2b.update):
            update(chunk)
    return size, {"sha256": sha256.hexdigest(), "md5": md5.hexdigest(), "blake2b_256": blake2b.hexdigest()}


def accept(inspected: File, attested: bool) -> AcceptedUpload:
    """Return what to store of an inspected file."""
    extra = {key: value for key, value in inspected.extra.items() if key != "metadata"}
    # Simple pages show SHA-256 alone: pip gives up at the name of an algorithm that hashlib does not know.
    extra["digests"] = {name: digest for name, digest in inspected.digests.items() if name != "sha256"}
    if attested:
        extra["provenance"] = inspected.filename
    return AcceptedUpload(
        project=parse_filename(inspected.filename).project,
        file=msgspec.structs.replace(inspected, digests={"sha256": inspected.digests["sha256"]}, extra=extra),
        sidecar=inspected.extra["metadata"].encode(),
    )
