"""The directory tree of blobs: what is held stays whole, and nothing but a digest ever becomes a path."""

import errno
import hashlib
import os
import sys
from pathlib import Path

import pytest

from mirror.blobs import SmallBlob, StoredBlob
from mirror.blobs.bulk import DIRTY_BYTES, MANY_FILES, SYNCFS_FILES, dirty_bytes, sync_together
from mirror.blobs.local import CHUNK_BYTES, LocalBlobs
from mirror.errors import MissingBlob, StorageFull
from mirror.model import Body
from tests.builders import noise


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> LocalBlobs:
    return LocalBlobs(tmp_path)


async def content(body: Body, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in body.read(start, stop)])


async def everything(blobs: LocalBlobs) -> list[StoredBlob]:
    return [held async for held in blobs.walk()]


async def test_what_is_written_is_read_back_in_any_range(blobs: LocalBlobs) -> None:
    data = noise(CHUNK_BYTES * 2 + 17)
    held = await blobs.write(data)
    body = await blobs.open(held.digest)
    assert (held.digest, held.size, body.size, body.digest) == (sha256(data), len(data), len(data), sha256(data))
    ranges = [
        (0, None),
        (0, 1),
        (5, 5),
        (CHUNK_BYTES - 1, CHUNK_BYTES + 1),
        (len(data) - 1, None),
        (len(data), None),
        (9, 10**9),
    ]
    for start, stop in ranges:
        assert await content(body, start, stop) == data[start:stop]


async def test_adopting_moves_the_file_in_and_may_be_repeated(blobs: LocalBlobs, tmp_path: Path) -> None:
    path = blobs.incoming / "upload"
    path.write_bytes(b"data")
    first = await blobs.adopt(path, sha256(b"data"))
    assert not path.exists()
    assert await blobs.adopt(path, sha256(b"data")) == first
    path.write_bytes(b"data")
    await blobs.adopt(path, sha256(b"data"))
    assert not path.exists()
    assert [held.digest for held in await everything(blobs)] == [sha256(b"data")]
    assert (tmp_path / "blobs" / sha256(b"data")[:2] / sha256(b"data")).read_bytes() == b"data"


async def test_a_label_stays_with_the_blob_whoever_brings_it_again(blobs: LocalBlobs) -> None:
    held = await blobs.write(b"data")
    await blobs.label(held.digest, "one source")
    await blobs.label(held.digest, "another")
    await blobs.label("0" * 64, "one source")  # which is not here
    again = LocalBlobs(blobs.incoming.parent)
    assert await again.is_labelled(held.digest, "one source")
    assert await again.is_labelled(held.digest, "another")
    assert not await again.is_labelled(held.digest, "a third")
    assert not await again.is_labelled("0" * 64, "one source")
    await blobs.delete(held.digest)
    await blobs.write(b"data")
    assert not await again.is_labelled(held.digest, "one source")


async def test_blobs_that_are_stored_together_have_their_labels(blobs: LocalBlobs) -> None:
    kept = await blobs.write(b"kept")
    new = sha256(b"new")
    await blobs.store_all([
        SmallBlob(content=b"new", digest=new, label=("a source", "file")),
        SmallBlob(content=b"kept", digest=kept.digest, label=("a source", "file")),
    ])  # fmt: skip
    assert await blobs.is_labelled(new, "a source", "file")
    assert await blobs.is_labelled(kept.digest, "a source", "file")


async def test_adopting_what_is_not_there_is_an_error(blobs: LocalBlobs) -> None:
    with pytest.raises(MissingBlob):
        await blobs.adopt(blobs.incoming / "nothing", "0" * 64)


@pytest.mark.parametrize(
    "digest", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n", "\u0665" * 64, "a" * 63 + "/", "\0" * 64]
)
async def test_only_a_digest_reaches_the_file_system(blobs: LocalBlobs, digest: str) -> None:
    path = blobs.incoming / "upload"
    path.write_bytes(b"data")
    with pytest.raises(MissingBlob):
        await blobs.open(digest)
    with pytest.raises(MissingBlob):
        await blobs.adopt(path, digest)
    with pytest.raises(MissingBlob):
        await blobs.delete(digest)
    assert path.read_bytes() == b"data"


async def test_a_blob_that_a_power_failure_emptied_is_missing(blobs: LocalBlobs, tmp_path: Path) -> None:
    held = await blobs.write(b"data")
    (tmp_path / "blobs" / held.digest[:2] / held.digest).write_bytes(b"")
    with pytest.raises(MissingBlob):
        await blobs.open(held.digest)
    await blobs.write(b"data")
    assert await content(await blobs.open(held.digest)) == b"data"


async def test_a_blob_that_vanished_is_missing_also_for_who_has_opened_it(blobs: LocalBlobs) -> None:
    held = await blobs.write(b"data")
    body = await blobs.open(held.digest)
    await blobs.delete(held.digest)
    await blobs.delete(held.digest)
    with pytest.raises(MissingBlob):
        await blobs.open(held.digest)
    with pytest.raises(MissingBlob):
        await content(body)


async def test_a_shortened_blob_never_ends_cleanly(blobs: LocalBlobs, tmp_path: Path) -> None:
    held = await blobs.write(noise(5000))
    body = await blobs.open(held.digest)
    os.truncate(tmp_path / "blobs" / held.digest[:2] / held.digest, 4000)
    with pytest.raises(MissingBlob):
        await content(body)


async def test_the_start_cleans_what_was_left_unfinished_and_keeps_the_rest(blobs: LocalBlobs) -> None:
    held = await blobs.write(b"data")
    (blobs.incoming / "a.part").write_bytes(b"half")
    (blobs.incoming / "b.part").write_bytes(b"")
    again = LocalBlobs(blobs.incoming.parent)
    assert await again.clean_incoming() == 2
    assert list(blobs.incoming.iterdir()) == []
    assert await everything(again) == [held]


async def test_walking_leaves_out_what_is_no_blob(blobs: LocalBlobs, tmp_path: Path) -> None:
    held = [await blobs.write(bytes([number])) for number in range(20)]
    (tmp_path / "blobs" / "lost+found").mkdir()
    (tmp_path / "blobs" / "README").write_text("not ours")
    (tmp_path / "blobs" / held[0].digest[:2] / "notes.txt").write_text("not ours")
    assert sorted(await everything(blobs), key=lambda one: one.digest) == sorted(held, key=lambda one: one.digest)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_says_so_and_leaves_nothing(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def full(fd: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull):
        await blobs.write(b"data")
    assert list(blobs.incoming.iterdir()) == []
    assert await everything(blobs) == []


async def test_a_file_system_that_cannot_tell_what_is_cached_is_read_all_the_same(
    blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    held = await blobs.write(b"data")
    monkeypatch.setattr(os, "preadv", unsupported)
    assert await content(await blobs.open(held.digest)) == b"data"


def small(content: bytes, date: int | None = None) -> SmallBlob:
    return SmallBlob(content=content, digest=sha256(content), date=date)


@pytest.mark.parametrize(
    ("files", "dirty", "together"),
    [
        (SYNCFS_FILES - 1, 0, False),
        (SYNCFS_FILES, DIRTY_BYTES, True),
        (MANY_FILES - 1, DIRTY_BYTES + 1, False),
        (MANY_FILES, DIRTY_BYTES + 1, True),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="syncfs is a call of Linux")
def test_few_files_do_not_wait_for_what_others_have_to_write(files: int, dirty: int, together: bool) -> None:
    assert sync_together(files, lambda: dirty) == together
    assert 0 <= dirty_bytes() < 1 << 50


@pytest.mark.parametrize("count", [3, MANY_FILES + 8], ids=["a few", "many"])
async def test_many_are_stored_at_once_and_each_is_a_blob_like_any_other(
    blobs: LocalBlobs, tmp_path: Path, count: int
) -> None:
    parts = [small(noise(100 + n, str(n)), date=1_500_000_000) for n in range(count)]
    await blobs.write(parts[0].content)
    broken = tmp_path / "blobs" / parts[1].digest[:2] / parts[1].digest
    broken.parent.mkdir(exist_ok=True)
    broken.touch()  # what a power failure leaves behind is replaced
    held = await blobs.store_all([*parts, parts[2]])
    (again,) = await blobs.store_all(parts[:1])
    assert again.digest == parts[0].digest
    assert [one.digest for one in held] == [one.digest for one in (*parts, parts[2])]
    for one in parts:
        body = await blobs.open(one.digest)
        assert await content(body) == one.content
    assert body.modified == "Fri, 14 Jul 2017 02:40:00 GMT"
    assert list(blobs.incoming.iterdir()) == []


async def test_a_full_disk_leaves_nothing_of_many(blobs: LocalBlobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: object, target: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageFull):
        await blobs.store_all([small(b"a"), small(b"b")])
    assert list(blobs.incoming.iterdir()) == []
    assert await everything(blobs) == []


async def test_a_digest_that_is_none_never_becomes_a_path(blobs: LocalBlobs) -> None:
    with pytest.raises(MissingBlob):
        await blobs.store_all([SmallBlob(content=b"a", digest="../../a")])
    assert await everything(blobs) == []
