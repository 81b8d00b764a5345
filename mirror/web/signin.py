"""Signing in and out, for the pages for people."""

from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import parse_qsl

from aiohttp import web

from mirror.auth.sessions import keep_session
from mirror.errors import Invalid, MirrorError, Unauthorized
from mirror.server.receive import read_body
from mirror.web.access import ViewerAccess

FORM_BYTES = 10_000
"""The longest form with a name and a password."""
MAX_FIELDS = 10


class RenderPage(Protocol):
    """Renders a template for the viewer who sends a request."""

    def __call__(
        self, request: web.Request, template: str, status: int = 200, /, **values: object
    ) -> Awaitable[web.Response]:
        """Return the page."""


class SignIn:
    """The handlers of `/-/signin` and `/-/signout`."""

    def __init__(
        self,
        access: ViewerAccess,
        page: RenderPage,
        error_page: Callable[[web.Request, MirrorError], Awaitable[web.StreamResponse]],
    ) -> None:
        self._access = access
        self._page = page
        self._error_page = error_page

    def table(self) -> list[web.RouteDef]:
        """Return the routes, to be added to an application."""
        return [
            web.get("/-/signin", self.form),
            web.post("/-/signin", self.sign_in),
            web.post("/-/signout", self.sign_out),
        ]

    async def form(self, request: web.Request) -> web.StreamResponse:
        """Ask for a name and a password."""
        if await self._access.is_known(request):
            raise web.HTTPSeeOther("projects/", headers={"Cache-Control": "no-store"})
        return await self._page(request, "signin.html", section="", title="Sign in", message="")

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """Begin a session for a name with its password, or with a token."""
        try:
            fields = await _fields(request)
            secret = await self._access.begin_session(request, fields.get("name", ""), fields.get("password", ""))
        except Unauthorized as error:
            return await self._page(request, "signin.html", 401, section="", title="Sign in", message=str(error))
        except MirrorError as error:
            return await self._error_page(request, error)
        response = web.Response(status=303, headers={"Location": "projects/", "Cache-Control": "no-store"})
        keep_session(request, response, secret)
        return response

    async def sign_out(self, request: web.Request) -> web.StreamResponse:
        """End the session."""
        await self._access.end_session(request)
        response = web.Response(status=303, headers={"Location": "signin", "Cache-Control": "no-store"})
        keep_session(request, response, "")
        return response


async def _fields(request: web.Request) -> dict[str, str]:
    try:
        body = (await read_body(request, FORM_BYTES)).decode()
        return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise Invalid("The form cannot be read.") from None
