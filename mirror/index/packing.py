"""The content codings in which pages are sent and kept, and pages that are rendered and compressed elsewhere."""

import gzip
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

COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "zstd": partial(zstd.compress, level=6),
    "gzip": partial(gzip.compress, compresslevel=6, mtime=0),
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
