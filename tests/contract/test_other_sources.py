"""Files that two sources of a union list alike: one that is slow, broken or closed keeps no one from them.

And links that expire: also in the middle of a file.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mirror.index.upstream import RENEWAL_PAUSE_SECONDS
from tests.builders import wheel
from tests.contract.pypi import filenames, held, mirroring, page_of, patient, settled
from tests.serving import serving
from tests.simulator import Corrupt, Cut, Drip, Simulator, Stall, Status
from tests.simulator.faults import Fault

BIG = wheel("thing", "1.0", size=600_000)
SMALL = wheel("thing", "2.0")
UNION = {"union": ["thing"]}


@pytest.fixture
async def second() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge after a moment what is judged after seconds."""
    monkeypatch.setattr("mirror.upstream.body.RATE_WINDOW_SECONDS", 0.2)
    monkeypatch.setattr("mirror.index.elsewhere.PATIENCE_SECONDS", 0.3)


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


NOTHING_SENT: dict[str, Fault] = {
    "refused": Status(403),
    "login": Status(401),
    "gone": Status(404),
    "broken": Status(500),
    "limited": Status(429, 3600),
    "silent": Stall(),
}


@pytest.mark.parametrize("what", NOTHING_SENT)
@pytest.mark.parametrize("built", [BIG, SMALL], ids=["large", "small"])
async def test_what_the_first_source_does_not_give_comes_from_the_second_in_the_same_response(
    simulator: Simulator, second: Simulator, tmp_path: Path, what: str, built: Any
) -> None:
    for upstream in (simulator, second):
        upstream.publish(built)
    fault = simulator.inject("*.whl", NOTHING_SENT[what])
    async with mirroring(tmp_path / "data", simulator, second, repository=UNION, network=patient()) as mirror:
        assert await filenames(mirror, "thing") == [built.filename]
        async with asyncio.timeout(5):
            reply = await mirror.get(f"/packages/thing/{built.filename}")
        assert (reply.status, reply.body) == (200, built.content)
        asked = simulator.count("GET", "*.whl")
        assert (await mirror.get(f"/packages/thing/{built.filename}")).body == built.content
        assert (simulator.count("GET", "*.whl"), second.count("GET", "*.whl")) == (asked, 1)  # held, by the second
        fault.release()


async def test_a_small_file_with_wrong_bytes_comes_from_the_second_source(
    simulator: Simulator, second: Simulator, tmp_path: Path
) -> None:
    for upstream in (simulator, second):
        upstream.publish(SMALL)
    simulator.inject("*.whl", Corrupt(30))
    async with mirroring(tmp_path / "data", simulator, second, repository=UNION, network=patient()) as mirror:
        assert (await mirror.get(f"/packages/thing/{SMALL.filename}")).body == SMALL.content


@pytest.mark.parametrize(
    "faults",
    [
        (Cut(after=200_000), Status(403)),
        (Cut(after=200_000), Status(404)),
        (Cut(after=200_000), Status(500)),
        (Stall(after=200_000),),
        (Drip(piece=50, pause=0.05),),
    ],
    ids=["cut, then refused", "cut, then gone", "cut, then broken", "stalls", "slow"],
)
async def test_a_transfer_that_fails_in_its_middle_goes_on_from_the_second_source(
    simulator: Simulator, second: Simulator, tmp_path: Path, faults: tuple[Fault, ...]
) -> None:
    for upstream in (simulator, second):
        upstream.publish(BIG)
    first, *later = [
        simulator.inject("*.whl", fault, skip=number, times=1 if number + 1 < len(faults) else None)
        for number, fault in enumerate(faults)
    ]
    network = patient(read_timeout=0.3)
    async with mirroring(tmp_path / "data", simulator, second, repository=UNION, network=network) as mirror:
        async with asyncio.timeout(10):
            reply = await mirror.get(f"/packages/thing/{BIG.filename}")
        assert (reply.status, reply.body) == (200, BIG.content)
        assert first.hits >= 1
        (resumed,) = second.asked("GET", "*.whl")
        if not isinstance(faults[0], Drip):
            assert int(resumed.headers["Range"].removeprefix("bytes=").removesuffix("-")) > 50_000
        await settled(mirror)
        assert BIG.sha256 in await held(mirror)
        for one in (first, *later):
            one.release()


async def test_a_source_that_falls_silent_is_given_up_soon_where_another_has_the_file(
    simulator: Simulator, second: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.transfer.transfer.SILENCE_SECONDS", 0.2)
    for upstream in (simulator, second):
        upstream.publish(BIG)
    stalled = simulator.inject("*.whl", Stall(after=200_000))
    async with mirroring(tmp_path / "data", simulator, second, repository=UNION) as mirror:
        async with asyncio.timeout(10):  # half of the silence that is allowed where there is no other source
            reply = await mirror.get(f"/packages/thing/{BIG.filename}")
        assert (reply.status, reply.body) == (200, BIG.content)
        assert [one.status for one in second.asked("GET", "*.whl")] == [206]
        stalled.release()


async def test_another_source_is_asked_only_where_files_are_shown_together(
    simulator: Simulator, second: Simulator, tmp_path: Path
) -> None:
    for upstream in (simulator, second):
        upstream.publish(SMALL)
    simulator.inject("*.whl", Status(500))
    async with mirroring(tmp_path / "data", simulator, second, network=patient()) as mirror:
        assert (await mirror.get(f"/packages/thing/{SMALL.filename}")).status == 503
        assert second.count() == 0


async def test_what_another_source_delivered_is_not_given_for_the_first_one_alone(
    simulator: Simulator, second: Simulator, tmp_path: Path
) -> None:
    for upstream in (simulator, second):
        upstream.publish(BIG)
    simulator.inject("*.whl", Cut(after=200_000), times=1)
    simulator.inject("*.whl", Status(404), skip=1)
    urls = [simulator.simple_url, second.simple_url]
    both = {
        "both": {"format": "pypi", "upstreams": urls, "mount": "/both", **UNION},
        "first": {"format": "pypi", "upstreams": urls[:1], "mount": "/first"},
    }
    async with serving(tmp_path / "data", both, network=patient()) as mirror:
        assert (await mirror.get(f"/both/packages/thing/{BIG.filename}")).body == BIG.content
        await settled(mirror)
        assert (await mirror.get(f"/first/packages/thing/{BIG.filename}")).status == 404


async def test_a_link_that_expires_in_the_middle_of_a_file_is_renewed_unseen(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(BIG)
    clock = Clock()
    network = patient(read_timeout=0.3)
    stalled = simulator.inject("*.whl", Stall(after=200_000), times=1)
    async with mirroring(tmp_path / "data", simulator, network=network, clock=clock) as mirror:
        assert await filenames(mirror, "thing") == [BIG.filename]
        clock.now += 60
        reading = asyncio.create_task(mirror.get(f"/packages/thing/{BIG.filename}"))
        await simulator.until(lambda: simulator.count("GET", "*.whl") == 1)
        old = simulator.pypi.relink("thing", BIG.filename)
        reply = await reading
        assert (reply.status, reply.body) == (200, BIG.content)
        assert [one.status for one in simulator.asked("GET", "*.whl")] == [200, 404, 206]
        assert simulator.count("GET", "/simple/thing/") == 2
        assert [one.path for one in simulator.asked("GET", "*.whl")][:2] == [old, old]
    stalled.release()


async def test_a_link_that_stays_refused_in_the_middle_of_a_file_is_asked_anew_once(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(BIG)
    clock = Clock()
    simulator.inject("*.whl", Cut(after=200_000), times=1)
    simulator.inject("*.whl", Status(403), skip=1)
    async with mirroring(tmp_path / "data", simulator, network=patient(), clock=clock) as mirror:
        assert await filenames(mirror, "thing") == [BIG.filename]
        clock.now += 60
        with pytest.raises(aiohttp.ClientPayloadError):
            await mirror.get(f"/packages/thing/{BIG.filename}")
        assert simulator.count("GET", "/simple/thing/") == 2
        assert simulator.count("GET", "*.whl") == 2


async def test_a_link_that_expires_within_seconds_of_its_page_is_renewed(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(SMALL)
    async with mirroring(tmp_path / "data", simulator, network=patient(), clock=Clock()) as mirror:
        assert await filenames(mirror, "thing") == [SMALL.filename]
        simulator.pypi.relink("thing", SMALL.filename)
        reply = await mirror.get(f"/packages/thing/{SMALL.filename}")
        assert (reply.status, reply.body) == (200, SMALL.content)
        assert simulator.count("GET", "/simple/thing/") == 2


async def test_clients_that_ask_for_a_refused_file_have_its_page_asked_for_once_in_a_while(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(SMALL)
    clock = Clock()
    simulator.inject("*.whl", Status(404))
    async with mirroring(tmp_path / "data", simulator, network=patient(), clock=clock) as mirror:
        assert await filenames(mirror, "thing") == [SMALL.filename]
        for pages in (2, 3):
            for _ in range(3):
                replies = await asyncio.gather(*(mirror.get(f"/packages/thing/{SMALL.filename}") for _ in range(5)))
                assert {reply.status for reply in replies} == {404}
            assert simulator.count("GET", "/simple/thing/") == pages
            clock.now += RENEWAL_PAUSE_SECONDS


@pytest.mark.parametrize("relinked", [True, False])
@pytest.mark.parametrize("status", [403, 404])
async def test_a_sidecar_that_is_gone_is_asked_for_with_a_new_link_and_then_made(
    simulator: Simulator, tmp_path: Path, relinked: bool, status: int
) -> None:
    simulator.publish(SMALL)
    clock = Clock()
    async with mirroring(tmp_path / "data", simulator, network=patient(), clock=clock) as mirror:
        (entry,) = (await page_of(mirror, "thing")).json()["files"]
        assert entry["core-metadata"]
        clock.now += 60
        if relinked:
            old = simulator.pypi.relink("thing", SMALL.filename)
            simulator.inject(f"{old}.metadata", Status(status))
        else:
            simulator.inject("*.metadata", Status(status))
        reply = await mirror.get(f"/packages/thing/{SMALL.filename}.metadata")
        assert (reply.status, reply.body) == (200, SMALL.metadata)
        assert simulator.count("GET", "/simple/thing/") == 2
        assert simulator.count("GET", "*.metadata", status=200) == relinked
        assert (simulator.count("GET", "*.whl") == 0) == relinked
