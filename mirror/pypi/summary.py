"""The description of a Python project for people: from core metadata, or else from the JSON API.

Lenient: what is malformed is shown as it is written, or left out, never refused. This module is an
`index.ecosystem.SummaryReader`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from mirror.errors import Invalid, UpstreamProtocolError
from mirror.model import Dependency, DescriptionType, File, Page, Project, ProjectSummary
from mirror.pypi.documents import decode_object
from mirror.pypi.legacy import latest_version, legacy_page
from mirror.pypi.metadata import info_from_metadata
from mirror.pypi.names import canonical, kind_of

MOST_REQUIREMENTS = 500
"""How many requirements of one version are read."""
_TYPES: Mapping[str, DescriptionType] = {"text/markdown": "markdown", "text/x-rst": "rst", "text/plain": "plain"}


def file_to_read(project: Project, version: str | None = None) -> File | None:
    """Return the file whose metadata describes a version (None: the newest): a wheel where there is one."""
    wanted = latest_version(project) if version is None else version
    files = [file for file in project.files if file.version == wanted]
    files.sort(key=lambda file: ("wheel", "sdist", "other").index(kind_of(file.filename)))
    return next(iter(files), None)


def document(project: str, file: File) -> Page:
    """Return the page of the JSON API that describes a file without a sidecar."""
    return legacy_page(project, file.version)


def from_index(file: File) -> ProjectSummary:
    """Return what the index page alone tells."""
    return ProjectSummary(version=file.version, requires=file.requires or "")


def from_sidecar(file: File, content: bytes) -> ProjectSummary:
    """Read core metadata. Raises Invalid."""
    return _summary(file, info_from_metadata(content))


def from_document(file: File, content: bytes) -> ProjectSummary:
    """Read the page that `document` names. Raises Invalid."""
    try:
        info = decode_object(content).get("info")
    except UpstreamProtocolError as error:
        raise Invalid(str(error)) from error
    if not isinstance(info, dict):
        raise Invalid("The document about the project has no `info`.")
    return _summary(file, info)


def _summary(file: File, info: Mapping[str, Any]) -> ProjectSummary:
    written = _text(info, "description_content_type").partition(";")[0].strip().lower()
    description = _text(info, "description")
    requirements = info.get("requires_dist")
    lines = [line for line in requirements if isinstance(line, str)] if isinstance(requirements, list) else []
    return ProjectSummary(
        version=file.version,
        summary=_text(info, "summary"),
        description="" if description.strip() == "UNKNOWN" else description,
        # Without a type, the public index reads it as reStructuredText.
        description_type=_TYPES.get(written, "plain") if written else "rst",
        license=_text(info, "license_expression") or _text(info, "license"),
        authors=_text(info, "author") or _text(info, "author_email"),
        requires=_text(info, "requires_python") or file.requires or "",
        links=dict(_links(info)),
        needs=tuple(map(_dependency, lines[:MOST_REQUIREMENTS])),
    )


def _text(info: Mapping[str, Any], key: str) -> str:
    value = info.get(key)
    return value if isinstance(value, str) else ""


def _links(info: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if home := _text(info, "home_page"):
        yield "Homepage", home
    urls = info.get("project_urls")
    for name, url in urls.items() if isinstance(urls, dict) else ():
        if isinstance(name, str) and isinstance(url, str):
            yield name, url


def _dependency(line: str) -> Dependency:
    try:
        if len(line) > 2000:
            raise InvalidRequirement("too long")
        requirement = Requirement(line)
        name = canonical(requirement.name)
    except (InvalidRequirement, Invalid, RecursionError):
        return Dependency(name=line)
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    marker = str(requirement.marker or "")
    return Dependency(
        name=requirement.name + extras,
        project=name,
        wants=str(requirement.specifier),
        # An `extra == …` can stand anywhere in a marker; such a dependency is optional, whatever else the marker says.
        when=marker,
        optional="extra" in marker.replace("'", '"').replace('"', " ").split(),
    )
