"""The gem index as several processes show it: the same bytes, with the same validators, from each."""

import asyncio
import base64
import hashlib
from collections.abc import Sequence

from tests.serving import Client, Reply

GROWN_SECONDS = 10.0
"""Seconds within which all processes list what one of them has stored."""


async def same_of_all(clients: Sequence[Client], path: str) -> Reply:
    """What all processes answer at this moment: the same, byte for byte, with the same validators."""
    return _same(await _all(clients, path), path)


async def _all(clients: Sequence[Client], path: str) -> list[Reply]:
    return await asyncio.gather(*(client.get(path) for client in clients))


def _same(replies: Sequence[Reply], path: str) -> Reply:
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == 1, path
    for header in ("ETag", "Repr-Digest", "Digest", "Last-Modified"):
        assert len({reply.headers.get(header) for reply in replies}) == 1, (path, header)
    return replies[0]


async def log_of_all(clients: Sequence[Client]) -> bytes:
    """The log, of which every process shows the same bytes."""
    return _log(await same_of_all(clients, "/versions"))


async def log_of_all_once_grown(clients: Sequence[Client]) -> bytes:
    """The log, once every process shows the same bytes; until then, some show the beginning of what others show.

    A gem that a process had stored when it was killed is listed by another one, at some time.
    """
    async with asyncio.timeout(GROWN_SECONDS):
        while True:
            replies = await _all(clients, "/versions")
            longest = max((reply.body for reply in replies), key=len)
            assert all(longest.startswith(reply.body) for reply in replies)
            if all(reply.body == longest for reply in replies):
                return _log(_same(replies, "/versions"))
            await asyncio.sleep(0.05)


def _log(reply: Reply) -> bytes:
    assert reply.headers["ETag"] == f'"{hashlib.md5(reply.body, usedforsecurity=False).hexdigest()}"'
    digest = base64.b64encode(hashlib.sha256(reply.body).digest()).decode()
    assert reply.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    return reply.body
