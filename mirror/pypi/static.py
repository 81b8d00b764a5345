"""A Python index as a tree of files: the path of each, and how a web server serves it.

Both forms of each simple page are files of their own, and the web server chooses; one that cannot serves the HTML,
which every installer reads.

The surprise: links are relative, also those of the JSON API, since it is not known under which name the tree will be
served.
"""

from collections.abc import Iterator, Mapping
from urllib.parse import quote

import msgspec

from mirror.model import File, Names, Page, Project
from mirror.pypi import index, legacy, pages
from mirror.pypi.names import canonical, has_metadata, safe_filename

_HTML, _JSON = "index.html", "index.v1_json"


class PythonLayout:
    """The `index.ecosystem.StaticLayout` of Python."""

    roots: tuple[str, ...] = ("simple", "pypi", "packages")
    title = "Python projects"
    start = "simple/"
    sidecars_beside_files = True

    def usage(self, url: str) -> str:
        return f"pip install --index-url {url}simple/ NAME"

    def listed(self, file: File, sidecar: str | None) -> File | None:
        if not safe_filename(file.filename) or file.filename.endswith(".metadata"):
            return None  # `.metadata` is the suffix of sidecars
        extra = {key: value for key, value in file.extra.items() if key != "core-metadata"}
        if sidecar is not None and has_metadata(file):
            extra["core-metadata"] = {"sha256": sidecar}
        return msgspec.structs.replace(file, extra=extra)

    def file(self, project: str, file: File) -> str:
        return f"packages/{canonical(project)}/{file.filename}"

    def sidecar(self, project: str, file: File) -> str:
        return f"{self.file(project, file)}.metadata"

    def document(self, project: str) -> Page:
        return legacy.legacy_page(project)

    def described_by(self, project: Project) -> File | None:
        return next(iter(legacy.files_of(project, None)), None)

    def pages(self, project: Project, files: str, document: bytes | None, sidecar: bytes | None) -> Mapping[str, bytes]:
        name = canonical(project.name)
        root = files or "../../"

        def link(file: File) -> str:
            return f"{root}packages/{name}/{quote(file.filename)}"

        project = msgspec.structs.replace(project, versions=())  # only versions that have files in the tree
        return {
            f"simple/{name}/{_JSON}": pages.render_json(project, link),
            f"simple/{name}/{_HTML}": pages.render_html(project, link),
            f"pypi/{name}/json": legacy.render(project, document, None, link, sidecar),
        }

    def entry(self, project: Project) -> str:
        return "" if project.serial is None else str(project.serial)

    def index(self, entries: Mapping[str, str], documents: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
        serials = {name: int(entry) if entry else None for name, entry in entries.items()}
        newest = max((serial for serial in serials.values() if serial is not None), default=None)
        names = Names(serials=serials, serial=newest)
        yield f"simple/{_JSON}", index.render_names_json(names)
        yield f"simple/{_HTML}", index.render_names_html(names)

    def nginx_http(self) -> str:
        return f"""\
# Simple pages: JSON for the installers that ask for it, HTML for the others and for people.
map $http_accept $mirror_simple {{
    default {_HTML};
    "~application/vnd\\.pypi\\.simple\\.(?:v1|latest)\\+json" {_JSON};
}}
"""

    def nginx_server(self, mount: str, files: str) -> str:
        return f"""\
location ~ ^{_quoted(mount)}/simple/(?:[^/]+/)?$ {{
    types {{ text/html html; {pages.JSON_TYPE} v1_json; }}
    charset utf-8;
    add_header Vary Accept always;
    add_header Cache-Control max-age=60;
    try_files $uri$mirror_simple =404;
}}
location ~ ^{_quoted(mount)}/simple/(?!index\\.)([A-Za-z0-9._-]+)$ {{
    absolute_redirect off;
    return 301 {mount}/simple/$1/;
}}
location ~ ^{_quoted(mount)}/pypi/[^/]+/json$ {{
    types {{ }}
    default_type application/json;
    add_header Cache-Control max-age=60;
}}
location {mount}/packages/ {{
    types {{ application/zip whl zip; application/gzip gz; }}
    default_type application/octet-stream;
    add_header Cache-Control "max-age=31536000, immutable";
}}
"""


def _quoted(mount: str) -> str:
    """Quote a mount for a regular expression."""
    return mount.replace(".", "\\.")


LAYOUT = PythonLayout()
