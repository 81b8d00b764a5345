"""Functions that the tests run in isolated processes."""

import os
from pathlib import Path

from mirror.errors import Invalid, UpstreamProtocolError


def reverse(data: bytes) -> bytes:
    return data[::-1]


def refuse(data: bytes, kind: str) -> bytes:
    raise {"invalid": Invalid, "upstream": UpstreamProtocolError}[kind]("This is not right.")


def grow(data: bytes, size: str) -> bytes:
    return bytes(int(size))


def spin(data: bytes) -> bytes:
    while True:
        pass


def crash(data: bytes) -> bytes:
    os.abort()


def nest(data: bytes) -> bytes:
    return nest(data)


def escape(data: bytes, path: str) -> bytes:
    """Return the names of what could be done that an isolated process has no need for."""
    done = []
    for name, attempt in {
        "write": lambda: Path(path).write_text("escaped"),
        "many files": lambda: [os.open("/dev/null", os.O_RDONLY) for _ in range(40)],
    }.items():
        try:
            attempt()
            done.append(name)
        except OSError:
            continue
    return "\n".join([*done, *(f"{key} is set" for key in os.environ if key.startswith(("MIRROR", "SECRET")))]).encode()


def number(data: bytes) -> bytes:
    return str(os.getpid()).encode()
