"""Responding: conditions, ranges, encodings and cache headers, once for everything that is served.

A handler passes a `Representation` (a file, a page, a log) to `respond` with the `ResponseRules` of its kind. Responses
from memory are one write, and files of some size leave by `sendfile`. Any other body is written as it can be read. When
bytes are missing at the end, the connection is aborted, so that no client takes a part for the whole.
"""

import asyncio
import base64
import contextlib
import functools
import weakref
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime
from typing import TypeVar

from aiohttp import web
from msgspec import structs

from mirror.blobs.local import http_date
from mirror.errors import MirrorError, MissingBlob
from mirror.index.cache import Validity
from mirror.index.repository import Repository
from mirror.index.source import OpenFile, Wanted
from mirror.model import Body, File
from mirror.server.connection import connection_of, date_line
from mirror.server.facts import facts_of
from mirror.server.negotiate import (
    choose_encoding,
    is_short_range,
    matches_etag,
    parse_range,
    range_applies,
    unmodified,
)
from mirror.server.replay import Replay, SharedBytes
from mirror.server.representation import Chunk, Representation
from mirror.server.rules import FILE, PROVISIONAL_FILE, ResponseRules, fixed_lines, private
from mirror.server.sendfile import sendfile

SENDFILE_BYTES = 256 << 10
"""Bytes from which a file leaves by sendfile; below, one read and one write cost less."""
REPLAY_COPY_BYTES = 64 << 10
"""Bytes up to which a copy of a body stays in memory for replays."""
WRITE_BYTES = 256 << 10
"""Bytes that are buffered for one client before it has taken some of them."""
EVICTED_ATTEMPTS = 4
"""How often a request is handled whose file is evicted each time."""
EVICTED_PAUSE_SECONDS = 0.02
"""Seconds by which the pause before each further attempt is longer: a transfer needs a moment to end."""

R = TypeVar("R")
Handler = Callable[[R, web.Request], Awaitable[web.StreamResponse]]

_REASONS = {
    200: "OK",
    206: "Partial Content",
    302: "Found",
    304: "Not Modified",
    416: "Range Not Satisfiable",
}


class FileRepresentation(Representation):
    """A file or sidecar, whose ETag is its SHA-256."""

    def __init__(self, body: Body, media_type: str, modified: str | None = None) -> None:
        """`modified` stands in for the body's own date."""
        self.file = body
        self.media_type = media_type
        self.modified = modified or body.modified
        self.size = body.size

    def etag_of(self, encoding: str) -> str:
        assert self.file is not None
        return self.file.digest

    async def encode(self, encoding: str) -> int:
        return self.size

    def chunks(self, encoding: str, start: int, stop: int) -> Sequence[Chunk]:
        return ()


class PreparedResponse(web.StreamResponse):
    """A response whose head is already bytes: what is served from memory costs one write."""

    def __init__(
        self,
        status: int,
        head: bytes,
        chunks: Sequence[Chunk] = (),
        validity: Validity | None = None,
        shared: SharedBytes | None = None,
    ) -> None:
        """With a `validity`, the response is replayed for as long as that holds, if its body is one bytes object.

        `shared` is what keeps the body, where that is a cache which counts it.
        """
        super().__init__(status=status)
        self._validity = validity
        self._shared = shared
        self._head = head
        self._chunks = chunks
        self._sent = False

    @property
    def body_length(self) -> int:
        return sum(map(len, self._chunks))

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write everything. Called by aiohttp after the handler has returned."""
        if self._sent:
            return
        self._sent = True
        self._keep_alive = request.keep_alive
        if self._validity is not None and len(self._chunks) <= 1:
            self._remember(self._validity, request)
        head = finish_head(self._head, request)
        if self.body_length <= WRITE_BYTES:
            await request.writer.write(b"".join((head, *self._chunks)))
            return
        # In steps, as the client takes them: a hundred slow readers of a large page must not each hold a copy.
        await request.writer.write(head)
        for chunk in self._chunks:
            content = memoryview(chunk)
            for start in range(0, len(content), WRITE_BYTES):
                await request.writer.write(content[start : start + WRITE_BYTES])

    def _remember(self, validity: Validity, request: web.BaseRequest) -> None:
        body = self._chunks[0] if self._chunks else b""
        connection = connection_of(request)
        if connection is not None and connection.keeps_replay and isinstance(body, bytes):
            replay = Replay(validity, self.status, self._head, len(body), facts_of(request), body)
            if (kept := self._shared) is not None:
                facts = structs.replace(replay.facts, client="", agent="", request_id="")  # each time those of a client
                replay = structs.replace(replay, facts=facts, content=b"", shared=weakref.ref(kept), stored=kept.stored)
            connection.remember(replay)

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


async def respond(
    request: web.BaseRequest, representation: Representation, rules: ResponseRules, validity: Validity | None = None
) -> web.StreamResponse:
    """Respond to a GET or HEAD with a representation, or the part of it that the client asks for.

    The outcome among the request's facts goes into X-Mirror-Cache. The response is replayed while `validity` holds.
    Raises what reading the first byte of a file raises.
    """
    facts = facts_of(request)
    if facts.private:
        rules = private(rules)
    wanted = request.headers.get("Range") if rules.ranges else None
    encoding = "identity"
    if rules.encodings and wanted is None and representation.compressible:
        encoding = choose_encoding(request.headers.get("Accept-Encoding", ""), rules.encodings)
    outcome = facts.outcome
    headers = request.headers
    if encoding != "identity" and "If-None-Match" in headers:
        plain = f'"{representation.etag_of("identity")}"'  # which is what the first client of a small page has
        encoding = "identity" if matches_etag(headers["If-None-Match"], plain) else encoding
    etag = f'"{representation.etag_of(encoding)}"'
    part = None
    if wanted is not None and range_applies(headers, etag, representation.modified):
        part = parse_range(wanted, representation.size, rules.suffix_ranges)
    conditional = "If-None-Match" in headers or "If-Modified-Since" in headers
    if conditional and unmodified(headers, etag, representation.modified):
        # 304 wins over Range (rule 4), unless the range does not begin at the last byte that the client must have.
        if part is None or not rules.heals or part[0] == max(0, representation.size - 1):
            return PreparedResponse(304, _head(representation, rules, 304, encoding, outcome), (), validity)
        part = None
    if part is not None and part[0] >= representation.size:
        if rules.unsatisfiable == 416:
            return PreparedResponse(416, _part_head(representation, rules, outcome, None))
        part = None
    if part is None:
        start, stop, status = 0, await representation.encode(encoding), 200
        head = _head(representation, rules, 200, encoding, outcome, stop)
    else:
        (start, stop), status = part, 206
        head = _part_head(representation, rules, outcome, part)
    if request.method == "HEAD" or start == stop:
        return PreparedResponse(status, head, (), validity)
    if representation.file is not None:
        return await _send_file(request, status, head, representation.file, (start, stop), validity)
    chunks = representation.chunks(encoding, start, stop)
    shared = representation.shared(encoding) if representation.cached and part is None else None
    if stop - start <= WRITE_BYTES and (len(chunks) > 1 or not isinstance(chunks[0], bytes)):
        chunks, shared = (b"".join(chunks),), None  # a copy, which nothing else keeps
    if shared is None and stop - start > REPLAY_COPY_BYTES:
        validity = None
    return PreparedResponse(status, head, chunks, validity, shared)


async def respond_file(
    request: web.BaseRequest,
    repository: Repository,
    project: str,
    file: File,
    opened: OpenFile,
    *,
    media_type: str,
    public: bool,
    uploaded: datetime | None = None,
) -> web.StreamResponse:
    """Respond with a file of a project that was just opened, or with its sidecar.

    `public` is whether everyone may read it; `uploaded` stands in for the body's own date.
    """
    facts = facts_of(request)
    facts.outcome = opened.outcome
    if facts.kind == "file" and await repository.removed(project, file.filename):
        facts.removed = file.source, project, file.filename
    # A removed file is never replayed: each client that fetches it is recorded.
    held = opened.outcome in ("hit", "offline") and facts.removed is None and not opened.provisional
    representation = FileRepresentation(opened.body, media_type, http_date(uploaded.timestamp()) if uploaded else None)
    validity = repository.validity(project, file) if held else None
    facts.private = facts.private or not public
    rules = PROVISIONAL_FILE if opened.provisional else FILE
    if opened.growing:
        from mirror.server.growing import respond_growing  # which uses this module

        return await respond_growing(request, representation, private(rules) if facts.private else rules)
    return await respond(request, representation, rules, validity)


def wanted_of(request: web.Request) -> Wanted:
    """Return how much of a file has to be at hand for the response to a request."""
    if request.method == "HEAD":
        return "head"
    wanted = request.headers.get("Range")
    if wanted is None:
        return "stream"
    return "part" if is_short_range(wanted) else "whole"


def retry_if_evicted(handler: Handler[R]) -> Handler[R]:
    """Handle a request again when its file went away between being found and being opened, as when it is evicted.

    Until then nothing has been sent. With a store that is far too small the same can happen to the file that is fetched
    anew.
    """

    @functools.wraps(handler)
    async def handle(routes: R, request: web.Request) -> web.StreamResponse:
        for number in range(EVICTED_ATTEMPTS - 1):
            with contextlib.suppress(MissingBlob):
                return await handler(routes, request)
            await asyncio.sleep(number * EVICTED_PAUSE_SECONDS)
        return await handler(routes, request)

    return handle


# Heads


def _head(
    representation: Representation, rules: ResponseRules, status: int, encoding: str, outcome: str, length: int = 0
) -> bytes:
    """Return the head of a 200, whose body has `length` bytes, or of a 304; made once for a page that is kept."""
    key = status, encoding, outcome, rules.is_private
    head = representation.heads.get(key)
    if head is None:
        headers = own_headers(representation, rules, encoding, outcome)
        if status == 200:
            headers += [("Content-Type", representation.media_type), ("Content-Length", str(length))]
            if encoding != "identity":
                headers.append(("Content-Encoding", encoding))
        head = make_head(status, headers, fixed_lines(rules, representation.media_type))
        if representation.cached:
            representation.keep_head(key, head)
    return head


def _part_head(
    representation: Representation, rules: ResponseRules, outcome: str, part: tuple[int, int] | None
) -> bytes:
    """Return the head of a 206, or of a 416 without a part."""
    headers = own_headers(representation, rules, "identity", outcome)
    fixed = fixed_lines(rules, representation.media_type)
    if part is None:
        headers += [("Content-Range", f"bytes */{representation.size}"), ("Content-Length", "0")]
        return make_head(416, headers, fixed)
    start, stop = part
    headers += [
        ("Content-Type", representation.media_type),
        ("Content-Length", str(stop - start)),
        ("Content-Range", f"bytes {start}-{stop - 1}/{representation.size}"),
    ]
    return make_head(206, headers, fixed)


def own_headers(
    representation: Representation, rules: ResponseRules, encoding: str, outcome: str
) -> list[tuple[str, str]]:
    """Return the headers of a representation that are sent with every status, beside `fixed_lines`."""
    headers = [*representation.headers]
    if tag := representation.etag_of(encoding):
        headers.append(("ETag", f'"{tag}"'))
    if rules.digests:
        headers += digest_headers(representation.sha256).items()
    if representation.modified:
        headers.append(("Last-Modified", representation.modified))
    if outcome:
        headers.append(("X-Mirror-Cache", outcome))
    return headers


def digest_headers(sha256: bytes) -> dict[str, str]:
    """Return both digest headers of an identity body, RFC 9530 and the older RFC 3230, from its raw SHA-256."""
    text = base64.b64encode(sha256).decode()
    return {"Repr-Digest": f"sha-256=:{text}:", "Digest": f"sha-256={text}"}


def make_head(status: int, headers: Iterable[tuple[str, str]], fixed: str = "") -> bytes:
    """Return status line and header lines, `fixed` among them, without Date and the empty line at the end."""
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}{fixed}"]
    for name, value in headers:
        if "\r" in value or "\n" in value:
            raise ValueError(f"a line break in the header {name}")
        lines.append(f"{name}: {value}")
    return "\r\n".join(lines).encode("latin-1", "replace")


def finish_head(head: bytes, request: web.BaseRequest) -> bytes:
    """Return a head with what depends on the moment and the connection."""
    return head + date_line() if request.keep_alive else head + b"\r\nConnection: close" + date_line()


async def _send_file(
    request: web.BaseRequest, status: int, head: bytes, body: Body, part: tuple[int, int], validity: Validity | None
) -> web.StreamResponse:
    start, stop = part
    facts = facts_of(request)
    if body.location is not None and facts.kind == "file":
        # What is signed expires, and may be meant for this client alone: no one keeps it.
        headers = [("Location", body.location), ("Content-Length", "0"), ("X-Mirror-Cache", facts.outcome)]
        return PreparedResponse(302, make_head(302, [*headers, ("Cache-Control", "no-store")]))
    if body.path is not None and stop - start < SENDFILE_BYTES:
        content = b"".join([chunk async for chunk in body.read(start, stop)])
        return PreparedResponse(status, head, (content,), validity if len(content) <= REPLAY_COPY_BYTES else None)
    if body.path is not None and request.transport is not None and not request.secure:
        # A transfer that has just ended can still read a file which has gone again; a held blob cannot.
        with contextlib.suppress(FileNotFoundError):
            sent = await sendfile(request.transport, finish_head(head, request), body.path, start, stop)
            return ended(request, status, sent, stop - start)
    return await _stream(request, status, head, body, start, stop)


async def _stream(
    request: web.BaseRequest, status: int, head: bytes, body: Body, start: int, stop: int
) -> web.StreamResponse:
    """Send the bytes [start, stop) of a body as they can be read. Raises what reading the first of them raises."""
    chunks = body.read(start, stop)
    # The head waits for the first chunk, so that what fails before it is still an error with a status.
    first = await anext(chunks, b"")
    sent = 0
    try:
        await request.writer.write(finish_head(head, request) + first)
        sent = len(first)
        async for chunk in chunks:
            await request.writer.write(chunk)
            sent += len(chunk)
    except (MirrorError, ConnectionError):
        pass  # what broke off is logged where it did; a client that left is no news
    finally:
        await chunks.aclose()  # type: ignore[attr-defined]  # every body reads by a generator
    return ended(request, status, sent, stop - start)


class SentResponse(web.StreamResponse):
    """A response that has been sent already, for a handler to return."""

    def __init__(self, status: int, length: int, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._length = length
        self._keep_alive = keep_alive

    @property
    def body_length(self) -> int:
        return self._length

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing is left to write."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


def ended(request: web.BaseRequest, status: int, sent: int, length: int) -> SentResponse:
    """Return what a handler returns once writing has ended; where bytes are missing, abort the connection."""
    if sent == length:
        return SentResponse(status, sent, request.keep_alive)
    if request.transport is not None:
        request.transport.abort()
    return SentResponse(status, sent, False)
