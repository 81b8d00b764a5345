"""The choice of the store of files: a directory, or an object store with a cache in the data directory.

The surprise: what reaches an object store is imported only where the settings name one, because it is an optional part
of the mirror.
"""

import asyncio
import logging
from pathlib import Path

from mirror.blobs import BlobStore, Numbers
from mirror.blobs.local import LocalBlobs
from mirror.config import Settings
from mirror.config.blobs import BlobsSettings
from mirror.index.records import Records, UploadRecords, move_records

logger = logging.getLogger(__name__)


def blob_store(settings: Settings, numbers: Numbers | None) -> BlobStore:
    """Return the store that the settings name; nothing is asked yet. Raises ConfigError.

    `numbers` are those of the catalog; None where the caller has made sure that the store is the right one.
    """
    if settings.blobs.url is None:
        return LocalBlobs(settings.data_dir)
    return _object_blobs(settings.data_dir, settings.blobs, numbers)


def upload_records(settings: Settings) -> UploadRecords:
    """Return the records of uploads, which are where the files are; nothing is asked yet."""
    if settings.blobs.url is None:
        return Records(settings.data_dir / "uploads")
    from mirror.blobs.objects_connect import connect
    from mirror.index.object_records import ObjectRecords

    return ObjectRecords(lambda: connect(settings.blobs))


async def gather_records(settings: Settings, records: UploadRecords) -> None:
    """Move records that are still in the data directory to where those of all nodes are. Raises StorageError."""
    local = Records(settings.data_dir / "uploads")
    if settings.blobs.url is None or not await asyncio.to_thread(lambda: any(map(local.any, settings.repositories))):
        return
    moved = await asyncio.to_thread(move_records, local, records, settings.repositories)
    logger.info("moved %d records of uploads into the object store", moved)


def store_for_workers(settings: Settings) -> tuple[str, str]:
    """Return how the worker processes of a sync make the same store: an import path, and the text for it."""
    if settings.blobs.url is None:
        return "mirror.blobs.local:LocalBlobs", ""
    return "mirror.service.blobs:worker_store", settings.blobs.model_dump_json()


def worker_store(data_dir: Path, text: str) -> BlobStore:
    """Return the store of a worker process, whose mirror has made sure that it is the right one."""
    return _object_blobs(data_dir, BlobsSettings.model_validate_json(text), None)


def _object_blobs(data_dir: Path, settings: BlobsSettings, numbers: Numbers | None) -> BlobStore:
    from mirror.blobs.objects import ObjectBlobs
    from mirror.blobs.objects_cache import BlobCache

    directory = data_dir / "cache"
    cache = BlobCache(LocalBlobs(directory), directory / "blobs", settings.cache)
    return ObjectBlobs(data_dir, cache, settings, numbers)
