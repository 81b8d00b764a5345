"""Pure: several Projects of one name → one, and which source wins.

By default the first source that has a project wins wholly, so that no upstream can slip a file beside ours
(dependency confusion). Only for names configured as `union` are the files of all sources shown together, by file name.
"""

import logging
from collections.abc import Mapping, Sequence

import msgspec

from mirror.model import File, Outcome, Project

logger = logging.getLogger(__name__)

_STATUSES: Mapping[str | None, int] = {None: 0, "active": 1, "deprecated": 3, "archived": 4, "quarantined": 5}
_UNKNOWN_STATUS = 2  # a status that PEP 792 does not know counts more than `active`, and forbids nothing


class DigestConflict(msgspec.Struct, frozen=True, kw_only=True):
    """Two sources that promise different bytes under one file name: worth a line in the log."""

    filename: str
    algorithm: str
    source: str
    """Whose file is shown."""
    digest: str
    other_source: str
    other_digest: str


class MergeResult(msgspec.Struct, frozen=True, kw_only=True):
    """One project made of several, and where those disagree."""

    project: Project
    conflicts: tuple[DigestConflict, ...] = ()


def merge(projects: Sequence[Project], *, union: bool) -> MergeResult:
    """Merge at least one project, in the order of their sources.

    Without `union` the result is the first one, as it is. With it: the files and versions of all, the earlier source
    winning a file name; the largest serial; the strictest status; name and `extra` of the first, as they are private
    to the format.
    """
    first = projects[0]
    if not union or len(projects) == 1:
        return MergeResult(project=first)
    files: dict[str, File] = {}
    conflicts: list[DigestConflict] = []
    for project in projects:
        for file in project.files:
            kept = files.setdefault(file.filename, file)
            if kept is not file and (conflict := _conflict(kept, file)):
                conflicts.append(conflict)
    serials = [project.serial for project in projects if project.serial is not None]
    merged = msgspec.structs.replace(
        first,
        files=tuple(files.values()),
        versions=tuple(dict.fromkeys(version for project in projects for version in project.versions)),
        serial=max(serials, default=None),
        status=max((project.status for project in projects), key=lambda status: _STATUSES.get(status, _UNKNOWN_STATUS)),
    )
    return MergeResult(project=merged, conflicts=tuple(conflicts))


def merge_union(name: str, projects: Sequence[Project]) -> Project:
    """Return what several sources list of a project, as one; the log tells where they disagree."""
    merged = merge(projects, union=True)
    for conflict in merged.conflicts:
        logger.warning(
            "%s: %s is shown from %s, and %s offers other bytes under that name",
            name, conflict.filename, conflict.source, conflict.other_source,
        )  # fmt: skip
    return merged.project


def _conflict(kept: File, other: File) -> DigestConflict | None:
    """Return the conflict in the first algorithm for which the two promise different digests; None without one."""
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


def removed_everywhere(sources: Sequence[tuple[frozenset[str], Sequence[File]]]) -> frozenset[str]:
    """Return the names of files that every source which lists them has removed.

    `sources` are the removed names of each, and all files that it lists with them.
    """
    removed = frozenset[str]().union(*(names for names, _ in sources))
    if not removed or len(sources) == 1:
        return removed
    return removed.difference(file.filename for names, files in sources for file in files if file.filename not in names)


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome of a whole: a hit only when all of its parts were."""
    order: tuple[Outcome, ...] = ("miss", "joined", "stale", "offline", "hit")
    return min(outcomes, key=order.index, default="hit")
