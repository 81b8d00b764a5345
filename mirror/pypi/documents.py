"""An upstream's documents before they mean anything: which form an answer has, and its JSON object or HTML elements.

The surprise: HTML never reaches the HTML parser as it is. A tree of a million open elements takes hours to build,
so the few tags that mean something are cut out first and parsed as a flat list.
"""

import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from selectolax.lexbor import LexborHTMLParser, LexborNode

from mirror.errors import UpstreamProtocolError
from mirror.model import Answer

# The start tags that mean something, with the text that follows. Quoted values may hold '>': Requires-Python does.
_TAG = re.compile(
    r"<(?:a|base|meta)(?=[\s/])(?:[^<>\"']|\"[^\"]{0,8192}\"|'[^']{0,8192}'){0,8192}+>[^<]{0,8192}", re.IGNORECASE
)


def document_kind(answer: Answer) -> Literal["json", "html"]:
    """Whether an answer is JSON or HTML: by its Content-Type, else by its first byte.

    Raises UpstreamProtocolError when it can be neither.
    """
    media_type = answer.content_type.partition(";")[0].strip().lower()
    if media_type.endswith(("+json", "/json")):
        return "json"
    first = answer.body[:512].removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if media_type.endswith(("+html", "/html", "+xml")) and first == b"<":
        return "html"
    if not media_type.endswith(("+html", "/html", "+xml")) and first in (b"{", b"<"):
        return "json" if first == b"{" else "html"
    raise UpstreamProtocolError(f"The answer of type {media_type[:80] or 'unknown'!r} is not an index page.")


def decode_json(body: bytes) -> dict[str, Any]:
    """A page's JSON object. Raises UpstreamProtocolError, also for a major API version that is not 1 (PEP 629)."""
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
    """Raises UpstreamProtocolError for a repository version that cannot be understood (PEP 629); None is 1.0."""
    if isinstance(version, str) and version.partition(".")[0] != "1":
        raise UpstreamProtocolError(f"The index speaks version {version[:20]!r} of the simple API, not 1.")


def html_tags(text: str) -> Iterator[LexborNode]:
    """The elements a, base and meta of an HTML document, in order, parsed flat: linear in time, bounded in memory."""
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
