"""Checks of the object store that has the files, where there is one. Nothing in it is changed."""

import time

from mirror.config import Settings
from mirror.doctor.findings import Finding, Requirement
from mirror.errors import ConfigError, StorageUnavailable

SLOW_SECONDS = 0.5
"""An answer without a body that takes longer holds up every file that is not cached."""

_OBJECTS = Requirement(
    "mirror/object-store",
    "The object store answers, and holds this mirror's files.",
    "every client that asks for a file that is not cached, and everyone who uploads",
)
_LATENCY = Requirement(
    "mirror/object-store-latency",
    f"The object store answers within {SLOW_SECONDS * 1000:.0f} ms.",
    "clients of files that are not cached: each of them waits for it",
)


async def check_object_store(settings: Settings, identity: int | None = None) -> list[Finding]:
    """Ask the object store for the object that says whose it is; nothing where files are in the data directory.

    `identity` is what the catalog has of it; None where that is not known, and what lies beside the cache counts.
    """
    if settings.blobs.url is None:
        return []
    from mirror.blobs.objects_client import ObjectClient
    from mirror.blobs.objects_connect import connect
    from mirror.blobs.objects_owner import MARKER, owner_of_objects, recorded_owner

    try:
        client = ObjectClient(connect(settings.blobs))
        await client.head(MARKER)  # opens the connection
        began = time.monotonic()
        marker = await client.head(MARKER)
        seconds = time.monotonic() - began
        owner = await owner_of_objects(client, settings.blobs.url)
    except ConfigError as error:
        return [_OBJECTS.fails(str(error))]
    except StorageUnavailable as error:
        return [_OBJECTS.fails(f"{settings.blobs.url}: {error}")]
    if marker is None:
        return [_OBJECTS.fails(f"{settings.blobs.url} has no {MARKER} yet: `mirror serve` begins with it")]
    known = recorded_owner(settings.data_dir) if identity is None else f"{identity:x}"
    if known and owner != known:
        return [_OBJECTS.fails(f"{settings.blobs.url} has the files of another mirror: give each a prefix of its own")]
    return [_OBJECTS.ok(), _LATENCY.judge(seconds <= SLOW_SECONDS, f"it took {seconds * 1000:.0f} ms")]
