"""METADATA out of a wheel, wherever that is: on this disk, or at an upstream that supports ranges.

The surprise: there is no second reader of zip files here. The standard library's reads both; for a remote wheel, its
file object raises which bytes are missing, they are fetched, and reading starts again. What is read is given as it is,
whatever it says of itself: installers read the same bytes out of the wheel, and decide what to make of them.
"""

import asyncio
import bz2
import io
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable

from mirror.errors import Invalid
from mirror.model import Body, File
from mirror.pypi.metadata import METADATA_LIMIT
from mirror.pypi.names import canonical, same_version, version_of

DIRECTORY_LIMIT = 8 << 20
"""The largest central directory of a zip file, in bytes."""
_TAIL_LEAST, _TAIL_MOST = 8 << 10, 64 << 10
_RANGES_LIMIT = 5
SMALL_BYTES = 64 << 10
"""Bytes of a wheel up to which reading it is quicker than the hop to a thread."""
_LOCAL_HEADER = 30
_LOCAL_EXTRA = 256  # more than any tool writes; a longer one costs one more range
_LZMA_MEMORY_BYTES = 64 << 20  # what unpacking may take; the dictionary of a stream can be as large as it says
ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, RuntimeError, OSError),
    *(OverflowError, LookupError),
)


async def read_metadata(file: File, body: Body) -> bytes:
    """Read METADATA out of a wheel by a few ranges: its end, its directory, the member. Raises Invalid."""
    if not file.filename.endswith(".whl"):
        raise Invalid(f"{file.filename[:80]!r} is not the name of a wheel.")
    size = body.size
    loaded = _LoadedParts()
    tail = min(size, max(_TAIL_LEAST, min(_TAIL_MOST, size // 256)))
    missing = _MissingPart(size - tail, size)
    for _ in range(_RANGES_LIMIT):
        await loaded.load(body, missing)
        try:
            reader = RangeReader(size, loaded.fetch)
            small = size <= SMALL_BYTES
            raw = (
                _metadata_of(reader, file.filename)
                if small
                else await asyncio.to_thread(_metadata_of, reader, file.filename)
            )
        except _MissingPart as more:
            missing = more
        else:
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


def _metadata_of(reader: RangeReader, filename: str) -> bytes:
    """Return METADATA of the wheel of that name, and check nothing else. Raises _MissingPart, Invalid."""
    try:
        with zipfile.ZipFile(reader) as archive:
            return read_member(archive, reader, metadata_entry(archive, filename))
    except ZIP_ERRORS as error:
        raise Invalid("The wheel is not a sound zip file.") from error


def metadata_entry(archive: zipfile.ZipFile, filename: str) -> zipfile.ZipInfo:
    """Return the entry of METADATA. Raises Invalid unless there is exactly one of the wheel's project.

    Beside other projects' directories, the one counts whose name is the project's, and of several the one of the
    wheel's version. A wheel with one directory may spell it as it likes, as long as it begins with the project's name.
    """
    project = canonical(filename.partition("-")[0])
    version = version_of(filename, project)
    found = [
        entry
        for entry in archive.infolist()
        if entry.filename.endswith(".dist-info/METADATA") and entry.filename.count("/") == 1
    ]
    own = [entry for entry in found if _directory_of(entry)[0] == project]
    if len(own) > 1:
        own = [entry for entry in own if same_version(_directory_of(entry)[1], version)]
    if not found[1:] and not own:
        own = [entry for entry in found if _escaped(entry.filename).startswith(f"{project}-")]
    if len(own) != 1:
        raise Invalid(f"The wheel has {len(own)} METADATA files of {project}, not one.")
    return own[0]


def _directory_of(entry: zipfile.ZipInfo) -> tuple[str, str]:
    """Return the project, canonical, and the version in the name of an entry's .dist-info directory."""
    name, _, version = entry.filename.partition("/")[0].removesuffix(".dist-info").rpartition("-")
    return _escaped(name), version.replace("_", "-")


def _escaped(name: str) -> str:
    """Return a name as PEP 503 normalises it, valid or not; tools escape names in several ways."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_member(
    archive: zipfile.ZipFile, reader: RangeReader, entry: zipfile.ZipInfo, limit: int = METADATA_LIMIT
) -> bytes:
    """Return the content of a small member, its checksum verified. Raises Invalid."""
    if entry.flag_bits & 0x1:
        raise Invalid(f"{entry.filename[:200]} in the archive is encrypted.")
    if max(entry.file_size, entry.compress_size) > limit:
        raise Invalid(f"{entry.filename[:200]} is larger than {limit} bytes.")
    name = len(entry.orig_filename.encode())
    stop = entry.header_offset + _LOCAL_HEADER + name + _LOCAL_EXTRA + entry.compress_size
    reader.fetch(entry.header_offset, min(stop, reader.size))  # header and content in one range
    if entry.compress_type in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        content = _unpack(archive, reader, entry)
    else:
        with archive.open(entry) as member:
            content = member.read(entry.file_size + 1)
    if len(content) != entry.file_size:
        raise Invalid(f"{entry.filename[:200]} does not have the size that the directory of the archive states.")
    return content


def _unpack(archive: zipfile.ZipFile, reader: RangeReader, entry: zipfile.ZipInfo) -> bytes:
    """Return the content of a member in bzip2 or LZMA, which `zipfile` would unpack without a limit."""
    archive.open(entry).close()  # checks its local header
    reader.seek(entry.header_offset + _LOCAL_HEADER - 4)
    name, extra = struct.unpack("<2H", reader.read(4))
    reader.seek(name + extra, os.SEEK_CUR)
    packed = reader.read(entry.compress_size)
    unpack: bz2.BZ2Decompressor | lzma.LZMADecompressor
    if entry.compress_type == zipfile.ZIP_BZIP2:
        unpack = bz2.BZ2Decompressor()
    else:
        # Two bytes of version, two of the length of the properties, then these (APPNOTE 5.8.8); the format of .lzma
        # files has them first, and the size after them, which may be left open.
        unpack = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY_BYTES)
        packed = packed[4:9] + b"\xff" * 8 + packed[9:]
    content = unpack.decompress(packed, entry.file_size + 1)
    if zlib.crc32(content) != entry.CRC:
        raise Invalid(f"{entry.filename[:200]} in the archive does not have its checksum.")
    return content
