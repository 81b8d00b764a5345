"""What makes a gem of our own the one that it is: its file name, and which others it excludes. Pure.

One rule for the name, whichever way a gem comes: its name, its version, and its platform as Gem::Platform writes it; or
its content address, if it was built as content-addressed (`gem build --ruby-abi`), which its specification shows: it is
for a platform, for one Ruby ABI (`~> 3.4.0`), and for RubyGems 4.1 at least. The surprise: the last of the three is
what counts, since there have always been gems with the first two, which older clients install.

Beside it, `with_checksum` lists a gem of an upstream with the checksum of what is held.
"""

import msgspec

from mirror.model import File
from mirror.rubygems.marshal import GemRequirement, Gemspec
from mirror.rubygems.names import GENERIC, FullName, abi_of, address_of, is_address, normal_platform, ruby_abi
from mirror.rubygems.pages import spec_of
from mirror.rubygems.versions import version_key

ADDRESS_LENGTH = 8
"""The digits of a content address, where they tell it apart."""
_FIRST_RUBYGEMS = "4.1.0.a"


def is_content_addressed(spec: Gemspec) -> bool:
    """Return whether a gem was built to be named after its content."""
    floors = (version for operator, version in spec.required_rubygems_version.clauses if operator in (">=", ">", "~>"))
    return (
        normal_platform(spec.platform) != GENERIC
        and ruby_abi(str(spec.required_ruby_version)) is not None
        and any(version_key(version) >= version_key(_FIRST_RUBYGEMS) for version in floors)
    )


def content_address(sha256: str) -> str:
    """Return the shortest beginning of a digest that is an address and cannot be read as a version, as 20240101 can."""
    letter = next((at for at, digit in enumerate(sha256) if digit.isalpha()), 0)
    return sha256[: max(ADDRESS_LENGTH, letter + 1)]


def own_file(spec: Gemspec, sha256: str) -> File:
    """Return the File that the specification of a gem of our own describes, without its size."""
    platform = normal_platform(spec.platform)
    address = content_address(sha256) if is_content_addressed(spec) else None
    wanted = spec.required_ruby_version
    return File(
        filename=FullName(spec.name, spec.version, address or platform).filename,
        version=spec.version,
        platform=platform,
        digests={"sha256": sha256},
        requires=None if wanted == GemRequirement() else str(wanted),
        extra={"spec": msgspec.to_builtins(spec), **({"address": address} if address else {})},
    )


def renamed(file: File) -> File:
    """Return a file of our own with the name and the platform that it has by the rule of today."""
    spec = spec_of(file)
    if spec is None or file.sha256 is None:
        return file
    named = own_file(spec, file.sha256)
    if (named.filename, named.platform) == (file.filename, file.platform):
        return file
    address = address_of(named)
    extra = {**file.extra, "address": address} if address else file.extra
    return msgspec.structs.replace(file, filename=named.filename, platform=named.platform, extra=extra)


def fits(spec: Gemspec, filename: str, sha256: str) -> bool:
    """Return whether an index, or the disk of an author, may have a gem under a file name."""
    platforms = (spec.platform, normal_platform(spec.platform))
    if filename in {FullName(spec.name, spec.version, each).filename for each in platforms}:
        return True
    address = filename.removeprefix(f"{spec.name}-{spec.version}-").removesuffix(".gem")
    named = FullName(spec.name, spec.version, address).filename
    return filename == named and is_address(address) and sha256.startswith(address)


def exclude(one: File, other: File) -> bool:
    """Return whether two gems cannot both be published: there is one for each version, platform and Ruby ABI."""
    if address_of(one) is None or address_of(other) is None:
        return False  # the file name says it all
    return (one.version, one.platform, abi_of(one)) == (other.version, other.platform, abi_of(other))


def with_checksum(file: File, sha256: str) -> File:
    """Return a gem whose line on `/info` has no checksum with this one."""
    line = bytes(file.extra.get("line", b"")).rstrip(b"\r")
    needs, _, facts = line.partition(b"|")
    if any(fact.startswith(b"checksum:") for fact in facts.split(b",")):
        return file  # one that no client can read: it stays as it is
    needs = needs if b" " in needs else needs + b" "
    line = needs + b"|" + b",".join(filter(None, (b"checksum:" + sha256.encode(), facts)))
    extra = {**file.extra, "line": line}
    return msgspec.structs.replace(file, digests={**file.digests, "sha256": sha256}, extra=extra)
