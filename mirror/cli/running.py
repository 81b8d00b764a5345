"""Ask the mirror that runs on this machine, or at a URL, one question over HTTP."""

import json
import socket
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mirror.config import Address
from mirror.errors import Invalid

LONGEST = 16 << 20
"""The longest answer that is read, in bytes."""
PATIENCE = 3.0
"""Seconds that a mirror may be silent before it counts as not running."""


class _UnixConnection(HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=PATIENCE)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(self._path))


def ask_address(address: Address, path: str) -> dict[str, Any] | None:
    """The JSON object that a mirror listening there answers to GET `path`, or None when none does."""
    if address.path is not None:
        return _ask(_UnixConnection(address.path), path)
    if address.port == 0:
        return None  # any free port: only the mirror itself knows which
    return _ask(HTTPConnection(address.url.host or "", address.port, timeout=PATIENCE), path)


def ask_url(url: str, path: str) -> dict[str, Any] | None:
    """The same of a mirror at a URL. Raises Invalid unless it is an http or https URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in {"http", "https"}:
        raise Invalid("The URL of a mirror begins with http:// or https:// and names a host.")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    return _ask(kind(host, port, timeout=PATIENCE), parts.path.rstrip("/") + path)


def _ask(connection: HTTPConnection, path: str) -> dict[str, Any] | None:
    try:
        connection.request("GET", path, headers={"Accept": "application/json"})
        answer = connection.getresponse()
        content = json.loads(answer.read(LONGEST)) if answer.status == 200 else None
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return content if isinstance(content, dict) else None
