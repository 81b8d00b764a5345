"""When to leave a host alone: a circuit breaker, and what Retry-After asks for. Pure: `now` is an argument."""

import email.utils
from datetime import UTC
from typing import Literal

BreakerState = Literal["closed", "open", "half-open"]

_LONGEST_WAIT = 3600.0
"""Seconds. No upstream can send us away for longer, whatever its Retry-After says."""


class Breaker:
    """Whether a host is worth asking: closed (yes), open (no, fail at once), half-open (one request is finding out).

    Pure: `now` is an argument, in seconds of any clock that never goes back.
    """

    def __init__(self, failures: int, seconds: float) -> None:
        self._seconds = seconds
        self._left = self._failures = failures
        self._until = 0.0
        self._probing = False
        self.reason = ""
        """Why it is open, as the middle of a sentence."""

    def admit(self, now: float) -> float:
        """0 when a request may go out; else the seconds to wait.

        An open breaker lets one request through in each period, so that a probe which is never heard of again
        blocks nobody for longer than that.
        """
        if self._left > 0:
            return 0.0
        if now < self._until:
            return self._until - now
        self._until = now + self._seconds
        self._probing = True
        return 0.0

    def succeeded(self) -> None:
        """An answer came: closed."""
        self._left = self._failures
        self._probing = False

    def failed(self, now: float, silent: bool = False) -> None:
        """No answer came, or one that says the host is in trouble.

        A host that is `silent` has cost its clients a whole timeout: once is enough.
        """
        self._left = 0 if silent else self._left - 1
        if self._left <= 0:
            self._open(now + self._seconds, "is not answering")

    def hold(self, until: float) -> None:
        """Open until then, because the host asked for it."""
        self._left = 0
        self._open(until, "asked us to come back later")

    def _open(self, until: float, reason: str) -> None:
        self._until, self._probing, self.reason = until, False, reason

    def wait(self, now: float) -> float:
        """What `admit` would say, without taking the probe's turn."""
        return max(0.0, self._until - now) if self._left <= 0 else 0.0

    def state(self, now: float) -> BreakerState:
        if self._left > 0:
            return "closed"
        return "half-open" if self._probing or now >= self._until else "open"

    def severity(self, now: float) -> tuple[bool, float]:
        """Orders breakers from healthy to closed for long."""
        return self._left <= 0, self.wait(now)


def retry_after(value: str, now: float) -> float:
    """The seconds that a Retry-After asks for (RFC 9110, section 10.2.3), at most an hour; 0 when it says nothing.

    `now` is in seconds since the epoch.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), _LONGEST_WAIT)
    try:
        when = email.utils.parsedate_to_datetime(value)
        asked = when.replace(tzinfo=when.tzinfo or UTC).timestamp() - now
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, asked), _LONGEST_WAIT)
