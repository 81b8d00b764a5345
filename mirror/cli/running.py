"""Ask the mirror that runs on this machine, or at a URL, one question over HTTP."""

import json
import socket
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mirror.config import Address
from mirror.errors import Invalid

LONGEST = 16 << 20
"""The longest answer that is read, in bytes."""
PATIENCE = 3.0
"""Seconds that a mirror may be silent before it counts as not running."""


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, patience: float) -> None:
        super().__init__("localhost", timeout=patience)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))


class Reply(NamedTuple):
    """What a mirror answered."""

    status: int
    body: bytes


def ask_address(address: Address, path: str) -> dict[str, Any] | None:
    """The JSON object that a mirror listening there answers to GET `path`, or None when none does."""
    return _object(reach_address(address, path))


def ask_url(url: str, path: str) -> dict[str, Any] | None:
    """The same of a mirror at a URL. Raises Invalid unless it is an http or https URL."""
    return _object(reach_url(url, path))


def reach_address(address: Address, path: str, patience: float = PATIENCE) -> Reply | None:
    """What a mirror listening there answers to GET `path`, whatever it is; None when nobody answers."""
    if address.path is not None:
        return _reach(_UnixConnection(address.path, patience), path)
    if address.port == 0:
        return None  # any free port: only the mirror itself knows which
    host, port = address.url.host or "", address.port
    return _reach(HTTPConnection(host, port, timeout=patience), path) or _reach(
        # With [tls] it speaks https, under a name that is not this address. It is the own mirror, and is told nothing.
        HTTPSConnection(host, port, timeout=patience, context=ssl._create_unverified_context()), path
    )  # fmt: skip


def reach_url(url: str, path: str, patience: float = PATIENCE) -> Reply | None:
    """The same of a mirror at a URL. Raises Invalid unless it is an http or https URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in {"http", "https"}:
        raise Invalid("The URL of a mirror begins with http:// or https:// and names a host.")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return _reach(kind(host, port, timeout=patience), parts.path.rstrip("/") + path)


def _reach(connection: HTTPConnection, path: str) -> Reply | None:
    try:
        connection.request("GET", path, headers={"Accept": "application/json"})
        answer = connection.getresponse()
        return Reply(answer.status, answer.read(LONGEST))
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()


def _object(reply: Reply | None) -> dict[str, Any] | None:
    try:
        content = json.loads(reply.body) if reply and reply.status == 200 else None
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
