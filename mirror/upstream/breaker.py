"""When not to ask a host: a circuit breaker, and the header Retry-After. Pure: the time is an argument."""

import email.utils
from datetime import UTC
from typing import Literal

import msgspec

BreakerState = Literal["closed", "open", "half-open"]

_MAX_WAIT_SECONDS = 3600.0
"""The longest wait, whatever an upstream's Retry-After asks for."""


class Breaker(msgspec.Struct):
    """Whether a host may be asked: closed (yes), open (no, fail at once), half-open (one request is finding out).

    `now` is in seconds of any clock that never goes back.
    """

    failures: int
    """Failures in a row after which it opens."""
    seconds: float
    """For which it stays open."""
    troubled: bool = False
    """Whether anything has failed since the last success; only then `admit` and `succeeded` have to be called."""
    reason: str = ""
    """Why it is open, as the middle of a sentence."""
    _failed: int = 0
    _until: float = 0.0
    _probing: bool = False

    def admit(self, now: float) -> float:
        """Return 0 when a request may be sent, else the seconds to wait.

        An open breaker lets one request through in each period, so that a probe whose result is never reported
        blocks others for no longer than that.
        """
        if self._failed < self.failures:
            return 0.0
        if now < self._until:
            return self._until - now
        self._until = now + self.seconds
        self._probing = True
        return 0.0

    def succeeded(self) -> None:
        """Record an answer: the breaker is closed."""
        self._failed = 0
        self._probing = self.troubled = False

    def failed(self, now: float, silent: bool = False) -> None:
        """Record that no answer came, or one that reports an error of the host.

        One failure is enough to open the breaker when the host was `silent`, which costs clients a whole timeout.
        """
        self.troubled = True
        self._failed = self.failures if silent else self._failed + 1
        if self._failed >= self.failures:
            self._open(now + self.seconds, "is not answering")

    def hold(self, until: float) -> None:
        """Stay open until then, because the host asked for it."""
        self.troubled = True
        self._failed = self.failures
        self._open(until, "asked for requests to pause")

    def _open(self, until: float, reason: str) -> None:
        self._until, self._probing, self.reason = until, False, reason

    def wait(self, now: float) -> float:
        """Return what `admit` would, without sending the probe."""
        return max(0.0, self._until - now) if self._failed >= self.failures else 0.0

    def state(self, now: float) -> BreakerState:
        """Return the state at that time."""
        if self._failed < self.failures:
            return "closed"
        return "half-open" if self._probing or now >= self._until else "open"

    def severity(self, now: float) -> tuple[bool, float]:
        """Return a sort key: from healthy hosts to those that are not asked for long."""
        return self._failed >= self.failures, self.wait(now)


def retry_after(value: str, now: float) -> float:
    """Return the seconds that a Retry-After asks for (RFC 9110, section 10.2.3), at most an hour; 0 when it is invalid.

    `now` is in seconds since the epoch.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), _MAX_WAIT_SECONDS)
    try:
        when = email.utils.parsedate_to_datetime(value)
        asked = when.replace(tzinfo=when.tzinfo or UTC).timestamp() - now
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, asked), _MAX_WAIT_SECONDS)
