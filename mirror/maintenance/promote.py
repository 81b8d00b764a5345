"""Making this mirror the home of what was uploaded to another one that it follows, once that one is lost.

Files that are held become uploads of this mirror, yanked where they were. The journal gets another identity, so that
those who follow this mirror compare all that both hold: what they had from the lost one's journal says nothing here.

The surprise: the pages of the upstream are read, not those of the repository. Where only a part was promoted before a
kill, the repository already shows that part alone.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

import msgspec

from mirror.errors import MirrorError, NotFound, StorageError
from mirror.index.additions import NewFile
from mirror.index.freshness import Freshness
from mirror.index.publish import Publisher
from mirror.index.source import Source
from mirror.model import Body, File

logger = logging.getLogger(__name__)


class Promotion(msgspec.Struct, frozen=True, kw_only=True):
    """The result for some projects of an upstream."""

    projects: int = 0
    """Those of which a file is an upload here now."""
    files: int = 0
    """Files that have become uploads, or were before."""
    faults: tuple[str, ...] = ()
    """A sentence for each file or project that is not here, or could not be added."""


async def promote(source: Source, publisher: Publisher, projects: Sequence[str], origin: str, by: str) -> Promotion:
    """Make the held files of these projects of an upstream uploads of a repository. Raises StorageError."""
    promoted, files, faults = 0, 0, list[str]()
    for project in projects:
        try:
            listed = (await source.project(project, Freshness.HELD)).project
        except NotFound:
            continue
        except StorageError:
            raise
        except MirrorError as error:
            faults.append(f"{project}: {error}")
            continue
        before = files
        for file in listed.files if listed is not None else ():
            try:
                await _add(source, publisher, project, file, origin, by)
                files += 1
            except StorageError:
                raise
            except MirrorError as error:
                faults.append(f"{file.filename}: {error}")
        promoted += files > before
    return Promotion(projects=promoted, files=files, faults=tuple(faults))


async def _add(source: Source, publisher: Publisher, project: str, file: File, origin: str, by: str) -> None:
    opened = await source.open(project, file)
    async with _copied(opened.body, publisher.incoming) as path:
        kept = await publisher.inspect(file.filename, path)
        uploaded = None if file.uploaded is None else file.uploaded.timestamp()
        (added,) = await publisher.add_all([NewFile(path=path, kept=kept, by=by, origin=origin, uploaded=uploaded)])
        if added.error is not None:
            raise added.error
    if file.yanked is not None:
        await publisher.yank(kept.file.filename, file.yanked)


@asynccontextmanager
async def _copied(body: Body, incoming: Path) -> AsyncIterator[Path]:
    """Provide a file with the bytes of a body, which is deleted unless it was moved away."""
    with NamedTemporaryFile(dir=incoming, prefix="promote-", delete=False) as copy:
        path = Path(copy.name)
        try:
            async for chunk in body.read():
                await asyncio.to_thread(copy.write, chunk)
            await asyncio.to_thread(copy.flush)
            yield path
        finally:
            path.unlink(missing_ok=True)
