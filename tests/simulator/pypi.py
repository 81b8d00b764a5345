"""The PyPI side: the simple API in JSON and HTML, the legacy JSON, files, metadata and provenance.

As the public index answers by default; `configure` makes it like the others that are met in the wild, as a whole or
for one project. The surprise: `publish` accepts the same file name twice, as no honest index does.
"""

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.parser import BytesParser
from email.utils import format_datetime
from typing import Any, Literal
from urllib.parse import parse_qs, unquote

from tests.builders import Built

from .wire import Answer, Request, Thing, answer, digest_etag, plain, redirect

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


class PyPI:
    """A Python index: `projects`, `serial`, and what changes them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.projects: dict[str, Listed] = {}
        self.serial = 1000
        self.modes = Modes()
        self._modes: dict[str, dict[str, Any]] = {}
        self._by_path: dict[str, tuple[Listed, Entry]] = {}
        self._url = self._other_url = ""

    def at(self, url: str, other_url: str) -> None:
        """Where the index is reached; the simulator says so when it starts."""
        self._url, self._other_url = url, other_url

    def configure(self, project: str | None = None, **changes: Any) -> None:
        """Change `Modes` by field name, for the whole index or for one project."""
        if project is None:
            self.modes = replace(self.modes, **changes)
        else:
            replace(self.modes, **changes)  # a misspelt field fails here, not on the first request
            self._modes.setdefault(canonical(project), {}).update(changes)

    def modes_of(self, project: str) -> Modes:
        return replace(self.modes, **self._modes.get(canonical(project), {}))

    # What changes the index

    def publish(
        self,
        built: Built,
        *,
        uploaded: datetime | None = None,
        yanked: str | None = None,
        core_metadata: bool = True,
        metadata: bytes | None = None,
        provenance: bool | Mapping[str, Any] = False,
        digests: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> Entry:
        """List a file; a file of the same name is replaced.

        `uploaded` defaults to the clock. `metadata` is what `.metadata` answers instead of the truth, `digests`
        what pages promise instead of the truth; `extra` holds further keys of the file's JSON object.
        """
        moment = uploaded or datetime.fromtimestamp(self.clock(), UTC)
        entry = Entry(
            built=built,
            uploaded=moment,
            path=f"packages/{built.sha256[:2]}/{built.sha256[2:4]}/{built.sha256[4:]}/{built.filename}",
            yanked=yanked,
            core_metadata=core_metadata and built.filename.endswith(".whl"),
            provenance=_attestation(built) if provenance is True else (provenance or None),
            metadata=built.metadata if metadata is None else metadata,
            digests=digests or {"sha256": built.sha256, "md5": built.md5},
            extra=extra or {},
        )
        project = self._touch(built.name)
        project.files = [other for other in project.files if other.built.filename != built.filename] + [entry]
        self._by_path[entry.path] = project, entry
        return entry

    def yank(self, name: str, version: str, reason: str = "") -> None:
        """PEP 592: mark every file of a version."""
        for entry in self._touch(name).files:
            if entry.built.version == version:
                entry.yanked = reason

    def unyank(self, name: str, version: str) -> None:
        for entry in self._touch(name).files:
            if entry.built.version == version:
                entry.yanked = None

    def remove(self, name: str, filename: str | None = None) -> None:
        """Delete one file, or the whole project; their URLs answer 404 from now on."""
        project = self._touch(name)
        gone = [entry for entry in project.files if filename in (None, entry.built.filename)]
        for entry in gone:
            del self._by_path[entry.path]
        project.files = [entry for entry in project.files if entry not in gone]
        if filename is None:
            del self.projects[canonical(name)]

    def set_status(self, name: str, status: str, reason: str | None = None) -> None:
        """PEP 792: active, archived, deprecated, quarantined (which lists no files)."""
        project = self._touch(name)
        project.status, project.reason = status, reason

    def _touch(self, name: str) -> Listed:
        self.serial += 1
        project = self.projects.setdefault(
            canonical(name), Listed(canonical(name), name, self.serial, datetime.fromtimestamp(0, UTC))
        )
        project.serial = self.serial
        project.changed = datetime.fromtimestamp(self.clock(), UTC)
        return project

    # Answers

    def answer(self, request: Request) -> Answer | None:
        """None when the path is none of ours."""
        path = unquote(request.path)
        match path.strip("/").split("/"):
            case ["simple"]:
                return self._page(request, None)
            case ["simple", name]:
                return self._project(request, path, name)
            case ["pypi", name, "json"]:
                return self._legacy(request, name, None)
            case ["pypi", name, version, "json"]:
                return self._legacy(request, name, version)
            case ["integrity", name, version, filename, "provenance"]:
                return self._provenance(request, name, version, filename)
            case ["packages", *_]:
                return self._file(request, path.lstrip("/"))
        return None

    def _project(self, request: Request, path: str, name: str) -> Answer:
        if path != f"/simple/{canonical(name)}/":
            return redirect(f"/simple/{canonical(name)}/", 301)
        project = self.projects.get(name)
        if project is None:
            return plain(404, "Not found.\n")
        if self.modes_of(name).redirect_pages and f":{request.port}/" in self._url:
            return redirect(f"{self._other_url}simple/{name}/")
        return self._page(request, project)

    def _page(self, request: Request, project: Listed | None) -> Answer:
        modes = self.modes_of(project.name) if project else self.modes
        media = _negotiate(request, modes)
        if media is None:
            return plain(406, "No such media type.\n")
        if media == JSON:
            value = self._project_json(project, modes) if project else self._root_json(modes)
            body = json.dumps(value, separators=(",", ":")).encode()
        else:
            body = (self._project_html(project, modes) if project else self._root_html(modes)).encode()
        headers = {"Vary": "Accept, Accept-Encoding"}
        if modes.max_age is not None:
            headers["Cache-Control"] = f"max-age={modes.max_age}, public"
        if modes.serials:
            headers["X-PyPI-Last-Serial"] = str(project.serial if project else self.serial)
        return answer(
            request,
            Thing(
                body,
                media if media == JSON else f"{media}; charset=utf-8",
                etag=digest_etag(body, "md5") if modes.etag else None,
                headers=headers,
                ranges=False,
                gzip=modes.gzip,
            ),
        )

    def _root_json(self, modes: Modes) -> dict[str, Any]:
        serial = {"_last-serial": self.serial} if modes.serials else {}
        return {
            "meta": {"api-version": modes.api_version, **serial},
            "projects": [
                {"name": project.display, **({"_last-serial": project.serial} if modes.serials else {})}
                for _, project in sorted(self.projects.items())
            ],
        }

    def _root_html(self, modes: Modes) -> str:
        links = "".join(
            f'    <a href="/simple/{name}/">{html.escape(project.display)}</a>\n'
            for name, project in sorted(self.projects.items())
        )
        return _document(modes, "", "Simple index", links)

    def _listed(self, project: Listed) -> list[Entry]:
        return [] if project.status == "quarantined" else project.files

    def _project_json(self, project: Listed, modes: Modes) -> dict[str, Any]:
        versions = list(dict.fromkeys(entry.built.version for entry in self._listed(project)))
        meta: dict[str, Any] = {"api-version": modes.api_version}
        if modes.serials:
            meta["_last-serial"] = project.serial
        value: dict[str, Any] = {
            "meta": meta,
            "name": project.name,
            "files": [self._file_json(project, entry, modes) for entry in self._listed(project)],
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

    def _project_html(self, project: Listed, modes: Modes) -> str:
        lines = []
        for entry in self._listed(project):
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
        return self._other_url if modes.files_elsewhere else self._url

    def _link(self, entry: Entry, modes: Modes, *, absolute: bool) -> str:
        if absolute or modes.urls == "absolute" or (modes.files_elsewhere and modes.urls == "relative"):
            return self._file_root(modes) + entry.path
        return entry.path.removeprefix("packages/") if modes.urls == "base" else f"../../{entry.path}"

    def _provenance_url(self, project: Listed, entry: Entry) -> str | None:
        if entry.provenance is None:
            return None
        return f"{self._url}integrity/{project.name}/{entry.built.version}/{entry.built.filename}/provenance"

    def _file(self, request: Request, path: str) -> Answer:
        wants_metadata = path not in self._by_path and path.endswith(".metadata")
        found = self._by_path.get(path.removesuffix(".metadata") if wants_metadata else path)
        if found is None:
            return plain(404, "Not found.\n")
        project, entry = found
        modes = self.modes_of(project.name)
        if wants_metadata and not (modes.metadata and entry.core_metadata):
            return plain(404, "Not found.\n")
        if request.method == "HEAD" and not modes.head:
            return plain(405, "No HEAD here.\n")
        if modes.redirect_files and f":{request.port}/" in self._url:
            return redirect(f"{self._other_url}{path}")
        body = entry.metadata if wants_metadata else entry.built.content
        return answer(
            request,
            Thing(
                body,
                "application/octet-stream",
                etag=(digest_etag(body, "md5") if wants_metadata else f'"{entry.built.md5}"')
                if modes.file_etag
                else None,
                last_modified=format_datetime(entry.uploaded.astimezone(UTC), usegmt=True),
                headers={"Cache-Control": "max-age=365000000, immutable, public"},
                ranges=modes.ranges,
            ),
        )

    def _provenance(self, request: Request, name: str, version: str, filename: str) -> Answer:
        project = self.projects.get(canonical(name))
        for entry in project.files if project else ():
            if (entry.built.version, entry.built.filename) == (version, filename) and entry.provenance is not None:
                body = json.dumps(entry.provenance).encode()
                media = "application/vnd.pypi.integrity.v1+json"
                return answer(request, Thing(body, media, etag=digest_etag(body, "md5"), ranges=False))
        return plain(404, '{"message":"No provenance available"}')

    def _legacy(self, request: Request, name: str, version: str | None) -> Answer:
        project = self.projects.get(canonical(name))
        if project is None or not self.modes_of(project.name).legacy_json:
            return plain(404, '{"message":"Not Found"}')
        modes = self.modes_of(project.name)
        releases: dict[str, list[Entry]] = {}
        for entry in project.files:
            releases.setdefault(entry.built.version, []).append(entry)
        shown = version or max(releases, key=_sortable, default="")
        if version is not None and version not in releases:
            return plain(404, '{"message":"Not Found"}')
        files = releases.get(shown, [])
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
        body = json.dumps(value).encode()
        headers = {"Cache-Control": "max-age=900, public", "X-PyPI-Last-Serial": str(project.serial)}
        etag = digest_etag(body, "md5")
        return answer(request, Thing(body, "application/json", etag, headers=headers, ranges=False, gzip=modes.gzip))

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
            "package_url": f"{self._url}project/{project.name}/",
            "project_url": f"{self._url}project/{project.name}/",
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


def _negotiate(request: Request, modes: Modes) -> str | None:
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


def _attestation(built: Built) -> dict[str, Any]:
    """A provenance object (PEP 740) of the right shape; nothing in it is signed."""
    subject = {"filename": built.filename, "sha256": built.sha256}
    return {
        "version": 1,
        "attestation_bundles": [
            {
                "publisher": {"kind": "GitHub", "repository": "owner/project", "workflow": "release.yml"},
                "attestations": [{"version": 1, "envelope": {"statement": subject}, "verification_material": {}}],
            }
        ],
    }


def _header(built: Built, name: str) -> str | None:
    value = BytesParser().parsebytes(built.metadata, headersonly=True).get(name)
    return None if value is None else str(value)


def _sha256(content: bytes) -> str:
    return digest_etag(content).strip('"')


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _sortable(version: str) -> list[tuple[int, int | str]]:
    return [(1, int(part)) if part.isdigit() else (0, part) for part in re.findall(r"\d+|[a-z]+", version)]
