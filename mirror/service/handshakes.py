"""TLS handshakes of clients: each takes a place among the connections from the moment it is accepted.

The event loop's own server would show a connection only once its handshake is over, so that a client could hold as many
unfinished ones as it likes. Here what is over its share is closed before a byte of it is read.
"""

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import cast

from mirror.runtime import log_failure
from mirror.server.connections import Connections, Standing

logger = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 15.0
"""The longest that a TLS handshake may take."""
ACCEPTED_AT_ONCE = 32
"""Connections that are accepted before others have their turn."""
FULL_SECONDS = 1.0
"""The pause after a connection that could not be accepted, because too many files are open."""
_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


Connected = Callable[[asyncio.Transport], None]
"""Called with a connection that is ready, to give it another protocol or to close it."""


class NewConnection(asyncio.Protocol):
    """A connection until its TLS handshake is over, which may be long after it was accepted: after a reload, say."""

    def __init__(self, connected: Connected) -> None:
        self._connected = connected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._connected(cast(asyncio.Transport, transport))


class Handshake:
    """A connection whose TLS handshake is not over, among the `Connections`."""

    used = False

    def __init__(self, network: str) -> None:
        self.network = network
        self.task: asyncio.Task[None] | None = None

    def stall_reason(self, now: float) -> str:
        return ""  # it has a time limit of its own

    def standing(self) -> Standing:
        return Standing.IDLE

    def close_if_idle(self, before: float) -> None:
        pass

    def abort(self) -> None:
        if self.task is not None:
            self.task.cancel()


class Handshakes:
    """All handshakes that are under way, whichever socket they came from."""

    def __init__(self, connections: Connections, client_of: Callable[[str], str]) -> None:
        """`client_of` returns the client to which what comes from an address is counted; empty for a trusted proxy."""
        self._connections = connections
        self._client_of = client_of
        self._open: set[Handshake] = set()

    def begin(self, sock: socket.socket, address: str, context: ssl.SSLContext, connected: Connected) -> None:
        """Begin the handshake on an accepted socket, or close it where its client has its share of connections."""
        handshake = Handshake(self._client_of(address))
        if not self._connections.add(handshake):
            sock.close()
            return
        self._open.add(handshake)

        def over(transport: asyncio.Transport) -> None:
            handshake.task = None
            self._connections.remove(handshake)  # the connection itself takes the place
            connected(transport)

        task = asyncio.get_running_loop().create_task(_shake_hands(sock, context, over))
        handshake.task = task
        task.add_done_callback(partial(self._ended, handshake))

    def _ended(self, handshake: Handshake, task: asyncio.Task[None]) -> None:
        self._open.discard(handshake)
        self._connections.remove(handshake)
        log_failure(task)

    def close(self) -> None:
        """Give up all that are under way."""
        for handshake in list(self._open):
            handshake.abort()


async def _shake_hands(sock: socket.socket, context: ssl.SSLContext, over: Connected) -> None:
    try:
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: NewConnection(over), sock, ssl=context, ssl_handshake_timeout=HANDSHAKE_SECONDS
        )
    except OSError:
        sock.close()  # no TLS, too slow, or gone


class SecureServer:
    """Accepts the connections of one listening socket, and begins their handshakes."""

    def __init__(
        self,
        sock: socket.socket,
        handshakes: Handshakes,
        context: Callable[[], ssl.SSLContext],
        connected: Connected,
    ) -> None:
        """Begin to accept. `context` returns the context of this moment; the socket is closed with the server."""
        sock.setblocking(False)
        self._sock = sock
        self._handshakes = handshakes
        self._context = context
        self._connected = connected
        self._timer: asyncio.TimerHandle | None = None
        self._listen()

    def _listen(self) -> None:
        self._timer = None
        asyncio.get_running_loop().add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, peer = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                logger.error("no connection is accepted for %.0f s: %s", FULL_SECONDS, error.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._sock.fileno())
                self._timer = loop.call_later(FULL_SECONDS, self._listen)
                return
            sock.setblocking(False)
            self._handshakes.begin(sock, str(peer[0]), self._context(), self._connected)

    def close(self) -> None:
        """Accept no further connections; handshakes that are under way go on."""
        if self._sock.fileno() < 0:
            return
        if self._timer is not None:
            self._timer.cancel()
        else:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
        self._sock.close()
