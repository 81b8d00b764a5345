"""`pdm.lock`, formats 4.x.

A project with extras has an entry for each set of extras; all of them name the same files, so they are one pin.
"""

import msgspec

from mirror.airgap.lockfiles.documents import LockDocument
from mirror.airgap.lockfiles.requirement_set import ExternalRequirement, Pin, RequirementSet


class _Artefact(msgspec.Struct):
    file: str = ""
    url: str = ""
    hash: str = ""


class _Package(msgspec.Struct):
    name: str
    version: str = ""
    requires_python: str = ""
    marker: str = ""
    files: list[_Artefact] | None = None
    git: str = ""
    hg: str = ""
    svn: str = ""
    bzr: str = ""
    url: str = ""
    path: str = ""


class _Target(msgspec.Struct):
    requires_python: str = ""


class _Metadata(msgspec.Struct):
    groups: list[str] = []
    targets: list[_Target] = []
    files: dict[str, list[_Artefact]] = {}


class _Lock(msgspec.Struct):
    metadata: _Metadata
    package: list[_Package] = []


def parse(document: LockDocument) -> RequirementSet:
    """Parse a pdm.lock file. Raises InvalidLock."""
    table = document.toml()
    metadata = table.get("metadata")
    found = metadata.get("lock_version") if isinstance(metadata, dict) else None
    if str(found).split(".")[0] != "4":
        raise document.invalid(f"pdm.lock version {found!r} is not known, only 4", document.line("lock_version"))
    lock = document.convert(table, _Lock)
    pins: dict[tuple[str, str], Pin] = {}
    external: dict[str, ExternalRequirement] = {}
    for package, line in zip(lock.package, document.tables("package"), strict=False):
        name = document.name_of(package.name, line)
        elsewhere = package.git or package.hg or package.svn or package.bzr or package.url
        if elsewhere or package.path:
            external[name] = document.external(name, elsewhere, line)
            continue
        artefacts = package.files
        if artefacts is None:
            artefacts = lock.metadata.files.get(f"{package.name} {package.version}", [])
        markers = document.markers_of((package.marker,), line)
        known = pins.get((name, package.version))
        if known is not None:  # no marker on either side: needed everywhere
            markers = (*known.markers, *markers) if known.markers and markers else ()
        pins[name, package.version] = Pin(
            project=name,
            version=document.version_of(package.version, line),
            files=tuple(document.file_of(one.file, line, url=one.url, hashed=one.hash) for one in artefacts),
            markers=markers,
            python=package.requires_python,
            where=document.where(line),
        )
    targets = {target.requires_python for target in lock.metadata.targets}
    return RequirementSet(
        name=document.name,
        kind="pdm.lock",
        ecosystem="pypi",
        pins=tuple(pins.values()),
        external=tuple(external.values()),
        python=targets.pop() if len(targets) == 1 else "",
        groups=tuple(lock.metadata.groups),
        extras=tuple(lock.metadata.groups),
    )
