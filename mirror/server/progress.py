"""Whether the client of a connection keeps up with what it sends and takes, and what would be lost with it.

`mirror.server.connection` records what happens on a connection, in attributes, to cost nothing; the look at all
connections every few seconds (`mirror.server.connections`) asks what that means.
"""

import asyncio
from typing import Any

from mirror.server.connections import ConnectionLimits, Standing

BODY_SECONDS = 30.0
"""Seconds over which the rate is measured at which a body arrives."""
QUIET_SECONDS = 0.25
"""Seconds without a request after which a connection counts as not in use."""


class ClientProgress:
    """The progress of one client with what it sends and takes."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._transport: asyncio.Transport | None = None
        self.waiting = False
        """Whether the client waits for news, which may be long in coming."""
        self.used = False
        """Whether a replay was sent since the last look at it."""
        self._progress_at = 0.0  # when the client last made progress
        self._head_bytes = 0  # of a head that is incomplete
        self._in_request = False  # aiohttp has a complete head
        self._payload: Any = None  # the body of the request that is being answered
        self._received = self._received_before = 0  # bytes in all: now, and at `_progress_at`
        self._unsent = 0  # bytes that the client has not taken, while writing is paused

    def stall_reason(self, now: float) -> str:
        """Return why the client is too slow, as half a sentence; an empty string while it keeps up."""
        limits = self._limits
        if self._head_bytes:
            late = now - self._progress_at > limits.head_time
            return f"no whole request within {limits.head_time:.0f} s" if late else ""
        if self._unsent:
            return self._unsent_reason(now)
        if self._payload is None or self._payload.is_eof() or self._transport is None:
            return ""
        seconds = min(limits.stall, BODY_SECONDS)
        if not self._transport.is_reading() or self._received - self._received_before >= limits.body_rate * seconds:
            # Either we are the slow side, or the client does send.
            self._progress_at, self._received_before = now, self._received
            return ""
        if now - self._progress_at <= seconds:
            return ""
        return f"less than {limits.body_rate:.0f} bytes of a body in a second, for {seconds:.0f} s"

    def _unsent_reason(self, now: float) -> str:
        assert self._transport is not None, "writing was paused"
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._progress_at = unsent, now
        stall = self._limits.stall
        return f"nothing of a response taken within {stall:.0f} s" if now - self._progress_at > stall else ""

    def standing(self) -> Standing:
        """Return what would be lost with the connection."""
        if self._head_bytes or (self._payload is not None and not self._payload.is_eof()):
            return Standing.SENDING
        if not self._in_request:
            return Standing.IDLE
        return Standing.WAITING if self.waiting else Standing.SERVED

    def in_use(self, now: float) -> bool:
        """Return whether the client may well send a request just now."""
        used, self.used = self.used, False
        return used or bool(self._head_bytes) or (not self._in_request and now - self._progress_at < QUIET_SECONDS)

    def close_if_idle(self, before: float) -> None:
        """Close the connection if its last request ended before this time of its clock, and none has begun."""
        if self._progress_at < before and not (self._head_bytes or self._unsent):
            self.close_idle()

    def close_idle(self) -> None:
        """Close the connection unless a request is being answered."""
        if not self._in_request and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()
