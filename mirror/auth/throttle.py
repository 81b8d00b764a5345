"""Throttle logins: failed ones make the next ones of the same client wait. Pure; the time is an argument.

No one is locked out. Attempts with one key (a network, a network with a user name, or a user name) are scheduled one
after the other, the further apart the more have failed; an attempt that would have to wait too long is refused at once.
Every attempt counts as failed until it is known to be right, so that a thousand at the same time gain nothing.
"""

import msgspec

from mirror.index.cache import BoundedCache, MemoryBudget

MAX_WAIT_SECONDS = 10.0
"""Seconds that an attempt may have to wait; above that it is refused."""
FORGET_SECONDS = 600.0
"""Seconds without an attempt after which failures are forgotten."""
FAILURES_BYTES = 8 << 20
"""Bytes of memory for failures, enough for the last 20,000 keys."""
FAILURE_BYTES = 100


class _Failures(msgspec.Struct):
    count: int = 0
    free_at: float = 0
    """When the next attempt may be verified."""


class LoginThrottle:
    """Decides how long attempts to log in have to wait."""

    def __init__(self, free: int, max_pause: float) -> None:
        """The first `free` failures cost nothing; then pauses double from a quarter second to `max_pause`."""
        self._free = free
        self._max_pause = max_pause
        self._failures: BoundedCache[str, _Failures] = BoundedCache(MemoryBudget(FAILURES_BYTES))

    def claim(self, key: str, now: float) -> float | None:
        """Return the seconds that an attempt has to wait before it is verified; None: it is refused unverified."""
        failures = self._failures.value(key)
        if failures is None or now - failures.free_at > FORGET_SECONDS:
            failures = _Failures()
            self._failures.put(key, failures, FAILURE_BYTES)
        at = max(now, failures.free_at)
        if at - now > MAX_WAIT_SECONDS:
            return None
        failures.count += 1
        failures.free_at = at + self._pause(failures.count)
        return at - now

    def forgive(self, key: str) -> None:
        """Record that an attempt was right, and so is no failure."""
        failures = self._failures.value(key)
        if failures is not None and failures.count:
            failures.count -= 1

    def forget(self, key: str) -> None:
        """Record that an attempt was right, and proves that those before it were mistakes: the key starts afresh."""
        self._failures.forget(key)

    def _pause(self, count: int) -> float:
        over = count - self._free
        return 0.0 if over <= 0 else min(0.25 * 2 ** min(over - 1, 20), self._max_pause)


REFUSAL_SECONDS = 0.25
"""A login is refused after a multiple of this time, which does not show whether there is such a user."""


def refusal_delay(seconds: float) -> float:
    """Return how many seconds a login that took so long to be refused waits until it is answered."""
    return REFUSAL_SECONDS - seconds % REFUSAL_SECONDS
