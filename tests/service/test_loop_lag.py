"""No client makes the others wait: the lag of the event loop beside each hostile shape."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from yarl import URL

from tests.loop_lag import LAG_SECONDS
from tests.serving import Spawned, repositories, spawned
from tests.simulator import Simulator

CHUNKED = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
CHUNKED += b"Transfer-Encoding: chunked\r\n\r\n"
SHAPES = {
    "chunks of one byte": (CHUNKED % b"/legacy/", b"1\r\nz\r\n" * 10_000),
    "chunks of one byte to a path that refuses": (CHUNKED % b"/api/v1/gems", b"1\r\nz\r\n" * 10_000),
    "chunks with extensions": (CHUNKED % b"/legacy/", b"1;a\r\nz\r\n" * 8_000),
    "a preamble of lines": (CHUNKED % b"/legacy/", b"1\r\n\n\r\n" * 10_000),
    "many small requests": (b"", b"GET /health HTTP/1.1\r\nHost: l\r\n\r\n" * 2_000),
}


@pytest.mark.parametrize(("head", "piece"), SHAPES.values(), ids=SHAPES)
async def test_what_is_dense_to_parse_does_not_stop_the_loop(
    head: bytes, piece: bytes, tmp_path: Path, simulator: Simulator
) -> None:
    auth = {"rules": [{"upload": ["everyone"]}]}
    async with spawned(tmp_path / "data", repositories(simulator), auth=auth) as mirror:
        url = URL(mirror.url)

        async def flood() -> None:
            _, writer = await asyncio.open_connection(url.host, url.port)
            try:
                with suppress(ConnectionError):
                    writer.write(head)
                    while True:
                        writer.write(piece)
                        await writer.drain()
                        await asyncio.sleep(0.01)
            finally:
                writer.transport.abort()
                with suppress(OSError):
                    await writer.wait_closed()

        flooding = [asyncio.create_task(flood()) for _ in range(4)]
        try:
            assert await slowest(mirror) < 2.5 * LAG_SECONDS, "of a process that has half a core here"
        finally:
            for one in flooding:
                one.cancel()
            await asyncio.gather(*flooding, return_exceptions=True)


async def slowest(mirror: Spawned) -> float:
    """The time of some health checks, in seconds, without the two longest: this machine may be busy."""
    took = []
    for _ in range(40):
        began = asyncio.get_running_loop().time()
        assert (await mirror.get("health")).status == 200
        took.append(asyncio.get_running_loop().time() - began)
    return sorted(took)[-3]
