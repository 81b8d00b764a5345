"""The held files and sidecars, as the export needs them: bytes by name. Nothing is written here.

A sidecar that no client has requested so far is made from its file, and not stored.
"""

import hashlib
import logging
from collections.abc import Collection, Mapping

from mirror.blobs import BlobStore
from mirror.catalog import Catalog
from mirror.errors import MirrorError
from mirror.index.freshness import Freshness
from mirror.index.page_store import NAMES
from mirror.index.repository import Repository
from mirror.model import Body, File

logger = logging.getLogger(__name__)


class HeldContent:
    """The held files at the moment when `read` was called."""

    def __init__(self, catalog: Catalog, blobs: BlobStore) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._names: dict[tuple[str, str], dict[str, str]] = {}
        """Source and project → file name → digest."""

    async def read(self) -> None:
        """Read from the catalog what is held."""
        self._names.clear()
        for held in await self._catalog.files.all():
            self._names.setdefault((held.source, held.project), {})[held.filename] = held.digest

    def projects(self, sources: Collection[str]) -> set[str]:
        """Return the projects of which any file from these sources is held."""
        return {project for source, project in self._names if source in sources}

    def of(self, source: str, project: str) -> list[tuple[str, str]]:
        """Return the held names of a project with their digests, sorted."""
        return sorted(self._names.get((source, project), {}).items())

    async def body(self, repository: Repository, project: str, file: File) -> Body | None:
        """Return the bytes of a file; None when they are not held, or are not those that the index promises."""
        local = any(source.local for source in repository.sources if source.name == file.source)
        digest = file.sha256 if local else self._names.get((file.source, project), {}).get(file.filename)
        if digest is None or file.sha256 not in (None, digest):
            return None
        body = await self._blobs.find(digest)
        return body if body is not None and file.size in (None, body.size) else None

    async def sidecar(self, repository: Repository, project: str, file: File, body: Body) -> Body | bytes | None:
        """Return the sidecar of a file, stored or made from the file; None where neither is possible."""
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
        stored = await self._blobs.find(digest) if digest is not None else None
        if stored is not None:
            return stored
        try:
            content = await format.make_sidecar(file, body)
            format.check_sidecar(file, content)
        except MirrorError as error:
            logger.info("%s: %s", file.filename, error)
            return None
        return content


async def index_documents(repository: Repository) -> Mapping[str, bytes]:
    """Return by kind what a repository's one upstream has about all projects besides their names, as it is held.

    With several upstreams there is none: what they list together, none of them has in one page.
    """
    found: dict[str, bytes] = {}
    upstreams = [source for source in repository.sources if not source.local]
    for page in repository.format.index_pages if len(upstreams) == 1 else ():
        if page == NAMES:
            continue
        try:
            if (document := await upstreams[0].document(page, Freshness.HELD)) is not None:
                found[page.kind] = (await document.read()).content
        except MirrorError as error:
            logger.info("the %s of %s are made here: %s", page.kind, repository.name, error)
    return found


def digest_of(content: Body | bytes) -> str:
    """Return the SHA-256 of content."""
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else content.digest


async def bytes_of(content: Body | bytes) -> bytes:
    """Read all of the content. Raises MissingBlob."""
    return content if isinstance(content, bytes) else b"".join([chunk async for chunk in content.read()])
