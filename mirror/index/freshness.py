"""When a page may be served from the store: pure decisions over times, after RFC 9111 and RFC 5861.

No clock: `now` is always an argument, in seconds since the epoch. The one surprise: a page whose upstream lists its
revision in an index of its own (RubyGems lists the MD5 of every info page) has no age at all. It is right for as
long as the listed revision is the stored one.
"""

from enum import Enum, auto

import msgspec

from mirror.model import Stamp


class Ages(msgspec.Struct, frozen=True, kw_only=True):
    """The ages that a page may reach, in seconds."""

    fresh: float = 600
    """Served without asking upstream."""
    stale_while_revalidate: float = 300
    """After `fresh`, for this long: served at once, and asked for again in the background."""
    stale_if_error: float | None = None
    """How long after `fresh` a page stands in for an upstream that fails; None for ever."""
    negative: float = 60
    """How long an upstream's "there is no such page" is believed."""
    recheck: float = 0
    """How old a page may be for clients that require a current one: upstream is asked once in this time for them."""


class Freshness(Enum):
    """The freshness that is required of a page."""

    HELD = auto()
    """What is stored, and nothing else: upstream is not asked, since a source before it may have the project."""
    ANY = auto()
    """Any stored answer will do: files do not change, however old the page that lists them."""
    USUAL = auto()
    """By the configured ages."""
    NOW = auto()
    """No older than `recheck`: the client said `Cache-Control: no-cache` or `max-age=0`, which some always say."""
    ANEW = auto()
    """Asked for in any case, since it is known to have changed."""


CURRENT = (Freshness.NOW, Freshness.ANEW)
"""What is not answered with a page that is merely fresh."""


class Decision(Enum):
    """The decision on a request for a page."""

    SERVE = auto()
    SERVE_AND_REFRESH = auto()
    ASK = auto()


def decide(
    stamp: Stamp, now: float, ages: Ages, *, listed: str | None = None, freshness: Freshness = Freshness.USUAL
) -> Decision:
    """Return whether to serve the stored page, to refresh it in the background, or to ask upstream first.

    `listed` is the revision that upstream's own index lists, where it has one.
    """
    if freshness is Freshness.ANY and stamp.found:
        return Decision.SERVE
    age = now - stamp.checked
    if freshness is Freshness.ANEW:
        return Decision.ASK
    if freshness is Freshness.NOW:
        current = 0 <= age < ages.recheck and (listed is None or (stamp.found and stamp.revision == listed))
        return Decision.SERVE if current else Decision.ASK
    if listed is not None:
        return Decision.SERVE if stamp.found and stamp.revision == listed else Decision.ASK
    if age < -1:
        return Decision.ASK  # a clock that was set back must not make pages immortal
    if not stamp.found:
        return Decision.SERVE if age < ages.negative else Decision.ASK
    if age < ages.fresh:
        return Decision.SERVE
    if age < ages.fresh + ages.stale_while_revalidate:
        return Decision.SERVE_AND_REFRESH
    return Decision.ASK


def stands_in(stamp: Stamp, now: float, ages: Ages) -> bool:
    """Return whether a stored page may be served because upstream fails (stale-if-error, RFC 5861 section 4)."""
    if not stamp.found:
        return False
    return ages.stale_if_error is None or now - stamp.checked < ages.fresh + ages.stale_if_error
