"""What a gem says about itself to people: from its specification, or else from its line on `/info`."""

from collections.abc import Mapping

from mirror.errors import Invalid
from mirror.model import Dependency, File, Page, Project, ProjectSummary
from mirror.rubygems.marshal import Gemspec
from mirror.rubygems.marshal.reading import read_gemspec_rz
from mirror.rubygems.pages import dependencies, shown, visible

MOST_DEPENDENCIES = 500
"""The most dependencies of one version that are shown."""


def file_to_read(project: Project, version: str | None = None) -> File | None:
    """Return the file that describes a version, the newest when None: the generic one where there is one."""
    if version is None:
        return shown(project)
    files = visible(project) or list(project.files)
    return next((file for file in files if file.version == version), None)


def document(project: str, file: File) -> Page | None:
    """Return None: every gem has a sidecar."""
    return None


def from_index(file: File) -> ProjectSummary:
    """Return what the line on `/info` alone holds."""
    needs = (
        Dependency(name=name, project=name, wants=", ".join(wants))
        for name, wants in dependencies(file)[:MOST_DEPENDENCIES]
    )
    return ProjectSummary(version=file.version, requires=_clauses(file.requires), needs=tuple(needs))


def from_sidecar(file: File, content: bytes) -> ProjectSummary:
    """Return what the `gemspec.rz` holds. Raises Invalid."""
    return _summary(file, read_gemspec_rz(content))


def from_document(file: File, content: bytes) -> ProjectSummary:
    """Raise Invalid, since gems have no such document."""
    raise Invalid("Gems have no document of that kind.")


def _summary(file: File, spec: Gemspec) -> ProjectSummary:
    return ProjectSummary(
        version=file.version,
        summary=spec.summary or "",
        description=spec.description if spec.description and spec.description != spec.summary else "",
        description_type="plain",
        license=", ".join(name for name in spec.licenses if name),
        authors=", ".join(name for name in spec.authors if name),
        requires=_clauses(file.requires),
        links=_links(spec.homepage, spec.metadata),
        needs=tuple(
            Dependency(
                name=need.name,
                project=need.name,
                wants=", ".join(f"{operator} {version}" for operator, version in need.requirement.clauses),
                when="" if need.kind == "runtime" else need.kind,
                optional=need.kind != "runtime",
            )
            for need in spec.dependencies[:MOST_DEPENDENCIES]
        ),
    )


def _links(homepage: str | None, metadata: Mapping[str, str | None]) -> dict[str, str]:
    given = {key.removesuffix("_uri"): uri for key, uri in metadata.items() if key.endswith("_uri") and uri}
    links = {name.replace("_", " ").capitalize(): uri for name, uri in given.items()}
    return ({"Homepage": homepage} if homepage else {}) | links


def _clauses(requires: str | None) -> str:
    return (requires or "").replace("&", ", ")
