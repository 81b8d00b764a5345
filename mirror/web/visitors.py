"""Who looks at the pages, and what they may see. Nobody is kept in mind: each request says who it is from."""

from collections.abc import Collection, Mapping

from aiohttp import web

from mirror.auth import ANONYMOUS, Guard, Identity, Scope
from mirror.catalog import Accounts
from mirror.errors import MirrorError, Unauthorized


class ViewerAccess:
    """What those who look at pages may see."""

    def __init__(self, guard: Guard, accounts: Accounts, repositories: Collection[str], closed: bool) -> None:
        """`closed`: the settings say who may do what, so that the state of the mirror is for administrators."""
        self._guard = guard
        self._accounts = accounts
        self._repositories = tuple(repositories)
        self._closed = closed

    async def check(self, request: web.BaseRequest, repository: str, project: str) -> None:
        """Raises UnknownProject, or Unauthorized, unless who asks may read the project, by its canonical name."""
        await self._guard.require(request, "read", repository, project)

    async def scopes(self, request: web.BaseRequest) -> dict[str, Scope]:
        """What who asks may read, by repository; those of which they may read nothing left out. Raises Unauthorized."""
        identity = await self._guard.identify(request)
        scopes = {name: self._guard.scope(identity, "read", name) for name in self._repositories}
        readable = {name: scope for name, scope in scopes.items() if not scope.nothing}
        if not readable and not identity.known:
            raise Unauthorized("Reading here needs a token or a password.")
        return readable

    async def sees_state(self, request: web.BaseRequest) -> bool:
        """Whether who asks is an administrator. Raises Unauthorized or Forbidden, unless they may see the state."""
        admin = self._administers(await self._guard.identify(request))
        if not admin and await self._has_accounts():
            await self._guard.require(request, "admin", self._repositories[0], "*")
        return admin

    async def sign_in(self, request: web.BaseRequest) -> None:
        """Raises Unauthorized unless it is known who asks."""
        if not (await self._guard.identify(request)).known:
            raise Unauthorized("Sign in with your user name and password, or with `__token__` and a token.")

    async def told(self, request: web.BaseRequest) -> Mapping[str, object]:
        """What every page says of who looks at it."""
        try:
            identity = await self._guard.identify(request)
        except MirrorError:  # the page may say so itself
            identity = ANONYMOUS
        accounts = await self._has_accounts()
        return {
            "who": str(identity) if identity.known else "",
            "can_sign_in": not identity.known and accounts,
            "sees_state": not accounts or self._administers(identity),
        }

    def _administers(self, identity: Identity) -> bool:
        """Whether somebody may do everything in some repository."""
        return any(self._guard.scope(identity, "admin", name).everything for name in self._repositories)

    async def _has_accounts(self) -> bool:
        """Whether anybody can be an administrator: as long as nobody can, everybody sees the state of the mirror."""
        return self._closed or bool(await self._accounts.tokens() or await self._accounts.users())
