"""Sidecars of an upstream's files: made from a held file, fetched, or read out of a remote file by ranges.

The surprise: what was neither promised by a digest nor made from the verified file is provisional. A host of files can
invent it, so it is compared once the file itself is held, and replaced where it differs.
"""

import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from mirror.catalog import HeldFile
from mirror.errors import (
    Invalid,
    NoSidecar,
    NotFound,
    StorageError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror.index.cache import SingleFlight
from mirror.index.source import OpenFile, SourceOptions, name_of_upstream
from mirror.model import Body, File, Format, Outcome
from mirror.transfer import SmallFile, flight_name
from mirror.upstream import Upstream

logger = logging.getLogger(__name__)


T = TypeVar("T")


class HeldFiles(Protocol):
    """The held files of an upstream, as far as sidecars need them."""

    async def open(self, project: str, file: File) -> OpenFile:
        """Return the bytes of a file, held or on their way in. Raises Offline, UpstreamError."""

    async def held(self, project: str, file: File) -> Body | None:
        """Return the held bytes of a file; None when there are none, or not those that its index lists."""

    async def body_of(self, row: HeldFile) -> Body | None:
        """Return the bytes of what is held; None when there are none any more."""

    async def row(self, project: str, filename: str) -> HeldFile | None:
        """Return what is held under a name."""

    async def linked(self, project: str, file: File, work: Callable[[File], Awaitable[T]]) -> T:
        """Return the result of `work(file)`; once more with a new link when the one of the page is refused or gone."""

    async def keep(self, project: str, filename: str, small: SmallFile, kind: str = "file") -> None:
        """Store small bytes and record that they are held under a name. Raises StorageError, for the former alone."""


class UpstreamSidecars:
    """The sidecars of one upstream's files."""

    def __init__(self, format: Format, upstream: Upstream, files: HeldFiles, options: SourceOptions) -> None:
        self._format = format
        self._upstream = upstream
        self._files = files
        self._offline = options.offline
        self._flights = options.flights
        self._clock = options.clock
        self._making: SingleFlight[tuple[str, str], OpenFile] = SingleFlight(at_once=True)

    async def open(self, project: str, file: File) -> OpenFile:
        """Return the sidecar of a file. Raises NoSidecar, Offline, UpstreamError."""
        name = self._format.sidecar_name(file)
        row = await self._files.row(project, name)
        held = None if row is None else await self._usable(project, file, row)
        if held is not None:
            return held
        opened, joined = await self._making.run((project, name), lambda: self._obtain_once(project, file, name, row))
        return OpenFile(opened.body, "joined", opened.provisional) if joined else opened

    async def _held(self, project: str, file: File, name: str) -> OpenFile | None:
        """Return the sidecar that is held; None where there is none, or one that is older than its file."""
        row = await self._files.row(project, name)
        return None if row is None else await self._usable(project, file, row)

    async def _usable(self, project: str, file: File, row: HeldFile) -> OpenFile | None:
        """Return the sidecar of a row; None where its bytes are missing, or older than its file."""
        if (body := await self._files.body_of(row)) is not None:
            made_from = None if self._is_promised(file, row.digest) else await self._files.row(project, file.filename)
            if made_from is None or made_from.stored <= row.stored:
                provisional = made_from is None and not self._is_promised(file, row.digest)
                return OpenFile(body, self._hit, provisional)
        return None

    async def _obtain_once(self, project: str, file: File, name: str, row: HeldFile | None) -> OpenFile:
        """Make or fetch the sidecar; one of several processes does. `row` is of an older one."""

        async def obtain() -> OpenFile:
            return await self._files.linked(project, file, lambda linked: self._obtain(project, name, linked, row))

        if self._flights is None:
            return await obtain()
        flight = flight_name("sidecar", name_of_upstream(self._upstream), project, name)
        return await self._flights.once(flight, lambda: self._held(project, file, name), obtain)

    @property
    def _hit(self) -> Outcome:
        return "offline" if self._offline else "hit"

    def _is_promised(self, file: File, digest: str) -> bool:
        """Return whether the index promises that the sidecar has this SHA-256."""
        return self._format.sidecar_digest(file) == digest

    async def _obtain(self, project: str, name: str, file: File, row: HeldFile | None) -> OpenFile:
        """Make the sidecar from a held file or one at upstream, or fetch it; store and return it.

        `row` is of the sidecar that was kept before its file was.
        """
        held = await self._files.held(project, file)
        content = await self._made(file, held) if held else None
        kept = None if row is None else await self._files.body_of(row)
        if content is None and kept is not None:  # the file does not say otherwise
            content = b"".join([chunk async for chunk in kept.read()])
        elif content is None:
            content = await self._fetched_or_made(project, name, file, held)
        sidecar = SmallFile(content, hashlib.sha256(content).hexdigest(), int(self._clock()))
        try:
            await self._files.keep(project, name, sidecar, "sidecar")
        except StorageError as error:
            logger.warning("%s is passed on without being kept: %s", name, error)
            return OpenFile(sidecar.body, "miss", provisional=True)
        if kept is not None and kept.digest != sidecar.digest:
            logger.warning("%s was not what %s has: it is replaced", name, file.filename)
        provisional = held is None and not self._is_promised(file, sidecar.digest)
        return OpenFile(sidecar.body, "miss", provisional)

    async def _fetched_or_made(self, project: str, name: str, file: File, held: Body | None) -> bytes:
        content = await self._fetch(project, file)
        if content is not None:
            return content
        try:
            return await self._format.make_sidecar(file, held or await self._readable(project, file))
        except Invalid as error:
            logger.warning("%s has no sidecar: %s", file.filename, error)
            raise NoSidecar(project, name) from error

    async def _made(self, file: File, held: Body) -> bytes | None:
        """Return the sidecar made from a held file, when it is what the index promises."""
        try:
            content = await self._format.make_sidecar(file, held)
            self._format.check_sidecar(file, content)
        except (Invalid, UpstreamProtocolError):
            return None
        return content

    async def _fetch(self, project: str, file: File) -> bytes | None:
        """Return the sidecar as the index promises it; None where it does not, or it is not to be had."""

        async def fetch(linked: File) -> bytes | None:
            request = self._format.request_for_sidecar(self._upstream.url, linked)
            if request is None or self._offline:
                return None
            response = await self._upstream.get(request)
            assert response is not None, "an unconditional request has a response"
            self._format.check_sidecar(linked, response.body)
            return response.body

        try:
            return await self._files.linked(project, file, fetch)
        except (NotFound, UpstreamError) as error:
            logger.warning("%s; it is made from %s itself", error, file.filename)
            return None

    async def _readable(self, project: str, file: File) -> Body:
        """Return a file that is not held for reading parts of it: by ranges from upstream, or fetched whole."""
        if not self._offline:
            try:
                return await self._upstream.open_ranges(file)
            except (UpstreamUnavailable, UpstreamRefused):
                raise
            except UpstreamError as error:
                logger.info("%s: %s; it is fetched whole", file.filename, error)
        return (await self._files.open(project, file)).body

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._making.close()
