"""The directory of an exported tree: writing below it, and the record of what the last export wrote.

Each file is there whole or not at all, even when the process is killed. Paths come from names that strangers chose:
every one goes through `Tree.resolve`, which lets none out of the directory.

The record (`TreeState`) is kept in the tree, so that the next export writes only what has changed since. It is believed
only by an export of the same things from the same catalog, and only after an export that came to its end. Everyone who
may write to the tree may write the record, so the worst that it can cause is a file that is left as it is, or one that
is removed inside of the tree.
"""

import fcntl
import hashlib
import os
import stat
from pathlib import Path

import msgspec

from mirror.errors import Conflict, Invalid

OWN = ".mirror"
"""The directory for what is not part of the index."""
PART_BYTES = 255
"""The most bytes of one part of a path, on every file system that matters."""
READABLE = 0o444
"""The mode of what everyone may read."""
STATE_FILE = "state.json"
UNFINISHED_FILE = "unfinished"
STATE_VERSION = 1
_STATE_BYTES = 1 << 30


class TreeCounts(msgspec.Struct):
    """The numbers of files that an export wrote, linked, copied and removed."""

    written: int = 0
    """Pages and files that are new or changed."""
    linked: int = 0
    copied: int = 0
    removed: int = 0


class Tree:
    """One directory, locked for one export while it is open. All methods block."""

    def __init__(self, directory: Path) -> None:
        """Create the directory. Raises Invalid when it holds anything else, Conflict when another export uses it."""
        self.directory = directory
        self.own = directory / OWN
        self.counts = TreeCounts()
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
        self._new.unlink(missing_ok=True)  # left behind by an export that was killed

    def close(self) -> None:
        """Release the lock."""
        os.close(self._lock)

    def resolve(self, path: str) -> Path:
        """Return the local file of a path of the tree. Raises Invalid for a path that could leave the directory."""
        parts = path.split("/")
        if any(not _is_plain(part) for part in parts) or parts[0] == OWN:
            raise Invalid(f"{path[:200]!r} cannot stand in an exported tree.")
        return self.directory.joinpath(*parts)

    def write(self, path: str, content: bytes) -> None:
        """Write a file with this content, unless it has it already. Raises Invalid, OSError."""
        target = self.resolve(path)
        if _holds(target, content):
            return
        self._create(target, content)
        self.counts.written += 1

    def write_own(self, name: str, content: bytes) -> None:
        """Write a file below `OWN`, durable before this returns, because the record describes all other files."""
        target = self.own / name
        if not _holds(target, content):
            self._create(target, content, durable=True)

    def _create(self, target: Path, content: bytes, *, durable: bool = False) -> None:
        fd = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        with open(fd, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(fd)
        self._publish(target)

    def add(self, path: str, blob: Path, *, copy: bool) -> None:
        """Make a file of a blob: a hard link where that is possible, else a copy. Raises Invalid, OSError.

        Web servers have to read it, so that a blob of its owner alone becomes readable to everyone with the link. In
        the store, no one else reaches it, because of the permissions of its directories; where these let others in, it
        is copied, and stays as it is.
        """
        target = self.resolve(path)
        before = _stat_file(target)
        found = blob.stat()
        readable = found.st_mode & READABLE == READABLE
        linked = before is not None and (before.st_dev, before.st_ino) == (found.st_dev, found.st_ino)
        if linked and readable and not copy:
            return
        if not copy and (readable or _is_enclosed(blob)):
            try:
                os.link(blob, self._new)
                if not readable:
                    os.chmod(self._new, stat.S_IMODE(found.st_mode) | READABLE)
                self._publish(target)
            except OSError:  # another file system or owner, or no links; the copy below reports any other problem
                self._new.unlink(missing_ok=True)
            else:
                self._new.unlink(missing_ok=True)  # rename(2) leaves it when both are names of one file
                self.counts.written += 1
                self.counts.linked += 1
                return
        if before is not None and before.st_nlink == 1 and _same_content(target, before, blob, found):
            return
        fd = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        with blob.open("rb") as source, open(fd, "wb") as copied:
            while chunk := source.read(1 << 20):
                copied.write(chunk)
        self._publish(target)
        self.counts.written += 1
        self.counts.copied += 1

    def _publish(self, target: Path) -> None:
        try:
            os.replace(self._new, target)
        except FileNotFoundError:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self._new, target)

    def remove(self, path: str) -> None:
        """Remove a file, and the directories that are empty then. Raises Invalid, OSError."""
        target = self.resolve(path)
        try:
            target.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        self.counts.removed += 1
        for parent in target.relative_to(self.directory).parents[:-1]:
            try:
                (self.directory / parent).rmdir()
            except OSError:
                return

    def walk(self, root: str) -> list[str]:
        """Return the paths of all files at or below `root`, following no links to directories."""
        top = self.resolve(root)
        if not top.is_dir() or top.is_symlink():
            return [root] if os.path.lexists(top) else []
        found: list[str] = []
        for directory, directories, names in os.walk(top):
            below = Path(directory).relative_to(self.directory).as_posix()
            links = [name for name in directories if os.path.islink(os.path.join(directory, name))]
            found += (f"{below}/{name}" for name in (*names, *links))
        return found


class TreeProject(msgspec.Struct, frozen=True):
    """The pages and files of one project in the tree."""

    stamp: str
    """Identifies the inputs: with an equal stamp and no event in the journal, nothing has changed before `until`."""
    until: float | None
    """When policy alone changes what is listed, in seconds since the epoch."""
    entry: str
    files: int
    paths: dict[str, str]
    """Every file of the project → SHA-256 of its content; empty for a project without anything to list."""


class TreeState(msgspec.Struct, frozen=True):
    """The record of everything in the tree."""

    origin: str = ""
    """Identifies what the tree was made of, and how: states of different origins cannot be compared."""
    serial: int = 0
    """The last event of the journal that is in it."""
    projects: dict[str, dict[str, TreeProject]] = {}
    """Repository → project → its files."""
    pages: dict[str, str] = {}
    """The pages about all projects → SHA-256."""
    version: int = STATE_VERSION

    def paths(self) -> dict[str, str]:
        """Return every file with its SHA-256."""
        everything = dict(self.pages)
        for projects in self.projects.values():
            for project in projects.values():
                everything |= project.paths
        return everything


def begin(tree: Tree) -> TreeState | None:
    """Return the recorded state, None where it is unknown; mark it unknown from here on, until `finish`."""
    unfinished = tree.own / UNFINISHED_FILE
    state = None if unfinished.exists() else _read_state(tree.own / STATE_FILE)
    tree.write_own(UNFINISHED_FILE, b"An export is writing here, or was killed. The next one compares every file.\n")
    return state


def finish(tree: Tree, state: TreeState) -> None:
    """Record the state that the tree is in from here on."""
    tree.write_own(STATE_FILE, msgspec.json.encode(state))
    (tree.own / UNFINISHED_FILE).unlink()


def _read_state(file: Path) -> TreeState | None:
    try:
        if file.stat().st_size > _STATE_BYTES:
            return None
        state = msgspec.json.decode(file.read_bytes(), type=TreeState)
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return state if state.version == STATE_VERSION else None


def _is_plain(part: str) -> bool:
    try:
        length = len(part.encode())
    except UnicodeEncodeError:
        return False
    return 0 < length <= PART_BYTES and part not in (".", "..") and part.isprintable() and "\\" not in part


def _stat_file(target: Path) -> os.stat_result | None:
    """Return the status of a path that is a regular file, else None."""
    try:
        found = target.lstat()
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _is_enclosed(blob: Path) -> bool:
    """Return whether one of the directories above a blob, in the store, lets no one but its owner through."""
    return any(not directory.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH) for directory in blob.parents[:3])


def _holds(target: Path, content: bytes) -> bool:
    found = _stat_file(target)
    return found is not None and found.st_size == len(content) and target.read_bytes() == content


def _same_content(target: Path, found: os.stat_result, blob: Path, wanted: os.stat_result) -> bool:
    if found.st_size != wanted.st_size:
        return False
    with target.open("rb") as one, blob.open("rb") as other:
        return hashlib.file_digest(one, "sha256").digest() == hashlib.file_digest(other, "sha256").digest()
