"""Fuzzers of what an upstream's index sends: simple pages, JSON, the compact index, Marshal."""

import base64
import json
import zlib
from collections.abc import Callable
from random import Random
from urllib.parse import quote

from yarl import URL

from mirror.errors import MirrorError
from mirror.model import File, Page, Project, UpstreamResponse
from mirror.pypi import documents, index, legacy, pages, provenance
from mirror.rubygems import index as gem_index
from mirror.rubygems import names
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


def _check_page(data: bytes) -> bool:
    """Check a page, a list of names or a JSON document; the first byte chooses."""
    kind, body = (data[0] if data else 0) % 64, data[1:]
    response = _response(_TYPES[kind % 4], body)
    if kind & 32:
        return _check_html(body.decode("utf-8", "replace"))
    if kind & 16:
        return _check_provenance(_attested(body) if kind & 2 else body, own=bool(kind & 1))
    if kind & 4:
        return _check_names(response)
    known = Project(name="acme", files=(File(filename="acme-1.0.tar.gz", version="1.0"),), versions=("1.0",))
    if kind & 8:
        return "urls" in json.loads(legacy.render(known, body, None, _link))
    try:
        project = pages.parse_simple(Page("project", "acme"), response)
    except MirrorError:
        return False
    json.loads(legacy.render(project, None, None, _link))
    pages.render_html(project, _link)
    rendered = pages.render_json(project, _link, _link)
    again_project = pages.parse_simple(Page("project", "acme"), _response(_JSON, rendered))
    assert [file.filename for file in again_project.files] == [file.filename for file in project.files]
    assert [file.digests for file in again_project.files] == [file.digests for file in project.files]
    return True


def _check_names(response: UpstreamResponse) -> bool:
    try:
        listed = index.parse_names(response)
    except MirrorError:
        return False
    index.render_names_html(listed)
    again = index.parse_names(_response(_JSON, index.render_names_json(listed)))
    assert again.serials == listed.serials
    return True


def _check_html(text: str) -> bool:
    """Ask of a page without files whether it is one of an index; what a portal shows is none."""
    found = documents.looks_like_index(text, version=False)
    assert not (found and documents.looks_like_index(f"<form>{text}", version=False)), "a page with a form is no index"
    return found


def _attested(statement: bytes) -> bytes:
    """Return attestations of a statement, which is encoded in them."""
    return json.dumps([{**_ATTESTATION, "envelope": _envelope(statement)}]).encode()


def _check_provenance(body: bytes, *, own: bool) -> bool:
    """Check what an upstream has as the provenance of a file, or attestations that are uploaded."""
    file = File(filename=_ATTESTED, version="1.0", digests={"sha256": "ab" * 32})
    try:
        if own:
            body = provenance.from_attestations(body.decode("utf-8", "surrogateescape"), file).encode()
        provenance.check_provenance(file, body)
    except MirrorError:
        return False
    return True


_ATTESTED = "acme-1.0.tar.gz"
_STATEMENT = {
    "_type": "https://in-toto.io/Statement/v1",
    "subject": [{"name": _ATTESTED, "digest": {"sha256": "ab" * 32}}],
    "predicateType": "https://attestations.example/publish/v1",
    "predicate": None,
}


def _envelope(statement: bytes) -> dict[str, str]:
    return {"statement": base64.b64encode(statement).decode(), "signature": "YWJj"}


_ATTESTATION = {
    "version": 1,
    "verification_material": {"certificate": "YWJj", "transparency_entries": [{"logIndex": "1"}]},
    "envelope": _envelope(json.dumps(_STATEMENT).encode()),
}
_PROVENANCE = {
    "version": 1,
    "attestation_bundles": [{"publisher": {"kind": "x", "claims": None}, "attestations": [_ATTESTATION]}],
}
_EMPTY_PAGES = (
    b"<!DOCTYPE html><html><head><title>Links for acme</title></head><body><h1>Links for acme</h1></body></html>",
    b"<html><head><title>Index of /acme</title></head><body><a href='../'>..</a><a href='b/'>b/</a></body></html>",
    b"<html><head><title>Sign in</title></head><body><h1>Acme portal</h1><p>Blocked by policy.</p></body></html>",
    b"<a href='/simple/a%20b/'>a b</a><a href=\"acme-1.0.tar.gz#sha256=ab\">acme-1.0.tar.gz</a>",
)


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
        b"\x10" + json.dumps(_PROVENANCE).encode(),
        b"\x11" + json.dumps([_ATTESTATION]).encode(),
        b"\x13" + json.dumps(_STATEMENT).encode(),
        *(b"\x20" + page for page in _EMPTY_PAGES),
    ]


_INFO = b"""---
1.0.0 rack:>= 1.0&< 3,rake:>= 0|checksum:%s,ruby:>= 2.5&< 4,rubygems:>= 3.0,created_at:2024-02-29T10:00:00Z
1.0.0-x86_64-linux-gnu |checksum:%s
2.0.0.pre1 a:= 1|checksum:%s,unknown:x,odd
2.0.0-java b:~> 1.0
2.0.0-78be552b rack:>= 1.0|checksum:%s,ruby:~> 3.4.0,platform:= x86_64-linux
2.0.0-00c1d2e3f4 |checksum:%s,ruby:~> 3.3.0,platform:= arm64-darwin,created_at:2026-01-01T00:00:00+02:00
""" % (b"ab" * 32, b"cd" * 32, b"ef" * 32, b"01" * 32, b"23" * 32)
_VERSIONS = b"""created_at: 2026-01-01T00:00:00Z
---
rack 1.0,2.0-java %s
- 1.0 %s
http_parser.rb 0.6,-0.6 %s

rack -1.0,3.0 %s
native 1.0,1.0-x86_64-linux,1.0-78be552b,1.0-00c1d2e3 %s
.cat 1
""" % ((b"ab" * 16,) * 5)


def _check_compact(data: bytes) -> bool:
    """Check `/info`, `/versions` or `/names`; the first byte chooses."""
    kind, body = (data[0] if data else 0) % 3, data[1:]
    try:
        if kind == 0:
            project = gem_pages.parse_info(body, "acme", URL("https://gems.example/"))
            rendered = gem_pages.render_info(project)
            again = gem_pages.parse_info(rendered, "acme", URL("https://gems.example/"))
            assert [file.filename for file in again.files] == [file.filename for file in project.files]
            assert [names.abi_of(file) for file in again.files] == [names.abi_of(file) for file in project.files]
            for file in project.files:
                assert file.filename == f"acme-{names.listed_as(file)}.gem" or file.platform == "ruby"
                gem_pages.dependencies(file)
            return bool(project.files)
        if kind == 1:
            versions = versions_map.parse_versions(body)
            gem_index.render_names(versions)
            for which in ("specs", "latest_specs", "prerelease_specs"):
                gem_index.specs(versions, which)  # type: ignore[arg-type]
            return True
        return bool(gem_pages.parse_names(_response("text/plain", body)).serials)
    except MirrorError:
        return False


def _check_marshal(data: bytes) -> bool:
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
        return False
    return True


def _marshal_value(random: Random, depth: int = 0) -> bytes:
    """Return a value of Marshal, with values inside it; what numbers are small has one byte."""
    count = random.randint(0, 3)
    inner = [_marshal_value(random, depth + 1) for _ in range(2 * count)] if depth < 4 else [b"0"] * (2 * count)
    length = bytes([count + 5]) if count else b"\0"
    version = b'[\x06I"\b1.%d\x06:\x06ET' % random.randint(0, 9)
    return random.choice(
        (
            b"0",
            b"T",
            b"i" + bytes([random.choice((0, 6, 127, 250))]),
            b"i\x02\x10\x27",
            b"l+\x07" + random.randbytes(4),
            b"f\x081.5",
            b'"\x08abc',
            b'I"\x08abc\x06:\x06ET',
            b":\x08abc",
            b"[" + length + b"".join(inner[:count]),
            b"{" + length + b"".join(inner),
            b"}" + length + b"".join(inner) + b"0",
            b"U:\x11Gem::Version" + version,
            b"u:\x09Time\x0d" + random.randbytes(8),
            b"o:\x09Some" + length + b"".join(b":\x07@%c" % (97 + at) + inner[at] for at in range(count)),
            b"e:\x06K" + b"[\0",
        )
    )


def _marshal_seeds() -> list[bytes]:
    spec = zlib.decompress(Spec.read(gem("acme", "1.0", platform="java").content).marshalled())
    listed = zlib.decompress(gem_index.specs(versions_map.parse_versions(_VERSIONS), "specs"), 31)
    random = Random(0)
    values = [b"\0\x04\b" + _marshal_value(random) for _ in range(80)]
    nested = [b"\0" + spec, b"\0" + listed, b'\0\x04\b{\aI"\x06a\x06:\x06ETi\x02\x10\x27']
    return [*values, *nested, *[b"\1" + spec] * 20, *[b"\2" + listed] * 20]


FUZZERS = (
    Fuzzer("pages", _page_seeds, target(_check_page), [json.dumps(word).encode() for word in (*_DOCUMENT, *_FILE)]),
    Fuzzer(
        "compact-index",
        lambda: [b"\0" + _INFO, b"\1" + _VERSIONS, b"\2---\nrack\nhttp_parser.rb\n_\n"],
        target(_check_compact),
        [
            b"|checksum:",
            b",ruby:",
            b",platform:= x86_64-linux",
            b",platform:= ",
            b",ruby:~> 3.4.0",
            b"-78be552b",
            b"-%b" % (b"0f" * 32),
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
