"""Our own log: the append-only `/versions` at one moment, and what it should list."""

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from mirror.rubygems.log.versions_map import LocalEntry, VersionsMap, diff, parse_versions, render_versions

if TYPE_CHECKING:
    from hashlib import _Hash

    from mirror.rubygems.log.name_owners import NameOwners

GZIP_LEVEL = 4
"""The compression level: it takes a fifth of the time of level 6 on such text, for a twelfth more bytes."""


class PublishedLog:
    """The append-only `/versions` at one moment: uncompressed and gzip bytes, digests, and the map that it describes.

    Immutable: a request can keep it. `updated` and `appended` return the next one, at the cost of the new lines alone:
    hashers and compressor are copied in their current state, and chunks are shared.
    """

    __slots__ = ("_gzip", "_md5", "_sha256", "chunks", "map", "size")

    def __init__(
        self,
        *,
        chunks: tuple[bytes, ...],
        md5: "_Hash",
        sha256: "_Hash",
        gzip: "_Gzip | None",
        versions: VersionsMap,
    ) -> None:
        self.chunks = chunks
        """The uncompressed bytes, in order."""
        self.size = sum(map(len, chunks))
        self.map = versions
        """What the log lists. Do not change it."""
        self._md5 = md5
        self._sha256 = sha256
        self._gzip = gzip

    @classmethod
    def from_bytes(cls, body: bytes, *, packed: bool = True) -> "PublishedLog":
        """Return the log that was stored as `body`. Blocking: about two seconds for 23 MB, half of it for `packed`."""
        return cls(
            chunks=(body,),
            md5=hashlib.md5(body, usedforsecurity=False),
            sha256=hashlib.sha256(body),
            gzip=_Gzip().grown(body) if packed else None,
            versions=parse_versions(body),
        )

    @classmethod
    def begin(cls, versions: VersionsMap, created_at: datetime) -> "PublishedLog":
        """Return a new log that lists `versions`."""
        return cls.from_bytes(render_versions(versions, created_at))

    @property
    def etag(self) -> str:
        """The MD5 of the uncompressed bytes in hex, the only ETag that bundler 2.3 and 2.4 accept."""
        return self._md5.hexdigest()

    @property
    def sha256(self) -> str:
        """The SHA-256 of the uncompressed bytes in hex."""
        return self._sha256.hexdigest()

    @property
    def gzip_chunks(self) -> tuple[bytes, ...]:
        """The log as one gzip member, since Ruby reads only the first; empty before it is `packed`."""
        return self._gzip.chunks if self._gzip else ()

    def packed(self) -> "PublishedLog":
        """Return the same log with its gzip form. Blocking: about a second for 23 MB."""
        gzip = self._gzip or _Gzip().grown(self.slice())
        return PublishedLog(chunks=self.chunks, md5=self._md5, sha256=self._sha256, gzip=gzip, versions=self.map)

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """Yield the uncompressed bytes [start, stop), without copying."""
        at = 0
        stop = self.size if stop is None else stop
        for chunk in self.chunks:
            if at < stop and at + len(chunk) > start:
                yield memoryview(chunk)[max(0, start - at) : stop - at]
            at += len(chunk)

    def slice(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return the uncompressed bytes [start, stop)."""
        if len(self.chunks) == 1 and start == 0 and stop is None:
            return self.chunks[0]
        return b"".join(self.pieces(start, stop))

    def updated(self, wanted: VersionsMap) -> tuple["PublishedLog", bytes]:
        """Return the log that lists `wanted`, and the bytes by which it is longer: none when nothing changed."""
        lines = diff(self.map, wanted)
        if not lines:
            return self, b""
        tail = b"".join(line + b"\n" for line in lines)
        versions = self.map.copy()
        versions.apply(lines)
        for name, entry in wanted._entries.items():
            if versions._entries.get(name) == entry:
                versions._entries[name] = entry  # shared with the wanted map, not held twice
        return self._grown(tail, versions), tail

    def appended(self, tail: bytes) -> "PublishedLog":
        """Return the log with these lines."""
        if not tail:
            return self
        return self._grown(tail, self.map.grown(tail))

    def _grown(self, tail: bytes, versions: VersionsMap) -> "PublishedLog":
        md5, sha256 = self._md5.copy(), self._sha256.copy()
        md5.update(tail)
        sha256.update(tail)
        return PublishedLog(
            chunks=_joined((*self.chunks, tail)),
            md5=md5,
            sha256=sha256,
            gzip=self._gzip.grown(tail) if self._gzip else None,
            versions=versions,
        )


class _Gzip:
    """A gzip member that can still grow: what is compressed so far, and the state of the compressor."""

    def __init__(self, head: tuple[bytes, ...] = (), deflater: "zlib._Compress | None" = None) -> None:
        self._head = head
        self._deflater = deflater or zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        self.chunks = (*head, self._deflater.copy().flush())

    def grown(self, tail: bytes) -> "_Gzip":
        deflater = self._deflater.copy()
        return _Gzip(_joined((*self._head, deflater.compress(tail))), deflater)


def _joined(chunks: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return the same bytes in few chunks, without copying the first, which is the large one."""
    return (chunks[0], b"".join(chunks[1:])) if len(chunks) > 64 else chunks


# What it should list


class UpstreamMaps(msgspec.Struct, frozen=True):
    """The listings of the upstreams of one repository at one moment, in order.

    The first that lists a gem counts, or ever listed it: no other upstream takes over the name of a gem that is gone,
    except where the files of all are shown together.
    """

    maps: tuple[VersionsMap | None, ...]
    """None for an upstream whose list was never fetched."""
    owners: "NameOwners"

    def replace(self, upstream: int, listed: VersionsMap) -> "UpstreamMaps":
        """Return the listings with another one of one upstream, given its place."""
        return UpstreamMaps((*self.maps[:upstream], listed, *self.maps[upstream + 1 :]), self.owners)

    def usable(self) -> list[VersionsMap] | None:
        """Return the maps from which something follows, in their order; None when nothing does.

        A later upstream does not count where an earlier one is unknown: that could list another gem of the same name.
        """
        maps = list(self.maps)
        while maps and maps[-1] is None:
            maps.pop()
        known = [one for one in maps if one is not None]
        return None if len(known) < len(maps) or (self.maps and not known) else known

    def entry(self, name: str) -> LocalEntry | None:
        """Return how the first upstream that lists a gem lists it."""
        if self.owners.is_private(name):
            return None
        having = [one for one in self.maps if one is not None and one.knows(name)]
        if self.owners.passes_on(name):
            having = [one for one in having if name in one]
        return LocalEntry.from_map(having[0], name) if having and name in having[0] else None


def wanted_map(maps: Sequence[VersionsMap], owners: "NameOwners", overrides: Mapping[str, LocalEntry]) -> VersionsMap:
    """Return what a log should list: the first upstream that knows a gem, and the overrides before all of them.

    `maps` are those that are usable, or the same part of each. Blocking for large maps.
    """
    if len(maps) == 1 and not overrides and not owners.precedence.private:
        return maps[0]
    wanted = VersionsMap()
    for one in maps:
        wanted.add_unknown(one)
        if owners.precedence.union or owners.released:
            wanted.forget_empty(owners.passes_on)
    if owners.precedence.private:
        for name in [name for name in wanted if owners.is_private(name)]:
            wanted.remove(name)
    for name, entry in overrides.items():
        if entry.versions:
            wanted.set(name, entry.versions, entry.md5)
        else:
            wanted.remove(name)
    return wanted
