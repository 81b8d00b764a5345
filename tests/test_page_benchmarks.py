"""Whether the benchmarks of pages that do not fit in memory work; how fast anything is decides no test."""

import math

import pytest

from tests.benchmarks import many_pages, name_list
from tests.benchmarks.nginx import available
from tests.benchmarks.site import site
from tests.benchmarks.table import text

pytestmark = pytest.mark.skipif(available() is None, reason="nginx is not installed")


async def test_pages_beyond_memory_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_pages, "QUICK_PROJECTS", 20)
    monkeypatch.setattr(many_pages, "QUICK_SECONDS", 0.2)
    monkeypatch.setattr(name_list, "QUICK_NAMES", 2000)
    async with site(quick=True) as place:
        rows = [row async for row in many_pages.many_pages(place)] + [row async for row in name_list.name_list(place)]
    assert len(rows) == 10
    assert all(math.isfinite(row.figure) and row.figure > 0 and text(row) for row in rows)
