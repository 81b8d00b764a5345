"""The files inside a gem, data.tar.gz: that unpacking them takes bounded room and writes nothing outside their folder.

The surprise: a path with neither `..` nor a leading slash may still lead out, below a link of the same archive. So no
path goes through a link, and no link's target does.
"""

import posixpath
import zlib
from collections.abc import Iterator

from mirror.errors import Invalid
from mirror.rubygems.package.archive import BLOCK_BYTES, ArchiveMember, read_header
from mirror.rubygems.specification import GZIP

_MOST_FILES = 100_000
_ALWAYS_ALLOWED_BYTES = 64 << 20
_MOST_EXPANSION = 100
_LIMIT_BYTES = 4 << 30
_CHUNK_BYTES = 256 << 10


def check_contents(chunks: Iterator[bytes], size: int) -> None:
    """Check that a data.tar.gz of `size` bytes inflates to a sane size, and its paths stay inside. Raises Invalid."""
    limit = min(max(_ALWAYS_ALLOWED_BYTES, size * _MOST_EXPANSION), _LIMIT_BYTES)
    pending = bytearray()
    paths = _Paths()
    skip = entries = 0
    ended = False
    for data in _inflated(chunks, limit):
        if ended:
            continue
        if skip >= len(data):
            skip -= len(data)
            continue
        pending += data[skip:]
        skip = at = 0
        while not ended and at + BLOCK_BYTES <= len(pending):
            inner = read_header(bytes(pending[at : at + BLOCK_BYTES]), 0)
            at += BLOCK_BYTES
            if inner is None:
                ended = True
                continue
            entries += 1
            if entries > _MOST_FILES:
                raise Invalid(f"The gem holds more than {_MOST_FILES} files.")
            paths.add(inner)
            at += inner.stop
        skip = max(0, at - len(pending))
        del pending[:at]
    if skip or (pending and not ended):
        raise Invalid("The gem's data.tar.gz is cut off.")
    paths.check()


class _Paths:
    """The paths of one archive. Letters' case does not count, since on some file systems it does not."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._links: dict[str, list[str]] = {}
        """Path of a link → the parts of its target, seen from the folder of the gem."""

    def add(self, member: ArchiveMember) -> None:
        """Add an entry. Raises Invalid for one that leads out by itself."""
        if member.kind not in {b"0", b"\0", b"5", b"2"}:
            raise Invalid("The gem's data.tar.gz holds something besides files, folders and symbolic links.")
        name = posixpath.normpath(member.name)
        if member.name.startswith("/") or ".." in member.name.split("/"):
            raise _leaves(member.name)
        if name.casefold() in self._links or (member.kind == b"2" and name.casefold() in self._names):
            raise Invalid(f"The gem's data.tar.gz holds a link and something else as {name[:80]!r}.")
        self._names.add(name.casefold())
        if member.kind == b"2":
            target = [*posixpath.dirname(name).split("/"), *member.link.split("/")]
            if member.link.startswith("/"):
                raise _leaves(member.name)
            self._links[name.casefold()] = [part.casefold() for part in target if part not in {"", "."}]

    def check(self) -> None:
        """Raise Invalid for a path or the target of a link that goes through a link, or leads out."""
        for name in self._names if self._links else ():
            at = name.find("/")
            while at > 0:
                if name[:at] in self._links:
                    raise Invalid(f"The gem's data.tar.gz holds something below a link: {name[:80]!r}.")
                at = name.find("/", at + 1)
        for name, target in self._links.items():
            walked: list[str] = []
            for part in target:
                if walked and "/".join(walked) in self._links:
                    raise Invalid(f"The gem's data.tar.gz holds a link that goes through another one: {name[:80]!r}.")
                if part != "..":
                    walked.append(part)
                elif walked:
                    walked.pop()
                else:
                    raise _leaves(name)


def _leaves(name: str) -> Invalid:
    return Invalid(f"The gem's data.tar.gz holds a path that leaves its folder: {name[:80]!r}.")


def _inflated(chunks: Iterator[bytes], limit: int) -> Iterator[bytes]:
    inflater = zlib.decompressobj(GZIP)
    total = 0
    try:
        for chunk in chunks:
            while chunk and not inflater.eof:
                data = inflater.decompress(chunk, _CHUNK_BYTES)
                chunk = inflater.unconsumed_tail  # what did not fit into one piece
                total += len(data)
                if total > limit:
                    raise Invalid(f"The gem's data.tar.gz inflates to more than {limit >> 20} MB.")
                yield data
    except zlib.error as error:
        raise Invalid("The gem's data.tar.gz is damaged.") from error
    if not inflater.eof:
        raise Invalid("The gem's data.tar.gz is cut off.")
