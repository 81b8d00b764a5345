"""The HTTP client of one upstream: conditional GET, streams, ranges, retries, limits, and pauses in trouble.

It knows no format: pages are bytes to it. It does not cache, and it neither resumes nor verifies files, as
`mirror.transfer` does. client (requests), connections (the small client for most of them), body
(what arrives, its digests), pacing (when to ask, decided purely) and turns (what requests do about it), failures
(errors), values (options, URLs), outgoing (the way out: addresses, proxies), certificates (which ones are trusted).

The surprise: what fails is remembered for each host that the upstream links to, and there for each address and class of
URLs, so that neither a dead file host nor one absurd URL in a page stops requests to a healthy index.
"""

from mirror.upstream.body import Digests, RangeBody, Stream, checkable, parse_url
from mirror.upstream.client import Upstream, storable
from mirror.upstream.connections import ConnectionPool
from mirror.upstream.failures import InvalidResponse, SlowBody
from mirror.upstream.outgoing import ForbiddenAddress, Outgoing
from mirror.upstream.pacing import BreakerState, retry_after
from mirror.upstream.values import (
    HEADER_LINE_BYTES,
    Credentials,
    HttpResponse,
    Origin,
    RawResponse,
    UpstreamHealth,
    UpstreamOptions,
    as_written,
    origin,
    parse_http_date,
    redirect_target,
)

__all__ = [
    "HEADER_LINE_BYTES",
    "BreakerState",
    "ConnectionPool",
    "Credentials",
    "Digests",
    "ForbiddenAddress",
    "HttpResponse",
    "InvalidResponse",
    "Origin",
    "Outgoing",
    "RangeBody",
    "RawResponse",
    "SlowBody",
    "Stream",
    "Upstream",
    "UpstreamHealth",
    "UpstreamOptions",
    "as_written",
    "checkable",
    "origin",
    "parse_http_date",
    "parse_url",
    "redirect_target",
    "retry_after",
    "storable",
]  # fmt: skip
