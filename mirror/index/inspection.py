"""Inspecting files that are to be published: the part that runs in an isolated process.

An archive may be made to harm its readers. `mirror.index.publish` has the other part.
"""

import importlib
from pathlib import Path

import msgspec

from mirror.model import PackageReader

SLOWEST_BYTES_PER_SECOND = 10 << 20
"""Bytes of a file that a slow machine reads, unpacks and hashes in a second; a file of gigabytes takes minutes."""
ATTESTED = "attested"
INSPECT = "mirror.index.inspection:inspect_here"
"""The import path of the function below, for the isolated process."""


def inspect_here(_: bytes, reader: str, filename: str, path: str, attested: str) -> bytes:
    """Inspect a file in this process, and return an AcceptedUpload as MessagePack. Raises Invalid.

    `reader` is the import path of a module that is a `PackageReader`; `attested` is `ATTESTED` or empty.
    """
    module: PackageReader = importlib.import_module(reader)
    name = module.filename_of(filename, Path(path))
    return msgspec.msgpack.encode(module.accept(module.inspect(name, Path(path)), attested == ATTESTED))
