"""Names with specifiers, as typed on a command line or written in the configuration.

`requests`, `django>=4.2`, `celery[redis]` are Python projects; `rack:~> 3.0` and `gem:rack` are gems. `pypi:` may
stand in front of a Python one.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mirror.airgap.lockfiles.gem_versions import GemRequirement
from mirror.airgap.lockfiles.requirements import pinned_version
from mirror.airgap.lockfiles.wanted import Ecosystem, Installer, Pin, Range, Wanted, check_marker
from mirror.errors import Invalid

_GEM = re.compile(r"([A-Za-z0-9._-]+)(?::(.*))?", re.ASCII)


class NamedEntry(NamedTuple):
    """One name with its specifier, as a pin or a range of an ecosystem's installer."""

    ecosystem: Ecosystem
    installer: Installer
    entry: Pin | Range


def named(texts: Iterable[str], newest: int | None = None) -> tuple[Wanted, ...]:
    """What the names ask for: one Wanted for each ecosystem that occurs. Raises Invalid.

    `newest` limits an open name to that many of its newest matching versions; None means all of them.
    """
    if newest is not None and newest < 1:
        raise Invalid("The number of newest versions has to be 1 or more.")
    asked = [parse_name(text, newest) for text in texts]
    kinds: tuple[tuple[Ecosystem, Installer], ...] = (("pypi", "pip"), ("rubygems", "bundler"))
    return tuple(
        Wanted(
            name="command line",
            kind="names",
            ecosystem=kind,
            installer=installer,
            pins=tuple(one.entry for one in asked if one.ecosystem == kind and isinstance(one.entry, Pin)),
            ranges=tuple(one.entry for one in asked if one.ecosystem == kind and isinstance(one.entry, Range)),
        )
        for kind, installer in kinds
        if any(one.ecosystem == kind for one in asked)
    )


def parse_name(text: str, newest: int | None = None) -> NamedEntry:
    """One name with its specifier. Raises Invalid."""
    text = text.strip()
    prefix, colon, rest = text.partition(":")
    if colon and prefix == "gem":
        return _gem(rest.strip(), newest)
    if text.startswith("pypi:"):
        return _python(rest.strip(), newest)
    if colon and _GEM.fullmatch(prefix.strip()) and not rest.startswith("//"):
        return _gem(text, newest)
    return _python(text, newest)


def _python(text: str, newest: int | None) -> NamedEntry:
    try:
        requirement = Requirement(text)
        marker = str(requirement.marker or "")
        check_marker(marker or "python_version >= '0'")
    except (InvalidRequirement, ValueError, RecursionError) as error:
        raise Invalid(f"{text[:200]!r} is neither a project with a specifier nor a file that can be read.") from error
    if requirement.url is not None:
        raise Invalid(f"{requirement.name} at a URL cannot be mirrored: name a version of it instead.")
    project, specifier = canonicalize_name(requirement.name), str(requirement.specifier)
    version, extras = pinned_version(specifier), tuple(sorted(requirement.extras))
    if version is not None:
        markers = (marker,) if marker else ()
        return NamedEntry(
            "pypi", "pip", Pin(project=project, version=version, markers=markers, extras=extras, where=text)
        )
    return NamedEntry(
        "pypi",
        "pip",
        Range(project=project, specifier=specifier, extras=extras, marker=marker, newest=newest, where=text),
    )


def _gem(text: str, newest: int | None) -> NamedEntry:
    found = _GEM.fullmatch(text)
    if found is None:
        raise Invalid(f"{text[:200]!r} is no gem with a requirement, such as 'rack:~> 3.0'.")
    project, requirement = found[1], (found[2] or "").strip()
    try:
        GemRequirement(requirement)
    except ValueError as error:
        raise Invalid(f"The requirement of the gem {project}: {error}.") from error
    return NamedEntry("rubygems", "bundler", Range(project=project, specifier=requirement, newest=newest, where=text))
