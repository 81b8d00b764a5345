"""What a mirror holds, read out of its store for a bundle or an inventory; and what another mirror lacks of it.

An `Inventory` has a key and a mark for everything, and equal marks mean that nothing has to be transferred. The bytes
of a log are not compared here: the mirror that has them finds out how much is new (`common_length`).
"""

import gzip
import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from mirror.airgap.bundle.format import BundleRepository, FileEntry, PageEntry
from mirror.blobs import BlobStore
from mirror.catalog import Catalog, UploadRow
from mirror.catalog.bundles import ImportedSerials
from mirror.config import Settings
from mirror.errors import Invalid, Unavailable
from mirror.index.ecosystem import Ecosystem
from mirror.model import File, Page

Mark = TypeVar("Mark")

INVENTORY_VERSION = 1
MAX_INVENTORY_BYTES = 1 << 30
"""Unpacked."""
ATTEMPTS = 20
"""The most times that a store is read because it changed meanwhile."""

PageKey = tuple[str, str, str]
"""Source, kind, name."""
FileKey = tuple[str, str, str]
"""Source, project, file name."""
UploadKey = tuple[str, str]
"""Repository, file name."""
LogKey = tuple[str, str]
"""Role, name."""


class LogMark(msgspec.Struct, frozen=True, array_like=True):
    """The length of a log, and the digest of all of it."""

    length: int
    sha256: str


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """The list of what one mirror holds."""

    node: str = ""
    """The id of that mirror."""
    imported: Mapping[str, int] = {}
    """Node → the serial up to which all of its content was imported."""
    pages: Mapping[PageKey, str] = {}
    """Pages that the upstream has, with their marks."""
    files: Mapping[FileKey, str] = {}
    """Files with their digests."""
    uploads: Mapping[UploadKey, str] = {}
    logs: Mapping[LogKey, LogMark] = {}
    blobs: frozenset[str] = frozenset()
    """The digests of everything held."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """The pages and files that one mirror lacks and another one holds."""

    pages: frozenset[PageKey] = frozenset()
    gone: frozenset[PageKey] = frozenset()
    """Pages that the upstream no longer has."""
    files: frozenset[FileKey] = frozenset()
    uploads: frozenset[UploadKey] = frozenset()
    logs: frozenset[LogKey] = frozenset()


def difference(have: Inventory, want: Inventory, gone: frozenset[PageKey] = frozenset()) -> Difference:
    """Return what `have` lacks of `want`; `gone` are pages that, as the other side knows, the upstream no longer has.

    What only `have` holds does not matter. Equal inventories have equal differences, whatever their order.
    """
    return Difference(
        pages=frozenset(key for key, mark in want.pages.items() if have.pages.get(key) != mark),
        gone=frozenset(key for key in gone if key in have.pages),
        files=frozenset(key for key, digest in want.files.items() if have.files.get(key) != digest),
        uploads=frozenset(key for key, mark in want.uploads.items() if have.uploads.get(key) != mark),
        logs=frozenset(key for key, mark in want.logs.items() if have.logs.get(key) != mark),
    )


def common_length(content: bytes, known: LogMark | None) -> int:
    """Return how many bytes of a log a mirror has that `known` describes; 0 when it has another log."""
    if known is None or not 0 < known.length <= len(content):
        return 0
    return known.length if hashlib.sha256(content[: known.length]).hexdigest() == known.sha256 else 0


class _InventoryJson(msgspec.Struct, frozen=True, kw_only=True):
    """An inventory as JSON: mappings by tuples become nested mappings."""

    inventory: int
    """The version of the format."""
    node: str
    imported: dict[str, int]
    pages: dict[str, dict[str, dict[str, str]]]
    files: dict[str, dict[str, dict[str, str]]]
    uploads: dict[str, dict[str, str]]
    logs: dict[str, dict[str, LogMark]]
    blobs: list[str]
    """The digests that no file has."""


def pack(inventory: Inventory) -> bytes:
    """Return an inventory as compressed JSON: equal bytes for equal inventories."""
    packed = _InventoryJson(
        inventory=INVENTORY_VERSION,
        node=inventory.node,
        imported=dict(sorted(inventory.imported.items())),
        pages=_by_first_and_second(inventory.pages),
        files=_by_first_and_second(inventory.files),
        uploads=_by_first(inventory.uploads),
        logs=_by_first(inventory.logs),
        blobs=sorted(inventory.blobs - set(inventory.files.values())),
    )
    return gzip.compress(msgspec.json.encode(packed), 9, mtime=0)


def unpack(content: bytes) -> Inventory:
    """Return the inventory that was packed. Raises Invalid."""
    try:
        packed = msgspec.json.decode(unzipped(content, MAX_INVENTORY_BYTES), type=_InventoryJson)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise Invalid(f"That is not an inventory of a mirror: {error}.") from None
    if packed.inventory != INVENTORY_VERSION:
        raise Invalid(f"The inventory is of the format {packed.inventory}, and this mirror reads {INVENTORY_VERSION}.")
    files = _flat(packed.files)
    return Inventory(
        node=packed.node,
        imported=packed.imported,
        pages=_flat(packed.pages),
        files=files,
        uploads={(first, second): mark for first, inner in packed.uploads.items() for second, mark in inner.items()},
        logs={(first, second): mark for first, inner in packed.logs.items() for second, mark in inner.items()},
        blobs=frozenset(packed.blobs).union(files.values()),
    )


def unzipped(content: bytes, limit: int) -> bytes:
    """Decompress one gzip stream. Raises ValueError when it is invalid, or has more than `limit` bytes."""
    unpacking = zlib.decompressobj(wbits=31)
    try:
        body = unpacking.decompress(content, limit + 1)
    except zlib.error:
        raise ValueError("it is not valid gzip") from None
    if len(body) > limit:
        raise ValueError("it is larger than promised" if limit < MAX_INVENTORY_BYTES else "it is too large")
    if not unpacking.eof or unpacking.unused_data:
        raise ValueError("it is truncated, or something follows it")
    return body


def _by_first(flat: Mapping[tuple[str, str], Mark]) -> dict[str, dict[str, Mark]]:
    nested: dict[str, dict[str, Mark]] = {}
    for first, second in sorted(flat):
        nested.setdefault(first, {})[second] = flat[first, second]
    return nested


def _by_first_and_second(flat: Mapping[tuple[str, str, str], Mark]) -> dict[str, dict[str, dict[str, Mark]]]:
    nested: dict[str, dict[str, dict[str, Mark]]] = {}
    for first, second, third in sorted(flat):
        nested.setdefault(first, {}).setdefault(second, {})[third] = flat[first, second, third]
    return nested


def _flat(nested: Mapping[str, Mapping[str, Mapping[str, str]]]) -> dict[tuple[str, str, str], str]:
    return {
        (first, second, third): mark
        for first, inner in nested.items()
        for second, innermost in inner.items()
        for third, mark in innermost.items()
    }


# Reading a store


class StoreLayout(msgspec.Struct, frozen=True, kw_only=True):
    """The names under which a store has content, according to its settings."""

    repositories: Mapping[str, BundleRepository]
    sidecars: Mapping[str, str]
    """Source → the ending of the names of its sidecars."""
    index_pages: Mapping[str, tuple[Page, ...]]
    """Source → its pages about all projects."""
    logs: Mapping[LogKey, str]
    """The name under which a log is stored."""
    renamed: Mapping[str, Callable[[File], File]] = {}
    """Repository → returns an upload as it is named by the rules of today."""

    @property
    def sources(self) -> list[str]:
        """All upstreams, without duplicates."""
        return list(dict.fromkeys(source for one in self.repositories.values() for source in one.sources))


def layout_of(settings: Settings, ecosystems: Mapping[str, Ecosystem]) -> StoreLayout:
    """Return the layout of a mirror's store."""
    repositories: dict[str, BundleRepository] = {}
    logs: dict[LogKey, str] = {}
    for name, one in settings.repositories.items():
        repositories[name] = BundleRepository(
            format=one.format, sources=tuple(str(upstream.url) for upstream in one.upstreams)
        )
        if ecosystems[one.format].log_path is not None:
            logs |= {(role, name): f"{role} {name}" for role in ("published", "own")}
            for upstream in one.upstreams:
                logs["upstream", str(upstream.url)] = f"upstream {upstream.url} {upstream.username}"
    formats = {source: ecosystems[one.format] for one in repositories.values() for source in one.sources}
    return StoreLayout(
        renamed={name: ecosystems[one.format].format.renamed for name, one in settings.repositories.items()},
        repositories=repositories,
        sidecars={source: one.sidecar_suffix for source, one in formats.items()},
        index_pages={source: one.format.index_pages for source, one in formats.items()},
        logs=logs,
    )


class BundleContents(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a store holds, without bodies and blobs."""

    node: str
    serial: int
    """Of the newest event in the journal at that moment."""
    seen: Mapping[str, ImportedSerials]
    pages: Mapping[PageKey, PageEntry]
    """Also those that the upstream no longer has."""
    files: Mapping[FileKey, FileEntry]
    uploads: Mapping[UploadKey, UploadRow]
    logs: Mapping[LogKey, bytes]
    blobs: Mapping[str, int]
    """Digest → size of each blob that is really there."""
    lost: Sequence[str]
    """Names of files and uploads that are left out because their bytes are lost."""

    @property
    def inventory(self) -> Inventory:
        """The inventory of the store."""
        return Inventory(
            node=self.node,
            imported={node: seen.whole for node, seen in self.seen.items()},
            pages={key: page_mark(page) for key, page in self.pages.items() if page.found},
            files={key: file.digest for key, file in self.files.items()},
            uploads={key: upload_mark(row) for key, row in self.uploads.items()},
            logs={key: LogMark(len(log), hashlib.sha256(log).hexdigest()) for key, log in self.logs.items() if log},
            blobs=frozenset(self.blobs),
        )

    @property
    def gone(self) -> frozenset[PageKey]:
        """The pages that the upstream no longer has."""
        return frozenset(key for key, page in self.pages.items() if not page.found)


def page_mark(page: PageEntry) -> str:
    """Return a mark that is equal for pages with equal answers to clients; their validators may differ."""
    facts = (page.revision, page.url, page.content_type, page.serial, page.removed)
    return _mark(facts)


def upload_mark(row: UploadRow) -> str:
    """Return a mark that is equal for equal uploads."""
    return _mark(row)


def _mark(facts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:32]


async def gather(catalog: Catalog, blobs: BlobStore, layout: StoreLayout) -> BundleContents:
    """Read a store as it is at one moment, also while a mirror serves.

    Raises Unavailable when it changes all the time.
    """
    for _ in range(ATTEMPTS):
        moment = await catalog.bundles.moment()
        gathered = await _gather(catalog, blobs, layout, moment[0])
        if moment == await catalog.bundles.moment():
            return gathered
    raise Unavailable("The store changes all the time: try again when it is less busy.", 60)


async def _gather(catalog: Catalog, blobs: BlobStore, layout: StoreLayout, serial: int) -> BundleContents:
    reader = _StoreReader(catalog, blobs)
    for source in layout.sources:
        await reader.pages(source)
        await reader.files(source, layout.sidecars[source])
    for repository in layout.repositories:
        await reader.uploads(repository)
    return BundleContents(
        node=await catalog.bundles.node(),
        serial=serial,
        seen=await catalog.bundles.seen(),
        pages=reader.found_pages,
        files=reader.found_files,
        uploads=reader.found_uploads,
        logs={key: await catalog.logs.read(name) for key, name in layout.logs.items()},
        blobs=reader.blobs,
        lost=reader.lost,
    )


class _StoreReader:
    """Collects what a store holds."""

    def __init__(self, catalog: Catalog, blobs: BlobStore) -> None:
        self.found_pages: dict[PageKey, PageEntry] = {}
        self.found_files: dict[FileKey, FileEntry] = {}
        self.found_uploads: dict[UploadKey, UploadRow] = {}
        self.blobs: dict[str, int] = {}
        self.lost: list[str] = []
        self._catalog = catalog
        self._store = blobs

    async def pages(self, source: str) -> None:
        removed = await self._catalog.bundles.removed(source)
        for page in await self._catalog.bundles.pages(source):
            rows = tuple(removed.get(page.name, ())) if page.kind == "project" else ()
            entry = PageEntry(**msgspec.structs.asdict(page), removed=rows)
            if not entry.found:  # what it once was does not matter
                entry = PageEntry(
                    source=source, kind=page.kind, name=page.name, checked=page.checked, found=False, removed=rows
                )
            self.found_pages[source, page.kind, page.name] = entry

    async def files(self, source: str, sidecar: str) -> None:
        for project, filename, digest, size in await self._catalog.bundles.files(source):
            if await self._is_held(digest, filename):
                self.found_files[source, project, filename] = FileEntry(
                    source=source, project=project, filename=filename, digest=digest, size=size,
                    kind="sidecar" if filename.endswith(sidecar) else "file",
                )  # fmt: skip

    async def uploads(self, repository: str) -> None:
        for row in await self._catalog.uploads.all(repository):
            name = row.upload.filename
            there = row.upload.deleted or (
                await self._is_held(row.upload.digest, name) and await self._is_held(row.sidecar, name)
            )
            if there:
                self.found_uploads[repository, name] = row

    async def _is_held(self, digest: str, filename: str) -> bool:
        if digest not in self.blobs:
            body = await self._store.find(digest)
            if body is None:
                self.lost.append(filename)
                return False
            self.blobs[digest] = body.size
        return True
