"""Whether the benchmarks of a great store work, on a small one; how fast anything is decides no test."""

import math

import pytest

from tests.benchmarks import great_rows
from tests.benchmarks.nginx import available
from tests.benchmarks.site import site
from tests.benchmarks.table import text

pytestmark = pytest.mark.skipif(available() is None, reason="nginx is not installed")


async def test_a_great_store_is_measured() -> None:
    async with site(quick=True) as place:
        rows = [row for measurement in great_rows.MEASUREMENTS.values() async for row in measurement(place)]
    assert len(rows) == 11
    assert all(math.isfinite(row.figure) and text(row) for row in rows)
