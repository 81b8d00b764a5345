"""An upstream's documents before they are interpreted: JSON or HTML, its object or its elements, and its links.

The surprise: HTML never reaches the HTML parser as it is. A tree of a million open elements takes hours to build,
so the few tags that matter are cut out first and parsed as a flat list.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import quote, urljoin, urlsplit

import msgspec
from selectolax.lexbor import LexborHTMLParser, LexborNode
from yarl import URL

from mirror.errors import UpstreamProtocolError
from mirror.model import UpstreamResponse

# The start tags that matter, with the text after them. Quoted values may contain '>': Requires-Python does.
_TAG = re.compile(
    r"<(?:a|base|meta)(?=[\s/])(?:[^<>\"']|\"[^\"]{0,8192}\"|'[^']{0,8192}'){0,8192}+>[^<]{0,8192}", re.IGNORECASE
)
_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?/[!\"$-~]*")  # nothing to resolve
_RELATIVE_URL = re.compile(r"(?!//)([A-Za-z0-9_./~+-]*/)([A-Za-z0-9_][A-Za-z0-9_.+!-]*)(?:#[!-~]*)?")
"""A path whose last part needs no resolving, and perhaps a fragment."""
_NOT_PLAIN = re.compile("[^!-~]+")
_URL_LIMIT = 8192


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


def decode_json(body: bytes) -> dict[str, Any]:
    """Decode a page's JSON object. Raises UpstreamProtocolError, also for an API version other than 1.x (PEP 629)."""
    try:
        document = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UpstreamProtocolError(f"The index page is not valid JSON: {error}.") from error
    if not isinstance(document, dict):
        raise UpstreamProtocolError("The index page is not a JSON object.")
    meta = document.get("meta")
    check_version(meta.get("api-version") if isinstance(meta, dict) else None)
    return document


def check_version(version: object) -> None:
    """Check the repository version (PEP 629); None is 1.0. Raises UpstreamProtocolError unless it is 1.x."""
    if isinstance(version, str) and version.partition(".")[0] != "1":
        raise UpstreamProtocolError(f"The index has version {version[:20]!r} of the simple API, not 1.")


def html_tags(text: str) -> Iterator[LexborNode]:
    """Yield the elements a, base and meta of an HTML document in order, in linear time and bounded memory."""
    batch: list[str] = []
    for tag in _TAG.finditer(_without_comments(text)):
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
    return _resolved(base, url)


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
