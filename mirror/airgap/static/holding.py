"""What is held, as the export needs it: bytes by name, and what files say of themselves. Nothing is written here.

Also a sidecar that nobody has asked for so far is found: it is made from the file, and not kept.
"""

import hashlib
import logging
from collections.abc import Collection

from mirror.blobs import BlobStore
from mirror.catalog import Catalog
from mirror.errors import MirrorError, MissingBlob
from mirror.index.repository import Repository
from mirror.model import Body, File

logger = logging.getLogger(__name__)


class HeldContent:
    """The held files, as they were when `read` was called."""

    def __init__(self, catalog: Catalog, blobs: BlobStore) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._names: dict[tuple[str, str], dict[str, str]] = {}
        """Source and project → file name → digest."""

    async def read(self) -> None:
        """See what is held."""
        self._names.clear()
        for held in await self._catalog.files.all():
            self._names.setdefault((held.source, held.project), {})[held.filename] = held.digest

    def projects(self, sources: Collection[str]) -> set[str]:
        """The projects of which anything from these sources is held."""
        return {project for source, project in self._names if source in sources}

    def of(self, source: str, project: str) -> list[tuple[str, str]]:
        """The names that are held of a project with their digests, in order."""
        return sorted(self._names.get((source, project), {}).items())

    async def body(self, project: str, file: File) -> Body | None:
        """The bytes of a file; None when they are not held, or not as many as there should be."""
        digest = file.sha256 or self._names.get((file.source, project), {}).get(file.filename)
        if digest is None:
            return None
        try:
            body = await self._blobs.open(digest)
        except MissingBlob:
            return None
        return body if file.size in (None, body.size) else None

    async def sidecar(self, repository: Repository, project: str, file: File, body: Body) -> Body | bytes | None:
        """What a file says of itself: as it is kept, or read out of the file; None where nobody can."""
        source = next(one for one in repository.sources if one.name == file.source)
        format = repository.format
        if source.local:
            try:
                return (await source.sidecar(project, file)).body
            except MirrorError:
                return None
        if not format.has_sidecar(file):
            return None
        digest = self._names.get((file.source, project), {}).get(format.sidecar_name(file))
        if digest is not None:
            try:
                return await self._blobs.open(digest)
            except MissingBlob:
                pass  # then it is made again
        try:
            content = await format.sidecar_make(file, body)
            format.sidecar_check(file, content)
        except MirrorError as error:
            logger.info("%s: %s", file.filename, error)
            return None
        return content


def digest_of(content: Body | bytes) -> str:
    """Its SHA-256."""
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else content.digest


async def bytes_of(content: Body | bytes) -> bytes:
    """All of it. Raises MissingBlob."""
    return content if isinstance(content, bytes) else b"".join([chunk async for chunk in content.read()])
