"""Checks of this mirror itself: its disk, catalog, clock, certificate and upstreams.

Facts are arguments where a test could not make them: it needs no full disk and no wrong clock.

The surprise: the doctor may run as another user than the server, and then reports that it cannot find out.
"""

import os
import platform
import ssl
import stat
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from mirror import __version__
from mirror.config import Settings
from mirror.doctor.client import WireResponse
from mirror.doctor.findings import Finding, Requirement

LEAST_FREE_BYTES = 200 << 20
"""Bytes free below which a download of usual size may fail."""
LEAST_FREE_INODES = 10_000
DRIFT_SECONDS = 60.0
"""How far clocks may differ."""
RENEW_BEFORE = timedelta(days=14)
"""How long before it expires a certificate should be replaced."""
LIBRARIES = ("aiohttp", "msgspec", "packaging", "pydantic-settings", "uvloop", "yarl")

_DATA_DIR = Requirement(
    "mirror/data-dir",
    "The data directory is there, and can be written to.",
    "every client that asks for what is not held yet",
)
_PRIVATE = Requirement(
    "mirror/private",
    "Only its own user may look into the data directory.",
    "every user: others on this machine can read uploads and the hashes of passwords",
)
_SPACE = Requirement(
    "mirror/space",
    f"At least {LEAST_FREE_BYTES >> 20} MiB are free where the store is.",
    "everyone: with a full disk nothing is kept, and uploads are refused with 507",
)
_LIMIT = Requirement(
    "mirror/limit",
    "The store's limit fits on its disk.",
    "everyone: the disk is full before the sweep begins",
)
_INODES = Requirement(
    "mirror/inodes", "There is room for more files where the store is.", "everyone, as when the disk is full"
)
_ONE_FILE_SYSTEM = Requirement(
    "mirror/one-file-system",
    "incoming/ and blobs/ are on one file system.",
    "every download: its last step is a rename, which cannot cross file systems",
)
_CATALOG = Requirement(
    "mirror/catalog", "The catalog is sound.", "every client: what is held is not found, and uploads may be lost"
)
_CLOCK = Requirement(
    "mirror/clock",
    f"The clock agrees with that of the upstreams, within {DRIFT_SECONDS:.0f} seconds.",
    "TLS, tokens that end, cooldowns of new releases, and the age of every page",
)
_CLOCK_BACK = Requirement(
    "mirror/clock-back",
    "The clock has not been set back.",
    "pages count as fresh for too long; the feed's times go backwards",
)
_UPSTREAM = Requirement(
    "mirror/upstream",
    "Every upstream answers.",
    "clients that request what is not held: 503, after the configured timeout",
)
_CONFUSION = Requirement(
    "mirror/names",
    "Where several upstreams are asked in turn, the settings say which names are whose.",
    "clients of internal projects, when others publish something under a name that was not taken yet",
)
_CERTIFICATE = Requirement(
    "mirror/certificate",
    f"The certificate is readable, and holds for {RENEW_BEFORE.days} more days.",
    "every client: pip, uv, gem and bundler refuse an expired certificate",
)
_LIBRARIES = Requirement("mirror/versions", "Python and the libraries are installed.", "the mirror itself")


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about the file system of the store."""

    free: int
    total: int
    held: int = 0
    """Bytes that the store already takes."""
    inodes_free: int = 0
    inodes: int = 0
    """0 where the file system does not count them."""


def check_space(disk: Disk, limit: int | None) -> list[Finding]:
    """Judge the free space; `limit` is that of [store]."""
    found = [_SPACE.judge(disk.free >= LEAST_FREE_BYTES, f"{disk.free >> 20} MiB of {disk.total >> 20} MiB are free")]
    if limit is not None:
        possible = disk.free + disk.held
        found.append(_LIMIT.judge(limit <= possible, f"{limit >> 20} MiB, there is room for {possible >> 20} MiB"))
    if disk.inodes:
        found.append(_INODES.judge(disk.inodes_free >= LEAST_FREE_INODES, f"{disk.inodes_free} inodes are free"))
    return found


def check_storage(settings: Settings, held: int = 0) -> list[Finding]:
    """Check the data directory; `held` is the size of the store in bytes, where that is known."""
    place = settings.data_dir
    if not place.is_dir():
        return [_DATA_DIR.fails(f"{place} is not a directory; `mirror serve` creates it")]
    try:
        status = os.statvfs(place)
        found = [_writable(place), _private(place)]
        found.append(_one_file_system([place / "incoming", place / "blobs"]))
    except OSError as error:
        return [_DATA_DIR.fails(f"{place}: {error.strerror}")]
    disk = Disk(
        free=status.f_bavail * status.f_frsize,
        total=status.f_blocks * status.f_frsize,
        held=held,
        inodes_free=status.f_favail,
        inodes=status.f_files,
    )
    return found + check_space(disk, settings.store.limit)


def _writable(place: Path) -> Finding:
    incoming = place / "incoming"
    try:
        with tempfile.TemporaryFile(dir=incoming if incoming.is_dir() else place) as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
    except PermissionError as error:
        mine = place.stat().st_uid == os.geteuid()
        who = f"{place} belongs to another user than the one who runs the doctor"
        return _DATA_DIR.fails(f"{place}: {error.strerror}") if mine else _DATA_DIR.unknown(who)
    except OSError as error:
        return _DATA_DIR.fails(f"{place}: {error.strerror}")
    return _DATA_DIR.ok()


def _private(place: Path) -> Finding:
    mode = stat.S_IMODE(place.stat().st_mode)
    return _PRIVATE.judge(not mode & 0o077, f"{place} has the mode {mode:04o}: `chmod -R go= {place}`")


def _one_file_system(directories: Sequence[Path]) -> Finding:
    devices = {directory.stat().st_dev for directory in directories if directory.is_dir()}
    return _ONE_FILE_SYSTEM.judge(len(devices) <= 1, f"{' and '.join(map(str, directories))} are not")


def check_catalog(damage: str | None, unfinished: bool = False) -> Finding:
    """Judge an inspection of the catalog."""
    if damage is None and unfinished:
        return _CATALOG.unknown("it is too large to be inspected in a minute")
    return _CATALOG.judge(
        damage is None, f"{damage}: `mirror restore` a backup, or let it be made anew and `mirror rebuild`"
    )


def catalog_not_checked(why: str) -> Finding:
    """Report that the catalog cannot be inspected, and why."""
    return _CATALOG.unknown(why)


def check_clock(now: float, dates: Mapping[str, float], newest: float | None) -> list[Finding]:
    """Judge the clock; `dates`: upstream → its time minus this machine's; `newest`: the last change of the catalog."""
    wrong = {name: difference for name, difference in dates.items() if abs(difference) > DRIFT_SECONDS}
    # If one upstream differs, its clock is wrong; if most do, this machine's is.
    ours = len(wrong) * 2 > len(dates)
    seen = ", ".join(f"{name} is {difference:+.0f} s from here" for name, difference in wrong.items())
    found = [_CLOCK.judge(not ours, seen) if dates else _CLOCK.unknown("no upstream has reported its time")]
    if newest is not None:
        found.append(_CLOCK_BACK.judge(newest <= now + DRIFT_SECONDS, f"it changed {newest - now:.0f} s in the future"))
    return found


def time_sent(reply: WireResponse) -> float | None:
    """Return when a response was sent, in seconds since the epoch; None where its headers do not state it."""
    try:
        date = parsedate_to_datetime(reply.header("Date"))
        age = int(reply.header("Age") or 0)  # RFC 9111: a cache leaves the Date of what it stores as it was
    except (ValueError, TypeError, OverflowError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() + age


def check_upstreams(troubles: Mapping[str, str], offline: bool) -> Finding:
    """Judge the upstreams; `troubles`: upstream → its error, empty when it answers."""
    if offline:
        return _UPSTREAM.unknown("the mirror is offline")
    if not troubles:
        return _UPSTREAM.unknown("there is none")
    down = [f"{name}: {trouble}" for name, trouble in troubles.items() if trouble]
    return _UPSTREAM.judge(not down, "; ".join(down))


def check_names(settings: Settings) -> Finding:
    """Judge whether repositories with several upstreams say which names are private, or merged."""
    open_ones = [name for name, one in settings.repositories.items() if one.open_to_confusion]
    return _CONFUSION.judge(
        not open_ones, f"{', '.join(open_ones)}: several upstreams, and neither `private` nor `union`"
    )


def trouble_of(reply: WireResponse) -> str:
    """Return the error in an upstream's response to HEAD; empty when there is none."""
    if reply.status in {401, 403, 407}:
        return f"it answers {reply.phrase}: the credentials are missing, wrong or not enough"
    return f"it answers {reply.phrase}" if reply.status >= 500 else ""


def check_certificate(settings: Settings, now: datetime) -> list[Finding]:
    """Check the certificate of [tls], where there is one."""
    path, key = settings.tls.certificate, settings.tls.key
    if path is None:
        return []
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, key)
        content = path.read_bytes()
    except PermissionError as error:
        return [_CERTIFICATE.unknown(f"{error.filename or path}: {error.strerror}")]
    except (OSError, ssl.SSLError) as error:
        return [_CERTIFICATE.fails(f"{path} with its key cannot be used: {error}")]
    from cryptography import x509  # a large library, for this alone

    try:
        end = min(one.not_valid_after_utc for one in x509.load_pem_x509_certificates(content))
    except ValueError as error:
        return [_CERTIFICATE.fails(f"{path} cannot be read: {error}")]
    return [_CERTIFICATE.judge(end > now + RENEW_BEFORE, f"{path} ends at {end:%Y-%m-%d %H:%M} UTC")]


def check_libraries() -> Finding:
    """Check the installed libraries."""
    found, missing = [f"mirror {__version__}", f"Python {platform.python_version()}"], []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    return _LIBRARIES.fails(f"{', '.join(missing)} missing") if missing else _LIBRARIES.ok(", ".join(found))
