"""Inspecting files that are to be published, in isolated processes: an archive may be made to harm its readers."""

import asyncio
import importlib
from pathlib import Path

import msgspec

from mirror.errors import Invalid
from mirror.isolation import IsolatedProcesses, IsolationError
from mirror.model import AcceptedUpload, PackageReader

SLOWEST_BYTES_PER_SECOND = 10 << 20
"""Bytes of a file that a slow machine reads, unpacks and hashes in a second; a file of gigabytes takes minutes."""
_ATTESTED = "attested"


async def inspect(
    isolated: IsolatedProcesses, reader: str, filename: str, path: Path, attested: bool
) -> AcceptedUpload:
    """Return what to store of the file at a path, which is called `filename` so far; that may be empty.

    `reader` is the import path of a module that is a `PackageReader`. Raises Invalid for anything that must not be
    published, and for what takes too much time or memory to read.
    """
    options = (reader, filename, str(path.absolute()), _ATTESTED if attested else "")
    try:
        size = await asyncio.to_thread(lambda: path.stat().st_size)
        content = await isolated.run(
            "mirror.index.inspection:inspect_here", b"", *options, more_seconds=size / SLOWEST_BYTES_PER_SECOND
        )
    except IsolationError as error:
        raise Invalid(f"The file cannot be inspected: {error}.") from error
    return msgspec.msgpack.decode(content, type=AcceptedUpload)


def inspect_here(_: bytes, reader: str, filename: str, path: str, attested: str) -> bytes:
    """Inspect a file in this process, and return an AcceptedUpload as MessagePack. Raises Invalid."""
    module: PackageReader = importlib.import_module(reader)
    name = module.filename_of(filename, Path(path))
    return msgspec.msgpack.encode(module.accept(module.inspect(name, Path(path)), attested == _ATTESTED))
