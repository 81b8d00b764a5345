"""Which certificates an index is trusted by: those of `ca_file`, of the environment, or of the system.

The surprise: they are loaded once for all that trust the same ones, which takes some 30 ms and a megabyte, and not at
all while every connection is plain http.
"""

import asyncio
import os
import ssl
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from mirror.errors import ConfigError
from mirror.upstream.failures import ConnectFailure

MOST_CONTEXTS = 8
"""The most sets of certificates that are kept, the one used longest ago going first."""

_loading = threading.Lock()

_Stamp = tuple[int, int, int]


class Certificates:
    """The certificates that TLS connections for one index trust."""

    def __init__(self, host: str, ca_file: Path | None, environment: Mapping[str, str]) -> None:
        """`host` is that of the index, for messages."""
        self._host = host
        self._ca_file = ca_file
        bundle = environment.get("REQUESTS_CA_BUNDLE")
        files = [bundle, environment.get("SSL_CERT_FILE")] if bundle else []  # often the same file
        self._bundles = [str(ca_file)] if ca_file else list(dict.fromkeys(one for one in files if one))
        self._variables = {} if ca_file else environment
        self._context: ssl.SSLContext | None = None
        self.named = bool(self._bundles)
        """Whether they are other ones than those that OpenSSL finds by itself."""

    def check(self) -> None:
        """Raise ConfigError where what is named cannot be used."""
        for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            path = self._variables.get(variable)
            if path and not os.access(path, os.R_OK):
                raise ConfigError(f"{variable}: names certificates that cannot be read: correct it, or unset it.")
        if self.named:
            self.context()

    def context(self) -> ssl.SSLContext:
        """Return a context that trusts `ca_file`, else what the environment names, else the system. Raises ConfigError.

        OpenSSL reads SSL_CERT_FILE and SSL_CERT_DIR itself. REQUESTS_CA_BUNDLE, a file or a directory, replaces the
        system's certificates as it does for pip, and SSL_CERT_FILE beside it is trusted as well.
        """
        if self._context is None:
            try:
                with _loading:  # by several at once, it would be loaded several times
                    self._context = _load(tuple((path, _stamp(path)) for path in self._bundles))
            except (OSError, ssl.SSLError) as error:
                name = "ca_file" if self._ca_file else "REQUESTS_CA_BUNDLE"
                raise ConfigError(f"{name}: cannot be used for {self._host}: {error.strerror or error}.") from None
        return self._context

    async def load(self) -> ssl.SSLContext:
        """Return what `context` does; the event loop goes on meanwhile. Raises ConnectFailure."""
        if self._context is not None:
            return self._context
        try:
            return await asyncio.to_thread(self.context)
        except ConfigError as error:
            raise ConnectFailure(str(error)) from None


def _stamp(path: str) -> _Stamp:
    """Return what is different when other certificates are at a path. Raises OSError."""
    status = os.stat(path)
    return status.st_mtime_ns, status.st_ino, status.st_size


@lru_cache(maxsize=MOST_CONTEXTS)
def _load(bundles: tuple[tuple[str, _Stamp], ...]) -> ssl.SSLContext:
    """Return a context that trusts these files and directories, which have these stamps; of none, the system's."""
    files = [path for path, _ in bundles if not os.path.isdir(path)]
    directories = [path for path, _ in bundles if os.path.isdir(path)]
    context = ssl.create_default_context(cafile=next(iter(files), None), capath=next(iter(directories), None))
    for file in files[1:]:
        context.load_verify_locations(file)
    return context
