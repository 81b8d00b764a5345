"""The program of an isolated process: calls functions on hostile bytes, one after the other, until its input ends.

What it reads may take over this process. So it gives up what reading bytes does not need: it cannot write to files,
start programs, keep many of them open, take more memory than it is given, or see the environment of the mirror.
"""

import importlib
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

import msgspec

from mirror import errors
from mirror.isolation.messages import LENGTH, Call, CallResult

OPEN_FILES = 16
"""Files that may be open at once: the pipes, modules that are imported later, and the archive that is inspected."""


def drop_rights(memory_bytes: int) -> None:
    """Give up what is not needed. A hardened service may not lower every limit; the parent stops what takes long."""
    import resource

    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: OPEN_FILES,
    }
    for limit, most in limits.items():
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, (most, most))


def call(wanted: Call) -> CallResult:
    """Call a function and return its result. Whatever it raises is the fault of what it reads."""
    module, _, name = wanted.function.partition(":")
    try:
        function: Callable[..., bytes] = getattr(importlib.import_module(module), name)
        return CallResult(value=function(wanted.content, *wanted.options))
    except errors.MirrorError as error:
        kind = next(one.__name__ for one in type(error).__mro__ if hasattr(errors, one.__name__))
        return CallResult(error=kind, sentence=str(error))
    except MemoryError:
        return CallResult(error="MemoryError", sentence="it takes too much memory")
    except Exception as error:  # a parser's own error: RecursionError, OverflowError …
        return CallResult(error="Exception", sentence=f"{type(error).__name__}: {error}"[:500])


def main(memory_bytes: int) -> None:
    """Answer calls from standard input on standard output, until that ends."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    drop_rights(memory_bytes)
    decoder = msgspec.msgpack.Decoder(Call)
    while head := source.read(LENGTH.size):
        _write(target, call(decoder.decode(source.read(*LENGTH.unpack(head)))))


def _write(target: BinaryIO, result: CallResult) -> None:
    try:
        content = msgspec.msgpack.encode(result)
    except MemoryError:
        content = msgspec.msgpack.encode(CallResult(error="MemoryError", sentence="it takes too much memory"))
    target.write(LENGTH.pack(len(content)))
    target.write(content)
    target.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
