"""The results of choosing files for targets: a file, or the reason why there is none. Pure."""

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from mirror.model import File

Reason = Literal[
    "no such project",
    "no such version",
    "no wheel for the target",
    "no gem for the platform",
    "the index does not list it",
    "the index lists it with another digest",
    "not for this version of Python",
]


class MissingItem(msgspec.Struct, frozen=True, kw_only=True):
    """Something required that the index does not have."""

    project: str
    """Empty when the whole lock does not support the target."""
    reason: Reason
    version: str = ""
    """Empty when it does not depend on a version."""
    filename: str = ""
    """The file, where the lock names it."""
    target: str = ""
    where: str = ""


FoundFiles = Iterator[File | MissingItem]
"""What one requirement comes to for one target."""


def hash_allowed(file: File, hashes: Sequence[str]) -> bool:
    """Return whether a lock's hashes allow a file; without an algorithm in common they do."""
    known = [one.partition(":") for one in hashes]
    shared = [digest for algorithm, _, digest in known if algorithm in file.digests]
    return not shared or any(
        file.digests[algorithm] == digest for algorithm, _, digest in known if algorithm in file.digests
    )
