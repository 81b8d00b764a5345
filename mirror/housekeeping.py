"""Keeping the store in order while the mirror serves: sweeping and verifying at the pace that the settings say."""

import asyncio
import logging

from mirror.app import FORMATS, Mirror, Store
from mirror.config import Settings
from mirror.errors import StorageFull
from mirror.sources import name_of
from mirror.sweep import Sweeper, Verifier

logger = logging.getLogger(__name__)

LEASE = 3600.0
"""Seconds for which one process has the right to verify the store; renewed while it does."""


def sweeper(settings: Settings, store: Store, limit: int | None) -> Sweeper:
    """What keeps the store at `limit` bytes."""
    formats = {
        name_of(upstream.url, upstream.username): FORMATS[repository.format][0]
        for repository in settings.repositories.values()
        for upstream in repository.upstreams
    }
    return Sweeper(store.catalog, store.blobs, formats, limit=limit, min_age=settings.store.min_age, clock=store.clock)


def verifier(mirror: Mirror, store: Store, rate: int | None) -> Verifier:
    """What reads the store again, and fetches what is damaged through the mirror's repositories."""
    return Verifier(store.catalog, store.blobs, mirror.mend, rate)


async def keep_in_order(mirror: Mirror, store: Store) -> None:
    """Sweep and verify now and then, until cancelled."""
    wanted = mirror.settings.store
    async with asyncio.TaskGroup() as group:
        if wanted.limit is not None:
            group.create_task(_sweep(sweeper(mirror.settings, store, wanted.limit), wanted.sweep_every))
        if wanted.verify_rate:
            group.create_task(_verify(verifier(mirror, store, wanted.verify_rate), store))


async def _sweep(sweeper: Sweeper, every: float) -> None:
    while True:
        try:
            report = await sweeper.sweep()
            if report.evicted or report.orphans:
                logger.info(
                    "swept: %d files and %d orphans went, %d bytes in all",
                    len(report.evicted), len(report.orphans), report.freed,
                )  # fmt: skip
        except (StorageFull, OSError) as error:
            logger.warning("the store could not be swept: %s", error)
        await asyncio.sleep(every)


async def _verify(verifier: Verifier, store: Store) -> None:
    while True:
        if await store.catalog.leases.take("verify", store.clock(), LEASE):
            async for state in verifier.verify():
                if state.blobs % 100 == 0:
                    await store.catalog.leases.take("verify", store.clock(), LEASE)
        await asyncio.sleep(LEASE)
