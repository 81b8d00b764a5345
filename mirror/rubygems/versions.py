"""The order of gem versions, and what requirements allow, as Gem::Version and Gem::Requirement define them. Pure.

Requirements are written as in a Gemfile (`~> 3.1`, `>= 2, < 4`; a bare version means `=`), several joined by a comma.
This module is the `policy.Versions` of Ruby, and the one that reads versions and requirements for all others.

The surprise: as in Ruby, `< 2` holds for 2.0.rc1, which comes before 2. Clients leave pre-releases out unless a
requirement names one: `allows` does so, too, and `matches` does not.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from mirror.errors import Invalid
from mirror.model import File
from mirror.rubygems.names import GENERIC

ecosystem = "RubyGems"
locks_need_pages = True
yanked_files_go = True

OPERATORS = ("=", "!=", ">=", "<=", "~>", ">", "<")

_LONGEST_CHARACTERS = 128
"""Characters of a version."""
_VERSION = re.compile(r"[0-9]+(\.[0-9A-Za-z]+)*(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?", re.ASCII)
_CLAUSE = re.compile(rf"({'|'.join(OPERATORS)})?\s{{0,64}}+([0-9A-Za-z.-]{{1,{_LONGEST_CHARACTERS}}})", re.ASCII)
_SEGMENT = re.compile(r"[0-9]+|[A-Za-z]+", re.ASCII)
_ZEROS = re.compile(r"(\A|[1-9A-Za-z]0*+\.)[0.]++(?=[A-Za-z])", re.ASCII)
"""Zeros that a letter follows, after what precedes them."""
_LETTER = re.compile(r"[A-Za-z-]", re.ASCII)


class Clause(NamedTuple):
    """One part of a requirement: `>= 2`."""

    operator: str
    version: str


def is_version(text: str) -> bool:
    """Return whether Gem::Version reads the text."""
    return len(text) <= _LONGEST_CHARACTERS and _VERSION.fullmatch(text) is not None


def is_prerelease(version: str) -> bool:
    """Return whether Gem::Version calls it a prerelease: it holds a letter, or a dash, which is read as `.pre.`."""
    return _LETTER.search(version) is not None


@lru_cache(maxsize=16_384)
def version_key(version: str) -> bytes:
    """Return a sort key in the order of Gem::Version; equal versions (`1`, `1.0`) have equal keys. Never raises.

    Gem::Version reads a version as if zeros followed it for ever, and a letter is less than any number. A run
    of zeros therefore counts by what ends it: before a letter, the longer run is greater; before a number, the
    shorter one; and the run that never ends stands between the two. The first zeros that a letter follows count for
    nothing: until RubyGems 3.5 those before the first letter, since then the first in the whole version.
    """
    key = bytearray()
    zeros = 0
    for segment in _segments(_ZEROS.sub(r"\1", version[:_LONGEST_CHARACTERS].replace("-", ".pre."), count=1)):
        if not segment.isdigit():
            key += b"\x01%c%b\0" % (zeros, segment.encode())
        elif value := segment.lstrip("0"):
            key += b"\x03%c%c%b" % (255 - zeros, len(value), value.encode())
        else:
            zeros += 1
            continue
        zeros = 0
    return bytes(key) + b"\x02"


def _segments(version: str) -> list[str]:
    """Return the numbers and words of a version: `1.0-a2` → 1, 0, pre, a, 2."""
    return _SEGMENT.findall(version.replace("-", ".pre."))


@lru_cache(maxsize=1024)
def parse_requirement(text: str) -> tuple[Clause, ...]:
    """Return the clauses of a requirement. Raises Invalid."""
    found = [_CLAUSE.fullmatch(one.strip()) for one in text.split(",")]
    if not all(one and is_version(one[2]) for one in found):
        raise Invalid(f"{text!r} is no requirement of a gem: write it as in '~> 3.1' or '>= 2, < 4'.")
    return tuple(Clause(one[1] or "=", one[2]) for one in found if one)


def check(specifier: str) -> None:
    """Check a requirement, or several with commas between. Raises Invalid."""
    parse_requirement(specifier)


def matches(specifier: str, version: str) -> bool:
    """Return whether a version satisfies a requirement, pre-releases included. Raises Invalid for no requirement."""
    clauses = parse_requirement(specifier)
    return is_version(version) and all(_holds(clause, version) for clause in clauses)


def allows(specifier: str, version: str) -> bool:
    """Return whether clients would install a version: a pre-release only where the requirement names one.

    An empty requirement allows every release. Raises Invalid for no requirement.
    """
    clauses = parse_requirement(specifier) if specifier.strip() else ()
    if is_prerelease(version) and not any(is_prerelease(clause.version) for clause in clauses):
        return False
    return is_version(version) and all(_holds(clause, version) for clause in clauses)


def _holds(clause: Clause, version: str) -> bool:
    place, bound = version_key(version), version_key(clause.version)
    match clause.operator:
        case "=":
            return place == bound
        case "!=":
            return place != bound
        case ">":
            return place > bound
        case "<":
            return place < bound
        case ">=":
            return place >= bound
        case "<=":
            return place <= bound
        case _:  # "~>": at least this, and below the next of the last part but one; a pre-release counts as its release
            return place >= bound and version_key(_release(version)) < version_key(_bump(clause.version))


def _release(version: str) -> str:
    """Return the release that a pre-release leads to: `3.1.rc2` → `3.1`."""
    return ".".join(_numbers(version))


def _bump(version: str) -> str:
    """Return the version that `~>` stays below: `3.1.4` → `3.2`, `3` → `4`."""
    numbers = _numbers(version)
    if len(numbers) > 1:
        numbers.pop()
    return ".".join([*numbers[:-1], str(int(numbers[-1]) + 1)])


def _numbers(version: str) -> list[str]:
    """Return the numbers before the first letter."""
    segments = _segments(version)
    first_word = next((at for at, segment in enumerate(segments) if not segment.isdigit()), len(segments))
    return segments[:first_word]


# What else policy needs


def pattern(pattern: str) -> str:
    """Return the pattern itself: names of gems are case-sensitive."""
    return pattern


def key(version: str) -> tuple[object, ...]:
    """Return a key that orders versions."""
    return (version_key(version),)


def kind(file: File) -> str:
    """Return `gem`; there is no other kind."""
    return "gem"


def platforms(file: File) -> tuple[str, ...]:
    """Return the one platform of a gem with compiled parts; none for a generic gem."""
    return () if file.platform in {None, "", GENERIC} else (file.platform,)
