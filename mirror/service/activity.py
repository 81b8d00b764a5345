"""What the process does and has counted: the part of it that outlives a reload and is not stored."""

from typing import Self

from mirror import __version__
from mirror.service.store import Store
from mirror.telemetry.metrics import Metrics
from mirror.telemetry.statistics import Statistics
from mirror.transfer import Transfers


class Activity:
    """Transfers, metrics and statistics of the process, whatever its settings become."""

    def __init__(self, store: Store) -> None:
        self.transfers = Transfers(store.blobs)
        self.metrics = Metrics(__version__)
        self.statistics = Statistics(store.catalog, self.metrics)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.statistics.flush()
