"""What bytes without a digest must look like to be the archive that their name says: a check of both ends.

A sign-in page, an error in JSON or a body that was cut is answered with 200 like any file, and would be held for ever.
"""

import logging
import zlib

from mirror.errors import UpstreamProtocolError

logger = logging.getLogger(__name__)

END_BYTES = 64 * 1024
"""Bytes of a file's end that are looked at: a ZIP archive has its directory's end there."""
BEGINNING_BYTES = 512
"""Bytes of a file's beginning that are looked at."""
INFLATED_BYTES = 8 << 30
"""Decompressed bytes up to which a gzip file is followed to its end."""

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_GZIP = (b"\x1f\x8b",)
_BZIP2 = (b"BZh",)
_XZ = (b"\xfd7zXZ\0",)
_LZMA = (b"\x5d\0\0",)
_BEGINNINGS = {
    ".whl": _ZIP, ".zip": _ZIP, ".tgz": _GZIP, ".gz": _GZIP, ".bz2": _BZIP2, ".tbz2": _BZIP2, ".tbz": _BZIP2,
    ".xz": _XZ, ".txz": _XZ, ".lzma": _LZMA, ".tlz": _LZMA, ".z": (b"\x1f\x9d",), ".exe": (b"MZ",),
    ".rpm": (b"\xed\xab\xee\xdb",), ".deb": (b"!<arch>",), ".msi": (b"\xd0\xcf\x11\xe0",),
}  # fmt: skip
"""By the suffix in lower case; an egg may begin with a script, and a tar archive with anything."""
_WITH_DIRECTORY = (".whl", ".zip", ".egg")
_DOCUMENTS = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"{", b"[")
_ARCHIVES = frozenset({*_BEGINNINGS, ".egg", ".tar", ".gem"})


def beginning_fault(filename: str, beginning: bytes) -> str | None:
    """Return why a file cannot begin so, as the end of a sentence; None when nothing speaks against it."""
    suffix = _suffix(filename)
    if suffix not in _ARCHIVES:
        return None
    if not beginning:
        return "is empty"
    expected = _BEGINNINGS.get(suffix)
    if expected is None:
        return "is a document, not an archive" if beginning.lstrip().lower().startswith(_DOCUMENTS) else None
    if beginning.startswith(expected):
        return None
    is_document = beginning.lstrip().lower().startswith(_DOCUMENTS)
    return "is a document, not an archive" if is_document else f"does not begin as a {suffix} file does"


def ending_fault(filename: str, ending: bytes) -> str | None:
    """Return why a file cannot end so (its last END_BYTES), as `beginning_fault` does."""
    if _suffix(filename) in _WITH_DIRECTORY and b"PK\x05\x06" not in ending:
        return "is cut: it has no end of a ZIP directory"
    return None


def _suffix(filename: str) -> str:
    dot = filename.rfind(".")
    return filename[dot:].lower() if dot > 0 else ""


class GzipEnd:
    """Follows a gzip file, to notice whether it ends where it says; blocks, in bounded memory and time."""

    def __init__(self) -> None:
        self._inflating = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._inflated = 0
        self._given_up = False

    def update(self, chunk: bytes) -> None:
        """Follow the next bytes."""
        while chunk and not self._given_up:
            try:
                self._inflated += len(self._inflating.decompress(chunk, 1 << 20))
            except zlib.error:
                self._given_up = self._inflating.eof  # what stands behind a whole file, such as padding, is no fault
                return
            self._given_up = self._given_up or self._inflated > INFLATED_BYTES
            if self._inflating.eof and (chunk := self._inflating.unused_data).startswith(_GZIP):
                self._inflating = zlib.decompressobj(zlib.MAX_WBITS | 16)
            elif self._inflating.eof:
                self._given_up = bool(chunk)
            else:
                chunk = self._inflating.unconsumed_tail

    @property
    def is_cut(self) -> bool:
        """Whether the bytes so far end within a compressed stream."""
        return not (self._inflating.eof or self._given_up)


class ArchiveCheck:
    """Looks at the bytes of one file on their way in, because no digest verifies them."""

    def __init__(self, filename: str, host: str) -> None:
        self._filename = filename
        self._host = host
        self._follows = False
        self.restart()

    def restart(self) -> None:
        """Forget all bytes."""
        self._beginning = b""
        self._gzip = GzipEnd() if _BEGINNINGS.get(_suffix(self._filename)) is _GZIP else None

    def begin(self, chunk: bytes) -> None:
        """Look at the beginning as it comes. Raises UpstreamProtocolError."""
        if len(self._beginning) < BEGINNING_BYTES:
            self._beginning += chunk[: BEGINNING_BYTES - len(self._beginning)]
            if len(self._beginning) == BEGINNING_BYTES:
                self._judge(beginning_fault(self._filename, self._beginning))

    def follow(self, chunk: bytes) -> None:
        """Follow to its end what is compressed, where nothing else tells where a body ends. Blocks."""
        if self._gzip is not None:
            self._gzip.update(chunk)
            self._follows = True

    def finish(self, ending: bytes) -> None:
        """Look at the whole file, whose last bytes are given. Raises UpstreamProtocolError."""
        self._judge(beginning_fault(self._filename, self._beginning) or ending_fault(self._filename, ending))
        if self._follows and self._gzip is not None and self._gzip.is_cut:
            self._judge("is cut or damaged")
        logger.warning("nothing verifies %s: its index lists no digest of it that can be compared", self._filename)

    def _judge(self, fault: str | None) -> None:
        if fault is not None:
            raise UpstreamProtocolError(f"What {self._host} sent as {self._filename} {fault}.")
