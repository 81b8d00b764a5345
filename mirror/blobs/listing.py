"""Looking through the directories of a local store, for maintenance: what they hold, and what was left in them.

Other things than blobs may lie there, and blobs may be deleted meanwhile. Everything here blocks.
"""

import os
from pathlib import Path

from mirror.blobs import StoredBlob
from mirror.blobs.local import check_digest
from mirror.errors import MissingBlob


def blobs_in(shard: Path) -> list[StoredBlob]:
    """Return the blobs of one directory of a store; none where there is no directory."""
    found = []
    if shard.is_dir():
        with os.scandir(shard) as entries:
            for entry in entries:
                try:
                    digest, stat = check_digest(entry.name), entry.stat(follow_symlinks=False)
                except (MissingBlob, FileNotFoundError):
                    continue  # not a blob, or just deleted
                found.append(StoredBlob(digest=digest, size=stat.st_size, stored=stat.st_ctime))
    return found


def remove_files(directory: Path) -> int:
    """Remove the files of a directory, and return how many it had; directories stay."""
    return sum(_remove(path) for path in directory.iterdir())


def _remove(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        return False
    return True
