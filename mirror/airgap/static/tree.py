"""Writing below one directory, file by file: each is there whole or not at all, whatever kills us meanwhile.

Paths come from names that strangers chose. Every one goes through `place`, which lets none out of the directory.
"""

import fcntl
import hashlib
import os
import stat
from pathlib import Path

import msgspec

from mirror.errors import Conflict, Invalid

OWN = ".mirror"
"""The directory in which we keep what is not part of the index."""
LONGEST = 255
"""Bytes of one part of a path, on every file system that matters."""


class Count(msgspec.Struct):
    """What was done to a tree."""

    written: int = 0
    """Pages and files that are new or other than before."""
    linked: int = 0
    copied: int = 0
    removed: int = 0


class Tree:
    """One directory, ours alone while it is open. Everything here is blocking."""

    def __init__(self, directory: Path) -> None:
        """Makes the directory. Raises Invalid when it holds anything that is not ours, Conflict when it is in use."""
        self.directory = directory
        self.own = directory / OWN
        self.count = Count()
        directory.mkdir(parents=True, exist_ok=True)
        if not self.own.is_dir() and any(directory.iterdir()):
            raise Invalid(f"{directory} is not empty and was not made by an export: name a new or an empty directory.")
        self.own.mkdir(exist_ok=True)
        self._lock = os.open(self.own / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Conflict(f"Another export is writing to {directory}: wait until it has ended.") from None
        self._new = self.own / "new"
        self._new.unlink(missing_ok=True)  # left behind by one that was killed

    def close(self) -> None:
        """Let others write."""
        os.close(self._lock)

    def place(self, path: str) -> Path:
        """Where a path of the tree is on the disk. Raises Invalid for one that is not a plain way down."""
        parts = path.split("/")
        if any(not _plain(part) for part in parts) or parts[0] == OWN:
            raise Invalid(f"{path[:200]!r} cannot stand in an exported tree.")
        return self.directory.joinpath(*parts)

    def write(self, path: str, content: bytes) -> None:
        """Make a file of these bytes, unless it is one already. Raises Invalid, OSError."""
        place = self.place(path)
        if _holds(place, content):
            return
        self._create(place, content)
        self.count.written += 1

    def write_own(self, name: str, content: bytes) -> None:
        """The same for one of our own, durable before it returns: it says what is true of all the others."""
        place = self.own / name
        if not _holds(place, content):
            self._create(place, content, durable=True)

    def _create(self, place: Path, content: bytes, *, durable: bool = False) -> None:
        fd = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        with open(fd, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(fd)
        self._show(place)

    def add(self, path: str, blob: Path, *, copy: bool) -> None:
        """Make a file that is the blob: a second name for it where that can be, else a copy. Raises Invalid, OSError.

        What not everybody may read is copied: the store's own rights stay as they are, and web servers have to read.
        """
        place = self.place(path)
        before = _found(place)
        found = blob.stat()
        if before is not None and not copy and (before.st_dev, before.st_ino) == (found.st_dev, found.st_ino):
            return
        if not copy and found.st_mode & 0o044 == 0o044:
            try:
                os.link(blob, self._new)
                self._show(place)
            except OSError:  # another file system, or one without links: what is wrong beyond that, the copy will say
                self._new.unlink(missing_ok=True)
            else:
                self._new.unlink(missing_ok=True)  # rename(2) leaves it when both are names of one file
                self.count.written += 1
                self.count.linked += 1
                return
        if before is not None and before.st_nlink == 1 and _same(place, before, blob, found):
            return
        fd = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        with blob.open("rb") as source, open(fd, "wb") as target:
            while chunk := source.read(1 << 20):
                target.write(chunk)
        self._show(place)
        self.count.written += 1
        self.count.copied += 1

    def _show(self, place: Path) -> None:
        try:
            os.replace(self._new, place)
        except FileNotFoundError:
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._new, place)

    def remove(self, path: str) -> None:
        """Take a file away, and the directories that are empty then. Raises Invalid, OSError."""
        place = self.place(path)
        try:
            place.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        self.count.removed += 1
        for parent in place.relative_to(self.directory).parents[:-1]:
            try:
                (self.directory / parent).rmdir()
            except OSError:
                return

    def walk(self, root: str) -> list[str]:
        """The paths of all files at or below one, following no links to directories."""
        top = self.place(root)
        if not top.is_dir() or top.is_symlink():
            return [root] if os.path.lexists(top) else []
        found: list[str] = []
        for directory, directories, names in os.walk(top):
            below = Path(directory).relative_to(self.directory).as_posix()
            links = [name for name in directories if os.path.islink(os.path.join(directory, name))]
            found += (f"{below}/{name}" for name in (*names, *links))
        return found


def _plain(part: str) -> bool:
    try:
        length = len(part.encode())
    except UnicodeEncodeError:
        return False
    return 0 < length <= LONGEST and part not in (".", "..") and part.isprintable() and "\\" not in part


def _found(place: Path) -> os.stat_result | None:
    """What stands there, when it is an ordinary file."""
    try:
        found = place.lstat()
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _holds(place: Path, content: bytes) -> bool:
    found = _found(place)
    return found is not None and found.st_size == len(content) and place.read_bytes() == content


def _same(place: Path, found: os.stat_result, blob: Path, wanted: os.stat_result) -> bool:
    if found.st_size != wanted.st_size:
        return False
    with place.open("rb") as one, blob.open("rb") as other:
        return hashlib.file_digest(one, "sha256").digest() == hashlib.file_digest(other, "sha256").digest()
