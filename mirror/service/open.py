"""The one way to open what is stored: to serve, to work alone, to write beside a running mirror, or to read.

    async with open_mirror(settings, Mode.BESIDE) as opened:
        await opened.catalog.accounts.remove_token("ci")

The surprise: only the catalog is opened at once. Publishers and the whole mirror are imported and made on first use, as
are the directories of blobs, so that a command that changes one row starts quickly and leaves nothing else behind.
"""

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from mirror.blobs import BlobStore
from mirror.config import Settings
from mirror.service.directory import lock
from mirror.service.store import Store

if TYPE_CHECKING:
    from mirror.index.publish import Publisher
    from mirror.service.endpoints import Endpoints
    from mirror.service.services import Mirror


class Mode(Enum):
    """The purpose for which a process opens the store."""

    SERVE = "serve"
    """Listen and answer, with all background jobs; holds the data directory's lock."""
    ALONE = "alone"
    """Work as the mirror without listening; holds the data directory's lock."""
    BESIDE = "beside"
    """Write while a mirror may be running, which notices by the journal; a mirror made here may ask upstreams."""
    READ_ONLY = "read only"
    """Read while a mirror may be running; a mirror made here is offline."""


class OpenMirror:
    """The open parts of a mirror, for the length of the block of `open_mirror`."""

    def __init__(self, settings: Settings, store: Store, stack: AsyncExitStack) -> None:
        """`stack` closes what is made later."""
        self.settings = settings
        self.store = store
        self.catalog = store.catalog
        self.records = store.records
        self.journal = store.journal
        self.urls: Sequence[str] = ()
        """Where it listens: nowhere but in SERVE."""
        self.endpoints: Endpoints | None = None
        """What answers there."""
        self._stack = stack
        self._mirror: Mirror | None = None

    @property
    def blobs(self) -> BlobStore:
        """The bytes of files; their directories are made on first use."""
        return self.store.blobs

    @cached_property
    def publishers(self) -> "Mapping[str, Publisher]":
        """The publisher of each repository's uploads, by the repository's name."""
        from mirror.service.publishers import publishers

        return publishers(self.settings, self.store)

    async def mirror(self) -> "Mirror":
        """Return the mirror of these settings over the store, made on the first call."""
        if self._mirror is None:
            from mirror.service.services import Activity, Mirror

            activity = Activity(self.store)
            self._stack.push_async_callback(activity.statistics.flush)
            await self.store.journal.open()
            made = Mirror(self.settings, self.store, activity)
            self._stack.push_async_callback(made.close)
            self._stack.push_async_callback(activity.transfers.close, 0)
            await made.open()
            self._mirror = made
        return self._mirror


@asynccontextmanager
async def open_mirror(
    settings: Settings, mode: Mode, *, clock: Callable[[], float] = time.time
) -> AsyncIterator[OpenMirror]:
    """Open what the settings name, until the end of the block; what is made meanwhile ends with it, newest first.

    Raises ConfigError when the data directory, or in SERVE an address, is taken or cannot be used, and OSError when
    the catalog cannot be opened.
    """
    async with AsyncExitStack() as stack:
        if mode is Mode.SERVE:
            from mirror.service.process import Service

            service = Service(settings, clock)
            await service.start()
            stack.push_async_callback(service.stop, politely=False)
            opened = OpenMirror(settings, service.store, stack)
            opened.urls, opened._mirror = service.urls, service.mirror
            opened.endpoints = service.generation.endpoints
            yield opened
            return
        if mode is Mode.ALONE:
            stack.callback(os.close, lock(settings.data_dir))
        if mode is Mode.READ_ONLY:
            settings = settings.model_copy(update={"offline": True})
        store = Store(settings, clock)
        stack.push_async_callback(store.close)
        await store.open()
        opened = OpenMirror(settings, store, stack)
        if mode is Mode.ALONE:
            await store.clean()
            await (await opened.mirror()).start()
        yield opened
