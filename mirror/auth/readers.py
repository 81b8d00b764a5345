"""Reading: what the routes of a repository ask, and which clients may read the same.

Clients that may read the same share the responses that are kept for them (`mirror.server.replay`). So what a client may
read, in all repositories, gets a number.
"""

from collections.abc import Collection, Iterable
from itertools import count
from typing import Protocol

from aiohttp import web

from mirror.auth.rights import ANONYMOUS, Identity, Scope
from mirror.model import Right

MAX_RIGHTS = 10_000
"""Different rights that are numbered at a time; they are those of accounts, not of requests."""


class Authorizer(Protocol):
    """Decides what clients may do; `mirror.auth.guard` has the one."""

    def scope(self, identity: Identity, right: Right, repository: str) -> Scope:
        """Return the projects of a repository on which an identity has a right."""

    async def require(self, request: web.BaseRequest, right: Right, repository: str, project: str) -> Identity:
        """Return who sends a request. Raises Unauthorized, Forbidden and UnknownProject."""

    async def readable(self, request: web.BaseRequest, repository: str) -> Scope:
        """Return what the sender of a request may read in a repository. Raises Unauthorized."""


class ReadAccess:
    """Checks whether a client may read one repository, for its routes."""

    def __init__(self, guard: Authorizer, repository: str) -> None:
        self._guard = guard
        self._repository = repository
        self.public = guard.scope(ANONYMOUS, "read", repository)
        """The projects that everyone may read."""
        self.open = self.public.everything
        """Whether everyone may read everything, so that no client has to be checked."""

    async def check(self, request: web.BaseRequest, project: str) -> None:
        """Raise UnknownProject or Unauthorized unless the client may read a project, given by its canonical name."""
        if not self.open:
            await self._guard.require(request, "read", self._repository, project)

    async def scope(self, request: web.BaseRequest) -> Scope:
        """Return what the client may read, for lists and searches. Raises Unauthorized."""
        return self.public if self.open else await self._guard.readable(request, self._repository)


class RightsNumbers:
    """The numbers of what clients may read. A number is never given to anything else."""

    def __init__(self, repositories: Collection[str]) -> None:
        """`repositories` are all there are."""
        self.repositories = tuple(repositories)
        self._numbers: dict[tuple[Scope, ...], int] = {}
        self._free = count(1)

    def of(self, scopes: Iterable[Scope]) -> int:
        """Return the number of what may be read in each of the repositories; 0 when there are none."""
        key = tuple(scopes)
        number = self._numbers.get(key) if key else 0
        if number is None:
            if len(self._numbers) >= MAX_RIGHTS:
                self._numbers.clear()
            number = self._numbers[key] = next(self._free)
        return number
