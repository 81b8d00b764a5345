"""How gems are named: names, versions, platforms, content addresses, full names and file names.

Pure; it knows nothing of what exists. The surprise: a full name such as `a-1-2.0` can be read in more than one way, so
that the caller, who knows which names exist, has to choose among the `readings`.

RubyGems 4.1 has gems that are built for one Ruby ABI. Where others have their platform, these have a content address,
the beginning of their SHA-256: `nokogiri-1.18.9-78be552b.gem`. An index has the platform and the Ruby ABI beside it. As
a `File`, such a gem has its platform where others have theirs, and its address in `extra["address"]`.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mirror.errors import Invalid
from mirror.model import File

GENERIC = "ruby"
"""The platform of a gem that runs everywhere; file names leave it out."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII)
_VERSION = re.compile(r"[0-9]+(\.[0-9A-Za-z]+)*", re.ASCII)
_PLATFORM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*", re.ASCII)
_ADDRESS = re.compile(r"[0-9a-f]{8,64}", re.ASCII)
_ABI = re.compile(r"~> ?([0-9]+\.[0-9]+)\.0", re.ASCII)
_LONGEST_PART = 128
_LONGEST_FILENAME = 255


class FullName(NamedTuple):
    """The three parts of a full name."""

    name: str
    version: str
    platform: str
    """Or a content address."""

    def __str__(self) -> str:
        return full_name(*self)

    @property
    def filename(self) -> str:
        return f"{self}.gem"


def canonical(name: str) -> str:
    """Return the name itself, since gem names are case-sensitive. Raises Invalid when no gem can have that name."""
    if not _NAME.fullmatch(name) or name in {".", ".."}:
        shown = name if len(name) <= 60 else name[:60] + "…"
        raise Invalid(f"{shown!r} cannot be the name of a gem: it takes letters, digits, '.', '_' and '-'.")
    return name


def is_new_version(text: str) -> bool:
    """Return whether RubyGems accepts `text` as the version of a new gem."""
    return len(text) <= _LONGEST_PART and _VERSION.fullmatch(text) is not None


def is_new_platform(platform: str) -> bool:
    """Return whether a new gem may have the platform.

    No processor's name begins with a digit. With one that does, `foo` 1 for `2.0-java` would take the file name of
    `foo-1` 2.0 for `java`.
    """
    return len(platform) <= _LONGEST_PART and _PLATFORM.fullmatch(platform) is not None and not platform[0].isdigit()


def is_listed(version: str, platform: str) -> bool:
    """Return whether an index may list the pair, which becomes part of a file name."""
    return is_new_version(version) and len(platform) <= _LONGEST_PART and _PLATFORM.fullmatch(platform) is not None


def full_name(name: str, version: str, platform: str | None = GENERIC) -> str:
    """Return what files and quick index entries are named after: `rack-3.0`, `ffi-1.17.2-java`."""
    return f"{name}-{number(version, platform)}"


def number(version: str, platform: str | None = GENERIC) -> str:
    """Return how an index writes a version with its platform: `3.0`, `1.17.2-java`."""
    return version if platform in {None, "", GENERIC} else f"{version}-{platform}"


def split_number(text: str) -> tuple[str, str]:
    """Return the version and platform of `3.0` or `1.17.2-java`; a version never holds a dash."""
    version, _, platform = text.partition("-")
    return version, platform or GENERIC


def is_address(text: str) -> bool:
    """Return whether a text can be a content address: no platform consists of so many hexadecimal digits."""
    return _ADDRESS.fullmatch(text) is not None


def address_of(file: File) -> str | None:
    """Return the content address that a file is named after; None for a file that is named after its platform."""
    return file.extra.get("address")


def listed_as(file: File) -> str:
    """Return how an index writes the version of a file: `3.0`, `1.17.2-java`, `1.18.9-78be552b`."""
    return number(file.version, address_of(file) or file.platform)


def abi_of(file: File) -> str | None:
    """Return the one Ruby ABI that a content-addressed gem is for, such as `3.4`; None for any other gem."""
    return None if address_of(file) is None else ruby_abi(file.requires or "")


def ruby_abi(requirement: str) -> str | None:
    """Return the Ruby ABI that a requirement on Ruby allows alone: 3.4 for `~> 3.4.0`; None for any other."""
    match = _ABI.fullmatch(requirement)
    return match and match.group(1)


def readings(full: str) -> Iterator[FullName]:
    """Yield every way to read a full name, the likeliest first: the leftmost version with a dot, then the others."""
    if len(full) > _LONGEST_FILENAME:
        return
    without_dot = []
    for dash in (at for at, letter in enumerate(full) if letter == "-" and at > 0):
        version, platform = split_number(full[dash + 1 :])
        if not is_listed(version, platform) or full.endswith("-"):
            continue
        reading = FullName(full[:dash], version, platform)
        if not _NAME.fullmatch(reading.name) or reading.name in {".", ".."}:
            continue
        if "." in version:
            yield reading
        else:
            without_dot.append(reading)
    yield from without_dot


def split_full_name(full: str, known: Callable[[str], bool] | None = None) -> FullName:
    """Return the likeliest reading whose name is `known`, else the likeliest. Raises Invalid if there is none."""
    found = list(readings(full))
    if not found:
        raise Invalid(f"{full[:80]!r} is not the full name of a gem: NAME-VERSION or NAME-VERSION-PLATFORM.")
    return next((one for one in found if known is not None and known(one.name)), found[0])


def parse_gem_filename(filename: str, known: Callable[[str], bool] | None = None) -> FullName:
    """Return the likeliest reading of a file name such as `rack-3.0.gem`. Raises Invalid."""
    if len(filename) > _LONGEST_FILENAME or not filename.endswith(".gem"):
        raise Invalid(f"{filename[:80]!r} is not the file name of a gem: it ends in .gem and has at most 255 letters.")
    return split_full_name(filename.removesuffix(".gem"), known)


def platform_parts(platform: str) -> tuple[str | None, str, str | None] | None:
    """Return the CPU, operating system and version that Gem::Platform reads; None for the generic platform.

    As RubyGems has done it since 3.7. On Linux the version is the C library (`x86_64-linux-gnu`); before 3.4, `gnu` was
    dropped, so that a gem for glibc was taken to be one for every Linux.
    """
    if platform in {"", GENERIC}:
        return None
    first, dash, system = platform.rstrip("-").partition("-")
    cpu: str | None = "x86" if re.search(r"i\d86", first, re.ASCII) else first
    if not dash:
        cpu, system = None, first
    for pattern, name in _SYSTEMS:
        if match := pattern.search(system):
            version = match.group("version") if "version" in match.groupdict() else None
            found = name or match.group("system")
            if cpu is None and found.startswith("mswin") and found.endswith("32"):
                cpu = "x86"
            return cpu, found, version
    return cpu, "unknown", None


_SYSTEMS = [
    (re.compile(pattern, re.ASCII), name)
    for pattern, name in (
        (r"aix-?(?P<version>\d+)?", "aix"),
        (r"cygwin", "cygwin"),
        (r"darwin-?(?P<version>\d+)?", "darwin"),
        (r"^macruby-?(?P<version>\d+(?:\.\d+)*)?", "macruby"),
        (r"freebsd-?(?P<version>\d+)?", "freebsd"),
        (r"^jruby$", "java"),
        (r"^java-?(?P<version>\d+(?:\.\d+)*)?", "java"),
        (r"^dalvik-?(?P<version>\d+)?$", "dalvik"),
        (r"^dotnet-?(?P<version>\d+(?:\.\d+)*)?", "dotnet"),
        (r"linux-?(?P<version>\w+)?", "linux"),
        (r"mingw32", "mingw32"),
        (r"mingw-?(?P<version>\w+)?", "mingw"),
        (r"(?P<system>mswin\d+)(?:[_-](?P<version>\d+))?", ""),
        (r"netbsdelf", "netbsdelf"),
        (r"openbsd-?(?P<version>\d+\.\d+)?", "openbsd"),
        (r"solaris-?(?P<version>\d+\.\d+)?", "solaris"),
        (r"wasi", "wasi"),
        (r"^(?P<system>\w+_platform)-?(?P<version>\d+)?", ""),
    )
]
"""What to look for in this order, and the name; where that is empty, it is what was found."""


def normal_platform(platform: str) -> str:
    """Return the platform as Gem::Platform writes it, and `gem build` names files: `i686-linux` → `x86-linux`."""
    parts = platform_parts(platform)
    if parts is None:
        return GENERIC
    return ("" if parts[0] is None else "-").join(part for part in parts if part is not None)
