"""The proxies of the environment: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, as common clients read them. Pure.

There is no standard for these variables. Every usual form of NO_PROXY is understood: `*`, a host (which stands for the
hosts below it too), `.suffix`, `*.suffix`, `host:port`, an address, and a network such as 10.0.0.0/8.
"""

import ipaddress
from collections.abc import Mapping

import msgspec
from yarl import URL

from mirror.errors import ConfigError
from mirror.upstream.addresses import host_of

_SCHEMES = ("http", "https")


class EnvironmentProxies(msgspec.Struct, frozen=True):
    """The proxies by the scheme of the URL that is asked for, and the hosts that are asked directly."""

    by_scheme: Mapping[str, URL] = {}
    no_proxy: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.by_scheme)

    def proxy_for(self, url: URL) -> URL | None:
        """Return the proxy for a URL; None where it is asked directly."""
        proxy = self.by_scheme.get(url.scheme)
        return None if proxy is None or any(_covers(entry, url) for entry in self.no_proxy) else proxy


def proxies_of(environment: Mapping[str, str]) -> EnvironmentProxies:
    """Read the variables; the name in lower case wins. Raises ConfigError for a proxy of another kind than http.

    HTTP_PROXY in upper case is ignored in a CGI program, where a client could set it with a header `Proxy`.
    """
    found: dict[str, URL] = {}
    for scheme in _SCHEMES:
        for variable in (f"{scheme}_proxy", f"{scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"):
            if variable == "HTTP_PROXY" and "REQUEST_METHOD" in environment:
                continue
            if value := environment.get(variable, "").strip():
                found[scheme] = _parse(variable, value)
                break
    listed = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    entries = (entry.strip().lower() for entry in listed.replace(" ", ",").split(","))
    return EnvironmentProxies(by_scheme=found, no_proxy=tuple(entry for entry in entries if entry))


def _parse(variable: str, value: str) -> URL:
    try:
        url = URL(value if "://" in value else f"http://{value}")
        usable = url.scheme in _SCHEMES and bool(url.host)
    except ValueError:
        usable = False
    if not usable:  # never with its value, which may contain a password
        raise ConfigError(
            f"{variable}: is set, but is not the URL of an http proxy, the only kind that can be used: "
            "unset it, or set another one."
        )
    return url


def _covers(entry: str, url: URL) -> bool:
    """Return whether an entry of NO_PROXY is about the host and port of a URL."""
    if entry == "*":
        return True
    host = host_of(url).partition("%")[0]
    if (network := _network(entry)) is not None:
        try:
            return ipaddress.ip_address(host) in network
        except ValueError:
            return False
    name, _, port = entry.rpartition(":")
    if name and port.isascii() and port.isdigit() and (":" not in name or name.startswith("[")):
        if int(port) != url.port:
            return False
        entry = name
        if _network(entry) is not None:
            return _covers(entry, url)
    entry = entry.removeprefix("*").strip(".")
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return None
