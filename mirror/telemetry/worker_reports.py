"""What each worker of a machine counts, in memory that all of them share, so that any one reports for all.

A worker writes its report once a second and as it ends; who is asked adds up what all have written. Counts outlive the
worker: the next one with its place goes on from them.

The surprise: no locks. A report is written between two changes of a number, and one that is read while it is written
is read again.
"""

import logging
import mmap
import operator
import os
import struct
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec
from prometheus_client import ProcessCollector
from prometheus_client.core import Metric

from mirror.blobs import StoreState
from mirror.telemetry.follow_lag import FollowLag
from mirror.telemetry.metrics import Counts, Snapshot, UpstreamState

logger = logging.getLogger(__name__)

REPORT_BYTES = 256 << 10
"""The most bytes of one report; memory is only taken by what is written."""
PUBLISH_SECONDS = 1.0
"""Time between two reports of a worker."""
LIVE_SECONDS = 5.0
"""Age of a report from which only what it counted counts, not the state it tells of."""
READ_ATTEMPTS = 5
_HEADER = struct.Struct("<QIId")  # a number that is odd during a change, length, CRC-32, moment on the monotonic clock


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """The counts and the state of one worker."""

    pid: int
    counts: Counts
    snapshot: Snapshot
    unrecorded: dict[str, int]
    """What it has counted that is not in the catalog yet."""
    live: bool = True
    """Whether its state is that of now."""


class ReportMemory:
    """The memory for the reports of all workers, by their places."""

    def __init__(self, places: int) -> None:
        self._memory = mmap.mmap(-1, places * REPORT_BYTES)
        self._places = places
        self._is_refused = False

    def write(self, place: int, report: WorkerReport) -> None:
        """Write the report of the worker with this place."""
        content = msgspec.msgpack.encode(report)
        if _HEADER.size + len(content) > REPORT_BYTES:
            if not self._is_refused:
                logger.error("the counts of this worker are too many to be reported with those of the others")
            self._is_refused = True
            return
        at = place * REPORT_BYTES
        number = (_HEADER.unpack_from(self._memory, at)[0] | 1) + 2
        facts = len(content), zlib.crc32(content), time.monotonic()
        _HEADER.pack_into(self._memory, at, number, *facts)
        self._memory[at + _HEADER.size : at + _HEADER.size + len(content)] = content
        _HEADER.pack_into(self._memory, at, number + 1, *facts)

    def read(self, place: int) -> WorkerReport | None:
        """Return the last report of a worker with this place; None where there is none that can be read."""
        at = place * REPORT_BYTES
        for _ in range(READ_ATTEMPTS):
            before = _HEADER.unpack_from(self._memory, at)
            number, length, checksum, moment = before
            if not number:
                return None
            content = self._memory[at + _HEADER.size : at + _HEADER.size + length]
            if number % 2 or before != _HEADER.unpack_from(self._memory, at) or zlib.crc32(content) != checksum:
                continue
            report = msgspec.msgpack.decode(content, type=WorkerReport)
            return msgspec.structs.replace(report, live=time.monotonic() - moment < LIVE_SECONDS)
        return None

    def others(self, place: int) -> list[WorkerReport]:
        """Return the reports of all workers but the one with this place."""
        reports = (self.read(other) for other in range(self._places) if other != place)
        return [report for report in reports if report is not None]


class WorkerReports:
    """The reports as one worker sees them."""

    def __init__(self, memory: ReportMemory, place: int) -> None:
        self.inherited = memory.read(place)
        """What the worker before it with this place has counted."""
        self._memory = memory
        self._place = place

    def publish(self, counts: Counts, snapshot: Snapshot, unrecorded: dict[str, int]) -> None:
        """Report what this worker has counted, that of its predecessor included."""
        snapshot = self.with_inherited(snapshot)
        report = WorkerReport(pid=os.getpid(), counts=counts, snapshot=snapshot, unrecorded=unrecorded)
        self._memory.write(self._place, report)

    def with_inherited(self, snapshot: Snapshot) -> Snapshot:
        """Return the state of this worker with what the one before it has counted."""
        if self.inherited is None:
            return snapshot
        return together(snapshot, [msgspec.structs.replace(self.inherited, live=False)])

    def others(self) -> list[WorkerReport]:
        """Return what the other workers have reported."""
        return self._memory.others(self._place)


def unrecorded(reports: Iterable[WorkerReport]) -> Counter[str]:
    """Return what these workers have counted that is not in the catalog yet."""
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report.unrecorded)
    return total


def together(own: Snapshot, reports: Sequence[WorkerReport]) -> Snapshot:
    """Return the state of several workers as one: counters are added, and of states the worst counts.

    What the catalog and the file system tell is `own`.
    """
    live = [report.snapshot for report in reports if report.live]
    every = [report.snapshot for report in reports]
    return msgspec.structs.replace(
        own,
        upstreams=tuple(_upstream(one, every, live) for one in own.upstreams),
        transfers=own.transfers + sum(one.transfers for one in live),
        connections=None if own.connections is None else own.connections + sum(one.connections or 0 for one in live),
        degraded=own.degraded or any(one.degraded for one in live),
        log_lines_dropped=own.log_lines_dropped + sum(one.log_lines_dropped for one in every),
        following=tuple(_nearest(one, live) for one in own.following),
        blobs=_blobs(own.blobs, [one.blobs for one in every], [one.blobs for one in live]),
    )


def of_processes(pids: Collection[int]) -> list[Metric]:
    """Return what the system knows of several processes as one: the first start, and otherwise sums."""
    families: dict[str, Metric] = {}
    for pid in pids:
        for family in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
            known = families.setdefault(family.name, family)
            if known is not family:
                combine = min if family.name.endswith("start_time_seconds") else operator.add
                known.samples = [
                    one._replace(value=combine(one.value, other.value))
                    for one, other in zip(known.samples, family.samples, strict=True)
                ]
    return list(families.values())


def _nearest(own: FollowLag, live: Sequence[Snapshot]) -> FollowLag:
    """Return the lag of the worker that knows most: one of them follows for all."""
    same = [one for each in live for one in each.following if one.name == own.name]
    return max([own, *same], key=lambda one: (one.applied, one.seconds is not None))


def _upstream(own: UpstreamState, every: Sequence[Snapshot], live: Sequence[Snapshot]) -> UpstreamState:
    def same(snapshots: Sequence[Snapshot]) -> list[UpstreamState]:
        place = own.repository, own.upstream
        return [one for each in snapshots for one in each.upstreams if (one.repository, one.upstream) == place]

    counted, now = [own, *same(every)], [own, *same(live)]
    errors: Counter[str] = Counter()
    for one in counted:
        errors.update(one.errors)
    return msgspec.structs.replace(
        own,
        breaker=max((one.breaker for one in now), key=("closed", "half-open", "open").index),
        paused=tuple(dict.fromkeys(kind for one in now for kind in one.paused)),
        paused_addresses=max(one.paused_addresses for one in now),
        requests=sum(one.requests for one in counted),
        received=sum(one.received for one in counted),
        errors=dict(errors),
    )


def _blobs(own: StoreState, every: Sequence[StoreState], live: Sequence[StoreState]) -> StoreState:
    counted = [own, *every]
    requests: Counter[str] = Counter()
    for one in counted:
        requests.update(one.requests)

    def total(value: Callable[[StoreState], int]) -> int:
        return sum(map(value, counted))

    return StoreState(
        missing=total(lambda one: one.missing),
        reachable=all(one.reachable for one in (own, *live)),
        requests=dict(requests),
        errors=total(lambda one: one.errors),
        damaged=total(lambda one: one.damaged),
        evicted=total(lambda one: one.evicted),
    )
