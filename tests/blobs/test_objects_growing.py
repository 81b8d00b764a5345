"""Large files are sent to the object store while they come: an object once they are verified, and nothing before."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from mirror.blobs.objects import ObjectBlobs
from mirror.blobs.objects_client import PART_BYTES
from mirror.blobs.objects_writing import GROWING_AT_ONCE
from mirror.errors import MirrorError, MissingBlob
from tests.blobs.conftest import Stores
from tests.blobs.test_contract import content, everything, sha256
from tests.blobs.test_objects_served import blobs_of, node, path_of
from tests.builders import noise, wheel
from tests.contract.pypi import eventually, settled
from tests.objects_faults import FaultyStore, faulty_s3
from tests.simulator import Simulator
from tests.simulator.faults import Corrupt, Stall

LARGE = noise(2 * PART_BYTES + 17, "growing")
BUILT = wheel("growing", "1.0", size=2 * PART_BYTES + 1_000_000)


@pytest.fixture
async def store() -> AsyncIterator[FaultyStore]:
    async with faulty_s3() as proxy:
        yield proxy


def requests(store: FaultyStore) -> Counter[str]:
    """How often parts of an upload were begun, sent, put together and aborted."""
    found = Counter[str]()
    for line in store.paths:
        if BUILT.sha256 in line:
            found["begun"] += line.startswith("POST") and "uploads" in line.partition("?")[2]
            found["parts"] += line.startswith("PUT") and "partNumber" in line
            found["whole"] += line.startswith("POST") and "uploadId" in line
            found["aborted"] += line.startswith("DELETE") and "uploadId" in line
    return found


async def test_what_grows_is_a_blob_for_every_node_once_it_is_finished_and_not_before(stores: Stores) -> None:
    here, there = stores.open("a"), stores.open("b")
    digest, path = sha256(LARGE), here.incoming / "growing.part"
    growing = here.begin(path, digest, len(LARGE), 1_500_000_000)
    if growing is None:
        assert stores.kind == "directory"
        return
    path.write_bytes(LARGE[: PART_BYTES + 5])
    growing.grow(PART_BYTES + 5)
    await asyncio.sleep(0.1)
    assert await there.find(digest) is None
    path.write_bytes(LARGE)
    growing.grow(len(LARGE))
    await asyncio.sleep(0.1)
    assert await there.find(digest) is None
    held = await growing.finish()
    assert (held.digest, held.size, path.read_bytes()) == (digest, len(LARGE), LARGE)
    growing.abandon()  # which is too late
    body = await there.open(digest)
    assert (await content(body), body.modified) == (LARGE, "Fri, 14 Jul 2017 02:40:00 GMT")
    await here.keep_copy(path, digest)
    kept = await here.open(digest)
    assert (path.exists(), kept.path is not None) == (False, True)
    assert await content(kept) == LARGE


async def test_what_is_abandoned_or_ends_early_is_no_blob(stores: Stores) -> None:
    if stores.kind == "directory":
        pytest.skip("what is here need not be sent")
    store = stores.open()
    path = store.incoming / "growing.part"
    for whole in (False, True):
        path.write_bytes(LARGE[: PART_BYTES + 1])
        growing = store.begin(path, sha256(LARGE), len(LARGE), 0)
        assert growing is not None
        growing.grow(PART_BYTES + 1)
        await asyncio.sleep(0.05)
        if whole:
            path.unlink()  # what was sent cannot be completed
            with pytest.raises(MirrorError):
                await growing.finish()
        growing.abandon()
    await store.close()
    assert await everything(store) == []


async def test_only_a_digest_begins(stores: Stores) -> None:
    store = stores.open()
    if stores.kind != "directory":
        with pytest.raises(MissingBlob):
            store.begin(store.incoming / "x", "../../x", 1, 0)


async def test_more_uploads_than_may_be_sent_at_once_are_stored_at_their_end(
    store: FaultyStore, tmp_path: Path
) -> None:
    from mirror.config import Settings
    from mirror.service.blobs import blob_store
    from tests.blobs.conftest import MemoryNumbers

    settings = Settings.model_validate({"data_dir": str(tmp_path), "blobs": store.table})
    blobs = blob_store(settings, MemoryNumbers())
    assert isinstance(blobs, ObjectBlobs)
    contents = [noise(PART_BYTES + 10, str(number)) for number in range(GROWING_AT_ONCE + 1)]
    begun = []
    for number, data in enumerate(contents):
        path = blobs.incoming / f"{number}.part"
        path.write_bytes(data)
        growing = blobs.begin(path, sha256(data), len(data), 0)
        growing.grow(len(data))
        begun.append(growing)
    await asyncio.gather(*(growing.finish() for growing in reversed(begun)))
    for data in contents:
        assert await content(await blobs.open_stored(sha256(data))) == data
    await blobs.close()


async def test_a_file_is_sent_while_it_comes_and_is_an_object_at_its_end(
    simulator: Simulator, store: FaultyStore, tmp_path: Path
) -> None:
    simulator.publish(BUILT)
    stalled = simulator.inject(f"*/{BUILT.filename}", Stall(after=2 * PART_BYTES + 500_000))

    async def parts_sent() -> bool:
        return requests(store)["parts"] == 2

    async with node(tmp_path / "a", simulator, store) as mirror:
        getting = asyncio.create_task(mirror.get(path_of(BUILT)))
        await eventually(parts_sent)
        assert requests(store)["whole"] == 0
        stalled.release()
        assert (await getting).body == BUILT.content
        await settled(mirror)
        assert requests(store) == {"begun": 1, "parts": 3, "whole": 1, "aborted": 0}
        assert (await mirror.get(path_of(BUILT), User_Agent="another")).outcome == "hit"
        stored = await blobs_of(mirror).open_stored(BUILT.sha256)
        assert await content(stored) == BUILT.content


@pytest.mark.parametrize("fault", ["another digest", "a store that fails"])
async def test_what_was_sent_of_a_file_is_aborted_where_its_bytes_are_wrong_and_sent_again_where_it_failed(
    simulator: Simulator, store: FaultyStore, tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    simulator.publish(BUILT)
    async with node(tmp_path / "a", simulator, store) as mirror:
        if fault == "another digest":
            simulator.inject(f"*/{BUILT.filename}", Corrupt(-5_000), times=1)
            with pytest.raises(aiohttp.ClientPayloadError):
                await mirror.get(path_of(BUILT))
            await settled(mirror)

            async def aborted() -> bool:
                return requests(store)["aborted"] == 1

            await eventually(aborted)
            assert requests(store)["whole"] == 0
            assert await blobs_of(mirror).client.head(f"blobs/{BUILT.sha256[:2]}/{BUILT.sha256}") is None
        else:
            refused = iter([True] * 3)  # with its repetitions
            store.fail = lambda method, path: method == "POST" and next(refused, False)
        assert (await mirror.get(path_of(BUILT))).body == BUILT.content
        await settled(mirror)
        assert requests(store)["whole"] == 1
        assert await content(await blobs_of(mirror).open_stored(BUILT.sha256)) == BUILT.content
