"""`Pipfile.lock` (pipfile-spec 6): JSON, hashes without file names.

An entry whose marker was false where the lock was made stays open (`"version": "*"`): it is a range, not a pin.
"""

from collections.abc import Mapping

import msgspec

from mirror.airgap.lockfiles.documents import LockDocument
from mirror.airgap.lockfiles.requirement_set import ExternalRequirement, Pin, RequirementSet, VersionRange
from mirror.airgap.lockfiles.requirements import pinned_version


class _Entry(msgspec.Struct):
    version: str = "*"
    hashes: list[str] = []
    markers: str = ""
    extras: list[str] = []
    index: str = ""
    git: str = ""
    hg: str = ""
    svn: str = ""
    bzr: str = ""
    file: str = ""
    path: str = ""


class _Source(msgspec.Struct):
    name: str
    url: str


class _Requires(msgspec.Struct):
    python_version: str = ""


class _Meta(msgspec.Struct):
    spec: int | None = msgspec.field(name="pipfile-spec", default=None)
    requires: _Requires = msgspec.field(default_factory=_Requires)
    sources: list[_Source] = []


class _Heading(msgspec.Struct):
    meta: _Meta = msgspec.field(name="_meta", default_factory=_Meta)


def parse(document: LockDocument) -> RequirementSet:
    """Parse a Pipfile.lock file. Raises InvalidLock."""
    meta = document.json(_Heading).meta
    if meta.spec != 6:
        line = document.line('"pipfile-spec"')
        raise document.invalid(f"Pipfile.lock specification {meta.spec!r} is not known, only 6", line)
    categories = document.json(dict[str, dict[str, msgspec.Raw]])
    indexes = {source.name: source.url for source in meta.sources}
    entries: list[Pin | VersionRange | ExternalRequirement] = []
    lines: dict[str, int] = {}
    for match, number in document.lines(r'^[ \t]*"[^"\\\n]+"(?=\s*:\s*\{)'):
        lines.setdefault(match.strip()[1:-1], number)
    for category, written in categories.items():
        if category != "_meta":
            entries += [_entry(document, name, raw, lines.get(name), indexes) for name, raw in written.items()]
    python = meta.requires.python_version
    return RequirementSet(
        name=document.name,
        kind="Pipfile.lock",
        ecosystem="pypi",
        pins=tuple(one for one in entries if isinstance(one, Pin)),
        ranges=tuple(one for one in entries if isinstance(one, VersionRange)),
        external=tuple(one for one in entries if isinstance(one, ExternalRequirement)),
        python=f"=={python}.*" if python else "",
        indexes=tuple(indexes.values()),
    )


def _entry(
    document: LockDocument, written: str, raw: msgspec.Raw, line: int | None, indexes: Mapping[str, str]
) -> Pin | VersionRange | ExternalRequirement:
    try:
        entry = msgspec.json.decode(raw, type=_Entry)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise document.invalid(f"the entry of {written[:80]!r}: {error}", line) from error
    name = document.name_of(written, line)
    markers = document.markers_of((entry.markers,), line)
    elsewhere = entry.git or entry.hg or entry.svn or entry.bzr or entry.file
    if elsewhere or entry.path:
        remote = "://" in elsewhere or "@" in elsewhere
        return document.external(name, elsewhere if remote else "", line)
    version = pinned_version(entry.version)
    if version is None:
        return VersionRange(
            project=name,
            specifier="" if entry.version == "*" else entry.version,
            extras=tuple(entry.extras),
            marker=entry.markers,
            hashes=tuple(entry.hashes),
            where=document.where(line),
        )
    return Pin(
        project=name,
        version=document.version_of(version, line),
        hashes=tuple(entry.hashes),
        markers=markers,
        index=indexes.get(entry.index, ""),
        where=document.where(line),
    )
