"""Looking through the directories of a local store, for maintenance: what they hold, and what was left in them.

Other things than blobs may lie there, and blobs may be deleted meanwhile. Everything here blocks.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mirror.blobs import StoredBlob

DIGEST_CHARACTERS, SHARD_CHARACTERS = 64, 2
_DIGITS = b"0123456789abcdef"


def digests_in(root: Path, beginning: str) -> list[str]:
    """Return the digests of the blobs of a store that begin with up to two digits."""
    shards = [root / beginning] if len(beginning) == SHARD_CHARACTERS else root.glob(f"{beginning}*")
    return [name for shard in shards for name in _names_in(shard)]


def _names_in(shard: Path) -> list[str]:
    with suppress(FileNotFoundError, NotADirectoryError):
        names = [name for name in os.listdir(shard) if len(name) == DIGEST_CHARACTERS]
        # One look at all of them, since others hardly ever lie there.
        return names if _are_digits("".join(names)) else [name for name in names if _are_digits(name)]
    return []


def _are_digits(text: str) -> bool:
    return not os.fsencode(text).translate(None, _DIGITS)


def blobs_in(shard: Path) -> list[StoredBlob]:
    """Return the blobs of one directory of a store; none where there is no directory."""
    return stored_in(shard / digest for digest in _names_in(shard))


def stored_in(paths: Iterable[Path]) -> list[StoredBlob]:
    """Return those of these blobs that are there."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):  # just deleted
            about = path.stat(follow_symlinks=False)
            found.append(StoredBlob(digest=path.name, size=about.st_size, stored=about.st_ctime))
    return found


def move_if_there(path: Path, target: Path) -> None:
    """Move a file, unless it has gone."""
    with suppress(FileNotFoundError):
        path.rename(target)


def remove_files(directory: Path) -> int:
    """Remove the files of a directory, and return how many it had; directories stay."""
    return sum(_remove(path) for path in directory.iterdir())


def _remove(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        return False
    return True
