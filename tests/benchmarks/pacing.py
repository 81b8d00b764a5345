"""A server as it is across a network: a proxy in front of it that gives each connection so many bytes a second, evenly.

A limit of nginx would not do: it lets the bytes of a whole second pass at once, and counts for each request anew.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

PIECE_BYTES = 64 * 1024
IDLE_SECONDS = 0.02
"""What a connection may have saved up while it sent nothing."""


@asynccontextmanager
async def paced(url: str, bytes_per_second: int) -> AsyncIterator[str]:
    """The URL at which a server is so slow, until the end of the block."""
    target = urlsplit(url)
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        task.add_done_callback(running.discard)
        answers, asking = await asyncio.open_connection(target.hostname, target.port)
        sending = asyncio.create_task(_copy(answers, writer, bytes_per_second))
        try:
            await _copy(reader, asking, 0)
        finally:
            sending.cancel()
            asking.close()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
        for task in [*running]:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bytes_per_second: int) -> None:
    """Pass on what comes, at a steady pace unless that is 0."""
    clock = asyncio.get_running_loop().time
    due = clock()
    with suppress(ConnectionError):
        while piece := await reader.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()
            if bytes_per_second:
                due = max(due, clock() - IDLE_SECONDS) + len(piece) / bytes_per_second
                await asyncio.sleep(due - clock())
