"""Zip files that every reader understands alike, with limits on what they unpack to.

A zip file says everything twice: in its directory, and before each entry. Readers that seek believe the one, readers
that stream the other, and what they disagree on can carry code past an inspection of the file. So the entries
have to stand one behind the other from the first byte to the directory, each described the same in both places, and
nothing may follow the directory. The standard library reads the directory; the rest is compared here.
"""

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from itertools import pairwise
from typing import BinaryIO

from mirror.errors import Invalid

ENTRIES_LIMIT = 50_000
"""The most entries of an archive."""
BOMB_SIZE, BOMB_RATIO = 64 << 20, 50
"""An archive is a bomb when it unpacks to more bytes than the first, and to more than its own size times the second."""
DIRECTORY_LIMIT = 8 << 20
"""The largest central directory, in bytes."""
_DEPTH_LIMIT = 100
_CHUNK_BYTES = 256 << 10
_DRIVE = re.compile(r"[A-Za-z]:")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED, _DESCRIBED_BEHIND, _UTF8 = 0x1, 0x8, 0x800
_ZIP64_EXTRA, _UNICODE_PATH_EXTRA = 0x0001, 0x7075
_MOST_16, _MOST_32 = 0xFFFF, 0xFFFFFFFF
_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError, OSError),
    *(OverflowError, LookupError),
)


class StrictZip:
    """A zip file on disk whose layout has been checked, with its entries in the order in which they stand."""

    def __init__(self, file: BinaryIO) -> None:
        """Check the layout and every entry, but not the contents. Raises Invalid."""
        self._fd = file.fileno()
        self._size = os.fstat(self._fd).st_size
        self._starts: dict[str, int] = {}
        try:
            count, directory = self._find_directory()
            with zipfile.ZipFile(file) as archive:
                entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
            if len(entries) != count:
                raise Invalid(f"The directory of the archive has {len(entries)} entries, but states {count}.")
            self.entries: dict[str, zipfile.ZipInfo] = _by_name(entries, self._size)
            self._check_layout(entries, directory)
        except _ERRORS as error:
            raise Invalid("The file is not a sound zip file.") from error

    def content(self, name: str) -> Iterator[bytes]:
        """Yield the content of an entry in chunks. Raises Invalid unless it is as long as it should be, and sound."""
        entry = self.entries[name]
        crc = size = 0
        try:
            for chunk in self._unpacked(entry, self._starts[name]):
                crc, size = zlib.crc32(chunk, crc), size + len(chunk)
                if size > entry.file_size:
                    break
                yield chunk
        except _ERRORS as error:
            raise Invalid(f"{name[:200]!r} in the archive cannot be unpacked.") from error
        if size != entry.file_size or crc != entry.CRC:
            raise Invalid(f"{name[:200]!r} in the archive does not have the size and checksum that are stated.")

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a small entry. Raises Invalid."""
        if self.entries[name].file_size > limit:
            raise Invalid(f"{name[:200]!r} in the archive is larger than {limit} bytes.")
        return b"".join(self.content(name))

    def _at(self, start: int, length: int) -> bytes:
        return os.pread(self._fd, length, start) if start >= 0 else b""

    def _find_directory(self) -> tuple[int, int]:
        """Return how many entries the directory should have, and where it begins. Raises Invalid."""
        end = self._size - _END.size
        mark, *disks, here, count, size, start, comment = _END.unpack(self._at(end, _END.size))
        if mark != b"PK\5\6" or comment:
            raise Invalid("The archive does not end with its directory: it has a comment, or something follows it.")
        locator = self._at(end - _LOCATOR.size, _LOCATOR.size)
        if locator.startswith(b"PK\6\7"):
            end -= _LOCATOR.size + _END64.size
            mark, length, _, _, *disks, here64, count64, size64, start64 = _END64.unpack(self._at(end, _END64.size))
            if mark != b"PK\6\6" or length != _END64.size - 12 or _LOCATOR.unpack(locator)[1:] != (0, end, 1):
                raise Invalid("The ZIP64 records at the end of the archive are not where they should be.")
            stated = ((here, here64, _MOST_16), (count, count64, _MOST_16), (size, size64, _MOST_32))
            if any(short not in (long, most) for short, long, most in (*stated, (start, start64, _MOST_32))):
                raise Invalid("The two records at the end of the archive contradict each other.")
            here, count, size, start = here64, count64, size64, start64
        if any(disks) or here != count or start + size != end:
            raise Invalid("The directory of the archive is not where it should be.")
        if size > DIRECTORY_LIMIT or count > ENTRIES_LIMIT:
            raise Invalid(f"The archive has more than {ENTRIES_LIMIT} entries, or too long a directory.")
        return count, start

    def _check_layout(self, entries: list[zipfile.ZipInfo], directory: int) -> None:
        """Check that the entries fill the file up to its directory, each described the same in both places."""
        starts = [entry.header_offset for entry in entries]
        if (starts[0] if starts else directory) != 0:
            raise Invalid("The archive does not begin with its first entry.")
        for entry, (start, stop) in zip(entries, pairwise([*starts, directory]), strict=True):
            content = self._check_header(entry, start)
            self._starts[_name(entry)] = content
            self._check_gap(entry, content + entry.compress_size, stop)

    def _check_header(self, entry: zipfile.ZipInfo, start: int) -> int:
        """Compare the header before an entry with the directory; return where its content begins. Raises Invalid."""
        header = self._at(start, _LOCAL.size)
        mark, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(header)
        begin: int = start + _LOCAL.size + name_length + extra_length
        raw = self._at(start + _LOCAL.size, name_length + extra_length)
        name, extra = raw[:name_length], dict(_extras(raw[name_length:]))
        if _UNICODE_PATH_EXTRA in extra or _UNICODE_PATH_EXTRA in dict(_extras(entry.extra)):
            raise Invalid(f"{entry.orig_filename[:200]!r} in the archive has a second name.")
        if _MOST_32 in (packed, size) and len(extra.get(_ZIP64_EXTRA, b"")) >= 16:
            size, packed = struct.unpack("<2Q", extra[_ZIP64_EXTRA][:16])
        found = (crc, packed, size)
        behind = bool(flags & _DESCRIBED_BEHIND)
        if (
            mark != b"PK\3\4"
            or name != entry.orig_filename.encode("utf-8" if flags & _UTF8 else "cp437")
            or (flags, method) != (entry.flag_bits, entry.compress_type)
            or (found != _facts(entry) and not (behind and not any(found)))
        ):
            raise Invalid(f"The archive describes {entry.orig_filename[:200]!r} in two ways.")
        if behind and method == zipfile.ZIP_STORED and entry.file_size:
            raise Invalid(f"{entry.orig_filename[:200]!r} is stored in the archive without its length before it.")
        return begin

    def _check_gap(self, entry: zipfile.ZipInfo, stop: int, following: int) -> None:
        """Check what stands between an entry's content and what follows: nothing, or its description."""
        gap = following - stop
        if entry.flag_bits & _DESCRIBED_BEHIND and gap in (12, 16, 20, 24):
            raw = self._at(stop, gap)
            raw = raw[4:] if gap in (16, 24) and raw.startswith(b"PK\7\10") else raw
            layout = {12: "<3L", 20: "<L2Q"}.get(len(raw))
            if layout and struct.unpack(layout, raw) == _facts(entry):
                return
        elif gap == 0 and not entry.flag_bits & _DESCRIBED_BEHIND:
            return
        raise Invalid(f"Something is hidden behind {entry.orig_filename[:200]!r} in the archive, or lies over it.")

    def _unpacked(self, entry: zipfile.ZipInfo, start: int) -> Iterator[bytes]:
        inflate = zlib.decompressobj(-zlib.MAX_WBITS) if entry.compress_type == zipfile.ZIP_DEFLATED else None
        for at in range(0, entry.compress_size, _CHUNK_BYTES):
            packed = self._at(start + at, min(_CHUNK_BYTES, entry.compress_size - at))
            if inflate is None:
                yield packed
                continue
            while packed:
                yield inflate.decompress(packed, _CHUNK_BYTES)
                packed = inflate.unconsumed_tail
        if inflate is not None:
            yield inflate.flush()
            if not inflate.eof or inflate.unused_data:
                raise EOFError("the compressed content ends elsewhere than stated")


def _by_name(entries: list[zipfile.ZipInfo], size: int) -> dict[str, zipfile.ZipInfo]:
    """Return name → entry. Raises Invalid for a bomb, and for unsafe or repeated names."""
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = _name(entry)
        if name in found:
            raise Invalid(f"The archive has the entry {name[:200]!r} twice.")
        found[name] = entry
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise Invalid(f"The archive has a symbolic link, {name[:200]!r}: zip archives must have none.")
        if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _METHODS:
            raise Invalid(f"{name[:200]!r} in the archive is encrypted or compressed in an unusual way.")
    if sum(entry.compress_size for entry in entries) > size:
        raise Invalid("The entries of the archive overlap.")
    check_bomb(sum(entry.file_size for entry in entries), size)
    return found


def _name(entry: zipfile.ZipInfo) -> str:
    return safe_path(entry.orig_filename)  # `filename` ends at a NUL


def _facts(entry: zipfile.ZipInfo) -> tuple[int, int, int]:
    return entry.CRC, entry.compress_size, entry.file_size


def _extras(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and the content of each extra field; what is cut off at the end is padding."""
    while len(raw) >= 4:
        kind, length = struct.unpack("<2H", raw[:4])
        yield kind, raw[4 : 4 + length]
        raw = raw[4 + length :]


def check_bomb(unpacked: int, size: int) -> None:
    """Check how many bytes a file of `size` bytes unpacks to. Raises Invalid."""
    if unpacked > BOMB_SIZE and unpacked > BOMB_RATIO * size:
        raise Invalid(f"The archive unpacks to more than {BOMB_RATIO} times its size.")


def safe_path(path: str) -> str:
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
