"""Passwords: argon2id (RFC 9106), slow on purpose, and so always in a thread.

At most two are worked on at a time, which bounds the memory (19 MiB each) and leaves the machine to its work.
"""

import asyncio
from functools import cache
from typing import TYPE_CHECKING

from mirror.errors import Invalid

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SHORTEST = 8
LONGEST = 1000
"""Characters of a password."""

_TURNS = 2


@cache
def _hasher() -> "PasswordHasher":
    from argon2 import PasswordHasher  # takes a while to import, and most mirrors have no passwords

    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


@cache
def _nobodys() -> str:
    """A hash that no password fits, so that an unknown user takes as long as a known one."""
    import secrets

    return _hasher().hash(secrets.token_hex())


def hashed(password: str) -> str:
    """What is kept of a password; blocking. Raises Invalid for one that is too short or too long."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise Invalid(f"A password should have {SHORTEST} to {LONGEST} characters.")
    return _hasher().hash(password)


def fits(password: str, kept: str | None) -> bool:
    """Whether a password is the one that was kept (None: no such user); blocking, equally long for both."""
    from argon2.exceptions import InvalidHashError, VerificationError

    if len(password) > LONGEST:
        return False
    try:
        return _hasher().verify(kept or _nobodys(), password) and kept is not None
    except (VerificationError, InvalidHashError):
        return False


class Passwords:
    """Verifies in threads, a few at a time."""

    def __init__(self) -> None:
        self._turns = asyncio.Semaphore(_TURNS)

    async def fit(self, password: str, kept: str | None) -> bool:
        """As `fits`, without blocking."""
        async with self._turns:
            return await asyncio.to_thread(fits, password, kept)
