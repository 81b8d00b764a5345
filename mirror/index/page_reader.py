"""Reading pages of an upstream: at once, in a thread, or, when they are very large, in an isolated process.

The surprise: what an isolated process has read comes back in pieces, since decoding all of it at once would keep the
event loop waiting as long as the process took.
"""

import asyncio
import importlib
from collections.abc import Iterator, Sequence

import msgspec

from mirror.errors import MirrorError, UpstreamProtocolError
from mirror.isolation.processes import IsolatedProcesses, IsolationError
from mirror.model import File, Format, Names, Page, Project, UpstreamResponse

LARGE_PAGE_BYTES = 32 << 10
"""Bytes of a page above which parsing it leaves the event loop."""
THREADS = 1
"""Pages that are parsed in threads at once: threads take turns anyway, and the event loop is one of those who wait."""
ISOLATED_PAGE_BYTES = 4 << 20
"""Bytes of a page above which it is parsed elsewhere; larger genuine ones are rare."""
MOST_NAMES = 5_000_000
"""Names in a list of all projects; the public ones have less than a million."""
PIECE = 2000
"""Files, or names, that are decoded at once: some ten milliseconds."""


class PageReader:
    """Reads the pages of a format."""

    def __init__(self, format: Format, isolated: IsolatedProcesses) -> None:
        self._format = format
        self._isolated = isolated
        self._threads = asyncio.Semaphore(THREADS)

    async def project(self, page: Page, response: UpstreamResponse, source: str = "") -> Project:
        """Return the project that a source lists on a large page. Raises what `read_project` raises."""
        if len(response.body) <= ISOLATED_PAGE_BYTES:
            async with self._threads:
                return await asyncio.to_thread(read_project, self._format, page, response, source)
        content = await self._elsewhere("parse_project", page, response, source)
        async with self._threads:
            return await asyncio.to_thread(self._join_and_check, content)

    def _join_and_check(self, content: bytes) -> Project:
        project = _join_project(content)
        self._format.check_project(project)
        return project

    async def names(self, response: UpstreamResponse) -> Names:
        """Return the names on a list. Raises UpstreamProtocolError."""
        if len(response.body) <= LARGE_PAGE_BYTES:
            return read_names(self._format, response)
        if len(response.body) <= ISOLATED_PAGE_BYTES:
            return await asyncio.to_thread(read_names, self._format, response)
        content = await self._elsewhere("parse_names", Page("names"), response)
        return await asyncio.to_thread(_join_names, content)

    async def _elsewhere(self, function: str, page: Page, response: UpstreamResponse, *more: str) -> bytes:
        facts = msgspec.structs.replace(response, body=b"")
        options = (self._format.name, page.kind, page.name, msgspec.json.encode(facts).decode(), *more)
        try:
            return await self._isolated.run(f"{__name__}:{function}", response.body, *options)
        except IsolationError as error:
            raise UpstreamProtocolError(
                f"The page of {page.name or 'all names'} cannot be read: {error}. It has {len(response.body):,} bytes."
            ) from error


def read_project(format: Format, page: Page, response: UpstreamResponse, source: str) -> Project:
    """Return the project that a source lists on a page, and that can be rendered. Raises anything where it cannot."""
    project = format.parse(page, response, source)
    format.check_project(project)
    return project


def read_names(format: Format, response: UpstreamResponse) -> Names:
    """Return the names on a list of all projects. Raises UpstreamProtocolError when it is none that can be used."""
    try:
        names = format.parse_names(response)
    except MirrorError:
        raise
    except Exception as error:
        raise UpstreamProtocolError(f"The list of projects cannot be used ({type(error).__name__}).") from error
    if len(names.serials) > MOST_NAMES:
        raise UpstreamProtocolError(f"The list of projects has more than {MOST_NAMES:,} names.")
    return names


def parse_project(body: bytes, format: str, kind: str, name: str, facts: str, source: str) -> bytes:
    """Parse a page in this process, and return the project in pieces. Raises UpstreamProtocolError."""
    project = _format(format).parse(Page(kind, name), _response(body, facts), source)
    head = msgspec.structs.replace(project, files=())
    return _pieces(head, (project.files[at : at + PIECE] for at in range(0, len(project.files), PIECE)))


def parse_names(body: bytes, format: str, kind: str, name: str, facts: str) -> bytes:
    """Parse a list in this process, and return the names in pieces. Raises UpstreamProtocolError."""
    names = read_names(_format(format), _response(body, facts))
    listed = list(names.serials.items())
    head = msgspec.structs.replace(names, serials={})
    return _pieces(head, (listed[at : at + 10 * PIECE] for at in range(0, len(listed), 10 * PIECE)))


def _format(name: str) -> Format:
    format: Format = importlib.import_module(f"mirror.{name}").FORMAT
    return format


def _response(body: bytes, facts: str) -> UpstreamResponse:
    return msgspec.structs.replace(msgspec.json.decode(facts, type=UpstreamResponse), body=body)


def _pieces(head: object, rest: Iterator[Sequence[object]]) -> bytes:
    encode = msgspec.msgpack.encode
    return encode([encode(head), *map(encode, rest)])


def _join_project(content: bytes) -> Project:
    head, *pieces = msgspec.msgpack.decode(content, type=list[bytes])
    decoder = msgspec.msgpack.Decoder(list[File])
    files = [file for piece in pieces for file in decoder.decode(piece)]
    return msgspec.structs.replace(msgspec.msgpack.decode(head, type=Project), files=tuple(files))


def _join_names(content: bytes) -> Names:
    head, *pieces = msgspec.msgpack.decode(content, type=list[bytes])
    decoder = msgspec.msgpack.Decoder(list[tuple[str, int | None]])
    serials = {name: serial for piece in pieces for name, serial in decoder.decode(piece)}
    return msgspec.structs.replace(msgspec.msgpack.decode(head, type=Names), serials=serials)
