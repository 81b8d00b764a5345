"""The benchmarks of what comes for the first time work: how fast that is, they say themselves."""

import math

import pytest

from tests.benchmarks import cold_pages
from tests.benchmarks.nginx import available
from tests.benchmarks.site import site
from tests.benchmarks.table import text


@pytest.mark.skipif(available() is None, reason="nginx is not installed")
async def test_pages_and_a_resolver_are_measured_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cold_pages, "PAGES", 20)
    monkeypatch.setattr(cold_pages, "PROJECTS", 5)
    async with site(quick=True) as place:
        rows = [row for measure in cold_pages.MEASUREMENTS.values() async for row in measure(place)]
    for row in rows:
        print(text(row))
    assert len(rows) == 5
    assert all(math.isfinite(row.figure) for row in rows)
