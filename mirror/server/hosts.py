"""The names under which clients may reach the mirror: what the Host and Origin headers may hold.

A web page can let its own name resolve to the address of this machine (DNS rebinding), and then read a mirror on
loopback as if that were its own site; but its requests keep the page's name in their Host header. The surprise: the
verdict on a name is cached as a function of it, so that a request enters nothing here.
"""

import ipaddress
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from urllib.parse import urlsplit

from yarl import URL

from mirror.errors import Forbidden, Invalid, Misdirected
from mirror.server.facts import HOST

CACHED_VERDICTS = 256
"""Verdicts that are kept; a header may have some kilobytes."""
MAX_LABEL_CHARACTERS = 63
"""Characters between two dots of a host name."""


class HostNames:
    """The names that the settings allow, and which connections are restricted to names of loopback without any."""

    def __init__(self, allowed: Sequence[str], listen: Sequence[str]) -> None:
        """`allowed` are patterns of host names; `listen` the hosts of the addresses that the mirror listens at."""
        own = [host.lower() for host in listen if host and not _is_address(host)]
        self._allowed = tuple(pattern.lower() for pattern in allowed)
        self._own = (*own, *self._allowed)
        # What listens everywhere is reached over loopback too, by whatever name this machine has.
        self._everywhere = any(_is_address(host) and ipaddress.ip_address(host).is_unspecified for host in listen)
        self.explicit = bool(allowed)
        """Whether the settings name any."""
        self.check = lru_cache(maxsize=CACHED_VERDICTS)(self._check)
        """Raise Invalid or Misdirected unless a Host header is right on a connection; see `guards`."""
        self.guards = lru_cache(maxsize=CACHED_VERDICTS)(self._guards)
        """Return whether a connection to this local address may only use names of loopback, unless others are set."""

    def _guards(self, address: str) -> bool:
        return not self._everywhere and _is_loopback(address)

    def _check(self, header: str | None, guarded: bool) -> None:
        host = host_of(header)
        if not self._allows(host, guarded):
            raise Misdirected(f"This mirror is not called {host[:100]!r}: add the name to `allowed_hosts`.")

    def _allows(self, host: str, guarded: bool) -> bool:
        if _is_loopback(host) or any(fnmatchcase(host, pattern) for pattern in self._own):
            return True
        return not self._allowed and not guarded

    def check_origin(self, origin: str) -> None:
        """Raise Forbidden unless the page that sends a request to a guarded connection is one of this machine's."""
        parts = urlsplit(origin)
        if not parts.hostname or not self._allows(parts.hostname, guarded=True):
            raise Forbidden("The pages of other sites may not read a mirror of this machine.")


def host_of(header: str | None) -> str:
    """Return the host in a Host header, in lower case and without port and brackets. Raises Invalid."""
    if header is None:  # RFC 9112 section 3.2
        raise Invalid("The request has no Host header.")
    found = HOST.fullmatch(header)
    if found is None:
        raise Invalid("The Host header is not a host name.")
    try:
        url = URL(f"http://{header}/")
        host, port, _ = url.host or "", url.port, url.human_repr()
    except ValueError:  # a port or an address that does not exist, or a name that no one can have
        raise Invalid("The Host header is not a host name.") from None
    name = host.lower().removesuffix(".")
    # RFC 1035 section 2.3.4
    labels = () if _is_address(name) else name.split(".")
    if not port or ":" in "".join(labels) or not all(0 < len(label) <= MAX_LABEL_CHARACTERS for label in labels):
        raise Invalid("The Host header is not a host name.")
    return name


def is_same_site(origin: str, host: str, secure: bool) -> bool:
    """Return whether a page of `origin` comes from the server that it calls `host`; a secure one has no plain pages."""
    try:
        parts = urlsplit(origin)
    except ValueError:  # brackets that hold no address
        return False
    if parts.scheme not in ("http", "https") or (secure and parts.scheme == "http"):
        return False
    return parts.netloc.lower() == host.lower()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    """Return whether a name or an address is one of loopback (RFC 6761 section 6.3)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback
