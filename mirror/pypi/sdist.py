"""Inspect sdists in tar files: their metadata, and whether they may be published.

The surprise: an sdist may have links, because real sdists do, but none that could lead out of its directory.
"""

import io
import os
import posixpath
import struct
import tarfile
import zlib
from typing import BinaryIO

from mirror.errors import Invalid
from mirror.pypi.metadata import METADATA_LIMIT
from mirror.pypi.strict_zip import ENTRIES_LIMIT, check_bomb, safe_path

_TAR_READ_LIMIT = 64 << 10  # a header of the pax format is read at once, as long as it claims to be
_TAR_ERRORS = (tarfile.TarError, zlib.error, struct.error, EOFError, ValueError, OSError, OverflowError, LookupError)


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
            check_bomb(self._inflated, self._size)
        chunk, self._buffer = self._buffer[:size], self._buffer[size:]
        self._position += len(chunk)
        return chunk


def read_pkg_info(file: BinaryIO) -> bytes:
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
        name = safe_path(member.name)
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
