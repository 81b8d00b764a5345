"""What policy asks of Python's versions and files; this module is a `policy.Versions`.

Everything counts as installers count it (PEP 440), but for pre-releases: a rule about `>=2` means 2.1rc1 as well.
The surprise: old projects have versions that PEP 440 does not know. They sort before all others, and only a rule
without a specifier, or with `===`, names them.
"""

import re
from functools import lru_cache

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from mirror.errors import Invalid
from mirror.model import File

ecosystem = "PyPI"

_SDISTS = (".tar.gz", ".zip", ".tar.bz2", ".tgz", ".tar.xz", ".tar.Z", ".tar")
_LONGEST = 256


def pattern(pattern: str) -> str:
    """The pattern as canonical names are spelled: `Acme_*` is `acme-*` (PEP 503)."""
    return re.sub(r"[-_.]+", "-", pattern).lower()


@lru_cache(maxsize=256)
def _specifiers(specifier: str) -> SpecifierSet:
    try:
        return SpecifierSet(specifier)
    except InvalidSpecifier:
        raise Invalid(f"{specifier!r} is no version specifier: write it as in '>=2.0,<3' or '==2.32.*'.") from None


def check(specifier: str) -> None:
    """Raises Invalid unless it is a PEP 440 specifier."""
    _specifiers(specifier)


def matches(specifier: str, version: str) -> bool:
    """Whether the version is one that the specifier names. Raises Invalid for a specifier that is none."""
    specifiers = _specifiers(specifier)
    try:
        return len(version) <= _LONGEST and specifiers.contains(version, prereleases=True)
    except InvalidVersion:
        return False


def key(version: str) -> tuple[object, ...]:
    """Sorts as PEP 440 says."""
    try:
        return (1, Version(version)) if len(version) <= _LONGEST else (0, version)
    except InvalidVersion:
        return 0, version


def kind(file: File) -> str:
    """`wheel`, `sdist`, `egg`, or `other` (installers for Windows, RPMs and what else there once was)."""
    name = file.filename
    if name.endswith(".whl"):
        return "wheel"
    return "sdist" if name.endswith(_SDISTS) else "egg" if name.endswith(".egg") else "other"


def platforms(file: File) -> tuple[str, ...]:
    """The platform tags of a wheel: the last part of its name, `.` between them. None for `any` and for no wheel."""
    # Not packaging's parse_wheel_filename: it makes every combination of tags, and a page has thousands of wheels.
    if not file.filename.endswith(".whl"):
        return ()
    tags = file.filename.removesuffix(".whl").rpartition("-")[2].split(".")
    return () if "any" in tags else tuple(tags)
