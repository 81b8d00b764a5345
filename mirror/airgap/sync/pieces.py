"""What a sync fetches: one file after the other, or many small ones together; known at once, or one after the other."""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Protocol

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


class Told(Protocol):
    """Whoever is told how it went with a piece: it is held now, or there was an error."""

    def __call__(self, piece: SyncFile, error: Exception | None = None, /) -> None: ...


class FetchQueue:
    """Pieces that wait to be fetched, while others may still be added."""

    def __init__(self) -> None:
        self._pieces: deque[SyncFile] = deque()
        self._ended = False
        self._news = asyncio.Event()

    def add(self, pieces: Iterable[SyncFile]) -> None:
        """Let these wait behind the others."""
        self._pieces.extend(pieces)
        self._tell()

    def end(self) -> None:
        """Nothing is added from now on."""
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def waiting(self, least: int = 1) -> int:
        """How many wait, as soon as `least` do or no more will come; 0 when all is over."""
        while len(self._pieces) < least and not self._ended:
            await self._news.wait()
        return len(self._pieces)

    def take(self, most: int) -> list[SyncFile]:
        """The first ones, which wait no longer."""
        return [self._pieces.popleft() for _ in range(min(most, len(self._pieces)))]
