"""Verification: bad blobs are found and fetched again."""

import asyncio
import hashlib
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mirror.service.jobs import verifier
from tests.builders import gem, sdist, wheel
from tests.maintenance.stores import store_of, stored, upload
from tests.serving import Serving, repositories, serving
from tests.simulator import Instead, Simulator


async def verified(mirror: Serving) -> list[Any]:
    store = store_of(mirror)
    await store.database.open()
    try:
        return [state.fault async for state in verifier(mirror.mirror, store, None).verify() if state.fault]
    finally:
        await store.close()


async def test_ten_flipped_bits_are_found_and_mended(tmp_path: Path, simulator: Simulator) -> None:
    built = [wheel("six", f"1.{number}", size=20_000) for number in range(30)]
    for one in built:
        simulator.publish(one)
    rubies = [gem("rack", f"3.{number}", size=20_000) for number in range(10)]
    for ruby in rubies:
        simulator.push(ruby)
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        for one in built:
            await mirror.get(f"/packages/six/{one.filename}")
        for ruby in rubies:
            await mirror.get(f"/gems/{ruby.filename}")
        assert (await mirror.get(f"/packages/six/{built[0].filename}.metadata")).status == 200
        bad = {one.sha256 for one in (*built[::4], *rubies[::5])}
        assert len(bad) == 10
        for digest in bad:
            path = tmp_path / "data" / "blobs" / digest[:2] / digest
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        faults = await verified(mirror)
        assert {fault.digest for fault in faults} == bad
        assert all(fault.mended for fault in faults)
        assert {path.name for path in (tmp_path / "data" / "damaged").iterdir()} == bad
        assert await verified(mirror) == []
        for digest in bad:
            content = (tmp_path / "data" / "blobs" / digest[:2] / digest).read_bytes()
            assert hashlib.sha256(content).hexdigest() == digest


async def test_a_missing_blob_is_fetched_again_and_a_sidecar_made_again(tmp_path: Path, simulator: Simulator) -> None:
    built = wheel("six", "1.0", size=20_000)
    simulator.publish(built)
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        await mirror.get(f"/packages/six/{built.filename}")
        await mirror.get(f"/packages/six/{built.filename}.metadata")
        for digest in stored(tmp_path):
            (tmp_path / "data" / "blobs" / digest[:2] / digest).unlink()
        faults = await verified(mirror)
        assert len(faults) == 2
        assert all(fault.missing and fault.mended for fault in faults)
        assert len(stored(tmp_path)) == 2


async def test_a_damaged_upload_is_reported_and_never_served(tmp_path: Path, simulator: Simulator) -> None:
    ours = sdist("ours", "1.0")
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        await upload(mirror, ours)
        path = tmp_path / "data" / "blobs" / ours.sha256[:2] / ours.sha256
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        (fault,) = await verified(mirror)
        assert (fault.ours, fault.mended, fault.digest) == (True, False, ours.sha256)
        assert (await mirror.get(f"/packages/ours/{ours.filename}")).status >= 500


async def test_a_file_that_upstream_no_longer_gives_is_reported(tmp_path: Path, simulator: Simulator) -> None:
    built = wheel("six", "1.0", size=20_000)
    simulator.publish(built)
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        await mirror.get(f"/packages/six/{built.filename}")
        (tmp_path / "data" / "blobs" / built.sha256[:2] / built.sha256).write_bytes(b"x" * built.size)
        await simulator.go_down("refused")
        (fault,) = await verified(mirror)
        assert not fault.mended
        assert fault.reason


async def test_verifying_reads_no_faster_than_it_may(
    tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = wheel("six", "1.0", size=1_000_000)
    simulator.publish(built)
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        await mirror.get(f"/packages/six/{built.filename}")
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        # Only there: a background task of the mirror that never really slept would never let another one go on.
        monkeypatch.setattr("mirror.maintenance.verify.asyncio", SimpleNamespace(**vars(asyncio) | {"sleep": sleep}))
        store = store_of(mirror)
        await store.database.open()
        async with aclosing(verifier(mirror.mirror, store, 1000).verify()) as progress:
            await anext(progress)
        await store.close()
        assert 900 < max(waits) <= built.size / 1000
        assert len(waits) >= 4


async def test_serve_mends_what_the_disk_forgot_by_itself(tmp_path: Path, simulator: Simulator) -> None:
    built = wheel("six", "1.0", size=300_000)
    simulator.publish(built)
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        await mirror.get(f"/packages/six/{built.filename}")
    path = tmp_path / "data" / "blobs" / built.sha256[:2] / built.sha256
    path.write_bytes(built.content[:-1] + b"!")
    async with serving(tmp_path / "data", repositories(simulator), store={"verify_rate": "100MB"}):
        async with asyncio.timeout(30):
            while not path.exists() or path.read_bytes() != built.content:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.02)
        assert [aside.name for aside in (tmp_path / "data" / "damaged").iterdir()] == [built.sha256]


@pytest.mark.parametrize("verified_by", [(), ("sha256",)], ids=["nothing", "a digest"])
async def test_what_was_kept_in_place_of_an_archive_is_found_where_no_digest_vouches_for_it(
    tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, verified_by: tuple[str, ...]
) -> None:
    simulator.pypi.configure(hashes=verified_by, sizes=False, metadata=False)
    built = wheel("six", "1.0", size=20_000)
    page = b"<!doctype html><title>Please sign in</title>"
    simulator.publish(built, digests={"sha256": hashlib.sha256(page).hexdigest()} if verified_by else None)
    path = f"/packages/six/{built.filename}"
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        with monkeypatch.context() as earlier:
            earlier.setattr("mirror.transfer.archives.ArchiveCheck._judge", lambda self, fault: None)
            simulator.inject("*.whl", Instead(page))
            assert (await mirror.get(path)).body == page
        simulator.heal()
        faults = await verified(mirror)
        if verified_by:
            assert faults == []
        else:
            assert [(fault.names, fault.mended) for fault in faults] == [((built.filename,), True)]
            assert (await mirror.get(path)).body == built.content
        assert await verified(mirror) == []
