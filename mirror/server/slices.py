"""Data that costs a lot to parse for its size, which a connection forwards a slice at a time.

A body in chunks of one byte, or requests of a few, keep the parser busy for a tenth of a second with what one read
brings. In slices, everybody else gets a turn between them, however many clients send such things.
"""

import asyncio
from collections.abc import Callable

SLICE_BYTES = 2048
"""Bytes that are forwarded at a time of data …"""
DENSE_BYTES = 32
"""… whose lines have no more bytes than this, on average."""
WAITING_BYTES = 1 << 20
"""Bytes that may wait: no client of packages sends so much of it."""


class Slices(bytearray):
    """The rest of such data, while which waits nothing is read from the connection."""

    def __init__(
        self, forward: Callable[[bytes], None], inner: asyncio.Protocol, transport: asyncio.Transport | None
    ) -> None:
        """`forward` is called with each slice; `inner` is aiohttp's protocol, which pauses reading for itself."""
        super().__init__()
        self.transport = transport
        self._forward = forward
        self._inner = inner

    def add(self, data: bytes) -> None:
        """Forward data after what is left; close the connection when that is more than may wait."""
        assert self.transport is not None, "data comes over a transport"
        begun = bool(self)
        self += data
        if len(self) > WAITING_BYTES:
            self.transport.abort()
            return
        self.transport.pause_reading()  # aiohttp may have resumed it
        if not begun:
            self._next()

    def take(self) -> bytes:
        """Return what is left, which is no longer forwarded."""
        data = bytes(self)
        self.clear()
        return data

    def _next(self) -> None:
        if self.transport is None or self.transport.is_closing():
            self.clear()
        elif self:
            piece = bytes(self[:SLICE_BYTES])
            del self[:SLICE_BYTES]
            self._forward(piece)
        if self:
            asyncio.get_running_loop().call_soon(self._next)
        elif self.transport is not None and not self._inner._reading_paused:  # type: ignore[attr-defined]
            self.transport.resume_reading()
