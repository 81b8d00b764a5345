"""The connections of one server, which are drained together, and what they share."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser

from mirror.server.connections import ClientConnection, Connections
from mirror.server.facts import ResponseRecord
from mirror.server.proxies import TrustedProxies
from mirror.server.replay import REPLAY_REQUEST_BYTES, ReplayCache

RECORD_SECONDS = 0.1
"""Seconds after which responses are recorded …"""
RECORDS_AT_ONCE = 24
"""… or this many of them: recording delays whatever else the event loop has to do."""


class OpenConnection(ClientConnection, Protocol):
    """One connection, as draining needs it."""

    def in_use(self, now: float) -> bool:
        """Return whether the client may well send a request just now."""

    def close_idle(self) -> None:
        """Close the connection unless a request is being answered."""


class ConnectionGroup:
    """The connections of one server, and what they share."""

    def __init__(
        self,
        connections: Connections,
        replays: ReplayCache,
        process: Callable[[Sequence[ResponseRecord]], None],
        *,
        guards: Callable[[str], bool] = lambda address: False,
        proxies: TrustedProxies | None = None,
        rights: Callable[[bytes], int] = lambda credentials: 0,
        anonymous_rights: int = 0,
    ) -> None:
        """`process` is called with the records of responses a moment later.

        `guards`: whether a connection to this local address may only use the names of loopback for the mirror. `rights`
        returns the number of what the sender of credentials may read; 0 where that has to be looked at first.
        `anonymous_rights` is the number of what those may read who send none.
        """
        self.connections = connections
        self.replays = replays
        self.guarded_replays = replays.beside()
        """Those of guarded connections: others may be answered under any name."""
        self.heads = replays.heads()
        self.guards = guards
        self.proxies = proxies or TrustedProxies(())
        self.rights = rights
        self.anonymous_rights = anonymous_rights
        self._process = process
        self.records: list[ResponseRecord] = []
        """What waits to be recorded; connections add to it."""
        self.recording = False
        """Whether it will be recorded, at the latest when RECORD_SECONDS are over."""
        self.draining = False
        """Whether each response is the last one of its connection."""
        self.open: set[OpenConnection] = set()
        self.lost = asyncio.Event()
        """Set whenever one of them has ended."""
        self.renew_parser()

    def renew_parser(self) -> None:
        """Make a new parser for whole heads; to be called when the one before may be in the middle of something."""
        # It reads no bodies and never waits: no loop, no transport.
        self.parser = HttpRequestParser(BaseProtocol(None), None, REPLAY_REQUEST_BYTES, auto_decompress=False)  # type: ignore[arg-type]

    def process_last_records(self) -> None:
        """Record now what waits for it, since its time is over."""
        self.recording = False
        self.process_records()

    def process_records(self) -> None:
        """Record now what waits for it."""
        records, self.records = self.records, []
        if records:
            self._process(records)
