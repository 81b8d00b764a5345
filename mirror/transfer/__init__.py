"""A file on its way in, readable while it grows.

A transfer belongs to the server: clients only watch it, and one that leaves changes nothing. It is a Body as soon as
the upstream has begun to answer; any number of readers follow it. It does not decide what may be fetched, and it
knows no catalog: whoever opens a file says what to do once its blob is held.

Two surprises. The last bytes of a file (its TAIL) are never readable before every promised digest has been compared:
a bad file always ends short, whatever its readers have seen of it. And a full disk does not stop a transfer: it goes
on without keeping the file, with a small window in memory and at the pace of its slowest reader.
"""

from mirror.transfer.transfer import TAIL, OnHeld, Transfer, TransferState
from mirror.transfer.transfers import Transfers

__all__ = ["TAIL", "OnHeld", "Transfer", "TransferState", "Transfers"]
