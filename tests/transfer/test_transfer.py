"""Transfers: read while they grow, verified before they end, resumed, and never stored wrong."""

import asyncio
import errno
import gc
import hashlib
import os
import random
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from yarl import URL

from mirror.blobs import StoredBlob
from mirror.blobs.local import LocalBlobs
from mirror.errors import (
    DigestMismatch,
    MissingBlob,
    NotFound,
    StorageFull,
    Unavailable,
    UpstreamProtocolError,
    UpstreamUnavailable,
)
from mirror.model import Body, File
from mirror.transfer import TAIL_BYTES, GrowingBody, KeptBody, Transfers
from mirror.transfer import growing as module
from mirror.transfer.growing import WINDOW_BYTES
from mirror.upstream import SlowBody, Upstream, UpstreamOptions
from tests.builders import noise, sdist, wheel
from tests.file_server import LAST_MODIFIED, FileServer
from tests.simulator import Chunked, Corrupt, Cut, Drip, Headers, IgnoreRange, RotateEtag, Stall, Status, Truncate

FILE = "/files/it.whl"
NO_ARCHIVE = "/files/it.bin"
BIG = noise(3_000_000)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  # there is nothing to wait for but the state itself
            await asyncio.sleep(0.01)


class TransferStage:
    """Transfers from a file server to a store, with what became held."""

    def __init__(
        self, file_server: FileServer, blobs: LocalBlobs, *, limit: int = 1 << 30, read_timeout: float = 30
    ) -> None:
        self.file_server, self.blobs = file_server, blobs
        self.upstream = Upstream("s", URL(file_server.url), UpstreamOptions(read_timeout=read_timeout))
        self.transfers = Transfers(blobs, limit=limit)
        self.held: list[StoredBlob] = []

    async def open(self, file: File, early: bool = False) -> tuple[GrowingBody, bool]:
        async def record(held: StoredBlob) -> None:
            self.held.append(held)

        return await self.transfers.open(file, self.upstream, record, early)

    async def fetch(self, file: File) -> bytes:
        return await content((await self.open(file))[0])

    async def settled(self) -> None:
        """Wait until no transfer runs."""
        await until(lambda: not self.transfers.active())

    def leftovers(self) -> list[Path]:
        return list(self.blobs.incoming.iterdir())

    async def stored(self) -> list[str]:
        return [held.digest async for held in self.blobs.walk()]

    async def close(self) -> None:
        await self.transfers.close(0)
        await self.upstream.close()


@pytest.fixture
async def file_server() -> AsyncIterator[FileServer]:
    async with FileServer() as running:
        yield running


@pytest.fixture
async def stage(file_server: FileServer, tmp_path: Path) -> AsyncIterator[TransferStage]:
    stage = TransferStage(file_server, LocalBlobs(tmp_path))
    yield stage
    await stage.close()
    assert stage.leftovers() == []


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait between two attempts."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.005)


async def content(body: Body, start: int = 0, stop: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in body.read(start, stop)])


async def read_into(body: Body, seen: bytearray) -> None:
    async for chunk in body.read():
        seen += chunk


# Following


async def test_twenty_clients_share_one_request(stage: TransferStage) -> None:
    file = stage.file_server.file(BIG)
    opened = await asyncio.gather(*(stage.open(file) for _ in range(20)))
    assert [joined for _, joined in opened] == [False] + [True] * 19
    assert all(data == BIG for data in await asyncio.gather(*(content(body) for body, _ in opened)))
    assert stage.file_server.count() == 1
    assert await stage.stored() == [file.sha256]
    assert [(held.digest, held.size) for held in stage.held] == [(file.sha256, len(BIG))]


async def test_first_bytes_are_readable_while_the_rest_is_still_at_the_upstream(stage: TransferStage) -> None:
    stalled = stage.file_server.inject(FILE, Stall(after=1000))
    body, _ = await stage.open(stage.file_server.file(BIG))
    reading = body.read()
    assert await anext(reading) == BIG[:1000]
    assert (body.size, body.path, stage.held) == (len(BIG), None, [])
    stalled.release()
    assert b"".join([chunk async for chunk in reading]) == BIG[1000:]
    assert body.path
    assert body.path.read_bytes() == BIG


async def test_the_end_of_a_large_file_waits_for_its_digest_and_not_for_the_disk(
    stage: TransferStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.transfer.transfer.PROMPT_END_BYTES", len(BIG))
    adopt, may_adopt = stage.blobs.adopt, asyncio.Event()

    async def slow(path: Path, digest: str) -> StoredBlob:
        await may_adopt.wait()
        return await adopt(path, digest)

    monkeypatch.setattr(stage.blobs, "adopt", slow)
    file = stage.file_server.file(BIG)
    body, _ = await stage.open(file)
    keeping = asyncio.create_task(content(KeptBody(body)))
    assert await content(body) == BIG
    assert stage.held == []
    late, joined = await stage.open(file)
    assert joined
    assert await content(late) == BIG
    assert not keeping.done()  # who counts on it being held still waits
    may_adopt.set()
    assert await keeping == BIG
    assert [held.digest for held in stage.held] == [file.sha256]


async def test_in_a_store_of_several_nodes_the_end_waits_for_it_and_comes_in_small_pieces(
    stage: TransferStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.transfer.transfer.PROMPT_END_BYTES", len(BIG))
    monkeypatch.setattr("mirror.transfer.transfer.MORE_SECONDS", 0.001)
    monkeypatch.setattr(stage.blobs, "is_shared", True)
    adopt, may_adopt = stage.blobs.adopt, asyncio.Event()

    async def slow(path: Path, digest: str) -> StoredBlob:
        await may_adopt.wait()
        return await adopt(path, digest)

    monkeypatch.setattr(stage.blobs, "adopt", slow)
    body, _ = await stage.open(stage.file_server.file(BIG))
    got = bytearray()
    reading = asyncio.create_task(read_into(body, got))
    async with asyncio.timeout(10):
        while len(got) < len(BIG) - 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert (bytes(got), stage.held, reading.done()) == (BIG[:-1], [], False)
    may_adopt.set()
    await reading
    assert bytes(got) == BIG
    assert len(stage.held) == 1


async def test_client_that_leaves_changes_nothing(stage: TransferStage) -> None:
    stalled = stage.file_server.inject(FILE, Stall(after=1_000_000))
    file = stage.file_server.file(BIG)
    (one, _), (other, _) = await stage.open(file), await stage.open(file)
    killed = asyncio.create_task(read_into(one, bytearray()))
    staying = asyncio.create_task(content(other))
    await stage.file_server.until(lambda: stage.file_server.bytes_sent() >= 1_000_000)
    killed.cancel()
    stalled.release()
    assert await staying == BIG
    assert stage.file_server.count() == 1


async def test_download_goes_on_when_all_clients_have_left(stage: TransferStage) -> None:
    file = stage.file_server.file(BIG)
    body, _ = await stage.open(file)
    reading = body.read()
    await anext(reading)
    await reading.aclose()  # type: ignore[attr-defined]
    await stage.settled()
    assert await stage.stored() == [file.sha256]
    assert len(stage.held) == 1


async def test_any_range_of_a_growing_file_equals_the_slice(stage: TransferStage) -> None:
    stage.file_server.inject(FILE, Drip(piece=150_000, pause=0.005))
    body, _ = await stage.open(stage.file_server.file(BIG))
    chance = random.Random(1)
    edges = [0, 1, len(BIG) - TAIL_BYTES - 1, len(BIG) - TAIL_BYTES, len(BIG) - 1, len(BIG), WINDOW_BYTES]
    ranges: list[tuple[int, int | None]] = [(start, stop) for start in edges for stop in [*edges, None]]
    ranges += [(chance.randrange(len(BIG)), chance.randrange(len(BIG) + 10)) for _ in range(100)]

    async def compare(start: int, stop: int | None) -> None:
        await asyncio.sleep(chance.random() * 0.1)
        assert await content(body, start, stop) == BIG[start:stop]

    await asyncio.gather(*(compare(start, stop) for start, stop in ranges))
    assert stage.file_server.count() == 1


async def test_a_late_reader_reads_from_the_beginning(stage: TransferStage) -> None:
    stalled = stage.file_server.inject(FILE, Stall(after=2_500_000))
    file = stage.file_server.file(BIG)
    await stage.open(file)
    await stage.file_server.until(lambda: stage.file_server.bytes_sent() >= 2_500_000)
    body, joined = await stage.open(file)
    stalled.release()
    assert joined
    assert await content(body) == BIG


async def test_dates_and_size_are_the_same_on_a_miss_and_on_a_hit(stage: TransferStage) -> None:
    named = stage.file_server.file(BIG, uploaded=datetime(2024, 2, 29, 12, 30, 15, 999, tzinfo=UTC))
    other = stage.file_server.file(noise(200_000), "other.whl")
    for file, date in ((named, "Thu, 29 Feb 2024 12:30:15 GMT"), (other, LAST_MODIFIED)):
        miss, _ = await stage.open(file)
        assert miss.modified == date
        await content(miss)
        hit = await stage.blobs.open(file.sha256 or "")
        assert (hit.modified, hit.size, hit.digest) == (miss.modified, miss.size, miss.digest)


async def test_bytes_that_the_store_has_are_not_given_for_a_digest_alone(stage: TransferStage) -> None:
    file = stage.file_server.file(BIG)
    await stage.blobs.write(BIG)
    body, joined = await stage.open(file)
    assert not joined
    assert await content(body) == BIG
    assert stage.file_server.count() == 1
    await stage.settled()
    assert await stage.stored() == [file.sha256]


async def test_a_damaged_blob_of_another_length_is_fetched_again(stage: TransferStage, tmp_path: Path) -> None:
    file = stage.file_server.file(BIG)
    held = await stage.blobs.write(BIG)
    os.truncate(tmp_path / "blobs" / held.digest[:2] / held.digest, 1000)
    assert await stage.fetch(file) == BIG
    assert await content(await stage.blobs.open(held.digest)) == BIG


async def test_two_names_of_a_source_with_the_same_bytes_share_one_transfer(stage: TransferStage) -> None:
    stalled = stage.file_server.inject(FILE, Stall(after=1000))
    file = stage.file_server.file(BIG)
    other = File(filename="other.whl", version="1", digests=file.digests, url=file.url, size=file.size, source="s")
    await stage.open(file)
    body, joined = await stage.open(other)
    await stage.open(other)
    stalled.release()
    assert joined
    await content(body)
    await stage.settled()
    assert [held.digest for held in stage.held] == [file.sha256] * 2


async def test_no_one_waits_for_what_another_source_is_slow_to_send(stage: TransferStage) -> None:
    stage.file_server.inject("/files/slow.whl", Stall(after=1000))
    slow = msgspec.structs.replace(stage.file_server.file(BIG, "slow.whl"), source="slow")
    await stage.open(slow)
    body, joined = await stage.open(stage.file_server.file(BIG))
    assert not joined
    assert await content(body) == BIG


async def test_a_catalog_that_fails_does_not_spoil_the_file(
    stage: TransferStage, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(held: StoredBlob) -> None:
        raise RuntimeError("no catalog")

    body, _ = await stage.transfers.open(stage.file_server.file(BIG), stage.upstream, broken)
    assert await content(body) == BIG
    assert "could not be recorded in the catalog" in caplog.text


# Nothing wrong


async def expect_nothing_kept(stage: TransferStage) -> None:
    await stage.settled()
    assert await stage.stored() == []
    assert stage.held == []
    assert stage.leftovers() == []


@pytest.mark.parametrize("offset", [0, 1_500_000, -1])
async def test_a_wrong_byte_ends_short_for_everybody_and_the_next_one_starts_anew(
    stage: TransferStage, offset: int
) -> None:
    stage.file_server.inject(FILE, Corrupt(offset), times=1)
    file = stage.file_server.file(BIG)
    opened = await asyncio.gather(*(stage.open(file) for _ in range(3)))
    for body, _ in opened:
        seen = bytearray()
        with pytest.raises(DigestMismatch):
            await read_into(body, seen)
        assert len(seen) <= len(BIG) - TAIL_BYTES
    await expect_nothing_kept(stage)
    assert await stage.fetch(file) == BIG
    assert stage.file_server.count() == 2


async def test_a_small_wrong_file_is_refused_before_its_first_byte(stage: TransferStage) -> None:
    stage.file_server.inject(FILE, Corrupt())
    with pytest.raises(DigestMismatch) as caught:
        await stage.open(stage.file_server.file(b"small"))
    assert caught.value.algorithm == "sha256"
    await expect_nothing_kept(stage)


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha512", "blake2b_256"])
async def test_every_promised_digest_is_compared(stage: TransferStage, algorithm: str) -> None:
    digests = {"sha256": hashlib.sha256(BIG).hexdigest(), "unknown": "1234", algorithm: "00"}
    with pytest.raises(DigestMismatch) as caught:
        await stage.fetch(stage.file_server.file(BIG, digests=digests))
    assert caught.value.algorithm == algorithm
    await expect_nothing_kept(stage)


async def test_a_size_that_contradicts_the_index_is_refused(stage: TransferStage) -> None:
    stage.file_server.inject(FILE, Truncate(2_000_000))
    with pytest.raises(UpstreamProtocolError, match="2000000 bytes, but 3000000"):
        await stage.open(stage.file_server.file(BIG))
    await expect_nothing_kept(stage)


async def test_more_than_was_promised_is_refused_while_it_comes(stage: TransferStage) -> None:
    file = stage.file_server.file(BIG)
    stage.file_server.put(FILE, BIG + noise(5_000_000))
    stage.file_server.inject(FILE, Chunked())
    with pytest.raises(UpstreamProtocolError, match="more"):
        await stage.fetch(file)
    await expect_nothing_kept(stage)


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_file_of_unknown_size_is_limited(file_server: FileServer, tmp_path: Path, chunked: bool) -> None:
    stage = TransferStage(file_server, LocalBlobs(tmp_path), limit=1_000_000)
    if chunked:
        file_server.inject(FILE, Chunked())
    with pytest.raises(UpstreamProtocolError):
        await stage.open(file_server.file(BIG, sized=False))
    await expect_nothing_kept(stage)
    await stage.close()


@pytest.mark.parametrize("url", ["", "http://[", "file:///etc/passwd", "http://h:99999/it.whl"])
async def test_an_absurd_address_is_the_fault_of_the_index(stage: TransferStage, url: str) -> None:
    with pytest.raises(UpstreamProtocolError, match="not a web address"):
        await stage.open(File(filename="it.whl", version="1", url=url))


async def test_what_the_upstream_refuses_is_raised_at_once(stage: TransferStage) -> None:
    missing = File(
        filename="no.whl", version="1", url=stage.file_server.url + "no.whl", digests={"sha256": "0" * 64}, size=9
    )
    with pytest.raises(NotFound):
        await stage.open(missing)
    file = stage.file_server.file(BIG)
    stage.file_server.inject(FILE, Status(500))
    with pytest.raises(UpstreamUnavailable, match="500"):
        await stage.open(file)
    stage.file_server.heal()
    assert await stage.fetch(file) == BIG


# Files that cannot be shown before they are whole


@pytest.mark.parametrize("digests", [{}, {"md5": hashlib.md5(BIG).hexdigest()}])
async def test_a_file_without_sha256_comes_in_whole_first(stage: TransferStage, digests: dict[str, str]) -> None:
    body, _ = await stage.open(stage.file_server.file(BIG, "it.bin", digests=digests))
    assert (body.digest, body.size) == (hashlib.sha256(BIG).hexdigest(), len(BIG))
    assert body.path
    assert await content(body, 10, 2_000_000) == BIG[10:2_000_000]
    assert [held.digest for held in stage.held] == [body.digest]


async def test_a_file_of_unknown_size_comes_in_whole_first(stage: TransferStage) -> None:
    stage.file_server.inject(FILE, Chunked())
    body, _ = await stage.open(stage.file_server.file(BIG, sized=False))
    assert body.size == len(BIG)
    assert await content(body) == BIG


@pytest.mark.parametrize("sized", [True, False], ids=["sized", "of unknown size"])
@pytest.mark.parametrize("digests", [{}, None], ids=["no digest", "digest"])
async def test_a_large_file_is_read_as_it_comes_without_its_last_bytes(
    stage: TransferStage, sized: bool, digests: dict[str, str] | None
) -> None:
    faults = [] if sized else [stage.file_server.inject(NO_ARCHIVE, Chunked())]
    stalled = stage.file_server.inject(NO_ARCHIVE, Stall(after=1_000_000))
    file = stage.file_server.file(BIG, "it.bin", digests=digests, sized=False)
    body, _ = await stage.open(file, early=True)
    assert body.is_sized == sized
    seen = bytearray()
    reading = asyncio.create_task(read_into(body, seen))
    await until(lambda: len(seen) >= 1_000_000 - TAIL_BYTES)
    assert len(seen) <= 1_000_000
    assert body.path is None
    for fault in (stalled, *faults):
        fault.release()
    await reading
    assert seen == BIG
    assert (body.size, body.digest) == (len(BIG), hashlib.sha256(BIG).hexdigest())
    await stage.settled()
    assert await stage.stored() == [body.digest]


async def test_a_file_that_was_read_and_cannot_be_resumed_ends_short(stage: TransferStage) -> None:
    stage.file_server.inject(NO_ARCHIVE, Cut(after=1_500_000), times=1)
    stage.file_server.inject(NO_ARCHIVE, IgnoreRange())
    body, _ = await stage.open(stage.file_server.file(BIG, "it.bin", digests={}), early=True)
    seen = bytearray()
    with pytest.raises(UpstreamUnavailable, match="broke off"):
        await read_into(body, seen)
    assert 0 < len(seen) <= 1_500_000
    await expect_nothing_kept(stage)


async def test_what_nothing_verifies_is_not_kept_where_the_settings_say_so(
    file_server: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = TransferStage(file_server, LocalBlobs(tmp_path))
    stage.transfers = Transfers(stage.blobs, keeps_unverified=False)
    for digests in ({}, {"sha3_256": "0" * 64}):
        body, _ = await stage.open(file_server.file(BIG, "it.bin", digests=digests))
        assert await content(body) == BIG
        assert await content(body, 5, 10) == BIG[5:10]
    assert "nothing verifies it.bin" in caplog.text
    await stage.settled()
    assert await stage.stored() == []
    assert await stage.fetch(file_server.file(BIG, digests={"md5": hashlib.md5(BIG).hexdigest()})) == BIG
    assert len(await stage.stored()) == 1
    await stage.close()


WHEEL = wheel("it", "1", size=300_000).content
SDIST = sdist("it", "1", size=300_000).content


@pytest.mark.parametrize(
    ("filename", "sent"),
    [
        ("it.whl", b""),
        ("it.whl", b"<!DOCTYPE html><html><body>Please sign in</body></html>"),
        ("it.whl", b'{"error": "quota"}' + b" " * 200_000),
        ("it.whl", SDIST),
        ("it.whl", WHEEL[:-30]),
        ("it.whl", WHEEL[: len(WHEEL) // 2]),
        ("it.tar.gz", b"\n <html>" + b" " * 100_000),
        ("it.tar.gz", WHEEL),
        ("it.tar.gz", SDIST[: len(SDIST) // 2]),
        ("it.gem", b"<html></html>"),
    ],
)
async def test_without_a_digest_what_cannot_be_the_archive_is_refused(
    stage: TransferStage, filename: str, sent: bytes
) -> None:
    stage.file_server.inject("/files/*", Chunked())
    file = stage.file_server.file(sent, filename, digests={}, sized=False)
    with pytest.raises(UpstreamProtocolError, match=r"What 127\.0\.0\.1 sent as"):
        await content((await stage.open(file, early=True))[0])
    await expect_nothing_kept(stage)
    stage.file_server.file(WHEEL if filename.endswith(".whl") else SDIST, filename, digests={}, sized=False)
    if filename != "it.gem":
        assert len(await stage.fetch(file)) > 200_000


@pytest.mark.parametrize("filename", ["it.whl", "it.zip", "it.egg"])
async def test_an_odd_but_whole_archive_is_accepted_without_a_digest(stage: TransferStage, filename: str) -> None:
    odd = WHEEL + b"\n" * 100
    assert await stage.fetch(stage.file_server.file(odd, filename, digests={})) == odd


async def test_an_empty_file_is_not_answered_before_it_is_verified(stage: TransferStage) -> None:
    stage.file_server.put(FILE, b"")
    wrong = File(
        filename="it.whl", version="1", digests={"sha256": "0" * 64}, url=f"{stage.file_server.url}files/it.whl"
    )
    with pytest.raises(DigestMismatch):
        await stage.open(wrong)


# Cut and stalled


async def test_a_cut_download_is_resumed_by_one_request_and_nobody_notices(stage: TransferStage) -> None:
    stage.file_server.inject(FILE, Cut(after=1_500_000), times=1)
    file = stage.file_server.file(BIG)
    opened = await asyncio.gather(*(stage.open(file) for _ in range(20)))
    assert all(data == BIG for data in await asyncio.gather(*(content(body) for body, _ in opened)))
    first, second = stage.file_server.asked()
    assert (first.status, second.status) == (200, 206)
    assert "Range" not in first.headers
    # What was sent may have been lost on the way; what was received is not asked for again.
    start = int(second.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < start <= 1_500_000
    assert second.headers["If-Range"] == stage.file_server.things[FILE].etag  # type: ignore[union-attr]
    assert await stage.stored() == [file.sha256]


async def test_a_stall_is_an_interruption(file_server: FileServer, tmp_path: Path) -> None:
    stage = TransferStage(file_server, LocalBlobs(tmp_path), read_timeout=0.5)
    file_server.inject(FILE, Stall(after=1_000_000), times=1)
    assert await stage.fetch(file_server.file(BIG)) == BIG
    assert [request.headers.get("Range") for request in file_server.asked()][:2] == [None, "bytes=1000000-"]
    await stage.close()


@pytest.mark.parametrize("fault", [IgnoreRange(), RotateEtag()])
async def test_an_upstream_that_cannot_resume_is_read_again_from_the_beginning(
    stage: TransferStage, fault: IgnoreRange
) -> None:
    stage.file_server.inject(FILE, Cut(after=1_500_000), times=1)
    stage.file_server.inject(FILE, fault)
    body, _ = await stage.open(stage.file_server.file(BIG))
    assert await content(body) == BIG
    assert [request.status for request in stage.file_server.asked()] == [200, 200]


@pytest.mark.parametrize("digests", [{}, {"sha3_256": "0" * 64}], ids=["none", "of an unknown algorithm"])
async def test_a_file_without_a_digest_that_can_be_compared_is_never_put_together_from_two(
    stage: TransferStage, digests: dict[str, str]
) -> None:
    stage.file_server.inject(NO_ARCHIVE, Cut(after=1_500_000), times=1)
    stage.file_server.inject(NO_ARCHIVE, RotateEtag())
    file = stage.file_server.file(BIG, "it.bin", digests=digests)
    opening = asyncio.create_task(stage.open(file))
    await stage.file_server.until(lambda: stage.file_server.bytes_sent() >= 1_500_000)
    stage.file_server.put(NO_ARCHIVE, BIG[::-1])
    body, _ = await opening
    assert await content(body) == BIG[::-1]


async def test_a_different_file_after_a_cut_is_a_mismatch(stage: TransferStage) -> None:
    stage.file_server.inject(FILE, Cut(after=1_500_000), times=1)
    file = stage.file_server.file(BIG)
    body, _ = await stage.open(file)
    stage.file_server.put(FILE, BIG[::-1])
    with pytest.raises(DigestMismatch):
        await content(body)
    await expect_nothing_kept(stage)


async def test_an_upstream_that_always_cuts_is_given_up(stage: TransferStage) -> None:
    stage.file_server.inject(FILE, Cut(after=100_000), times=1)
    stage.file_server.inject(FILE, Cut(after=0), skip=1)
    body, _ = await stage.open(stage.file_server.file(BIG))
    with pytest.raises(UpstreamUnavailable):
        await content(body)
    assert stage.file_server.count() < 60
    await expect_nothing_kept(stage)


async def test_an_upstream_that_trickles_is_given_up_after_three_connections(
    stage: TransferStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.upstream.body.RATE_WINDOW_SECONDS", 0.05)
    stage.file_server.inject(FILE, Drip(piece=1, pause=0.01))
    body, _ = await stage.open(stage.file_server.file(BIG))
    with pytest.raises(SlowBody):
        await content(body)
    assert stage.file_server.count() == 3
    await expect_nothing_kept(stage)


async def test_a_part_that_is_not_the_one_asked_for_is_refused(stage: TransferStage) -> None:
    stage.file_server.inject(FILE, Cut(after=1_000_000), times=1)
    stage.file_server.inject(FILE, Headers({"Content-Range": f"bytes 2000000-2999999/{len(BIG)}"}), skip=1)
    body, _ = await stage.open(stage.file_server.file(BIG))
    with pytest.raises(UpstreamProtocolError):
        await content(body)
    await expect_nothing_kept(stage)


async def test_a_sweep_that_withdraws_the_blob_as_it_arrives_is_noticed_by_no_one(
    stage: TransferStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopt = stage.blobs.adopt

    async def withdrawn(path: Path, digest: str) -> StoredBlob:
        blob = await adopt(path, digest)
        await stage.blobs.withdraw(digest)
        return blob

    monkeypatch.setattr(stage.blobs, "adopt", withdrawn)
    file = stage.file_server.file(BIG)
    body, _ = await stage.open(file)
    assert await content(body) == BIG
    await stage.settled()
    assert await content(body, 1_000_000, 1_500_000) == BIG[1_000_000:1_500_000]
    assert [held.digest for held in stage.held] == [file.sha256]  # as what it is needed for, it is put back
    await stage.blobs.restore(file.sha256 or "")
    assert await stage.fetch(file) == BIG


# A full disk


def fill_after(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    def write_at(fd: int, chunk: bytes, offset: int) -> None:
        if offset + len(chunk) > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        os.pwrite(fd, chunk, offset)

    monkeypatch.setattr(module, "write_at", write_at)


@pytest.mark.parametrize("room", [0, 600_000])
async def test_a_full_disk_passes_the_file_on_without_keeping_it(
    stage: TransferStage, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    fill_after(monkeypatch, room)
    content_of_it = noise(8_000_000)
    stalled = stage.file_server.inject(FILE, Stall(after=100_000), times=1)
    file = stage.file_server.file(content_of_it)
    first = await asyncio.gather(*(stage.open(file) for _ in range(3)))
    readings = [asyncio.create_task(content(body)) for body, _ in first]
    await asyncio.sleep(0.05)
    stalled.release()
    assert all(data == content_of_it for data in await asyncio.gather(*readings))
    await expect_nothing_kept(stage)


async def test_who_comes_late_to_a_full_disk_gets_a_transfer_of_their_own(
    stage: TransferStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_after(monkeypatch, 0)
    file = stage.file_server.file(noise(8_000_000))
    early, _ = await stage.open(file)
    reading = early.read()
    await anext(reading)
    late, joined = await stage.open(file)
    assert not joined
    seen = await asyncio.gather(content(late), asyncio.create_task(_rest(reading)))
    assert len(seen[0]) == 8_000_000
    assert stage.file_server.count() == 2


async def _rest(reading: AsyncIterator[bytes]) -> int:
    return sum([len(chunk) async for chunk in reading])


async def test_a_full_disk_holds_little_in_memory_and_waits_for_its_readers(
    stage: TransferStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_after(monkeypatch, 0)
    body, _ = await stage.open(stage.file_server.file(noise(20_000_000)))
    reading = body.read()
    await anext(reading)
    await asyncio.sleep(0.3)
    (state,) = stage.transfers.active()
    assert not state.stored
    assert state.received < 4 * WINDOW_BYTES
    assert await _rest(reading) + 512 * 1024 >= 19_000_000


async def test_a_full_disk_with_nobody_reading_gives_up(stage: TransferStage, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_after(monkeypatch, 0)
    monkeypatch.setattr(module, "READER_WAIT_SECONDS", 0.3)
    body, _ = await stage.open(stage.file_server.file(noise(8_000_000)))
    await stage.settled()
    with pytest.raises(StorageFull):
        await content(body)
    await expect_nothing_kept(stage)


async def test_a_file_without_a_digest_needs_room(stage: TransferStage, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_after(monkeypatch, 600_000)
    with pytest.raises(StorageFull):
        await stage.open(stage.file_server.file(BIG, "it.bin", digests={}))
    await expect_nothing_kept(stage)


async def test_a_disk_that_is_full_at_the_last_moment_still_answers(
    stage: TransferStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def adopt(path: Path, digest: str) -> StoredBlob:
        raise StorageFull("full")

    monkeypatch.setattr(stage.blobs, "adopt", adopt)
    assert await stage.fetch(stage.file_server.file(BIG)) == BIG
    await expect_nothing_kept(stage)


# The end of the server, and what is seen of it


async def test_what_runs_is_seen(stage: TransferStage) -> None:
    stalled = stage.file_server.inject(FILE, Stall(after=1_000_000))
    body, _ = await stage.open(stage.file_server.file(BIG))
    reading = asyncio.create_task(content(body))
    await until(lambda: stage.transfers.active()[0].received >= 1_000_000)
    (state,) = stage.transfers.active()
    assert (state.filename, state.source, state.size, state.readers) == ("it.whl", "s", len(BIG), 1)
    stalled.release()
    await reading
    await stage.settled()


async def test_closing_waits_for_what_is_almost_there(stage: TransferStage) -> None:
    stalled = stage.file_server.inject(FILE, Stall(after=1_000_000))
    file = stage.file_server.file(BIG)
    body, _ = await stage.open(file)
    reading = asyncio.create_task(content(body))
    closing = asyncio.create_task(stage.transfers.close(10))
    await asyncio.sleep(0.01)
    with pytest.raises(Unavailable):
        await stage.open(file)
    stalled.release()
    await closing
    assert await reading == BIG
    assert await stage.stored() == [file.sha256]


async def test_closing_stops_what_is_not_and_tells_its_readers(stage: TransferStage) -> None:
    stage.file_server.inject(FILE, Stall(after=1_000_000))
    body, _ = await stage.open(stage.file_server.file(BIG))
    reading = asyncio.create_task(content(body))
    await asyncio.sleep(0)
    await stage.transfers.close(0)
    with pytest.raises(UpstreamUnavailable):
        await reading
    await expect_nothing_kept(stage)


async def test_no_file_stays_open(stage: TransferStage, tmp_path: Path) -> None:
    assert await stage.fetch(stage.file_server.file(noise(100_000), "right.whl"))
    stage.file_server.inject(FILE, Corrupt())
    with pytest.raises(DigestMismatch):
        await stage.fetch(stage.file_server.file(BIG))
    await stage.settled()
    gc.collect()
    links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert [link for link in links if link.startswith(str(tmp_path))] == []


async def test_a_held_file_that_was_deleted_is_fetched_again(stage: TransferStage) -> None:
    file = stage.file_server.file(BIG)
    await stage.fetch(file)
    await stage.blobs.delete(file.sha256 or "")
    with pytest.raises(MissingBlob):
        await stage.blobs.open(file.sha256 or "")
    assert await stage.fetch(file) == BIG
    assert stage.file_server.count() == 2
