"""METADATA out of a wheel, wherever the wheel lies: on this disk, or at an upstream that answers ranges.

The surprise: there is no second reader of zip files here. The standard library's reads both; given a remote wheel, its
file raises which bytes are missing, they are fetched, and the reading starts again.
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
SMALL = 64 << 10
"""Bytes of a wheel up to which looking into it is quicker than the hop to a thread."""
_LOCAL_HEADER = 30
_LOCAL_EXTRA = 256  # more than any tool writes; a longer one costs one more range
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OSError),
    *(OverflowError, LookupError),
)


def wheel_identity(filename: str) -> DistributionIdentity:
    """Whose metadata must be in the wheel of that name. Raises Invalid when the name does not say."""
    project = canonical(filename.partition("-")[0])
    version = version_of(filename, project)
    if not filename.endswith(".whl") or not version:
        raise Invalid(f"{filename[:80]!r} is not the name of a wheel.")
    return DistributionIdentity(project, version)


def check_identity(filename: str, content: bytes) -> None:
    """Raises Invalid unless `content` is the core metadata of the wheel of that name."""
    found, wanted = identify(content), wheel_identity(filename)
    if found.project != wanted.project or not same_version(found.version, wanted.version):
        raise Invalid(f"The metadata of {filename} is that of {found.project} {found.version}.")


async def read_metadata(file: File, body: Body) -> bytes:
    """METADATA out of a wheel, by a few ranges of it: its end, its directory, the member. Raises Invalid."""
    project = wheel_identity(file.filename).project
    size = body.size
    held = _LoadedParts()
    tail = min(size, max(_TAIL_LEAST, min(_TAIL_MOST, size // 256)))
    missing = _MissingPart(size - tail, size)
    for _ in range(_RANGES_LIMIT):
        await held.load(body, missing)
        try:
            reader = RangeReader(size, held.fetch)
            small = size <= SMALL
            raw = _metadata_of(reader, project) if small else await asyncio.to_thread(_metadata_of, reader, project)
        except _MissingPart as more:
            missing = more
        else:
            check_identity(file.filename, raw)
            return raw
    raise Invalid(f"The directory of {file.filename} contradicts itself.")


class _MissingPart(Exception):  # not an error: it says what to fetch
    def __init__(self, start: int, stop: int) -> None:
        super().__init__(start, stop)
        self.start = start
        self.stop = stop


class _LoadedParts:
    """The pieces of a file that were fetched."""

    def __init__(self) -> None:
        self._pieces: list[tuple[int, bytes]] = []

    def fetch(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop). Raises _MissingPart for what has to be loaded first."""
        for offset, piece in self._pieces:
            if offset <= start and stop <= offset + len(piece):
                return piece[start - offset : stop - offset]
        raise _MissingPart(start, stop)

    async def load(self, body: Body, missing: _MissingPart) -> None:
        start, stop, rest = missing.start, missing.stop, b""
        for offset, piece in self._pieces:
            if start < offset <= stop <= offset + len(piece):  # the end of it is there already
                # What stands before is needed next, as a rule: a range costs more than the bytes of a short one.
                start, stop, rest = max(0, min(start, offset - _TAIL_LEAST)), offset, piece
        if not 0 <= start < stop:
            raise Invalid("The directory of the wheel leads out of it.")
        content = b"".join([chunk async for chunk in body.read(start, stop)])
        if len(content) != stop - start:
            raise Invalid("The file is shorter than it claims to be.")
        self._pieces.append((start, content + rest))


class RangeReader(io.RawIOBase):
    """A file for `zipfile` over a function that gives [start, stop), with a limit on what is read at once."""

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
    """METADATA of a wheel of that project, nothing else being looked at. Raises _MissingPart, Invalid."""
    try:
        with zipfile.ZipFile(reader) as archive:
            return read_member(archive, reader, metadata_entry(archive, project))
    except ZIP_ERRORS as error:
        raise Invalid("The wheel is not a sound zip file.") from error


def metadata_entry(archive: zipfile.ZipFile, project: str) -> zipfile.ZipInfo:
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
    """Whether a .dist-info directory is one of the project: not every tool escapes a name in the same way."""
    return re.sub(r"[-_.]+", "-", path).lower().startswith(f"{project}-")


def read_member(archive: zipfile.ZipFile, reader: RangeReader, entry: zipfile.ZipInfo) -> bytes:
    """The content of a small member, its checksum verified."""
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
        raise Invalid(f"{entry.filename[:200]} has not the size that the directory says.")
    return content
