"""The index as a whole: `/versions` (followed upstream, published as our own append-only log), `/names`, the specs.

Values in, values out: no clock, no store, no network. What is heavy (parsing, diffing or compressing the whole) is a
plain function to be called in a thread. The one surprise: a gem that lost all its versions stays in the map, with an
MD5 and nothing else, for clients that once saw it go on asking for its `/info`.
"""

import base64
import hashlib
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from mirror.errors import Invalid, UpstreamProtocolError
from mirror.model import File
from mirror.rubygems import marshal
from mirror.rubygems.marshal import Gemspec
from mirror.rubygems.names import GENERIC, is_prerelease, is_version, number, split_number, version_key
from mirror.rubygems.pages import EMPTY, info_line

if TYPE_CHECKING:
    from hashlib import _Hash

EMPTY_MD5 = hashlib.md5(EMPTY, usedforsecurity=False).hexdigest()
"""The MD5 of the `/info` of a gem without versions."""
_UNKNOWN = b"0" * 32  # in place of an MD5 that nobody told: some clients stumble over a line without one
_LEVEL = 4  # of compression: a fifth of the time of level 6 on such text, for a twelfth more bytes
_SPECS_LIMIT = 128 << 20

# --- the map ---------------------------------------------------------------------------------------------------


class VersionsMap:
    """Gem name → its versions (`3.0`, `1.17.2-java`) and the MD5 of its `/info`.

    190,000 gems have to fit: each takes one bytes object, `V,V-PLATFORM MD5`, which copies of the map share.
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: dict[str, bytes] | None = None) -> None:
        self._entries = {} if entries is None else entries

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        """Whether the gem has any version."""
        return not self._entries.get(name, b" ").startswith(b" ")  # type: ignore[call-overload]

    def __iter__(self) -> Iterator[str]:
        """The names of the gems that have versions, in the order of the log."""
        return (name for name, entry in self._entries.items() if not entry.startswith(b" "))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VersionsMap) and not diff(self, other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def size(self) -> int:
        """Bytes of the shortest log that says this, without its header."""
        return sum(len(name) + len(entry) + 2 for name, entry in self._entries.items())

    def versions(self, name: str) -> tuple[str, ...]:
        """The versions of a gem, each once; none when it is unknown."""
        entry = self._entries.get(name)
        return tuple(item.decode("utf-8", "surrogateescape") for item in _items(entry)) if entry else ()

    def md5(self, name: str) -> str | None:
        """The MD5 of the gem's `/info`, also of a gem that lost all versions; None when unknown."""
        entry = self._entries.get(name)
        md5 = None if entry is None else entry.rpartition(b" ")[2]
        return None if md5 is None or md5 == _UNKNOWN else md5.decode("utf-8", "surrogateescape")

    def set(self, name: str, versions: Iterable[str], md5: str | None) -> None:
        """Replace what the map says of a gem."""
        listed = ",".join(dict.fromkeys(versions)).encode("utf-8", "surrogateescape")
        self._entries[name] = listed + b" " + (md5.encode() if md5 else _UNKNOWN)

    def remove(self, name: str) -> None:
        """Forget a gem, known or not."""
        self._entries.pop(name, None)

    def copy(self) -> "VersionsMap":
        """An independent map that shares the entries."""
        return VersionsMap(self._entries.copy())

    def only(self, names: Iterable[str]) -> "VersionsMap":
        """A map of what this one says of some gems."""
        return VersionsMap({name: self._entries[name] for name in names if name in self._entries})

    def changed(self, before: "VersionsMap") -> frozenset[str]:
        """The gems of which this map says anything else than an earlier one, known to it or not."""
        old, new = before._entries, self._entries
        return frozenset(name for name, entry in new.items() if old.get(name) != entry) | (old.keys() - new.keys())

    def sharing(self, other: "VersionsMap") -> "VersionsMap":
        """The same map, of the names and entries of another where they are equal: one copy of them in memory."""
        theirs = {name: (name, entry) for name, entry in other._entries.items()}
        shared = {}
        for name, entry in self._entries.items():
            known = theirs.get(name)
            shared[known[0] if known else name] = known[1] if known and known[1] == entry else entry
        return VersionsMap(shared)

    def grown(self, tail: bytes) -> "VersionsMap":
        """An independent map that has followed the lines of `tail` as well."""
        versions = self.copy()
        versions.apply(tail.split(b"\n"))
        return versions

    def apply(self, lines: Iterable[bytes]) -> None:
        """Follow the lines of a log: the last MD5 counts, `-` removes, what is no line of a gem is passed over."""
        entries = self._entries
        for line in lines:
            raw, _, rest = line.rstrip(b"\r\n").partition(b" ")
            versions, space, md5 = rest.partition(b" ")
            if not raw or not versions:
                continue
            name = raw.decode("utf-8", "surrogateescape")
            known = entries.get(name)
            if known is None and versions[:1] != b"-" and b",-" not in versions:
                entries[name] = rest if space and md5 else versions + b" " + _UNKNOWN
                continue
            current = dict.fromkeys(_items(known or b" "))
            for item in versions.split(b","):
                if item.startswith(b"-"):
                    current.pop(item[1:], None)
                elif item:
                    current[item] = None
            entries[name] = b",".join(current) + b" " + (md5 or _UNKNOWN)


def _items(entry: bytes) -> list[bytes]:
    """The versions of an entry, each once, in order."""
    listed = entry.partition(b" ")[0]
    return list(dict.fromkeys(listed.split(b","))) if listed else []


def parse_versions(body: bytes) -> VersionsMap:
    """The map that a whole `/versions` describes. Blocking: about a second for the public one. Never raises."""
    lines = io.BytesIO(body)  # line by line: splitting the whole holds the interpreter, and twice the memory
    lines.seek(_header(body))
    versions = VersionsMap()
    versions.apply(lines)
    return versions


def _header(body: bytes) -> int:
    """How many bytes stand before the first line of a gem."""
    if body.startswith(b"---\n"):
        return 4
    mark = body.find(b"\n---\n")
    return mark + 5 if mark >= 0 else 0


def render_versions(versions: VersionsMap, created_at: datetime) -> bytes:
    """A whole log: a header and a line for each gem that has versions."""
    head = f"created_at: {created_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}\n---\n".encode()
    return head + b"".join(
        b"%b %b\n" % (name.encode("utf-8", "surrogateescape"), versions._entries[name]) for name in versions
    )


def diff(published: VersionsMap, wanted: VersionsMap) -> list[bytes]:
    """The fewest and shortest lines that turn one map into the other, for every parser there is."""
    before, after = published._entries, wanted._entries
    lines = [
        line
        for name, entry in after.items()
        if (old := before.get(name)) is not entry and old != entry and (line := _line(name, old or b" ", entry))
    ]
    gone = b" " + EMPTY_MD5.encode()
    lines += [
        line for name, entry in before.items() if name not in after and (line := _line(name, entry, gone)) is not None
    ]
    return lines


def names_in(lines: Iterable[bytes]) -> set[str]:
    """The gems that lines of a log are about."""
    return {line.partition(b" ")[0].decode("utf-8", "surrogateescape") for line in lines if line}


def _line(name: str, old: bytes, new: bytes) -> bytes | None:
    """What takes a gem from one entry to another; None when clients need not be told."""
    had, has = dict.fromkeys(_items(old)), dict.fromkeys(_items(new))
    changes = [b"-" + item for item in had if item not in has] + [item for item in has if item not in had]
    md5 = new.rpartition(b" ")[2]
    if not changes:
        if not has or md5 == old.rpartition(b" ")[2]:
            return None
        same = min(has, key=len)  # the MD5 alone changes: one version goes and comes back
        changes = [b"-" + same, same]
    return name.encode("utf-8", "surrogateescape") + b" " + b",".join(changes) + b" " + md5


# --- our own log -----------------------------------------------------------------------------------------------


class PublishedLog:
    """The append-only `/versions` that we serve, at one moment: identity and gzip bytes, digests, the map it means.

    Immutable; `updated` and `appended` make the next one and cost what the new lines cost, not what the whole is
    worth: hashers and compressor are copied as they stand, chunks are shared. Hand a value to a request and it
    stays what it is.
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
        """The identity bytes, in order."""
        self.size = sum(map(len, chunks))
        self.map = versions
        """What clients know once they have read the log. Do not change it."""
        self._md5 = md5
        self._sha256 = sha256
        self._gzip = gzip

    @classmethod
    def from_bytes(cls, body: bytes, *, packed: bool = True) -> "PublishedLog":
        """The log that was persisted as `body`. Blocking: about two seconds for 23 MB, half of it for `packed`."""
        return cls(
            chunks=(body,),
            md5=hashlib.md5(body, usedforsecurity=False),
            sha256=hashlib.sha256(body),
            gzip=_Gzip().grown(body) if packed else None,
            versions=parse_versions(body),
        )

    @classmethod
    def begin(cls, versions: VersionsMap, created_at: datetime) -> "PublishedLog":
        """A new log that says `versions`."""
        return cls.from_bytes(render_versions(versions, created_at))

    @property
    def etag(self) -> str:
        """MD5 of the identity bytes in hex, the only ETag that old bundlers bear."""
        return self._md5.hexdigest()

    @property
    def sha256(self) -> str:
        """SHA-256 of the identity bytes in hex."""
        return self._sha256.hexdigest()

    @property
    def gzip_chunks(self) -> tuple[bytes, ...]:
        """The same as one gzip member, for Ruby reads no more than the first; nothing while it is not `packed`."""
        return self._gzip.chunks if self._gzip else ()

    def packed(self) -> "PublishedLog":
        """The same log with its gzip form. Blocking: about a second for 23 MB."""
        gzip = self._gzip or _Gzip().grown(self.slice())
        return PublishedLog(chunks=self.chunks, md5=self._md5, sha256=self._sha256, gzip=gzip, versions=self.map)

    def digest_headers(self) -> dict[str, str]:
        """Repr-Digest and Digest, in the spelling of each."""
        return digest_headers(self._sha256.digest())

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[memoryview]:
        """The identity bytes [start, stop), without copying."""
        at = 0
        stop = self.size if stop is None else stop
        for chunk in self.chunks:
            if at < stop and at + len(chunk) > start:
                yield memoryview(chunk)[max(0, start - at) : stop - at]
            at += len(chunk)

    def slice(self, start: int = 0, stop: int | None = None) -> bytes:
        """The identity bytes [start, stop)."""
        if len(self.chunks) == 1 and start == 0 and stop is None:
            return self.chunks[0]
        return b"".join(self.pieces(start, stop))

    def updated(self, wanted: VersionsMap) -> tuple["PublishedLog", bytes]:
        """The log that says `wanted`, and the bytes by which it is longer: none when nothing changed."""
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
        """The log with lines that another node wrote."""
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
    """A gzip member that can still grow: what is compressed so far, and the compressor as it stands."""

    def __init__(self, head: tuple[bytes, ...] = (), deflater: "zlib._Compress | None" = None) -> None:
        self._head = head
        self._deflater = deflater or zlib.compressobj(_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        self.chunks = (*head, self._deflater.copy().flush())

    def grown(self, tail: bytes) -> "_Gzip":
        deflater = self._deflater.copy()
        return _Gzip(_joined((*self._head, deflater.compress(tail))), deflater)


def _joined(chunks: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The same bytes in few chunks: the first, the large one, is left alone."""
    return (chunks[0], b"".join(chunks[1:])) if len(chunks) > 64 else chunks


def digest_headers(sha256: bytes) -> dict[str, str]:
    """Both digest headers of an identity body, RFC 9530 and the older RFC 3230, from its raw SHA-256."""
    text = base64.b64encode(sha256).decode()
    return {"Repr-Digest": f"sha-256=:{text}:", "Digest": f"sha-256={text}"}


# --- following an upstream -------------------------------------------------------------------------------------


class UpstreamCopy(msgspec.Struct, frozen=True):
    """What has to be known of the copy of an upstream's `/versions` to keep it up: not the bytes themselves."""

    size: int
    sha256: "_Hash"
    etag: str | None

    @classmethod
    def of(cls, body: bytes, etag: str | None) -> "UpstreamCopy":
        """Blocking for a large body."""
        return cls(len(body), hashlib.sha256(body), etag)

    def request_headers(self) -> dict[str, str]:
        """What to ask for the tail with: one byte of overlap shows whether it fits."""
        headers = {"Range": f"bytes={self.size - 1}-", "Accept-Encoding": "identity"}
        return headers | {"If-None-Match": self.etag} if self.etag else headers


class Unchanged(msgspec.Struct, frozen=True):
    """The copy is what upstream has."""


class Append(msgspec.Struct, frozen=True):
    """Upstream has these bytes more; `copy` describes the copy with them."""

    tail: bytes
    copy: UpstreamCopy


class Replace(msgspec.Struct, frozen=True):
    """The body takes the place of the copy."""

    body: bytes
    copy: UpstreamCopy


class Refetch(msgspec.Struct, frozen=True):
    """The answer proves nothing: ask again for the whole, without Range and without validator."""

    reason: str


class Refused(msgspec.Struct, frozen=True):
    """The answer is not believed: keep the copy and ask again later."""

    reason: str


Verdict: TypeAlias = Unchanged | Append | Replace | Refetch | Refused


def follow(copy: UpstreamCopy | None, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    """What an upstream's answer means for our copy of its `/versions`.

    `copy` is what was asked with; None when the whole was asked for. `body` is decoded. Hashing makes it blocking for a
    large body. The whole is asked for at most once: an answer to that is never Refetch.
    """
    told = {key.lower(): value for key, value in headers.items()}
    if copy is not None:
        if status == 304:
            return Unchanged()
        if status == 206:
            return _append(copy, told, body)
        if status in {400, 412, 416}:
            return Refetch(f"The upstream answered {status} to a range.")
    if status != 200:
        return Refused(f"The upstream answered {status} for its list of versions.")
    doubt = _doubt(copy, told, body)
    if doubt is None:
        return Replace(body, UpstreamCopy.of(body, told.get("etag")))
    return Refused(doubt) if copy is None else Refetch(doubt)


def _append(copy: UpstreamCopy, told: Mapping[str, str], body: bytes) -> Verdict:
    span = re.fullmatch(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)", told.get("content-range", "").strip())
    if span is None or int(span[1]) != copy.size - 1 or int(span[2]) - int(span[1]) + 1 != len(body):
        return Refetch("The upstream answered another range than was asked for.")
    if told.get("content-encoding", "identity") != "identity":
        return Refetch("The upstream compressed a range.")
    # Only complete lines are ever kept, so that the overlapping byte is the end of a line, as the last one has to be.
    if not body.startswith(b"\n") or not body.endswith(b"\n"):
        return Refetch("The upstream's tail does not fit the copy, or ends within a line.")
    tail = body[1:]
    sha256 = copy.sha256.copy()
    sha256.update(tail)
    if _digest(told) != sha256.digest():
        return Refetch("The upstream's tail has no digest, or another one than the copy with it.")
    if not tail:
        return Unchanged()
    return Append(tail, UpstreamCopy(copy.size + len(tail), sha256, told.get("etag")))


def _doubt(copy: UpstreamCopy | None, told: Mapping[str, str], body: bytes) -> str | None:
    """Why a whole body is not believed, None when it is."""
    if not body.endswith(b"\n") or not (body.startswith(b"---\n") or b"\n---\n" in body[:4096]):
        return "The upstream's list of versions is cut off, or is none."
    digest = _digest(told)
    if digest is not None and digest != hashlib.sha256(body).digest():
        return "The upstream's list of versions has another digest than its header says."
    encoded = told.get("content-encoding", "identity") != "identity"
    length = told.get("content-length", "")
    if not encoded and length.isdigit() and int(length) != len(body):
        return "The upstream's list of versions has another length than its header says."
    if digest is None and not length and copy is not None and len(body) < copy.size:
        return "The upstream's list of versions became shorter, and nothing shows that it is whole."
    return None


_SHA256 = re.compile(r"(?:^|,)\s*sha-256\s*=\s*[:\"]?([A-Za-z0-9+/]{43}=)[:\"]?\s*(?:,|$)", re.IGNORECASE)


def _digest(told: Mapping[str, str]) -> bytes | None:
    """The SHA-256 of the whole identity body that the headers promise: `:x:`, `"x"` and bare `x` are all in use."""
    for header in ("repr-digest", "digest"):
        if match := _SHA256.search(told.get(header, "")):
            return base64.b64decode(match[1])
    return None


# --- names and specs -------------------------------------------------------------------------------------------

Which: TypeAlias = Literal["specs", "latest_specs", "prerelease_specs"]


def render_names(versions: VersionsMap) -> bytes:
    """`/names`: every gem that has versions."""
    return b"---\n" + b"".join(name.encode("utf-8", "surrogateescape") + b"\n" for name in _sorted(versions))


def _sorted(versions: VersionsMap) -> Iterator[str]:
    """The names in order, sorted in parts: to sort all at once holds the interpreter for a tenth of a second."""
    parts: dict[str, list[str]] = {}
    for name in versions:
        parts.setdefault(name[:4], []).append(name)
    for part in sorted(parts):
        yield from sorted(parts[part])


def specs(versions: VersionsMap, which: Which) -> bytes:
    """The gzipped `specs.4.8.gz` or one of its siblings. Blocking: some seconds for two million versions.

    By name, oldest version first, as the public index has it. `latest_specs` holds the newest release for each
    platform of a gem.
    """
    deflater = zlib.compressobj(_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    pieces = [deflater.compress(piece) for piece in marshal.dump_specs(_rows(versions, which))]
    return b"".join([*pieces, deflater.flush()])


def _rows(versions: VersionsMap, which: Which) -> Iterator[tuple[str, str, str]]:
    early = which == "prerelease_specs"
    for name in _sorted(versions):
        listed = map(split_number, versions.versions(name))
        # A version that Gem::Version refuses would make Ruby refuse the whole file.
        chosen = [pair for pair in listed if is_prerelease(pair[0]) is early and is_version(pair[0])]
        if len(chosen) > 1:
            chosen.sort(key=lambda pair: (version_key(pair[0]), pair[1] != GENERIC, pair[1]))
        if which == "latest_specs":
            newest = {platform: version for version, platform in chosen}
            chosen = [(version, platform) for version, platform in chosen if newest[platform] == version]
        for version, platform in chosen:
            yield name, version, platform


def map_from_specs(*indexes: bytes) -> VersionsMap:
    """The map that an upstream's gzipped `specs` and `prerelease_specs` describe, without MD5s. Blocking.

    Raises UpstreamProtocolError.
    """
    found: dict[str, dict[str, None]] = {}
    for index in indexes:
        try:
            data = marshal.inflate(index, 16 + zlib.MAX_WBITS, _SPECS_LIMIT, "The index of gems")
            for name, version, platform in marshal.load_specs(data):
                found.setdefault(name, {})[number(version, platform)] = None
        except Invalid as error:
            raise UpstreamProtocolError(f"The upstream's list of gems cannot be read: {error}") from error
    versions = VersionsMap()
    for name, listed in found.items():
        versions.set(name, listed, None)
    return versions


def info_from_gemspecs(gemspecs: Iterable[Gemspec]) -> bytes:
    """An `/info` body for an upstream that has only gemspec.rz: without checksums, for those do not stand in there."""
    lines = (info_line(_file(spec)) + b"\n" for spec in gemspecs)
    return EMPTY + b"".join(lines)


def _file(spec: Gemspec) -> File:
    return File(filename="", version=spec.version, platform=spec.platform, extra={"spec": msgspec.to_builtins(spec)})
