"""The progress of a transfer."""

import msgspec


class TransferState(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a transfer, for people and monitors."""

    filename: str
    source: str
    size: int | None
    received: int
    """Bytes so far."""
    readers: int
    seconds: float
    """Since its start."""
    stored: bool
    """False when the disk is full and the file is not stored."""
