"""Fuzzers of what an upstream's index sends: simple pages, JSON, the compact index, Marshal."""

import json
import zlib
from collections.abc import Callable
from urllib.parse import quote

from yarl import URL

from mirror.errors import MirrorError
from mirror.model import File, Page, Project, UpstreamResponse
from mirror.pypi import index, legacy, pages
from mirror.rubygems import index as gem_index
from mirror.rubygems import pages as gem_pages
from mirror.rubygems.log import versions_map
from mirror.rubygems.marshal import reading
from tests.builders import gem
from tests.fuzz.fuzzer import Fuzzer, target
from tests.simulator.gemspec import Spec

_JSON = "application/vnd.pypi.simple.v1+json"
_TYPES = (_JSON, "text/html", "application/vnd.pypi.simple.v1+html", "text/html; charset=latin-1")
_FILE = {
    "filename": "acme-1.0-py3-none-any.whl",
    "url": "../../files/acme-1.0-py3-none-any.whl",
    "hashes": {"sha256": "ab" * 32, "blake2b": "cd"},
    "size": 1234,
    "upload-time": "2024-02-29T12:00:00.123456Z",
    "requires-python": ">=3.8",
    "yanked": "broken",
    "core-metadata": {"sha256": "ef" * 32},
    "provenance": "https://index.example/integrity/acme/1.0/provenance",
}
_DOCUMENT = {
    "meta": {"api-version": "1.4", "_last-serial": 17},
    "name": "acme",
    "versions": ["1.0", "2.0rc1"],
    "files": [_FILE, {**_FILE, "filename": "acme-2.0rc1.tar.gz", "yanked": False, "core-metadata": False}],
    "project-status": {"status": "archived", "reason": "gone"},
    "alternate-locations": ["https://other.example/simple/acme/"],
}
_LEGACY = {
    "info": {"name": "acme", "version": "1.0", "classifiers": ["x"], "requires_dist": ["six>1"], "yanked": False},
    "last_serial": 3,
    "releases": {"1.0": [{"filename": _FILE["filename"], "digests": {"sha256": "ab" * 32}, "size": 3}]},
    "urls": [{"filename": _FILE["filename"]}],
    "vulnerabilities": [],
}
_HTML = b"""<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.3"><title>Links for acme</title>
<base href="https://files.example/"></head><body><h1>Links for acme</h1>
<a href="acme-1.0-py3-none-any.whl#sha256=%s" data-requires-python="&gt;=3.8" data-yanked="why"
 data-core-metadata="sha256=%s" data-upload-time="2024-01-01T00:00:00Z">acme-1.0-py3-none-any.whl</a><br/>
<a href="/f/acme-2.0.tar.gz?x=%%20y">acme-2.0.tar.gz</a></body></html>""" % (b"ab" * 32, b"cd" * 32)


def _response(content_type: str, body: bytes) -> UpstreamResponse:
    return UpstreamResponse(url="https://index.example/simple/acme/", content_type=content_type, body=body)


def _link(file: File) -> str:
    return f"/packages/acme/{quote(file.filename)}"


def _check_page(data: bytes) -> None:
    """Check a page, a list of names or a JSON document; the first byte chooses."""
    kind, body = (data[0] if data else 0), data[1:]
    response = _response(_TYPES[kind % 4], body)
    if kind & 4:
        try:
            names = index.parse_names(response)
        except MirrorError:
            return
        index.render_names_html(names)
        again = index.parse_names(_response(_JSON, index.render_names_json(names)))
        assert again.serials == names.serials
        return
    known = Project(name="acme", files=(File(filename="acme-1.0.tar.gz", version="1.0"),), versions=("1.0",))
    if kind & 8:
        json.loads(legacy.render(known, body, None, _link))
        return
    try:
        project = pages.parse_simple(Page("project", "acme"), response)
    except MirrorError:
        return
    json.loads(legacy.render(project, None, None, _link))
    pages.render_html(project, _link)
    rendered = pages.render_json(project, _link, _link)
    again_project = pages.parse_simple(Page("project", "acme"), _response(_JSON, rendered))
    assert [file.filename for file in again_project.files] == [file.filename for file in project.files]
    assert [file.digests for file in again_project.files] == [file.digests for file in project.files]


def _page_seeds() -> list[bytes]:
    documents = json.dumps(_DOCUMENT).encode()
    names = json.dumps(
        {"meta": {"api-version": "1.1", "_last-serial": 9}, "projects": [{"name": "Acme"}, {"name": "b.c"}]}
    )
    html_names = b"<html><body><a href='acme/'>Acme</a><a href='/simple/b-c/'>b.c</a></body></html>"
    return [
        b"\0" + documents,
        b"\1" + _HTML,
        b"\2" + _HTML,
        b"\3" + _HTML,
        b"\4" + names.encode(),
        b"\5" + html_names,
        b"\x08" + json.dumps(_LEGACY).encode(),
    ]


_INFO = b"""---
1.0.0 rack:>= 1.0&< 3,rake:>= 0|checksum:%s,ruby:>= 2.5&< 4,rubygems:>= 3.0,created_at:2024-02-29T10:00:00Z
1.0.0-x86_64-linux-gnu |checksum:%s
2.0.0.pre1 a:= 1|checksum:%s,unknown:x,odd
2.0.0-java b:~> 1.0
""" % (b"ab" * 32, b"cd" * 32, b"ef" * 32)
_VERSIONS = b"""created_at: 2026-01-01T00:00:00Z
---
rack 1.0,2.0-java %s
- 1.0 %s
http_parser.rb 0.6,-0.6 %s

rack -1.0,3.0 %s
.cat 1
""" % ((b"ab" * 16,) * 4)


def _check_compact(data: bytes) -> None:
    """Check `/info`, `/versions` or `/names`; the first byte chooses."""
    kind, body = (data[0] if data else 0) % 3, data[1:]
    try:
        if kind == 0:
            project = gem_pages.parse_info(body, "acme", URL("https://gems.example/"))
            rendered = gem_pages.render_info(project)
            again = gem_pages.parse_info(rendered, "acme", URL("https://gems.example/"))
            assert [file.filename for file in again.files] == [file.filename for file in project.files]
        elif kind == 1:
            versions = versions_map.parse_versions(body)
            gem_index.render_names(versions)
            for which in ("specs", "latest_specs", "prerelease_specs"):
                gem_index.specs(versions, which)  # type: ignore[arg-type]
        else:
            gem_pages.parse_names(_response("text/plain", body))
    except MirrorError:
        return


def _check_marshal(data: bytes) -> None:
    """Check Marshal of any value, a list of versions, a gemspec; the first byte chooses."""
    kind, body = (data[0] if data else 0) % 3, data[1:]
    readers: tuple[Callable[[bytes], object], ...] = (
        reading.load,
        reading.load_gemspec,
        lambda body: list(reading.load_specs(body)),
    )
    try:
        readers[kind](body)
    except MirrorError:
        return


def _marshal_seeds() -> list[bytes]:
    spec = zlib.decompress(Spec.read(gem("acme", "1.0", platform="java").content).marshalled())
    listed = zlib.decompress(gem_index.specs(versions_map.parse_versions(_VERSIONS), "specs"), 31)
    return [b"\1" + spec, b"\0" + spec, b"\2" + listed, b"\0" + listed, b'\0\x04\b{\aI"\x06a\x06:\x06ETi\x02\x10\x27']


FUZZERS = (
    Fuzzer("pages", _page_seeds, target(_check_page), [json.dumps(word).encode() for word in (*_DOCUMENT, *_FILE)]),
    Fuzzer(
        "compact-index",
        lambda: [b"\0" + _INFO, b"\1" + _VERSIONS, b"\2---\nrack\nhttp_parser.rb\n_\n"],
        target(_check_compact),
        [
            b"|checksum:",
            b",ruby:",
            b"platform:",
            b"&",
            b"---\n",
            b"-java",
            b"-x86_64-linux-gnu",
            b"~> ",
            b"created_at: ",
        ],
    ),
    Fuzzer(
        "marshal",
        _marshal_seeds,
        target(_check_marshal),
        [
            b"\x04\b",
            b"[\x06",
            b"{\x06",
            b"u:\x17Gem::Specification",
            b"U:\x11Gem::Version",
            b"@\x06",
            b";\0",
            b"l+",
            b"f\bnan",
        ],
    ),
)
