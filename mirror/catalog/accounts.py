"""Users and tokens: how they prove who they are, and the rights that each was granted.

No secret is stored: passwords are argon2 hashes here, tokens SHA-256. Every change raises the generation, by which a
server notices what a command in another process has changed.
"""

from collections.abc import Sequence

import msgspec

from mirror.catalog.database import Database, Row, Statement, Value
from mirror.errors import Conflict, Invalid
from mirror.model import Grant

SESSIONS_PER_ACCOUNT = 50
"""The most browsers that one user or token can be signed in with; the one that ends first makes room."""
TOKENS_PER_USER = 100
"""The most tokens that one user can have: each sign-in creates one."""


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user with a password."""

    name: str
    password: str
    """An argon2 hash."""
    groups: frozenset[str] = frozenset()
    grants: tuple[Grant, ...] = ()
    """Granted to the user, in addition to what the rules grant."""
    created: float = 0


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A secret that acts for a user, or has rights of its own."""

    name: str
    sha256: str
    """The digest of the whole secret, as lower-case hex."""
    owner: str = ""
    """The user that it acts for, with at most the user's rights; empty for a token that has rights of its own."""
    grants: tuple[Grant, ...] = ()
    """Its limits where it has an owner, its rights where it has none."""
    created: float = 0
    expires: float | None = None
    """Seconds since the epoch."""
    used: float | None = None
    """When it was last used, to a minute or so."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A browser that is signed in, by a password or by a token."""

    sha256: str
    """The digest of the secret in its cookie."""
    owner: str = ""
    """The user whose password was given; empty for a token."""
    token: str = ""
    """The digest of the token that was given; empty for a password."""
    proof: str = ""
    """A digest of the password as it is stored."""
    expires: float
    """Seconds since the epoch."""


_CHANGED: Statement = ("UPDATE counters SET value = value + 1 WHERE name = 'accounts'", ())
_USER = "name, password, member_of, grants, created"
_TOKEN = "name, sha256, owner, grants, created, expires, used"
_grants = msgspec.json.Decoder(tuple[Grant, ...])
_groups = msgspec.json.Decoder(frozenset[str])


def _text(value: object) -> str:
    return msgspec.json.encode(value, order="deterministic").decode()


def _user(row: Row) -> User:
    name, password, groups, grants, created = row
    return User(
        name=name, password=password, groups=_groups.decode(groups), grants=_grants.decode(grants), created=created
    )


def _token(row: Row) -> Token:
    name, sha256, owner, grants, created, expires, used = row
    return Token(
        name=name,
        sha256=sha256,
        owner=owner,
        grants=_grants.decode(grants),
        created=created,
        expires=expires,
        used=used,
    )


class Accounts:
    """The tables of users and tokens."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def generation(self) -> int:
        """Return a number that rises with every change."""
        ((value,),) = await self._database.read("SELECT value FROM counters WHERE name = 'accounts'")
        return int(value)

    # Users

    async def user(self, name: str) -> User | None:
        """Return the user of that name, or None."""
        rows = await self._database.read(f"SELECT {_USER} FROM users WHERE name = $1", name)
        return _user(rows[0]) if rows else None

    async def users(self) -> list[User]:
        """Return all users, by name."""
        return [_user(row) for row in await self._database.read(f"SELECT {_USER} FROM users ORDER BY name")]

    async def add_user(self, user: User) -> None:
        """Add a user. Raises Conflict when the name is taken."""
        values = (user.name, user.password, _text(user.groups), _text(user.grants), user.created)
        sql = f"INSERT INTO users ({_USER}) VALUES ($1, $2, $3, $4, $5)"
        await self._add(sql, values, f"There is already a user {user.name!r}.")

    async def change_user(self, user: User) -> bool:
        """Change password, groups and grants of a user; return False when there is no such user."""
        values = (user.name, user.password, _text(user.groups), _text(user.grants))
        sql = "UPDATE users SET password = $2, member_of = $3, grants = $4 WHERE name = $1 RETURNING name"
        return bool((await self._database.write((sql, values), _CHANGED))[0])

    async def remove_user(self, name: str) -> bool:
        """Remove a user with all tokens that act for them; return False when there is no such user."""
        rows = await self._database.write(
            ("DELETE FROM users WHERE name = $1 RETURNING name", (name,)),
            ("DELETE FROM tokens WHERE owner = $1", (name,)),
            _CHANGED,
        )
        return bool(rows[0])

    # Tokens

    async def token(self, sha256: str) -> Token | None:
        """Return the token with that digest, or None."""
        rows = await self._database.read(f"SELECT {_TOKEN} FROM tokens WHERE sha256 = $1", sha256)
        return _token(rows[0]) if rows else None

    async def tokens(self) -> list[Token]:
        """Return all tokens, by name."""
        return [_token(row) for row in await self._database.read(f"SELECT {_TOKEN} FROM tokens ORDER BY name")]

    async def add_token(self, token: Token) -> None:
        """Add a token. Raises Conflict when the name is taken, Invalid when its owner has too many."""
        if token.owner:
            ((count,),) = await self._database.read("SELECT count(*) FROM tokens WHERE owner = $1", token.owner)
            if count >= TOKENS_PER_USER:
                raise Invalid(f"{token.owner} has {count} tokens already: revoke some of them.")
        values = (token.name, token.sha256, token.owner, _text(token.grants), token.created, token.expires)
        sql = f"INSERT INTO tokens ({_TOKEN}) VALUES ($1, $2, $3, $4, $5, $6, NULL)"
        await self._add(sql, values, f"There is already a token {token.name!r}.")

    async def remove_token(self, name: str) -> bool:
        """Revoke a token; return False when there is none of that name."""
        sql = "DELETE FROM tokens WHERE name = $1 RETURNING name"
        return bool((await self._database.write((sql, (name,)), _CHANGED))[0])

    async def used(self, name: str, at: float) -> None:
        """Record that a token was used. The generation stays as it is."""
        await self._database.write(("UPDATE tokens SET used = $2 WHERE name = $1", (name, at)))

    # Sessions

    async def session(self, sha256: str) -> Session | None:
        """Return the session with that digest, expired or not; or None."""
        sql = "SELECT sha256, owner, token, proof, expires FROM sessions WHERE sha256 = $1"
        rows = await self._database.read(sql, sha256)
        if not rows:
            return None
        sha256, owner, token, proof, expires = rows[0]
        return Session(sha256=sha256, owner=owner, token=token, proof=proof, expires=expires)

    async def add_session(self, session: Session, now: float) -> None:
        """Add a session, and remove those that have expired and those of the same account that are too many."""
        account = (session.owner, session.token)
        await self._database.write(
            ("DELETE FROM sessions WHERE expires <= $1", (now,)),
            (
                "INSERT INTO sessions (sha256, owner, token, proof, expires) VALUES ($1, $2, $3, $4, $5)",
                (session.sha256, *account, session.proof, session.expires),
            ),
            (
                "DELETE FROM sessions WHERE sha256 IN (SELECT sha256 FROM sessions WHERE owner = $1 AND token = $2"
                f" ORDER BY expires DESC LIMIT 1000 OFFSET {SESSIONS_PER_ACCOUNT})",
                account,
            ),
        )

    async def remove_session(self, sha256: str) -> None:
        """Remove a session, if it is there."""
        await self._database.write(("DELETE FROM sessions WHERE sha256 = $1", (sha256,)), _CHANGED)

    async def _add(self, sql: str, values: Sequence[Value], taken: str) -> None:
        rows = await self._database.write((f"{sql} ON CONFLICT DO NOTHING RETURNING name", values), _CHANGED)
        if not rows[0]:
            raise Conflict(taken)
