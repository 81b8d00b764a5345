"""Which addresses are inside a network, where no index on the public network may lead. Pure.

An address of IPv6 may carry one of IPv4: then the inner one counts too, since a gateway or the kernel connects to it.
"""

import ipaddress
import socket
from collections.abc import Iterable

from yarl import URL

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_METADATA_V4 = ("169.254.169.254", "169.254.170.2", "169.254.170.23", "100.100.100.200", "168.63.129.16", "192.0.0.192")
_METADATA_V6 = ("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254")
_METADATA = frozenset(ipaddress.ip_address(text) for text in (*_METADATA_V4, *_METADATA_V6))
"""Where clouds hand a machine its credentials; some of them are in public ranges."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""RFC 6052: the last 32 bits are an address of IPv4. (Of 64:ff9b:1::/48, RFC 8215, no address is global.)"""


def is_metadata(address: IPAddress) -> bool:
    """Return whether the address is that of a cloud's metadata service."""
    return any(one in _METADATA for one in _with_inner(address))


def is_internal(address: IPAddress) -> bool:
    """Return whether the address is not one of the public network: loopback, link-local, private, multicast, reserved.

    Metadata services of clouds count as internal wherever their addresses are.
    """
    return any(
        one in _METADATA
        or one.is_multicast
        or one.is_reserved
        or not one.is_global
        or (isinstance(one, ipaddress.IPv6Address) and one.is_site_local)
        for one in _inner(address) or [address]
    )


def _inner(address: IPAddress) -> list[IPAddress]:
    """Return the address of IPv4 to which an address of IPv6 leads: mapped, of 6to4 (RFC 3056), or of NAT64."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found: list[IPAddress] = [one for one in (address.ipv4_mapped, address.sixtofour) if one is not None]
    return [*found, ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)] if address in _NAT64 else found


def _with_inner(address: IPAddress) -> list[IPAddress]:
    return [address, *_inner(address)]


def literal(host: str) -> IPAddress | None:
    """Return the address that a host of a URL names literally, in any form that a resolver takes; None for a name.

    Also forms such as 127.1, 0x7f000001 and 2130706433, and `localhost` (RFC 6761), which is loopback by definition.
    """
    bare = host.strip("[]").partition("%")[0].rstrip(".")
    if bare.lower() == "localhost" or bare.lower().endswith(".localhost"):
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return ipaddress.ip_address(bare)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(bare)) if bare[:1].isdigit() else None
    except OSError:
        return None


class AllowedHosts:
    """The hosts and networks that an operator names: "files.example", "*.example", "10.1.2.3", "10.0.0.0/8"."""

    def __init__(self, entries: Iterable[str]) -> None:
        self._names: set[str] = set()
        self._suffixes: list[str] = []
        self._networks: list[IPNetwork] = []
        for entry in entries:
            name = entry.strip().lower().rstrip(".")
            try:
                self._networks.append(ipaddress.ip_network(name.strip("[]"), strict=False))
            except ValueError:
                if name.startswith(("*.", ".")):
                    self._suffixes.append(name.removeprefix("*"))
                elif name:
                    self._names.add(name)

    def names(self, host: str) -> bool:
        """Return whether the name of a host is allowed, wherever it is."""
        host = host.lower().rstrip(".")
        return host in self._names or host.endswith(tuple(self._suffixes))

    def contains(self, address: IPAddress) -> bool:
        """Return whether an address is in one of the networks, as it is or by the address of IPv4 inside it."""
        return any(one in network for one in _with_inner(address) for network in self._networks)


def host_of(url: URL) -> str:
    """Return the host of a URL as rules compare it: in lower case, without a dot at its end."""
    return (url.host or "").lower().rstrip(".")
