"""How connections leave this machine: to which addresses, through which proxy, trusting which certificates.

Every client of upstreams connects by this, so that an index cannot lead the mirror into the network around it: what a
page links to, and each hop of a redirect, may be at a public address, where the index itself is, or where the
operator's `allow_hosts` says. A name is resolved once, all its addresses are checked, and the connection goes to one
of those that were.

The surprise: where the index itself is, is found out by connecting to it. The owner of an index's name can let it
point anywhere; but its certificate cannot be shown by another machine.
"""

import asyncio
import ipaddress
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar, cast

import aiohttp
from aiohappyeyeballs import start_connection
from aiohttp import AddrInfoType
from aiohttp.abc import ResolveResult
from aiohttp.tracing import Trace
from yarl import URL

from mirror.errors import UpstreamProtocolError
from mirror.upstream.addresses import AllowedHosts, IPAddress, host_of, is_internal, is_metadata, literal
from mirror.upstream.certificates import Certificates
from mirror.upstream.failures import ConnectFailure
from mirror.upstream.proxies import proxies_of
from mirror.upstream.values import UpstreamOptions

IDLE_SECONDS = 2.5
"""The longest that a connection waits for another request. What was taken out of service may go on to answer on old
connections; its 404 would give the names of an internal index to the next one."""
_HOME_SECONDS = 10.0
"""The longest search for the addresses of the index itself."""
RESOLVED_SECONDS = 10.0
"""How long the addresses of a host are used for new connections."""
MOST_RESOLVED = 64
"""The most hosts whose addresses are remembered, the oldest going first."""
ATTEMPT_SECONDS = 0.25
"""After so long without an answer the next address of a host is tried as well (RFC 8305, section 5)."""
READ_AHEAD_BYTES = 256 * 1024
"""Bytes of an answer that are read ahead; a chunk has up to twice as many."""
_MOST_CHECKED = 4096
"""The most addresses that are remembered as checked, the oldest going first."""

P = TypeVar("P", bound=asyncio.Protocol)


class ForbiddenAddress(UpstreamProtocolError):
    """An index leads to an address inside the network to which it may not lead."""

    cause = "refused"


class Outgoing:
    """The way out for the requests about one index."""

    def __init__(
        self,
        url: URL,
        *,
        ca_file: Path | None = None,
        proxy: str | None = None,
        allow_hosts: Iterable[str] = (),
        connect_timeout: float = _HOME_SECONDS,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`url` is that of the index; `proxy` replaces those of the environment. Raises ConfigError."""
        self._url = url
        self._certificates = Certificates(url.host or "", ca_file, environment)
        if ca_file or url.scheme == "https":
            self._certificates.check()
        self._proxy = URL(proxy) if proxy else None
        self._proxies = proxies_of({} if proxy else environment)
        self._allowed = AllowedHosts(allow_hosts)
        self._connect_timeout = connect_timeout
        self._home: frozenset[IPAddress] | None = None
        """The internal addresses at which the index itself is; None before it is known."""
        self._home_lock = asyncio.Lock()
        self._checked: dict[IPAddress, None] = {}
        """Internal addresses that a check let through, the oldest first."""
        self._resolved: dict[tuple[str, int], tuple[float, asyncio.Task[list[str]]]] = {}
        """The checked addresses of hosts, and until when they are used."""
        self.has_proxies = self._proxy is not None or bool(self._proxies)
        """Whether any request may go through a proxy, so that `proxy_for` has to be asked."""
        proxies = [self._proxy] if self._proxy else list(self._proxies.by_scheme.values())
        self._proxy_ports = frozenset((host_of(one), one.port) for one in proxies)

    # Connections

    def connector(self) -> aiohttp.TCPConnector:
        """Return a connector for a session of aiohttp. Requests need `proxy_for` as well where `has_proxies`."""
        return _CheckedConnector(self, self._trust())

    async def open_session(
        self,
        sessions: dict[bool, aiohttp.ClientSession],
        own: bool,
        options: UpstreamOptions,
        response_class: type[aiohttp.ClientResponse],
    ) -> None:
        """Add an open session of aiohttp to `sessions`; `own` for the index's own host.

        Requests need `proxy_for` as well where `has_proxies`. Raises ConnectFailure.
        """
        if self._certificates.named:
            await self._certificates.load()  # beside the event loop
        if own in sessions and not sessions[own].closed:
            return  # another request has opened it meanwhile
        sessions[own] = aiohttp.ClientSession(
            connector=self._own_connector() if own else self.connector(),
            timeout=aiohttp.ClientTimeout(connect=options.connect_timeout, sock_read=options.read_timeout),
            headers={"User-Agent": options.user_agent},
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_AHEAD_BYTES,
            response_class=response_class,
        )

    def _own_connector(self) -> aiohttp.TCPConnector:
        """Return the connector for the index's own host; an address in its URL needs no check."""
        if literal(host_of(self._url)) is None:
            return self.connector()
        return aiohttp.TCPConnector(limit=0, ssl=self._trust(), keepalive_timeout=IDLE_SECONDS)

    def _trust(self) -> ssl.SSLContext | bool:
        """Return what TLS connections trust; True stands for aiohttp's context, which is made once for all."""
        return self._certificates.context() if self._certificates.named else True

    def proxy_for(self, url: URL) -> URL | None:
        """Return the proxy for a request; None for a direct one.

        A proxy resolves names itself, so here only what the URL names literally can be checked. Raises
        ForbiddenAddress.
        """
        proxy = self._proxy or self._proxies.proxy_for(url)
        if proxy is not None:
            address = literal(host_of(url))
            if address is not None and is_internal(address) and not self._is_named(host_of(url), address):
                raise self._forbidden(host_of(url))
        return proxy

    async def open_connection(self, factory: Callable[[], P], host: str, port: int, *, tls: bool) -> P:
        """Open a direct connection to a host, and return its protocol.

        Raises ConnectFailure, ConnectionTimeoutError and ForbiddenAddress.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout):
                context = await self._certificates.load() if tls else None
                infos = [_numeric(text, port) for text in await self._resolve(host, port)]
                found = await start_connection(
                    infos, happy_eyeballs_delay=ATTEMPT_SECONDS, loop=loop, socket_factory=self.open_socket
                )
                _, protocol = await loop.create_connection(
                    factory, sock=found, ssl=context, server_hostname=host.rstrip(".") if tls else None,
                )  # fmt: skip
        except TimeoutError:
            self._resolved.pop((host, port), None)
            raise aiohttp.ConnectionTimeoutError(f"no connection to {host} in time") from None
        except OSError as error:
            self._resolved.pop((host, port), None)
            raise ConnectFailure(_reason(error)) from error
        return protocol

    async def _resolve(self, host: str, port: int) -> list[str]:
        """Return what `addresses` does; for connections that are opened within RESOLVED_SECONDS, it is asked once."""
        key, now = (host, port), asyncio.get_running_loop().time()
        until, task = self._resolved.get(key, (0.0, None))
        if task is None or until < now or task.cancelled():
            task = asyncio.create_task(self.addresses(host, port), name=f"addresses of {host}")
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # it may have no reader left
            self._resolved.pop(key, None)
            self._resolved[key] = now + RESOLVED_SECONDS, task
            if len(self._resolved) > MOST_RESOLVED:
                del self._resolved[next(iter(self._resolved))]
        try:
            return await asyncio.shield(task)
        except Exception:
            self._resolved.pop(key, None)
            raise

    async def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses of a host to which a connection may go. Raises OSError and ForbiddenAddress."""
        address = literal(host)
        if address is not None and host.strip("[]") == str(address):
            await self.check(host, port, [address])
            return [str(address)]
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        texts = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = await self.check(host, port, [_parsed(text) for text in texts])
        return [text for text in texts if _parsed(text) in allowed]

    async def check(self, host: str, port: int, addresses: list[IPAddress]) -> set[IPAddress]:
        """Return those of a host's addresses to which a connection may go. Raises ForbiddenAddress if none is left."""
        if self._home is None and host.lower() == host_of(self._url) and self._url.scheme == "http":
            self._home = _inside(addresses)  # without certificates, where the index was first is where it is
        allowed: set[IPAddress] = set()
        for address in addresses:
            if not is_internal(address) or await self._may_lead_to(host.lower().rstrip("."), port, address):
                allowed.add(address)
        if not allowed:
            raise self._forbidden(host)
        for address in allowed:
            if is_internal(address):
                self._checked[address] = None
                if len(self._checked) > _MOST_CHECKED:
                    del self._checked[next(iter(self._checked))]
        return allowed

    def open_socket(self, info: AddrInfoType) -> socket.socket:
        """Make the socket for a connection to a checked address. Raises ForbiddenAddress for another one."""
        family, kind, protocol, _, at = info
        address = _parsed(str(at[0]))
        if is_internal(address) and address not in self._checked and not self._is_named(str(at[0]), address):
            raise self._forbidden(str(at[0]))
        return socket.socket(family, kind, protocol)

    async def _may_lead_to(self, host: str, port: int, address: IPAddress) -> bool:
        if (host, port) in self._proxy_ports or self._is_named(host, address):
            return True
        own = host == host_of(self._url)
        if own and self._url.scheme == "https" and port == self._url.port:
            return True  # only the index itself can show the certificate that is asked for there
        if is_metadata(address):
            return False
        home = await self._find_home()
        return address in home or (own and bool(home))

    def _is_named(self, host: str, address: IPAddress) -> bool:
        """Return whether `allow_hosts` or the URL of the index itself names a host or an address."""
        return self._allowed.names(host) or self._allowed.contains(address) or address == literal(host_of(self._url))

    async def _find_home(self) -> frozenset[IPAddress]:
        """Return the internal addresses at which the index itself is; they stay the same until the next start.

        Over https an address counts only if the index's certificate is shown there.
        """
        async with self._home_lock:
            if self._home is None:
                url = self._url
                with suppress(OSError):  # TimeoutError too: it is looked for again
                    async with asyncio.timeout(self._connect_timeout):
                        found = await asyncio.get_running_loop().getaddrinfo(
                            url.host, url.port, type=socket.SOCK_STREAM
                        )
                        inside = _inside(_parsed(str(entry[4][0])) for entry in found)
                        if url.scheme == "https":
                            inside = frozenset([one for one in inside if await self._is_index(str(one))])
                        self._home = inside
        return self._home or frozenset()

    async def _is_index(self, address: str) -> bool:
        """Return whether a machine shows the certificate of the index. Raises OSError when it does not answer."""
        context = await self._certificates.load()
        try:
            _, writer = await asyncio.open_connection(
                address, self._url.port, ssl=context, server_hostname=self._url.host
            )
        except ssl.SSLError:
            return False
        writer.close()
        return True

    def _forbidden(self, host: str) -> ForbiddenAddress:
        return ForbiddenAddress(
            f"{host} is inside this network, where {self._url.host} may not lead: "
            "name it in allow_hosts of that upstream if it should."
        )


class _CheckedConnector(aiohttp.TCPConnector):
    """A connector that connects only to addresses that may be connected to.

    `_resolve_host` is where aiohttp learns the addresses of every host, literal ones too. Should a later version no
    longer call it, `Outgoing.open_socket` refuses what is not checked.
    """

    def __init__(self, outgoing: Outgoing, trust: ssl.SSLContext | bool) -> None:
        # Callers have limits of their own.
        super().__init__(limit=0, ssl=trust, socket_factory=outgoing.open_socket, keepalive_timeout=IDLE_SECONDS)
        self._outgoing = outgoing

    async def _resolve_host(self, host: str, port: int, traces: Sequence[Trace] | None = None) -> list[ResolveResult]:
        found = await super()._resolve_host(host, port, traces)
        allowed = await self._outgoing.check(host, port, [_parsed(entry["host"]) for entry in found])
        return [entry for entry in found if _parsed(entry["host"]) in allowed]


def _parsed(text: str) -> IPAddress:
    return ipaddress.ip_address(text.partition("%")[0])


def _inside(addresses: Iterable[IPAddress]) -> frozenset[IPAddress]:
    return frozenset(one for one in addresses if is_internal(one) and not is_metadata(one))


def _numeric(text: str, port: int) -> AddrInfoType:
    """Return an address as a connection to it takes it; nothing is resolved."""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return cast(AddrInfoType, socket.getaddrinfo(text, port, type=socket.SOCK_STREAM, flags=flags)[0])


def _reason(error: OSError) -> str:
    """Return why there is no connection, without addresses."""
    match error:
        case ConnectFailure():
            return str(error)
        case ssl.SSLError():
            return "no trusted TLS connection (a private authority needs ca_file)"
        case socket.gaierror():
            return "its name is not known to the resolver"
        case _:
            return os.strerror(error.errno) if error.errno else "no connection"
