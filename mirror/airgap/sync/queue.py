"""The files of a sync on their way: what is to be fetched, and the queue in which it waits."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol

import msgspec

from mirror.model import File


class SyncFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file that is needed, with its sidecar."""

    repository: str
    project: str
    file: File

    @property
    def key(self) -> tuple[str, str, str]:
        return self.repository, self.project, self.file.filename


class FetchCallback(Protocol):
    """Called for each file: without an error when it is held now."""

    def __call__(self, file: SyncFile, error: Exception | None = None, /) -> None: ...


class FetchQueue:
    """Files that wait to be fetched, while others may still be added."""

    def __init__(self) -> None:
        self._files: deque[SyncFile] = deque()
        self._ended = False
        self._changed = asyncio.Event()

    def add(self, files: Iterable[SyncFile]) -> None:
        """Append files."""
        self._files.extend(files)
        self._notify()

    def end(self) -> None:
        """Declare that no more files will be added."""
        self._ended = True
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def waiting(self, least: int = 1) -> int:
        """Return how many files wait, as soon as `least` do or no more will be added; 0 when the queue has ended."""
        while len(self._files) < least and not self._ended:
            await self._changed.wait()
        return len(self._files)

    def take(self, most: int) -> list[SyncFile]:
        """Remove and return the first files."""
        return [self._files.popleft() for _ in range(min(most, len(self._files)))]


async def together(*work: Coroutine[Any, Any, None]) -> None:
    """Run coroutines concurrently. When one fails, cancel the others and raise its error without an ExceptionGroup."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for one in work:
                tasks.create_task(one)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
