"""The simple pages of one project (PEP 503, 592, 629, 658, 691, 700, 714, 740, 792): parse and render, JSON and HTML.

The JSON form is the model, and HTML is derived from it (PEP 833). Keys for which `mirror.model` has no field are kept
in `extra`, as the JSON form spells them, so that keys of the future pass through untouched. Not passed on, on purpose:
`alternate-locations` and `tracks` (they would send clients around the mirror) and an upstream's provenance URL, which
the caller replaces.

The surprise: a page for which policy or a merge left no file is still a page, with API version 1.4.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from html import escape
from operator import attrgetter
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec
from packaging.version import InvalidVersion, Version
from selectolax.lexbor import LexborNode
from yarl import URL

from mirror.errors import Invalid, UpstreamProtocolError
from mirror.model import File, Page, Project, UpstreamRequest, UpstreamResponse
from mirror.pypi.documents import (
    FILE_FIELDS,
    FILES_LIMIT,
    ListedFile,
    absolute_url,
    check_version,
    digests,
    document_kind,
    html_tags,
    listed_project,
    looks_like_index,
    moment,
    text_field,
)
from mirror.pypi.names import VERSION_LIMIT, Spelling, canonical, is_distribution, safe_filename, url_part

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
HTML_TYPE = "application/vnd.pypi.simple.v1+html"
PROVENANCE_TYPE = "application/vnd.pypi.integrity.v1+json"
_ACCEPT = f"{JSON_TYPE}, {HTML_TYPE};q=0.2, text/html;q=0.01"
_PROVENANCE_LIMIT = 4 << 20
ALTERNATIVES = 8
"""How many digests of one file name count."""

Link = Callable[[File], str]
"""Returns the URL of a file, to be printed on a page."""
_filename = attrgetter("filename")

_STATUSES = frozenset({"active", "archived", "quarantined", "deprecated"})  # PEP 792
_FRAGMENT_ORDER = ("sha256", "sha512", "sha384", "sha224", "sha1", "md5")  # the ones that installers read
_SERIAL_COMMENT = re.compile(r"<!--SERIAL (\d{1,18})-->\s*\Z")


def request_for(base: URL, page: Page) -> UpstreamRequest:
    """Return the request for a page; `base` is the URL of the simple index. Raises Invalid for an unknown kind.

    The JSON API is beside the simple index, as on the public index and on those that imitate it.
    """
    root = base / "" if base.path[-1:] != "/" else base
    match page.kind:
        case "project":
            # `joinpath` takes twice as long.
            url = root.with_path(f"{root.raw_path}{url_part(page.name)}/", encoded=True)
            return UpstreamRequest(url=url, accept=_ACCEPT)
        case "names":
            return UpstreamRequest(url=root, accept=_ACCEPT, kind="list")
        case "legacy":
            url = root.parent.parent / "pypi" / page.name / "json"
            return UpstreamRequest(url=url, accept="application/json", kind="api")
        case "release":
            name, _, version = page.name.partition("/")
            url = root.parent.parent / "pypi" / name / version / "json"
            return UpstreamRequest(url=url, accept="application/json", kind="api")
        case "provenance":
            url = URL(page.name, encoded=True)
            return UpstreamRequest(url=url, accept=PROVENANCE_TYPE, limit=_PROVENANCE_LIMIT, kind="api")
    raise Invalid(f"{page.kind!r} is not a page of a Python index.")


def provenance_page(file: File) -> Page:
    """Return the page of a file's provenance (PEP 740); its name is the URL on the simple page."""
    return Page("provenance", file.extra.get("provenance", ""))


def parse_simple(page: Page, response: UpstreamResponse, source: str = "") -> Project:
    """Parse a simple page of a source. Raises UpstreamProtocolError when the body is none, or of another project.

    Entries without the file name of a distribution or an http(s) URL are left out; a field of the wrong type or size is
    dropped, not its file. What is returned can be rendered in every form.
    """
    try:
        parse = _parse_json if document_kind(response) == "json" else _parse_html
        return parse(response, page.name, source)
    except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
        raise UpstreamProtocolError(f"The index page of {page.name} cannot be read: {str(error)[:200]}.") from error


def revision(body: bytes) -> str:
    """Return the identity of a page's body."""
    return hashlib.sha256(body).hexdigest()


def _parse_json(response: UpstreamResponse, name: str, source: str) -> Project:
    listed, extra, unknown = listed_project(response.body, name)
    _check_name(listed.name, name)
    versions, status = tuple(dict.fromkeys(listed.versions)), listed.project_status
    spelling, base = Spelling(name, versions), response.url
    files: dict[str, File] = {}
    for entry, fields in zip(listed.files, unknown, strict=False):
        if (file := _json_file(entry, {**fields}, base, spelling, source)) is not None:
            known = files.get(file.filename)
            files[file.filename] = file if known is None else _listed_again(known, file)
    if status.reason:
        extra["status-reason"] = status.reason
    return Project(
        name=name,
        files=tuple(files.values()),
        versions=versions or _versions_of(files.values()),
        serial=listed.meta.last_serial if listed.meta.last_serial is not None else response.serial,
        status=status.status if status.status in _STATUSES else None,
        extra=extra,
    )


def _json_file(listed: ListedFile, extra: dict[str, Any], base: str, spelling: Spelling, source: str) -> File | None:
    """Return a file; `extra` are its fields that are unknown here. None for what is no distribution, or nowhere."""
    filename = listed.filename
    absolute = absolute_url(base, listed.url) if is_distribution(filename) and safe_filename(filename) else None
    if absolute is None:
        return None
    metadata = listed.core_metadata  # PEP 714: the first one counts
    if metadata is msgspec.UNSET and (metadata := listed.dist_info_metadata) is msgspec.UNSET:
        metadata = listed.data_dist_info_metadata
    if metadata and (promised := _core_metadata(metadata)):
        extra["core-metadata"] = promised
    if listed.gpg_sig is not None:
        extra["gpg-sig"] = listed.gpg_sig
    if listed.provenance and (provenance := absolute_url(base, listed.provenance)):
        extra["provenance"] = provenance
    yanked = listed.yanked
    return File(
        filename=filename,
        version=spelling.of(filename),
        digests=digests(listed.hashes),
        url=absolute,
        size=listed.size,
        uploaded=moment(listed.upload_time),
        yanked="" if yanked is True else yanked or None,
        requires=listed.requires_python or None,
        source=source,
        extra=extra,
    )


def _parse_html(response: UpstreamResponse, name: str, source: str) -> Project:
    text = response.body.decode("utf-8", "replace")
    base, serial = response.url, response.serial
    if comment := _SERIAL_COMMENT.search(text[-64:]):
        serial = int(comment[1])
    version = Spelling(name, ())
    files: dict[str, File] = {}
    meta: dict[str, str] = {}
    based = False
    for node in html_tags(text):
        attributes = node.attributes
        if node.tag == "meta" and (key := (attributes.get("name") or "").lower()).startswith("pypi:"):
            meta.setdefault(key, attributes.get("content") or "")
        elif node.tag == "base" and not based and (href := attributes.get("href")):  # HTML: the first <base> counts
            base, based = absolute_url(response.url, href) or base, True
        elif node.tag == "a" and (file := _html_file(node, base, version, source)) is not None:
            known = files.get(file.filename)
            files[file.filename] = file if known is None else _listed_again(known, file)
            if len(files) > FILES_LIMIT:
                raise UpstreamProtocolError(f"The index page of {name} has more than {FILES_LIMIT:,} files.")
    check_version(meta.get("pypi:repository-version"))
    if not files and not looks_like_index(text, version="pypi:repository-version" in meta):
        raise UpstreamProtocolError(f"What was answered for {name} is another kind of web page, not an index page.")
    reason, status = text_field(meta.get("pypi:project-status-reason")), meta.get("pypi:project-status")
    return Project(
        name=name,
        files=tuple(files.values()),
        versions=_versions_of(files.values()),
        serial=serial,
        status=status if status in _STATUSES else None,
        extra={"status-reason": reason} if reason else {},
    )


def _html_file(node: LexborNode, base: str, version: Spelling, source: str) -> File | None:
    attributes = node.attributes
    url, _, fragment = (attributes.get("href") or "").strip().partition("#")
    absolute = absolute_url(base, url) if url else None
    if absolute is None:
        return None
    filename = unquote(urlsplit(absolute).path.rpartition("/")[2])
    if not is_distribution(filename):  # a URL like /download?id=7: the text names the file (PEP 503)
        filename = node.text(deep=False).strip()
    if not is_distribution(filename) or not safe_filename(filename):
        return None
    extra: dict[str, Any] = {}
    for key in ("data-core-metadata", "data-dist-info-metadata"):
        if key in attributes:
            algorithm, _, value = (attributes[key] or "true").partition("=")
            if metadata := _core_metadata({algorithm: value} if value else algorithm.lower() == "true"):
                extra["core-metadata"] = metadata
            break
    if (signed := attributes.get("data-gpg-sig")) in ("true", "false"):
        extra["gpg-sig"] = signed == "true"
    if provenance := absolute_url(base, attributes.get("data-provenance")):
        extra["provenance"] = provenance
    return File(
        filename=filename,
        version=version.of(filename),
        digests=digests(dict(part.split("=", 1) for part in fragment.split("&") if "=" in part)),
        url=absolute,
        yanked=text_field(attributes["data-yanked"]) or "" if "data-yanked" in attributes else None,
        requires=(text_field(attributes.get("data-requires-python")) or "").strip() or None,
        source=source,
        extra=extra,
    )


def check_project(project: Project) -> None:
    """Raise what rendering a project raises, in any form, for the sake of values that come from unknown fields.

    Everything else has its type since it was parsed.
    """
    if project.extra.keys() <= {"status-reason"} and all(file.extra.keys() <= FILE_FIELDS for file in project.files):
        return
    for render in (render_json, render_html):
        render(project, _filename, _filename)


def api_version(project: Project) -> str:
    """Return the API version that a project's page may claim: 1.4, or 1.0 where it does not satisfy PEP 700."""
    return "1.4" if all(file.size is not None for file in project.files) else "1.0"  # PEP 700: mandatory from 1.1


def render_json(project: Project, link: Link, provenance: Link | None = None) -> bytes:
    """Render the page as `application/vnd.pypi.simple.v1+json`.

    `link` returns the URL of a file, `provenance` the URL of its provenance, for files that have one at their source.
    Without the latter the page has none.
    """
    meta = {**project.extra.get("meta", {}), "api-version": api_version(project)}
    if project.serial is not None:
        meta["_last-serial"] = project.serial
    page = {key: value for key, value in project.extra.items() if key not in ("meta", "status-reason")}
    if project.status is not None:
        reason = project.extra.get("status-reason")
        page["project-status"] = {"status": project.status} | ({"reason": reason} if reason else {})
    page |= {
        "meta": meta,
        "name": project.name,
        "versions": project.versions or _versions_of(project.files),
        "files": [_render_file(file, link, provenance) for file in project.files],
    }
    return msgspec.json.encode(page)


class RenderedFile(msgspec.Struct, kw_only=True, gc=False, rename="kebab"):
    """A file as our page lists it, with its fields in their order."""

    filename: str
    url: str
    hashes: Mapping[str, str]
    requires_python: str | None
    size: int | msgspec.UnsetType
    upload_time: datetime | msgspec.UnsetType
    yanked: bool | str
    core_metadata: Literal[True] | Mapping[str, str] | msgspec.UnsetType
    gpg_sig: bool | msgspec.UnsetType
    provenance: str | msgspec.UnsetType


def _render_file(file: File, link: Link, provenance: Link | None) -> RenderedFile | dict[str, Any]:
    """Return a file for its page; with fields that are unknown here, as a dictionary."""
    extra, unset, uploaded = file.extra, msgspec.UNSET, file.uploaded
    if uploaded is not None and uploaded.tzinfo is not UTC:
        uploaded = uploaded.astimezone(UTC)
    entry = RenderedFile(
        filename=file.filename,
        url=link(file),
        hashes=file.digests,
        requires_python=file.requires,
        size=unset if file.size is None else file.size,
        upload_time=unset if uploaded is None else uploaded,
        yanked=False if file.yanked is None else file.yanked or True,
        core_metadata=extra.get("core-metadata") or unset,
        gpg_sig=extra.get("gpg-sig", unset),
        provenance=provenance(file) if provenance is not None and extra.get("provenance") else unset,
    )
    if extra.keys() <= FILE_FIELDS:
        return entry
    fields: dict[str, Any] = {key: extra[key] for key in extra if key not in FILE_FIELDS}
    fields |= msgspec.to_builtins(entry)
    return fields


def render_html(project: Project, link: Link, provenance: Link | None = None) -> bytes:
    """Render the page as HTML (PEP 503), with everything that HTML can express; see `render_json`."""
    name = escape(project.name)
    head = [f'<meta name="pypi:repository-version" content="{api_version(project)}">']
    if project.status is not None:
        head.append(f'<meta name="pypi:project-status" content="{escape(project.status)}">')
        if reason := project.extra.get("status-reason"):
            head.append(f'<meta name="pypi:project-status-reason" content="{escape(reason)}">')
    lines = [
        "<!DOCTYPE html>\n<html>\n<head>",
        *head,
        f"<title>Links for {name}</title>\n</head>\n<body>\n<h1>Links for {name}</h1>",
        *(_render_anchor(file, link, provenance) for file in project.files),
        "</body>\n</html>",
    ]
    if project.serial is not None:
        lines.append(f"<!--SERIAL {project.serial}-->")
    return "\n".join(lines).encode("utf-8", "replace")


def _render_anchor(file: File, link: Link, provenance: Link | None) -> str:
    algorithm = next((a for a in (*_FRAGMENT_ORDER, *file.digests) if a in file.digests), None)
    url = link(file) + (f"#{algorithm}={file.digests[algorithm]}" if algorithm else "")
    attributes = [f'href="{escape(url)}"']
    if file.requires is not None:
        attributes.append(f'data-requires-python="{escape(file.requires)}"')
    if file.yanked is not None:
        attributes.append(f'data-yanked="{escape(file.yanked)}"')
    if metadata := file.extra.get("core-metadata"):
        value = "true" if metadata is True else "=".join(_best(metadata))
        attributes += [f'data-core-metadata="{value}"', f'data-dist-info-metadata="{value}"']  # PEP 714
    if "gpg-sig" in file.extra:
        attributes.append(f'data-gpg-sig="{str(file.extra["gpg-sig"]).lower()}"')
    if provenance is not None and file.extra.get("provenance"):
        attributes.append(f'data-provenance="{escape(provenance(file))}"')
    return f"<a {' '.join(attributes)}>{escape(file.filename)}</a><br>"


def timestamp(moment: datetime) -> str:
    """Format a moment as PEP 700 does: UTC, with a Z."""
    return f"{(moment if moment.tzinfo is UTC else moment.astimezone(UTC)).isoformat()[:-6]}Z"


def _versions_of(files: Iterable[File]) -> tuple[str, ...]:
    return tuple(sorted({file.version for file in files if file.version}, key=version_key))


def version_key(version: str) -> tuple[bool, Version | str]:
    """Return a key that sorts versions by PEP 440; what is not a version comes first."""
    try:
        return (True, Version(version)) if len(version) <= VERSION_LIMIT else (False, version)
    except InvalidVersion:
        return (False, version)


def _listed_again(known: File, again: File) -> File:
    """Return a file that a page lists twice: as the first time, with any of the digests if these differ."""
    if not again.digests or again.digests == known.digests or again.digests in known.alternatives:
        return known
    listed = known.alternatives or ((known.digests,) if known.digests else ())
    if not listed or len(listed) >= ALTERNATIVES:
        return known
    size = known.size if known.size == again.size else None
    return msgspec.structs.replace(known, digests={}, alternatives=(*listed, again.digests), size=size)


def _check_name(found: str | None, name: str) -> None:
    if found is None:
        return
    try:
        same = canonical(found) == name
    except Invalid:
        same = False
    if not same:
        raise UpstreamProtocolError(f"The index answered the page of {found[:80]!r} when asked for {name}.")


def _core_metadata(value: object) -> Literal[True] | dict[str, str] | None:
    """Return true or the digests of the metadata file; None where there is no such file (PEP 714)."""
    if isinstance(value, dict):
        return digests(value) or True
    return True if value is True else None


def _best(digests: Mapping[str, str]) -> tuple[str, str]:
    algorithm = next(a for a in (*_FRAGMENT_ORDER, *digests) if a in digests)
    return algorithm, digests[algorithm]
