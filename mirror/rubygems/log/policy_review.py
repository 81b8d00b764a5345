"""The gems that upstreams have changed, held back from the published log until policy has seen them.

Policy judges a page, and an upstream's list only says that a page has changed: the page is fetched first. What cannot
be had waits, and the log goes on to say of the gem what it says. What is not here: policy itself, and the log.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

from mirror.errors import MirrorError
from mirror.index.repository import Repository
from mirror.policy import concerns, named
from mirror.rubygems.log.versions_map import VersionsMap

logger = logging.getLogger(__name__)

MOST_JUDGED = 5000
"""The most gems whose changes wait in one go until policy has seen them; when there are more, none of them does."""
JUDGED_AT_ONCE = 8
PAUSE = 60.0
"""Seconds after which what could not be had is tried again."""


class PolicyReview:
    """What of one repository waits for its policy."""

    def __init__(
        self,
        repository: Repository,
        look: Callable[[str], Awaitable[MirrorError | None]],
        judged: Callable[[set[str]], Awaitable[object]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`look` has policy see a gem's page, or gives why it cannot be had now; `judged` is told what it has seen."""
        self.waiting: set[str] = set()
        """The gems that policy has not seen yet, and is not looking at."""
        self._looked_at: set[str] = set()
        """Those that it is looking at."""
        self._due_at = 0.0
        self._repository = repository
        self._look = look
        self._judged = judged
        self._clock = clock

    @property
    def held_back(self) -> set[str]:
        """The gems of which the log goes on to say what it says."""
        return self.waiting | self._looked_at

    @property
    def busy(self) -> bool:
        """Whether any gem is held back."""
        return bool(self.waiting or self._looked_at)

    @property
    def due(self) -> bool:
        """Whether something waits that is not known to be out of reach."""
        return bool(self.waiting) and self._clock() >= self._due_at

    def hold_back(self, names: Iterable[str]) -> None:
        """Let policy see what upstream changed, before the log says it."""
        policy = self._repository.policy
        concerned = {name for name in names if concerns(policy, name)}
        if len(concerned) <= MOST_JUDGED:
            self.waiting |= concerned
        else:
            logger.warning("%d gems have changed: policy looks at each as it is asked for", len(concerned))

    def named(self, log: VersionsMap) -> list[str]:
        """The gems that policy means by name, in case the log still says what it forbids.

        What it forbids in general (a cooldown of all gems) is noticed as upstream changes a gem, or as somebody asks
        for its page: looking at all gems of a public index would be two hundred thousand requests.
        """
        return [name for name in sorted(named(self._repository.policy)) if name in log][:MOST_JUDGED]

    async def judge(self) -> None:
        """Look at what waits, and let the log say it; what cannot be had now waits for longer."""
        failed: set[str] = set()
        slots = asyncio.Semaphore(JUDGED_AT_ONCE)

        async def judge(name: str) -> None:
            async with slots:
                if error := await self._look(name):
                    logger.info("the change of %s waits: %s", name, error)
                    failed.add(name)

        while names := self.waiting - failed:
            self.waiting -= names
            self._looked_at = names
            try:
                await asyncio.gather(*map(judge, sorted(names)))
            except BaseException:
                failed |= names
                raise
            finally:
                self.waiting |= names & failed
                self._looked_at = set()
                self._due_at = self._clock() + PAUSE if failed else 0.0
            await self._judged(names - failed)
