"""Whose objects a bucket holds: an object with the mirror's identity, which the catalog has as well.

Without it, a mirror that is pointed at another one's bucket would sweep away as orphans what the other one holds.
A copy of the identity lies beside the cache, so that a node can start while the object store is away, and so that a
catalog that was lost and is made again on that node goes on with its objects.
"""

import logging
import secrets
from pathlib import Path

import msgspec

from mirror.blobs import Numbers
from mirror.blobs.objects_client import MissingObject, ObjectClient, StorageRefused
from mirror.errors import ConfigError, StorageUnavailable

MARKER = "mirror.json"
"""The name of the object with the identity."""
BLOBS = "blobs"
"""The prefix of the blobs' objects."""
IDENTITY, SINCE = "objects identity", "objects since"
"""The names of the catalog's numbers: whose objects these are, and the second from which on this catalog has them."""

logger = logging.getLogger(__name__)


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the object."""

    mirror: str
    """The identity, in hex."""
    since: int
    """When the first catalog began with these objects, in seconds since the epoch."""
    unfinished: bool = False
    """Whether `mirror move` is still copying, so that no mirror is to be opened over them."""


async def claim(client: ObjectClient, url: str, data_dir: Path, numbers: Numbers, now: float) -> bool:
    """Make sure that a bucket is this mirror's, or make it so; return whether an earlier catalog has used it.

    Raises ConfigError, also when nothing can be written; then nothing has changed.
    """
    copy = _copy(data_dir)
    identity = await numbers.get(IDENTITY)
    known = _read(copy)
    try:
        owner = await _owner(client, url)
        if owner is None:
            if any((data_dir / "blobs").glob("??/*")):
                raise ConfigError(
                    f"blobs.url: {url} is empty, but {data_dir} is not: `mirror move --to-blobs {url}` moves its files"
                )
            return await _begin(client, url, copy, numbers, now)
        if owner.unfinished:
            raise ConfigError(
                f"blobs.url: `mirror move` has not copied everything to {url}: run it again, it goes on where it was"
            )
        if identity is None:  # another node may have begun just now; or the catalog was lost
            identity = await numbers.get(IDENTITY) or (int(owner.mirror, 16) if known == owner.mirror else None)
        if identity is None or f"{identity:x}" != owner.mirror:
            raise ConfigError(
                f"blobs.url: {url} holds the files of another mirror. Give each mirror a prefix of its own; where the"
                f" catalog of that mirror was lost and this one replaces it, delete the object {MARKER} there."
            )
        await client.replace(MARKER, msgspec.json.encode(owner), 0)  # shows whether writing is allowed
    except StorageRefused:
        raise _no_rights(url) from None
    except StorageUnavailable as error:
        if identity is None or known != f"{identity:x}":
            raise ConfigError(f"blobs.url: {url} cannot be used: {error}") from None
        logger.error("%s Files that are cached here are served meanwhile.", error)
        return False
    await numbers.settle(IDENTITY, identity)
    _write(copy, owner.mirror)
    return await numbers.settle(SINCE, int(now)) > owner.since


async def reserve(client: ObjectClient, url: str, identity: int, since: int) -> None:
    """Have a bucket filled by `mirror move` with the files of a mirror, which cannot be opened over it meanwhile.

    Raises ConfigError where it holds something else, and then nothing has changed.
    """
    new = msgspec.json.encode(Owner(mirror=f"{identity:x}", since=since, unfinished=True))
    try:
        owner = await _owner(client, url)
        if owner is None:
            if any([True async for page in client.walk(BLOBS) if page][:1]):
                raise ConfigError(
                    f"blobs.url: {url} holds files of something else: give the mirror a prefix of its own"
                )
            await client.create(MARKER, new)
            owner = await _owner(client, url)
        if owner is None or owner.mirror != f"{identity:x}":
            raise ConfigError(f"blobs.url: {url} holds the files of another mirror: give each one a prefix of its own")
        await client.replace(MARKER, new, 0)
    except MissingObject:
        raise _no_bucket(url) from None
    except StorageRefused:
        raise _no_rights(url) from None
    except StorageUnavailable as error:
        raise ConfigError(f"blobs.url: {url} cannot be used: {error}") from None


async def finish(client: ObjectClient, identity: int, since: int) -> None:
    """Let mirrors be opened over a bucket that `mirror move` has filled. Raises StorageUnavailable."""
    await client.replace(MARKER, msgspec.json.encode(Owner(mirror=f"{identity:x}", since=since)), 0)


async def owner_of_objects(client: ObjectClient, url: str) -> str:
    """Return the identity of the mirror whose objects these are, in hex; empty for none. Raises ConfigError."""
    owner = await _owner(client, url)
    return "" if owner is None else owner.mirror


def recorded_owner(data_dir: Path) -> str:
    """Return the identity that lies beside the cache, in hex; empty for none."""
    return _read(_copy(data_dir))


def _copy(data_dir: Path) -> Path:
    return data_dir / "cache" / "owner"


async def _owner(client: ObjectClient, url: str) -> Owner | None:
    try:
        content = b"".join([chunk async for chunk in client.read(MARKER)])
    except MissingObject as error:
        if error.no_bucket:
            raise _no_bucket(url) from None
        return None
    try:
        owner = msgspec.json.decode(content, type=Owner)
        int(owner.mirror, 16)
    except (msgspec.MsgspecError, ValueError):
        raise ConfigError(f"blobs.url: the object {MARKER} in {url} is not that of a mirror") from None
    return owner


async def _begin(client: ObjectClient, url: str, copy: Path, numbers: Numbers, now: float) -> bool:
    """Begin with an empty bucket, or with that of a lost catalog, at the same moment as other nodes perhaps."""
    used = await _has_blobs(client)
    identity = f"{await numbers.settle(IDENTITY, secrets.randbits(62)):x}"
    since = await numbers.settle(SINCE, int(now))
    owner = Owner(mirror=identity, since=0 if used else since)
    try:
        await client.create(MARKER, msgspec.json.encode(owner))
    except MissingObject:
        raise _no_bucket(url) from None
    written = await _owner(client, url)
    if written is None or written.mirror != identity:
        raise ConfigError(f"blobs.url: {url} was taken by another mirror at this moment")
    _write(copy, identity)
    return written.since < since


async def _has_blobs(client: ObjectClient) -> bool:
    async for page in client.walk(BLOBS):
        if page:
            return True
    return False


def _no_bucket(url: str) -> ConfigError:
    return ConfigError(f"blobs.url: there is no bucket for {url}: create it first")


def _no_rights(url: str) -> ConfigError:
    return ConfigError(
        f"blobs.url: {url} does not let this mirror read, write and delete: check its credentials and their rights"
    )


def _read(copy: Path) -> str:
    try:
        return copy.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _write(copy: Path, identity: str) -> None:
    if _read(copy) != identity:
        copy.write_text(f"{identity}\n", encoding="ascii")
