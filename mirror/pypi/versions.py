"""Python's versions and files, as policy needs them; this module is a `policy.Versions`. Pure.

Specifiers mean what they mean to installers (PEP 440), except that pre-releases satisfy them too: a rule about `>=2`
includes 2.1rc1.

The surprise: old projects have versions that are invalid by PEP 440. They sort before all others, and only a rule
without a specifier, or with `===`, includes them.
"""

import re
from functools import lru_cache

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from mirror.errors import Invalid
from mirror.model import File
from mirror.pypi.names import SDIST_SUFFIXES, VERSION_LIMIT, wheel_tags

ecosystem = "PyPI"
locks_need_pages = False
yanked_files_go = False


def pattern(pattern: str) -> str:
    """Return the pattern in the spelling of canonical names: `Acme_*` is `acme-*` (PEP 503)."""
    return re.sub(r"[-_.]+", "-", pattern).lower()


@lru_cache(maxsize=256)
def _specifiers(specifier: str) -> SpecifierSet:
    try:
        return SpecifierSet(specifier)
    except InvalidSpecifier:
        raise Invalid(f"{specifier!r} is not a version specifier: write it as in '>=2.0,<3' or '==2.32.*'.") from None


def check(specifier: str) -> None:
    """Check a PEP 440 specifier. Raises Invalid."""
    _specifiers(specifier)


def matches(specifier: str, version: str) -> bool:
    """Return whether the version satisfies the specifier. Raises Invalid for a wrong specifier."""
    specifiers = _specifiers(specifier)
    try:
        return len(version) <= VERSION_LIMIT and specifiers.contains(version, prereleases=True)
    except InvalidVersion:
        return False


def key(version: str) -> tuple[object, ...]:
    """Return a key that sorts by PEP 440."""
    try:
        return (1, Version(version)) if len(version) <= VERSION_LIMIT else (0, version)
    except InvalidVersion:
        return 0, version


def kind(file: File) -> str:
    """Return `wheel`, `sdist`, `egg`, or `other` (installers for Windows, RPMs and more of the past)."""
    name = file.filename.rstrip(" ")
    if name.endswith(".whl"):
        return "wheel"
    return "sdist" if name.lower().endswith(SDIST_SUFFIXES) else "egg" if name.endswith(".egg") else "other"


def platforms(file: File) -> tuple[str, ...]:
    """Return the platform tags of a wheel; none for `any` and for other files."""
    # packaging's parse_wheel_filename builds every combination of tags, and a page has thousands of wheels.
    if not file.filename.endswith(".whl"):
        return ()
    found = wheel_tags(file.filename)
    tags = (found[2] if found else file.filename.removesuffix(".whl").rpartition("-")[2]).split(".")
    return () if "any" in tags else tuple(tags)
