"""Failed logins make the next ones of the same client wait: pure bookkeeping over a clock that is handed in.

Nobody is locked out. Attempts of one key (an address with a user name, or an address) get moments, one after the
other, that lie the further apart the more have failed; whoever would have to wait too long is refused at once.
Every attempt counts as failed until it is known to be right, so that a thousand at the same time gain nothing.
"""

import msgspec

from mirror.index.cache import BoundedCache

LONGEST_WAIT = 10.0
"""Seconds that a client is kept waiting; refused beyond."""
FORGOTTEN_AFTER = 600.0
"""Seconds of quiet after which failures are forgotten."""
REMEMBERED = 20_000
"""Keys that are remembered, those that were used last."""


class _Failures(msgspec.Struct):
    count: int = 0
    free_at: float = 0
    """When the next attempt may be looked at."""


class LoginThrottle:
    """How long attempts have to wait."""

    def __init__(self, free: int, longest_pause: float) -> None:
        """The first `free` failures cost nothing; then pauses double from a quarter second to `longest_pause`."""
        self._free = free
        self._longest = longest_pause
        self._failures: BoundedCache[str, _Failures] = BoundedCache(REMEMBERED)

    def claim(self, key: str, now: float) -> float | None:
        """The seconds that an attempt has to wait before it is looked at; None: it is refused unseen."""
        failures = self._failures.get(key)
        if failures is None or now - failures.free_at > FORGOTTEN_AFTER:
            failures = _Failures()
            self._failures.put(key, failures)
        at = max(now, failures.free_at)
        if at - now > LONGEST_WAIT:
            return None
        failures.count += 1
        failures.free_at = at + self._pause(failures.count)
        return at - now

    def forgive(self, key: str) -> None:
        """An attempt was right, and so is no failure."""
        failures = self._failures.get(key)
        if failures is not None and failures.count:
            failures.count -= 1

    def forget(self, key: str) -> None:
        """An attempt was right, and proves that those before it were mistakes: the key begins anew."""
        self._failures.forget(key)

    def _pause(self, count: int) -> float:
        over = count - self._free
        return 0.0 if over <= 0 else min(0.25 * 2 ** min(over - 1, 20), self._longest)
