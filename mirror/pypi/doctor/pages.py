"""What Python clients require of the simple pages (PEP 503, 592, 629, 691, 700, 714) and of the JSON API."""

import json
import re
from typing import Any
from urllib.parse import unquote, urlsplit

from yarl import URL

from mirror.doctor import Finding, Requirement, WireResponse
from mirror.doctor.client import url_of
from mirror.errors import MirrorError
from mirror.pypi.doctor.index import ANY, Subject
from mirror.pypi.pages import HTML_TYPE, JSON_TYPE

_UNKNOWN = "no-such-project-of-the-doctor"
_COMPRESS_BYTES = 4096
"""Bytes from which a page is worth compressing."""

_JSON = Requirement(
    "pypi/json",
    "A page is served as JSON to clients that ask for it (PEP 691).",
    "pip and uv fall back to HTML, which has neither sizes nor upload times",
)
_HTML = Requirement(
    "pypi/html",
    "A page is served as HTML to clients that accept nothing else.",
    "pip before 22.2 and every older tool",
)
_PLAIN = Requirement(
    "pypi/no-accept", "A page is served to a client without Accept, and for */*.", "curl, scripts and bandersnatch"
)
_TYPE = Requirement(
    "pypi/content-type",
    "A page has the right Content-Type.",
    "uv refuses a page without one, pip ignores it",
)
_SPELLING = Requirement(
    "pypi/normalised-name",
    "A name in another spelling redirects to the page of the canonical one (PEP 503).",
    "old tools, and people who use the name as its author writes it",
)
_SLASH = Requirement(
    "pypi/slash",
    "The URL of a page without its last slash redirects to it.",
    "scripts, and bandersnatch, which asks for /simple",
)
_ETAG = Requirement(
    "pypi/etag",
    "Each form of a page has its own ETag, and is answered 304 for it.",
    "pip and uv request a page in each run: without it they load all of it each time",
)
_GZIP = Requirement(
    "pypi/gzip",
    "A long page is compressed for a client that accepts it, and unpacks to the same.",
    "every client on a slow line: pages compress tenfold",
)
_VARY = Requirement(
    "pypi/vary",
    "Vary names what the form of a page depends on (Accept, Accept-Encoding).",
    "every cache in between: it hands one client's form to another that cannot read it",
)
_CACHE = Requirement(
    "pypi/cache-control",
    "A page has a Cache-Control with its lifetime.",
    "uv and pip from 26.2, which request it each time, or guess how long to keep it",
)
_VERSION = Requirement(
    "pypi/api-version",
    "The API version is true: from 1.1 on there are versions, and a size on every file (PEP 700).",
    "clients that rely on it: they fail on what is missing, or read a field that is not there",
)
_HASHES = Requirement(
    "pypi/hashes",
    "Every file has the key hashes, which may be empty.",
    "uv: it refuses the whole page for one file without it",
)
_DIGESTS = Requirement(
    "pypi/digests",
    "Every file has a secure digest (SHA-256 or better).",
    "pip --require-hashes, uv.lock, poetry.lock: nothing can be locked, and a damaged file is not noticed",
)
_URLS = Requirement(
    "pypi/file-urls",
    "The URL of a file ends in its name, and has no query.",
    "pip and uv: they put .metadata behind the URL, and read the name from it",
)
_ROOT = Requirement(
    "pypi/file-host",
    "Where a login is required, files are on the same host as the pages.",
    "uv and pip: they send a password to the host that it was given for, so that each file is refused",
)
_TIMES = Requirement(
    "pypi/upload-time",
    "Every file has its upload time (PEP 700).",
    "uv --exclude-newer and pip --uploaded-prior-to: they hide or refuse files without it",
)
_OBJECT = Requirement(
    "pypi/metadata-key",
    "No file has dist-info-metadata as an object beside core-metadata (PEP 714).",
    "pip 22.3 to 23.1: it crashes",
)
_MISSING = Requirement(
    "pypi/unknown-project",
    "A project that does not exist is answered 404.",
    "every client: an empty page or an error instead keeps pip and uv from trying their next index, or ends them",
)
_LEGACY = Requirement(
    "pypi/json-api",
    "/pypi/NAME/json describes the project, with its serial in X-PyPI-Last-Serial.",
    "bandersnatch (which also wants file URLs below /packages), pip-audit, renovate, pipenv",
)
_SERIALS = Requirement(
    "pypi/serials", "The list of projects has each one's _last-serial.", "bandersnatch: it skips projects without"
)


async def negotiation(subject: Subject) -> list[Finding]:
    """Check the forms of a page and their headers."""
    client, url = subject.client, subject.url
    in_json = await client.follow(url, Accept=JSON_TYPE)
    html = await client.follow(url, Accept="text/html")
    plain = await client.follow(url)
    star = await client.follow(url, Accept="*/*")
    got_json = in_json.status == 200 and _is_json(in_json)
    forms = [reply for reply in (in_json, html, plain) if reply.status == 200]
    cache = subject.page.display("Cache-Control")
    mistyped = [reply for reply in forms if not _typed(reply)]
    return [
        _JSON.judge(got_json, f"{in_json.phrase}, Content-Type: {in_json.display('Content-Type')}"),
        _HTML.judge(html.status == 200 and not _is_json(html), f"{html.phrase}, {html.media_type or 'without a type'}"),
        _PLAIN.judge(
            (plain.status, star.status) == (200, 200),
            f"without Accept {plain.phrase}, with */* {star.phrase}",
        ),
        _TYPE.judge(not mistyped, f"Content-Type is {mistyped[0].display('Content-Type')}" if mistyped else ""),
        _CACHE.judge("max-age" in cache or "no-" in cache, f"Cache-Control is {cache}"),
        await _etag(subject, [in_json, html] if got_json else [html]),
        *await _packed(subject, got_json and html.status == 200 and not _is_json(html)),
    ]


def _is_json(reply: WireResponse) -> bool:
    return reply.body.lstrip().startswith(b"{")


def _typed(reply: WireResponse) -> bool:
    return reply.media_type in ({JSON_TYPE, "application/json"} if _is_json(reply) else {HTML_TYPE, "text/html"})


async def _etag(subject: Subject, forms: list[WireResponse]) -> Finding:
    tags = [reply.header("ETag") for reply in forms]
    if not all(tags):
        return _ETAG.fails("there is no ETag")
    if len(set(tags)) < len(tags):
        return _ETAG.fails(f"JSON and HTML have the same ETag {tags[0]}")
    for reply, tag in zip(forms, tags, strict=True):
        accept = JSON_TYPE if _is_json(reply) else "text/html"
        again = await subject.client.get(reply.url, Accept=accept, If_None_Match=tag)
        if again.status != 304:
            return _ETAG.fails(f"the same ETag {tag} is answered {again.phrase}")
    return _ETAG.ok()


async def _packed(subject: Subject, negotiates: bool) -> list[Finding]:
    page, client = subject.page, subject.client
    packed = await client.get(page.url, Accept=ANY, Accept_Encoding="gzip")
    coding = packed.header("Content-Encoding").lower()
    if coding == "gzip":
        try:
            same = packed.identity() == page.body
        except MirrorError as error:
            gzip = _GZIP.fails(str(error))
        else:
            gzip = _GZIP.judge(same, "it unpacks to another page")
    elif coding or len(page.body) >= _COMPRESS_BYTES:
        gzip = _GZIP.fails(f"{len(page.body)} bytes, Content-Encoding: {coding or 'absent'}")
    else:
        gzip = _GZIP.unknown("the page is too short to be compressed; name a larger project")
    # RFC 9110, section 12.5.5; a cache that compresses by itself adds its own.
    named = {name.strip().lower() for name in page.header("Vary").split(",")}
    needed = ({"accept"} if negotiates else set()) | ({"accept-encoding"} if coding == "gzip" else set())
    missing = sorted(needed - named)
    vary = _VARY.judge(not missing or "*" in named, f"Vary is {page.display('Vary')}: {', '.join(missing)}")
    return [gzip, vary]


async def addresses(subject: Subject) -> list[Finding]:
    """Check names in other spellings, without a slash, and of no project."""
    client, index, name = subject.client, subject.index, subject.project.name
    other = name.replace("-", "_").upper()
    spelled = await client.follow(index.simple / other / "", Accept=ANY) if other != name else None
    bare = await client.follow(index.simple / name, Accept=ANY)
    root = await client.follow(
        index.simple.parent / index.simple.name if index.simple.name else _bare(index.simple),
        most=4096,
        part=True,
        Accept=ANY,
    )
    missing = await client.get(index.simple / _UNKNOWN / "", Accept=ANY, most=4096, part=True)
    slashes = [reply.phrase for reply in (bare, root) if reply.status != 200]
    return [
        _SPELLING.unknown("the name has one spelling only")
        if spelled is None
        else _SPELLING.judge(_is_page(spelled, subject), f"{other} is answered {spelled.phrase}"),
        _SLASH.judge(not slashes, f"answered {', '.join(slashes)}"),
        _MISSING.judge(missing.status == 404, missing.phrase),
    ]


def _bare(url: URL) -> URL:
    return url.with_path(url.path.rstrip("/"))


def _is_page(reply: WireResponse, subject: Subject) -> bool:
    return reply.status == 200 and _is_json(reply) == _is_json(subject.page)


async def content(subject: Subject) -> list[Finding]:
    """Check the page's entries of files, without a request."""
    files = subject.project.files
    if not files:
        return [_DIGESTS.unknown("the project has no files; name another with --project")]
    weak = [file.filename for file in files if not {"sha256", "sha384", "sha512"} & file.digests.keys()]
    broken = [file.url for file in files if not _ends_in_name(file.url, file.filename)]
    elsewhere = [file.url for file in files if url_of(file.url).origin() != subject.page.url.origin()]
    found = [
        _DIGESTS.judge(not weak, _some(weak, len(files))),
        _URLS.judge(not broken, _some(broken, len(files))),
        _ROOT.judge(not (elsewhere and subject.client.has_login), _some(elsewhere, len(files))),
    ]
    if subject.document is None:
        return [*found, _html_version(subject)]
    entries = subject.entries
    without = [str(entry.get("filename")) for entry in entries if not isinstance(entry.get("hashes"), dict)]
    timeless = [file.filename for file in files if file.uploaded is None]
    objects = [str(entry.get("filename")) for entry in entries if isinstance(entry.get("dist-info-metadata"), dict)]
    return [
        *found,
        _version(subject.document, entries),
        _HASHES.judge(not without, _some(without, len(entries))),
        _TIMES.judge(not timeless, _some(timeless, len(files))),
        _OBJECT.judge(not objects, _some(objects, len(entries))),
    ]


def _ends_in_name(url: str, filename: str) -> bool:
    return "?" not in url and unquote(url.rpartition("/")[2]) == filename


def _some(wrong: list[str], of: int) -> str:
    return f"{len(wrong)} of {of} files, such as {wrong[0]}" if wrong else ""


def _parts(version: object) -> tuple[int, int] | None:
    match = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", version) if isinstance(version, str) else None
    return (int(match[1]), int(match[2])) if match else None


def _version(document: dict[str, Any], entries: list[dict[str, Any]]) -> Finding:
    meta = document.get("meta")
    found = meta.get("api-version") if isinstance(meta, dict) else None
    version = _parts(found)
    if version is None or version[0] != 1:
        return _VERSION.fails(f"api-version is {found!r}, which no client knows")
    if version < (1, 1):
        return _VERSION.ok(f"{found}: sizes and versions are not promised")
    if not isinstance(document.get("versions"), list):
        return _VERSION.fails(f"{found}, and the page has no versions")
    sizeless = [str(entry.get("filename")) for entry in entries if not isinstance(entry.get("size"), int)]
    return _VERSION.judge(not sizeless, f"{found}, and there is no size on {_some(sizeless, len(entries))}")


def _html_version(subject: Subject) -> Finding:
    match = re.search(rb'name="pypi:repository-version"\s+content="([^"]{0,20})"', subject.page.body[:4096])
    if match is None:
        return _VERSION.ok("HTML without a version, which means 1.0 (PEP 629)")
    found = match[1].decode("utf-8", "replace")
    version = _parts(found)
    return _VERSION.judge(version is not None and version[0] == 1, f"the version is {found!r}, which no client knows")


async def beside(subject: Subject) -> list[Finding]:
    """Check the JSON API, and the serials that bandersnatch follows."""
    client, index = subject.client, subject.index
    reply = await client.follow(index.root / "pypi" / subject.project.name / "json", Accept="application/json")
    head = await client.follow(index.simple, most=65536, part=True, Accept=ANY)
    start = head.body.decode("utf-8", "replace")
    if not start.lstrip().startswith("{"):
        serials = _SERIALS.fails("the list of projects does not come as JSON")
    elif not index.names:
        serials = _SERIALS.unknown("the list is empty, or cannot be read")
    else:
        count = len(re.findall(r'"_last-serial"\s*:\s*[0-9]', start))
        serials = _SERIALS.judge(count >= min(2, len(index.names)), "projects without")
    return [_legacy(reply), serials]


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


def _legacy(reply: WireResponse) -> Finding:
    if reply.status != 200:
        return _LEGACY.fails(reply.phrase)
    try:
        document = json.loads(reply.body)
    except (ValueError, RecursionError):
        return _LEGACY.fails("it is not JSON")
    if not isinstance(document, dict) or not isinstance(document.get("info"), dict):
        return _LEGACY.fails("it has no info")
    if not re.fullmatch(r"[0-9]{1,18}", reply.header("X-PyPI-Last-Serial")):
        return _LEGACY.fails(f"X-PyPI-Last-Serial is {reply.display('X-PyPI-Last-Serial')}")
    listed = document.get("urls")
    urls = [file.get("url") for file in listed if isinstance(file, dict)] if isinstance(listed, list) else []
    strange = [url for url in urls if not _path_of(str(url)).startswith("/packages")]
    return _LEGACY.ok(f"but bandersnatch wants paths below /packages, not {strange[0]}" if strange else "")
