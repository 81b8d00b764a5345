"""Whether the benchmarks of cold files work; how fast anything is decides no test."""

import math

import pytest

from tests.benchmarks import cold_files
from tests.benchmarks.nginx import available
from tests.benchmarks.site import site
from tests.benchmarks.table import text

pytestmark = pytest.mark.skipif(available() is None, reason="nginx is not installed")


async def test_cold_files_are_measured() -> None:
    async with site(quick=True) as place:
        place.megabytes = 5
        for name, measurement in cold_files.MEASUREMENTS.items():
            rows = [row async for row in measurement(place)]
            assert len(rows) == 3, name
            assert all(math.isfinite(row.figure) and text(row) for row in rows)
