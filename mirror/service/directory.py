"""The data directory: which process has it, where that process answers, and who else of this machine may look into it.

The process that works as the mirror holds an exclusive lock on the file `lock`. Once it listens, it writes its URLs and
a secret into the file `running`, which only its user can read, so that a command that is given the same directory finds
it. A command sends a token to such a URL only after what answers there has proved that it knows the secret
(`prove`): anyone may listen at an address that a mirror has left.
"""

import fcntl
import hashlib
import hmac
import logging
import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from mirror.config import Settings
from mirror.errors import ConfigError

logger = logging.getLogger(__name__)

LOCK, RUNNING = "lock", "running"
"""The names of the files."""
RUNNING_BYTES = 65_536
"""The most that is read of `running`."""
OTHERS = stat.S_IRWXG | stat.S_IRWXO
"""What a mode may not have, so that only its owner reads a file."""


class RunningMirror(msgspec.Struct, frozen=True):
    """The process that serves from a data directory."""

    urls: tuple[str, ...] = ()
    """Where it listens; empty while it starts."""
    secret: bytes = b""
    """Known to it and to those who may read the data directory."""

    def __repr__(self) -> str:
        return f"RunningMirror({self.urls!r})"


def make(data_dir: Path) -> None:
    """Make a data directory that only its owner may enter, unless it exists. Raises OSError."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def open_to_others(data_dir: Path) -> bool:
    """Return whether other users of this machine may read or change the data directory."""
    try:
        return bool(data_dir.stat().st_mode & OTHERS)
    except OSError:
        return False


def has_catalog(settings: Settings) -> bool:
    """Return whether there may be a catalog: its file is made by the first process that needs it."""
    return settings.catalog.url is not None or settings.catalog_file.exists()


def lock(data_dir: Path) -> int:
    """Take the data directory for this process, until the returned descriptor is closed. Raises ConfigError."""
    try:
        make(data_dir)
        descriptor = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"data_dir: {data_dir} cannot be used: {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigError(f"data_dir: another mirror is serving from {data_dir}; stop it or choose another.") from None
    with suppress(OSError):  # it may belong to another user
        os.fchmod(descriptor, 0o600)  # earlier versions let others read it, and so lock it
    with suppress(FileNotFoundError):
        (data_dir / RUNNING).unlink()  # a process before this one may have left it
    if open_to_others(data_dir):
        logger.warning("other users of this machine may look into %s: `chmod -R go= %s` ends that", data_dir, data_dir)
    return descriptor


def publish(data_dir: Path, urls: Sequence[str], secret: bytes) -> None:
    """Write where this process listens, for commands that are given the same data directory."""
    part = data_dir / f"{RUNNING}.new"
    try:
        with suppress(FileNotFoundError):
            part.unlink()
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(RunningMirror(tuple(urls), secret)))
        part.replace(data_dir / RUNNING)
    except OSError as error:
        logger.warning("commands cannot find this mirror by its data directory: %s", error.strerror)


def served_by(data_dir: Path) -> RunningMirror | None:
    """Return the mirror that serves from a data directory; None without one. Raises OSError when it may not be read."""
    try:
        descriptor = os.open(data_dir / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _read(data_dir / RUNNING)
    finally:
        os.close(descriptor)
    return None


def new_secret() -> bytes:
    """Return a secret by which a process proves to commands that it has the data directory."""
    return secrets.token_bytes(32)


def prove(secret: bytes, challenge: str) -> str:
    """Return the answer to a challenge that only a process with the secret can give."""
    return hmac.new(secret, challenge.encode(), hashlib.sha256).hexdigest()


def _read(path: Path) -> RunningMirror:
    """Return what `running` contains; nothing where it is not there yet, or others could have written it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return RunningMirror()
    with open(descriptor, "rb") as file:
        found = os.fstat(file.fileno())
        if found.st_mode & OTHERS or found.st_uid not in (os.geteuid(), path.parent.stat().st_uid):
            return RunningMirror()
        try:
            return msgspec.json.decode(file.read(RUNNING_BYTES), type=RunningMirror)
        except msgspec.MsgspecError:
            return RunningMirror()
