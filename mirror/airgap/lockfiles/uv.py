"""`uv.lock`: a graph whose markers stand at the dependencies.

Everything in the lock is kept, with all groups and extras. Revisions within version 1 only add keys.
"""

from typing import Any

import msgspec

from mirror.airgap.lockfiles.documents import LockDocument
from mirror.airgap.lockfiles.requirement_set import DependencyGraph, ExternalRequirement, GraphEdge, Pin, RequirementSet


class _Edge(msgspec.Struct):
    name: str
    version: str | None = None
    marker: str = ""


class _Artefact(msgspec.Struct):
    url: str = ""
    path: str = ""
    filename: str = ""
    hash: str = ""
    size: int | None = None


class _Package(msgspec.Struct, rename="kebab"):
    name: str
    source: dict[str, Any]
    version: str = ""
    resolution_markers: list[str] = []
    dependencies: list[_Edge] = []
    optional_dependencies: dict[str, list[_Edge]] = {}
    dev_dependencies: dict[str, list[_Edge]] = {}
    sdist: _Artefact | None = None
    wheels: list[_Artefact] = []


class _Manifest(msgspec.Struct, rename="kebab"):
    members: list[str] = []
    requirements: list[_Edge] = []
    dependency_groups: dict[str, list[_Edge]] = {}


class _Lock(msgspec.Struct, rename="kebab"):
    requires_python: str = ""
    manifest: _Manifest = msgspec.field(default_factory=_Manifest)
    package: list[_Package] = []


def parse(document: LockDocument) -> RequirementSet:
    """Parse a uv.lock file. Raises InvalidLock."""
    table = document.toml()
    if table.get("version") != 1:
        found = table.get("version")
        raise document.invalid(f"uv.lock version {found!r} is not known, only 1", document.line(r"^version\b"))
    lock = document.convert(table, _Lock)
    pins: list[Pin] = []
    external: list[ExternalRequirement] = []
    indexes: dict[str, None] = {}
    edges: dict[tuple[str, str], tuple[GraphEdge, ...]] = {}
    roots = [*lock.manifest.requirements, *(e for group in lock.manifest.dependency_groups.values() for e in group)]
    members = set(lock.manifest.members)
    depended = {edge.name for package in lock.package for edge in _edges(package)}
    starts: list[GraphEdge] = [_edge(edge, document, None) for edge in roots]
    for package, line in zip(lock.package, document.tables("package"), strict=False):
        name = document.name_of(package.name, line)
        edges[name, package.version] = tuple(_edge(edge, document, line) for edge in _edges(package))
        if package.name in members or not _from_index(package) or package.name not in depended:
            starts.append(GraphEdge(project=name, version=package.version))
        if not _from_index(package):
            external.append(
                document.external(name, str(package.source.get("git") or package.source.get("url") or ""), line)
            )
            continue
        indexes.setdefault(str(package.source["registry"]))
        pins.append(_pin(package, document, line))
    return RequirementSet(
        name=document.name,
        kind="uv.lock",
        ecosystem="pypi",
        pins=tuple(pins),
        external=tuple(external),
        graph=DependencyGraph(roots=tuple(starts), edges=edges),
        python=lock.requires_python,
        indexes=tuple(indexes),
    )


def _pin(package: _Package, document: LockDocument, line: int | None) -> Pin:
    artefacts = [*([package.sdist] if package.sdist else []), *package.wheels]
    return Pin(
        project=document.name_of(package.name, line),
        version=document.version_of(package.version, line),
        files=tuple(
            document.file_of(
                one.filename or one.path.rsplit("/", 1)[-1], line, url=one.url, hashed=one.hash, size=one.size
            )
            for one in artefacts
        ),
        markers=document.markers_of(package.resolution_markers, line),
        index=str(package.source["registry"]),
        where=document.where(line),
    )


def _edges(package: _Package) -> list[_Edge]:
    groups = (*package.optional_dependencies.values(), *package.dev_dependencies.values())
    return [*package.dependencies, *(edge for group in groups for edge in group)]


def _edge(edge: _Edge, document: LockDocument, line: int | None) -> GraphEdge:
    document.markers_of((edge.marker,), line)
    return GraphEdge(project=document.name_of(edge.name, line), version=edge.version, marker=edge.marker)


def _from_index(package: _Package) -> bool:
    return str(package.source.get("registry", "")).startswith(("http://", "https://"))
