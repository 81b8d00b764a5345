"""An odd value on a page is upstream's fault: never an error of ours; the stored page goes on where it is of no use.

The values are absurd, and within every limit of bytes.
"""

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.builders import wheel
from tests.contract.pypi import JSON, mirroring
from tests.simulator import Instead, Simulator

BUILT = wheel("odd", "1.0")
ODD_DOCUMENTS: dict[str, dict[str, Any]] = {
    "a version of 5,000 digits": {"versions": ["1" * 5000]},
    "a serial of 31 digits": {"meta": {"api-version": "1.1", "_last-serial": 10**30}},
    "a status that is a list": {"project-status": {"status": []}},
    "a status of another kind": {"project-status": 7},
    "a name that is a number": {"name": 7},
    "versions that are numbers": {"versions": [1, None, {}]},
}
ODD_FILES: dict[str, dict[str, Any]] = {
    "a size above 64 bits": {"size": 2**64},
    "a size of 31 digits": {"size": 10**30},
    "a time at the beginning of the calendar": {"upload-time": "0001-01-01T00:00:00+23:59"},
    "a time at its end": {"upload-time": "9999-12-31T23:59:59-23:59"},
    "an unknown number of 31 digits": {"x": 10**30},
    "half a surrogate pair": {"x": "\ud800"},
    "half a surrogate pair as a reason": {"yanked": "\ud800"},
    "half a surrogate pair as a name": {"filename": "odd-\ud800.tar.gz"},
    "a requirement that is a list": {"requires-python": [1]},
    "digests that are a number": {"hashes": 7},
}
PATHS = ("/pypi/odd/json", f"/packages/odd/{BUILT.filename}", "/-/explain/pypi/odd", "/-/projects/pypi/odd/")


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("what", [*ODD_DOCUMENTS, *ODD_FILES])
async def test_an_odd_value_is_never_an_error_of_ours(simulator: Simulator, tmp_path: Path, what: str) -> None:
    simulator.publish(BUILT)
    clock = Clock()
    rules = [{"name": "rest", "kind": "cooldown", "reason": "They rest.", "age": "3 days"}]
    async with mirroring(tmp_path / "data", simulator, clock=clock, policy=rules) as mirror:
        page = (await mirror.get("/simple/odd/", Accept=JSON)).json()
        upstream = json.loads(await upstream_page(simulator))
        upstream |= ODD_DOCUMENTS.get(what, {})
        upstream["files"][0] |= ODD_FILES.get(what, {})
        simulator.inject("/simple/odd/", Instead(json.dumps(upstream).encode(), JSON))
        clock.now += 100_000
        reply = await mirror.get("/simple/odd/", Accept=JSON)
        assert reply.status == 200
        assert page["name"] == "odd"
        assert (await mirror.get("/simple/odd/", Accept="text/html")).status == 200
        for path in PATHS:
            assert (await mirror.get(path)).status != 500, path


async def upstream_page(simulator: Simulator) -> bytes:
    """The page as upstream has it."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{simulator.simple_url}odd/", headers={"Accept": JSON}) as reply,
    ):
        return await reply.read()
