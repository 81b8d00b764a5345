"""Content negotiation, and what a request's headers ask of a cache: pure functions of header values.

After RFC 9110 section 12 (Accept, Accept-Encoding) and RFC 9111 section 5 (Cache-Control, Pragma). All are cached, as
clients send few different headers.
"""

import re
from functools import lru_cache

from mirror.index.freshness import Freshness

_QUALITY = re.compile(r"\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*", re.IGNORECASE)


@lru_cache(maxsize=4096)
def qualities(header: str) -> dict[str, float]:
    """Return token → weight of an Accept or Accept-Encoding header (RFC 9110 section 12.4.2).

    Malformed parts are left out.
    """
    weights: dict[str, float] = {}
    for part in header[:2000].split(","):
        token, *parameters = part.split(";")
        weight = 1.0
        for parameter in parameters:
            if match := _QUALITY.fullmatch(parameter):
                weight = float(match[1])
        if token := token.strip().lower():
            weights[token] = max(weight, weights.get(token, 0.0))
    return weights


@lru_cache(maxsize=4096)
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


@lru_cache(maxsize=4096)
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


@lru_cache(maxsize=256)
def requested_freshness(cache_control: str | None, pragma: str | None) -> Freshness:
    """Return how fresh a page a client asks for, by both headers (RFC 9111 sections 5.2.1 and 5.4)."""
    if cache_control is None:
        return Freshness.NOW if pragma == "no-cache" else Freshness.USUAL
    directives = {directive.strip().lower() for directive in cache_control.split(",")}
    return Freshness.NOW if directives & {"no-cache", "max-age=0"} else Freshness.USUAL
