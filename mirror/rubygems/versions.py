"""What policy asks of Ruby's versions and files; this module is a `policy.Versions`.

Requirements are those of Gem::Requirement (`~> 3.1`, `>= 2, < 4`; a bare version means `=`), and several are joined by
a comma. The surprise: as in Ruby, `< 2` holds for 2.0.rc1, which comes before 2.
"""

import re
from functools import lru_cache

from mirror.errors import Invalid
from mirror.model import File
from mirror.rubygems.names import GENERIC, is_version, version_key

ecosystem = "RubyGems"

_REQUIREMENT = re.compile(r"\s*(=|!=|>=|<=|~>|>|<)?\s*([0-9A-Za-z.-]{1,128})\s*", re.ASCII)


def pattern(pattern: str) -> str:
    """The pattern itself: names of gems are case-sensitive."""
    return pattern


@lru_cache(maxsize=256)
def _requirements(specifier: str) -> tuple[tuple[str, str], ...]:
    found = [_REQUIREMENT.fullmatch(one) for one in specifier.split(",")]
    if not all(one and is_version(one[2].replace("-", ".pre.")) for one in found):
        raise Invalid(f"{specifier!r} is no requirement of a gem: write it as in '~> 3.1' or '>= 2, < 4'.")
    return tuple((one[1] or "=", one[2]) for one in found if one)


def check(specifier: str) -> None:
    """Raises Invalid unless it is a requirement, or several with commas between."""
    _requirements(specifier)


def matches(specifier: str, version: str) -> bool:
    """Whether the version satisfies all requirements. Raises Invalid for a specifier that is none."""
    requirements = _requirements(specifier)
    return is_version(version.replace("-", ".pre.")) and all(
        _holds(one, wanted, version) for one, wanted in requirements
    )


def _holds(operator: str, wanted: str, version: str) -> bool:
    place, bound = version_key(version), version_key(wanted)
    match operator:
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
            return place >= bound and version_key(_release(version)) < version_key(_bump(wanted))


def _release(version: str) -> str:
    """`3.1.rc2` → `3.1`."""
    return ".".join(_numbers(version))


def _bump(version: str) -> str:
    """`3.1.4` → `3.2`, `3` → `4`."""
    numbers = _numbers(version)
    if len(numbers) > 1:
        numbers.pop()
    return ".".join([*numbers[:-1], str(int(numbers[-1]) + 1)])


def _numbers(version: str) -> list[str]:
    """The numbers before the first letter."""
    segments = re.findall(r"[0-9]+|[A-Za-z]+", version.replace("-", ".pre."))
    first_word = next((at for at, segment in enumerate(segments) if not segment.isdigit()), len(segments))
    return segments[:first_word]


def key(version: str) -> tuple[object, ...]:
    """Sorts as Gem::Version does."""
    return (version_key(version),)


def kind(file: File) -> str:
    """`gem`; there is no other kind."""
    return "gem"


def platforms(file: File) -> tuple[str, ...]:
    """The one platform of a gem with compiled parts; none for a generic gem."""
    return () if file.platform in {None, "", GENERIC} else (file.platform,)
