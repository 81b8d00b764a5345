"""Backup and restore of what cannot be fetched again: the catalog, and uploaded files with their records.

A backup is a directory that can be read with ordinary tools: `catalog.sqlite`, `uploads/` with one record for each
file, and `blobs/`. It is made while the mirror serves. A further backup to the same directory copies only what is new,
because blobs never change. The catalog is copied first and the records after it, so that everything the catalog refers
to is there.
"""

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from mirror.blobs import BlobStore
from mirror.catalog.inspection import copy_catalog, recorded_uploads, uploaded_blobs, uploaded_names
from mirror.errors import Conflict, Invalid, MissingBlob, NotFound
from mirror.index.records import encoded

CATALOG = "catalog.sqlite"


class BackupResult(msgspec.Struct, frozen=True):
    """The files that a backup or restore has copied."""

    blobs: int
    """Blobs copied; those that were there before are not counted."""
    bytes: int
    missing: tuple[str, ...] = ()
    """Digests of blobs that should have been there."""


def back_up(data_dir: Path, target: Path, copy: Callable[[Path], None] | None = None) -> BackupResult:
    """Copy the catalog and the uploads of a mirror, which may be serving, to a directory. Blocking.

    `copy` writes the catalog to a new file, where it is none of the data directory. Raises NotFound when there is no
    catalog, and what `copy` raises.
    """
    if copy is None and not (data_dir / CATALOG).is_file():
        raise NotFound(f"There is no catalog in {data_dir}: name the mirror's data directory with --data-dir.")
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = target / f"{CATALOG}.new"
    fresh.unlink(missing_ok=True)
    if copy is None:
        copy_catalog(data_dir / CATALOG, fresh)
    else:
        copy(fresh)
    saved = _copy_blobs(data_dir, target, uploaded_blobs(fresh))
    # What was uploaded after the catalog was copied is left out.
    _copy_records(
        data_dir / "uploads", target / "uploads", ["/".join(name) + ".json" for name in uploaded_names(fresh)]
    )
    _sync(fresh)
    fresh.replace(target / CATALOG)
    if saved.missing and copy is None:  # unless it was deleted meanwhile
        needed = set(uploaded_blobs(data_dir / CATALOG))
        saved = msgspec.structs.replace(saved, missing=tuple(one for one in saved.missing if one in needed))
    return saved


async def add_stored(blobs: BlobStore, target: Path, saved: BackupResult) -> BackupResult:
    """Add to a backup what is not in the data directory but in an object store, verified; return what it has then."""
    count, size = saved.blobs, saved.bytes
    missing: list[str] = []
    for digest in saved.missing:
        there = target / "blobs" / digest[:2] / digest
        there.parent.mkdir(parents=True, exist_ok=True)
        part, hasher = there.with_name(f"{digest}.part"), hashlib.sha256()
        try:
            body = await blobs.open_stored(digest)
            with part.open("wb") as file:
                async for chunk in body.read():
                    hasher.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
        except MissingBlob:
            missing.append(digest)
            continue
        if hasher.hexdigest() != digest:
            part.unlink()
            missing.append(digest)
            continue
        _sync(part)
        part.replace(there)
        count, size = count + 1, size + body.size
    return BackupResult(count, size, tuple(missing))


def write_records(target: Path) -> None:
    """Write the records of all uploads into a backup, whose mirror has them in an object store. Blocking."""
    for upload in recorded_uploads(target / CATALOG):
        there = target / "uploads" / upload.repository / upload.project / f"{upload.filename}.json"
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(encoded(upload))


def restore(source: Path, data_dir: Path) -> BackupResult:
    """Fill an empty data directory from a backup. Blocking. Raises Conflict when it is not empty, and Invalid."""
    if not (source / CATALOG).is_file():
        raise Invalid(f"{source} is not a backup: it has no {CATALOG}.")
    if data_dir.exists() and any(data_dir.iterdir()):
        raise Conflict(f"{data_dir} is not empty: move it away first, so that nothing is lost by the restore.")
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    blobs = [path.name for path in (source / "blobs").glob("??/*")] if (source / "blobs").is_dir() else []
    saved = _copy_blobs(source, data_dir, blobs)
    records = source / "uploads"
    names = [str(path.relative_to(records)) for path in records.rglob("*.json")] if records.is_dir() else []
    _copy_records(records, data_dir / "uploads", names)
    shutil.copyfile(source / CATALOG, data_dir / f"{CATALOG}.new")
    _sync(data_dir / f"{CATALOG}.new")
    (data_dir / f"{CATALOG}.new").replace(data_dir / CATALOG)
    return saved


def _copy_blobs(source: Path, target: Path, digests: Iterable[str]) -> BackupResult:
    count = size = 0
    missing: list[str] = []
    for digest in digests:
        here, there = source / "blobs" / digest[:2] / digest, target / "blobs" / digest[:2] / digest
        if there.exists():
            continue
        there.parent.mkdir(parents=True, exist_ok=True)
        part = there.with_name(f"{digest}.part")
        try:
            shutil.copy2(here, part)  # with its date, which is its Last-Modified
        except FileNotFoundError:
            missing.append(digest)
            continue
        _sync(part)
        part.replace(there)
        count, size = count + 1, size + there.stat().st_size
    return BackupResult(count, size, tuple(missing))


def _copy_records(source: Path, target: Path, names: Iterable[str]) -> None:
    """Copy all records, also those copied before: they are small, and a yank changes them in place."""
    for name in names:
        there = target / name
        there.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # `mirror rebuild` reports lost ones
            shutil.copy2(source / name, there)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
