"""Project summaries: read from a sidecar or a document of the project, and cached.

A page waits for one only so long: a summary that upstream sends slowly is fetched in the background, and is there when
the page is loaded again.
"""

import asyncio
from collections.abc import Callable

from mirror.errors import Invalid, MirrorError, NotFound
from mirror.index.cache import BoundedCache, MemoryBudget
from mirror.index.repository import View
from mirror.model import File, ProjectSummary
from mirror.web import views
from mirror.web.projects import BrowsableRepository

WAIT_SECONDS = 8.0
"""How long a page waits for a summary."""
SIDECAR_BYTES = 8 << 20
PARSE_INLINE_BYTES = 32 << 10
"""Up to this size, parsing takes less time than the hop to a thread."""
CACHE_CHARACTERS = 4 << 20
ENTRY_CHARACTERS = 1000
"""What an entry of the cache is taken to need besides its description."""
REASON_CHARACTERS = 300


class ProjectSummaries:
    """A cache of project summaries."""

    def __init__(self, wait_seconds: float = WAIT_SECONDS) -> None:
        self._wait_seconds = wait_seconds
        self._cache: BoundedCache[tuple[str, str, str, str], ProjectSummary] = BoundedCache(
            MemoryBudget(CACHE_CHARACTERS)
        )

    async def get(self, browsable: BrowsableRepository, view: View, file: File) -> tuple[ProjectSummary, str]:
        """Return the summary of the version that a file belongs to, and the reason if it is incomplete. Never raises.

        An incomplete summary holds only what the index lists about the file.
        """
        key = (browsable.name, view.project.name, file.filename, file.sha256 or "")
        cached = self._cache.value(key)
        if cached is not None:
            return cached, ""
        from_index = browsable.ecosystem.summaries().from_index
        try:
            async with asyncio.timeout(self._wait_seconds):
                summary = await _read(browsable, view, file)
        except TimeoutError:
            return from_index(file), "Upstream is slow to answer; reload the page in a while."
        except MirrorError as error:
            return from_index(file), views.printable(error, REASON_CHARACTERS)
        if summary is None:
            return from_index(file), ""
        self._cache.put(key, summary, ENTRY_CHARACTERS + len(summary.description))
        return summary, ""


async def _read(browsable: BrowsableRepository, view: View, file: File) -> ProjectSummary | None:
    repository, project, summaries = browsable.repository, view.project.name, browsable.ecosystem.summaries()
    if repository.format.has_sidecar(file):
        _, opened = await repository.sidecar(project, file.filename)
        if opened.body.size > SIDECAR_BYTES:
            raise Invalid("The metadata of this version is too large to be shown.")
        content = b"".join([chunk async for chunk in opened.body.read()])
        return await _parse(summaries.from_sidecar, file, content)
    page = summaries.document(project, file)
    document = await repository.document(view, page) if page else None
    return await _parse(summaries.from_document, file, (await document.read()).content) if document else None


async def _parse(parse: Callable[[File, bytes], ProjectSummary], file: File, content: bytes) -> ProjectSummary:
    return parse(file, content) if len(content) <= PARSE_INLINE_BYTES else await asyncio.to_thread(parse, file, content)


def select_version(browsable: BrowsableRepository, view: View, requested: str) -> tuple[str, str, File | None]:
    """Return the newest version, the version to show, and the file whose metadata describes it. Raises NotFound."""
    versions = _versions(view)
    if requested and requested not in versions:
        name = views.printable(view.project.name, 80)
        raise NotFound(f"{name} has no version {views.printable(requested, 80)!r} here.")
    summaries = browsable.ecosystem.summaries()
    newest_file = summaries.file_to_read(view.project)
    newest = newest_file.version if newest_file else max(versions, key=browsable.ecosystem.versions.key, default="")
    version = requested or newest
    return newest, version, summaries.file_to_read(view.project, version)


def _versions(view: View) -> set[str]:
    withheld = {verdict.file.version for verdict in view.withheld.values()}
    return {*view.project.versions, *withheld, *(file.version for file in view.project.files)}
