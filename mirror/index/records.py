"""The records beside the files: what the bytes of an upload do not say, one small JSON file for each.

They are the truth about uploads, and the catalog's table is made from them. A record is durable when a method returns.
The one surprise: a new record is put in place by a hard link, which fails where there is one already, so that of two
processes that add the same name at the same time one loses, whatever the catalog knows.
"""

import asyncio
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from mirror.blobs.bulk import sync_all
from mirror.blobs.local import storage_errors
from mirror.catalog import Catalog, Upload
from mirror.errors import Invalid

NAME_BYTES = 240
"""Bytes of a file name; file systems allow 255, and a suffix is appended."""
_SUFFIX = ".json"


class DamagedRecord(Invalid):
    """A record that cannot be read."""


class Records:
    """The records of all repositories: `<root>/<repository>/<project>/<filename>.json`. All methods block."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def check(self, upload: Upload) -> None:
        """Check that there can be a record under these names. Raises Invalid."""
        self._path(upload)

    def add(self, upload: Upload) -> Upload:
        """Write a new record, and return the one that is there now: another one when the name was taken."""
        return self.add_all([upload])[0]

    def add_all(self, uploads: Sequence[Upload]) -> list[Upload]:
        """Write new records as `add` does; all are durable together when this returns."""
        paths = [self._path(upload) for upload in uploads]
        written: list[Path] = []
        present: list[Upload] = []
        with storage_errors():
            try:
                for path, upload in zip(paths, uploads, strict=True):
                    _make_directory(path.parent, self._root)
                    written.append(_write(path, upload))
                sync_all(list(map(str, written)), self._root)
                for new, path, upload in zip(written, paths, uploads, strict=True):
                    try:
                        os.link(new, path)
                        present.append(upload)
                    except FileExistsError:
                        present.append(_read(path))
            finally:
                for new in written:
                    new.unlink()
            sync_all(list({str(path.parent) for path in paths}), self._root)
        return present

    def remove(self, upload: Upload) -> None:
        """Remove a record that was just added."""
        path = self._path(upload)
        path.unlink(missing_ok=True)
        _sync_directory(path.parent)

    def replace(self, upload: Upload) -> None:
        """Replace the record of that name."""
        path = self._path(upload)
        with storage_errors():
            _make_directory(path.parent, self._root)
            written = _write(path, upload)
            sync_all([str(written)], self._root)
            os.replace(written, path)
            _sync_directory(path.parent)

    def read(self, repository: str) -> Iterator[Upload | DamagedRecord]:
        """Yield every record of a repository, by project and file name; for one that cannot be read, the error."""
        for directory in sorted(self._directories(repository)):
            for path in sorted(directory.glob(f"*{_SUFFIX}")):
                try:
                    upload = _read(path)
                    if self._path(upload) != path:
                        raise DamagedRecord(f"The record {path} is about another file.")
                    yield upload
                except DamagedRecord as error:
                    yield error
                except Invalid as error:
                    yield DamagedRecord(f"The record {path} is about no file: {error}")

    def any(self, repository: str) -> bool:
        """Return whether a repository has any record."""
        return any(True for directory in self._directories(repository) for _ in directory.glob(f"*{_SUFFIX}"))

    def _directories(self, repository: str) -> list[Path]:
        try:
            return [entry for entry in (self._root / repository).iterdir() if entry.is_dir()]
        except FileNotFoundError:
            return []

    def _path(self, upload: Upload) -> Path:
        """Return where a record is. Raises Invalid for names that cannot be those of files: they come from outside."""
        check_names(upload)
        return self._root / upload.repository / upload.project / f"{upload.filename}{_SUFFIX}"


class UploadRecords(Protocol):
    """The records of all repositories, wherever they are. All methods block, and raise StorageError."""

    def check(self, upload: Upload) -> None:
        """Check that there can be a record under these names. Raises Invalid."""

    def add_all(self, uploads: Sequence[Upload]) -> list[Upload]:
        """Write new records, and return for each the one that is there now: another one when the name was taken."""

    def remove(self, upload: Upload) -> None:
        """Remove a record that was just added."""

    def replace(self, upload: Upload) -> None:
        """Replace the record of that name."""

    def read(self, repository: str) -> Iterator[Upload | DamagedRecord]:
        """Yield every record of a repository, by project and file name; for one that cannot be read, the error."""

    def any(self, repository: str) -> bool:
        """Return whether a repository has any record."""


def check_names(upload: Upload) -> None:
    """Check that repository, project and file name can be parts of a path. Raises Invalid: they come from outside."""
    for part in (upload.repository, upload.project, upload.filename):
        if part in ("", ".", "..") or "/" in part or "\0" in part or len(part.encode()) > NAME_BYTES:
            raise Invalid(f"{part[:80]!r} cannot be used as a name here: it is too long or not one name.")


def encoded(upload: Upload) -> bytes:
    """Return the content of a record."""
    return msgspec.json.format(msgspec.json.encode(upload), indent=1)


def move_records(source: UploadRecords, target: UploadRecords, repositories: Iterable[str]) -> int:
    """Move records to where there are none of these names yet, and return their number; blocking.

    Damaged ones stay where they are. Raises StorageError.
    """
    moved = 0
    for repository in repositories:
        uploads = [one for one in source.read(repository) if not isinstance(one, DamagedRecord)]
        target.add_all(uploads)
        for upload in uploads:
            source.remove(upload)
        moved += len(uploads)
    return moved


async def record_uploads(catalog: Catalog, records: UploadRecords) -> None:
    """Write the missing records of imported uploads: a process may have been killed before it wrote them."""
    missing = await catalog.bundles.unrecorded()
    for repository, filename in missing:
        row = await catalog.uploads.get(repository, filename)
        if row is not None:
            await asyncio.to_thread(records.replace, row.upload)
    await catalog.bundles.recorded(missing)


def _read(path: Path) -> Upload:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Upload)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        raise DamagedRecord(f"The record {path} cannot be read.") from None


def _write(path: Path, upload: Upload) -> Path:
    """Write a record under a temporary name beside its place; it is not durable yet."""
    content = encoded(upload)
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with open(fd, "wb") as file:
            file.write(content)
    except BaseException:
        Path(name).unlink()
        raise
    return Path(name)


def _make_directory(directory: Path, root: Path) -> None:
    """Create a directory below `root`, durably."""
    if directory.is_dir():
        return
    if directory != root:
        _make_directory(directory.parent, root)
    directory.mkdir(mode=0o700, exist_ok=True)
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
