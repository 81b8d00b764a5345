"""What is about every gem at once: `/names` and the specs of the legacy index, rendered and read."""

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Literal, TypeAlias

import msgspec

from mirror.errors import Invalid, UpstreamProtocolError
from mirror.model import File
from mirror.rubygems.log.published_log import GZIP_LEVEL
from mirror.rubygems.log.versions_map import VersionsMap
from mirror.rubygems.marshal import Gemspec
from mirror.rubygems.marshal.reading import inflate, load_specs
from mirror.rubygems.marshal.writing import dump_specs
from mirror.rubygems.names import GENERIC, is_address, is_new_version, number, split_number
from mirror.rubygems.pages import EMPTY, info_line
from mirror.rubygems.versions import is_prerelease, version_key

_SPECS_BYTES = 128 << 20

SpecsKind: TypeAlias = Literal["specs", "latest_specs", "prerelease_specs"]


def render_names(versions: VersionsMap) -> bytes:
    """Return `/names`: every gem that has versions."""
    return b"---\n" + b"".join(name.encode("utf-8", "surrogateescape") + b"\n" for name in _sorted(versions))


def _sorted(versions: VersionsMap) -> Iterator[str]:
    """Yield the names in order, sorted in parts: to sort all at once blocks the interpreter for a tenth of a second."""
    parts: dict[str, list[str]] = {}
    for name in versions:
        parts.setdefault(name[:4], []).append(name)
    for part in sorted(parts):
        yield from sorted(parts[part])


def specs(versions: VersionsMap, kind: SpecsKind) -> bytes:
    """Return the gzipped `specs.4.8.gz` or one of its siblings. Blocking: some seconds for two million versions.

    By name, oldest version first, as the public index has it. `latest_specs` holds the newest release for each
    platform of a gem.
    """
    deflater = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    chunks = [deflater.compress(chunk) for chunk in dump_specs(_rows(versions, kind))]
    return b"".join([*chunks, deflater.flush()])


def _rows(versions: VersionsMap, kind: SpecsKind) -> Iterator[tuple[str, str, str]]:
    prerelease = kind == "prerelease_specs"
    for name in _sorted(versions):
        listed = map(split_number, versions.versions(name))
        # A version that Gem::Version refuses would make Ruby refuse the whole file. A content address would be taken
        # for a platform by clients that read this, and they could install no such gem.
        chosen = [
            pair for pair in listed
            if is_prerelease(pair[0]) is prerelease and is_new_version(pair[0]) and not is_address(pair[1])
        ]  # fmt: skip
        if len(chosen) > 1:
            chosen.sort(key=lambda pair: (version_key(pair[0]), pair[1] != GENERIC, pair[1]))
        if kind == "latest_specs":
            newest = {platform: version for version, platform in chosen}
            chosen = [(version, platform) for version, platform in chosen if newest[platform] == version]
        for version, platform in chosen:
            yield name, version, platform


def listed_digest(versions: VersionsMap, kind: SpecsKind) -> bytes:
    """Return a digest of what a legacy index of that kind lists; see `specs_digest`. Blocking."""
    return _digest(_rows(versions, kind))


def specs_digest(content: bytes, limit: int = _SPECS_BYTES) -> bytes:
    """Return a digest of what a gzipped legacy index lists, whatever the order and the bytes in which it does.

    Blocking. Raises Invalid, also above `limit` bytes when decompressed.
    """
    data = inflate(content, 16 + zlib.MAX_WBITS, limit, "The index of gems")
    return _digest(sorted(load_specs(data), key=itemgetter(0)))


def _digest(rows: Iterable[tuple[str, str, str]]) -> bytes:
    """Return a digest of rows that are ordered by name."""
    digest, encode = hashlib.sha256(), msgspec.msgpack.encode
    for _, same_name in groupby(rows, itemgetter(0)):
        for row in sorted(same_name):
            digest.update(encode(row))
    return digest.digest()


def map_from_specs(*indexes: bytes) -> VersionsMap:
    """Return the map that an upstream's gzipped `specs` and `prerelease_specs` describe, without MD5s. Blocking.

    Raises UpstreamProtocolError.
    """
    found: dict[str, dict[str, None]] = {}
    for index in indexes:
        try:
            data = inflate(index, 16 + zlib.MAX_WBITS, _SPECS_BYTES, "The index of gems")
            for name, version, platform in load_specs(data):
                found.setdefault(name, {})[number(version, platform)] = None
        except Invalid as error:
            raise UpstreamProtocolError(f"The upstream's list of gems cannot be read: {error}") from error
    versions = VersionsMap()
    for name, listed in found.items():
        versions.set(name, listed, None)
    return versions


def info_from_gemspecs(gemspecs: Iterable[Gemspec]) -> bytes:
    """Return an `/info` body for an upstream that has only gemspec.rz, which hold no checksums."""
    lines = (info_line(_file(spec)) + b"\n" for spec in gemspecs)
    return EMPTY + b"".join(lines)


def _file(spec: Gemspec) -> File:
    return File(filename="", version=spec.version, platform=spec.platform, extra={"spec": msgspec.to_builtins(spec)})
