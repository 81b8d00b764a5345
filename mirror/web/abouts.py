"""What projects say of themselves, got from a sidecar or a document of theirs, and remembered.

A page waits for it only so long: what an upstream is slow to say goes on being fetched, and is there the next time.
"""

import asyncio
from collections.abc import Callable

from mirror.errors import Invalid, MirrorError, NotFound
from mirror.index.cache import BoundedCache
from mirror.index.repository import View
from mirror.model import File, ProjectSummary
from mirror.web import views
from mirror.web.browsing import BrowsableRepository

PATIENCE = 8.0
"""Seconds that a page waits."""
SIDECAR_LIMIT = 8 << 20
IN_LOOP = 32 << 10
"""Bytes up to which reading them is quicker than the hop to a thread."""
REMEMBERED = 4 << 20
"""Characters of descriptions that are kept."""


class ProjectSummaries:
    """Asks, and remembers."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._memory: BoundedCache[tuple[str, str, str, str], ProjectSummary] = BoundedCache(REMEMBERED)

    async def of(self, shelf: BrowsableRepository, view: View, file: File) -> tuple[ProjectSummary, str]:
        """What the project says of itself in the version of a file, and why that may be little. Never raises."""
        key = (shelf.name, view.project.name, file.filename, file.sha256 or "")
        known = self._memory.get(key)
        if known is not None:
            return known, ""
        summaries = shelf.ecosystem.summaries()
        try:
            async with asyncio.timeout(self._patience):
                about = await _told(shelf, view, file)
        except TimeoutError:
            return shelf.ecosystem.summaries().from_index(
                file
            ), "Upstream is slow to say more; reload the page in a while."
        except MirrorError as error:
            return summaries.from_index(file), views.told(error, 300)
        if about is None:
            return summaries.from_index(file), ""
        self._memory.put(key, about, 1000 + len(about.description))
        return about, ""


async def _told(shelf: BrowsableRepository, view: View, file: File) -> ProjectSummary | None:
    repository, project = shelf.repository, view.project.name
    if repository.format.has_sidecar(file):
        _, opened = await repository.sidecar(project, file.filename)
        if opened.body.size > SIDECAR_LIMIT:
            raise Invalid("What the project says of itself is too large to be shown.")
        content = b"".join([chunk async for chunk in opened.body.read()])
        return await _parsed(shelf.ecosystem.summaries().from_sidecar, file, content)
    document = shelf.ecosystem.summaries().document(project, file)
    answer = await repository.document(view, document) if document else None
    return await _parsed(shelf.ecosystem.summaries().from_document, file, answer.body) if answer else None


async def _parsed(parse: Callable[[File, bytes], ProjectSummary], file: File, content: bytes) -> ProjectSummary:
    return parse(file, content) if len(content) <= IN_LOOP else await asyncio.to_thread(parse, file, content)


def version_shown(shelf: BrowsableRepository, view: View, wanted: str) -> tuple[str, str, File | None]:
    """The newest version, the one to show, and the file that stands for that one. Raises NotFound."""
    versions = _versions(view)
    if wanted and wanted not in versions:
        raise NotFound(f"{views.told(view.project.name, 80)} has no version {views.told(wanted, 80)!r} here.")
    newest_file = shelf.ecosystem.summaries().file_to_read(view.project)
    newest = newest_file.version if newest_file else max(versions, key=shelf.ecosystem.versions.key, default="")
    version = wanted or newest
    return newest, version, shelf.ecosystem.summaries().file_to_read(view.project, version)


def _versions(view: View) -> set[str]:
    return {*view.project.versions, *(verdict.file.version for verdict in view.withheld.values())} | {
        file.version for file in view.project.files
    }
