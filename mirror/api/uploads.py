"""Yank, un-yank and delete uploads over HTTP, for both ecosystems: requests that Python's clients do not have.

    POST   /-/uploads/REPOSITORY/FILENAME/yank      with the reason as the form field `reason`
    POST   /-/uploads/REPOSITORY/FILENAME/unyank
    DELETE /-/uploads/REPOSITORY/FILENAME           needs the right `admin`

RubyGems' own requests for the same are in its `upload.py`. A client that may not read a project gets the same answer as
for a file that does not exist.
"""

from collections.abc import Mapping
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from mirror.auth import Guard
from mirror.auth.audit import address_of, audit
from mirror.catalog import Uploads
from mirror.errors import Invalid, NotFound, UnknownProject
from mirror.index.additions import Change
from mirror.index.publish import Publisher
from mirror.model import Right
from mirror.server.facts import facts_of
from mirror.server.receive import read_body

REASON_BYTES = 10_000
"""The longest form with a reason."""


class UploadsApi:
    """Handlers for the uploads of all repositories."""

    def __init__(self, publishers: Mapping[str, Publisher], uploads: Uploads, guard: Guard) -> None:
        self._publishers = publishers
        self._uploads = uploads
        self._guard = guard

    def table(self) -> list[web.RouteDef]:
        """Return the routes, to be added to an application."""
        at = "/-/uploads/{repository}/{filename}"
        return [
            web.post(f"{at}/{{what:(?:yank|unyank)}}", self.yank),
            web.delete(at, self.delete),
        ]

    async def yank(self, request: web.Request) -> web.Response:
        """Yank a file, or take that back."""
        what = request.match_info["what"]
        publisher, filename = await self._allowed(request, "yank")
        fields = await _fields(request)
        if what == "yank":
            change = await publisher.yank(filename, fields.get("reason", ""))
        else:
            change = await publisher.unyank(filename)
        return await self._done(request, what, change)

    async def delete(self, request: web.Request) -> web.Response:
        """Delete a file for ever."""
        publisher, filename = await self._allowed(request, "admin")
        await _fields(request)
        return await self._done(request, "delete", await publisher.delete(filename))

    async def _allowed(self, request: web.Request, right: Right) -> tuple[Publisher, str]:
        """Return the publisher and the file name. Raises NotFound, Unauthorized, Forbidden."""
        repository, filename = request.match_info["repository"], request.match_info["filename"]
        facts_of(request).kind = "upload"
        missing = NotFound(f"There is no file of our own named {filename[:100]!r} in {repository[:100]!r}.")
        if repository not in self._publishers:
            raise missing
        facts_of(request).repository = repository
        row = await self._uploads.get(repository, filename)
        if row is None or row.upload.deleted:
            raise missing
        try:
            await self._guard.require(request, "read", repository, row.upload.project)
        except UnknownProject:
            raise missing from None
        await self._guard.require(request, right, repository, row.upload.project)
        return self._publishers[repository], filename

    async def _done(self, request: web.Request, what: str, change: Change) -> web.Response:
        upload = change.upload
        if change.serial is not None:
            who = await self._guard.identify(request)
            audit(
                what, who=str(who), client=address_of(request), serial=change.serial,
                repository=upload.repository, project=upload.project, filename=upload.filename,
            )  # fmt: skip
        document = {"filename": upload.filename, "yanked": upload.yanked, "deleted": upload.deleted}
        return web.Response(body=msgspec.json.encode(document), content_type="application/json")


async def _fields(request: web.Request) -> Mapping[str, str]:
    body = await read_body(request, REASON_BYTES)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=10))
    except ValueError:
        raise Invalid("The form cannot be read.") from None
