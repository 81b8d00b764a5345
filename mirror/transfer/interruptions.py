"""What follows when a transfer is interrupted: waiting, going elsewhere or giving up."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from mirror.blobs import StoredBlob
from mirror.errors import MirrorError, UpstreamUnavailable
from mirror.model import File
from mirror.upstream import Upstream

OnHeld = Callable[[StoredBlob], Awaitable[None]]
"""Called once the blob is stored and before the last bytes are readable: the catalog writes its row here."""

FRUITLESS_ATTEMPTS = 5
"""Interruptions in a row, without a byte between them, after which a transfer fails."""
SLOW_ATTEMPTS = 2
"""Connections on which an upstream may send too slowly: another one may be quicker."""
SILENCE_SECONDS = 5.0
"""Time for which an upstream may send nothing in the middle of a file that another source has, too."""
ATTEMPTS = 100
"""Interruptions in all after which a transfer fails."""
_ELSEWHERE = frozenset({"slow", "timeout", "paused"})
"""Causes of an interruption with which another source is likely to be quicker than the same one again."""


class Origin(NamedTuple):
    """A place where the bytes of a file may be fetched."""

    file: File
    """The entry of that source, with its link."""
    upstream: Upstream
    record: OnHeld
    """Records that this source has delivered the file."""


NextOrigin = Callable[[MirrorError], Awaitable[Origin | None]]
"""Returns where a transfer goes on after an error: a new link, another source; None where there is nothing else."""


class Interruptions(msgspec.Struct):
    """The interruptions of one transfer so far, and how it goes on."""

    next_origin: NextOrigin | None = None
    """Asked where to go on, when the upstream fails in the middle of a file."""
    has_others: bool = False
    """Whether another source may have the file, so that less patience is due with this one."""
    fruitless: int = 0
    """Those in a row without a byte between them."""
    slow: int = 0
    number: int = 0

    async def recover(self, error: MirrorError, progressed: bool, blocked: float, longest: float) -> Origin | None:
        """Return another origin to go on with; None to ask the same one, once the time for that has come.

        `blocked` is for how many seconds the upstream is not asked anyway; no one waits longer than `longest`. Raises
        the error when the transfer has failed.
        """
        pause = self._pause(error, progressed, blocked, longest)
        if self.number > ATTEMPTS:
            raise error
        if self.next_origin is not None and (pause is None or self._prefers_another(error)):
            origin = await self.next_origin(error)
            if origin is not None:
                self.fruitless = self.slow = 0
                return origin
            self.has_others = False
        if pause is None:
            raise error
        await asyncio.sleep(max(blocked, pause * random.uniform(0.7, 1.3)))
        return None

    def _pause(self, error: MirrorError, progressed: bool, blocked: float, longest: float) -> float | None:
        """Count an interruption; return the seconds before the same upstream is asked again, None for never."""
        self.number += 1
        self.fruitless = 1 if progressed else self.fruitless + 1
        match error:
            case UpstreamUnavailable():
                self.slow += error.cause == "slow"
            case _:
                return None
        pause = max(0.15 * 2**self.fruitless, blocked)
        given_up = self.fruitless > FRUITLESS_ATTEMPTS or self.slow > SLOW_ATTEMPTS or pause > longest
        return None if given_up else pause

    def _prefers_another(self, error: MirrorError) -> bool:
        """Return whether another origin, where there is one, is asked before the same one again."""
        match error:
            case UpstreamUnavailable():
                return error.cause in _ELSEWHERE or self.fruitless > 1
            case _:
                return True
