"""What every blob store promises: a directory, and the object stores with their cache."""

import asyncio
import hashlib
import os
import time
from pathlib import Path

import pytest

from mirror.blobs import BlobStore, SmallBlob, StoredBlob, beginnings
from mirror.errors import MissingBlob
from mirror.model import Body
from tests.blobs.conftest import Stores
from tests.builders import noise

LARGE = noise(6 * 1024 * 1024 + 17, "large")
"""More than one part of an upload in parts."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def content(body: Body, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in body.read(start, stop)])


async def everything(store: BlobStore) -> list[StoredBlob]:
    return [held async for held in store.walk()]


def incoming(store: BlobStore, data: bytes, name: str = "upload") -> Path:
    path = store.incoming / name
    path.write_bytes(data)
    os.utime(path, (1_500_000_000, 1_500_000_000))
    return path


@pytest.mark.parametrize("data", [b"", b"data", noise(70_000), LARGE], ids=["none", "few", "some", "many"])
async def test_what_is_adopted_is_read_back_in_any_range_by_every_node(stores: Stores, data: bytes) -> None:
    here, there = stores.open("a"), stores.open("b")
    path = incoming(here, data)
    held = await here.adopt(path, sha256(data))
    assert (held.digest, held.size, path.exists()) == (sha256(data), len(data), False)
    for store in (here, there):
        body = await store.open(held.digest)
        assert (body.size, body.digest) == (len(data), held.digest)
        assert body.modified == "Fri, 14 Jul 2017 02:40:00 GMT"
        half, size = len(data) // 2, len(data)
        for start, stop in [
            (0, None),
            (0, 1),
            (5, 5),
            (half, None),
            (max(0, size - 1), None),
            (size, None),
            (9, 10**9),
        ]:
            assert await content(body, start, stop) == data[start:stop]
        assert await content(await store.open_stored(held.digest)) == data


async def test_adopting_may_be_repeated_by_any_node(stores: Stores) -> None:
    here, there = stores.open("a"), stores.open("b")
    for store in (here, there, here):
        path = incoming(store, LARGE)
        assert (await store.adopt(path, sha256(LARGE))).size == len(LARGE)
        assert not path.exists()
    assert (await here.adopt(here.incoming / "upload", sha256(LARGE))).size == len(LARGE)  # which is there no more
    assert [held.digest for held in await everything(there)] == [sha256(LARGE)]


async def test_many_that_store_the_same_blob_at_once_all_succeed(stores: Stores) -> None:
    here, there = stores.open("a"), stores.open("b")
    paths = [(store, incoming(store, b"same", f"{n}")) for n in range(4) for store in (here, there)]
    await asyncio.gather(*(store.adopt(path, sha256(b"same")) for store, path in paths))
    assert [held.digest for held in await everything(here)] == [sha256(b"same")]
    assert not list(here.incoming.iterdir())


async def test_adopting_what_is_not_there_is_an_error(store: BlobStore) -> None:
    with pytest.raises(MissingBlob):
        await store.adopt(store.incoming / "nothing", "0" * 64)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 63 + "/", "\0" * 64])
async def test_only_a_digest_becomes_a_name(store: BlobStore, digest: str) -> None:
    path = incoming(store, b"data")
    assert await store.find(digest) is None
    assert not await store.is_labelled(digest, "source")
    for work in (store.open(digest), store.open_stored(digest), store.adopt(path, digest), store.delete(digest)):
        with pytest.raises(MissingBlob):
            await work
    with pytest.raises(MissingBlob):
        await store.store_all([SmallBlob(content=b"a", digest=digest)])
    assert path.read_bytes() == b"data"
    assert await everything(store) == []


async def test_what_is_written_can_be_deleted_and_written_again(store: BlobStore) -> None:
    for _ in range(2):
        held = await store.write(b"sidecar")
        assert await content(await store.open(held.digest)) == b"sidecar"
        await store.delete(held.digest)
        await store.delete(held.digest)
        assert await store.find(held.digest) is None
        with pytest.raises(MissingBlob):
            await store.open(held.digest)
        assert await everything(store) == []


async def test_a_deleted_blob_is_missing_also_for_who_has_opened_it(store: BlobStore) -> None:
    held = await store.write(b"data")
    body = await store.open(held.digest)
    await store.delete(held.digest)
    with pytest.raises(MissingBlob):
        await content(body)


async def test_many_small_ones_are_stored_together(stores: Stores) -> None:
    here, there = stores.open("a"), stores.open("b")
    parts = [
        SmallBlob(content=data, digest=sha256(data), date=1_500_000_000, label=("source", f"{n}"))
        for n, data in enumerate(noise(100 + n, str(n)) for n in range(40))
    ]
    await here.write(b"another")
    held = await here.store_all([*parts, parts[2]])
    assert [one.digest for one in held] == [one.digest for one in (*parts, parts[2])]
    await here.store_all(parts[:1])
    assert {one.digest for one in await everything(there)} == {sha256(b"another"), *(one.digest for one in parts)}
    for number, one in enumerate(parts):
        for store in (here, there):
            body = await store.open(one.digest)
            assert (await content(body), body.modified) == (one.content, "Fri, 14 Jul 2017 02:40:00 GMT")
        assert await there.is_labelled(one.digest, "source", str(number))


async def test_a_label_stays_with_the_blob_and_goes_with_it(stores: Stores) -> None:
    here, there = stores.open("a"), stores.open("b")
    held = await here.write(b"data")
    await here.label(held.digest, "one source", "file")
    await here.label(held.digest, "another")
    await here.label("0" * 64, "one source")  # which is not here
    await here.close()
    assert await there.is_labelled(held.digest, "one source", "file")
    assert await there.is_labelled(held.digest, "another")
    assert not await there.is_labelled(held.digest, "a third")
    assert not await there.is_labelled("0" * 64, "one source")
    await here.delete(held.digest)
    await here.write(b"data")
    assert not await there.is_labelled(held.digest, "another")


async def test_a_withdrawn_blob_is_not_found_until_it_is_restored(stores: Stores) -> None:
    here, there = stores.open("a"), stores.open("b")
    kept, gone = await here.write(b"kept"), await here.write(b"gone")
    for one in (kept, gone):
        await here.withdraw(one.digest)
        assert await here.find(one.digest) is None
    assert sorted(await there.withdrawn()) == sorted([kept.digest, gone.digest])
    await here.restore(kept.digest)
    await here.discard(gone.digest)
    assert await there.withdrawn() == []
    assert await content(await here.open(kept.digest)) == b"kept"
    assert [one.digest for one in await everything(there)] == [kept.digest]
    assert await stores.open("c").find(gone.digest) is None


async def test_who_stores_a_blob_that_is_just_going_keeps_it(stores: Stores) -> None:
    here, there = stores.open("a"), stores.open("b")
    held = await here.write(b"data")
    await here.withdraw(held.digest)
    storing = asyncio.create_task(there.write(b"data"))
    done, _ = await asyncio.wait([storing], timeout=0.5)
    await here.discard(held.digest)
    await storing
    assert await content(await stores.open("c").open(held.digest)) == b"data"
    assert bool(done) == (stores.kind == "directory")  # which moves away what goes


async def test_a_damaged_blob_is_set_aside_and_can_be_stored_again(store: BlobStore) -> None:
    held = await store.write(b"data")
    await store.set_aside(held.digest)
    await store.set_aside(held.digest)
    assert await store.find(held.digest) is None
    assert await everything(store) == []
    await store.write(b"data")
    assert await content(await store.open(held.digest)) == b"data"


async def test_the_start_cleans_what_was_left_unfinished_and_keeps_the_rest(store: BlobStore) -> None:
    held = await store.write(b"data")
    (store.incoming / "a.part").write_bytes(b"half")
    assert await store.clean_incoming() == 1
    assert list(store.incoming.iterdir()) == []
    assert [one.digest for one in await everything(store)] == [held.digest]


async def test_a_store_is_listed_in_parts_and_asked_about_a_few(stores: Stores) -> None:
    store = stores.open("a")
    held = [await store.write(b"%d" % number) for number in range(40)]
    for count in (0, 10_000, 1_000_000):
        parts = {beginning: await store.digests(beginning) for beginning in beginnings(count)}
        assert sorted(digest for part in parts.values() for digest in part) == sorted(one.digest for one in held)
        assert all(digest.startswith(beginning) for beginning, part in parts.items() for digest in part)
    found = await store.stored([held[3].digest, sha256(b"not there"), held[7].digest])
    assert [(one.digest, one.size) for one in found] == [(held[3].digest, 1), (held[7].digest, 1)]
    assert all(abs(one.stored - time.time()) < 3600 for one in found)
