"""Ask the mirror that runs on this machine, or at a URL, one question over HTTP."""

import hmac
import json
import secrets
import socket
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from mirror.errors import Invalid

if TYPE_CHECKING:
    from mirror.config import Address

BODY_BYTES = 16 << 20
"""How much of an answer is read."""
TIMEOUT_SECONDS = 3.0
"""How long a mirror may be silent before it counts as not running."""


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class MirrorResponse(NamedTuple):
    """The status and body that a mirror answered with."""

    status: int
    body: bytes


def get_from_address(address: "Address", path: str, timeout: float = TIMEOUT_SECONDS) -> MirrorResponse | None:
    """Send GET `path` to a mirror that listens at an address. Return its response; None when there is none."""
    if address.path is not None:
        return _get(_UnixConnection(address.path, timeout), path)
    if address.port == 0:
        return None  # any free port: only the mirror itself knows which
    host, port = address.url.host or "", address.port
    return _get(HTTPConnection(host, port, timeout=timeout), path) or _get(
        # With [tls] it speaks https, with a certificate for another name. It is our own mirror, and gets no secret.
        HTTPSConnection(host, port, timeout=timeout, context=ssl._create_unverified_context()), path
    )  # fmt: skip


def get_from_url(url: str, path: str, timeout: float = TIMEOUT_SECONDS) -> MirrorResponse | None:
    """Send GET `path` to a mirror at a URL. Return its response; None when there is none.

    Raises Invalid unless it is an http or https URL.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in {"http", "https"}:
        raise Invalid("The URL of a mirror begins with http:// or https:// and names a host.")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return _get(kind(host, port, timeout=timeout), parts.path.rstrip("/") + path)


def proves(url: str, secret: bytes) -> bool:
    """Return whether what answers at the URL of a mirror, also `http+unix:`, knows the secret of its data directory.

    A certificate may be for another name than the address; the proof says more.
    """
    from mirror.service.directory import prove  # not for every command

    challenge = secrets.token_hex(32)
    parts = urlsplit(url)
    connection: HTTPConnection
    if parts.scheme == "http+unix":
        connection = _UnixConnection(Path(unquote(parts.netloc)), TIMEOUT_SECONDS)
    elif parts.scheme == "https":
        context = ssl._create_unverified_context()
        connection = HTTPSConnection(_local(parts.hostname), parts.port, timeout=TIMEOUT_SECONDS, context=context)
    else:
        connection = HTTPConnection(_local(parts.hostname), parts.port, timeout=TIMEOUT_SECONDS)
    answer = _json_object(_get(connection, f"/-/proof/{challenge}")) or {}
    return bool(secret) and hmac.compare_digest(str(answer.get("proof")).encode(), prove(secret, challenge).encode())


def _local(host: str | None) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host or "", host or "localhost")


def json_from_address(address: "Address", path: str) -> dict[str, Any] | None:
    """Return the JSON object that a mirror at an address answers GET `path` with; None when none does."""
    return _json_object(get_from_address(address, path))


def json_from_url(url: str, path: str) -> dict[str, Any] | None:
    """Return the JSON object that a mirror at a URL answers GET `path` with; None when none does.

    Raises Invalid unless it is an http or https URL.
    """
    return _json_object(get_from_url(url, path))


def _get(connection: HTTPConnection, path: str) -> MirrorResponse | None:
    try:
        connection.request("GET", path, headers={"Accept": "application/json"})
        response = connection.getresponse()
        return MirrorResponse(response.status, response.read(BODY_BYTES))
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def _json_object(response: MirrorResponse | None) -> dict[str, Any] | None:
    try:
        content = json.loads(response.body) if response and response.status == 200 else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
