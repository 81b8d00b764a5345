"""METADATA out of a wheel, wherever that is: on this disk, or at an upstream that supports ranges.

The surprise: there is no second reader of zip files here. The standard library's reads both; for a remote wheel, its
file object raises which bytes are missing, they are fetched, and reading starts again.
"""

import asyncio
import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable

from mirror.errors import Invalid
from mirror.model import Body, File
from mirror.pypi.metadata import METADATA_LIMIT, DistributionIdentity, identify
from mirror.pypi.names import canonical, same_version, version_of

DIRECTORY_LIMIT = 8 << 20
"""The largest central directory of a zip file, in bytes."""
_TAIL_LEAST, _TAIL_MOST = 8 << 10, 64 << 10
_RANGES_LIMIT = 5
SMALL_BYTES = 64 << 10
"""Bytes of a wheel up to which reading it is quicker than the hop to a thread."""
_LOCAL_HEADER = 30
_LOCAL_EXTRA = 256  # more than any tool writes; a longer one costs one more range
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OSError),
    *(OverflowError, LookupError),
)


def wheel_identity(filename: str) -> DistributionIdentity:
    """Return the identity in a wheel's file name. Raises Invalid when it is not the name of a wheel."""
    project = canonical(filename.partition("-")[0])
    version = version_of(filename, project)
    if not filename.endswith(".whl") or not version:
        raise Invalid(f"{filename[:80]!r} is not the name of a wheel.")
    return DistributionIdentity(project, version)


def check_identity(filename: str, content: bytes) -> None:
    """Check that `content` is the core metadata of the wheel of that name. Raises Invalid."""
    found, wanted = identify(content), wheel_identity(filename)
    if found.project != wanted.project or not same_version(found.version, wanted.version):
        raise Invalid(f"The metadata of {filename} is that of {found.project} {found.version}.")


async def read_metadata(file: File, body: Body) -> bytes:
    """Read METADATA out of a wheel by a few ranges: its end, its directory, the member. Raises Invalid."""
    project = wheel_identity(file.filename).project
    size = body.size
    loaded = _LoadedParts()
    tail = min(size, max(_TAIL_LEAST, min(_TAIL_MOST, size // 256)))
    missing = _MissingPart(size - tail, size)
    for _ in range(_RANGES_LIMIT):
        await loaded.load(body, missing)
        try:
            reader = RangeReader(size, loaded.fetch)
            small = size <= SMALL_BYTES
            raw = _metadata_of(reader, project) if small else await asyncio.to_thread(_metadata_of, reader, project)
        except _MissingPart as more:
            missing = more
        else:
            check_identity(file.filename, raw)
            return raw
    raise Invalid(f"The directory of {file.filename} contradicts itself.")


class _MissingPart(Exception):
    """The range of bytes that has to be fetched first; not an error."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__(start, stop)
        self.start = start
        self.stop = stop


class _LoadedParts:
    """The parts of a file that have been fetched."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, bytes]] = []

    def fetch(self, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop). Raises _MissingPart for what has to be loaded first."""
        for offset, part in self._parts:
            if offset <= start and stop <= offset + len(part):
                return part[start - offset : stop - offset]
        raise _MissingPart(start, stop)

    async def load(self, body: Body, missing: _MissingPart) -> None:
        """Fetch a missing part. Raises Invalid when there are no such bytes."""
        start, stop, rest = missing.start, missing.stop, b""
        for offset, part in self._parts:
            if start < offset <= stop <= offset + len(part):  # its end has been fetched
                # What is before it is needed next, as a rule, and another range would cost more than a few more bytes.
                start, stop, rest = max(0, min(start, offset - _TAIL_LEAST)), offset, part
        if not 0 <= start < stop:
            raise Invalid("The directory of the wheel leads out of it.")
        content = b"".join([chunk async for chunk in body.read(start, stop)])
        if len(content) != stop - start:
            raise Invalid("The file is shorter than it claims to be.")
        self._parts.append((start, content + rest))


class RangeReader(io.RawIOBase):
    """A file for `zipfile` over a function that returns the bytes [start, stop); one read is limited in size."""

    def __init__(self, size: int, fetch: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self.size = size
        self.fetch = fetch
        self._position = 0

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if position < 0:
            raise OSError("a position before the file")
        self._position = position
        return position

    def read(self, size: int | None = -1) -> bytes:
        start = min(self._position, self.size)
        stop = self.size if size is None or size < 0 else min(start + size, self.size)
        if stop - start > DIRECTORY_LIMIT:
            raise Invalid(f"The directory of the archive is larger than {DIRECTORY_LIMIT} bytes.")
        self._position = stop
        return self.fetch(start, stop) if stop > start else b""


def _metadata_of(reader: RangeReader, project: str) -> bytes:
    """Return METADATA of a wheel of that project, and check nothing else. Raises _MissingPart, Invalid."""
    try:
        with zipfile.ZipFile(reader) as archive:
            return read_member(archive, reader, metadata_entry(archive, project))
    except ZIP_ERRORS as error:
        raise Invalid("The wheel is not a sound zip file.") from error


def metadata_entry(archive: zipfile.ZipFile, project: str) -> zipfile.ZipInfo:
    """Return the entry of METADATA. Raises Invalid unless there is exactly one of the project."""
    found = [
        entry
        for entry in archive.infolist()
        if entry.filename.endswith(".dist-info/METADATA")
        and entry.filename.count("/") == 1
        and _starts_with(entry.filename, project)
    ]
    if len(found) != 1:
        raise Invalid(f"The wheel has {len(found)} METADATA files of {project}, not one.")
    return found[0]


def _starts_with(path: str, project: str) -> bool:
    """Return whether a .dist-info directory is of the project; tools escape names in several ways."""
    return re.sub(r"[-_.]+", "-", path).lower().startswith(f"{project}-")


def read_member(archive: zipfile.ZipFile, reader: RangeReader, entry: zipfile.ZipInfo) -> bytes:
    """Return the content of a small member, its checksum verified. Raises Invalid."""
    if entry.compress_type not in METHODS or entry.flag_bits & 0x1:
        raise Invalid(f"{entry.filename[:200]} in the archive is encrypted or compressed in an unusual way.")
    if max(entry.file_size, entry.compress_size) > METADATA_LIMIT:
        raise Invalid(f"{entry.filename[:200]} is larger than {METADATA_LIMIT} bytes.")
    name = len(entry.orig_filename.encode())
    stop = entry.header_offset + _LOCAL_HEADER + name + _LOCAL_EXTRA + entry.compress_size
    reader.fetch(entry.header_offset, min(stop, reader.size))  # header and content in one range
    with archive.open(entry) as member:
        content = member.read(entry.file_size + 1)
    if len(content) != entry.file_size:
        raise Invalid(f"{entry.filename[:200]} does not have the size that the directory of the archive states.")
    return content
