"""Files of an upstream: held by their digest, verified on their way in; and their sidecars, fetched or made."""

import logging
from contextlib import suppress

from mirror.blobs import BlobStore, MemoryBody, StoredBlob
from mirror.catalog import Catalog, HeldFile
from mirror.errors import (
    Invalid,
    NoSidecar,
    NotFound,
    Offline,
    StorageFull,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamUnavailable,
)
from mirror.index.cache import LoadingCache, MemoryBudget, SingleFlight
from mirror.index.journal import Journal
from mirror.index.source import OpenFile, SourceOptions, name_of_upstream
from mirror.model import Body, File, Format
from mirror.transfer import Transfers
from mirror.upstream import Upstream

logger = logging.getLogger(__name__)

HELD_BYTES = 800
"""Bytes that the row of a held file takes in memory (measured)."""


class UpstreamFiles:
    """The files of one upstream."""

    def __init__(
        self,
        format: Format,
        upstream: Upstream,
        catalog: Catalog,
        blobs: BlobStore,
        transfers: Transfers,
        journal: Journal,
        memory: MemoryBudget,
        options: SourceOptions,
    ) -> None:
        self._name = name_of_upstream(upstream)
        self._format = format
        self._upstream = upstream
        self._catalog = catalog
        self._blobs = blobs
        self._transfers = transfers
        self._journal = journal
        self._offline = options.offline
        self._clock = options.clock
        self._held: LoadingCache[str, dict[str, HeldFile]] = LoadingCache(memory, lambda held: HELD_BYTES * len(held))
        """What is held of a project, by file name."""
        self._opening: SingleFlight[tuple[str, str, str | None], OpenFile] = SingleFlight()
        self._making: SingleFlight[tuple[str, str], OpenFile] = SingleFlight()

    async def open(self, project: str, file: File) -> OpenFile:
        """Return the bytes of a file, held or on their way in. Raises Offline, UpstreamError."""
        digest = file.digests.get("sha256")
        if digest is not None and (digest,) not in self._transfers.running:
            held = await self._blobs.find(digest)
            if held is not None and file.size in (None, held.size):
                self._catalog.files.note_use(self._name, project, file.filename, self._clock())
                return OpenFile(held, "offline" if self._offline else "hit")
        # The other look-ups are part of the flight: a running transfer keeps the loop busy, and clients that came with
        # the first one would wait for the catalog behind its bytes.
        key = (project, file.filename, digest)
        opened, joined = await self._opening.run(key, lambda: self._open(project, file))
        return OpenFile(opened.body, "joined") if joined and opened.outcome == "miss" else opened

    async def _open(self, project: str, file: File) -> OpenFile:
        held = None if self._transfers.runs(file) else await self._held_file(project, file)
        if held:
            self._catalog.files.note_use(self._name, project, file.filename, self._clock())
            return OpenFile(held, "offline" if self._offline else "hit")
        if self._offline:
            raise Offline(f"{file.filename} is not held here, and this mirror is offline.")

        async def record(blob: StoredBlob) -> None:
            await self._record(project, file.filename, blob)

        body, joined = await self._transfers.open(file, self._upstream, record)
        return OpenFile(body, "joined" if joined else "miss")

    async def _held_file(self, project: str, file: File) -> Body | None:
        """Return the held bytes of a file; None when there are none, or not as many as there should be."""
        body = await self._held_body(project, file.filename, file.digests.get("sha256"))
        return body if body and file.size in (None, body.size) else None

    async def _held_body(self, project: str, filename: str, digest: str | None) -> Body | None:
        """Return the held bytes under a name, found by digest; None when there are none (any more)."""
        if digest is None:
            held = await self._held_row(project, filename)
            if held is None:
                return None
            digest = held.digest
        body = await self._blobs.find(digest)
        if body is None:
            self._held.forget(project)
            row = await self._catalog.files.get(self._name, project, filename)
            if row is not None and row.digest == digest:  # else it is held with other bytes
                logger.error("the blob of %s has vanished from the store; it is fetched again", filename)
                with suppress(StorageFull):  # then it stays known as one that has vanished
                    await self._catalog.files.forget(self._name, project, filename)
        return body

    async def _held_row(self, project: str, filename: str) -> HeldFile | None:
        async def read() -> dict[str, HeldFile]:
            return {held.filename: held for held in await self._catalog.files.of_project(self._name, project)}

        known = await self._held.get(project, read) or {}
        # What is not known may be there all the same: a sync records many files without reporting each.
        return known.get(filename) or await self._catalog.files.get(self._name, project, filename)

    async def _record(self, project: str, filename: str, blob: StoredBlob, kind: str = "file") -> None:
        held = HeldFile(
            source=self._name,
            project=project,
            filename=filename,
            digest=blob.digest,
            size=blob.size,
            stored=self._clock(),
        )
        try:
            serial = await self._catalog.files.add(held, kind)
        except StorageFull as error:
            logger.warning("%s is kept, but not entered in the catalog: %s", filename, error)
            return
        if (known := self._held.peek(project)) is not None:
            self._held.put(project, known | {filename: held})
        else:
            self._held.forget(project)  # it may be being read
        self._journal.own_serials.append(serial)
        self._journal.news.set()

    async def sidecar(self, project: str, file: File) -> OpenFile:
        """Return the sidecar of a file. Raises NoSidecar, Offline, UpstreamError."""
        name = self._format.sidecar_name(file)
        held = await self._held_body(project, name, None)
        if held:
            return OpenFile(held, "offline" if self._offline else "hit")
        opened, joined = await self._making.run((project, name), lambda: self._obtain_sidecar(project, name, file))
        return OpenFile(opened.body, "joined") if joined else opened

    async def _obtain_sidecar(self, project: str, name: str, file: File) -> OpenFile:
        """Make the sidecar from a held file or one at upstream, or fetch it; store and return it."""
        held = await self._held_file(project, file)
        content = await self._made(file, held) if held else None
        if content is None:
            content = await self._fetch_sidecar(file)
        if content is None:
            try:
                content = await self._format.make_sidecar(file, held or await self._readable(project, file))
            except Invalid as error:
                logger.warning("%s has no sidecar: %s", file.filename, error)
                raise NoSidecar(project, name) from error
        try:
            blob = await self._blobs.write(content)
        except StorageFull as error:
            logger.warning("%s is passed on without being kept: %s", name, error)
            return OpenFile(MemoryBody.of(content), "miss")
        await self._record(project, name, blob, "sidecar")
        return OpenFile(await self._blobs.open(blob.digest), "miss")

    async def _made(self, file: File, held: Body) -> bytes | None:
        """Return the sidecar made from a held file, when it is what the index promises."""
        try:
            content = await self._format.make_sidecar(file, held)
            self._format.check_sidecar(file, content)
        except (Invalid, UpstreamProtocolError):
            return None
        return content

    async def _fetch_sidecar(self, file: File) -> bytes | None:
        request = self._format.request_for_sidecar(self._upstream.url, file)
        if request is None or self._offline:
            return None
        try:
            response = await self._upstream.get(request)
            assert response is not None, "an unconditional request has a response"
            self._format.check_sidecar(file, response.body)
        except (NotFound, UpstreamError) as error:
            logger.warning("%s; it is made from %s itself", error, file.filename)
            return None
        return response.body

    async def _readable(self, project: str, file: File) -> Body:
        """Return a file that is not held for reading parts of it: by ranges from upstream, or fetched whole."""
        if not self._offline:
            try:
                return await self._upstream.open_ranges(file)
            except UpstreamUnavailable:
                raise
            except UpstreamError as error:
                logger.info("%s: %s; it is fetched whole", file.filename, error)
        return (await self.open(project, file)).body

    def forget(self, project: str) -> None:
        """Read again what is held of a project, since someone else has changed it."""
        self._held.forget(project)

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._held.close()
        await self._opening.close()
        await self._making.close()
