"""A file on its way in, readable while it grows."""

from collections.abc import Awaitable, Callable

import msgspec

from mirror.blobs import BlobStore, Held
from mirror.model import Body, File
from mirror.upstream import Upstream

OnHeld = Callable[[Held], Awaitable[None]]
"""Called once the blob is stored and before the last bytes are readable: the catalog writes its row here."""


class TransferState(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer as people and monitors see it."""

    filename: str
    source: str
    size: int | None
    received: int
    """Bytes written so far."""
    readers: int
    seconds: float
    """Since it began."""


class Transfers:
    """Every file on its way in: at most one transfer for each file, however many ask."""

    def __init__(self, blobs: BlobStore, *, limit: int = 32 << 30) -> None:
        """`limit` is the largest file, in bytes, that is accepted when its index does not say a size."""

    async def open(self, file: File, upstream: Upstream, on_held: OnHeld) -> tuple[Body, bool]:
        """The file as a Body, and whether a transfer that was already running is joined.

        Returns when the upstream has begun to answer, so that what it refuses is still raised here: NotFound,
        UpstreamUnavailable, UpstreamRefused, UpstreamProtocolError. Small files, and files without a promised
        SHA-256 or any known size, are first brought in whole: then also DigestMismatch and StorageFull.
        A blob that the store holds already is returned at once, after `on_held`.
        """
        raise NotImplementedError

    def active(self) -> tuple[TransferState, ...]:
        """The transfers that run at this moment."""
        raise NotImplementedError

    async def close(self, grace: float) -> None:
        """Wait up to `grace` seconds for running transfers, then stop them; nothing unfinished stays behind."""
        raise NotImplementedError
