"""Where a mirror is moved to: settings out of the options of `mirror move`, and the marks of stores of files."""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from pydantic import ValidationError

from mirror.blobs.local import UNFINISHED_MOVE
from mirror.blobs.objects_owner import IDENTITY, SINCE, finish, reserve
from mirror.catalog import Catalog
from mirror.config import CatalogSettings, Settings
from mirror.config.blobs import BlobsSettings
from mirror.config.values import Section
from mirror.errors import ConfigError

IDENTITY_DIGITS = 15
"""Hexadecimal digits of the identity by which a bucket knows its mirror: the catalog keeps it as a number."""

AnySection = TypeVar("AnySection", bound=Section)


class MoveTargets(msgspec.Struct, frozen=True):
    """The options of a move: each a URL, a data directory, or None for what stays where it is."""

    catalog: str | None
    blobs: str | None
    endpoint: str | None = None
    """The server of the object store, for those that are compatible with one."""
    password_file: Path | None = None
    """The file with the password of the database."""

    def settings(self, now: Settings) -> Settings:
        """Return the settings of the mirror that has been moved. Raises ConfigError."""
        if self.catalog is None and self.blobs is None:
            raise ConfigError("Nothing is to be moved: give --to-catalog, --to-blobs or both.")
        directories = {
            option: Path(value).absolute()
            for option, value in (("--to-catalog", self.catalog), ("--to-blobs", self.blobs))
            if value is not None and "://" not in value
        }
        if len(set(directories.values())) > 1:
            raise ConfigError("--to-catalog and --to-blobs should name the same directory, the data directory.")
        update: dict[str, object] = {"data_dir": next(iter(directories.values()), now.data_dir)}
        if self.catalog is not None:
            update["catalog"] = self._catalog("--to-catalog" in directories)
        if self.blobs is not None:
            update["blobs"] = self._blobs("--to-blobs" in directories)
        end = now.model_copy(update=update)
        _check_different(now, end, self)
        return end

    def _catalog(self, in_directory: bool) -> CatalogSettings:
        given = {} if in_directory else {"url": self.catalog, "password_file": self.password_file}
        return _section(CatalogSettings, "--to-catalog", given)

    def _blobs(self, in_directory: bool) -> BlobsSettings:
        given = {} if in_directory else {"url": self.blobs, "endpoint": self.endpoint}
        return _section(BlobsSettings, "--to-blobs", given)


def _section(section: type[AnySection], option: str, given: Mapping[str, Any]) -> AnySection:
    try:
        return section.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        reasons = [str(fault["msg"]).removeprefix("Value error, ") for fault in error.errors(include_url=False)]
        raise ConfigError(f"{option}: {'; '.join(reasons)}") from None


def _check_different(now: Settings, end: Settings, targets: MoveTargets) -> None:
    """Raise ConfigError where nothing would move, or a part would be left in another directory."""
    same_directory = end.data_dir.resolve() == now.data_dir.resolve()
    for option, given, before, after in (
        ("--to-catalog", targets.catalog, now.catalog.url, end.catalog.url),
        ("--to-blobs", targets.blobs, now.blobs.url, end.blobs.url),
    ):
        if given is not None and before == after and (after is not None or same_directory):
            raise ConfigError(f"{option}: it is there already: name another place.")
        if given is None and before is None and not same_directory:
            raise ConfigError(f"{option}: is needed as well: one data directory has both, the catalog and the files.")


class StoreMark(Protocol):
    """The mark of a store of files that is being filled, so that no mirror is opened over it."""

    numbers: Mapping[str, int]
    """The numbers of the catalog by which it knows the store."""

    async def reserve(self, may_have_files: bool) -> None:
        """Set the mark. Raises ConfigError, and changes nothing, where there are files of something else."""

    async def finish(self) -> None:
        """Remove the mark."""


async def store_mark(end: Settings, catalog: Catalog, identity: str) -> StoreMark:
    """Return the mark of the store that these settings name; `catalog` and `identity` are those of what is moved."""
    digits = hashlib.sha256(identity.encode()).hexdigest()[:IDENTITY_DIGITS]
    if end.blobs.url is None:
        return DirectoryMark(end.data_dir, digits)
    return BucketMark(end.blobs, await catalog.counters.get(IDENTITY) or int(digits, 16), int(time.time()))


class DirectoryMark:
    """The mark of a data directory: a file."""

    numbers: Mapping[str, int] = {}

    def __init__(self, data_dir: Path, identity: str) -> None:
        self._data_dir = data_dir
        self._file = data_dir / UNFINISHED_MOVE
        self._identity = identity

    async def reserve(self, may_have_files: bool) -> None:
        """See `StoreMark`."""
        if self._file.exists():
            if self._file.read_text(encoding="ascii") != self._identity:
                raise ConfigError("--to-blobs: the move of another mirror has begun there: finish it, or empty it.")
            return
        if not may_have_files and any((self._data_dir / "blobs").glob("??/*")):
            raise ConfigError("--to-blobs: it holds another mirror's data: name an empty directory.")
        self._file.write_text(self._identity, encoding="ascii")

    async def finish(self) -> None:
        self._file.unlink(missing_ok=True)


class BucketMark:
    """The mark of an object store: in the object that tells whose it is."""

    def __init__(self, settings: BlobsSettings, identity: int, since: int) -> None:
        from mirror.blobs.objects_client import ObjectClient
        from mirror.blobs.objects_connect import connect

        self._client = ObjectClient(connect(settings))
        self._url = settings.url or ""
        self._identity, self._since = identity, since
        self.numbers: Mapping[str, int] = {IDENTITY: identity, SINCE: since}

    async def reserve(self, may_have_files: bool) -> None:
        """See `StoreMark`; a bucket tells itself whose files it has."""
        await reserve(self._client, self._url, self._identity, self._since)

    async def finish(self) -> None:
        await finish(self._client, self._identity, self._since)
