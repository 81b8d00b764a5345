"""Taking in what clients send: bodies and multipart forms, to disk, within limits of size and time.

The counterpart of `send.py`. A file is written beside the store while it arrives and never held in memory; whatever is
not adopted by the store is gone when the block ends. What surprises: a form's file is only read after the caller has
seen the fields before it and has agreed, so that nobody without a right makes us take gigabytes.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
from aiohttp import BodyPartReader, ClientError, MultipartReader, hdrs, web

from mirror.blobs import storage_errors
from mirror.blobs.room import Room
from mirror.config import LimitsSettings
from mirror.errors import Invalid, TooLarge

STALL = 60.0
"""Seconds for which a client may send nothing."""
SMALL = 1 << 20
"""Bytes of a form without a file."""

T = TypeVar("T")

_PIECE = 256 << 10
_PENDING = 1 << 20  # bytes that wait for one write in a thread


class Incoming:
    """A file on its way in."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.size = 0
        self._fd = fd
        self._pending: list[bytes] = []
        self._waiting = 0

    async def write(self, chunk: bytes) -> None:
        """Take a piece of it."""
        self._pending.append(chunk)
        self._waiting += len(chunk)
        self.size += len(chunk)
        if self._waiting >= _PENDING:
            await self.flush()

    async def flush(self) -> None:
        """Have it all in the file; it is the store that makes it durable."""
        pieces, self._pending, self._waiting = self._pending, [], 0
        if pieces:
            await asyncio.to_thread(self._write, b"".join(pieces))

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        with storage_errors():
            while view:
                view = view[os.write(self._fd, view) :]


@asynccontextmanager
async def incoming(directory: Path) -> AsyncIterator[Incoming]:
    """A new file, gone at the end of the block unless the store has taken it away by then. Raises StorageFull."""
    Room(directory).check()
    with storage_errors():
        fd, name = tempfile.mkstemp(dir=directory, prefix="upload-")
    try:
        yield Incoming(Path(name), fd)
    finally:
        os.close(fd)
        Path(name).unlink(missing_ok=True)


class Form(msgspec.Struct, frozen=True):
    """A form that was read."""

    fields: dict[str, list[str]]
    filename: str | None
    """As the client calls the file; None when the form has none."""

    def one(self, name: str) -> str | None:
        """The field's value, None without the field. Raises Invalid when it is there more than once."""
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise Invalid(f"The form has the field {name!r} {len(values)} times.")
        return values[0] if values else None

    def needed(self, name: str) -> str:
        """The field's value. Raises Invalid unless it is there once, with something in it."""
        value = self.one(name)
        if not value:
            raise Invalid(f"The form has no {name!r}.")
        return value


Agree = Callable[[Form], Awaitable[None]]
"""Called with the fields before a file and its name; raises what the client is refused with."""


async def read_body(request: web.Request, limit: int) -> bytes:
    """A small body, whole. Raises TooLarge, Invalid."""
    _check(request, limit)
    body = bytearray()
    async for chunk in _chunks(request):
        body += chunk
        if len(body) > limit:
            raise TooLarge(f"The body is larger than {limit:,} bytes.")
    return bytes(body)


async def receive_body(request: web.Request, file: Incoming, limits: LimitsSettings) -> None:
    """The whole body as a file. Raises TooLarge, Invalid, StorageFull."""
    _check(request, limits.upload)
    async for chunk in _chunks(request):
        await file.write(chunk)
        if file.size > limits.upload:
            raise TooLarge(f"The file is larger than {limits.upload:,} bytes, which is the limit here.")
    await file.flush()


async def receive_form(
    request: web.Request, file_field: str, file: Incoming, limits: LimitsSettings, agree: Agree
) -> Form:
    """A multipart form: the part `file_field` goes into `file`, the others are text. Raises TooLarge, Invalid, …

    `agree` is awaited before the file is read.
    """
    _check(request, limits.upload + limits.form)
    if not request.content_type.startswith("multipart/form-data"):
        raise Invalid("The upload should be a form of the type multipart/form-data.")
    form = Form({}, None)
    size = count = 0
    try:
        reader = MultipartReader(request.headers, request.content)
        while (part := await _in_time(reader.next())) is not None:
            if not isinstance(part, BodyPartReader) or part.name is None:
                raise Invalid("The form holds a part that is no field.")
            count += 1
            if count > limits.form_fields:
                raise TooLarge(f"The form has more than {limits.form_fields} fields.")
            if part.headers.get(hdrs.CONTENT_TRANSFER_ENCODING, "binary").lower() in ("base64", "quoted-printable"):
                raise Invalid("The parts of the form should be sent as they are, without a transfer encoding.")
            if part.name == file_field:
                if form.filename is not None:
                    raise Invalid(f"The form has the file {file_field!r} twice.")
                form = Form(form.fields, part.filename or "")
                await agree(form)
                await _receive_part(part, file, limits.upload)
                continue
            value = bytearray()
            while chunk := await _in_time(part.read_chunk(_PIECE)):
                value += chunk
                size += len(chunk)
                if size > limits.form:
                    raise TooLarge(f"The form's fields are larger than {limits.form:,} bytes together.")
            form.fields.setdefault(part.name[:200], []).append(_text(bytes(value)))
            size += 100  # what a field costs, however short
    except (ValueError, AssertionError, RuntimeError, EOFError) as error:
        raise Invalid("The form is malformed or cut off.") from error
    except (ClientError, web.RequestPayloadError, ConnectionError) as error:
        raise Invalid("The client went away in the middle of the form.") from error
    await file.flush()
    return form


async def _receive_part(part: BodyPartReader, file: Incoming, limit: int) -> None:
    while chunk := await _in_time(part.read_chunk(_PIECE)):
        await file.write(chunk)
        if file.size > limit:
            raise TooLarge(f"The file is larger than {limit:,} bytes, which is the limit here.")


def _check(request: web.Request, limit: int) -> None:
    """What can be refused before anything is read."""
    if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise Invalid("Another site's page may not send anything here.")
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
        async with asyncio.timeout(STALL):
            return await reading
    except TimeoutError:
        raise Invalid(f"Nothing has arrived for {STALL:.0f} seconds.") from None


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Invalid("A field of the form is not UTF-8.") from None
