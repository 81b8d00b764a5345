"""Storing many small blobs of a local store, by a process of its own: `python -m mirror.blobs.bulk DATA_DIR`.

To create a file takes several short calls into the kernel. A thread that makes thousands of them takes the interpreter
from the event loop and gives it back each time, which slows both down by far more than the calls themselves take; a
process does not. It ends with its standard input.
"""

import asyncio
import signal
import struct
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from mirror.blobs import Held, Part, WriteAll
from mirror.blobs.local import LocalBlobs
from mirror.errors import MirrorError, StorageFull

_READY = b"ready\n"
_LENGTH = struct.Struct(">Q")


class _Answer(msgspec.Struct, frozen=True):
    """What became of one batch."""

    held: list[Held] = []
    full: str = ""
    """Why there was no room."""
    failed: str = ""
    """What else went wrong."""


_parts = msgspec.msgpack.Decoder(list[Part])
_answer = msgspec.msgpack.Decoder(_Answer)


@asynccontextmanager
async def writer(data_dir: Path) -> AsyncIterator[WriteAll]:
    """`write_all` for the length of the block. One batch at a time: others wait."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror.blobs.bulk", str(data_dir),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    requests, answers, turn = process.stdin, process.stdout, asyncio.Lock()
    ready = asyncio.create_task(answers.readexactly(len(_READY)))  # meanwhile there is other work

    async def write_all(parts: Sequence[Part]) -> list[Held]:
        frame = msgspec.msgpack.encode(parts)
        async with turn:
            try:
                await asyncio.shield(ready)
                requests.writelines((_LENGTH.pack(len(frame)), frame))
                await requests.drain()
                (size,) = _LENGTH.unpack(await answers.readexactly(_LENGTH.size))
                answer = _answer.decode(await answers.readexactly(size))
            except (ConnectionError, asyncio.IncompleteReadError):
                raise MirrorError("What stores files has ended unexpectedly; nothing is lost: try again.") from None
        if answer.full:
            raise StorageFull(answer.full)
        if answer.failed:
            raise MirrorError(answer.failed)
        return answer.held

    try:
        yield write_all
    finally:
        ready.cancel()
        await asyncio.gather(ready, return_exceptions=True)
        requests.close()
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()
            await process.wait()


def serve(blobs: LocalBlobs, requests: BinaryIO, answers: BinaryIO) -> None:
    """Store one batch after the other, until there are no more."""
    answers.write(_READY)
    answers.flush()
    while len(head := requests.read(_LENGTH.size)) == _LENGTH.size:
        parts = _parts.decode(requests.read(_LENGTH.unpack(head)[0]))
        try:
            answer = _Answer(blobs.store_all(parts))
        except StorageFull as error:
            answer = _Answer(full=str(error))
        except (MirrorError, OSError) as error:
            answer = _Answer(failed=str(error))
        frame = msgspec.msgpack.encode(answer)
        answers.write(_LENGTH.pack(len(frame)) + frame)
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us; we end with our input
    serve(LocalBlobs(Path(sys.argv[1])), sys.stdin.buffer, sys.stdout.buffer)
