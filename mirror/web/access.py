"""What a viewer of the pages may see, and the session by which a browser shows who that is."""

from collections.abc import Collection, Mapping

from aiohttp import web

from mirror.auth import ANONYMOUS, Guard, Identity, Scope
from mirror.auth.sessions import session_secret
from mirror.catalog import Accounts
from mirror.errors import MirrorError, Unauthorized


class ViewerAccess:
    """The rights of viewers of the pages, over all repositories."""

    def __init__(self, guard: Guard, accounts: Accounts, repositories: Collection[str], closed: bool) -> None:
        """`closed`: the settings have access rules, so that the state page is for administrators."""
        self._guard = guard
        self._accounts = accounts
        self._repositories = tuple(repositories)
        self._closed = closed

    async def check(self, request: web.BaseRequest, repository: str, project: str) -> None:
        """Raise UnknownProject or Unauthorized unless the viewer may read a project, given by its canonical name."""
        await self._guard.require(request, "read", repository, project)

    async def scopes(self, request: web.BaseRequest) -> dict[str, Scope]:
        """Return what the viewer may read, by repository, where that is anything. Raises Unauthorized."""
        identity = await self._guard.identify(request)
        scopes = {name: self._guard.scope(identity, "read", name) for name in self._repositories}
        readable = {name: scope for name, scope in scopes.items() if not scope.nothing}
        if not readable and not identity.known:
            raise Unauthorized("Reading here needs a token or a password.")
        return readable

    async def require_state(self, request: web.BaseRequest) -> bool:
        """Return whether the viewer is an administrator. Raises Unauthorized or Forbidden if they may not look."""
        admin = self._is_admin(await self._guard.identify(request))
        if not admin and await self._has_accounts():
            await self._guard.require(request, "admin", self._repositories[0], "*")
        return admin

    async def is_known(self, request: web.BaseRequest) -> bool:
        """Return whether the viewer is signed in already. Raises Unauthorized for wrong credentials."""
        return (await self._guard.identify(request)).known

    async def begin_session(self, request: web.BaseRequest, name: str, password: str) -> str:
        """Return the secret of a new session. Raises Unauthorized."""
        return await self._guard.begin_session(request, name, password)

    async def end_session(self, request: web.BaseRequest) -> None:
        """Sign the viewer out."""
        await self._guard.end_session(request)

    async def template_values(self, request: web.BaseRequest) -> Mapping[str, object]:
        """Return what every template needs to know about the viewer."""
        try:
            identity = await self._guard.identify(request)
        except MirrorError:  # the page itself reports it
            identity = ANONYMOUS
        accounts = await self._has_accounts()
        return {
            "user": str(identity) if identity.known else "",
            "can_sign_out": identity.known and bool(session_secret(request)),
            "can_sign_in": not identity.known and accounts,
            "sees_state": not accounts or self._is_admin(identity),
        }

    def _is_admin(self, identity: Identity) -> bool:
        return any(self._guard.scope(identity, "admin", name).everything for name in self._repositories)

    async def _has_accounts(self) -> bool:
        """Return whether there can be administrators; as long as there are none, everyone may see the state."""
        return self._closed or bool(await self._accounts.tokens() or await self._accounts.users())
