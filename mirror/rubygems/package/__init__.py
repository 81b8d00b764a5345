"""Inside a .gem: its specification, whether it is complete, and the gemspec.rz made from it.

A gem is a plain tar with metadata.gz, data.tar.gz and checksums.yaml.gz, and perhaps a signature of each; nothing is
extracted. The tar is walked in `archive`, its contents in `contents`, signatures in `signatures`; how a gem is named
stands in `identity`.
"""

import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import msgspec

from mirror.errors import Invalid
from mirror.model import AcceptedUpload, Body, File
from mirror.rubygems import pages
from mirror.rubygems.identity import fits, own_file
from mirror.rubygems.marshal import SPEC_BYTES, Gemspec
from mirror.rubygems.marshal.reading import inflate
from mirror.rubygems.marshal.writing import gemspec_rz
from mirror.rubygems.names import is_new_platform
from mirror.rubygems.package import signatures
from mirror.rubygems.package.archive import ArchiveMember, Scan, scan
from mirror.rubygems.package.contents import check_contents
from mirror.rubygems.specification import GZIP, read_spec, read_specification, read_yaml

_CHECKSUMS_BYTES = 1 << 20
_SIGNATURE_BYTES = 16 << 10
_CHUNK_BYTES = 256 << 10

_specification_of = lru_cache(maxsize=1)(read_specification)  # a gem's is read for its file name, and then for the rest


def inspect(filename: str, path: Path) -> File:
    """Return what the gem at `path` describes itself as; `extra["spec"]` holds its Gemspec as plain values.

    Blocking, in bounded memory and time. Raises Invalid unless it is a whole gem whose checksums and signatures hold,
    whose contents stay inside its folder, and whose specification agrees with the file name.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        members = _run(scan(size), file)
        _verify(members, file)
        read = _specification_of(_slice(file, members["metadata.gz"]))
        _verify_signatures(members, file, read.certificates)
        contents = members.get("data.tar.gz")
        if contents is None:
            raise Invalid("The gem has no data.tar.gz.")
        check_contents(_chunks(file, contents), contents.size)
    described = msgspec.structs.replace(_named(read.spec, sha256), size=size)
    if filename != described.filename:
        raise _misnamed(filename, described)
    return described


def filename_of(filename: str, path: Path) -> str:
    """Return the file name that the gem at `path` has here by its specification, whatever it was called before.

    Raises Invalid also when `filename` is that of another gem; it may be empty.
    """
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        members = _run(scan(path.stat().st_size, until="metadata.gz"), file)
        spec = _specification_of(_slice(file, members["metadata.gz"])).spec
    described = _named(spec, sha256)
    if filename and not fits(spec, filename, sha256):
        raise _misnamed(filename, described)
    return described.filename


def _named(spec: Gemspec, sha256: str) -> File:
    """Return the File of a new gem. Raises Invalid for a platform that no new gem may have."""
    described = own_file(spec, sha256)
    if not is_new_platform(described.platform or ""):
        raise Invalid(f"The gem's platform {spec.platform[:60]!r} is none: it begins with the name of a processor.")
    return described


def _misnamed(filename: str, described: File) -> Invalid:
    return Invalid(f"The file is named {filename[:100]!r}, but by its specification it is {described.filename!r}.")


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
    if not fits(spec, file.filename, body.digest):
        raise _misnamed(file.filename, own_file(spec, body.digest))
    return gemspec_rz(spec)


# --- reading --------------------------------------------------------------------------------------------------


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
    while left and (chunk := file.read(min(_CHUNK_BYTES, left))):
        left -= len(chunk)
        yield chunk


# --- what has to hold ------------------------------------------------------------------------------------------


def _verify(members: Mapping[str, ArchiveMember], file: BinaryIO) -> None:
    """Check every checksum that the gem lists; gems older than RubyGems 2 list none. Raises Invalid."""
    listed = members.get("checksums.yaml.gz")
    if listed is None:
        return
    sums = read_yaml(inflate(_slice(file, listed), GZIP, _CHECKSUMS_BYTES, "checksums.yaml.gz"))[0]
    if not isinstance(sums, dict):
        raise Invalid("The gem's checksums.yaml.gz holds no checksums.")
    for algorithm, entries in sums.items():
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


def _verify_signatures(members: Mapping[str, ArchiveMember], file: BinaryIO, chain: tuple[str, ...]) -> None:
    """Check every signature that the gem holds. Raises Invalid."""
    found, signed = {}, {}
    for name, member in members.items():
        if not name.endswith(signatures.SUFFIX):
            continue
        if member.size > _SIGNATURE_BYTES:
            raise Invalid(f"The gem's {name[:60]} is too large.")
        base = name.removesuffix(signatures.SUFFIX)
        found[base] = _slice(file, member)
        if base in members:
            digests = signatures.new_digests()
            for chunk in _chunks(file, members[base]):
                for digest in digests:
                    digest.update(chunk)
            signed[base] = signatures.digests(digests)
    signatures.check(signed, found, chain)


def accept(inspected: File, attested: bool) -> AcceptedUpload:
    """Return what to store of an inspected file."""
    spec = pages.spec_of(inspected)
    assert spec is not None, "a gem that was inspected has a specification"
    return AcceptedUpload(project=spec.name, file=inspected, sidecar=gemspec_rz(spec))
