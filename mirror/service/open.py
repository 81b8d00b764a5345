"""The one way to open what is stored: to serve, to work alone, to write beside a running mirror, or to look.

    async with open_mirror(settings, Mode.BESIDE) as opened:
        await opened.catalog.accounts.remove_token("ci")

What a command does not touch is neither imported nor made: the catalog is opened at once, the blobs' directories, the
publishers and the whole mirror only when they are asked for.
"""

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

from mirror.config import Settings
from mirror.service.directory import lock
from mirror.service.store import Store

if TYPE_CHECKING:
    from mirror.blobs.local import LocalBlobs
    from mirror.catalog import Catalog
    from mirror.index.journal import Journal
    from mirror.index.publish import Publisher
    from mirror.index.records import Records
    from mirror.service.services import Mirror


class Mode(Enum):
    """What a process is going to do with what is stored."""

    SERVE = "serve"
    """Listen and answer, with all background jobs; holds the data directory's lock."""
    ALONE = "alone"
    """Work as the mirror without listening; holds the data directory's lock."""
    BESIDE = "beside"
    """Write while a mirror may be running, which notices by the journal; a mirror made here may ask upstreams."""
    READ_ONLY = "read only"
    """Look while a mirror may be running; a mirror made here is offline."""


class OpenMirror:
    """What is open, for the length of the block of `open_mirror`."""

    def __init__(self, settings: Settings, store: Store, stack: AsyncExitStack) -> None:
        self.settings = settings
        self.store = store
        self.urls: Sequence[str] = ()
        """Where it listens: nowhere but in SERVE."""
        self._stack = stack
        self._mirror: Mirror | None = None

    @property
    def catalog(self) -> "Catalog":
        """The catalog."""
        return self.store.catalog

    @property
    def blobs(self) -> "LocalBlobs":
        """The bytes of files."""
        return self.store.blobs

    @property
    def records(self) -> "Records":
        """The records beside uploads."""
        return self.store.records

    @property
    def journal(self) -> "Journal":
        """What changed, in order."""
        return self.store.journal

    @cached_property
    def publishers(self) -> "Mapping[str, Publisher]":
        """What changes the uploads of each repository, by the repository's name."""
        from mirror.service.services import publishers

        return publishers(self.settings, self.store)

    async def mirror(self) -> "Mirror":
        """Return the mirror of these settings over the store, made on the first call."""
        if self._mirror is None:
            from mirror.service.activity import Activity
            from mirror.service.services import Mirror

            activity = await self._stack.enter_async_context(Activity(self.store))
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
