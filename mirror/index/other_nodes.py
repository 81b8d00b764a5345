"""What nodes on other machines have changed, asked of the catalog that all of them share.

An upload that one node has answered must be on the next page that any other one gives. Between the processes of one
machine a number in memory tells; between machines a request asks the catalog, together with all others that came within
20 ms. Most requests need not even do that: what no upload was ever made to, and what needs no credentials, no other
node can change at once. All that is looked at once a second.

The surprise: where several nodes serve, a repository's first upload is answered a few seconds late, once each of them
knows that its readers have to ask. A node that could not look for as long lets all its readers ask until it can.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from mirror.catalog import CatalogHead, FeedTable, Leases
from mirror.catalog.coordination import SERVING
from mirror.errors import StorageUnavailable

logger = logging.getLogger(__name__)

EVERYWHERE = "*"
"""In the place of a repository's name: what other nodes may change at any time, such as a list that all append to."""

QUESTION_SECONDS = 0.02
"""The least time between the beginnings of two questions."""
ANSWER_SECONDS = 3.0
"""How long a request waits for the answer; then it is given what is in memory, marked as stale."""
TRUSTED_SECONDS = 3.0
"""How long after a look nothing needs to be asked where there are no uploads."""
NOTICED_SECONDS = TRUSTED_SECONDS + 0.5
"""How long an upload waits after it became known that its repository has any."""
SETTLED_SECONDS = 60.0
"""Age of a repository's first upload, by the database's clock, from which on every node surely knows of it."""


class OtherNodes:
    """A question to the catalog whether other nodes have changed anything, asked once for many requests."""

    def __init__(
        self, table: FeedTable, leases: Leases, clock: Callable[[], float], look: Callable[[], Awaitable[None]]
    ) -> None:
        """`look` looks at the catalog, reports what is new, and calls `looked`."""
        self._table = table
        self._leases = leases
        self._clock = clock
        self._look = look
        self._uploaded: frozenset[str] = frozenset()
        self._trusted_until = 0.0
        self._next: asyncio.Task[bool] | None = None
        self._asking = asyncio.Lock()
        self._began = 0.0
        self._first_seen: dict[str, float] = {}
        self._settled: set[str] = set()
        self.questions = 0
        """How many have been asked."""

    def concern(self, repository: str, credentials: bool) -> bool:
        """Return whether they may have changed what a request to a repository is answered, so that it has to ask.

        `repository` is empty for what belongs to several, and EVERYWHERE for what changes without uploads.
        """
        if credentials or repository in self._uploaded or time.monotonic() >= self._trusted_until:
            return True
        return repository == EVERYWHERE or (not repository and bool(self._uploaded))

    def looked(self, head: CatalogHead, began: float) -> None:
        """Take in what a look has found that began at a moment of the monotonic clock."""
        self._uploaded = head.uploaded
        self._trusted_until = max(self._trusted_until, began + TRUSTED_SECONDS)

    async def ask(self) -> bool:
        """Report what other nodes have changed before this call; return False where the database does not tell."""
        if self._next is None:
            self._next = asyncio.create_task(self._ask(), name="asking what other nodes have changed")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await asyncio.shield(self._next)
        except TimeoutError:
            logger.warning("The catalog does not tell in time what other nodes have changed: what is here is served.")
            return False

    async def _ask(self) -> bool:
        async with self._asking:
            await asyncio.sleep(self._began + QUESTION_SECONDS - time.monotonic())
            self._next = None  # who comes from now on may know of changes that this question does not see
            self._began = time.monotonic()
            self.questions += 1
            try:
                await self._look()
            except StorageUnavailable:
                logger.debug("the journal cannot be read at the moment")
                return False
            except Exception:
                logger.exception("the journal cannot be read; it is tried again")
                return False
            return True

    async def wait_until_noticed(self, repository: str) -> None:
        """Wait until every node knows that a repository has uploads, which takes some seconds after its first one.

        Raises StorageUnavailable.
        """
        if repository in self._settled or not await self._leases.elsewhere(SERVING, self._clock()):
            return  # who begins to serve from now on looks first
        if await self._table.uploads_age(repository, self._clock()) < SETTLED_SECONDS:
            seen = self._first_seen.setdefault(repository, time.monotonic())
            await asyncio.sleep(seen + NOTICED_SECONDS - time.monotonic())
        self._settled.add(repository)

    async def close(self) -> None:
        """Stop asking."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
