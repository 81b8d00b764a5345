"""`poetry.lock`, formats 1.x and 2.x.

From 2.1 on each project has its markers. Before, they stand only at the dependencies, and those of the root are in
`pyproject.toml`; so everything in such a lock counts as needed on every target.
"""

from typing import Any

import msgspec

from mirror.airgap.lockfiles.documents import LockDocument
from mirror.airgap.lockfiles.requirement_set import ExternalRequirement, Pin, RequirementSet


class _Artefact(msgspec.Struct):
    file: str
    hash: str = ""


class _Source(msgspec.Struct):
    type: str
    url: str = ""


class _Package(msgspec.Struct, rename="kebab"):
    name: str
    version: str
    python_versions: str = "*"
    markers: str | dict[str, str] = ""
    files: list[_Artefact] | None = None
    source: _Source | None = None


class _Metadata(msgspec.Struct, rename="kebab"):
    python_versions: str = "*"
    files: dict[str, list[_Artefact]] = {}


class _Lock(msgspec.Struct, rename="kebab"):
    metadata: _Metadata
    package: list[_Package] = []
    extras: dict[str, Any] = {}


def parse(document: LockDocument) -> RequirementSet:
    """Parse a poetry.lock file. Raises InvalidLock."""
    table = document.toml()
    metadata = table.get("metadata")
    found = metadata.get("lock-version") if isinstance(metadata, dict) else None
    if str(found).split(".")[0] not in ("1", "2"):
        raise document.invalid(
            f"poetry.lock version {found!r} is not known, only 1 and 2", document.line("lock-version")
        )
    lock = document.convert(table, _Lock)
    pins: list[Pin] = []
    external: list[ExternalRequirement] = []
    indexes: dict[str, None] = {}
    for package, line in zip(lock.package, document.tables("package"), strict=False):
        name = document.name_of(package.name, line)
        index = ""
        if package.source is not None:
            if package.source.type != "legacy":
                local = package.source.type in ("directory", "file")
                external.append(document.external(name, "" if local else package.source.url, line))
                continue
            index = package.source.url
            indexes.setdefault(index)
        artefacts = package.files if package.files is not None else lock.metadata.files.get(package.name, [])
        markers = [package.markers] if isinstance(package.markers, str) else list(package.markers.values())
        pins.append(
            Pin(
                project=name,
                version=document.version_of(package.version, line),
                files=tuple(document.file_of(one.file, line, hashed=one.hash) for one in artefacts),
                markers=() if "" in markers else document.markers_of(markers, line),
                python=_specifier(package.python_versions),
                index=index,
                where=document.where(line),
            )
        )
    return RequirementSet(
        name=document.name,
        kind="poetry.lock",
        ecosystem="pypi",
        pins=tuple(pins),
        external=tuple(external),
        python=_specifier(lock.metadata.python_versions),
        indexes=tuple(indexes),
        extras=tuple(lock.extras),
    )


def _specifier(python_versions: str) -> str:
    # Poetry's own spellings (`^3.9`, `>=2.7 || >=3.5`) are not standard specifiers; they only narrow, so that without
    # them too much is required, never too little.
    return "" if python_versions == "*" or set("^~|") & set(python_versions.replace("~=", "")) else python_versions
