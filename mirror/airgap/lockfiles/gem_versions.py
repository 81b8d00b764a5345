"""The order of gem versions and what a requirement allows, as RubyGems defines them. Pure."""

import re
from functools import lru_cache, total_ordering
from itertools import dropwhile, zip_longest

_VERSION = re.compile(r"[0-9]+(\.[0-9A-Za-z]+)*(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?", re.ASCII)
_SEGMENT = re.compile(r"[0-9]+|[a-z]+", re.IGNORECASE)
_REQUIREMENT = re.compile(r"\s*(=|!=|>=|<=|~>|>|<)?\s*([0-9A-Za-z.-]+)\s*", re.ASCII)


@total_ordering
class GemVersion:
    """One version. Raises ValueError for text that is none."""

    def __init__(self, text: str) -> None:
        if not _VERSION.fullmatch(text) or len(text) > 200:
            raise ValueError(f"{text[:80]!r} is not a gem version")
        self.text = text
        # Digits beyond what Python converts quickly cannot occur within 200 characters.
        found = _SEGMENT.findall(text.replace("-", ".pre."))
        self.segments: tuple[int | str, ...] = tuple(int(one) if one.isdigit() else one for one in found)

    @property
    def prerelease(self) -> bool:
        return any(isinstance(segment, str) for segment in self.segments)

    @property
    def release(self) -> tuple[int, ...]:
        """The numbers before the first letter."""
        numbers: list[int] = []
        for segment in self.segments:
            if isinstance(segment, str):
                break
            numbers.append(segment)
        return tuple(numbers)

    def pessimistic_bound(self) -> "GemVersion":
        """The version that `~>` stays below: the last number dropped, the one before it raised."""
        numbers = list(self.release)
        if len(numbers) > 1:
            numbers.pop()
        numbers[-1] += 1
        return GemVersion(".".join(map(str, numbers)))

    def _canonical(self) -> tuple[int | str, ...]:
        """Zeros that do not count, before the first letter and at the end, left out."""
        first = next((at for at, one in enumerate(self.segments) if isinstance(one, str)), len(self.segments))
        return (*_without_zeros(self.segments[:first]), *_without_zeros(self.segments[first:]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GemVersion) and self._canonical() == other._canonical()

    def __hash__(self) -> int:
        return hash(self._canonical())

    def __lt__(self, other: "GemVersion") -> bool:
        for mine, theirs in zip_longest(self._canonical(), other._canonical(), fillvalue=0):
            if mine == theirs:
                continue
            if isinstance(mine, int) and isinstance(theirs, int):
                return mine < theirs
            if isinstance(mine, str) and isinstance(theirs, str):
                return mine < theirs
            return isinstance(mine, str)  # letters mean a pre-release and come before any number
        return False


def _without_zeros(segments: tuple[int | str, ...]) -> tuple[int | str, ...]:
    return tuple(reversed(tuple(dropwhile(lambda one: one == 0, reversed(segments)))))


class GemRequirement:
    """What a comma-separated list such as `~> 3.0, != 3.0.4` allows. Raises ValueError for text that is none."""

    def __init__(self, text: str) -> None:
        self.terms: list[tuple[str, GemVersion]] = []
        for part in text.split(",") if text.strip() else ():
            found = _REQUIREMENT.fullmatch(part)
            if found is None:
                raise ValueError(f"{part.strip()[:80]!r} is no gem requirement")
            self.terms.append((found[1] or "=", GemVersion(found[2])))

    @property
    def prerelease(self) -> bool:
        """Whether it asks for pre-releases by naming one."""
        return any(version.prerelease for _, version in self.terms)

    def allows(self, version: GemVersion) -> bool:
        if version.prerelease and not self.prerelease:
            return False
        return all(_satisfies(version, operator, bound) for operator, bound in self.terms)


def _satisfies(version: GemVersion, operator: str, bound: GemVersion) -> bool:
    match operator:
        case "=":
            return version == bound
        case "!=":
            return version != bound
        case ">=":
            return version >= bound
        case "<=":
            return version <= bound
        case ">":
            return version > bound
        case "<":
            return version < bound
        case _:
            # Compared by its numbers, so that 2.a is not below the bound 2.
            below = GemVersion(".".join(map(str, version.release))) < bound.pessimistic_bound()
            return version >= bound and below


@lru_cache(maxsize=65536)
def gem_version(text: str) -> GemVersion | None:
    """The version, or None for text that is none."""
    try:
        return GemVersion(text)
    except ValueError:
        return None
