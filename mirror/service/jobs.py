"""Keeping the store in order while the mirror serves: what is swept, verified and trimmed at the settings' pace."""

import asyncio
import logging
from contextlib import suppress

from mirror.api.state import EvictionSummary
from mirror.config import Settings
from mirror.errors import MirrorError, StorageFull
from mirror.index.source import name_of
from mirror.maintenance.evict import Evictor
from mirror.maintenance.verify import Verifier
from mirror.service.ecosystems import ECOSYSTEMS
from mirror.service.services import Mirror
from mirror.service.store import Store

logger = logging.getLogger(__name__)

AGAIN = 10.0
"""Seconds between two looks whether there is room again for what waits in memory."""
LEASE = 3600.0
"""Seconds for which one process has the right to verify the store; renewed while it does."""


def sweeper(settings: Settings, store: Store, limit: int | None) -> Evictor:
    """What keeps the store at `limit` bytes."""
    formats = {
        name_of(upstream.url, upstream.username): ECOSYSTEMS[repository.format].format
        for repository in settings.repositories.values()
        for upstream in repository.upstreams
    }
    return Evictor(store.catalog, store.blobs, formats, limit=limit, min_age=settings.store.min_age, clock=store.clock)


def verifier(mirror: Mirror, store: Store, rate: int | None) -> Verifier:
    """What reads the store again, and fetches what is damaged through the mirror's repositories."""
    return Verifier(store.catalog, store.blobs, mirror.mend, rate)


TRIM = 600.0
"""Seconds between two looks whether the journal is longer than it should be; oftener where that is short."""


async def keep_in_order(mirror: Mirror, store: Store) -> None:
    """Sweep, verify and shorten the journal now and then, until cancelled."""
    wanted = mirror.settings.store
    async with asyncio.TaskGroup() as group:
        group.create_task(_write_down(store))
        group.create_task(_trim(store, mirror.settings.feed.keep))
        if wanted.limit is not None:
            group.create_task(_sweep(mirror, store, sweeper(mirror.settings, store, wanted.limit), wanted.sweep_every))
        if wanted.verify_rate:
            group.create_task(_verify(verifier(mirror, store, wanted.verify_rate), store))


async def _trim(store: Store, keep: float) -> None:
    while keep < float("inf"):
        try:
            await store.journal.trim(store.clock() - keep)
        except StorageFull as error:
            logger.warning("the journal could not be shortened: %s", error)
        await asyncio.sleep(min(TRIM, keep / 2))


async def _write_down(store: Store) -> None:
    """Try again to write what there was no room for."""
    while True:
        await asyncio.sleep(AGAIN)
        with suppress(StorageFull):
            await store.catalog.logs.flush()


async def _sweep(mirror: Mirror, store: Store, sweeper: Evictor, every: float) -> None:
    while True:
        try:
            report = await sweeper.sweep()
            if not report.busy:
                mirror.metrics.evicted(len(report.evicted), report.freed)
                mirror.state.swept = EvictionSummary(
                    at=store.clock(), files=len(report.evicted), orphans=len(report.orphans), freed=report.freed
                )
            if report.evicted or report.orphans:
                logger.info(
                    "swept: %d files and %d orphans went, %d bytes in all",
                    len(report.evicted), len(report.orphans), report.freed,
                )  # fmt: skip
        except (MirrorError, OSError) as error:
            logger.warning("the store could not be swept: %s", error)
        await asyncio.sleep(every)


async def _verify(verifier: Verifier, store: Store) -> None:
    while True:
        try:
            if await store.catalog.leases.take("verify", store.clock(), LEASE):
                async for state in verifier.verify():
                    if state.blobs % 100 == 0:
                        await store.catalog.leases.take("verify", store.clock(), LEASE)
        except (MirrorError, OSError) as error:
            logger.warning("the store could not be verified to its end: %s", error)
        await asyncio.sleep(LEASE)
