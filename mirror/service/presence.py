"""Which processes serve from a catalog that nodes share, so that it is not moved meanwhile, and the other way round.

Both sides show first what they are about to do, and look for the other one afterwards: so at least one of the two sees
it, whenever they begin.
"""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mirror.catalog import Leases
from mirror.catalog.coordination import SERVING
from mirror.errors import ConfigError, StorageError

MOVING = "moving"
"""The lease of a process that moves the catalog."""
SERVING_SECONDS = 15.0
"""How long the lease of one that serves lasts, renewed in a third of the time: so long a killed node delays a move."""


class Presence:
    """The sign that this process serves."""

    def __init__(self, leases: Leases, clock: Callable[[], float], data_dir: Path) -> None:
        self._leases = leases
        self._clock = clock
        self._name = f"{SERVING}{socket.gethostname()}:{data_dir} {os.getpid()}"

    async def begin(self) -> None:
        """Show the sign. Raises ConfigError while the catalog is being moved."""
        await self.show()
        if await self._leases.held_names(MOVING, self._clock()):
            await self.end()
            raise ConfigError("catalog.url: `mirror move` is copying this catalog; start this node once it has ended.")

    async def show(self) -> None:
        """Show the sign for a while longer."""
        await self._leases.take(self._name, self._clock(), SERVING_SECONDS)

    async def end(self) -> None:
        """Take the sign away."""
        with suppress(StorageError):  # it ends by itself
            await self._leases.give_back(self._name)


async def check_unserved(leases: Leases, now: float) -> None:
    """Raise ConfigError where a process serves from the catalog."""
    serving = await leases.held_names(SERVING, now)
    if serving:
        raise ConfigError(
            f"catalog.url: a node serves from this database ({', '.join(serving)}): stop all of them; one that was"
            f" killed counts for {SERVING_SECONDS:.0f} s."
        )
