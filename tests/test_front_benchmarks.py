"""Whether the benchmarks of the front work; how fast anything is decides no test."""

import math

import pytest

from tests.benchmarks import front, load
from tests.benchmarks.nginx import available
from tests.benchmarks.site import site
from tests.benchmarks.table import text

pytestmark = pytest.mark.skipif(available() is None, reason="nginx is not installed")


async def test_the_front_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "WRK", None)
    monkeypatch.setattr(front, "WRK", None)
    monkeypatch.setattr(front, "SECONDS", 0.05)
    async with site(quick=True) as place:
        rows = [row for measurement in front.MEASUREMENTS.values() async for row in measurement(place)]
    assert len(rows) == 5
    assert all(math.isfinite(row.figure) and row.figure > 0 and text(row) for row in rows)
