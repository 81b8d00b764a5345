"""Authentication and authorization of requests, for all repositories.

A credential that was verified is kept for a minute under a keyed hash of its header, because argon2 is slow on purpose:
the next request of the same client costs one look-up. Changes that a command or another worker makes take effect with
the next request that presents credentials. Where everyone may read, reading costs nothing: none are verified.
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
from mirror.auth.credentials import (
    PasswordCredential,
    TokenCredential,
    credential_of,
    digest,
    is_token,
    new_token,
    parse_authorization,
)
from mirror.auth.passwords import PasswordVerifier
from mirror.auth.readers import ReadAccess, RightsNumbers
from mirror.auth.rights import ANONYMOUS, AccessRules, Identity, Scope, scope
from mirror.auth.sessions import SESSION_SECONDS, session_secret
from mirror.auth.throttle import LoginThrottle, refusal_delay
from mirror.catalog import Accounts, Session, Token, User
from mirror.errors import Forbidden, MirrorError, StorageUnavailable, Unauthorized, UnknownProject
from mirror.index.cache import BoundedCache, MemoryBudget, SingleFlight
from mirror.model import Grant, Right
from mirror.runtime import log_failure
from mirror.server.facts import facts_of
from mirror.server.proxies import network_of

logger = logging.getLogger(__name__)

VERIFIED_SECONDS = 60.0
"""Seconds for which a credential that was verified is not verified again."""
VERIFIED_BYTES = 10 << 20
"""Memory for verified credentials, and as much again for what each may do."""
VERIFIED_ENTRY_BYTES = 700
"""What one entry of either is taken to need."""
RECHECK_SECONDS = 1.0
"""Seconds between two checks whether accounts have changed."""
FREE_PER_LOGIN, FREE_PER_NETWORK, FREE_PER_NAME = 3, 100, 20
"""Failed logins that cost nothing: of one user from one network, of all users from there, of one user from anywhere."""
KNOWN_LOGINS_BYTES = 4 << 20
"""Memory for networks from which users have logged in."""
KNOWN_LOGIN_BYTES = 200

_VERBS: Mapping[Right, str] = {"read": "read", "upload": "upload to", "yank": "yank", "admin": "administer"}


class _VerifiedCredential(msgspec.Struct, frozen=True):
    identity: Identity
    until: float
    rights: int = 0


class Guard:
    """Identifies clients, and decides what they may do."""

    def __init__(
        self,
        accounts: Accounts,
        rules: AccessRules,
        *,
        users: Iterable[User] = (),
        tokens: Iterable[Token] = (),
        clock: Callable[[], float] = time.time,
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        """`users` and `tokens` of the settings hide those of that name in the catalog; `announce` reports changes."""
        self._accounts = accounts
        self._rules = rules
        self._users = {user.name: user for user in users}
        self._tokens = {token.sha256: token for token in tokens}
        self._clock = clock
        self._key = os.urandom(32)
        self._verified: BoundedCache[bytes, _VerifiedCredential] = BoundedCache(MemoryBudget(VERIFIED_BYTES))
        self._verifying: SingleFlight[bytes, _VerifiedCredential] = SingleFlight()
        self._scopes: BoundedCache[tuple[Identity, Right, str], Scope] = BoundedCache(MemoryBudget(VERIFIED_BYTES))
        self._numbers = RightsNumbers(rules.normalize)
        self.anonymous_rights = self._number(ANONYMOUS)
        self._generation: int | None = None
        self._checked_at = float("-inf")
        self._announce = announce
        self._passwords = PasswordVerifier()
        self._login_throttle = LoginThrottle(FREE_PER_LOGIN, max_pause=30.0)
        self._network_throttle = LoginThrottle(FREE_PER_NETWORK, max_pause=1.0)
        self._name_throttle = LoginThrottle(FREE_PER_NAME, max_pause=2.0)
        self._known_logins: BoundedCache[str, bool] = BoundedCache(MemoryBudget(KNOWN_LOGINS_BYTES))
        self._recording: set[asyncio.Task[None]] = set()

    # Authentication

    async def identify(self, request: web.BaseRequest) -> Identity:
        """Return who sends a request; ANONYMOUS without credentials. Raises Unauthorized for wrong ones."""
        facts = facts_of(request)
        facts.private = True
        header = request.headers.get("Authorization")
        secret = session_secret(request) if header is None else ""
        if header is None and not secret:
            facts.rights = self.anonymous_rights
            return ANONYMOUS
        await self._check_accounts()
        presented = f"session {secret}" if header is None else f"header {header}"
        key = self._digest(presented.encode(errors="surrogateescape"))
        entry = self._verified.get(key)
        if entry is not None and self._clock() < entry.value.until:
            entry.used = True
            verified = entry.value
        else:
            verified, _ = await self._verifying.run(key, lambda: self._verify(key, header, secret, address_of(request)))
        # Asked twice for one request, the answers may differ: then no one knows on which of them its response depends.
        facts.rights = verified.rights if facts.rights in (0, verified.rights) else -1
        return verified.identity

    def _digest(self, presented: bytes) -> bytes:
        return hashlib.blake2b(presented, key=self._key, digest_size=16).digest()

    def known_rights(self, presented: bytes) -> int:
        """Return the number of what the sender of a header (`header …`) or of a session (`session …`) may read.

        Two clients with the same number may read the same, in all repositories. 0 where that has to be looked at first,
        by `identify`: it was not verified lately, or accounts may have changed.
        """
        now = self._clock()
        if self._generation is None or abs(now - self._checked_at) >= RECHECK_SECONDS:
            return 0
        entry = self._verified.get(self._digest(presented))
        if entry is None or now >= entry.value.until:
            return 0
        entry.used = True
        return entry.value.rights

    def _number(self, identity: Identity) -> int:
        return self._numbers.of(self.scope(identity, "read", name) for name in self._numbers.repositories)

    def accounts_changed(self) -> None:
        """Make a change of an account in this process take effect with the next request, in others as well."""
        self.look_again()
        self._announce()

    def look_again(self) -> None:
        """Look with the next request whether accounts have changed."""
        self._checked_at = float("-inf")

    async def _check_accounts(self) -> None:
        now = self._clock()
        # The distance, not the difference: a clock that is set back must not stop the checks.
        if self._generation is not None and abs(now - self._checked_at) < RECHECK_SECONDS:
            return
        self._checked_at = now  # before waiting: only one of many requests checks
        try:
            generation = await self._accounts.generation()
        except StorageUnavailable:
            return  # who was verified remains so until that ends, and no one else is
        if generation != self._generation:
            self._generation = generation
            self._verified.clear()

    async def _verify(self, key: bytes, header: str | None, secret: str, address: str) -> _VerifiedCredential:
        generation = self._generation
        if header is None:
            verified = await self._verify_session(secret)
        else:
            verified = await self._verify_credential(parse_authorization(header), address)
        verified = msgspec.structs.replace(verified, rights=self._number(verified.identity))
        if generation == self._generation:  # else an account has changed meanwhile, perhaps this one
            self._verified.put(key, verified, VERIFIED_ENTRY_BYTES)
        return verified

    async def _verify_credential(
        self, credential: TokenCredential | PasswordCredential, address: str
    ) -> _VerifiedCredential:
        match credential:
            case TokenCredential(secret):
                return await self._verify_token(digest(secret) if is_token(secret) else "")
            case PasswordCredential(user, password):
                return await self._verify_password(user, password, address)

    async def _verify_session(self, secret: str) -> _VerifiedCredential:
        """Return whose session it is; anonymous when it has ended, whatever ended it."""
        now = self._clock()
        anonymous = _VerifiedCredential(ANONYMOUS, now + VERIFIED_SECONDS)
        session = await self._accounts.session(digest(secret))
        if session is None or session.expires <= now:
            return anonymous
        until = min(now + VERIFIED_SECONDS, session.expires)
        if session.token:
            try:
                verified = await self._verify_token(session.token)
            except Unauthorized:
                return anonymous
            return _VerifiedCredential(verified.identity, min(until, verified.until))
        user = await self._user(session.owner)
        if user is None or digest(user.password) != session.proof:
            return anonymous
        return _VerifiedCredential(Identity(user=user.name, groups=user.groups, grants=user.grants), until)

    async def _verify_token(self, sha256: str) -> _VerifiedCredential:
        now = self._clock()
        token = (self._tokens.get(sha256) or await self._accounts.token(sha256)) if sha256 else None
        if token is None or not hmac.compare_digest(token.sha256, sha256):
            raise Unauthorized("The token is wrong or was revoked: make a new one.")
        if token.expires is not None and now >= token.expires:
            raise Unauthorized("The token has expired: make a new one.")
        if sha256 not in self._tokens and now - (token.used or 0) > VERIFIED_SECONDS:
            self._record_use(token.name, now)
        until = min(now + VERIFIED_SECONDS, token.expires or float("inf"))
        if not token.owner:
            return _VerifiedCredential(Identity(token=token.name, grants=token.grants, limits=token.grants), until)
        user = await self._user(token.owner)
        if user is None:
            raise Unauthorized("The user of this token is no longer there: make a new one.")
        return _VerifiedCredential(
            Identity(
                user=user.name, token=token.name, groups=user.groups, grants=user.grants, limits=token.grants
            ),
            until,
        )  # fmt: skip

    async def _verify_password(self, name: str, password: str, address: str) -> _VerifiedCredential:
        network, name, now = network_of(address), name[:100], self._clock()
        login = f"{network} {name}"
        known = self._known_logins.value(login) is not None
        waits = [self._network_throttle.claim(network, now), self._login_throttle.claim(login, now)]
        if not known:  # who has logged in from there before does not wait for what others guess elsewhere
            waits.append(self._name_throttle.claim(name, now))
        if None in waits:
            raise Unauthorized("Too many logins have failed: wait a minute.")
        await asyncio.sleep(max(wait or 0.0 for wait in waits))
        began = time.monotonic()
        user = await self._user(name)
        if not await self._passwords.verify(password, user.password if user else None, known) or user is None:
            await asyncio.sleep(refusal_delay(time.monotonic() - began))
            # Only names that exist are logged: people type passwords where names belong.
            audit("login", who=user.name if user else "unknown", client=address, outcome="refused")
            raise Unauthorized("The user name or the password is wrong.")
        self._network_throttle.forgive(network)
        self._login_throttle.forget(login)
        self._name_throttle.forgive(name)
        self._known_logins.put(login, True, KNOWN_LOGIN_BYTES)
        return _VerifiedCredential(
            Identity(user=user.name, groups=user.groups, grants=user.grants), now + VERIFIED_SECONDS
        )

    async def _user(self, name: str) -> User | None:
        return self._users.get(name) or await self._accounts.user(name)

    def _record_use(self, token: str, now: float) -> None:
        """Record in the background that a token was used: no request waits for a disk because of that."""

        async def record() -> None:
            try:
                await self._accounts.used(token, now)
            except MirrorError as error:
                logger.warning("could not record that the token %s was used: %s", token, error)

        task = asyncio.create_task(record())
        task.add_done_callback(log_failure)
        self._recording.add(task)
        task.add_done_callback(self._recording.discard)

    # Authorization

    async def require(self, request: web.BaseRequest, right: Right, repository: str, project: str) -> Identity:
        """Return who sends a request, if they have the right on the project (given by its canonical name).

        Refused writes are audited. Raises Unauthorized for an anonymous client or wrong credentials, Forbidden, and
        UnknownProject instead of it when reading.
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

    async def require_any(self, request: web.BaseRequest, right: Right, repository: str) -> None:
        """Refuse a client that has a right on no project at all, before it may send what the project is read from.

        Raises Unauthorized and Forbidden.
        """
        if self.scope(await self.identify(request), right, repository).nothing:
            await self.require(request, right, repository, "*")

    async def require_password(self, request: web.BaseRequest) -> Identity:
        """Return who sends a request with a user name and its password. Raises Unauthorized."""
        identity = await self.identify(request)
        if not identity.user or identity.token:
            raise Unauthorized("Signing in needs a user name with its password.")
        return identity

    def _refusal(self, identity: Identity, right: Right, repository: str, project: str) -> MirrorError:
        if right == "read":
            # Where no one may read anonymously, all names alike are a 401; elsewhere a 401 would reveal names.
            closed = not identity.known and self.scope(ANONYMOUS, right, repository).nothing
            return Unauthorized(f"Reading {repository} needs a token or a password.") if closed else (
                UnknownProject(project)
            )  # fmt: skip
        if not identity.known:
            return Unauthorized(f"To {_VERBS[right]} {project!r}, show a token or a password.")
        return Forbidden(f"{identity} may not {_VERBS[right]} {project!r} in {repository}.")

    def scope(self, identity: Identity, right: Right, repository: str) -> Scope:
        """Return the projects of a repository on which an identity has a right."""
        key = (identity, right, repository)
        entry = self._scopes.get(key)
        if entry is not None:
            entry.used = True
            return entry.value
        found = scope(identity, right, repository, self._rules)
        self._scopes.put(key, found, VERIFIED_ENTRY_BYTES)
        return found

    def read_access(self, repository: str) -> ReadAccess:
        """Return what the routes of one repository need to check reading."""
        return ReadAccess(self, repository)

    async def readable(self, request: web.BaseRequest, repository: str) -> Scope:
        """Return what the sender of a request may read in a repository, for lists and searches. Raises Unauthorized.

        Scopes are values: those of two readers that see the same are equal, and so can be part of a cache's key.
        """
        identity = await self.identify(request)
        readable = self.scope(identity, "read", repository)
        if not identity.known and readable.nothing:
            raise self._refusal(identity, "read", repository, "")
        return readable

    # Sessions

    async def begin_session(self, request: web.BaseRequest, name: str, password: str) -> str:
        """Return the secret of a new session for a user name with its password, or any name with a token.

        Raises Unauthorized.
        """
        credential = credential_of(name, password)
        address, now = address_of(request), self._clock()
        verified = await self._verify_credential(credential, address)
        owner, token = verified.identity.user, ""
        if isinstance(credential, TokenCredential):
            owner, token = "", digest(credential.secret)
        user = await self._user(owner) if owner else None
        secret = secrets.token_hex(32)
        session = Session(
            sha256=digest(secret), owner=owner, token=token, proof=digest(user.password) if user else "",
            expires=now + SESSION_SECONDS,
        )  # fmt: skip
        await self._accounts.add_session(session, now)
        audit("login", who=str(verified.identity), client=address, outcome="accepted")
        return secret

    async def end_session(self, request: web.BaseRequest) -> None:
        """End the session of a request, if it has one."""
        if secret := session_secret(request):
            await self._accounts.remove_session(digest(secret))
            self.accounts_changed()

    # Keys

    async def sign_in(self, request: web.BaseRequest, name: str, rights: frozenset[Right]) -> str:
        """Return a new key for a client that presents a user name with its password.

        It has at most `rights`, and never more than the user has; `name` is what the client calls it. Raises
        Unauthorized, and Invalid when the user has too many.
        """
        identity = await self.require_password(request)
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
        """Wait for what is being recorded; to be called before the catalog closes."""
        await asyncio.gather(*self._recording, return_exceptions=True)
