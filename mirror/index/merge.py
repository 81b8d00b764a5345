"""Pure: several Projects of one name → one, and who wins.

By default the first source that has a project wins wholly, so that nobody upstream can slip a file beside ours
(dependency confusion). Only for names configured as `union` are the files of all sources shown together, by file name.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from mirror.model import File, Project
from mirror.policy import matches

_STATUSES: Mapping[str | None, int] = {None: 0, "active": 1, "deprecated": 3, "archived": 4, "quarantined": 5}
_UNHEARD_OF = 2  # a status that PEP 792 does not know says more than `active`, and forbids nothing


class DigestConflict(msgspec.Struct, frozen=True, kw_only=True):
    """Two sources promise different bytes under one file name: worth a line in the log."""

    filename: str
    algorithm: str
    source: str
    """Whose file is shown."""
    digest: str
    other_source: str
    other_digest: str


class MergeResult(msgspec.Struct, frozen=True, kw_only=True):
    """One project made of several."""

    project: Project
    clashes: tuple[DigestConflict, ...] = ()


def merge(projects: Sequence[Project], *, union: bool) -> MergeResult:
    """One project of at least one, which are in the order of their sources.

    Without `union` the first one, as it is. With it the files and versions of all, the earlier source winning a file
    name; the largest serial; the strictest status; name and `extra` of the first, as they are private to the format.
    """
    first = projects[0]
    if not union or len(projects) == 1:
        return MergeResult(project=first)
    files: dict[str, File] = {}
    clashes: list[DigestConflict] = []
    for project in projects:
        for file in project.files:
            kept = files.setdefault(file.filename, file)
            if kept is not file and (clash := _clash(kept, file)):
                clashes.append(clash)
    serials = [project.serial for project in projects if project.serial is not None]
    merged = msgspec.structs.replace(
        first,
        files=tuple(files.values()),
        versions=tuple(dict.fromkeys(version for project in projects for version in project.versions)),
        serial=max(serials, default=None),
        status=max((project.status for project in projects), key=lambda status: _STATUSES.get(status, _UNHEARD_OF)),
    )
    return MergeResult(project=merged, clashes=tuple(clashes))


def _clash(kept: File, other: File) -> DigestConflict | None:
    """The first algorithm in which the two promise different bytes."""
    for algorithm, digest in kept.digests.items():
        if other.digests.get(algorithm, digest) != digest:
            return DigestConflict(
                filename=kept.filename,
                algorithm=algorithm,
                source=kept.source,
                digest=digest,
                other_source=other.source,
                other_digest=other.digests[algorithm],
            )
    return None


class SourceChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Who may answer for a project, and the rule that says so."""

    rule: Literal["private", "union", "uploaded", "first"]
    why: str
    upstream: bool
    """Whether upstreams may be asked at all; when not, the name never leaves this machine."""
    union: bool
    """What `merge` is to be told."""


def choose(name: str, *, uploaded: bool, private: tuple[str, ...], union: tuple[str, ...]) -> SourceChoice:
    """Who may answer for the project: decided before any upstream is asked.

    `uploaded`: it has uploads here. `private`, `union`: patterns, spelled as canonical names are.
    """
    if matches(private, name):
        return SourceChoice(
            rule="private", why="The name is declared private: only uploads count.", upstream=False, union=False
        )
    if matches(union, name):
        return SourceChoice(
            rule="union", why="The name is declared a union: the files of all sources show.", upstream=True, union=True
        )
    if uploaded:
        return SourceChoice(
            rule="uploaded", why="It has uploads here, which hide every upstream's.", upstream=False, union=False
        )
    return SourceChoice(rule="first", why="The first upstream that has it wins.", upstream=True, union=False)


def chosen(choice: SourceChoice, having: Sequence[str]) -> str:
    """The choice in a line for people; `having` are the names of the sources that have the project, in their order."""
    shown = having if choice.union else having[:1]
    return f"{choice.why} Shown: {', '.join(shown) or 'nothing, no source has it'} (rule {choice.rule!r})."
