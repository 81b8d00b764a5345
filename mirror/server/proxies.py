"""Reverse proxies in front of us: the headers in which they report their clients, from trusted addresses only.

`X-Forwarded-For`, `-Proto`, `-Host` and `-Prefix`, or `Forwarded` (RFC 7239). From all other addresses these headers
are ignored. The surprise: a proxy that sets one of the two kinds forwards the other as its client wrote it; so where
there is any X-Forwarded header, `Forwarded` is ignored, and the settings can turn this round.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec
from aiohttp import web
from multidict import CIMultiDictProxy

from mirror.errors import Invalid
from mirror.server.facts import HOST, RequestFacts

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = "unix"
"""Stands among trusted addresses for all clients that connect over a Unix socket."""
MAX_HOPS = 32
"""Proxies in a row that are read, the nearest ones."""

_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]{1,100}){0,10}/?")
_PAIR = re.compile(r'\A\s*([A-Za-z-]{1,20})=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))\s*')


FORWARDED_HEADERS = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Prefix", "Forwarded")
"""The headers in which a proxy reports a request."""
ForwardedFields = tuple[str | None, str | None, str | None, str | None, str | None]
"""The values of those headers."""
CACHED_REPORTS = 1024
"""Reports that are kept; each may have some kilobytes, most have fifty bytes."""


class ForwardedRequest(msgspec.Struct, frozen=True):
    """A request as the proxy that forwards it reports it; empty where it reports nothing."""

    client: str = ""
    """An address."""
    scheme: str = ""
    host: str = ""
    prefix: str = ""
    """The path below which the proxy serves us, without a slash at the end."""


class ProxyReport(msgspec.Struct, frozen=True):
    """The facts of a request that a trusted proxy has reported."""

    client: str
    """An address; empty where the proxy reports none."""
    host: str
    origin: str
    """Scheme, authority and path below which the client reaches the proxy."""
    prefix: str
    key: bytes
    """All of it on which a response may depend."""


class TrustedProxies:
    """The proxies that are trusted, and the reading of their headers."""

    def __init__(self, trusted: Iterable[str], standard: bool = False) -> None:
        """`trusted` are addresses, networks, or `unix`. `standard`: only `Forwarded` counts, not X-Forwarded-*."""
        trusted = list(trusted)
        self._unix = UNIX in trusted
        self._networks: Sequence[Network] = [ipaddress.ip_network(one) for one in trusted if one != UNIX]
        self._standard = standard
        self.trusts = lru_cache(maxsize=4096)(self._trusts)
        """Return whether an address (empty: a Unix socket) is trusted."""
        self.report = lru_cache(maxsize=CACHED_REPORTS)(self._report)
        """Return what a peer reports of a request with this scheme and host, or None; for headers of bounded size.

        Raises Invalid.
        """

    def _trusts(self, address: str) -> bool:
        if not address:
            return self._unix
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        return any(ip in network for network in self._networks)

    def client_of(self, address: str) -> str:
        """Return the client to which what comes from an address is counted; empty for a trusted proxy."""
        return "" if self.trusts(address) else network_of(address) or UNIX

    def read_headers(self, request: web.Request, facts: RequestFacts) -> None:
        """Put what a trusted proxy reports of a request into its facts. Raises Invalid."""
        facts.request_id = request.headers.get("X-Request-ID", "")
        report = self._report(facts.client, request.scheme, request.host, forwarded_fields(request.headers))
        if report is not None:
            facts.client = report.client or facts.client
            facts.host, facts.origin, facts.prefix = report.host, report.origin, report.prefix

    def _report(self, peer: str, scheme: str, host: str, fields: ForwardedFields | None) -> ProxyReport | None:
        forwarded = self._forwarded(peer, fields)
        if forwarded is None:
            return None
        scheme, host, prefix = forwarded.scheme or scheme, forwarded.host or host, forwarded.prefix
        if not HOST.fullmatch(host):
            raise Invalid("The Host header is not a host name.")
        origin = f"{scheme}://{host}{prefix}"
        return ProxyReport(forwarded.client, host, origin, prefix, f"{origin}\n{host}\n{prefix}\n".encode())

    def forwarded(self, peer: str, headers: CIMultiDictProxy[str]) -> ForwardedRequest | None:
        """Return what a peer reports of its client; None when it is not trusted, or reports nothing. Raises Invalid."""
        return self._forwarded(peer, forwarded_fields(headers))

    def _forwarded(self, peer: str, fields: ForwardedFields | None) -> ForwardedRequest | None:
        if fields is None or not self.trusts(peer):
            return None
        *x_forwarded, forwarded = fields
        others = any(field is not None for field in x_forwarded)
        if forwarded is not None and (self._standard or not others):
            hops = _forwarded(forwarded)
        elif others and not self._standard:
            hops = _x_forwarded(*map(_last, x_forwarded[:3]))
        else:
            return None
        prefix = (_last(x_forwarded[3]) or [""])[-1]
        return _checked(msgspec.structs.replace(self._last_untrusted(hops), prefix=prefix))

    def _last_untrusted(self, hops: Sequence[ForwardedRequest]) -> ForwardedRequest:
        """Return the hop of the client: each proxy adds what it saw at the end, so ours are the last ones."""
        for hop in reversed(hops):
            if not hop.client or not self._trusts(hop.client):
                return hop
        return hops[0] if hops else ForwardedRequest()


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """Return what counts as one client: an IPv4 address, or the network of /64 of an IPv6 one; else what was given."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, 64), strict=False))


def forwarded_fields(headers: CIMultiDictProxy[str]) -> ForwardedFields | None:
    """Return the values of the headers in which proxies report, those of several lines as one; None without any."""
    if not any(name in headers for name in FORWARDED_HEADERS):
        return None
    one = [",".join(headers.getall(name)) if name in headers else None for name in FORWARDED_HEADERS]
    return one[0], one[1], one[2], one[3], one[4]


def _last(field: str | None) -> list[str]:
    """Return the last items of a list header."""
    return [item.strip() for item in (field or "").split(",")[-MAX_HOPS:] if item.strip()]


def _x_forwarded(clients: Sequence[str], schemes: Sequence[str], hosts: Sequence[str]) -> list[ForwardedRequest]:
    """Return one hop for each address; a shorter list of schemes or hosts was begun by a later proxy."""
    number = max(1, len(clients))

    def at(items: Sequence[str], back: int) -> str:
        return items[-min(back, len(items))] if items else ""

    return [
        ForwardedRequest(_address(at(clients, back)), at(schemes, back).lower(), at(hosts, back))
        for back in range(number, 0, -1)
    ]


def _forwarded(header: str) -> list[ForwardedRequest]:
    """Return the hops of a Forwarded header (RFC 7239 section 4). A hop that does not parse has no client."""
    hops = []
    for element in _split(header, ",")[-MAX_HOPS:]:
        found: dict[str, str] = {}
        for pair in _split(element, ";"):
            if match := _PAIR.fullmatch(pair):
                value = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
                found[match[1].lower()] = value
        hops.append(
            ForwardedRequest(_address(found.get("for", "")), found.get("proto", "").lower(), found.get("host", ""))
        )
    return hops


def _split(text: str, separator: str) -> list[str]:
    """Split a text at separators outside of quotes."""
    return re.findall(rf'(?:[^{separator}"]|"(?:[^"\\]|\\.)*"?)+', text)


def _address(text: str) -> str:
    """Return an address without its port and brackets; empty when there is none (`unknown`, `_hidden`)."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def _checked(forwarded: ForwardedRequest) -> ForwardedRequest:
    """Return the request without a slash at the end of its prefix. Raises Invalid for what would break a link."""
    if forwarded.scheme not in ("", "http", "https"):
        raise Invalid("The proxy in front sends a scheme that is neither http nor https.")
    if forwarded.host and not HOST.fullmatch(forwarded.host):
        raise Invalid("The proxy in front sends a host that is not a host name.")
    if not _PREFIX.fullmatch(forwarded.prefix) or "/../" in f"{forwarded.prefix}/":
        raise Invalid("The proxy in front sends a prefix that is not a plain path.")
    return msgspec.structs.replace(forwarded, prefix=forwarded.prefix.rstrip("/"))
