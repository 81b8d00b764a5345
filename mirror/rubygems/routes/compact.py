"""How answers of the compact index go out: conditions and ranges as every generation of its clients bears them.

Unlike files (`mirror.server.respond`), these are parts of something that grows, and no range is ever refused.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from aiohttp import web

from mirror.auth import ReadAccess
from mirror.index.cache import Validity
from mirror.index.freshness import Freshness
from mirror.model import Outcome
from mirror.rubygems.log.published_log import PublishedLog, digest_headers
from mirror.server.facts import facts_of
from mirror.server.negotiate import choose_encoding
from mirror.server.pages import IN_LOOP, SMALL, RenderedPage
from mirror.server.respond import REMEMBERED, PreparedResponse, SentResponse, finish_head, make_head, matches

TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"
IN_ONE = 256 << 10
"""Bytes that are written at once."""

Piece = bytes | memoryview

_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{0,15})", re.ASCII)


def repeatable(request: web.Request, reading: ReadAccess) -> bool:
    """Whether the same bytes may get the same answer, without another look at who asks and for what."""
    return reading.open and facts_of(request).freshness is Freshness.USUAL


async def send_log(
    request: web.Request, log: PublishedLog, outcome: Outcome, validity: Validity | None
) -> web.StreamResponse:
    """Answer a GET or HEAD with the published log, or a part of it."""

    async def packed() -> Sequence[bytes]:
        return log.gzip_chunks

    return await _send(
        request,
        etag=log.etag,
        digests=log.digest_headers(),
        size=log.size,
        pieces=log.pieces,
        packed=packed if log.gzip_chunks else None,
        outcome=outcome,
        validity=validity,
    )


async def send_page(
    request: web.Request, answer: RenderedPage, outcome: Outcome, reading: ReadAccess
) -> web.StreamResponse:
    """Answer a GET or HEAD with a page that is kept whole in memory, or a part of it."""
    body = answer.bodies["identity"]

    async def packed() -> Sequence[bytes]:
        if len(body) <= IN_LOOP or "gzip" in answer.bodies:
            return [answer.packed("gzip")]
        return [await asyncio.to_thread(answer.packed, "gzip")]

    return await _send(
        request,
        etag=answer.etag,
        digests=digest_headers(answer.sha256),
        size=len(body),
        pieces=lambda start, stop: [memoryview(body)[start:stop]],
        packed=packed if len(body) > SMALL else None,
        outcome=outcome,
        validity=answer.validity if outcome == "hit" and repeatable(request, reading) else None,
    )


async def _send(
    request: web.Request,
    *,
    etag: str,
    digests: dict[str, str],
    size: int,
    pieces: Callable[[int, int], Iterable[Piece]],
    packed: Callable[[], Awaitable[Sequence[bytes]]] | None,
    outcome: Outcome,
    validity: Validity | None,
) -> web.StreamResponse:
    """`pieces` gives the identity bytes of a range, `packed` the whole in gzip."""
    facts_of(request).outcome = outcome
    headers = [
        ("ETag", f'"{etag}"'),
        *digests.items(),  # of the whole, also on a part (rule 1)
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", "max-age=60"),
        ("Vary", "Accept-Encoding"),
        ("X-Mirror-Cache", outcome),
    ]
    wanted = _part(request.headers, etag, size)
    condition = request.headers.get("If-None-Match")
    # 304 wins over Range (rule 4), unless the range shows that the client's copy is damaged: then all of it (rule 10).
    if condition is not None and matches(condition, etag):
        if wanted is None or wanted[0] == max(0, size - 1):
            return PreparedResponse(304, make_head(304, headers), b"", validity)
        wanted = None
    headers.append(("Content-Type", TEXT))
    # A range that starts at the end or past it: all of it, never 416 (rule 2).
    if wanted is not None and wanted[0] < min(wanted[1], size):
        start, stop = wanted[0], min(wanted[1], size)
        headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
        return await _write(request, 206, headers, stop - start, lambda: pieces(start, stop), validity)
    # With Range, never compressed (rule 3).
    coding = choose_encoding(request.headers.get("Accept-Encoding", ""), ("gzip",))
    if packed is not None and coding == "gzip" and "Range" not in request.headers:
        content = await packed()
        headers.append(("Content-Encoding", "gzip"))
        return await _write(request, 200, headers, sum(map(len, content)), lambda: content, validity)
    return await _write(request, 200, headers, size, lambda: pieces(0, size), validity)


def _part(headers: Mapping[str, str], etag: str, size: int) -> tuple[int, int] | None:
    """The bytes [start, stop) that a Range asks for, not yet held against the size; None when it does not count."""
    wanted = _RANGE.fullmatch(headers.get("Range", "").replace(" ", ""))
    if wanted is None or headers.get("If-Range", f'"{etag}"').strip() != f'"{etag}"':
        return None
    return int(wanted[1]), int(wanted[2]) + 1 if wanted[2] else size


async def _write(
    request: web.Request,
    status: int,
    headers: Iterable[tuple[str, str]],
    length: int,
    pieces: Callable[[], Iterable[Piece]],
    validity: Validity | None,
) -> web.StreamResponse:
    """An answer; a long one is written in pieces as the client takes them, and never copied as a whole."""
    head = make_head(status, [*headers, ("Content-Length", str(length))])
    if request.method == "HEAD":
        return PreparedResponse(status, head, b"", validity)
    if length <= IN_ONE:
        return PreparedResponse(status, head, b"".join(pieces()), validity if length <= REMEMBERED else None)
    sent = 0
    with suppress(ConnectionError):  # a client that left is no news
        await request.writer.write(finish_head(head, request))
        for piece in pieces():
            for at in range(0, len(piece), IN_ONE):
                await request.writer.write(piece[at : at + IN_ONE])
                sent += len(piece[at : at + IN_ONE])
    return SentResponse(status, sent, request.keep_alive and sent == length)
