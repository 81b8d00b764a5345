"""A mirror that serves, with its jobs and the server of its connections: what a reload replaces."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import BinaryIO

from mirror.config import Settings
from mirror.server.connection import ConnectionProtocol
from mirror.server.connections import Connections
from mirror.server.drain import CLOSE_SECONDS, ConnectionRunner
from mirror.server.group import ConnectionGroup
from mirror.server.hosts import HostNames
from mirror.server.proxies import TrustedProxies
from mirror.server.replay import ReplayCache
from mirror.service.endpoints import Endpoints
from mirror.service.jobs import Supervisor, mirror_jobs
from mirror.service.services import Activity, Mirror
from mirror.service.store import Store
from mirror.telemetry import log
from mirror.telemetry.metrics import Observer


class Generation:
    """A mirror, its jobs and its connections."""

    def __init__(self, settings: Settings, store: Store, activity: Activity, connections: Connections) -> None:
        """Raises Misconfigured."""
        self.mirror = Mirror(settings, store, activity)
        self.jobs = Supervisor()
        self._store = store
        self._access = _access_log(settings)
        self._metrics = activity.metrics
        observer = Observer(self._access, activity.metrics)
        self._group = ConnectionGroup(
            connections,
            ReplayCache(self.mirror.memory, store.clock, store.changes),
            observer.process,
            guards=HostNames(settings.allowed_hosts, [address.host for address in settings.listen]).guards,
            proxies=TrustedProxies(settings.proxies.trusted, settings.proxies.standard),
            rights=self.mirror.guard.known_rights,
            anonymous_rights=self.mirror.guard.anonymous_rights,
        )
        self._runner: ConnectionRunner | None = None
        self._open = AsyncExitStack()
        self.mirror.state.connections = lambda: len(connections)
        if (access := self._access) is not None:
            self.mirror.state.lines_dropped = lambda: access.dropped

    async def open(self) -> None:
        """Make everything, without writing or answering yet. Raises ConfigError."""
        if self._access is not None:
            self._open.push_async_callback(asyncio.to_thread, self._access.close)
        self._open.callback(self._metrics.uncounted.remove, self._group.process_records)
        self._open.callback(self._group.process_records)
        self._metrics.uncounted.append(self._group.process_records)
        self._open.push_async_callback(self.mirror.close)
        await self.mirror.open()
        self.endpoints = Endpoints(self.mirror)
        self._open.push_async_callback(self.endpoints.close)

    async def start(self) -> None:
        """Begin to write and be able to answer."""
        await self.mirror.start()
        runner = ConnectionRunner(
            self.endpoints.application(),
            self._group,
            shutdown_timeout=CLOSE_SECONDS,
            max_line_size=32_768,  # so that nonsense of some length is still answered by us
            max_field_size=16_384,
            auto_decompress=False,
        )
        self._open.push_async_callback(runner.cleanup)
        await runner.setup()
        self._runner = runner
        self._open.push_async_callback(self.jobs.stop)

    def start_jobs(self, urls: Sequence[str]) -> None:
        """Begin the jobs, once clients can reach the mirror at these URLs."""
        self.jobs.start(mirror_jobs(self.mirror, self._store, urls))

    @property
    def runner(self) -> ConnectionRunner:
        """The server of the connections, once started."""
        assert self._runner is not None
        return self._runner

    def connect(self) -> ConnectionProtocol:
        """Return the protocol of a new connection."""
        return self.runner.connect()

    def client_of(self, address: str) -> str:
        """Return the client to which a connection from an address is counted; empty for a trusted proxy."""
        return self._group.proxies.client_of(address)

    async def stop_writing(self) -> None:
        """Leave writing to another generation, and have no client wait for news; answer everything else as before."""
        self.endpoints.feed.stop()
        await self.mirror.stop_writing()

    def resume_writing(self) -> None:
        """Write again: no other generation has taken over after all."""
        self.endpoints.feed.resume()
        self.mirror.resume_writing()

    async def retire(self) -> None:
        """Finish what has begun, however long that takes, and close: another generation has taken over."""
        await self.runner.retire()
        await self.mirror.transfers.wait_ended(list(self.mirror.upstreams.values()))
        await self.close()

    async def finish(self, politely: bool, until: float) -> None:
        """Let answers finish until a time of the event loop; `politely`: with a notice on connections in use."""
        self.endpoints.feed.stop()
        if politely:
            await self.runner.drain()
        await self.runner.finish(until)

    async def close(self) -> None:
        """Close all of it but the store."""
        await self._open.aclose()


def _access_log(settings: Settings) -> log.AccessLog | None:
    if not settings.log.access:
        return None
    stream: BinaryIO = sys.stdout.buffer
    return log.AccessLog(stream, json=log.wants_json(settings.log.format, sys.stdout))
