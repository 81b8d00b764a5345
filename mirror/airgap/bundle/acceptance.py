"""What a bundle has to be for this store to take it: its place in the sequence, its age, its repositories and logs."""

import hashlib
from datetime import UTC, datetime

from mirror.airgap.bundle.contents import StoreLayout, page_mark
from mirror.airgap.bundle.format import LogEntry, Manifest, PageEntry
from mirror.airgap.bundle.reading import follows
from mirror.catalog import Catalog
from mirror.catalog.bundles import ImportedSerials
from mirror.errors import Conflict


async def check_sequence(manifest: Manifest, catalog: Catalog, *, force: bool) -> ImportedSerials:
    """Return what is recorded of the bundle's mirror after the import. Raises Conflict unless it continues the last."""
    seen = (await catalog.bundles.seen()).get(manifest.node, ImportedSerials())
    if force:
        return ImportedSerials(max(seen.whole, manifest.serial if manifest.whole else 0), manifest.serial)
    return follows(manifest, await catalog.bundles.node(), seen)


def check_expiry(manifest: Manifest, now: float, *, force: bool) -> None:
    """Check that a bundle may still be imported. Raises Conflict."""
    if manifest.expires is not None and now > manifest.expires and not force:
        when = datetime.fromtimestamp(manifest.expires, UTC)
        raise Conflict(f"The bundle expired on {when:%Y-%m-%d at %H:%M} UTC: export a new one, or give --force.")


def check_repositories(manifest: Manifest, layout: StoreLayout) -> None:
    """Check that everything in the bundle belongs to a repository of the settings. Raises Conflict."""
    mine, theirs = layout.repositories, manifest.repositories
    for name in {row.upload.repository for row in manifest.uploads}:
        if name not in mine or name not in theirs or mine[name].format != theirs[name].format:
            raise Conflict(
                f"The bundle has uploads of a repository {name!r}, and there is none of that name and format here."
            )
    sources = [page.source for page in manifest.pages] + [file.source for file in manifest.files]
    sources += [log.name for log in manifest.logs if log.role == "upstream"]
    for source in dict.fromkeys(sources):
        if source not in layout.sidecars:
            raise Conflict(
                f"The bundle has content from {source[:200]}, and no repository here has that upstream: add it to"
                " the settings (an offline mirror never asks it)."
            )


def differs(mine: PageEntry | None, theirs: PageEntry) -> bool:
    """Return whether a bundle has another state of a page than is held."""
    if mine is None or not mine.found:
        return theirs.found
    return not theirs.found or page_mark(mine) != page_mark(theirs)


def fits(entry: LogEntry, mine: bytes) -> bool:
    """Return whether the bundle's part of a log continues the held log; a whole log always fits."""
    if not entry.start:
        return True
    return len(mine) == entry.start and hashlib.sha256(mine).hexdigest() == entry.before
