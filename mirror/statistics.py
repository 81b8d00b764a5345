"""Running totals that outlive a restart: what was asked, how it was answered, and what that saved."""

import asyncio
import logging

from mirror.catalog import Catalog
from mirror.errors import StorageFull
from mirror.metrics import Metrics

logger = logging.getLogger(__name__)

EVERY = 30
"""Seconds between two times that the totals are written down."""


class Statistics:
    """Adds the counts of this process to those of all before it."""

    def __init__(self, catalog: Catalog, metrics: Metrics) -> None:
        self._catalog = catalog
        self._metrics = metrics
        self._written: dict[str, int] = {}

    def _counted(self) -> dict[str, int]:
        counted: dict[str, int] = {}
        for outcome, totals in self._metrics.totals().items():
            if outcome:
                counted[f"requests.{outcome}"] = totals.requests
                counted[f"bytes.{outcome}"] = totals.sent
        return counted

    async def flush(self) -> None:
        """Write down what has been counted since the last time."""
        counted = self._counted()
        news = {name: now - self._written.get(name, 0) for name, now in counted.items()}
        news = {name: amount for name, amount in news.items() if amount}
        if not news:
            return
        try:
            await self._catalog.counters.add(news)
        except StorageFull as error:
            logger.warning("statistics are not written: %s", error)
            return
        self._written = counted

    async def run(self) -> None:
        """Flush now and then, until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            await self.flush()

    async def totals(self) -> dict[str, object]:
        """Requests by outcome, and the bytes that clients got with and without upstream."""
        await self.flush()
        totals = await self._catalog.counters.all()
        outcomes = ("hit", "miss", "joined", "stale", "offline")
        sent = {outcome: totals.get(f"bytes.{outcome}", 0) for outcome in outcomes}
        return {
            "hits": {outcome: totals.get(f"requests.{outcome}", 0) for outcome in outcomes},
            "bytes_served": sum(sent.values()),
            "bytes_saved": sum(sent.values()) - sent["miss"],
        }
