"""Sending a file whose size is not known yet: in chunks, which end only when the file has ended whole.

After RFC 9112 section 7.1. A client of HTTP/1.0 knows no chunks: for it the end is the end of the connection.
"""

from aiohttp import web
from aiohttp.http import HttpVersion11

from mirror.errors import MirrorError
from mirror.server.facts import facts_of
from mirror.server.respond import FileRepresentation, SentResponse, ended, finish_head, make_head, own_headers
from mirror.server.rules import ResponseRules, fixed_lines


async def respond_growing(
    request: web.BaseRequest, representation: FileRepresentation, rules: ResponseRules
) -> web.StreamResponse:
    """Respond with a file as it comes. Raises what reading its first bytes raises, before anything is sent."""
    assert representation.file is not None
    headers = own_headers(representation, rules, "identity", facts_of(request).outcome)
    headers.append(("Content-Type", representation.media_type))
    chunked = request.version >= HttpVersion11
    if chunked:
        headers.append(("Transfer-Encoding", "chunked"))
    head = make_head(200, headers, fixed_lines(rules, representation.media_type))
    chunks = representation.file.read()
    first = await anext(chunks, b"")
    sent, whole = len(first), False
    try:
        await request.writer.write(finish_head(head, request) + _framed(first, chunked))
        async for chunk in chunks:
            await request.writer.write(_framed(chunk, chunked))
            sent += len(chunk)
        if chunked:
            await request.writer.write(b"0\r\n\r\n")
        whole = True
    except (MirrorError, ConnectionError):
        pass  # what broke off is logged where it did; a client that left is no news
    finally:
        await chunks.aclose()  # type: ignore[attr-defined]  # every body reads by a generator
    if not whole:
        return ended(request, 200, sent, sent + 1)
    return ended(request, 200, sent, sent) if chunked else SentResponse(200, sent, keep_alive=False)


def _framed(chunk: bytes, chunked: bool) -> bytes:
    return b"%x\r\n%b\r\n" % (len(chunk), chunk) if chunked and chunk else chunk
