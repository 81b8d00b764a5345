"""An upstream's documents before they are interpreted: JSON or HTML, its object or its elements, its links and fields.

Every limit is on things, not on bytes alone: a page that is small on the wire can hold millions of them.

The surprise: HTML never reaches the HTML parser as it is. A tree of a million open elements takes hours to build,
so the few tags that matter are cut out first and parsed as a flat list.
"""

import itertools
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal
from urllib.parse import quote, unquote, urljoin, urlsplit

import msgspec
from selectolax.lexbor import LexborHTMLParser, LexborNode
from yarl import URL

from mirror.errors import UpstreamProtocolError
from mirror.model import UpstreamResponse
from mirror.pypi.names import VERSION_LIMIT

# The start tags that matter, with the text after them. Quoted values may contain '>': Requires-Python does.
_TAG = re.compile(
    r"<(?:a|base|meta)(?=[\s/])(?:[^<>\"']|\"[^\"]{0,8192}\"|'[^']{0,8192}'){0,8192}+>[^<]{0,8192}", re.IGNORECASE
)
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?/[!\"$-~]*")  # nothing to resolve
_PLAIN_BASE = re.compile(
    r"https?://[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[1-9][0-9]{0,3}|:[1-5][0-9]{4})?(?:/[A-Za-z0-9_~+-][A-Za-z0-9_.~+-]*)*/"
)
"""A directory in whose path nothing is to be resolved."""
_UPWARDS = re.compile(r"(?:\.\./)*")
_RELATIVE_URL = re.compile(r"\A(?!//)([A-Za-z0-9_./~+-]*/)([A-Za-z0-9_][A-Za-z0-9_.+!-]*)(?:#[!-~]*)?")
"""A path whose last part needs no resolving, and perhaps a fragment."""
_NOT_PLAIN = re.compile("[^!-~]+")
_URL_LIMIT = 8192
VALUES_LIMIT = 2_500_000
"""The most values in a JSON document: each takes up to a hundred times its own bytes in memory."""
FILES_LIMIT = 100_000
"""The most files, and the most versions, on the page of one project."""
TAGS_LIMIT = 150_000
"""The most links in an HTML document about one project."""
DEPTH_LIMIT = 32
"""How deep the value of an unknown key may be nested."""
TEXT_LIMIT = 16 << 10
"""The longest text of a field, in characters."""
NUMBER_LIMIT = (1 << 63) - 1
"""The largest size or serial: what databases hold."""
Natural = Annotated[int, msgspec.Meta(ge=0, le=NUMBER_LIMIT)]
"""A size or serial."""
Text = Annotated[str, msgspec.Meta(max_length=TEXT_LIMIT)]
_Version = Annotated[str, msgspec.Meta(max_length=VERSION_LIMIT)]
MetadataFile = bool | dict[str, str] | None
"""Whether a file has a metadata file beside it, or the digests of that."""
_HASH = re.compile(r"[0-9a-f]{8,256}")
_ALGORITHM = re.compile(r"[a-z0-9_]{1,32}")
_HASH_LENGTHS = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128, "blake2b_256": 64}
_FIRST_MOMENT, _LAST_MOMENT = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
_HEAD_CHARACTERS = 4096
"""How far into a document its title and first heading are looked for, in characters."""
_HEADING = re.compile(r"<(title|h1)\b[^<>]{0,200}>([^<]{0,300})</\1\s*>", re.IGNORECASE)
_USUAL = re.compile(
    r"\A\s*(?:(?:all )?links? (?:for|to)\b|index of\b|simple (?:package )?(?:index|repository)\b|package index\b"
    r"|python package index\b|pypi simple\b|(?:directory )?listing (?:for|of)\b)",
    re.IGNORECASE,
)
_FOREIGN = re.compile(r"<(?:form|input|script|iframe|frameset)\b|http-equiv\s*=\s*[\"']?refresh", re.IGNORECASE)
"""What an index page never has, and pages for people have."""


def document_kind(response: UpstreamResponse) -> Literal["json", "html"]:
    """Return whether a response is JSON or HTML, by its Content-Type, else by its first byte.

    Raises UpstreamProtocolError when it can be neither.
    """
    media_type = response.content_type.partition(";")[0].strip().lower()
    if media_type.endswith(("+json", "/json")):
        return "json"
    first = response.body[:512].removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if media_type.endswith(("+html", "/html", "+xml")) and first == b"<":
        return "html"
    if not media_type.endswith(("+html", "/html", "+xml")) and first in (b"{", b"<"):
        return "json" if first == b"{" else "html"
    raise UpstreamProtocolError(f"The response of type {media_type[:80] or 'unknown'!r} is not an index page.")


FILE_FIELDS = frozenset({
    "filename", "url", "hashes", "size", "upload-time", "yanked", "requires-python",
    "core-metadata", "dist-info-metadata", "data-dist-info-metadata", "data-core-metadata", "gpg-sig", "provenance",
    # Of an uploaded file, stored but on no page: its metadata's text, its other digests.
    "metadata", "digests",
})  # fmt: skip
_PROJECT_FIELDS = frozenset({
    "name", "files", "versions", "meta", "project-status", "alternate-locations", "status-reason",
})  # fmt: skip
_META_FIELDS = frozenset({"api-version", "_last-serial", "tracks"})
_METADATA_FIELDS = ("core-metadata", "dist-info-metadata", "data-dist-info-metadata")


class ListedFile(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True, rename="kebab"):
    """A file on the JSON form of a project's page, where each field has the type that it is to have."""

    filename: str
    url: str
    hashes: dict[str, str] = {}
    size: Natural | None = None
    upload_time: str | None = None
    yanked: bool | Text | None = None
    requires_python: Text | None = None
    core_metadata: MetadataFile | msgspec.UnsetType = msgspec.UNSET
    dist_info_metadata: MetadataFile | msgspec.UnsetType = msgspec.UNSET
    data_dist_info_metadata: MetadataFile | msgspec.UnsetType = msgspec.UNSET
    gpg_sig: bool | None = None
    provenance: Text | None = None


class PageMeta(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The facts that a page states about itself."""

    api_version: str | None = msgspec.field(name="api-version", default=None)
    last_serial: Natural | None = msgspec.field(name="_last-serial", default=None)
    tracks: msgspec.Raw = msgspec.Raw()


class ListedStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status of a project (PEP 792)."""

    status: Text | None = None
    reason: Text | None = None


class ListedProject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """The JSON form of a project's page as nearly all indexes have it, with nothing that is unknown here."""

    files: Annotated[list[ListedFile], msgspec.Meta(max_length=FILES_LIMIT)]
    name: str | None = None
    versions: Annotated[list[_Version], msgspec.Meta(max_length=FILES_LIMIT)] = []
    meta: PageMeta = PageMeta()
    project_status: ListedStatus = ListedStatus()
    alternate_locations: msgspec.Raw = msgspec.Raw()


def listed_project(body: bytes, name: str) -> tuple[ListedProject, dict[str, Any], Iterable[Mapping[str, Any]]]:
    """Decode the JSON form of a project's page; return it, and what it has of fields that are unknown here.

    Those are the page's own ones, and of each file in turn. A field of the wrong type or size is dropped, and a file
    without name or link. Raises UpstreamProtocolError as `decode_json`.
    """
    _check_values(body)
    try:
        listed = _LISTED.decode(body)  # most pages are as they should be, and this is the quickest look
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _any_project(decode_json(body), name)
    check_version(listed.meta.api_version)
    return listed, {}, itertools.repeat({})


def _any_project(
    document: Mapping[str, Any], name: str
) -> tuple[ListedProject, dict[str, Any], Iterable[Mapping[str, Any]]]:
    entries, versions = document.get("files"), document.get("versions")
    if not isinstance(entries, list):
        raise UpstreamProtocolError(f"The index page of {name} has no list of files.")
    versions = versions if isinstance(versions, list) else []
    if max(len(entries), len(versions)) > FILES_LIMIT:
        raise UpstreamProtocolError(f"The index page of {name} has more than {FILES_LIMIT:,} files or versions.")
    files = [entry for entry in entries if isinstance(entry, dict) and _is_linked(entry)]
    meta, status = document.get("meta"), document.get("project-status")
    meta, status = (field if isinstance(field, dict) else {} for field in (meta, status))
    found, extra = document.get("name"), passed_on(document, _PROJECT_FIELDS)
    if unknown := passed_on(meta, _META_FIELDS):
        extra["meta"] = unknown
    listed = ListedProject(
        files=[_any_file(entry) for entry in files],
        name=found if isinstance(found, str) else None,
        versions=[version for version in versions if isinstance(version, str) and len(version) <= VERSION_LIMIT],
        meta=PageMeta(last_serial=natural(meta.get("_last-serial"))),
        project_status=ListedStatus(status=text_field(status.get("status")), reason=text_field(status.get("reason"))),
    )
    return listed, extra, [passed_on(entry, FILE_FIELDS) for entry in files]


def _is_linked(entry: Mapping[str, Any]) -> bool:
    return isinstance(entry.get("filename"), str) and isinstance(entry.get("url"), str)


def _any_file(entry: Mapping[str, Any]) -> ListedFile:
    yanked, signed, uploaded = entry.get("yanked"), entry.get("gpg-sig"), entry.get("upload-time")
    metadata = next((entry[key] for key in _METADATA_FIELDS if key in entry), None)
    return ListedFile(
        filename=entry["filename"],
        url=entry["url"],
        hashes=digests(entry.get("hashes")),
        size=natural(entry.get("size")),
        upload_time=uploaded if isinstance(uploaded, str) else None,
        yanked=yanked is True or text_field(yanked),
        requires_python=text_field(entry.get("requires-python")),
        core_metadata=(digests(metadata) or True) if isinstance(metadata, dict) else metadata is True,
        gpg_sig=signed if isinstance(signed, bool) else None,
        provenance=text_field(entry.get("provenance")),
    )


def _check_values(body: bytes) -> None:
    if len(body) > VALUES_LIMIT and body.count(b",") + body.count(b"[") + body.count(b"{") > VALUES_LIMIT:
        raise UpstreamProtocolError(f"The document has more than {VALUES_LIMIT:,} values.")


_LISTED = msgspec.json.Decoder(ListedProject)


def decode_json(body: bytes) -> dict[str, Any]:
    """Decode a page's JSON object. Raises UpstreamProtocolError, also for an API version other than 1.x (PEP 629)."""
    document = decode_object(body)
    meta = document.get("meta")
    check_version(meta.get("api-version") if isinstance(meta, dict) else None)
    return document


def decode_object(body: bytes) -> dict[str, Any]:
    """Decode a JSON object with a bounded number of values. Raises UpstreamProtocolError."""
    _check_values(body)
    try:
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UpstreamProtocolError(f"The index page is not valid JSON: {error}.") from error
    if not isinstance(document, dict):
        raise UpstreamProtocolError("The index page is not a JSON object.")
    return document


def check_version(version: object) -> None:
    """Check the repository version (PEP 629); None is 1.0. Raises UpstreamProtocolError unless it is 1.x."""
    if isinstance(version, str) and version.partition(".")[0] != "1":
        raise UpstreamProtocolError(f"The index has version {version[:20]!r} of the simple API, not 1.")


def html_tags(text: str, limit: int = TAGS_LIMIT) -> Iterator[LexborNode]:
    """Yield the elements a, base and meta of an HTML document in order, in linear time and bounded memory.

    Raises UpstreamProtocolError when there are more than `limit`.
    """
    text = _without_comments(text)
    if text.count("<") > limit and sum(1 for _ in _TAG.finditer(text)) > limit:  # a tenth of the time of reading them
        raise UpstreamProtocolError(f"The index page has more than {limit:,} links.")
    batch: list[str] = []
    for tag in _TAG.finditer(text):
        batch.append(tag[0])
        if len(batch) == 1000:
            yield from _flat(batch)
            batch.clear()
    yield from _flat(batch)


def _flat(tags: list[str]) -> list[LexborNode]:
    return LexborHTMLParser("<!doctype html><body>" + "".join(f"<p>{tag}</a>" for tag in tags)).css("a, base, meta")


def _without_comments(text: str) -> str:
    kept, position = [], 0
    while (start := text.find("<!--", position)) >= 0:
        kept.append(text[position:start])
        end = text.find("-->", start)
        position = end + 3 if end >= 0 else len(text)
    return "".join([*kept, text[position:]]) if kept else text


def absolute_url(base: str, url: str | None) -> str | None:
    """Return the absolute URL without its fragment; None unless it is an http or https URL with a host."""
    if not url or len(url) > _URL_LIMIT:
        return None
    if _PLAIN_URL.fullmatch(url):
        return url
    if found := _RELATIVE_URL.fullmatch(url):
        directory = _directory(base, found[1])
        return directory and directory + found[2]
    return _resolved(base, url)


@lru_cache(maxsize=64)
def _directory(base: str, url: str) -> str | None:
    """Return the absolute URL of a directory, cached: the files of a page are in a few directories, as a rule."""
    ups = len(_UPWARDS.match(url)[0]) // 3  # type: ignore[index]  # it matches any text
    rest = url[3 * ups :]
    if rest.startswith("/") or "./" in rest or "//" in rest or not _PLAIN_BASE.fullmatch(base):
        return _resolved(base, url)
    parts = base.split("/")
    kept = parts[: -1 - ups]
    return f"{'/'.join(kept)}/{rest}" if len(kept) >= 3 else _resolved(base, url)


def _resolved(base: str, url: str) -> str | None:
    """Return the absolute URL as it is written, byte for byte, with what is not ASCII percent-encoded."""
    try:
        absolute = urljoin(base, url) if not url.startswith(("http://", "https://")) else url
        parts = urlsplit(absolute)
        port_is_valid = parts.port != 0
        host = parts.netloc if parts.netloc.isascii() else URL(f"http://{parts.netloc}").raw_authority
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_valid or not absolute.isprintable():
        return None
    rest = absolute.partition("#")[0].partition("://")[2][len(parts.netloc) :]
    return f"{parts.scheme}://{host}{_NOT_PLAIN.sub(lambda found: quote(found[0], safe=''), rest)}"


# Fields, each of which may be anything


def digests(hashes: object) -> dict[str, str]:
    """Return the digests that can be right: in lower case, and of the length of their algorithm."""
    if not isinstance(hashes, dict):
        return {}
    if len(hashes) == 1 and _is_sha256(hashes.get("sha256")):  # nearly every file, so worth a shortcut
        return hashes
    found: dict[str, str] = {}
    for algorithm, value in hashes.items():
        if not isinstance(algorithm, str) or not isinstance(value, str):
            continue
        algorithm, value = algorithm.lower(), value.lower()
        if (
            _ALGORITHM.fullmatch(algorithm)
            and _HASH.fullmatch(value)
            and len(value) == _HASH_LENGTHS.get(algorithm, len(value))
        ):
            found[algorithm] = value
    return found


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and _HASH.fullmatch(value) is not None


def moment(value: object) -> datetime | None:
    """Return a time between 1970 and 9000, with which can be reckoned; later ones are the last, earlier ones None."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        found = datetime.fromisoformat(value)
        if found.tzinfo is not UTC:  # PEP 700: always UTC; some indexes omit the zone
            found = found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError):  # a zone can lead out of the calendar
        return None
    return min(found, _LAST_MOMENT) if found >= _FIRST_MOMENT else None


def natural(value: object, otherwise: int | None = None) -> int | None:
    """Return a number that a database can hold, else `otherwise`."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= NUMBER_LIMIT:
        return value
    return otherwise


def text_field(value: object) -> str | None:
    """Return a text, cut off where it is absurdly long; None for what is no text."""
    return value[:TEXT_LIMIT] if isinstance(value, str) else None


def passed_on(fields: Mapping[str, Any], known: Container[str]) -> dict[str, Any]:
    """Return the fields that are unknown here, to be passed on, but for those that could not be stored or rendered."""
    return {key: value for key, value in fields.items() if key not in known and fits(value)}


def fits(value: object, depth: int = DEPTH_LIMIT) -> bool:
    """Return whether a JSON value is nested no deeper than `depth`, and its integers have 64 bits at most.

    Deeper ones may parse and not be rendered, and MessagePack has no larger numbers.
    """
    if isinstance(value, list | dict):
        inner = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(fits(each, depth - 1) for each in inner)
    return not isinstance(value, int) or -NUMBER_LIMIT <= value <= NUMBER_LIMIT


def looks_like_index(text: str, *, version: bool) -> bool:
    """Return whether HTML that lists nothing looks like an index; `version`: it states its repository version.

    A maintenance page, a portal, a login form and "blocked by policy" are HTML as well, and come with status 200. Taken
    for an index they would say that a project has no files, or that there are no projects.
    """
    if version:
        return True
    head = text[:_HEAD_CHARACTERS]
    if _FOREIGN.search(text[: 1 << 20]):
        return False
    if any(_USUAL.match(heading[2]) for heading in _HEADING.finditer(head)):
        return True
    anchors = [node for node in html_tags(text) if node.tag == "a"]
    return bool(anchors) and all(_names_its_target(node) for node in anchors)


def _names_its_target(anchor: LexborNode) -> bool:
    """Return whether the text of an anchor is the last part of its link, as in lists of files."""
    target = unquote((anchor.attributes.get("href") or "").partition("#")[0]).rstrip("/").rpartition("/")[2]
    return bool(target) and anchor.text(deep=False).strip().rstrip("/") == target
