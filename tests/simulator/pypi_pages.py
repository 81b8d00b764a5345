"""What a Python index says: projects and files as values, and the pages made of them. No state, no requests."""

import html
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.parser import BytesParser
from typing import Any, Literal
from urllib.parse import parse_qs

from tests.builders import Built

from .wire import Request, digest_etag

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "application/vnd.pypi.simple.v1+html"
PLAIN_HTML = "text/html"


@dataclass(frozen=True)
class Modes:
    """How an index differs from the public one. All defaults are the public one's behaviour."""

    html_only: bool = False
    """text/html whatever Accept says."""
    refuse_json: bool = False
    """406 when Accept has nothing but JSON."""
    api_version: str = "1.4"
    etag: bool = True
    """ETag and Last-Modified on pages."""
    hashes: tuple[str, ...] = ("sha256",)
    """Algorithms that pages give: empty for none, `("md5",)` for an old index."""
    sizes: bool = True
    upload_times: bool = True
    urls: Literal["absolute", "relative", "base"] = "absolute"
    """Relative to the page, or (HTML only) to a `<base href>`."""
    files_elsewhere: bool = False
    """File URLs point to the other host."""
    redirect_pages: bool = False
    """The main port redirects pages to the other host."""
    redirect_files: bool = False
    """The main port redirects files to the other host."""
    metadata: bool = True
    """Wheels have `.metadata` beside them, and pages say so."""
    legacy_metadata_key: bool = True
    """`data-dist-info-metadata` stands beside `core-metadata`."""
    serials: bool = True
    legacy_json: bool = True
    gzip: bool = True
    max_age: int | None = 600
    ranges: bool = True
    """Files understand Range."""
    file_etag: bool = True
    head: bool = True
    """HEAD of a file is allowed; otherwise 405."""


@dataclass
class Entry:
    """One published file."""

    built: Built
    uploaded: datetime
    path: str
    yanked: str | None = None
    core_metadata: bool = True
    provenance: Mapping[str, Any] | None = None
    metadata: bytes = b""
    """What `.metadata` answers."""
    digests: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Listed:
    """One project."""

    name: str
    display: str
    serial: int
    changed: datetime
    files: list[Entry] = field(default_factory=list)
    status: str = "active"
    reason: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def canonical(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True)
class Pages:
    """Renders pages whose links lead to `url` and `other_url`."""

    url: str = ""
    other_url: str = ""

    def root_json(self, projects: Mapping[str, Listed], serial: int, modes: Modes) -> dict[str, Any]:
        """The list of projects."""
        last = {"_last-serial": serial} if modes.serials else {}
        return {
            "meta": {"api-version": modes.api_version, **last},
            "projects": [
                {"name": project.display, **({"_last-serial": project.serial} if modes.serials else {})}
                for _, project in sorted(projects.items())
            ],
        }

    def root_html(self, projects: Mapping[str, Listed], modes: Modes) -> str:
        links = "".join(
            f'    <a href="/simple/{name}/">{html.escape(project.display)}</a>\n'
            for name, project in sorted(projects.items())
        )
        return _document(modes, "", "Simple index", links)

    def _shown(self, project: Listed) -> list[Entry]:
        return [] if project.status == "quarantined" else project.files

    def project_json(self, project: Listed, modes: Modes) -> dict[str, Any]:
        """The simple page of a project (PEP 691, 700, 740, 792)."""
        versions = list(dict.fromkeys(entry.built.version for entry in self._shown(project)))
        meta: dict[str, Any] = {"api-version": modes.api_version}
        if modes.serials:
            meta["_last-serial"] = project.serial
        value: dict[str, Any] = {
            "meta": meta,
            "name": project.name,
            "files": [self._file_json(project, entry, modes) for entry in self._shown(project)],
        }
        if modes.api_version != "1.0":
            value["versions"] = versions
            status = {"status": project.status, "reason": project.reason}
            value["project-status"] = {key: text for key, text in status.items() if text is not None}
        return value | dict(project.extra)

    def _file_json(self, project: Listed, entry: Entry, modes: Modes) -> dict[str, Any]:
        value: dict[str, Any] = {
            "filename": entry.built.filename,
            "url": self._link(entry, modes, absolute=False),
            "hashes": {algorithm: entry.digests[algorithm] for algorithm in modes.hashes},
            "requires-python": _header(entry.built, "Requires-Python"),
            "yanked": False if entry.yanked is None else (entry.yanked or True),
        }
        if modes.sizes:
            value["size"] = entry.built.size
        if modes.upload_times:
            value["upload-time"] = _moment(entry.uploaded)
        if modes.metadata:
            known: Any = {"sha256": _sha256(entry.metadata)} if entry.core_metadata else False
            value["core-metadata"] = known
            if modes.legacy_metadata_key:
                value["data-dist-info-metadata"] = known
        value["provenance"] = self._provenance_url(project, entry)
        return value | dict(entry.extra)

    def project_html(self, project: Listed, modes: Modes) -> str:
        """The same as HTML (PEP 503, 592, 658)."""
        lines = []
        for entry in self._shown(project):
            fragment = f"#{modes.hashes[0]}={entry.digests[modes.hashes[0]]}" if modes.hashes else ""
            attributes = {"href": self._link(entry, modes, absolute=False) + fragment}
            if requires := _header(entry.built, "Requires-Python"):
                attributes["data-requires-python"] = requires
            if entry.yanked is not None:
                attributes["data-yanked"] = entry.yanked
            if modes.metadata and entry.core_metadata:
                attributes["data-core-metadata"] = f"sha256={_sha256(entry.metadata)}"
                if modes.legacy_metadata_key:
                    attributes["data-dist-info-metadata"] = attributes["data-core-metadata"]
            if provenance := self._provenance_url(project, entry):
                attributes["data-provenance"] = provenance
            written = " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes.items())
            lines.append(f"    <a {written}>{html.escape(entry.built.filename)}</a><br>\n")
        head = ""
        if modes.urls == "base":
            head += f'    <base href="{self._file_root(modes)}packages/">\n'
        if modes.api_version not in ("1.0", "1.1", "1.2", "1.3"):
            head += f'    <meta name="pypi:project-status" content="{project.status}">\n'
            if project.reason:
                head += f'    <meta name="pypi:project-status-reason" content="{html.escape(project.reason)}">\n'
        return _document(modes, head, f"Links for {project.name}", "".join(lines))

    def _file_root(self, modes: Modes) -> str:
        return self.other_url if modes.files_elsewhere else self.url

    def _link(self, entry: Entry, modes: Modes, *, absolute: bool) -> str:
        if absolute or modes.urls == "absolute" or (modes.files_elsewhere and modes.urls == "relative"):
            return self._file_root(modes) + entry.path
        return entry.path.removeprefix("packages/") if modes.urls == "base" else f"../../{entry.path}"

    def _provenance_url(self, project: Listed, entry: Entry) -> str | None:
        if entry.provenance is None:
            return None
        return f"{self.url}integrity/{project.name}/{entry.built.version}/{entry.built.filename}/provenance"

    def legacy_json(self, project: Listed, version: str | None, modes: Modes) -> dict[str, Any] | None:
        """/pypi/NAME/json, or with a version /pypi/NAME/VERSION/json; None when there is no such version."""
        releases: dict[str, list[Entry]] = {}
        for entry in project.files:
            releases.setdefault(entry.built.version, []).append(entry)
        if version is not None and version not in releases:
            return None
        files = releases.get(version or max(releases, key=_sortable, default=""), [])
        value: dict[str, Any] = {
            "info": self._info(project, files),
            "last_serial": project.serial,
            "urls": [self._legacy_file(entry, modes) for entry in files],
            "vulnerabilities": [],
        }
        if version is None:
            value["releases"] = {
                each: [self._legacy_file(entry, modes) for entry in entries] for each, entries in releases.items()
            }
        return value

    def _info(self, project: Listed, files: list[Entry]) -> dict[str, Any]:
        about = BytesParser().parsebytes(files[0].built.metadata if files else b"", headersonly=True)
        yanked = bool(files) and all(entry.yanked is not None for entry in files)
        return {
            "author": about.get("Author"),
            "author_email": about.get("Author-Email"),
            "bugtrack_url": None,
            "classifiers": about.get_all("Classifier", []),
            "description": about.get("Description") or "",
            "home_page": about.get("Home-page"),
            "keywords": about.get("Keywords"),
            "license": about.get("License"),
            "maintainer": about.get("Maintainer"),
            "name": project.display,
            "package_url": f"{self.url}project/{project.name}/",
            "project_url": f"{self.url}project/{project.name}/",
            "project_urls": dict(text.split(", ", 1) for text in about.get_all("Project-URL", [])) or None,
            "requires_dist": about.get_all("Requires-Dist"),
            "requires_python": about.get("Requires-Python"),
            "summary": about.get("Summary"),
            "version": files[0].built.version if files else "",
            "yanked": yanked,
            "yanked_reason": (files[0].yanked or None) if yanked else None,
        }

    def _legacy_file(self, entry: Entry, modes: Modes) -> dict[str, Any]:
        is_wheel = entry.built.filename.endswith(".whl")
        return {
            "comment_text": "",
            "digests": {**entry.digests},
            "downloads": -1,
            "filename": entry.built.filename,
            "has_sig": False,
            "md5_digest": entry.digests.get("md5"),
            "packagetype": "bdist_wheel" if is_wheel else "sdist",
            "python_version": entry.built.filename.removesuffix(".whl").split("-")[-3] if is_wheel else "source",
            "requires_python": _header(entry.built, "Requires-Python"),
            "size": entry.built.size,
            "upload_time": entry.uploaded.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
            "upload_time_iso_8601": _moment(entry.uploaded),
            "url": self._link(entry, modes, absolute=True),
            "yanked": entry.yanked is not None,
            "yanked_reason": entry.yanked or None,
        }


def negotiate(request: Request, modes: Modes) -> str | None:
    """The best media type for the request; None for a 406."""
    if modes.html_only:
        return PLAIN_HTML
    asked = parse_qs(request.query).get("format", [""])[0] or request.headers.get("Accept", "*/*")
    weights = list(_weights(asked))
    best, media = 0.0, None
    for offered in (PLAIN_HTML, HTML, JSON):
        if offered == JSON and modes.refuse_json:
            continue
        weight = max((q for name, q in weights if name in (offered, "*/*", offered.split("/")[0] + "/*")), default=0.0)
        if weight > best:
            best, media = weight, offered
    if media is None and not modes.refuse_json:
        return PLAIN_HTML  # PEP 691 allows it, and the public index does it
    return media


def _weights(accept: str) -> Iterator[tuple[str, float]]:
    for part in accept.split(","):
        media, *parameters = (text.strip() for text in part.split(";"))
        quality = next((text[2:] for text in parameters if text.startswith("q=")), "1")
        yield media.replace(".latest+", ".v1+"), float(quality)


def _document(modes: Modes, head: str, title: str, links: str) -> str:
    return (
        "<!DOCTYPE html>\n<html>\n  <head>\n"
        f'    <meta name="pypi:repository-version" content="{modes.api_version}">\n{head}'
        f"    <title>{html.escape(title)}</title>\n  </head>\n  <body>\n    <h1>{html.escape(title)}</h1>\n"
        f"{links}  </body>\n</html>\n"
    )


def _header(built: Built, name: str) -> str | None:
    value = BytesParser().parsebytes(built.metadata, headersonly=True).get(name)
    return None if value is None else str(value)


def _sha256(content: bytes) -> str:
    return digest_etag(content).strip('"')


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _sortable(version: str) -> list[tuple[int, int | str]]:
    return [(1, int(part)) if part.isdigit() else (0, part) for part in re.findall(r"\d+|[a-z]+", version)]
