"""How far this mirror is behind those that it follows, for Prometheus: what is lost when one of them is."""

from collections.abc import Iterable, Iterator

import msgspec
from prometheus_client.core import GaugeMetricFamily, Metric


class FollowLag(msgspec.Struct, frozen=True, kw_only=True):
    """The distance of this mirror from one that it follows."""

    name: str
    """Repository and upstream."""
    seconds: float | None = None
    """Age of the oldest change that is not applied; 0 when all are, None while the other mirror does not answer."""
    applied: float = 0.0
    """When the last change was applied or there was none, in seconds since the epoch; 0: not since the start."""


def lag_families(following: Iterable[FollowLag]) -> Iterator[Metric]:
    """Return the families of what is followed."""
    lag = GaugeMetricFamily(
        "mirror_follow_lag_seconds", "Age of the oldest change of a followed mirror that is not here.", labels=["name"]
    )
    applied = GaugeMetricFamily(
        "mirror_follow_applied_timestamp_seconds", "When all of a followed mirror was here last.", labels=["name"]
    )
    for one in following:
        if one.seconds is not None:
            lag.add_metric([one.name], one.seconds)
        applied.add_metric([one.name], one.applied)
    yield from (lag, applied)
