"""Receiving what clients send: bodies and multipart forms, to disk, within limits of size and time.

A file is written beside the store while it arrives, and never held in memory; unless the store adopts it, it is deleted
at the end of the block. The surprise: a form's file is only read after the caller has accepted the fields before it, so
that no client without a right makes us receive gigabytes.
"""

import asyncio
import os
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import (
    BadContentDispositionHeader,
    BadContentDispositionParam,
    BodyPartReader,
    ClientError,
    MultipartReader,
    hdrs,
    web,
)
from aiohttp.http_exceptions import HttpProcessingError

from mirror.blobs.local import DiskSpace, storage_errors
from mirror.config import LimitsSettings
from mirror.errors import Invalid, TooLarge, Unavailable
from mirror.server.facts import facts_of
from mirror.server.proxies import network_of

STALL_SECONDS = 60.0
"""Seconds for which a client may send nothing."""
SMALL_FORM_BYTES = 64 << 10
"""Bytes of a form without a file."""
CHUNK_BYTES = 256 << 10
"""Bytes of a file's part that are read at once."""
FIELD_CHUNK_BYTES = 32 << 10
"""Bytes of a field's part that are read at once."""
WRITE_BYTES = 1 << 20
"""Bytes that are collected for one write in a thread."""
FIELD_BYTES = 500
"""Bytes that a form's field counts besides its value (measured)."""

_PACKED = ("base64", "quoted-printable")

T = TypeVar("T")

# Of a hostile form, whose text would be printed and kept: what matters of it is checked here.
for _category in (BadContentDispositionHeader, BadContentDispositionParam):
    warnings.filterwarnings("ignore", category=_category)


class IncomingFile:
    """A file that is being received."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.size = 0
        self._fd = fd
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    async def write(self, chunk: bytes) -> None:
        """Append a chunk."""
        self._pending.append(chunk)
        self._pending_bytes += len(chunk)
        self.size += len(chunk)
        if self._pending_bytes >= WRITE_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write all chunks to the file; the store makes them durable."""
        chunks, self._pending, self._pending_bytes = self._pending, [], 0
        if chunks:
            await asyncio.to_thread(self._write, b"".join(chunks))

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        with storage_errors():
            while view:
                view = view[os.write(self._fd, view) :]


@asynccontextmanager
async def incoming(directory: Path) -> AsyncIterator[IncomingFile]:
    """Open a new file, which is deleted at the end of the block unless the store has adopted it. Raises StorageFull."""
    DiskSpace(directory).check()
    with storage_errors():
        fd, name = tempfile.mkstemp(dir=directory, prefix="upload-")
    try:
        yield IncomingFile(Path(name), fd)
    finally:
        os.close(fd)
        Path(name).unlink(missing_ok=True)


class Form(msgspec.Struct, frozen=True):
    """The fields of a form, and the name of its file."""

    fields: dict[str, list[str]]
    filename: str | None
    """The client's name of the file; None when the form has no file."""

    def value(self, name: str) -> str | None:
        """Return the value of a field; None without the field. Raises Invalid when there are several."""
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise Invalid(f"The form has the field {name!r} {len(values)} times.")
        return values[0] if values else None

    def required(self, name: str) -> str:
        """Return the value of a field. Raises Invalid when it is missing, empty, or there several times."""
        value = self.value(name)
        if not value:
            raise Invalid(f"The form has no {name!r}.")
        return value


class FormMemory:
    """The memory for forms while they are received, of all clients together and of each.

    A client is an address, or a network of /64 where that is IPv6.
    """

    def __init__(self, limit_bytes: int, share: float) -> None:
        """`share` is the part of it that one client may take."""
        self._limit = limit_bytes
        self._share = int(limit_bytes * share)
        self.held = 0
        """Bytes that are held now."""
        self._clients: dict[str, int] = {}

    @contextmanager
    def claim(self, client: str) -> Iterator[Callable[[int], None]]:
        """Yield what claims a number of bytes for a client until the end of the block; it raises Unavailable."""
        claimed = 0

        def add(size: int) -> None:
            nonlocal claimed
            theirs = self._clients.get(client, 0) + size
            if size > 0 and (self.held + size > self._limit or theirs > self._share):
                raise Unavailable("Too many forms are being received: come back in a moment.")
            claimed, self.held, self._clients[client] = claimed + size, self.held + size, theirs

        try:
            yield add
        finally:
            self.held -= claimed
            if client in self._clients:
                self._clients[client] -= claimed
                if not self._clients[client]:
                    del self._clients[client]


FORM_MEMORY = web.AppKey("form_memory", FormMemory)
"""The key of an application under which its `FormMemory` is."""

AcceptForm = Callable[[Form], Awaitable[None]]
"""Called with the fields before a file and its name; raises the error with which the client is refused."""


async def read_body(request: web.Request, limit: int) -> bytes:
    """Return a small body. Raises TooLarge, Invalid."""
    _check(request, limit)
    body = bytearray()
    with _memory(request) as claim:
        async for chunk in _chunks(request):
            claim(len(chunk))
            body += chunk
            if len(body) > limit:
                raise TooLarge(f"The body is larger than {limit:,} bytes.")
    return bytes(body)


async def receive_body(request: web.Request, file: IncomingFile, limits: LimitsSettings) -> None:
    """Write the whole body to a file. Raises TooLarge, Invalid, StorageFull."""
    _check(request, limits.upload)
    async for chunk in _chunks(request):
        await file.write(chunk)
        if file.size > limits.upload:
            raise TooLarge(f"The file is larger than {limits.upload:,} bytes, which is the limit here.")
    await file.flush()


async def receive_form(
    request: web.Request, file_field: str, file: IncomingFile, limits: LimitsSettings, accept: AcceptForm
) -> Form:
    """Receive a multipart form: the part `file_field` goes into `file`, the others are text.

    `accept` is awaited before the file is read. Raises TooLarge, Invalid, StorageFull, and what `accept` raises.
    """
    _check(request, limits.upload + limits.form)
    if not request.content_type.startswith("multipart/form-data"):
        raise Invalid("The upload should be a form of the type multipart/form-data.")
    form = Form({}, None)
    count = 0
    try:
        with _memory(request) as claim:
            fields = _Fields(limits.form, claim)
            reader = MultipartReader(request.headers, request.content)
            while (part := await _in_time(reader.next())) is not None:
                count += 1
                if count > limits.form_fields:
                    raise TooLarge(f"The form has more than {limits.form_fields} fields.")
                if not isinstance(part, BodyPartReader) or part.name is None:
                    raise Invalid("The form holds a part that is no field.")
                if part.headers.get(hdrs.CONTENT_TRANSFER_ENCODING, "binary").lower() in _PACKED:
                    raise Invalid("The parts of the form should be sent as they are, without a transfer encoding.")
                if part.name != file_field:
                    form.fields.setdefault(part.name[:200], []).append(await fields.receive(part))
                    continue
                if form.filename is not None:
                    raise Invalid(f"The form has the file {file_field!r} twice.")
                form = Form(form.fields, part.filename or "")
                await accept(form)
                await _receive_part(part, file, limits.upload)
    except (ValueError, AssertionError, RuntimeError, EOFError, HttpProcessingError) as error:
        raise Invalid("The form is malformed or cut off: its lines should end with CR LF (RFC 2046).") from error
    except (ClientError, web.RequestPayloadError, ConnectionError) as error:
        raise Invalid("The client went away in the middle of the form.") from error
    await file.flush()
    return form


class _Fields:
    """The fields of one form, within its limit and what its client may still claim of the memory for forms."""

    def __init__(self, limit_bytes: int, claim: Callable[[int], None]) -> None:
        self._limit = limit_bytes
        self._claim = claim
        self._size = 0

    async def receive(self, part: BodyPartReader) -> str:
        """Return the value of a field. Raises TooLarge, Invalid, Unavailable."""
        self._claim(FIELD_BYTES + 2 * FIELD_CHUNK_BYTES)  # aiohttp holds one chunk back, to look for the boundary
        value = bytearray()
        while chunk := await _in_time(part.read_chunk(FIELD_CHUNK_BYTES)):
            self._claim(len(chunk))
            value += chunk
            if self._size + len(value) > self._limit:
                raise TooLarge(f"The form's fields are larger than {self._limit:,} bytes together.")
        text = _text(bytes(value))
        # One wide character makes all of them wide.
        self._claim(sys.getsizeof(text) - len(value) - 2 * FIELD_CHUNK_BYTES)
        self._size += len(value) + FIELD_BYTES
        return text


async def _receive_part(part: BodyPartReader, file: IncomingFile, limit: int) -> None:
    while chunk := await _in_time(part.read_chunk(CHUNK_BYTES)):
        await file.write(chunk)
        if file.size > limit:
            raise TooLarge(f"The file is larger than {limit:,} bytes, which is the limit here.")


def _memory(request: web.Request) -> AbstractContextManager[Callable[[int], None]]:
    return request.app[FORM_MEMORY].claim(network_of(facts_of(request).client))


def _check(request: web.Request, limit: int) -> None:
    """Raise what a request can be refused with before its body is read."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise Invalid("The body should be sent as it is, without a Content-Encoding.")
    if request.content_length is not None and request.content_length > limit:
        raise TooLarge(f"The body has {request.content_length:,} bytes; {limit:,} is the limit here.")


async def _chunks(request: web.Request) -> AsyncIterator[bytes]:
    try:
        while chunk := await _in_time(request.content.readany()):
            yield chunk
    except (ClientError, web.RequestPayloadError, ConnectionError) as error:
        raise Invalid("The client went away in the middle of the body.") from error


async def _in_time(reading: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(STALL_SECONDS):
            return await reading
    except TimeoutError:
        raise Invalid(f"Nothing has arrived for {STALL_SECONDS:.0f} seconds.") from None


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Invalid("A field of the form is not UTF-8.") from None
