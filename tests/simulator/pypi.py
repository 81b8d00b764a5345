"""The PyPI side: the simple API in JSON and HTML, the legacy JSON, files, metadata and provenance.

As the public index answers by default; `configure` makes it like the others that are met in the wild, as a whole or
for one project. The surprise: `publish` accepts the same file name twice, as no honest index does.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import unquote

from tests.builders import Built

from .pypi_pages import JSON, Entry, Listed, Modes, Pages, canonical, negotiate
from .wire import Representation, Request, SimulatedResponse, answer, digest_etag, plain, redirect


class PyPI:
    """A Python index: `projects`, `serial`, and what changes them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.projects: dict[str, Listed] = {}
        self.serial = 1000
        self.modes = Modes()
        self._modes: dict[str, dict[str, Any]] = {}
        self._by_path: dict[str, tuple[Listed, Entry]] = {}
        self._pages = Pages()

    def at(self, url: str, other_url: str) -> None:
        """Where the index is reached; the simulator says so when it starts."""
        self._pages = Pages(url, other_url)

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

    def relink(self, name: str, filename: str) -> str:
        """Give a file another link, as an index with signed ones does; return the path of the old one, now 404."""
        entry = next(entry for entry in self._touch(name).files if entry.built.filename == filename)
        project, old = self._by_path[entry.path][0], entry.path
        entry.path = f"packages/again{self.serial}/{filename}"
        self._by_path[entry.path] = project, entry
        del self._by_path[old]
        return f"/{old}"

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

    def answer(self, request: Request) -> SimulatedResponse | None:
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

    def _project(self, request: Request, path: str, name: str) -> SimulatedResponse:
        if path != f"/simple/{canonical(name)}/":
            return redirect(f"/simple/{canonical(name)}/", 301)
        project = self.projects.get(name)
        if project is None:
            return plain(404, "Not found.\n")
        if self.modes_of(name).redirect_pages and f":{request.port}/" in self._pages.url:
            return redirect(f"{self._pages.other_url}simple/{name}/")
        return self._page(request, project)

    def _page(self, request: Request, project: Listed | None) -> SimulatedResponse:
        modes = self.modes_of(project.name) if project else self.modes
        media = negotiate(request, modes)
        if media is None:
            return plain(406, "No such media type.\n")
        if media == JSON:
            value = (
                self._pages.project_json(project, modes)
                if project
                else self._pages.root_json(self.projects, self.serial, modes)
            )
            body = json.dumps(value, separators=(",", ":")).encode()
        else:
            body = (
                self._pages.project_html(project, modes) if project else self._pages.root_html(self.projects, modes)
            ).encode()
        headers = {"Vary": "Accept, Accept-Encoding"}
        if modes.max_age is not None:
            headers["Cache-Control"] = f"max-age={modes.max_age}, public"
        if modes.serials:
            headers["X-PyPI-Last-Serial"] = str(project.serial if project else self.serial)
        return answer(
            request,
            Representation(
                body,
                media if media == JSON else f"{media}; charset=utf-8",
                etag=digest_etag(body, "md5") if modes.etag else None,
                headers=headers,
                ranges=False,
                gzip=modes.gzip,
            ),
        )

    def _file(self, request: Request, path: str) -> SimulatedResponse:
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
        if modes.redirect_files and f":{request.port}/" in self._pages.url:
            return redirect(f"{self._pages.other_url}{path}")
        body = entry.metadata if wants_metadata else entry.built.content
        return answer(
            request,
            Representation(
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

    def _provenance(self, request: Request, name: str, version: str, filename: str) -> SimulatedResponse:
        project = self.projects.get(canonical(name))
        for entry in project.files if project else ():
            if (entry.built.version, entry.built.filename) == (version, filename) and entry.provenance is not None:
                body = json.dumps(entry.provenance).encode()
                media = "application/vnd.pypi.integrity.v1+json"
                return answer(request, Representation(body, media, etag=digest_etag(body, "md5"), ranges=False))
        return plain(404, '{"message":"No provenance available"}')

    def _legacy(self, request: Request, name: str, version: str | None) -> SimulatedResponse:
        project = self.projects.get(canonical(name))
        if project is None or not self.modes_of(project.name).legacy_json:
            return plain(404, '{"message":"Not Found"}')
        modes = self.modes_of(project.name)
        value = self._pages.legacy_json(project, version, modes)
        if value is None:
            return plain(404, '{"message":"Not Found"}')
        body = json.dumps(value).encode()
        headers = {"Cache-Control": "max-age=900, public", "X-PyPI-Last-Serial": str(project.serial)}
        etag = digest_etag(body, "md5")
        return answer(
            request, Representation(body, "application/json", etag, headers=headers, ranges=False, gzip=modes.gzip)
        )


def _attestation(built: Built) -> dict[str, Any]:
    """A provenance object (PEP 740) of the right shape; nothing in it is signed."""
    subject = {"name": built.filename, "digest": {"sha256": built.sha256}}
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [subject],
        "predicateType": "x",
        "predicate": None,
    }
    envelope = {"statement": b64encode(json.dumps(statement).encode()).decode(), "signature": ""}
    return {
        "version": 1,
        "attestation_bundles": [
            {
                "publisher": {"kind": "GitHub", "repository": "owner/project", "workflow": "release.yml"},
                "attestations": [{"version": 1, "envelope": envelope, "verification_material": {}}],
            }
        ],
    }
