"""Totals that outlive a restart: requests by outcome, and the bytes that were sent and saved."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from mirror.catalog import Catalog
from mirror.errors import StorageError

if TYPE_CHECKING:
    from mirror.telemetry.metrics import Metrics  # with an HTTP server, which `mirror status` does without

logger = logging.getLogger(__name__)

RECORD_SECONDS = 30
"""Seconds between two times that the totals are recorded."""
HOUR = 3600
OUTCOMES = ("hit", "miss", "joined", "stale", "offline")


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of a span of time."""

    start: float
    """Seconds since the epoch."""
    requests: int = 0
    hits: int = 0
    """Those that did not cause a request to an upstream."""
    saved: int = 0
    """Bytes that did not have to come from an upstream."""
    fetched: int = 0
    """Bytes that had to come from an upstream."""


def totals_of(counters: Mapping[str, int]) -> dict[str, object]:
    """Return requests by outcome, and the bytes that clients got in all and without an upstream, from the counters."""
    sent = {outcome: counters.get(f"bytes.{outcome}", 0) for outcome in OUTCOMES}
    return {
        "hits": {outcome: counters.get(f"requests.{outcome}", 0) for outcome in OUTCOMES},
        "bytes_served": sum(sent.values()),
        "bytes_saved": sum(sent.values()) - sent["miss"],
    }


class Statistics:
    """Adds the counts of this process to those of all before it, in the catalog."""

    def __init__(self, catalog: Catalog, metrics: "Metrics", clock: Callable[[], float] = time.time) -> None:
        self._catalog = catalog
        self._metrics = metrics
        self._clock = clock
        self._recorded: Counter[str] = Counter()
        self.elsewhere: Callable[[], Counter[str]] = Counter
        """Returns what other processes over the same catalog have counted and not recorded yet, as far as it is known.
        """
        self._recording = asyncio.Lock()
        """Held while counts move from memory into the catalog, where they must not be counted twice, or not at all."""

    def _counted(self) -> dict[str, int]:
        counted: dict[str, int] = {}
        for outcome, totals in self._metrics.totals().items():
            if outcome:
                counted[f"requests.{outcome}"] = totals.requests
                counted[f"bytes.{outcome}"] = totals.sent
        return counted

    async def flush(self) -> None:
        """Record what has been counted since the last time, and which files were used."""
        try:
            await self._catalog.files.flush_uses()
        except StorageError as error:
            logger.warning("could not record which files were used: %s", error)
        async with self._recording:
            added = self.unrecorded()
            if not added:
                return
            self._recorded += added  # before it waits: what is cancelled meanwhile is written all the same
            try:
                await self._catalog.counters.add(added, self._hour())
            except StorageError as error:
                self._recorded -= added
                logger.warning("could not record statistics: %s", error)

    def unrecorded(self) -> Counter[str]:
        """Return what this process has counted that is not in the catalog yet."""
        return Counter(self._counted()) - self._recorded

    def go_on_from(self, unrecorded: Mapping[str, int]) -> None:
        """Take what the metrics have so far as recorded, but for these counts of a process that has ended."""
        self._recorded = Counter(self._counted()) - Counter(unrecorded)

    def _waiting(self) -> Counter[str]:
        return self.unrecorded() + self.elsewhere()

    def _hour(self) -> int:
        return int(self._clock() // HOUR)

    async def totals(self) -> dict[str, object]:
        """Return requests by outcome, and the bytes that clients got in all and without an upstream."""
        async with self._recording:
            return totals_of(Counter(await self._catalog.counters.all()) + self._waiting())

    async def history(self, spans: int, hours: int) -> list[Span]:
        """Return the last `spans` spans of `hours` hours each, oldest first, the current one last."""
        last = self._hour() // hours
        first = last - spans + 1
        counted = {number: dict.fromkeys(OUTCOMES, (0, 0)) for number in range(first, last + 1)}
        async with self._recording:
            rows = await self._catalog.counters.spans(first * hours, hours)
            rows += [(last, name, value) for name, value in self._waiting().items()]
        for number, name, value in rows:
            counter, _, outcome = name.partition(".")
            if number in counted and outcome in counted[number]:
                requests, sent = counted[number][outcome]
                more = (value, 0) if counter == "requests" else (0, value)
                counted[number][outcome] = requests + more[0], sent + more[1]
        return [_span(number * hours * HOUR, counts) for number, counts in counted.items()]


def _span(start: float, counts: dict[str, tuple[int, int]]) -> Span:
    requests = sum(requests for requests, _ in counts.values())
    sent = sum(sent for _, sent in counts.values())
    missed, fetched = counts["miss"]
    return Span(start=start, requests=requests, hits=requests - missed, saved=sent - fetched, fetched=fetched)
