"""A gem index as files: which file is where in an exported tree, and how a web server has to hand it out.

`/versions` lists the gems of the tree with the MD5 of their pages in the tree, each gem in one line, since
the file is written anew each time. Yanked gems are not in the tree.

The surprise is in the lines for nginx, whose own ETag breaks bundler 2.3 and 2.4: they need the MD5 of the body, or
none at all. Without one, and without ranges (which they trust only with one), every client fetches the complete page,
and works. An ETag of ours would have to be written into nginx's configuration, and be wrong until that is reloaded.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from html import escape
from typing import get_args

from mirror.errors import Invalid
from mirror.model import File, Page, Project
from mirror.rubygems import pages
from mirror.rubygems.index import SpecsKind, listed_digest, render_names, specs, specs_digest
from mirror.rubygems.log.versions_map import VersionsMap, render_versions
from mirror.rubygems.names import FullName, address_of, canonical, is_listed, listed_as, split_number

_BEGINNING = datetime.fromtimestamp(0, UTC)
"""The date of every `/versions`: with the day of the export, it would differ though nothing has changed."""


class RubyLayout:
    """The `index.ecosystem.StaticLayout` of Ruby."""

    roots: tuple[str, ...] = (
        "versions", "names", *(f"{which}.4.8{end}" for which in get_args(SpecsKind) for end in ("", ".gz")),
        "api", "info", "quick", "gems",
    )  # fmt: skip
    title = "Ruby gems"
    start = "gems/"
    sidecars_beside_files = False

    def usage(self, url: str) -> str:
        return f"gem install --clear-sources --source {url} NAME"

    def listed(self, file: File, sidecar: str | None) -> File | None:
        suffix = address_of(file) or file.platform or "ruby"
        installable = file.yanked is None and sidecar is not None and is_listed(file.version, suffix)
        return file if installable else None  # `gem install` reads the gemspec of every gem

    def file(self, project: str, file: File) -> str:
        return f"gems/{self._full(project, file)}.gem"

    def sidecar(self, project: str, file: File) -> str:
        return f"quick/Marshal.4.8/{self._full(project, file)}.gemspec.rz"

    def _full(self, project: str, file: File) -> FullName:
        return FullName(canonical(project), file.version, address_of(file) or file.platform or "ruby")

    def document(self, project: str) -> Page:
        return Page("gem_json", project)

    def described_by(self, project: Project) -> File | None:
        return None

    def pages(self, project: Project, files: str, document: bytes | None, sidecar: bytes | None) -> Mapping[str, bytes]:
        name = canonical(project.name)
        gems = f"{files or '../../../'}gems/"
        links = pages.Links(gem=lambda filename: f"{gems}{filename}", project=lambda _: f"../../../info/{name}")
        return {
            f"info/{name}": pages.render_info(project),
            f"api/v1/gems/{name}.json": pages.gem_json(project, links, document),
        }

    def entry(self, project: Project) -> str:
        numbers = dict.fromkeys(map(listed_as, project.files))
        return f"{','.join(numbers)} {pages.revision(pages.render_info(project))}"

    def index(self, entries: Mapping[str, str], documents: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
        versions = VersionsMap()
        for name, entry in entries.items():
            numbers, _, md5 = entry.partition(" ")
            versions.set(name, numbers.split(","), md5)
        yield "gems/index.html", _list_for_people(versions)
        for which in get_args(SpecsKind):
            theirs = documents.get(which)
            same = theirs is not None and _lists_same(theirs, versions, which)
            yield f"{which}.4.8.gz", theirs if theirs is not None and same else specs(versions, which)
        yield "names", render_names(versions)
        yield "versions", render_versions(versions, _BEGINNING)

    def nginx_http(self) -> str:
        return ""

    def nginx_server(self, mount: str, files: str) -> str:
        at = mount.replace(".", "\\.")
        elsewhere = f"""\
location ~ ^{at}/gems/([A-Za-z0-9._-]+\\.gem)$ {{
    return 302 {files}gems/$1;
}}
"""
        here = f"""\
location ~ ^{at}/gems/[^/]+\\.gem$ {{
    types {{ }}
    default_type application/octet-stream;
    add_header Cache-Control "max-age=31536000, immutable";
}}
"""
        return f"""\
# The compact index: bundler 2.3 and 2.4 give it up for any ETag but the MD5 of the body; none at all is right for all.
location ~ ^{at}/(?:versions|names|info/[^/]+)$ {{
    types {{ }}
    default_type text/plain;
    charset utf-8;
    etag off;
    max_ranges 0;
    gzip on;
    gzip_types text/plain;
    add_header Cache-Control max-age=60;
}}
location = {mount}/gems/ {{
    types {{ text/html html; }}
    try_files {mount}/gems/index.html =404;
}}
location ~ ^{at}/(?:specs|latest_specs|prerelease_specs)\\.4\\.8\\.gz$ {{
    types {{ }}
    default_type application/octet-stream;
    add_header Cache-Control max-age=60;
}}
location ~ ^{at}/(?:specs|latest_specs|prerelease_specs)\\.4\\.8$ {{
    types {{ }}
    default_type application/octet-stream;
    gzip_static always;
    gunzip on;
}}
location ~ ^{at}/quick/Marshal\\.4\\.8/ {{
    types {{ }}
    default_type application/octet-stream;
}}
location ~ ^{at}/api/v1/gems/ {{
    types {{ application/json json; }}
    add_header Cache-Control max-age=60;
}}
{elsewhere if files else here}"""


def _lists_same(theirs: bytes, versions: VersionsMap, which: SpecsKind) -> bool:
    """Return whether an upstream's file lists just what the tree does."""
    try:
        return specs_digest(theirs) == listed_digest(versions, which)
    except Invalid:
        return False


def _list_for_people(versions: VersionsMap) -> bytes:
    lines = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Gems</title>\n</head>\n<body>',
        "<h1>Gems</h1>\n<dl>",
    ]
    for name in versions:
        links = []
        for written in versions.versions(name):
            version, platform = split_number(written)
            filename = FullName(name, version, platform).filename
            links.append(f'<a href="{escape(filename)}">{escape(written)}</a>')
        lines.append(f'<dt><a href="../info/{escape(name)}">{escape(name)}</a></dt><dd>{" ".join(links)}</dd>')
    lines.append("</dl>\n</body>\n</html>\n")
    return "\n".join(lines).encode()


LAYOUT = RubyLayout()
