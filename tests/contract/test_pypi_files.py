"""Files and their metadata on the wire: misses, hits, ranges, what is verified and what is never kept."""

import contextlib
import hashlib
import logging
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest

from tests.builders import Built, noise, sdist, wheel
from tests.serving import Reply, Serving
from tests.simulator import Chunked, Corrupt, Cut, Headers, IgnoreRange, Instead, Simulator, Stall, Status, Truncate

from .pypi import JSON, held, is_sentence, mirroring, page_of, patient, settled

SMALL = wheel("small", "1.0")
LARGE = wheel("large", "1.0", size=3_000_000)
SOURCES = sdist("large", "1.0", size=300_000)


@pytest.fixture
async def mirror(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Serving]:
    for built in (SMALL, LARGE, SOURCES):
        simulator.publish(built)
    async with mirroring(tmp_path / "data", simulator, network=patient()) as running:
        yield running


def path_of(built: Built) -> str:
    return f"/packages/{built.name}/{built.filename}"


def lasting(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that may not differ between two answers with the same file."""
    return {name: value for name, value in headers.items() if name not in ("Date", "X-Mirror-Cache")}


# Miss and hit


@pytest.mark.parametrize("built", [SMALL, LARGE, SOURCES], ids=lambda built: built.filename)
async def test_a_file_is_fetched_once_and_its_answer_never_changes(
    mirror: Serving, simulator: Simulator, built: Built
) -> None:
    miss = await mirror.get(path_of(built))
    hit = await mirror.get(path_of(built))
    assert (miss.outcome, hit.outcome) == ("miss", "hit")
    assert miss.body == hit.body == built.content
    assert lasting(miss.headers) == lasting(hit.headers)
    assert miss.headers["ETag"] == f'"{built.sha256}"'
    assert miss.headers["Accept-Ranges"] == "bytes"
    assert miss.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert "Content-Encoding" not in miss.headers
    assert miss.headers["Last-Modified"] == (await mirror.head(path_of(built))).headers["Last-Modified"]
    assert await held(mirror) == {built.sha256}
    assert simulator.count("GET", f"*/{built.filename}") == 1


@pytest.mark.parametrize("upload_times", [True, False])
async def test_the_answer_outlives_a_restart_unchanged(
    simulator: Simulator, tmp_path: Path, upload_times: bool
) -> None:
    simulator.pypi.configure(upload_times=upload_times)
    simulator.publish(LARGE)
    answers = []
    for _ in range(2):
        async with mirroring(tmp_path / "data", simulator) as mirror:
            answers.append(await mirror.get(path_of(LARGE)))
    assert lasting(answers[0].headers) == lasting(answers[1].headers)
    assert simulator.count("GET", "*.whl") == 1


async def test_head_of_a_file_is_get_without_its_body(mirror: Serving) -> None:
    get = await mirror.get(path_of(LARGE))
    head = await mirror.head(path_of(LARGE))
    assert (head.status, head.body) == (200, b"")
    assert lasting(head.headers) == lasting(get.headers)


async def test_a_file_may_be_asked_for_before_any_page(mirror: Serving, simulator: Simulator) -> None:
    assert (await mirror.get(path_of(SMALL))).body == SMALL.content
    assert simulator.requests[0].path == "/simple/small/"


# Conditions and ranges


@pytest.mark.parametrize("first", [True, False], ids=["miss", "hit"])
@pytest.mark.parametrize(
    ("wanted", "start", "stop", "short"),
    [
        ("bytes=0-99", 0, 100, True),
        ("bytes=2900000-", 2_900_000, None, False),
        ("bytes=-1000", -1000, None, True),
        ("bytes=1000-1999", 1000, 2000, True),
        ("bytes=100-99999999", 100, None, False),
    ],
)
async def test_ranges_are_the_slice_on_a_miss_and_on_a_hit(
    mirror: Serving, simulator: Simulator, first: bool, wanted: str, start: int, stop: int | None, short: bool
) -> None:
    if not first:
        await mirror.get(path_of(LARGE))
    reply = await mirror.get(path_of(LARGE), Range=wanted)
    expected = LARGE.content[start:stop]
    begin = start % LARGE.size
    assert reply.status == 206
    assert reply.body == expected
    assert reply.headers["Content-Range"] == f"bytes {begin}-{begin + len(expected) - 1}/{LARGE.size}"
    assert reply.headers["ETag"] == f'"{LARGE.sha256}"'
    await settled(mirror)
    if first and short:
        assert await held(mirror) == set()
        assert simulator.bytes_sent("*.whl") < 100_000
        assert reply.headers["Cache-Control"] == "public, max-age=600"
    else:
        assert await held(mirror) == {LARGE.sha256}
        assert simulator.count("GET", f"*/{LARGE.filename}") == 1


async def test_a_client_that_looks_into_a_wheel_costs_one_request_for_each_look(
    mirror: Serving, simulator: Simulator
) -> None:
    head = await mirror.head(path_of(LARGE))
    assert (head.headers["Content-Length"], head.headers["Accept-Ranges"]) == (str(LARGE.size), "bytes")
    for wanted in ("bytes=-10000", "bytes=-20000", "bytes=0-4999", "bytes=100000-109999"):
        assert (await mirror.get(path_of(LARGE), Range=wanted)).status == 206
    assert simulator.count("GET", "*.whl") == 3
    assert await held(mirror) == set()


@pytest.mark.parametrize("hashes", [True, False])
async def test_a_head_fetches_no_file(simulator: Simulator, tmp_path: Path, hashes: bool) -> None:
    if not hashes:
        simulator.pypi.configure(hashes=(), sizes=False)
    simulator.publish(LARGE)
    async with mirroring(tmp_path / "data", simulator) as mirror:
        head = await mirror.head(path_of(LARGE))
        assert (head.status, head.headers["Content-Length"]) == (200, str(LARGE.size))
        assert head.headers.get("ETag") == (f'"{LARGE.sha256}"' if hashes else None)
        assert simulator.bytes_sent("*.whl") < 100_000
        assert await held(mirror) == set()


@pytest.mark.parametrize("length", [True, False], ids=["length", "no length"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "cut"])
async def test_a_large_file_that_nothing_verifies_begins_at_once_and_ends_whole_or_not_at_all(
    simulator: Simulator, tmp_path: Path, length: bool, whole: bool
) -> None:
    simulator.pypi.configure(hashes=(), sizes=False, ranges=False)
    simulator.publish(LARGE)
    async with mirroring(tmp_path / "data", simulator, network=patient()) as mirror:
        faults = [simulator.inject("*.whl", Stall(after=1_000_000))]
        if not length:
            faults.append(simulator.inject("*.whl", Chunked()))
        if not whole:
            faults.append(simulator.inject("*.whl", Cut(after=2_900_000)))
        async with aiohttp.ClientSession() as session, session.get(mirror.url + path_of(LARGE)) as response:
            assert response.status == 200
            assert response.headers.get("Content-Length") == (str(LARGE.size) if length else None)
            assert "ETag" not in response.headers
            assert (
                await response.content.readexactly(100_000) == LARGE.content[:100_000]
            )  # upstream has stopped in the middle
            for fault in faults:
                fault.release()
            if whole:
                assert LARGE.content.endswith(await response.content.read())
            else:
                with pytest.raises(aiohttp.ClientError):
                    await response.content.read()
        await settled(mirror)
        assert await held(mirror) == ({LARGE.sha256} if whole else set())


async def test_a_short_range_of_an_upstream_without_ranges_is_cut_out_of_the_file(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.pypi.configure(ranges=False)
    simulator.publish(LARGE)
    async with mirroring(tmp_path / "data", simulator) as mirror:
        assert (await mirror.get(path_of(LARGE), Range="bytes=5-9")).body == LARGE.content[5:10]


@pytest.mark.parametrize("wanted", ["bytes=99999999-", "bytes=-0"])
async def test_a_range_beyond_the_end_is_a_416(mirror: Serving, wanted: str) -> None:
    reply = await mirror.get(path_of(LARGE), Range=wanted)
    assert (reply.status, reply.headers["Content-Range"]) == (416, f"bytes */{LARGE.size}")


async def test_if_range_and_if_none_match_go_by_the_digest(mirror: Serving) -> None:
    etag = f'"{LARGE.sha256}"'
    modified = (await mirror.head(path_of(LARGE))).headers["Last-Modified"]
    for same in (etag, modified):
        assert (await mirror.get(path_of(LARGE), Range="bytes=5-9", If_Range=same)).status == 206
    other = await mirror.get(path_of(LARGE), Range="bytes=5-9", If_Range='"other"')
    assert (other.status, other.body) == (200, LARGE.content)
    for header in (etag, f'"x", {etag}', "*"):
        assert (await mirror.get(path_of(LARGE), If_None_Match=header)).status == 304
    assert (await mirror.get(path_of(LARGE), If_Modified_Since=modified)).status == 304


# Many at once


async def test_followers_share_one_download_while_it_runs(mirror: Serving, simulator: Simulator) -> None:
    stalled = simulator.inject("*.whl", Stall(after=1_000_000))
    async with aiohttp.ClientSession() as session:
        first = await session.get(mirror.url + path_of(LARGE).lstrip("/"))
        assert first.headers["X-Mirror-Cache"] == "miss"
        assert await first.content.readexactly(900_000) == LARGE.content[:900_000]  # it flows before it is complete
        second = await session.get(mirror.url + path_of(LARGE).lstrip("/"))
        assert second.headers["X-Mirror-Cache"] == "joined"
        assert await second.content.readexactly(900_000) == LARGE.content[:900_000]
        assert await held(mirror) == set()
        stalled.release()
        assert await first.read() == await second.read() == LARGE.content[900_000:]
    await settled(mirror)
    assert await held(mirror) == {LARGE.sha256}
    assert simulator.count("GET", "*.whl") == 1


async def test_a_download_goes_on_when_its_only_client_leaves(mirror: Serving, simulator: Simulator) -> None:
    stalled = simulator.inject("*.whl", Stall(after=1_000_000))
    async with aiohttp.ClientSession() as session:
        response = await session.get(mirror.url + path_of(LARGE).lstrip("/"))
        await response.content.readexactly(500_000)
        response.close()
    stalled.release()
    await settled(mirror)
    assert await held(mirror) == {LARGE.sha256}
    assert (await mirror.get(path_of(LARGE))).outcome == "hit"
    assert simulator.count("GET", "*.whl") == 1


@pytest.mark.parametrize("where", ["held", "on its way"])
async def test_a_client_that_leaves_is_no_error(
    mirror: Serving, simulator: Simulator, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    stalled = simulator.inject("*.whl", Stall(after=1_000_000))
    if where == "held":
        stalled.release()
        await mirror.get(path_of(LARGE))
    async with aiohttp.ClientSession(read_bufsize=1000) as session:
        for _ in range(3):
            response = await session.get(mirror.url + path_of(LARGE).lstrip("/"))
            await response.content.readexactly(100_000)
            response.close()
    stalled.release()
    await settled(mirror)
    assert (await mirror.get(path_of(LARGE))).body == LARGE.content
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_fault_of_ours_is_one_sentence_and_one_traceback_in_the_log(
    mirror: Serving, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror.mirror.repositories["pypi"], "project", None)
    reply = await mirror.get("/simple/small/")
    assert reply.status == 500
    assert is_sentence(reply)
    assert "NoneType" not in reply.text
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None


# Upstream misbehaves


async def broken(mirror: Serving, path: str) -> bytes:
    """What arrives of an answer that must not end cleanly."""
    got = b""
    async with aiohttp.ClientSession() as session, session.get(mirror.url + path.lstrip("/")) as response:
        assert response.status == 200
        try:
            async for chunk in response.content.iter_any():
                got += chunk
        except aiohttp.ClientError:
            return got
    pytest.fail("a wrong file has ended cleanly")


@pytest.mark.parametrize("offset", [0, 1_500_000, -1])
async def test_one_wrong_byte_never_makes_a_whole_file(mirror: Serving, simulator: Simulator, offset: int) -> None:
    wrong = simulator.inject(f"*/{LARGE.filename}", Corrupt(offset))
    for attempt in (1, 2):
        got = await broken(mirror, path_of(LARGE))
        assert len(got) < LARGE.size
        assert wrong.hits == attempt  # nothing was kept: each time it is tried again
        assert await held(mirror) == set()
        assert list(mirror.mirror.blobs.incoming.iterdir()) == []
    simulator.heal()
    assert (await mirror.get(path_of(LARGE))).body == LARGE.content
    assert await held(mirror) == {LARGE.sha256}


async def test_a_wrong_small_file_is_a_502_with_a_reason(mirror: Serving, simulator: Simulator) -> None:
    simulator.inject("*.whl", Corrupt(5), times=1)
    reply = await mirror.get(path_of(SMALL))
    assert reply.status == 502
    assert "sha256" in reply.text
    assert is_sentence(reply)
    assert await held(mirror) == set()
    assert (await mirror.get(path_of(SMALL))).body == SMALL.content


async def test_a_cut_download_is_resumed_unseen(mirror: Serving, simulator: Simulator) -> None:
    simulator.inject("*.whl", Cut(after=1_000_000), times=1)
    assert (await mirror.get(path_of(LARGE))).body == LARGE.content
    first, second = simulator.asked("GET", "*.whl")
    assert "Range" not in first.headers
    assert second.headers["Range"].startswith("bytes=")
    assert second.headers["If-Range"]
    assert second.sent == LARGE.size - int(second.headers["Range"][6:-1])


@pytest.mark.parametrize("fault", [Truncate(1_000_000), IgnoreRange(), Chunked(), Headers({"ETag": None})])
async def test_an_upstream_with_odd_manners_gives_the_right_bytes_or_none(
    mirror: Serving, simulator: Simulator, fault: Truncate | IgnoreRange | Chunked | Headers
) -> None:
    simulator.inject("*.whl", Cut(after=2_000_000), times=1)
    simulator.inject("*.whl", fault, times=2)
    try:
        reply: Reply | None = await mirror.get(path_of(LARGE))
    except aiohttp.ClientError:
        reply = None
    if reply is not None and reply.status == 200:
        assert reply.body == LARGE.content
    assert await held(mirror) <= {LARGE.sha256}
    simulator.heal()
    assert (await mirror.get(path_of(LARGE))).body == LARGE.content


async def test_a_file_that_upstream_lists_but_has_not_is_a_404(mirror: Serving, simulator: Simulator) -> None:
    simulator.inject("*.whl", Status(404))
    reply = await mirror.get(path_of(SMALL))
    assert reply.status == 404
    assert is_sentence(reply)


async def test_an_upstream_that_is_down_is_a_503(mirror: Serving, simulator: Simulator) -> None:
    await page_of(mirror, "small")
    await simulator.go_down()
    reply = await mirror.get(path_of(SMALL))
    assert reply.status == 503
    assert int(reply.headers["Retry-After"]) >= 1
    assert is_sentence(reply)
    await simulator.come_back()
    assert (await mirror.get(path_of(SMALL))).body == SMALL.content


@pytest.mark.parametrize("hashes", [(), ("md5",)])
async def test_a_file_without_sha256_is_served_as_it_comes_and_kept_by_ours(
    simulator: Simulator, tmp_path: Path, hashes: tuple[str, ...]
) -> None:
    simulator.pypi.configure(hashes=hashes, sizes=False)
    simulator.publish(LARGE)
    async with mirroring(tmp_path / "data", simulator) as mirror:
        (file,) = (await page_of(mirror, "large")).json()["files"]
        assert set(file["hashes"]) == set(hashes)
        miss, hit = await mirror.get(path_of(LARGE)), await mirror.get(path_of(LARGE))
        assert miss.body == hit.body == LARGE.content
        assert hit.outcome == "hit"
        assert lasting(miss.headers) | {"Etag": f'"{LARGE.sha256}"'} == lasting(hit.headers)
        assert await held(mirror) == {LARGE.sha256}
    assert simulator.count("GET", "*.whl") == 1


OLDER = wheel("large", "1.0", size=2_000_000)


@pytest.mark.parametrize("order", [(OLDER, LARGE), (LARGE, OLDER)], ids=["newest last", "newest first"])
@pytest.mark.parametrize("has", [LARGE, OLDER, SOURCES], ids=["newest", "older", "neither"])
async def test_a_name_with_two_digests_may_have_the_bytes_of_either(
    simulator: Simulator, tmp_path: Path, order: tuple[Built, Built], has: Built
) -> None:
    name = LARGE.filename
    links = "".join(f'<a href="/files/{name}#sha256={one.sha256}">{name}</a>' for one in order)
    simulator.inject("/simple/large/", Instead(f"<!DOCTYPE html><html><body>{links}</body></html>".encode()))
    simulator.inject("/files/*", Instead(has.content, "application/octet-stream"))
    async with mirroring(tmp_path / "data", simulator, network=patient()) as mirror:
        (file,) = (await page_of(mirror, "large")).json()["files"]
        assert file["hashes"] == {}
        explained = await mirror.get("/-/explain/pypi/large")
        assert f"{name} is listed with 2 digests" in explained.text
        assert "Nothing verifies" not in explained.text
        if has is SOURCES:
            with contextlib.suppress(aiohttp.ClientError):  # it broke off, or had failed before its first byte
                assert (await mirror.get(path_of(LARGE))).status == 502
            assert await held(mirror) == set()
            return
        assert (await mirror.get(path_of(LARGE))).body == has.content
        assert (await mirror.get(path_of(LARGE))).outcome == "hit"
        assert await held(mirror) == {has.sha256}


# The store loses something


async def test_a_blob_that_vanished_is_fetched_again_and_the_log_says_so(
    mirror: Serving, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    for built in (SMALL, LARGE):
        await mirror.get(path_of(built))
        await mirror.mirror.blobs.delete(built.sha256)
        again = await mirror.get(path_of(built))
        assert (again.outcome, again.body) == ("miss", built.content)
        assert f"the blob of {built.filename} has vanished" in caplog.text
        assert simulator.count("GET", f"*/{built.filename}") == 2
    assert await held(mirror) == {SMALL.sha256, LARGE.sha256}


async def test_a_blob_that_was_cut_short_is_fetched_again(mirror: Serving, simulator: Simulator) -> None:
    await mirror.get(path_of(LARGE))
    body = await mirror.mirror.blobs.open(LARGE.sha256)
    assert body.path is not None
    with body.path.open("r+b") as file:
        file.truncate(1000)
    assert (await mirror.get(path_of(LARGE))).body == LARGE.content
    assert simulator.count("GET", f"*/{LARGE.filename}") == 2


# Metadata


async def test_metadata_is_passed_through_verified_and_kept(mirror: Serving, simulator: Simulator) -> None:
    path = f"{path_of(LARGE)}.metadata"
    miss, hit = await mirror.get(path), await mirror.get(path)
    assert (miss.outcome, hit.outcome) == ("miss", "hit")
    assert miss.body == hit.body == LARGE.metadata
    assert lasting(miss.headers) == lasting(hit.headers)
    (file,) = [file for file in (await page_of(mirror, "large")).json()["files"] if file["filename"] == LARGE.filename]
    assert file["core-metadata"] == {"sha256": hashlib.sha256(LARGE.metadata).hexdigest()}
    assert await held(mirror) == {hashlib.sha256(LARGE.metadata).hexdigest()}
    assert simulator.count("GET", "*.metadata") == 1
    assert simulator.count("GET", "*.whl") == 0


async def test_metadata_that_upstream_has_not_is_read_out_of_the_wheel_by_ranges(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.pypi.configure(metadata=False)
    huge = wheel("huge", "1.0", size=100_000_000, requires=["small>=1"])
    simulator.publish(huge)
    async with mirroring(tmp_path / "data", simulator) as mirror:
        (file,) = (await page_of(mirror, "huge")).json()["files"]
        assert file["core-metadata"] is True  # PEP 714: there is one, its digest is not known yet
        reply = await mirror.get(f"/packages/huge/{huge.filename}.metadata")
        assert reply.body == huge.metadata
        assert simulator.count("GET", "*.whl") <= 3
        assert simulator.bytes_sent("*.whl") < huge.size / 100
        assert await held(mirror) == {hashlib.sha256(huge.metadata).hexdigest()}
        asked = simulator.count()
        assert (await mirror.get(f"/packages/huge/{huge.filename}.metadata")).outcome == "hit"
        assert simulator.count() == asked


async def test_metadata_of_a_held_wheel_asks_nobody(mirror: Serving, simulator: Simulator) -> None:
    await mirror.get(path_of(LARGE))
    asked = simulator.count()
    assert (await mirror.get(f"{path_of(LARGE)}.metadata")).body == LARGE.metadata
    assert simulator.count() == asked


async def test_metadata_comes_out_of_the_whole_wheel_where_upstream_knows_no_ranges(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.pypi.configure(metadata=False, ranges=False)
    simulator.publish(LARGE)
    async with mirroring(tmp_path / "data", simulator) as mirror:
        assert (await mirror.get(f"{path_of(LARGE)}.metadata")).body == LARGE.metadata
        await settled(mirror)
        assert LARGE.sha256 in await held(mirror)


@pytest.mark.parametrize("lie", [b"", b"<html>login</html>", b'{"Name": "large"}'])
async def test_what_is_no_metadata_is_replaced_by_what_the_wheel_says(
    simulator: Simulator, tmp_path: Path, lie: bytes
) -> None:
    simulator.publish(LARGE, metadata=lie)
    async with mirroring(tmp_path / "data", simulator) as mirror:
        assert (await mirror.get(f"{path_of(LARGE)}.metadata")).body == LARGE.metadata
        assert hashlib.sha256(lie).hexdigest() not in await held(mirror)


async def test_metadata_with_another_digest_than_promised_is_not_passed_on(
    mirror: Serving, simulator: Simulator
) -> None:
    simulator.inject("*.metadata", Corrupt(-2), times=1)
    assert (await mirror.get(f"{path_of(LARGE)}.metadata")).body == LARGE.metadata


async def test_metadata_of_another_version_than_the_file_name_is_given_as_it_is(
    simulator: Simulator, tmp_path: Path
) -> None:
    plain = wheel("torch", "2.0")
    built = Built("torch", "2.0+cu121", "torch-2.0+cu121-py3-none-any.whl", plain.content, plain.metadata)
    for offered in (True, False):
        simulator.publish(built, core_metadata=offered)
        async with mirroring(tmp_path / f"data{offered}", simulator) as mirror:
            (file,) = (await page_of(mirror, "torch")).json()["files"]
            assert file["core-metadata"]
            assert (await mirror.get(f"{path_of(built)}.metadata")).body == plain.metadata
            simulator.forget()
            assert (await mirror.get(f"{path_of(built)}.metadata")).body == plain.metadata
            assert not simulator.requests


async def test_metadata_that_cannot_be_made_is_promised_no_more(simulator: Simulator, tmp_path: Path) -> None:
    hollow = Built("hollow", "1.0", "hollow-1.0-py3-none-any.whl", noise(5000), b"")
    good = wheel("hollow", "1.1")
    simulator.publish(hollow, core_metadata=False)
    simulator.publish(good, core_metadata=False)
    for path in (f"{path_of(hollow)}.metadata", "/simple/hollow/"):
        async with mirroring(tmp_path / "data", simulator) as mirror:  # it is remembered across a restart
            promised = [file.get("core-metadata", False) for file in (await page_of(mirror, "hollow")).json()["files"]]
            assert promised == [path == f"{path_of(hollow)}.metadata", True]
            if not promised[0]:
                assert "core-metadata" not in (await mirror.get("/simple/hollow/")).text.split("hollow-1.1")[0]
            simulator.forget()
            reply = await mirror.get(f"{path_of(hollow)}.metadata")
            assert reply.status == 404
            assert bool(simulator.requests) == promised[0]
            promised = [file.get("core-metadata", False) for file in (await page_of(mirror, "hollow")).json()["files"]]
            assert promised == [False, True]
            explained = (await mirror.get("/-/explain/pypi/hollow")).text
            assert explained.count("no metadata can be read from it") == 1
            assert (await mirror.get(path_of(hollow))).body == hollow.content
    simulator.publish(wheel("hollow", "1.0"), core_metadata=False)  # another file under that name
    async with mirroring(tmp_path / "data", simulator, pages={"fresh": "0s"}) as mirror:
        page = await page_of(mirror, "hollow", Cache_Control="no-cache")
        assert sorted(file["core-metadata"] for file in page.json()["files"]) == [True, True]


async def test_metadata_is_promised_only_where_clients_can_store_it(simulator: Simulator, tmp_path: Path) -> None:
    plain = wheel("long", "1.0")
    for length in (246, 247, 255):
        name = f"long-1.0-py3-none-{'.'.join('linux' for _ in range(50))}"[: length - 4].rstrip(".") + ".whl"
        name = name.removesuffix(".whl").ljust(length - 4, "x") + ".whl"
        simulator.publish(Built("long", "1.0", name, plain.content, plain.metadata))
    async with mirroring(tmp_path / "data", simulator) as mirror:
        files = (await page_of(mirror, "long")).json()["files"]
        assert sorted((len(file["filename"]), bool(file.get("core-metadata"))) for file in files) == [
            (246, True), (247, False), (255, False),
        ]  # fmt: skip
        for file in files:
            assert (await mirror.get(f"/packages/long/{file['filename']}")).body == plain.content


async def test_a_wheel_without_metadata_and_an_sdist_have_none(simulator: Simulator, tmp_path: Path) -> None:
    hollow = Built("hollow", "1.0", "hollow-1.0-py3-none-any.whl", noise(5000), b"")
    simulator.publish(hollow, core_metadata=False)
    simulator.publish(SOURCES)
    async with mirroring(tmp_path / "data", simulator) as mirror:
        for built in (hollow, SOURCES):
            reply = await mirror.get(f"{path_of(built)}.metadata")
            assert reply.status == 404
            assert is_sentence(reply)
        html = await mirror.get("/simple/large/", Accept="text/html")
        assert "data-core-metadata" not in html.text


# Nonsense


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/packages/small/..%2f..%2f..%2fetc%2fpasswd", 404),
        ("/packages/small/%2e%2e/%2e%2e/catalog.sqlite", 404),
        ("/packages/../../catalog.sqlite", 404),
        ("/packages/small/%00", 404),
        ("/packages/small/a%00.whl", 404),
        ("/packages/small/a%0d%0aX-Evil:%201.whl", 404),
        ("/packages/small/%ff%fe.whl", 404),
        ("/packages/small/" + "a" * 10_000, 404),
        ("/packages/" + "a" * 10_000 + "/x.whl", 400),
        (f"/packages/large/{SMALL.filename}", 404),
        (f"/packages/Small/{SMALL.filename}", 404),
        (f"/packages/small/{SMALL.filename}.metadata.metadata", 404),
        ("/packages/small/.metadata", 404),
        ("/packages/nothing/nothing-1.0-py3-none-any.whl", 404),
        ("/packages/small/", 404),
        ("/simple/..%2f..%2fetc/", 400),
        ("/simple/%00/", 400),
        ("/simple/a%2Fb/", 400),
        ("/simple/" + "a" * 10_000 + "/", 400),
        ("/simple/-/", 400),
        ("/simple/small/x/", 404),
        ("/simple/../../../etc/passwd", 404),
        ("/pypi/%2e%2e/json", 400),
        ("/pypi/small/..%2f..%2fx/json", 404),
        ("/integrity/small/1.0/..%2f..%2fx/provenance", 404),
        ("/integrity/%00/1.0/x/provenance", 400),
        ("/nothing/here", 404),
        ("/%2e%2e/%2e%2e/etc/passwd", 404),
        ("//etc/passwd", 404),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_nonsense_is_refused_in_one_sentence(
    mirror: Serving, simulator: Simulator, path: str, status: int
) -> None:
    before = await held(mirror)
    for _ in range(2):
        reply = await mirror.get(path, Accept=JSON)
        assert reply.status == status, reply.text
        assert is_sentence(reply)
        assert str(mirror.mirror.settings.data_dir) not in reply.text
    assert await held(mirror) == before
    assert not simulator.asked(path="*.whl")
    assert not [request for request in simulator.requests if ".." in request.path or "%2" in request.path.lower()]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_other_methods_are_a_405(mirror: Serving, method: str) -> None:
    reply = await mirror.ask(method, path_of(SMALL))
    assert reply.status == 405
    assert "GET" in reply.headers["Allow"]
    assert is_sentence(reply)
