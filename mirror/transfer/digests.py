"""The digests of a file that its index promises, computed and compared while it is fetched."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from mirror.errors import DigestMismatch


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


_ALGORITHMS: Mapping[str, Callable[[], _Hash]] = {
    "sha256": hashlib.sha256,
    "sha224": hashlib.sha224,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
    "sha1": partial(hashlib.sha1, usedforsecurity=False),
    "md5": partial(hashlib.md5, usedforsecurity=False),
    "blake2b_256": partial(hashlib.blake2b, digest_size=32),
}
"""By the names that indexes use; a digest of any other algorithm cannot be checked, and is ignored."""


class Digests:
    """SHA-256, and all promised digests, of bytes that arrive in chunks."""

    def __init__(self, promised: Mapping[str, str]) -> None:
        self._promised = promised
        self.restart()

    def restart(self) -> None:
        """Forget all bytes."""
        names = {"sha256", *self._promised} & _ALGORITHMS.keys()
        self._hashes = {name: _ALGORITHMS[name]() for name in names}

    def update(self, chunk: bytes) -> None:
        """Add the next bytes. Blocks: for a thread, one call at a time."""
        for hasher in self._hashes.values():
            hasher.update(chunk)

    def verified(self, filename: str) -> str:
        """Return the SHA-256 of all bytes. Raises DigestMismatch unless every promised digest matches."""
        for name, hasher in self._hashes.items():
            expected, actual = self._promised.get(name), hasher.hexdigest()
            if expected not in (None, actual):
                raise DigestMismatch(filename, name, str(expected), actual)
        return self._hashes["sha256"].hexdigest()
