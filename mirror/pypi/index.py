"""The root list of projects (PEP 503, PEP 691): parse and render, quickly enough for a million names.

Only names and serials are kept of it.

The surprise: the parser makes names canonical, so that rendering needs no escaping.
"""

import re
from collections.abc import Sequence
from html import escape
from typing import Annotated, Any, cast

import msgspec

from mirror.errors import Invalid, UpstreamProtocolError
from mirror.model import Names, UpstreamResponse
from mirror.pypi.documents import NUMBER_LIMIT, check_version, document_kind, html_tags, looks_like_index, natural
from mirror.pypi.names import canonical, canonical_names

_DIRECTORY = re.compile(r"\A(?:\./)?[^/?#:]+/")
"""A link to a directory beside the list, as file servers write it, who cut the text."""


class _Entry(msgspec.Struct, gc=False, omit_defaults=True):
    name: Any = None
    serial: Any = msgspec.field(default=None, name="_last-serial")


class _PlainEntry(msgspec.Struct, gc=False):
    """An entry without anything odd, which needs no further check: those of nearly all lists."""

    name: str
    serial: Annotated[int, msgspec.Meta(ge=0, le=NUMBER_LIMIT)] | None = msgspec.field(
        default=None, name="_last-serial"
    )


class _Meta(msgspec.Struct):
    api_version: Any = msgspec.field(default="1.0", name="api-version")
    serial: Any = msgspec.field(default=None, name="_last-serial")


class _Listing(msgspec.Struct):
    projects: list[_Entry]
    meta: _Meta = msgspec.field(default_factory=_Meta)


class _PlainListing(msgspec.Struct):
    projects: list[_PlainEntry]
    meta: _Meta = msgspec.field(default_factory=_Meta)


NAMES_LIMIT = 1_500_000
"""The most projects of an index: nearly twice as many as the largest has."""
_DECODER = msgspec.json.Decoder(_Listing)
_PLAIN_DECODER = msgspec.json.Decoder(_PlainListing)


def parse_names(response: UpstreamResponse) -> Names:
    """Parse the root list; absurd names are left out. Raises UpstreamProtocolError when the body is not one."""
    if document_kind(response) == "html":
        return _parse_html(response)
    if response.body.count(b"{") > NAMES_LIMIT + 2:
        raise _too_many()
    try:
        meta, written, own = _read_json(response.body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UpstreamProtocolError(f"The list of projects cannot be read: {error}.") from error
    check_version(meta.api_version)
    serial = natural(meta.serial)
    return _names(written, own, response.serial if serial is None else serial)


def _read_json(body: bytes) -> tuple[_Meta, list[str], list[int | None]]:
    """Return what is said of the list, the names as they are written, and the serial of each.

    Raises MsgspecError, ValueError, RecursionError.
    """
    try:
        plain = _PLAIN_DECODER.decode(body)
    except msgspec.ValidationError:
        listing = _DECODER.decode(body)
        entries = [entry for entry in listing.projects if isinstance(entry.name, str)]
        return listing.meta, [entry.name for entry in entries], [natural(entry.serial) for entry in entries]
    return plain.meta, [entry.name for entry in plain.projects], [entry.serial for entry in plain.projects]


def _parse_html(response: UpstreamResponse) -> Names:
    text = response.body.decode("utf-8", "replace")
    found: list[str] = []
    same, version = 0, False
    for node in html_tags(text, limit=NAMES_LIMIT):
        attributes = node.attributes
        if node.tag == "a" and (href := attributes.get("href")):
            # PEP 503: the text is the name, the link its canonical form; lists made by file servers cut the text.
            written = node.text(deep=False).strip().rstrip("/")
            linked = href.partition("?")[0].rstrip("/").rpartition("/")[2]
            named = _same(written, linked)
            same += named or _DIRECTORY.fullmatch(href) is not None
            found.append(written if named else linked)
        elif node.tag == "meta" and attributes.get("name") == "pypi:repository-version":
            version = True
            check_version(attributes.get("content"))
    # A list of anchors that are named like what they lead to is one without any title, too.
    if 2 * same <= len(found) and not looks_like_index(text, version=version):
        raise UpstreamProtocolError("What was answered for the list of projects is another kind of web page.")
    return _names(found, [None] * len(found), response.serial)


def _too_many() -> UpstreamProtocolError:
    return UpstreamProtocolError(f"The list of projects has more than {NAMES_LIMIT:,} of them.")


def _same(written: str, linked: str) -> bool:
    try:
        return canonical(written) == canonical(linked)
    except Invalid:
        return False


def _names(written: Sequence[str], serials: Sequence[int | None], serial: int | None) -> Names:
    names = canonical_names(written)
    display: dict[str, str] = {}
    if names != written:
        pairs = zip(names, written, strict=True)
        display = {name: other for name, other in pairs if name is not None and name != other}
    own = dict(zip(names, serials, strict=True))
    own.pop(None, None)
    return Names(serials=cast(dict[str, int | None], own), display=display, serial=serial)


def render_names_json(names: Names) -> bytes:
    """Render the list as `application/vnd.pypi.simple.v1+json`, with serials where they are known."""
    display = names.display
    meta: dict[str, Any] = {"api-version": "1.4"}
    if names.serial is not None:
        meta["_last-serial"] = names.serial
    written = [display.get(name, name) for name in names.serials] if display else names.serials
    return msgspec.json.encode({"meta": meta, "projects": list(map(_Entry, written, names.serials.values()))})


def render_names_html(names: Names) -> bytes:
    """Render the list as HTML (PEP 503)."""
    display = names.display
    lines = [
        '<!DOCTYPE html>\n<html>\n<head>\n<meta name="pypi:repository-version" content="1.4">',
        "<title>Simple index</title>\n</head>\n<body>",
        *(f'<a href="{name}/">{escape(display[name]) if name in display else name}</a><br>' for name in names.serials),
        "</body>\n</html>",
    ]
    return "\n".join(lines).encode()
