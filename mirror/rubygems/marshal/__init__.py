"""Ruby's Marshal 4.8: exactly the shapes that the legacy index is made of, as frozen values.

No general Marshal: a closed list of classes, read in `reading` and written in `writing`; all else raises Invalid. Two
values are equal when Ruby's objects are. The surprise: Gem::Specification is marshalled as a string that is itself a
marshalled array of 19 fields.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias, Union

import msgspec

from mirror.rubygems.names import GENERIC

HEADER = b"\x04\x08"
"""Marshal 4.8."""
SPEC_BYTES = 10 << 20
"""The largest inflated specification; RubyGems has the same limit."""


class Symbol(str):
    """A Ruby symbol."""

    __slots__ = ()


class Version(msgspec.Struct, frozen=True):
    """Gem::Version."""

    text: str


class GemRequirement(msgspec.Struct, frozen=True):
    """Gem::Requirement: clauses of operator and version."""

    clauses: tuple[tuple[str, str], ...] = ((">=", "0"),)

    def __str__(self) -> str:
        return ", ".join(f"{operator} {version}" for operator, version in self.clauses)


class GemDependency(msgspec.Struct, frozen=True):
    """Gem::Dependency; `kind` is runtime or development."""

    name: str
    requirement: GemRequirement = GemRequirement()
    kind: str = "runtime"
    prerelease: bool = False


class Platform(msgspec.Struct, frozen=True):
    """Gem::Platform."""

    cpu: str | None
    os: str | None
    version: str | None


class Gemspec(msgspec.Struct, frozen=True, kw_only=True):
    """Gem::Specification: the fields that it is marshalled with, and `requirements`, which is not among them."""

    name: str
    version: str
    platform: str = GENERIC
    """As its author wrote it."""
    summary: str | None = None
    description: str | None = None
    authors: tuple[str | None, ...] = ()
    email: str | tuple[str | None, ...] | None = None
    homepage: str | None = None
    licenses: tuple[str | None, ...] = ()
    metadata: Mapping[str, str | None] = {}
    date: datetime | None = None
    """With a time zone; RubyGems keeps the day only."""
    dependencies: tuple[GemDependency, ...] = ()
    required_ruby_version: GemRequirement = GemRequirement()
    required_rubygems_version: GemRequirement = GemRequirement()
    rubygems_version: str | None = None
    specification_version: int = 4
    requirements: tuple[str | None, ...] = ()
    """What has to be there outside RubyGems, for people to read."""


Scalar: TypeAlias = bool | int | float | str | None
Value: TypeAlias = Union[
    Scalar,
    datetime,
    Version,
    GemRequirement,
    GemDependency,
    Platform,
    Gemspec,
    "list[Value]",
    "dict[Scalar, Value]",
]
"""What is marshalled, as Python sees it."""
