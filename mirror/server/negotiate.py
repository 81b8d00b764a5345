"""What a request's headers ask for: pure functions of header values.

After RFC 9110 sections 12 (Accept, Accept-Encoding), 13 (conditions) and 14 (ranges), and RFC 9111 section 5
(Cache-Control, Pragma). Where clients send few different headers, results are cached.
"""

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import lru_cache

from mirror.index.freshness import Freshness

SHORT_RANGE_BYTES = 1 << 20
"""Bytes below which a range is short: clients that look into an archive ask for less at a time."""
CACHED_HEADERS = 128
"""How many headers each cache keeps: clients send few different ones, and one may have 16 KiB."""
PARSED_CHARACTERS = 1000
"""Characters of a header that are parsed: the parts take forty times as much memory."""

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_QUALITY = re.compile(r"\A\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*", re.IGNORECASE)


@lru_cache(maxsize=CACHED_HEADERS)
def qualities(header: str) -> dict[str, float]:
    """Return token → weight of an Accept or Accept-Encoding header (RFC 9110 section 12.4.2).

    Malformed parts are left out.
    """
    weights: dict[str, float] = {}
    for part in header[:PARSED_CHARACTERS].split(","):
        token, *parameters = part.split(";")
        weight = 1.0
        for parameter in parameters:
            if match := _QUALITY.fullmatch(parameter):
                weight = float(match[1])
        if token := token.strip().lower():
            weights[token] = max(weight, weights.get(token, 0.0))
    return weights


@lru_cache(maxsize=CACHED_HEADERS)
def negotiate(accept: str, offered: tuple[str, ...]) -> str | None:
    """Return the media type that an Accept header prefers, of those offered in our order of preference; None for none.

    Without a header, the first.
    """
    if not accept:
        return offered[0]
    weights = qualities(accept)

    def weight(media_type: str) -> float:
        family = media_type.partition("/")[0] + "/*"
        return next((weights[token] for token in (media_type, family, "*/*") if token in weights), 0.0)

    best = max(offered, key=weight)  # max keeps the first of equals
    return best if weight(best) > 0 else None


@lru_cache(maxsize=CACHED_HEADERS)
def choose_encoding(accept_encoding: str, offered: tuple[str, ...]) -> str:
    """Return the content coding, of those offered in our order of preference, or `identity`.

    After RFC 9110 section 12.5.3.
    """
    weights = qualities(accept_encoding)
    best, best_weight = "identity", 0.0
    for coding in offered:
        weight = weights.get(coding, weights.get("*", 0.0))
        if weight > best_weight:
            best, best_weight = coding, weight
    return best


@lru_cache(maxsize=CACHED_HEADERS)
def requested_freshness(cache_control: str | None, pragma: str | None) -> Freshness:
    """Return how fresh a page a client asks for, by both headers (RFC 9111 sections 5.2.1 and 5.4)."""
    if cache_control is None:
        return Freshness.NOW if pragma == "no-cache" else Freshness.USUAL
    directives = {directive.strip().lower() for directive in cache_control.split(",")}
    return Freshness.NOW if directives & {"no-cache", "max-age=0"} else Freshness.USUAL


def matches_etag(header: str, etag: str) -> bool:
    """Return whether an If-None-Match header names this ETag (given with its quotes); weak comparison.

    A bare value without quotes counts too: bundler 2.5.0 to 2.5.4 send it so (rule 4).
    """
    if header.strip() == "*":
        return True
    bare = etag.strip('"')
    return any(part.strip().removeprefix("W/").strip('"') == bare for part in header.split(","))


def unmodified(headers: Mapping[str, str], etag: str, modified: str | None) -> bool:
    """Return whether the condition of a request holds that spares sending what the client has (section 13.1)."""
    condition = headers.get("If-None-Match")
    if condition is not None:
        return matches_etag(condition, etag)
    since = headers.get("If-Modified-Since")
    if since is None or modified is None:
        return False
    try:
        return parsedate_to_datetime(modified) <= parsedate_to_datetime(since)
    except (TypeError, ValueError, OverflowError):
        return False


def range_applies(headers: Mapping[str, str], etag: str, modified: str | None) -> bool:
    """Return whether If-Range lets the Range header count: only for the same bytes (RFC 9110 section 13.1.5)."""
    condition = headers.get("If-Range")
    return condition is None or condition.strip() == etag or (modified is not None and condition == modified)


def is_short_range(header: str) -> bool:
    """Return whether a Range header asks for a few bytes, whatever the size: `bytes=0-99` or the last 100.

    Not for all bytes from a position on, as a client does that resumes a download.
    """
    match = _RANGE.fullmatch(header.replace(" ", "").lower())
    if not match or not match[2] or max(len(match[1]), len(match[2])) > 19:
        return False
    return int(match[2]) - int(match[1] or 0) < SHORT_RANGE_BYTES


def parse_range(header: str, size: int, suffixes: bool = True) -> tuple[int, int] | None:
    """Return the bytes [start, stop) that a Range header asks for; None when it is to be ignored.

    A range that no byte satisfies is (size, size). Several ranges at once are ignored: no client here sends them. So is
    one that counts from the end, without `suffixes`. After RFC 9110 section 14.2.
    """
    match = _RANGE.fullmatch(header.replace(" ", "").lower())
    if not match or match[1] == match[2] == "":
        return None
    first, last = match[1], match[2]
    if len(first) > 19 or len(last) > 19:
        return None
    if first == "":  # the last N bytes
        count = int(last)
        if not suffixes:
            return None
        return (max(0, size - count), size) if count else (size, size)
    start = int(first)
    if last and int(last) < start:
        return None
    stop = min(size, int(last) + 1) if last else size
    return (start, stop) if start < size else (size, size)
