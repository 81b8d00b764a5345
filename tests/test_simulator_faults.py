"""Each fault of the simulator, once, seen by a plain client; and its log."""

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from multidict import CIMultiDictProxy

from tests.builders import Built, gem, wheel
from tests.simulator import (
    Body,
    Chunked,
    Corrupt,
    Cut,
    Drip,
    EmptyPartial,
    Fault,
    GzipDespiteRange,
    IgnoreRange,
    RangeNotSatisfiable,
    RotateEtag,
    Simulator,
    Stall,
    Status,
    Truncate,
    WrongOverlap,
    no_digest,
    wrong_content_type,
)

TAIL = {"Range": "bytes=10-"}


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"Accept-Encoding": "identity"}, auto_decompress=False) as session:
        yield session


@pytest.fixture
def six(simulator: Simulator) -> Built:
    built = wheel("six", "1.16", size=200_000)
    simulator.publish(built)
    return built


@pytest.fixture
def url(simulator: Simulator, six: Built) -> str:
    return simulator.url + simulator.pypi.projects["six"].files[0].path


async def get(
    client: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None
) -> tuple[int, CIMultiDictProxy[str], bytes]:
    async with client.get(url, headers=headers) as response:
        return response.status, response.headers, await response.read()


async def test_a_stall_before_the_headers_lasts_until_it_is_released(
    simulator: Simulator, client: aiohttp.ClientSession, url: str, six: Built
) -> None:
    stall = simulator.inject("*.whl", Stall())
    asking = asyncio.create_task(get(client, url))
    await simulator.until(lambda: stall.hits == 1)
    assert simulator.requests[0].status == 0
    assert not asking.done()
    stall.release()
    assert (await asking)[2] == six.content


async def test_a_stall_in_the_body_lets_exactly_so_many_bytes_through(
    simulator: Simulator, client: aiohttp.ClientSession, url: str, six: Built
) -> None:
    stall = simulator.inject("*.whl", Stall(after=70_000))
    async with client.get(url) as response:
        assert await response.content.readexactly(70_000) == six.content[:70_000]
        assert simulator.bytes_sent("*.whl") == 70_000
        assert not simulator.requests[0].finished
        stall.release()
        assert await response.read() == six.content[70_000:]
    await simulator.until(lambda: simulator.requests[0].finished)


async def test_a_client_that_leaves_a_stalled_answer_does_not_hold_up_the_end(simulator: Simulator, url: str) -> None:
    simulator.inject("*.whl", Stall(after=10))
    async with aiohttp.ClientSession() as client, client.get(url) as response:
        await response.content.readexactly(10)


@pytest.mark.parametrize("after", [0, 1, 100_000])
async def test_a_cut_closes_the_connection_after_exactly_so_many_bytes(
    simulator: Simulator, client: aiohttp.ClientSession, url: str, six: Built, after: int
) -> None:
    simulator.inject("*.whl", Cut(after), times=1)
    async with client.get(url) as response:
        assert response.content_length == six.size
        assert await response.content.readexactly(after) == six.content[:after]
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert simulator.bytes_sent("*.whl") == after
    assert not simulator.requests[0].finished
    assert (await get(client, url))[2] == six.content


async def test_a_reset_is_an_error_for_the_client(
    simulator: Simulator, client: aiohttp.ClientSession, url: str, six: Built
) -> None:
    simulator.inject("*.whl", Cut(after=1000, reset=True), times=1)
    with pytest.raises((aiohttp.ClientError, ConnectionResetError)):
        await get(client, url)
    assert (await get(client, url))[2] == six.content


@pytest.mark.parametrize("offset", [50_000, -1])
async def test_one_byte_is_wrong_in_the_whole_and_in_the_range_that_holds_it(
    simulator: Simulator, client: aiohttp.ClientSession, url: str, six: Built, offset: int
) -> None:
    simulator.inject("*.whl", Corrupt(offset))
    place = offset % six.size
    _, _, whole = await get(client, url)
    assert [at for at in range(six.size) if whole[at] != six.content[at]] == [place]
    _, _, part = await get(client, url, {"Range": f"bytes={place - 5}-{place}"})
    assert part[:5] == six.content[place - 5 : place]
    assert part[5] != six.content[place]
    _, _, before = await get(client, url, {"Range": f"bytes=0-{place - 1}"})
    assert before == six.content[:place]


async def test_an_honest_truncation_ends_cleanly(simulator: Simulator, client: aiohttp.ClientSession, url: str) -> None:
    simulator.inject("*.whl", Truncate(1000))
    status, headers, body = await get(client, url)
    assert (status, headers["Content-Length"], len(body)) == (200, "1000", 1000)


async def test_a_dishonest_truncation_promises_the_whole(
    simulator: Simulator, client: aiohttp.ClientSession, url: str, six: Built
) -> None:
    simulator.inject("*.whl", Truncate(1000, honest=False))
    async with client.get(url) as response:
        assert response.content_length == six.size
        assert await response.content.readexactly(1000) == six.content[:1000]
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


@pytest.mark.parametrize("status", [404, 429, 500, 503])
async def test_a_status_for_a_number_of_times(
    simulator: Simulator, client: aiohttp.ClientSession, url: str, status: int
) -> None:
    fault = simulator.inject("/packages/*", Status(status, retry_after=7), times=2, skip=1)
    answers = [await get(client, url) for _ in range(4)]
    assert [each[0] for each in answers] == [200, status, status, 200]
    assert answers[1][1]["Retry-After"] == "7"
    assert fault.hits == 2
    assert simulator.count("GET", "*.whl", status=status) == 2


async def test_a_drip_sends_small_pieces(simulator: Simulator, client: aiohttp.ClientSession, six: Built) -> None:
    simulator.inject("/simple/six/", Drip(piece=100, pause=0.0001))
    async with client.get(simulator.simple_url + "six/") as response:
        size = response.content_length
        pieces = [piece async for piece in response.content.iter_any()]
    assert sum(len(piece) for piece in pieces) == size
    assert len(pieces) > 1


async def test_rotating_etags_never_validate_and_never_resume(
    simulator: Simulator, client: aiohttp.ClientSession, url: str, six: Built
) -> None:
    simulator.inject("*.whl", RotateEtag())
    _, first, _ = await get(client, url)
    status, second, _ = await get(client, url, {"If-None-Match": first["ETag"]})
    assert status == 200
    assert first["ETag"] != second["ETag"]
    status, _, body = await get(client, url, {"Range": "bytes=10-", "If-Range": second["ETag"]})
    assert (status, body) == (200, six.content)


async def test_a_wrong_content_type_and_another_body_compose(
    simulator: Simulator, client: aiohttp.ClientSession, six: Built
) -> None:
    simulator.inject("/simple/*", wrong_content_type("image/png"))
    simulator.inject("/simple/*", Body(b"<html>"), method="GET")
    status, headers, body = await get(client, simulator.simple_url + "six/")
    assert (status, headers["Content-Type"], body) == (200, "image/png", b"<html>")


@pytest.fixture
def versions(simulator: Simulator) -> bytes:
    simulator.push(gem("rack", "3.0"))
    return simulator.rubygems.versions()


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (EmptyPartial(), 206),
        (RangeNotSatisfiable(), 416),
        (no_digest(), 206),
        (WrongOverlap(), 206),
        (GzipDespiteRange(), 206),
        (GzipDespiteRange(200), 200),
        (IgnoreRange(), 200),
    ],
)
async def test_a_range_goes_wrong(
    simulator: Simulator, client: aiohttp.ClientSession, versions: bytes, fault: Fault, status: int
) -> None:
    simulator.inject("/versions", fault, times=1)
    answered, headers, body = await get(client, simulator.url + "versions", TAIL)
    assert answered == status
    match fault:
        case EmptyPartial() | RangeNotSatisfiable():
            assert body == b""
        case WrongOverlap():
            assert body[0] != versions[10]
            assert body[1:] == versions[11:]
        case GzipDespiteRange():
            assert headers["Content-Encoding"] == "gzip"
            packed = gzip.compress(versions, mtime=0)
            assert body == (packed[10:] if status == 206 else packed)
        case IgnoreRange():
            assert body == versions
        case _:
            assert "Repr-Digest" not in headers
            assert "Digest" not in headers
            assert body == versions[10:]
    healed, headers, body = await get(client, simulator.url + "versions", TAIL)
    assert (healed, body) == (206, versions[10:])
    assert "Repr-Digest" in headers


async def test_a_chunked_answer_has_no_length(
    simulator: Simulator, client: aiohttp.ClientSession, url: str, six: Built
) -> None:
    simulator.inject("*.whl", Chunked())
    _, headers, body = await get(client, url)
    assert "Content-Length" not in headers
    assert hashlib.sha256(body).hexdigest() == six.sha256


async def test_healing_releases_what_is_stalled(
    simulator: Simulator, client: aiohttp.ClientSession, url: str, six: Built
) -> None:
    stall = simulator.inject("*.whl", Stall(after=5))
    asking = asyncio.create_task(get(client, url))
    await simulator.until(lambda: stall.hits == 1)
    simulator.heal()
    assert (await asking)[2] == six.content
    assert simulator.faults == []


async def test_going_down_refuses_and_coming_back_answers_on_the_same_port(
    simulator: Simulator, client: aiohttp.ClientSession, url: str, six: Built
) -> None:
    assert (await get(client, url))[0] == 200
    await simulator.go_down()
    with pytest.raises(aiohttp.ClientConnectionError):
        await get(client, url)
    await simulator.come_back()
    assert (await get(client, url))[2] == six.content


@pytest.mark.parametrize("how", ["silent", "hanging"])
async def test_going_down_without_refusing_leaves_a_client_waiting(simulator: Simulator, url: str, how: str) -> None:
    await simulator.go_down(how)
    limits = aiohttp.ClientTimeout(connect=0.3 if how == "hanging" else None, sock_read=0.3)
    async with aiohttp.ClientSession(timeout=limits) as client:
        with pytest.raises(aiohttp.ServerTimeoutError) as caught:
            await get(client, url)
    assert isinstance(caught.value, aiohttp.ConnectionTimeoutError) == (how == "hanging")
    await simulator.come_back()
    async with aiohttp.ClientSession(timeout=limits) as client:
        assert (await get(client, url))[0] == 200


async def test_the_log_knows_what_was_asked_and_how_much_was_sent(
    simulator: Simulator, client: aiohttp.ClientSession, url: str, six: Built
) -> None:
    await get(client, url, {"Range": "bytes=0-9", "X-Who": "me"})
    async with client.head(url) as response:
        assert response.content_length == six.size
    assert simulator.count() == 2
    assert simulator.count("GET", "*.whl") == simulator.count("HEAD") == 1
    assert simulator.bytes_sent("/packages/*") == 10
    [asked] = simulator.asked("GET")
    assert (asked.status, asked.headers["X-Who"], asked.port, asked.finished) == (206, "me", simulator.port, True)
    simulator.forget()
    assert simulator.count() == 0
