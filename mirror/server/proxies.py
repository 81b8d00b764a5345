"""Reverse proxies in front of us: what they say of their clients counts, and only from addresses that are trusted.

`X-Forwarded-For`, `-Proto`, `-Host` and `-Prefix`, or `Forwarded` (RFC 7239). From everybody else these headers are
text like any other. The surprise: a proxy that sets the one kind hands on the other as its client wrote it; so where
there is any X-Forwarded header, `Forwarded` is not looked at, and the settings can turn this round.
"""

import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware
from multidict import CIMultiDictProxy

from mirror.errors import Invalid
from mirror.server.negotiate import CLIENT, GIVEN_ID, HOST, ORIGIN, PREFIX

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX = "unix"
"""Stands among trusted addresses for whoever comes over a Unix socket."""
MOST_HOPS = 32

_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]{1,100}){0,10}/?")
_PAIR = re.compile(r'\s*([A-Za-z-]{1,20})=(?:"((?:[^"\\]|\\.)*)"|([^\s;,"]*))\s*')


class ForwardedRequest(msgspec.Struct, frozen=True):
    """What a proxy says of a request that it hands on; empty where it says nothing."""

    client: str = ""
    """An address."""
    scheme: str = ""
    host: str = ""
    prefix: str = ""
    """The path below which the proxy serves us, without a slash at the end."""


class TrustedProxies:
    """Which proxies are trusted, and what they say."""

    def __init__(self, trusted: Iterable[str], standard: bool = False) -> None:
        """`trusted` are addresses, networks, or `unix`. `standard`: only `Forwarded` counts, not X-Forwarded-*."""
        trusted = list(trusted)
        self._unix = UNIX in trusted
        self._networks: Sequence[Network] = [ipaddress.ip_network(one) for one in trusted if one != UNIX]
        self._standard = standard
        self.trusts = lru_cache(maxsize=4096)(self._trusts)

    def _trusts(self, address: str) -> bool:
        """Whether what comes from an address (empty: a Unix socket) is believed."""
        if not address:
            return self._unix
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        return any(ip in network for network in self._networks)

    def told(self, peer: str, headers: CIMultiDictProxy[str]) -> ForwardedRequest | None:
        """What a peer says of its client; None when it is not trusted to, or says nothing. Raises Invalid."""
        if not self.trusts(peer):
            return None
        others = any(name in headers for name in _X)
        if "Forwarded" in headers and (self._standard or not others):
            hops = _forwarded(",".join(headers.getall("Forwarded")))
        elif others and not self._standard:
            hops = _x_forwarded({word: _last(headers, name) for name, word in _X.items()})
        else:
            return None
        told = self._first_of_a_stranger(hops)
        prefix = (_last(headers, "X-Forwarded-Prefix") or [""])[-1]
        return _checked(msgspec.structs.replace(told, prefix=prefix))

    def _first_of_a_stranger(self, hops: Sequence[ForwardedRequest]) -> ForwardedRequest:
        """Each proxy adds what it saw at the end; the first address from there that is no proxy of ours counts."""
        for hop in reversed(hops):
            if not hop.client or not self._trusts(hop.client):
                return hop
        return hops[0] if hops else ForwardedRequest()

    def middleware(self) -> Middleware:
        """Leaves in each request what a trusted proxy says of it."""

        @web.middleware
        async def told(request: web.Request, handler: Handler) -> web.StreamResponse:
            peer = request.remote or ""
            if not self.trusts(peer):
                return await handler(request)
            if given := request.headers.get("X-Request-ID"):
                request[GIVEN_ID] = given
            if (says := self.told(peer, request.headers)) is not None:
                if says.client:
                    request[CLIENT] = says.client
                scheme, host = says.scheme or request.scheme, says.host or request.host
                if not HOST.fullmatch(host):
                    raise Invalid("The Host header is not a host name.")
                request[PREFIX] = says.prefix
                request[ORIGIN] = f"{scheme}://{host}{says.prefix}"
            return await handler(request)

        return told


_X: Mapping[str, str] = {
    "X-Forwarded-For": "client",
    "X-Forwarded-Proto": "scheme",
    "X-Forwarded-Host": "host",
    "X-Forwarded-Prefix": "prefix",
}


def _last(headers: CIMultiDictProxy[str], name: str) -> list[str]:
    """The last items of a list header, which may come in several lines."""
    return [item.strip() for item in ",".join(headers.getall(name, [])).split(",")[-MOST_HOPS:] if item.strip()]


def _x_forwarded(lists: Mapping[str, Sequence[str]]) -> list[ForwardedRequest]:
    """One hop for each address; a shorter list of schemes or hosts was begun by a later proxy."""
    number = max(1, len(lists["client"]))

    def at(word: str, back: int) -> str:
        items = lists[word]
        return items[-min(back, len(items))] if items else ""

    return [
        ForwardedRequest(_address(at("client", back)), at("scheme", back).lower(), at("host", back))
        for back in range(number, 0, -1)
    ]


def _forwarded(header: str) -> list[ForwardedRequest]:
    """The hops of a Forwarded header (RFC 7239 section 4). What does not parse ends the look backwards."""
    hops = []
    for element in _split(header, ",")[-MOST_HOPS:]:
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
    """The parts of a text, at separators outside of quotes."""
    return re.findall(rf'(?:[^{separator}"]|"(?:[^"\\]|\\.)*"?)+', text)


def _address(text: str) -> str:
    """An address without its port and brackets; empty when there is none (`unknown`, `_hidden`)."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def _checked(told: ForwardedRequest) -> ForwardedRequest:
    """Raises Invalid for what would not fit into a link."""
    if told.scheme not in ("", "http", "https"):
        raise Invalid("The proxy in front hands on a scheme that is neither http nor https.")
    if told.host and not HOST.fullmatch(told.host):
        raise Invalid("The proxy in front hands on a host that is no host name.")
    if not _PREFIX.fullmatch(told.prefix) or "/../" in f"{told.prefix}/":
        raise Invalid("The proxy in front hands on a prefix that is no plain path.")
    return msgspec.structs.replace(told, prefix=told.prefix.rstrip("/"))
