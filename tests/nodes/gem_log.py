"""The gem index as several processes show it: the same bytes, with the same validators, from each."""

import asyncio
import base64
import hashlib
from collections.abc import Sequence

from tests.serving import Client, Reply


async def same_of_all(clients: Sequence[Client], path: str) -> Reply:
    """What all processes answer at this moment: the same, byte for byte, with the same validators."""
    replies = await asyncio.gather(*(client.get(path) for client in clients))
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body for reply in replies}) == 1, path
    for header in ("ETag", "Repr-Digest", "Digest", "Last-Modified"):
        assert len({reply.headers.get(header) for reply in replies}) == 1, (path, header)
    return replies[0]


async def log_of_all(clients: Sequence[Client]) -> bytes:
    """The log, of which every process shows the same bytes."""
    reply = await same_of_all(clients, "/versions")
    assert reply.headers["ETag"] == f'"{hashlib.md5(reply.body, usedforsecurity=False).hexdigest()}"'
    digest = base64.b64encode(hashlib.sha256(reply.body).digest()).decode()
    assert reply.headers["Repr-Digest"] == f"sha-256=:{digest}:"
    return reply.body
