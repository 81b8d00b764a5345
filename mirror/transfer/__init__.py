"""A file that is being fetched, readable while it grows.

A transfer belongs to the server: clients only read it, and one that disconnects changes nothing. It is a Body as soon
as the upstream has begun to answer; any number of readers follow it. It does not decide what may be fetched, and it
knows no catalog: the caller passes a function to be called once the blob is held.

Two surprises. The last bytes of a file (TAIL_BYTES) are never readable before every promised digest has been compared,
or without any the archive has been looked at: a bad file always ends short, whatever its readers have got of it. The
end of a large file is readable at once then, while the disk still makes it durable; it is recorded as held afterwards.
And a full disk does not stop a transfer: it goes on without storing the file, with a small window in memory and at the
pace of its slowest reader.
"""

from mirror.transfer.flights import AlreadyHeld, Flights, flight_name
from mirror.transfer.growing import TAIL_BYTES, GrowingBody, KeptBody
from mirror.transfer.interruptions import NextOrigin, OnHeld, Origin
from mirror.transfer.small import SmallFile, fetch_small
from mirror.transfer.state import TransferState
from mirror.transfer.transfer import Transfers, is_small

__all__ = [
    "TAIL_BYTES",
    "AlreadyHeld",
    "Flights",
    "GrowingBody",
    "KeptBody",
    "NextOrigin",
    "OnHeld",
    "Origin",
    "SmallFile",
    "TransferState",
    "Transfers",
    "fetch_small",
    "flight_name",
    "is_small",
]
