"""The guard at the door: finds out who asks, and lets through who may.

A credential that was found right is remembered for a minute under a keyed hash of its header, because argon2 is slow on
purpose: the next request of the same client costs one look-up. Changes made by a command in another process are noticed
within a second or so, and only when somebody shows credentials; where everyone may read, readers cost nothing and their
credentials are not even looked at.
"""

import asyncio
import hashlib
import hmac
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec
from aiohttp import web

from mirror.auth.audit import address_of, audit
from mirror.auth.credentials import PasswordCredential, TokenCredential, digest, is_token, new_token, parse
from mirror.auth.passwords import Passwords
from mirror.auth.rights import ANONYMOUS, AccessRules, Identity, Scope, scope
from mirror.auth.throttle import LoginThrottle
from mirror.catalog import Accounts, Token, User
from mirror.errors import Forbidden, MirrorError, Unauthorized, UnknownProject
from mirror.index.cache import BoundedCache
from mirror.index.flight import SingleFlight
from mirror.model import Grant, Right

logger = logging.getLogger(__name__)

REMEMBERED_FOR = 60.0
"""Seconds that a credential which was found right is not looked at again."""
REMEMBERED = 10_000
"""How many of them."""
NOTICED_WITHIN = 1.0
"""Seconds between two looks at whether accounts have changed."""
FREE_OF_CLIENT, FREE_OF_ADDRESS = 3, 100
"""Failed logins that cost nothing: of one name from one address, and of one address in all."""

_VERBS: Mapping[Right, str] = {"read": "read", "upload": "upload to", "yank": "yank", "admin": "administer"}


class _Verified(msgspec.Struct, frozen=True):
    identity: Identity
    until: float


class Guard:
    """Who may do what, for all repositories."""

    def __init__(
        self,
        accounts: Accounts,
        rules: AccessRules,
        *,
        users: Iterable[User] = (),
        tokens: Iterable[Token] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`users` and `tokens` are those of the configuration; they hide those of the same name in the catalog."""
        self._accounts = accounts
        self._rules = rules
        self._users = {user.name: user for user in users}
        self._tokens = {token.sha256: token for token in tokens}
        self._clock = clock
        self._key = os.urandom(32)
        self._verified: BoundedCache[bytes, _Verified] = BoundedCache(REMEMBERED)
        self._verifying: SingleFlight[bytes, Identity] = SingleFlight()
        self._scopes: BoundedCache[tuple[Identity, Right, str], Scope] = BoundedCache(4096)
        self._generation: int | None = None
        self._looked = float("-inf")
        self._passwords = Passwords()
        self._of_client = LoginThrottle(FREE_OF_CLIENT, longest_pause=30.0)
        self._of_address = LoginThrottle(FREE_OF_ADDRESS, longest_pause=1.0)
        self._noting: set[asyncio.Task[None]] = set()

    # Who asks

    async def identify(self, request: web.BaseRequest) -> Identity:
        """Who asks; ANONYMOUS without credentials. Raises Unauthorized for wrong ones."""
        header = request.headers.get("Authorization")
        if header is None:
            return ANONYMOUS
        await self._notice_changes()
        key = hashlib.blake2b(header.encode(errors="surrogateescape"), key=self._key, digest_size=16).digest()
        verified = self._verified.get(key)
        if verified is not None and self._clock() < verified.until:
            return verified.identity
        identity, _ = await self._verifying.run(key, lambda: self._verify(key, header, address_of(request)))
        return identity

    def look_again(self) -> None:
        """An account was changed in this process: notice it with the next request."""
        self._looked = float("-inf")

    async def _notice_changes(self) -> None:
        now = self._clock()
        # The distance, not the difference: a clock that was set back must not make us blind.
        if self._generation is not None and abs(now - self._looked) < NOTICED_WITHIN:
            return
        self._looked = now  # before waiting: one of many requests looks
        generation = await self._accounts.generation()
        if generation != self._generation:
            self._generation = generation
            self._verified.clear()

    async def _verify(self, key: bytes, header: str, address: str) -> Identity:
        generation = self._generation
        match parse(header):
            case TokenCredential(secret):
                verified = await self._verify_token(secret)
            case PasswordCredential(user, password):
                verified = await self._verify_password(user, password, address)
        if generation == self._generation:  # else an account has changed meanwhile, perhaps this one
            self._verified.put(key, verified)
        return verified.identity

    async def _verify_token(self, secret: str) -> _Verified:
        now, shown = self._clock(), digest(secret)
        token = (self._tokens.get(shown) or await self._accounts.token(shown)) if is_token(secret) else None
        if token is None or not hmac.compare_digest(token.sha256, shown):
            raise Unauthorized("The token is wrong or was revoked: make a new one.")
        if token.expires is not None and now >= token.expires:
            raise Unauthorized("The token has expired: make a new one.")
        if shown not in self._tokens and now - (token.used or 0) > REMEMBERED_FOR:
            self._note_use(token.name, now)
        until = min(now + REMEMBERED_FOR, token.expires or float("inf"))
        if not token.owner:
            return _Verified(Identity(token=token.name, grants=token.grants, limits=token.grants), until)
        user = await self._user(token.owner)
        if user is None:
            raise Unauthorized("The user of this token is no longer there: make a new one.")
        return _Verified(
            Identity(
                user=user.name, token=token.name, groups=user.groups, grants=user.grants, limits=token.grants
            ),
            until,
        )  # fmt: skip

    async def _verify_password(self, name: str, password: str, address: str) -> _Verified:
        client, now = f"{address} {name[:100]}", self._clock()
        waits = self._of_address.claim(address, now), self._of_client.claim(client, now)
        if waits[0] is None or waits[1] is None:
            raise Unauthorized("Too many logins have failed: wait a minute.")
        await asyncio.sleep(max(waits[0], waits[1]))
        user = await self._user(name)
        if not await self._passwords.fit(password, user.password if user else None) or user is None:
            # Only names that exist are logged: people type passwords where names belong.
            audit("login", who=user.name if user else "unknown", client=address, outcome="refused")
            raise Unauthorized("The user name or the password is wrong.")
        self._of_address.forgive(address)
        self._of_client.forget(client)
        return _Verified(Identity(user=user.name, groups=user.groups, grants=user.grants), now + REMEMBERED_FOR)

    async def _user(self, name: str) -> User | None:
        return self._users.get(name) or await self._accounts.user(name)

    def _note_use(self, token: str, now: float) -> None:
        """Behind the request: no reader waits for a disk because a token was used."""

        async def note() -> None:
            try:
                await self._accounts.used(token, now)
            except MirrorError as error:
                logger.warning("the use of the token %s is not noted: %s", token, error)

        task = asyncio.create_task(note())
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)

    # What they may

    async def require(self, request: web.BaseRequest, right: Right, repository: str, project: str) -> Identity:
        """Who asks, if they have the right on the project (by its canonical name); refused writes are audited.

        Raises Unauthorized for nobody or wrong credentials, Forbidden, and UnknownProject instead when reading.
        """
        identity = ANONYMOUS
        try:
            identity = await self.identify(request)
            if self.scope(identity, right, repository).allows(project):
                return identity
            raise self._refusal(identity, right, repository, project)
        except (Unauthorized, Forbidden) as refusal:
            if right != "read":
                audit(
                    "refused", who=str(identity), client=address_of(request), right=right, repository=repository,
                    project=project, reason=str(refusal),
                )  # fmt: skip
            raise

    def _refusal(self, identity: Identity, right: Right, repository: str, project: str) -> MirrorError:
        if right == "read":
            # Where nobody reads anonymously, every name alike asks for credentials; elsewhere a 401 would tell names.
            closed = not identity.known and self.scope(ANONYMOUS, right, repository).nothing
            return Unauthorized(f"Reading {repository} needs a token or a password.") if closed else (
                UnknownProject(project)
            )  # fmt: skip
        if not identity.known:
            return Unauthorized(f"To {_VERBS[right]} {project!r}, show a token or a password.")
        return Forbidden(f"{identity} may not {_VERBS[right]} {project!r} in {repository}.")

    def scope(self, identity: Identity, right: Right, repository: str) -> Scope:
        """On which projects of a repository somebody has a right."""
        key = (identity, right, repository)
        known = self._scopes.get(key)
        if known is None:
            known = scope(identity, right, repository, self._rules)
            self._scopes.put(key, known)
        return known

    def reading(self, repository: str) -> "ReadAccess":
        """The readers of one repository, for its routes."""
        return ReadAccess(self, repository)

    async def reader(self, request: web.BaseRequest, repository: str) -> Scope:
        """What who asks may read in a repository, for lists and searches. Raises Unauthorized.

        Scopes are values: those of two readers that see the same are equal, and so can be part of a cache's key.
        """
        identity = await self.identify(request)
        readable = self.scope(identity, "read", repository)
        if not identity.known and readable.nothing:
            raise self._refusal(identity, "read", repository, "")
        return readable

    # Keys

    async def sign_in(self, request: web.BaseRequest, name: str, rights: frozenset[Right]) -> str:
        """A new key for whoever shows a user name with its password: at most `rights`, never more than the user has.

        `name` is how the client calls the key. Raises Unauthorized, Invalid when the user has too many.
        """
        identity = await self.identify(request)
        if not identity.user or identity.token:
            raise Unauthorized("Signing in needs a user name with its password.")
        secret = new_token()
        token = Token(
            name=f"{identity.user}/{name}-{secrets.token_hex(3)}",
            sha256=digest(secret),
            owner=identity.user,
            grants=(Grant(rights=rights),),
            created=self._clock(),
        )
        await self._accounts.add_token(token)
        audit("token", who=str(identity), client=address_of(request), action="create", token=token.name)
        return secret

    async def close(self) -> None:
        """Finish what is being noted; before the catalog closes."""
        await asyncio.gather(*self._noting, return_exceptions=True)


class ReadAccess:
    """Who may read one repository: what its routes ask before they answer."""

    def __init__(self, guard: Guard, repository: str) -> None:
        self._guard = guard
        self._repository = repository
        self.public = guard.scope(ANONYMOUS, "read", repository)
        """What everyone may read."""
        self.open = self.public.everything
        """Whether everyone may read everything, so that nobody has to be asked."""

    async def check(self, request: web.BaseRequest, project: str) -> None:
        """Raises UnknownProject, or Unauthorized, unless who asks may read the project, by its canonical name."""
        if not self.open:
            await self._guard.require(request, "read", self._repository, project)

    async def scope(self, request: web.BaseRequest) -> Scope:
        """What who asks may read, for lists and searches. Raises Unauthorized."""
        return self.public if self.open else await self._guard.reader(request, self._repository)
