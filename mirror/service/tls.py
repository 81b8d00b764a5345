"""TLS of the connections that clients make: the certificate with its key, and our end of each connection.

The surprise: our end spares the event loop what the ssl module does slowly and what is known beforehand. A short
connection is opened and closed in a tenth less of a core's time.
"""

import logging
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

from mirror.errors import ConfigError

logger = logging.getLogger(__name__)

CERTIFICATE_SECONDS = 5.0
"""Time between two checks whether the certificate's files have changed."""


class ServerEnd(ssl.SSLObject):
    """Our end of one connection."""

    incoming: ssl.MemoryBIO
    """What has come of it and was not read yet."""

    def do_handshake(self) -> None:
        """Go on with the handshake. Raises SSLWantReadError when more has to come first."""
        if not self.incoming.pending:  # as at the beginning: OpenSSL would take its time to find out
            raise ssl.SSLWantReadError
        super().do_handshake()

    def read(self, *arguments: Any, **options: Any) -> Any:
        """Return what can be read, as the method of ssl does. Raises SSLWantReadError when more has to come first."""
        if not self.incoming.pending and not self.pending():
            raise ssl.SSLWantReadError
        return super().read(*arguments, **options)

    def unwrap(self) -> None:
        """Say that nothing more will be sent, and do not wait for the client to say so (RFC 8446 section 6.1)."""
        with suppress(ssl.SSLWantReadError):
            super().unwrap()


class ServerContext(ssl.SSLContext):
    """The settings and the certificate of connections, whose own end is a `ServerEnd`."""

    sslobject_class = ServerEnd

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *rest: Any, **options: Any) -> ssl.SSLObject:
        """Return our end of a connection."""
        end = super().wrap_bio(incoming, outgoing, *rest, **options)
        assert isinstance(end, ServerEnd), "its class is the one above"
        end.incoming = incoming
        return end


class TLS:
    """A certificate with its key, which may be replaced while connections are made."""

    def __init__(self, certificate: Path, key: Path | None) -> None:
        """`key` None: it is in the certificate's file. Raises ConfigError."""
        self._certificate, self._key = certificate, key
        self._seen = self._stamps()
        self.context = self._load()
        """For the connections that are accepted at this moment."""

    def _load(self) -> ssl.SSLContext:
        context = _server_context()
        try:
            context.load_cert_chain(self._certificate, self._key)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "reason", None) or error.strerror or error
            raise ConfigError(
                f"tls: {self._certificate} with its key cannot be used: {str(reason).lower().replace('_', ' ')}."
            ) from None
        return context

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for path in filter(None, (self._certificate, self._key)):
            try:
                status = path.stat()
            except OSError:
                found.append(None)
            else:
                found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return found

    def reload_if_changed(self) -> bool:
        """Load the files again if they have changed; return whether that was so. Unusable files are logged, once."""
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        self._seen = stamps
        try:
            self.context = self._load()
        except ConfigError as error:
            logger.error("%s The certificate stays as it was.", error)
            return False
        logger.info("the certificate was replaced")
        return True


def _server_context() -> ssl.SSLContext:
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = 1  # a second one would cost a tenth of the handshake, and package clients use none or one
    return context
