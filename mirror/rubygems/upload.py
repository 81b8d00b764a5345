"""Writing: push, yank, un-yank, owners and keys, for `gem push`, `gem yank`, `gem owner` and `gem signin`.

What is pushed is read from the gem itself. Responses are the sentences of the public index, which clients print. The
surprise: an owner is a user who has been given rights on that one gem; rights that settings give to groups are not
listed.
"""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from mirror.auth import Guard, Identity, requested_key
from mirror.auth.audit import address_of, audit
from mirror.catalog import Accounts, User
from mirror.config import LimitsSettings
from mirror.errors import Conflict, Forbidden, Invalid, NotFound, TooLarge, UnknownFile
from mirror.index.publish import Publisher
from mirror.index.repository import Repository
from mirror.model import File, Grant, Page, Right
from mirror.policy import matches
from mirror.rubygems.names import GENERIC, abi_of, canonical, full_name, listed_as, normal_platform, parse_gem_filename
from mirror.server.facts import facts_of
from mirror.server.receive import SMALL_FORM_BYTES, Form, IncomingFile, incoming, read_body, receive_body, receive_form

ATTESTATIONS_BYTES = 256 << 10
"""The most that the attestations of one gem may have."""
OWNER_RIGHTS: frozenset[Right] = frozenset({"upload", "yank"})
"""What an owner may do to the gem."""
MOST_FIELDS = 100
"""The most fields of a small form."""


class UploadRoutes:
    """The handlers of one repository that change it."""

    def __init__(
        self,
        publisher: Publisher,
        repository: Repository,
        guard: Guard,
        accounts: Accounts,
        directory: Path,
        limits: LimitsSettings,
        mount: str,
    ) -> None:
        """Gems are in `directory` while they arrive."""
        self._publisher = publisher
        self._repository = repository
        self._guard = guard
        self._accounts = accounts
        self._directory = directory
        self._limits = limits
        self._prefix = mount.rstrip("/")

    def table(self) -> list[web.RouteDef]:
        """Return the routes, to be added to an application."""
        at = f"{self._prefix}/api/v1"
        return [
            web.post(f"{at}/gems", self.push),
            web.delete(f"{at}/gems/yank", self.yank),
            web.put(f"{at}/gems/unyank", self.unyank),
            web.get(f"{at}/gems/{{gem}}/owners.yaml", self.owners),
            web.get(f"{at}/gems/{{gem}}/owners.json", self.owners),
            web.post(f"{at}/gems/{{gem}}/owners", self.add_owner),
            web.delete(f"{at}/gems/{{gem}}/owners", self.remove_owner),
            web.get(f"{at}/attestations/{{full}}.json", self.attestations),
            web.post(f"{at}/api_key", self.sign_in),
            web.get(f"{at}/api_key", self.no_key),
        ]

    # Gems

    async def push(self, request: web.Request) -> web.Response:
        """Accept a new gem, or the same bytes again."""
        self._set_facts(request)
        try:
            return await self._push(request)
        except TooLarge:
            raise
        except Invalid as error:
            return web.Response(status=422, text=f"{error}\n")

    async def _push(self, request: web.Request) -> web.Response:
        async with incoming(self._directory) as file:
            attestations = await self._receive(request, file)
            accepted = await self._publisher.inspect("", file.path, bool(attestations))
            filename = accepted.file.filename
            who = await self._require(request, "upload", accepted.project)
            change = await self._publisher.add(
                file.path, accepted, by=str(who), origin=address_of(request), attestations=attestations
            )
        if change.upload.yanked is not None:
            raise Conflict(f"{filename} was yanked here: un-yank it, or publish another version.")
        self._audit("upload", request, who, change.serial, accepted.project, filename)
        gem = f"{accepted.project} ({listed_as(accepted.file)})"
        return web.Response(text=f"Successfully registered gem: {gem}")

    async def _receive(self, request: web.Request, file: IncomingFile) -> str:
        """Store what arrives; return the attestations that came with it, as a JSON list, or nothing."""
        # Which gem it is stands inside it; a client that may push none at all is refused before it sends one.
        await self._may_push(request)
        if not request.content_type.startswith("multipart/"):
            await receive_body(request, file, self._limits)
            return ""

        async def accept(form: Form) -> None:
            await self._may_push(request)

        form = await receive_form(request, "gem", file, self._limits, accept)
        if form.filename is None:
            await self._may_push(request)
            raise Invalid("The form has no gem: it should be in the field 'gem'.")
        attestations = form.value("attestations")
        return _checked_attestations(attestations) if attestations else ""

    async def _may_push(self, request: web.Request) -> None:
        await self._guard.require_any(request, "upload", self._publisher.repository)

    async def yank(self, request: web.Request) -> web.Response:
        """Remove a version from the index; its file stays, for those who have it in a lock file."""
        return await self._change(request, "yank")

    async def unyank(self, request: web.Request) -> web.Response:
        """List a yanked version again."""
        return await self._change(request, "unyank")

    async def _change(self, request: web.Request, kind: str) -> web.Response:
        self._set_facts(request)
        await self._guard.require_any(request, "yank", self._publisher.repository)
        fields = await _fields(request)
        name, version = canonical(_needed(fields, "gem_name")), _needed(fields, "version")
        who = await self._require(request, "yank", name)
        file = await self._uploaded(name, version, fields.get("platform") or GENERIC, fields.get("ruby_abi"))
        if kind == "yank":
            change = await self._publisher.yank(file.filename, fields.get("reason", ""))
        else:
            change = await self._publisher.unyank(file.filename)
        self._audit(kind, request, who, change.serial, name, file.filename)
        done = "deleted" if kind == "yank" else "restored"
        return web.Response(text=f"Successfully {done} gem: {name} ({listed_as(file)})")

    async def _uploaded(self, name: str, version: str, platform: str, abi: str | None) -> File:
        """Return the gem that was pushed for a platform, and for one Ruby ABI where one is given. Raises NotFound."""
        try:
            uploaded = await self._publisher.uploaded(name)
        except NotFound:
            uploaded = []
        platforms = {platform, normal_platform(platform)}
        files = [file for file in uploaded if file.version == version and file.platform in platforms]
        found = next((file for file in files if abi_of(file) == (abi or None)), None)
        if found is not None:
            return found
        full = full_name(name, version, platform)
        wanted = f"{full[:200]} for Ruby {abi[:20]}" if abi else full[:200]
        others = sorted(filter(None, map(abi_of, files)))
        hint = f" Say for which Ruby: --ruby-abi {' or '.join(others)}." if others else ""
        raise NotFound(f"This gem could not be found: {wanted} was not pushed here.{hint}")

    async def attestations(self, request: web.Request) -> web.Response:
        """Respond with the attestations that came with a gem, or that its upstream has."""
        facts = facts_of(request)
        facts.kind, facts.repository = "page", self._publisher.repository
        filename = f"{request.match_info['full']}.gem"
        wanted = parse_gem_filename(filename)
        await self._guard.require(request, "read", self._publisher.repository, wanted.name)
        view = await self._repository.project(wanted.name)
        if filename not in view.files:
            raise UnknownFile(wanted.name, filename)
        source = view.files[filename].source
        document = await self._repository.document(view, Page("provenance", filename), facts.freshness, source)
        if document is None:
            raise NotFound(f"No attestations of {filename} are known here.")
        return web.Response(body=(await document.read()).content, content_type="application/json")

    # Owners

    async def owners(self, request: web.Request) -> web.Response:
        """Respond with the users who have been given rights on the gem."""
        self._set_facts(request)
        name = canonical(request.match_info["gem"])
        await self._require(request, "yank", name)
        owners = [
            {"handle": user.name, "email": user.name} for user in await self._accounts.users() if self._owns(user, name)
        ]
        if request.path.endswith(".json"):
            return web.Response(body=msgspec.json.encode(owners), content_type="application/json")
        import yaml

        return web.Response(text=yaml.safe_dump(owners, explicit_start=True), content_type="application/yaml")

    async def add_owner(self, request: web.Request) -> web.Response:
        """Grant a user of this mirror the rights of an owner."""
        who, name, user = await self._owner(request)
        if not self._owns(user, name):
            grants = (*user.grants, self._grant(name))
            await self._set_grants(user, grants)
            self._audit("owner", request, who, None, name, user.name)
        return web.Response(text="Owner added successfully.")

    async def remove_owner(self, request: web.Request) -> web.Response:
        """Revoke the rights of an owner."""
        who, name, user = await self._owner(request)
        grants = tuple(grant for grant in user.grants if grant != self._grant(name))
        if grants == user.grants:
            raise NotFound(f"{user.name} has not been given this gem as an owner.")
        await self._set_grants(user, grants)
        self._audit("owner removed", request, who, None, name, user.name)
        return web.Response(text="Owner removed successfully.")

    async def _owner(self, request: web.Request) -> tuple[Identity, str, User]:
        self._set_facts(request)
        name = canonical(request.match_info["gem"])
        who = await self._require(request, "admin", name)
        fields = await _fields(request)
        user = await self._accounts.user(_needed(fields, "email"))
        if user is None:
            raise NotFound("Owner could not be found: it should be the name of a user of this mirror.")
        return who, name, user

    async def _set_grants(self, user: User, grants: tuple[Grant, ...]) -> None:
        await self._accounts.change_user(msgspec.structs.replace(user, grants=grants))
        self._guard.accounts_changed()

    def _grant(self, name: str) -> Grant:
        return Grant(rights=OWNER_RIGHTS, repositories=(self._publisher.repository,), projects=(name,))

    def _owns(self, user: User, name: str) -> bool:
        """Return whether a user has been given the rights of an owner on that gem in this repository."""
        return any(
            name in grant.projects
            and matches(grant.repositories, self._publisher.repository)
            and grant.rights >= OWNER_RIGHTS
            for grant in user.grants
        )

    # Keys

    async def sign_in(self, request: web.Request) -> web.Response:
        """Respond with a key to a user name and a password; the body is the key."""
        facts = facts_of(request)
        facts.kind, facts.repository = "other", self._publisher.repository
        await self._guard.require_password(request)
        name, rights = requested_key(await read_body(request, SMALL_FORM_BYTES))
        try:
            key = await self._guard.sign_in(request, name, rights)
        except Invalid as error:
            raise Forbidden(str(error)) from None
        return web.Response(text=key, headers={"Cache-Control": "no-store"})

    async def no_key(self, request: web.Request) -> web.Response:
        """Respond that this is gone, as from the public index: a key is made by POST."""
        return web.Response(status=410, text="Update RubyGems to sign in: gem update --system.\n")

    # Shared by the handlers

    def _set_facts(self, request: web.Request) -> None:
        facts = facts_of(request)
        facts.kind, facts.repository = "upload", self._publisher.repository

    async def _require(self, request: web.Request, right: Right, name: str) -> Identity:
        return await self._guard.require(request, right, self._publisher.repository, name)

    def _audit(
        self, what: str, request: web.Request, who: Identity, serial: int | None, project: str, about: str
    ) -> None:
        if serial is not None or what.startswith("owner"):
            audit(
                what, who=str(who), client=address_of(request), serial=serial,
                repository=self._publisher.repository, project=project, filename=about,
            )  # fmt: skip


async def _fields(request: web.Request) -> Mapping[str, str]:
    """Return the fields of a small form: those in the body, whatever Content-Type says (rule 9), before the query's."""
    body = await read_body(request, SMALL_FORM_BYTES)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise Invalid("The form cannot be read.") from None
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise Invalid("The form has a field twice.")
    return {**request.query, **dict(pairs)}


def _needed(fields: Mapping[str, str], name: str) -> str:
    value = fields.get(name, "")
    if not value or len(value) > 300:
        raise Invalid(f"The form has no usable {name!r}.")
    return value


def _checked_attestations(attestations: str) -> str:
    if len(attestations) > ATTESTATIONS_BYTES:
        raise TooLarge(f"The attestations are larger than {ATTESTATIONS_BYTES:,} bytes.")
    try:
        msgspec.json.decode(attestations, type=list[dict[str, object]])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Invalid("The attestations are not a JSON list of objects.") from None
    return attestations
