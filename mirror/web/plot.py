"""The geometry of the plot on the start page. Pure: counts in, rectangles out; the template draws them."""

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from mirror.telemetry.statistics import Span
from mirror.web.views import count, share, size

WIDTH, HEIGHT = 720.0, 180.0
_BOTTOM, _TOP, _LEFT = 22.0, 8.0, 52.0
_GAP = 0.28


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """One span of time: a column of two parts, the saved one below."""

    x: float
    width: float
    saved_y: float
    saved_height: float
    fetched_y: float
    fetched_height: float
    label: str
    """The span with its bytes."""
    day: str
    """Of its beginning; the hour where spans are hours."""
    saved: str
    fetched: str
    requests: str
    hits: str


class GridLine(msgspec.Struct, frozen=True):
    """A horizontal line with its value."""

    y: float
    label: str


class Tick(msgspec.Struct, frozen=True):
    """A label below the columns."""

    x: float
    label: str


class Plot(msgspec.Struct, frozen=True, kw_only=True):
    """The whole plot."""

    bars: tuple[Bar, ...]
    grid: tuple[GridLine, ...]
    ticks: tuple[Tick, ...]
    title: str
    width: float = WIDTH
    height: float = HEIGHT
    base: float = HEIGHT - _BOTTOM
    left: float = _LEFT


def plot(spans: Sequence[Span], hours: int) -> Plot | None:
    """Return the plot of bytes by span; None when nothing has been served yet."""
    top = max((span.saved + span.fetched for span in spans), default=0)
    if top <= 0:
        return None
    ceiling = _ceiling(top)
    step = (WIDTH - _LEFT) / len(spans)
    base = HEIGHT - _BOTTOM
    height = base - _TOP
    bars = []
    for number, span in enumerate(spans):
        saved, fetched = (height * max(0, part) / ceiling for part in (span.saved, span.fetched))
        when = _label(span.start, hours)
        bars.append(
            Bar(
                x=round(_LEFT + number * step + step * _GAP / 2, 2),
                width=round(step * (1 - _GAP), 2),
                saved_y=round(base - saved, 2),
                saved_height=round(saved, 2),
                fetched_y=round(base - saved - fetched, 2),
                fetched_height=round(fetched, 2),
                label=f"{when}: {size(span.saved)} saved, {size(span.fetched)} from upstream",
                day=when,
                saved=size(span.saved),
                fetched=size(span.fetched),
                requests=count(span.requests),
                hits=share(span.hits, span.requests),
            )
        )
    every = max(1, len(spans) // 6)
    ticks = [
        Tick(round(_LEFT + (number + 0.5) * step, 2), _label(spans[number].start, hours))
        for number in range(every // 2, len(spans), every)
    ]
    grid = [GridLine(round(base - height * part, 2), size(int(ceiling * part))) for part in (0.5, 1.0)]
    saved_bytes = sum(span.saved for span in spans)
    all_bytes = saved_bytes + sum(span.fetched for span in spans)
    return Plot(
        bars=tuple(bars),
        grid=tuple(grid),
        ticks=tuple(ticks),
        title=f"{size(saved_bytes)} of {size(all_bytes)} did not have to be fetched",
    )


def _ceiling(top: int) -> float:
    """Return the next round number: 1, 2 or 5 with zeros."""
    power = 10 ** (len(str(top)) - 1)
    return float(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= top))


def _label(start: float, hours: int) -> str:
    moment = datetime.fromtimestamp(start, UTC)
    return f"{moment:%H}:00" if hours < 24 else f"{moment.day} {moment:%b}"
