"""Passwords: hashed with argon2id (RFC 9106), which is slow on purpose and so always runs in a thread.

At most two are hashed at a time, which bounds the memory (19 MiB each) and leaves the processors to other work.
"""

import asyncio
from functools import cache
from typing import TYPE_CHECKING

from mirror.errors import Invalid

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MIN_CHARACTERS = 8
MAX_CHARACTERS = 1000


@cache
def _hasher() -> "PasswordHasher":
    from argon2 import PasswordHasher  # takes a while to import, and most mirrors have no passwords

    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


@cache
def _unmatchable() -> str:
    """Return a hash that no password matches, so that an unknown user takes as long as a known one."""
    import secrets

    return _hasher().hash(secrets.token_hex())


def hash_password(password: str) -> str:
    """Return what is stored of a password. Blocking. Raises Invalid for one that is too short or too long."""
    if not MIN_CHARACTERS <= len(password) <= MAX_CHARACTERS:
        raise Invalid(f"A password should have {MIN_CHARACTERS} to {MAX_CHARACTERS} characters.")
    return _hasher().hash(password)


def verify_password(password: str, stored: str | None) -> bool:
    """Return whether a password is the stored one (None: no such user). Blocking, and equally long for both."""
    from argon2.exceptions import InvalidHashError, VerificationError

    if len(password) > MAX_CHARACTERS:
        return False
    unmatchable = _unmatchable()  # made by the first call, whether that knows the user or not
    try:
        return _hasher().verify(stored or unmatchable, password) and stored is not None
    except (VerificationError, InvalidHashError):
        return False


class PasswordVerifier:
    """Verifies passwords in threads: one of those who have been here before, and one of all others at a time."""

    def __init__(self) -> None:
        self._known, self._others = asyncio.Semaphore(1), asyncio.Semaphore(1)

    async def verify(self, password: str, stored: str | None, known: bool = False) -> bool:
        """Return whether a password is the stored one, without blocking the event loop; see `verify_password`.

        `known`: the user has logged in from the client's network before, and does not wait behind guesses of others.
        """
        async with self._known if known else self._others:
            return await asyncio.to_thread(verify_password, password, stored)
