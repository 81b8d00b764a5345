"""The rules that a gem index has to keep so that no generation of clients stumbles; each names whom it protects."""

import asyncio
import base64
import gzip
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.builders import gem
from tests.genuine import HEADERS, INFO
from tests.serving import Reply, Serving, serving
from tests.simulator import Chunked, Cut, Fault, Simulator, Stall, Status, Truncate

EMPTY_MD5 = hashlib.md5(b"---\n").hexdigest()
INDEX = ["versions", "names", "info/rack"]


@pytest.fixture
async def mirror(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Serving]:
    """A mirror of two gems, of which one has a long page."""
    page = "---\n" + "".join(f"3.{number} |checksum:{number:064}\n" for number in range(30))
    simulator.rubygems.record_info("rack", page.encode())
    simulator.push(gem("tilt", "2.0"))
    upstreams = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", upstreams, network={"retries": 0}) as running:
        yield running


async def poll(mirror: Serving) -> None:
    """Let the mirror ask upstream what is new, however short ago it last did."""
    for one in mirror.mirror.upstream_indexes.values():
        one.asked_at = 0
    await mirror.get("versions", Cache_Control="no-cache")


def md5(body: bytes) -> str:
    return hashlib.md5(body).hexdigest()


def describes(reply: Reply, body: bytes) -> None:
    """Check the headers that have to describe the whole identity body."""
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    assert reply.headers["ETag"] == f'"{md5(body)}"'
    assert reply.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    assert reply.headers["Digest"] == f"sha-256={digest}"
    assert reply.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize("path", INDEX)
async def test_rule_1_the_etag_is_the_md5_and_both_digests_are_of_the_whole(mirror: Serving, path: str) -> None:
    whole = await mirror.get(path)
    assert whole.status == 200
    assert whole.headers["Content-Type"] == "text/plain; charset=utf-8"
    describes(whole, whole.body)
    part = await mirror.get(path, Range="bytes=3-")
    assert (part.status, part.body) == (206, whole.body[3:])
    assert part.headers["Content-Range"] == f"bytes 3-{len(whole.body) - 1}/{len(whole.body)}"
    describes(part, whole.body)
    packed = await mirror.get(path, Accept_Encoding="gzip")
    describes(packed, whole.body)
    unchanged = await mirror.get(path, If_None_Match=whole.headers["ETag"])
    assert unchanged.status == 304
    describes(unchanged, whole.body)


@pytest.mark.parametrize("path", INDEX)
@pytest.mark.parametrize("past", [0, 1, 1000])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_rule_2_a_range_from_the_end_or_past_it_gets_everything_and_never_416(
    mirror: Serving, path: str, past: int, encoding: str
) -> None:
    body = (await mirror.get(path)).body
    reply = await mirror.get(path, Range=f"bytes={len(body) + past}-", Accept_Encoding=encoding)
    assert (reply.status, reply.body) == (200, body)
    assert "Content-Encoding" not in reply.headers


@pytest.mark.parametrize("path", INDEX)
@pytest.mark.parametrize("given", ["bytes=5-2", "bytes=-5", "bytes=x-", "lines=1-2", "bytes=0-1,3-4", "bytes=٣-"])
async def test_rule_2_a_range_that_means_nothing_to_us_gets_everything(mirror: Serving, path: str, given: str) -> None:
    body = (await mirror.get(path)).body
    reply = await mirror.get(path, Range=given)
    assert (reply.status, reply.body) == (200, body)


@pytest.mark.parametrize("path", INDEX)
async def test_rule_3_a_range_is_answered_as_it_is_even_to_who_takes_gzip(mirror: Serving, path: str) -> None:
    body = (await mirror.get(path)).body
    part = await mirror.get(path, Range=f"bytes={len(body) - 1}-", Accept_Encoding="gzip")
    assert (part.status, part.body) == (206, body[-1:])
    assert "Content-Encoding" not in part.headers


async def test_without_a_range_who_takes_gzip_gets_it(mirror: Serving) -> None:
    for path in ("versions", "info/rack"):
        body = (await mirror.get(path)).body
        packed = await mirror.get(path, Accept_Encoding="gzip;q=1.0,deflate;q=0.6,identity;q=0.3")
        assert packed.headers["Content-Encoding"] == "gzip"
        assert int(packed.headers["Content-Length"]) == len(packed.body)
        assert gzip.decompress(packed.body) == body


@pytest.mark.parametrize("path", INDEX)
@pytest.mark.parametrize("spelled", ['"{}"', 'W/"{}"', "{}", '"other", "{}"'])
async def test_rule_4_a_validator_matches_quoted_weak_and_bare_and_wins_over_a_range(
    mirror: Serving, path: str, spelled: str
) -> None:
    body = (await mirror.get(path)).body
    condition = spelled.format(md5(body))
    for headers in ({}, {"Range": f"bytes={len(body) - 1}-"}):
        reply = await mirror.get(path, If_None_Match=condition, **headers)
        assert (reply.status, reply.body) == (304, b"")
    assert (await mirror.get(path, If_None_Match=spelled.format("0" * 32))).status == 200


FAILURES: dict[str, Fault] = {
    "404": Status(404),
    "403": Status(403),
    "429": Status(429),
    "500": Status(500),
    "503": Status(503),
    "a page of errors": Truncate(0),
    "hung up": Cut(20),
    "cut off": Truncate(40, honest=False),
}


@pytest.mark.parametrize("fault", FAILURES.values(), ids=FAILURES)
async def test_rule_5_no_failure_of_one_page_reaches_a_client_while_there_is_an_older_copy(
    mirror: Serving, simulator: Simulator, fault: Fault
) -> None:
    assert (await mirror.get("versions")).status == 200
    old = (await mirror.get("info/rack")).body
    simulator.push(gem("rack", "4.0"))
    await poll(mirror)
    listed = (await mirror.get("versions")).text
    assert listed.endswith(f"rack 4.0 {simulator.rubygems.md5('rack')}\n")
    simulator.inject("/info/rack", fault)
    reply = await mirror.get("info/rack")
    assert (reply.status, reply.body) == (200, old)
    assert (await mirror.get("versions")).text == listed  # what is listed stays what upstream lists
    simulator.heal()
    assert (await mirror.get("info/rack", Cache_Control="no-cache")).body == simulator.rubygems.info("rack")


async def test_rule_5_a_gem_that_lost_all_its_versions_has_an_empty_page_and_no_error(
    mirror: Serving, simulator: Simulator
) -> None:
    assert (await mirror.get("versions")).status == 200
    assert (await mirror.get("info/tilt")).status == 200
    simulator.yank_gem("tilt", "2.0")
    simulator.inject("/info/tilt", Status(404))
    await poll(mirror)
    last = (await mirror.get("versions")).text.splitlines()[-1]
    assert last == f"tilt -2.0 {EMPTY_MD5}"
    reply = await mirror.get("info/tilt")
    assert (reply.status, reply.body) == (200, b"---\n")


async def test_rule_6_what_is_not_listed_does_not_exist(mirror: Serving) -> None:
    reply = await mirror.get("info/nothing")
    assert reply.status == 404
    assert reply.text == "No project named 'nothing' is known here.\n"


async def test_rule_6_an_index_that_cannot_be_had_is_an_error_and_never_empty(
    simulator: Simulator, tmp_path: Path
) -> None:
    await simulator.go_down()
    upstreams = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", upstreams, network={"retries": 0}) as mirror:
        for path in ("versions", "names", "specs.4.8.gz", "info/rack"):
            reply = await mirror.get(path)
            assert reply.status == 503
            assert int(reply.headers["Retry-After"]) > 0


async def test_rule_7_the_root_and_the_head_of_versions_come_from_memory(mirror: Serving, simulator: Simulator) -> None:
    whole = await mirror.get("versions")
    await simulator.go_down("silent")
    simulator.forget()
    for _ in range(3):
        assert (await mirror.head("")).status == 200
        head = await mirror.head("versions")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["ETag"] == whole.headers["ETag"]
        assert int(head.headers["Content-Length"]) == len(whole.body)
    assert simulator.requests == []


@pytest.mark.parametrize("path", INDEX)
async def test_rule_10_a_damaged_copy_is_healed_with_everything(mirror: Serving, path: str) -> None:
    body = (await mirror.get(path)).body
    for start in (0, 5, len(body) - 2, len(body), len(body) + 7):
        reply = await mirror.get(path, Range=f"bytes={start}-", If_None_Match=f'"{md5(body)}"')
        assert (reply.status, reply.body) == (200, body)


async def test_an_if_range_of_another_state_gets_everything(mirror: Serving) -> None:
    body = (await mirror.get("versions")).body
    assert (await mirror.get("versions", Range="bytes=3-", If_Range='"other"')).status == 200
    assert (await mirror.get("versions", Range="bytes=3-", If_Range=f'"{md5(body)}"')).status == 206


async def test_every_genuine_page_is_served_byte_for_byte_with_its_recorded_etag_and_digests(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.load_genuine(info=INFO)
    simulator.inject("*", Chunked())
    upstreams = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", upstreams) as mirror:
        listed = dict(line.split(" ")[::2] for line in (await mirror.get("versions")).text.splitlines()[2:])
        assert len(HEADERS) > 100
        for name, recorded in HEADERS.items():
            reply = await mirror.get(f"info/{name}")
            assert reply.body == (INFO / name).read_bytes(), name
            assert reply.headers["ETag"] == recorded["etag"]
            assert listed[name] == recorded["etag"].strip('"')
            digest = recorded["repr-digest"].removeprefix("sha-256=").strip('":')
            assert reply.headers["Repr-Digest"] == f"sha-256=:{digest}:"
            assert reply.headers["Digest"] == f"sha-256={digest}"
        simulator.forget()
        for name in HEADERS:
            assert (await mirror.get(f"info/{name}", If_None_Match=HEADERS[name]["etag"])).status == 304
        assert simulator.requests == []


async def test_who_demands_the_index_of_now_waits_for_the_answer_that_is_on_its_way(
    mirror: Serving, simulator: Simulator
) -> None:
    await poll(mirror)
    simulator.push(gem("newest", "1.0"))
    for one in mirror.mirror.upstream_indexes.values():
        one.asked_at = 0
    stalled = simulator.inject("/versions", Stall())
    asking = [asyncio.create_task(mirror.get("versions", Cache_Control="no-cache")) for _ in range(2)]
    await simulator.until(lambda: stalled.hits > 0)
    late = asyncio.create_task(mirror.get("versions", Cache_Control="no-cache"))
    await asyncio.sleep(0.2)
    assert not late.done()
    stalled.release()
    for reply in await asyncio.gather(*asking, late):
        assert b"\nnewest 1.0 " in reply.body
