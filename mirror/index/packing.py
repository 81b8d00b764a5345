"""The content codings in which pages are sent and kept, and pages that are rendered and compressed elsewhere."""

import sys
import zlib
from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from mirror import __version__

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PAGES_VERSION = f"{__version__}-1"
"""The version of pages as they are rendered and kept on disk: those of another one are never served.

Raise its last number with any change of a renderer, a parser or of what is kept; `tests/server/test_page_version.py`
tells.
"""
COMPRESSED_FROM_BYTES = 1024
"""Bytes below which compressing is not worth it."""

LEVEL = 6
"""How well pages are compressed, by either coding."""
REUSED_COMPRESSOR_BYTES = 32 << 10
"""Bytes of a page up to which making a compressor of zstd takes longer than compressing."""
_COMPRESSOR = zstd.ZstdCompressor(LEVEL)


def _zstd(content: bytes) -> bytes:
    if len(content) <= REUSED_COMPRESSOR_BYTES:
        return _COMPRESSOR.compress(content, _COMPRESSOR.FLUSH_FRAME)
    return zstd.compress(content, LEVEL)


def _gzip(content: bytes) -> bytes:
    """Compress by zlib in a window that is no larger than the content: to set up the usual 256 KiB costs more time."""
    bits = min(max(len(content).bit_length(), 9), zlib.MAX_WBITS)
    compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, 16 + bits, min(bits - 7, zlib.DEF_MEM_LEVEL))
    return compressor.compress(content) + compressor.flush()


COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "zstd": _zstd,
    "gzip": _gzip,
    "identity": bytes,
}
"""Content coding → the function that applies it."""
DECOMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "zstd": zstd.decompress,
    "gzip": partial(zlib.decompress, wbits=31),
    "identity": bytes,
}
"""Content coding → the function that undoes it."""


class PackedPage(msgspec.Struct, frozen=True, array_like=True):
    """A page that is compressed already."""

    encoding: str
    body: bytes
    size: int
    """Bytes, not compressed."""
    sha256: bytes
    """Of the bytes, not compressed."""


class PackedNames(msgspec.Struct, frozen=True, array_like=True):
    """A list of names as it is stored, to be read in another process."""

    revision: str
    facts: bytes
    """The response without its body, as JSON."""
    body: bytes
    """In zstd."""
    stored: dict[str, int]
    """The serials of the stored pages of projects, which are to be compared with those of the list."""
