"""Inside a .gem: its specification, whether it is complete, and the gemspec.rz made from it.

A gem is a plain tar with metadata.gz, data.tar.gz and checksums.yaml.gz; nothing is extracted. The surprise:
`scan` yields the byte ranges that it needs instead of reading, so that it serves a file on disk and a Body alike.
"""

import hashlib
import posixpath
import re
import zlib
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

import msgspec

from mirror.errors import Invalid
from mirror.model import AcceptedUpload, Body, File
from mirror.rubygems import pages
from mirror.rubygems.marshal import SPEC_BYTES, GemRequirement, Gemspec
from mirror.rubygems.marshal.reading import inflate
from mirror.rubygems.marshal.writing import gemspec_rz
from mirror.rubygems.names import full_name, normal_platform
from mirror.rubygems.specification import GZIP, read_spec, read_yaml

_MEMBERS = 64
_CHECKSUMS_LIMIT = 1 << 20
_CONTENTS = 100_000
"""The most files in one gem."""
_ALWAYS_ALLOWED = 64 << 20
_MOST_EXPANSION = 100
_CONTENTS_LIMIT = 4 << 30
_BLOCK = 512
_CHUNK = 256 << 10


def inspect(filename: str, path: Path) -> File:
    """Return what the gem at `path` describes itself as; `extra["spec"]` holds its Gemspec as plain values.

    Blocking, in bounded memory and time. Raises Invalid unless it is a whole gem whose checksums hold, whose
    contents stay inside its folder, and whose specification agrees with the file name.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        members = _run(scan(size), file)
        _verify(members, file)
        spec = read_spec(_slice(file, members["metadata.gz"]))
        contents = members.get("data.tar.gz")
        if contents is None:
            raise Invalid("The gem has no data.tar.gz.")
        _check_contents(file, contents)
    return msgspec.structs.replace(file_of(spec, filename), digests={"sha256": sha256}, size=size)


def filename_of(path: Path) -> str:
    """Return the file name that the gem at `path` should have by its specification. Raises Invalid."""
    with path.open("rb") as file:
        members = _run(scan(path.stat().st_size, until="metadata.gz"), file)
        spec = read_spec(_slice(file, members["metadata.gz"]))
    return f"{full_name(spec.name, spec.version, normal_platform(spec.platform))}.gem"


def file_of(spec: Gemspec, filename: str) -> File:
    """Return the File that a specification describes, without digests. Raises Invalid unless the file name agrees."""
    platforms = (spec.platform, normal_platform(spec.platform))
    for platform in platforms:
        if filename == f"{full_name(spec.name, spec.version, platform)}.gem":
            break
    else:
        inside = f"{full_name(spec.name, spec.version, platforms[1])}.gem"
        raise Invalid(f"The file is named {filename[:100]!r}, but by its specification it is {inside!r}.")
    wanted = spec.required_ruby_version
    return File(
        filename=filename,
        version=spec.version,
        platform=platform,
        requires=None if wanted == GemRequirement() else str(wanted),
        extra={"spec": msgspec.to_builtins(spec)},
    )


async def make_sidecar(file: File, body: Body) -> bytes:
    """Return the gemspec.rz of a gem, reading only its tar headers and its metadata. Raises Invalid."""
    walk = scan(body.size, until="metadata.gz")
    try:
        start, stop = next(walk)
        while True:
            start, stop = walk.send(await _read(body, start, stop))
    except StopIteration as done:
        member: ArchiveMember = done.value["metadata.gz"]
    spec = read_spec(await _read(body, member.start, member.start + member.size))
    file_of(spec, file.filename)
    return gemspec_rz(spec)


# --- the tar ---------------------------------------------------------------------------------------------------


class ArchiveMember(NamedTuple):
    """One entry of a tar: where its bytes start and how many they are."""

    name: str
    kind: bytes
    link: str
    start: int
    size: int

    @property
    def stop(self) -> int:
        """The offset of the next header."""
        return self.start + -(-self.size // _BLOCK) * _BLOCK


Scan: TypeAlias = Generator[tuple[int, int], bytes, dict[str, ArchiveMember]]
"""Yields the (start, stop) that it wants to see, is sent those bytes, and returns the members by name."""


def scan(size: int, until: str | None = None) -> Scan:
    """Walk over the headers of a gem of `size` bytes, as far as the member `until`. Raises Invalid."""
    members: dict[str, ArchiveMember] = {}
    at = 0
    ended = False
    while at + _BLOCK <= size:
        member = _header((yield at, at + _BLOCK), at + _BLOCK)
        if member is None:
            ended = True
            break
        if member.kind not in {b"0", b"\0"} or "/" in member.name or member.name in {"", ".", ".."}:
            raise Invalid("The gem holds something besides plain files.")
        if member.name in members or len(members) == _MEMBERS:
            raise Invalid("The gem holds the same file twice, or too many files.")
        if member.start + member.size > size:
            raise Invalid("The gem is cut off.")
        members[member.name] = member
        if member.name == until:
            return members
        at = member.stop
    if "metadata.gz" not in members:
        raise Invalid("The file is not a gem: it has no metadata.gz.")
    if not ended:
        raise Invalid("The gem is cut off.")
    return members


def _header(block: bytes, start: int) -> ArchiveMember | None:
    """Return the member that a tar header describes, None for the empty block at the end. Raises Invalid."""
    if not any(block):
        return None
    if sum(block) - sum(block[148:156]) + 8 * 0x20 != _octal(block[148:156]):
        raise Invalid("The file is not a gem: its tar headers are damaged.")
    name, link = _field(block[:100]), _field(block[157:257])
    if block[257:262] == b"ustar" and (prefix := _field(block[345:500])):
        name = f"{prefix}/{name}"
    return ArchiveMember(name, block[156:157], link, start, _octal(block[124:136]))


def _field(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _octal(raw: bytes) -> int:
    digits = raw.strip(b" \0") or b"0"
    if not re.fullmatch(rb"[0-7]+", digits):
        raise Invalid("The file is not a gem: its tar headers are damaged.")
    return int(digits, 8)


def _run(walk: Scan, file: BinaryIO) -> dict[str, ArchiveMember]:
    try:
        start, stop = next(walk)
        while True:
            file.seek(start)
            start, stop = walk.send(file.read(stop - start))
    except StopIteration as done:
        members: dict[str, ArchiveMember] = done.value
        return members


async def _read(body: Body, start: int, stop: int) -> bytes:
    if stop - start > SPEC_BYTES:
        raise Invalid("The gem's metadata is too large.")
    return b"".join([chunk async for chunk in body.read(start, stop)])


def _slice(file: BinaryIO, member: ArchiveMember) -> bytes:
    if member.size > SPEC_BYTES:
        raise Invalid(f"The gem's {member.name} is too large.")
    file.seek(member.start)
    return file.read(member.size)


def _chunks(file: BinaryIO, member: ArchiveMember) -> Iterator[bytes]:
    file.seek(member.start)
    left = member.size
    while left and (chunk := file.read(min(_CHUNK, left))):
        left -= len(chunk)
        yield chunk


# --- what has to hold ------------------------------------------------------------------------------------------


def _verify(members: Mapping[str, ArchiveMember], file: BinaryIO) -> None:
    """Check every checksum that the gem lists; gems older than RubyGems 2 list none. Raises Invalid."""
    listed = members.get("checksums.yaml.gz")
    if listed is None:
        return
    sums = read_yaml(inflate(_slice(file, listed), GZIP, _CHECKSUMS_LIMIT, "checksums.yaml.gz"))[0]
    for algorithm, entries in (sums if isinstance(sums, dict) else {}).items():
        kind = algorithm.lower()
        if kind not in {"sha1", "sha256", "sha512", "md5"} or not isinstance(entries, dict):
            raise Invalid(f"The gem's checksums.yaml.gz uses {algorithm[:40]!r}, which is not known here.")
        for name, expected in entries.items():
            member = members.get(name)
            if member is None:
                raise Invalid(f"The gem lists a checksum for {name[:60]!r}, but has no such file.")
            digest = hashlib.new(kind, usedforsecurity=False)
            for chunk in _chunks(file, member):
                digest.update(chunk)
            if digest.hexdigest() != expected:
                raise Invalid(f"The gem's {name} does not have the {algorithm} that the gem itself lists.")


def _check_contents(file: BinaryIO, member: ArchiveMember) -> None:
    """Check that data.tar.gz inflates to a sane size and all its paths stay inside. Raises Invalid."""
    limit = min(max(_ALWAYS_ALLOWED, member.size * _MOST_EXPANSION), _CONTENTS_LIMIT)
    pending = bytearray()
    skip = entries = 0
    ended = False
    for data in _inflated(_chunks(file, member), limit):
        if ended:
            continue
        if skip >= len(data):
            skip -= len(data)
            continue
        pending += data[skip:]
        skip = at = 0
        while not ended and at + _BLOCK <= len(pending):
            inner = _header(bytes(pending[at : at + _BLOCK]), 0)
            at += _BLOCK
            if inner is None:
                ended = True
                continue
            entries += 1
            if entries > _CONTENTS:
                raise Invalid(f"The gem holds more than {_CONTENTS} files.")
            _check_path(inner)
            at += inner.stop
        skip = max(0, at - len(pending))
        del pending[:at]
    if skip or (pending and not ended):
        raise Invalid("The gem's data.tar.gz is cut off.")


def _check_path(inner: ArchiveMember) -> None:
    if inner.kind not in {b"0", b"\0", b"5", b"2"}:
        raise Invalid("The gem's data.tar.gz holds something besides files, folders and symbolic links.")
    parts = inner.name.split("/")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(inner.name), inner.link))
    if inner.name.startswith("/") or ".." in parts or target.startswith("/") or target.split("/")[0] == "..":
        raise Invalid(f"The gem's data.tar.gz holds a path that leaves its folder: {inner.name[:80]!r}.")


def _inflated(chunks: Iterator[bytes], limit: int) -> Iterator[bytes]:
    inflater = zlib.decompressobj(GZIP)
    total = 0
    try:
        for chunk in chunks:
            while chunk and not inflater.eof:
                data = inflater.decompress(chunk, _CHUNK)
                chunk = inflater.unconsumed_tail  # what did not fit into one piece
                total += len(data)
                if total > limit:
                    raise Invalid(f"The gem's data.tar.gz inflates to more than {limit >> 20} MB.")
                yield data
    except zlib.error as error:
        raise Invalid("The gem's data.tar.gz is damaged.") from error
    if not inflater.eof:
        raise Invalid("The gem's data.tar.gz is cut off.")


def accept(inspected: File, attested: bool) -> AcceptedUpload:
    """Return what to store of an inspected file."""
    spec = pages.spec_of(inspected)
    assert spec is not None, "a gem that was inspected has a specification"
    return AcceptedUpload(project=spec.name, file=inspected, sidecar=gemspec_rz(spec))
