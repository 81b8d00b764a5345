"""The changes of upstreams that are held back from the published log until policy has seen them.

Policy decides about the files on a page, and an upstream's list shows only that a page has changed: the page is fetched
first. The log goes on listing a gem as before while its page cannot be fetched.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from mirror.errors import MirrorError
from mirror.index.repository import Repository
from mirror.policy import concerns, named_projects
from mirror.rubygems.log.versions_map import VersionsMap

logger = logging.getLogger(__name__)

MOST_REVIEWED = 5000
"""The most gems that are held back at once; when more have changed, none of them is."""
REVIEWED_AT_ONCE = 8
RETRY_SECONDS = 60.0
"""After which a page that could not be fetched is tried again."""

Look = Callable[[str], Awaitable[MirrorError | None]]
"""Bring a gem's page before policy; return the error if the page cannot be fetched now."""
Report = Callable[[frozenset[str], frozenset[str]], Awaitable[object]]
"""Called with the gems of one round and with those that could not be fetched; leads to `end`."""


class PolicyReview:
    """The gems of one repository that wait for its policy."""

    def __init__(self, repository: Repository, clock: Callable[[], float] = time.time) -> None:
        self.held_back: frozenset[str] = frozenset()
        """The gems that the log goes on listing as before."""
        self.waiting: frozenset[str] = frozenset()
        """Those of them whose pages are not being fetched."""
        self._due_at = 0.0
        self._repository = repository
        self._clock = clock

    @property
    def due(self) -> bool:
        """Whether a gem waits whose page may be fetched now."""
        return bool(self.waiting) and self._clock() >= self._due_at

    @property
    def policy_applies(self) -> bool:
        """Whether the repository has any rule at all."""
        return bool(self._repository.policy.rules + self._repository.policy.allow_rules)

    def hold_back(self, names: Iterable[str]) -> None:
        """Hold back what upstream changed, as far as any rule may concern it."""
        policy = self._repository.policy
        concerned = frozenset(name for name in names if concerns(policy, name))
        if len(concerned) <= MOST_REVIEWED:
            self.waiting |= concerned
            self.held_back |= concerned
        else:
            logger.warning("%d gems have changed: policy sees each when a client requests it", len(concerned))

    def named(self, listed: VersionsMap) -> list[str]:
        """Return the listed gems that rules name, in case the log still lists what they forbid.

        What rules forbid in general (a cooldown of all gems) is noticed when upstream changes a gem, or when a client
        requests its page: to look at all gems of a public index would take two hundred thousand requests.
        """
        return [name for name in sorted(named_projects(self._repository.policy)) if name in listed][:MOST_REVIEWED]

    async def run(self, look: Look, report: Report) -> None:
        """Fetch the pages that wait, in rounds, until none is left but those that cannot be fetched now."""
        failed: set[str] = set()
        slots = asyncio.Semaphore(REVIEWED_AT_ONCE)

        async def review(name: str) -> None:
            async with slots:
                if error := await look(name):
                    logger.info("the change of %s is held back: %s", name, error)
                    failed.add(name)

        while names := self.waiting - failed:
            self.waiting -= names
            try:
                await asyncio.gather(*map(review, sorted(names)))
            except BaseException:
                self.end(names, failed | names)
                raise
            await report(names, frozenset(failed))

    def end(self, names: frozenset[str], failed: Iterable[str]) -> None:
        """Let the log list the gems of a round as they are now; those that failed go on waiting."""
        failed = frozenset(failed)
        self.waiting |= names & failed
        self.held_back = self.held_back - names | self.waiting
        self._due_at = self._clock() + RETRY_SECONDS if failed else 0.0
