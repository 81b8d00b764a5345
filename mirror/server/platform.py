"""What the platform has for sending files, chosen once: everything that differs between systems is here.

Linux sends a head together with the first bytes of a file (MSG_MORE) and a file without reading it (sendfile). macOS
and the BSDs have sendfile without MSG_MORE; a system without either gets the bytes by reading them.
"""

import os
import socket
from collections.abc import Callable

HEAD_FLAGS: int = getattr(socket, "MSG_MORE", 0)
"""The flags for sending a head that a file follows."""

SendFile = Callable[[int, int, int, int], int]
"""Sends bytes of a file to a socket, given the socket, the file, the offset and the count; returns how many it sent."""


def _send_by_reading(sock: int, file: int, offset: int, count: int) -> int:
    """Do what `os.sendfile` does, where it does not exist. Raises BlockingIOError and OSError like it."""
    content = os.pread(file, count, offset)
    return os.write(sock, content) if content else 0


SEND_FILE: SendFile = getattr(os, "sendfile", _send_by_reading)
