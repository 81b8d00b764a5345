"""When an upstream may be asked: pauses of one address, one class of URLs or one host. Pure: the time is an argument.

One URL's trouble stays there. An address pauses when it asks for it (Retry-After), is silent, or keeps failing. A class
of URLs (pages, files, JSON documents …) pauses when several of its addresses fail with nothing good between, and is
slowed down when several answer 429. A host pauses only when it cannot be reached, or is silent at several addresses.

The surprise: a request that fails with a status says nothing about the host, which has answered.
"""

import email.utils
from collections.abc import Hashable, Mapping
from datetime import UTC
from typing import Literal

import msgspec

from mirror.model import UrlClass

BreakerState = Literal["closed", "open", "half-open"]

LONGEST_PAUSE_SECONDS = 60.0
"""The longest pause, whatever an upstream asks for."""
PROBE_SECONDS = 30.0
"""In a longer pause, one request is let through after so long."""
CLIENT_WAIT_SECONDS = (10.0, 30.0)
"""The least and the most for a client's Retry-After."""
FORGET_SECONDS = 60.0
"""Time after which a failure, or that a class was limited, no longer counts."""
MOST_HOSTS = 64
"""The most hosts of one upstream that are remembered."""
DISPENSABLE: frozenset[UrlClass] = frozenset({"api", "sidecar"})
"""Classes of URLs without which an upstream is not down."""
MOST_ADDRESSES = 256
"""The most addresses of one host that are remembered; the oldest go first."""
COSTLY = 2
"""How much a failure counts that took a whole timeout."""
LIMITED_ADDRESSES = 2
"""Different addresses that answer 429 within LIMITED_SECONDS, after which their class is slowed down."""
LIMITED_SECONDS = 10.0
REFUSING_ADDRESSES = 3
"""Different addresses that answer 429 with nothing good between, after which their class pauses."""
PLAIN_PAUSE_SECONDS = 5.0
"""The pause of a class whose upstream answers 429 without saying for how long."""
FIRST_RATE = 10.0
"""Requests per second from which a class without a rate of its own is slowed down …"""
LEAST_RATE = 1.0
"""… at most to this rate."""
GROWTH = 1.05
"""The factor by which the rate of a class that was slowed down grows with each good answer."""


class Pause(msgspec.Struct, frozen=True):
    """A time for which requests are not sent, apart from one now and then."""

    begun: float
    until: float
    probe_at: float
    """When the next single request may be sent."""
    asked: bool
    """Whether the upstream asked for it, so that waiting helps; else something is wrong."""
    probing: bool = False

    def wait(self, now: float) -> float:
        """Return the seconds until a request may be sent."""
        return max(0.0, min(self.until, self.probe_at) - now)

    def probed(self, now: float, seconds: float) -> "Pause":
        """Return the pause after its single request has been sent: the next may follow after `seconds`."""
        return msgspec.structs.replace(self, probe_at=now + seconds, probing=True)


class Hold(msgspec.Struct, frozen=True):
    """Why a request may not be sent now."""

    seconds: float
    """To wait."""
    reason: str
    """The rest of a sentence that begins with the host."""
    asked: bool
    """See `Pause.asked`."""


class AddressTrouble(msgspec.Struct):
    """The memory of an address that has failed."""

    failed: int = 0
    """How often in a row."""
    expires: float = 0.0
    pause: Pause | None = None


class ClassPace(msgspec.Struct):
    """The memory of one class of URLs of a host."""

    ceiling: float = 0.0
    """Requests per second that are never exceeded; 0 for no limit."""
    rate: float = 0.0
    """Requests per second at the moment; 0 for no limit."""
    pause: Pause | None = None
    failed: set[int] = msgspec.field(default_factory=set)
    """Addresses that have failed with nothing good between."""
    refusing: set[int] = msgspec.field(default_factory=set)
    """Addresses that have answered 429 with nothing good between."""
    limited: dict[int, float] = msgspec.field(default_factory=dict)
    """When addresses last answered 429; never more than LIMITED_ADDRESSES."""
    _slowed: float = float("-inf")
    _due: float = float("-inf")
    """When the next request is due that keeps the rate exactly."""

    @property
    def calm(self) -> bool:
        """Whether nothing of late has to be remembered."""
        return self.pause is None and self.rate == self.ceiling and not (self.failed or self.refusing or self.limited)

    def delay(self, now: float, most: float) -> float:
        """Return the seconds until the next turn, and take it unless it comes later than `most` seconds from now.

        A class that is not slowed down may send the requests of a second at once.
        """
        if not self.rate:
            return 0.0
        burst = self.rate if self.rate == self.ceiling else 1.0
        due = max(self._due, now - (burst - 1) / self.rate)
        if due - now <= most:
            self._due = due + 1 / self.rate
        return max(0.0, due - now)

    def slow_down(self, began: float, now: float) -> None:
        """Halve the rate, once for all requests that were under way."""
        if began >= self._slowed:
            self.rate = max(LEAST_RATE, (self.rate or FIRST_RATE) / 2)
            self._slowed = now

    def speed_up(self, now: float) -> None:
        """Raise the rate after a good answer, and drop it when nothing was limited for long."""
        if self.rate != self.ceiling:
            grown = self.rate * GROWTH
            done = now - self._slowed > FORGET_SECONDS
            self.rate = self.ceiling if done or (self.ceiling and grown > self.ceiling) else grown

    def expire(self, now: float) -> None:
        """Drop what no longer counts."""
        self.limited = {one: at for one, at in self.limited.items() if now - at < LIMITED_SECONDS}
        if self.pause and now >= self.pause.until:
            self.pause = None

    def note_limited(self, address: int, now: float) -> bool:
        """Record a 429 of an address; return whether different addresses were limited lately."""
        self.expire(now)
        self.limited.pop(address, None)
        while len(self.limited) >= LIMITED_ADDRESSES:
            del self.limited[next(iter(self.limited))]
        self.limited[address] = now
        return len(self.limited) >= LIMITED_ADDRESSES


class HostPacing(msgspec.Struct):
    """Whether requests may be sent to one host. `now` and `began` are seconds of any clock that never goes back."""

    failures: int
    """Failures in a row after which an address, a class or the host pauses."""
    seconds: float
    """For which it pauses."""
    ceilings: Mapping[UrlClass, float] = {}
    """Requests per second of classes that are always paced."""
    troubled: bool = False
    """Whether anything has failed of late; only then `blocked`, `admit` and `succeeded` have to be called."""
    answered: float = float("-inf")
    """When the host last began to answer anything."""
    _pause: Pause | None = None
    _strikes: dict[Hashable, int] = msgspec.field(default_factory=dict)
    """Failures of the host since it last answered, each with its weight."""
    _unopened: int = 0
    """Connections that were not opened, to tell them apart."""
    _addresses: dict[int, AddressTrouble] = msgspec.field(default_factory=dict)
    _classes: dict[UrlClass, ClassPace] = msgspec.field(default_factory=dict)

    # Before a request

    def blocked(self, address: int, kind: UrlClass, now: float) -> Hold | None:
        """Return why a request may not be sent, or None."""
        known, pace = self._addresses.get(address), self._classes.get(kind)
        worst: Hold | None = None
        for pause, what in (
            (known and known.pause, "does not answer at this address"),
            (pace and pace.pause, f"answers no requests of the class {kind}"),
            (self._pause, "is not answering"),
        ):
            if pause and (seconds := pause.wait(now)) and (worst is None or seconds > worst.seconds):
                worst = Hold(seconds, "asked for requests to pause" if pause.asked else what, pause.asked)
        return worst

    def admit(self, address: int, kind: UrlClass, now: float) -> Hold | None:
        """Return what `blocked` does; when that is None, the request is sent: within a pause it is the only one.

        A single request whose result is never reported blocks others for no longer than until the next.
        """
        if blocked := self.blocked(address, kind, now):
            return blocked
        if (known := self._addresses.get(address)) and known.pause:
            known.pause = self._entered(known.pause, now)
        if (pace := self._classes.get(kind)) and pace.pause:
            pace.pause = self._entered(pace.pause, now)
        if self._pause:
            self._pause = self._pause.probed(now, self.seconds)
        return None

    def _entered(self, pause: Pause, now: float) -> Pause | None:
        return pause.probed(now, PROBE_SECONDS) if now < pause.until else None

    def delay(self, kind: UrlClass, now: float, most: float) -> float:
        """Return the seconds until the next turn of a class, and take it unless it is further away than `most`."""
        return self._class(kind).delay(now, most) if kind in self._classes or kind in self.ceilings else 0.0

    # After it

    def succeeded(self, address: int, kind: UrlClass, began: float, now: float) -> None:
        """Record a usable answer to a request that was sent at `began`."""
        self.reached(now)
        self._addresses.pop(address, None)
        if pace := self._classes.get(kind):
            pace.failed.clear()
            pace.refusing.clear()
            pace.speed_up(now)
            if pace.pause and began >= pace.pause.begun:
                pace.pause = None
        self._forget(now)

    def reached(self, now: float) -> None:
        """Record that the host has begun to answer, whatever it says."""
        self.answered = now
        self._pause = None
        self._strikes.clear()

    def failed(self, address: int, kind: UrlClass, now: float, asked: float = 0.0) -> None:
        """Record an answer that reports an error, or that broke off; `asked` is its Retry-After in seconds, or 0."""
        self.troubled = True
        known, pace = self._address(address, now), self._class(kind)
        known.failed += 1
        if asked:
            known.pause = _pause(now, asked, asked=True)
        elif known.failed >= self.failures:
            known.pause = _pause(now, self.seconds)
        pace.failed.add(address)
        if len(pace.failed) >= self.failures:
            pace.pause = _pause(now, self.seconds)
            pace.failed.clear()

    def limited(self, address: int, kind: UrlClass, began: float, now: float, asked: float = 0.0) -> None:
        """Record a 429: a pace, and no failure."""
        self.troubled = True
        pace = self._class(kind)
        if asked:
            self._address(address, now).pause = _pause(now, asked, asked=True)
        if pace.note_limited(address, now):
            pace.slow_down(began, now)
        pace.refusing.add(address)
        if len(pace.refusing) >= REFUSING_ADDRESSES:
            pace.pause = _pause(now, asked or PLAIN_PAUSE_SECONDS, asked=True)
            pace.refusing.clear()

    def silent(self, address: int, began: float, now: float) -> None:
        """Record that nothing came; it counts against the host only when that answered nothing else meanwhile."""
        self.troubled = True
        self._address(address, now).pause = _pause(now, self.seconds)
        if self.answered < began:
            self._strike(address, COSTLY, now)

    def unreachable(self, now: float, slow: bool) -> None:
        """Record that no connection was opened; a `slow` attempt took a whole timeout."""
        self.troubled = True
        self._unopened += 1
        self._strike(("connect", self._unopened), COSTLY if slow else 1, now)

    def _strike(self, key: Hashable, weight: int, now: float) -> None:
        self._strikes[key] = weight
        if sum(self._strikes.values()) >= self.failures:
            self._pause = Pause(now, float("inf"), now + self.seconds, asked=False)
            self._strikes.clear()
            self._strikes["paused"] = self.failures  # one more failure is enough

    # What is remembered

    def _address(self, address: int, now: float) -> AddressTrouble:
        known = self._addresses.pop(address, None) or AddressTrouble()
        known.expires = now + max(FORGET_SECONDS, self.seconds)
        self._addresses[address] = known
        while len(self._addresses) > MOST_ADDRESSES:
            del self._addresses[next(iter(self._addresses))]
        return known

    def _class(self, kind: UrlClass) -> ClassPace:
        pace = self._classes.get(kind)
        if pace is None:
            ceiling = self.ceilings.get(kind, 0.0)
            pace = self._classes[kind] = ClassPace(ceiling, ceiling)
        return pace

    def _forget(self, now: float) -> None:
        """Drop what no longer counts."""
        while self._addresses:
            oldest = next(iter(self._addresses))
            if now < self._addresses[oldest].expires:
                break
            del self._addresses[oldest]
        for kind, pace in list(self._classes.items()):
            pace.expire(now)
            if pace.calm and not pace.ceiling:
                del self._classes[kind]
        self.troubled = bool(self._addresses) or not all(pace.calm for pace in self._classes.values())

    # For people

    def state(self, now: float) -> BreakerState:
        """Return the state of the host as that of a circuit breaker."""
        if self._pause is None:
            return "closed"
        return "half-open" if self._pause.probing or not self._pause.wait(now) else "open"

    def wait(self, now: float) -> float:
        """Return the seconds until any request may be sent to the host."""
        return self._pause.wait(now) if self._pause else 0.0

    def paused(self, now: float) -> Mapping[UrlClass, float]:
        """Return the classes that pause, with the seconds until they are asked again."""
        paused = {kind: pace.pause.wait(now) for kind, pace in self._classes.items() if pace.pause}
        return {kind: seconds for kind, seconds in paused.items() if seconds}

    def paused_addresses(self, now: float) -> int:
        """Return how many single addresses pause."""
        return sum(one.pause is not None and one.pause.wait(now) > 0 for one in self._addresses.values())


class Hosts(msgspec.Struct):
    """The memory of the hosts of an upstream; see `HostPacing` for the first three."""

    failures: int
    seconds: float
    ceilings: Mapping[UrlClass, float] = {}
    known: dict[tuple[str, int], HostPacing] = msgspec.field(default_factory=dict)
    """By name and port, at most MOST_HOSTS."""

    def add(self, key: tuple[str, int]) -> HostPacing:
        """Begin to remember a host, and forget the first one when there are too many."""
        host = self.known[key] = HostPacing(self.failures, min(self.seconds, LONGEST_PAUSE_SECONDS), self.ceilings)
        if len(self.known) > MOST_HOSTS:
            del self.known[next(iter(self.known))]
        return host

    def worst_state(self, now: float) -> tuple[BreakerState, float, tuple[UrlClass, ...]]:
        """Return the state of the worst host, the seconds until it is asked again, and all classes that pause.

        A host is no better than its classes that clients need.
        """
        worst: tuple[BreakerState, float] = "closed", 0.0
        classes: set[UrlClass] = set()
        for host in self.known.values():
            paused = host.paused(now)
            classes |= paused.keys()
            state, needed = host.state(now), [paused[kind] for kind in paused.keys() - DISPENSABLE]
            if state == "closed" and needed:
                state = "open"
            seconds = max([host.wait(now), *needed])
            if state != "closed" and (worst[0] == "closed" or seconds > worst[1]):
                worst = state, seconds
        return *worst, tuple(sorted(classes))

    def paused_addresses(self, now: float) -> int:
        """Return how many single addresses of all hosts pause."""
        return sum(host.paused_addresses(now) for host in self.known.values())


def _pause(now: float, seconds: float, asked: bool = False) -> Pause:
    return Pause(now, now + min(seconds, LONGEST_PAUSE_SECONDS), now + PROBE_SECONDS, asked)


def client_wait(seconds: float) -> float:
    """Return a client's Retry-After, where the upstream is to be left alone for `seconds`."""
    least, most = CLIENT_WAIT_SECONDS
    return min(max(seconds, least), most)


def retry_after(value: str, now: float) -> float:
    """Return the seconds that a Retry-After asks for (RFC 9110, section 10.2.3), at most LONGEST_PAUSE_SECONDS.

    0 when it is invalid. `now` is in seconds since the epoch.
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:9]), LONGEST_PAUSE_SECONDS)
    try:
        when = email.utils.parsedate_to_datetime(value)
        asked = when.replace(tzinfo=when.tzinfo or UTC).timestamp() - now
    except (ValueError, OverflowError):
        return 0.0
    return min(max(0.0, asked), LONGEST_PAUSE_SECONDS)
