"""The sockets that the process listens on: TCP and Unix, of its own or handed over by systemd, with TLS or without.

A listening socket outlives what serves it. It is served on a duplicate of its descriptor, so that TLS can be turned on
and off, and a removed address closed, without a moment in which a client is refused. What is handed over is never
closed for others, never removed from the file system, and not replaced by `listen`.
"""

import asyncio
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from mirror.config import Address
from mirror.errors import ConfigError
from mirror.service.handshakes import Connected, Handshakes, NewConnection, SecureServer
from mirror.service.tls import TLS

logger = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that wait to be taken; the kernel's own limit is lower in most places."""

Connect = Callable[[], asyncio.BaseProtocol]
"""Makes the protocol of a new connection."""


class Listener:
    """One listening socket, and the server on it."""

    def __init__(self, sock: socket.socket, address: Address | None) -> None:
        """`address` None: the socket was handed over by systemd, and is not ours to remove."""
        self.address = address
        self.sock = sock
        self._server: asyncio.Server | SecureServer | None = None
        self._inode = self._inode_now()

    def _path(self) -> str:
        name = self.sock.getsockname()
        return name if isinstance(name, str) else ""

    def _inode_now(self) -> int | None:
        try:
            return os.stat(self._path()).st_ino if self._path() else None
        except OSError:
            return None

    def url(self, secure: bool) -> str:
        """Return its URL for clients."""
        name = self.sock.getsockname()
        if self.sock.family == socket.AF_UNIX:
            return f"http+unix://{str(name).replace('/', '%2F')}"
        host = self.address.host if self.address else name[0]
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if secure else 'http'}://{host}:{name[1]}/"

    async def serve(self, connected: Connected, secure: Callable[[socket.socket], SecureServer] | None = None) -> None:
        """Begin to serve the socket, in place of the server before; `secure` makes the server where TCP is TLS."""
        before = self._server
        if secure is not None and self.sock.family != socket.AF_UNIX:
            self._server = secure(self.sock.dup())
        else:
            # Not create_unix_server, not for Unix sockets either: that one may remove the path when it ends.
            self._server = await asyncio.get_running_loop().create_server(
                lambda: NewConnection(connected), sock=self.sock.dup(), backlog=BACKLOG
            )
        if before is not None:
            before.close()

    def close(self) -> None:
        """Accept no further connections; established ones go on."""
        if self._server is not None:
            self._server.close()
        if self.address is not None and self._inode is not None and self._inode_now() == self._inode:
            with suppress(OSError):
                os.unlink(self._path())
        self.sock.close()


class Listeners:
    """All listening sockets of the process."""

    def __init__(self, connect: Connect, passed: Iterable[socket.socket] = ()) -> None:
        """`passed` are from systemd: with any of them, the addresses of the settings are ignored."""
        self._connect = connect
        self._closed = False
        self._passed = [Listener(sock, None) for sock in passed]
        self._own: dict[Address, Listener] = {}
        self.secure = False
        """Whether TCP connections are TLS."""

    @property
    def urls(self) -> list[str]:
        """The URLs of all of them, for clients."""
        return [listener.url(self.secure) for listener in self._all()]

    def _all(self) -> list[Listener]:
        return [*self._passed, *self._own.values()]

    def bind(self, addresses: Sequence[Address], mode: int) -> dict[Address, Listener]:
        """Return the listeners for these addresses, binding those that are new and serving nothing yet.

        `mode` is that of Unix sockets. Raises ConfigError, and then nothing has changed.
        """
        if self._passed:
            return {}
        bound: dict[Address, Listener] = {}
        try:
            for address in addresses:
                bound[address] = self._own.get(address) or Listener(_bind(address, mode), address)
        except ConfigError:
            self.release(bound)
            raise
        return bound

    def release(self, bound: dict[Address, Listener]) -> None:
        """Close what was bound and is not used after all."""
        for listener in bound.values():
            if listener not in self._own.values():
                listener.close()

    @property
    def sockets(self) -> list[socket.socket]:
        """All of them as sockets, for other processes to serve."""
        return [listener.sock for listener in self._all()]

    def hold(self, bound: dict[Address, Listener], secure: bool) -> dict[Address, Listener]:
        """Keep what `bind` has returned open, for other processes to serve, and return what was kept before.

        That stays open as well, until it is given to `release`. `secure`: whether TCP connections are TLS.
        """
        before, self._own, self.secure = self._own, bound, secure
        return before

    async def use(self, bound: dict[Address, Listener], tls: TLS | None, handshakes: Handshakes) -> None:
        """Listen at what `bind` has returned, and nowhere else."""
        secure = (
            None if tls is None else lambda sock: SecureServer(sock, handshakes, lambda: tls.context, self._connected)
        )
        gone = [listener for listener in self._own.values() if listener not in bound.values()]
        self._own, self.secure = bound, tls is not None
        for listener in self._all():
            await listener.serve(self._connected, secure)
        for listener in gone:
            listener.close()

    def _connected(self, transport: asyncio.Transport) -> None:
        """Let the server of this moment have a connection."""
        if self._closed:
            transport.abort()
            return
        protocol = self._connect()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def close(self) -> None:
        """Accept no further connections. Those that wait in a socket from systemd are left to the next process."""
        self._closed = True
        for listener in self._all():
            listener.close()


def _bind(address: Address, mode: int) -> socket.socket:
    """Return a listening socket. Raises ConfigError."""
    try:
        return _bind_unix(address.path, mode) if address.path else _bind_tcp(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"listen: cannot listen at {address}: {reason}.") from None


def _bind_tcp(address: Address) -> socket.socket:
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
    )
    family, _, _, _, place = found[0]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        return _listen(sock)
    except BaseException:
        sock.close()
        raise


def _bind_unix(path: Path, mode: int) -> socket.socket:
    """Return a Unix socket; one that a dead process has left behind is replaced, one that answers is not."""
    _remove_dead(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        os.chmod(path, mode)  # before it listens: until then no one can connect
        return _listen(sock)
    except BaseException:
        sock.close()
        raise


def _remove_dead(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"listen: cannot listen at unix:{path}: something else is there.")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as knock:
        knock.settimeout(1)
        try:
            knock.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        else:
            raise ConfigError(f"listen: cannot listen at unix:{path}: another process does.")


def _listen(sock: socket.socket) -> socket.socket:
    sock.listen(BACKLOG)
    sock.setblocking(False)
    return sock
