"""The isolated processes of a mirror: started when they are needed, stopped when they take long or are not used.

The surprise: a process serves many calls, since a start takes longer than most of them. One that was stopped, ended by
itself, or answered with something that is no message is replaced by a new one for the next call.
"""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from mirror import errors
from mirror.errors import Invalid, MirrorError, UpstreamProtocolError
from mirror.isolation.messages import LENGTH, MOST_RESULT_BYTES, Call, CallResult

PROCESSES = 2
"""Calls at once; more wait."""
MEMORY_BYTES = 1 << 30
"""The most address space of a process, of which an interpreter with its modules takes some 200 MB."""
CALL_SECONDS = 20.0
"""The longest call."""
IDLE_SECONDS = 60.0
"""Seconds without a call after which the processes are stopped."""

_ROOT = str(Path(errors.__file__).parent.parent)


class IsolationError(MirrorError):
    """A call that took too much time or memory, or whose function failed in a way of its own."""


class IsolatedProcesses:
    """Runs functions of the mirror on bytes that may be hostile, in processes of their own."""

    def __init__(
        self, most: int = PROCESSES, memory_bytes: int = MEMORY_BYTES, call_seconds: float = CALL_SECONDS
    ) -> None:
        self._most = most
        self._slots = asyncio.Semaphore(most)
        self._memory_bytes = memory_bytes
        self._call_seconds = call_seconds
        self._idle: list[Process] = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def run(self, function: str, content: bytes, *options: str, more_seconds: float = 0.0) -> bytes:
        """Return what a function, `package.module:name`, returns for these arguments: bytes.

        `more_seconds` are added to the longest call, for a file that is large.
        Raises Invalid or UpstreamProtocolError with the text of such an error of the function, and IsolationError.
        """
        seconds = self._call_seconds + more_seconds
        async with self._slots, self._process() as process:
            try:
                async with asyncio.timeout(seconds):
                    result = await _exchange(process, Call(function, content, options))
            except TimeoutError:
                raise IsolationError(f"it takes longer than {seconds:.0f} s to read") from None
            except (OSError, EOFError, msgspec.MsgspecError):
                raise IsolationError("it takes too much memory to read") from None
        if not result.error:
            return result.value
        kind = getattr(errors, result.error, None)
        for known in (Invalid, UpstreamProtocolError):
            if isinstance(kind, type) and issubclass(kind, known):
                raise known(result.sentence)
        raise IsolationError(result.sentence)

    async def start(self) -> None:
        """Start all processes, which otherwise happens when they are needed, and before there is any call."""
        self._idle.extend([await self._start() for _ in range(self._most)])

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[Process]:
        """A process for one call, which is kept for the next one if the block ends well."""
        process = self._idle.pop() if self._idle else await self._start()
        if process.returncode is not None:  # killed from outside meanwhile
            process = await self._start()
        try:
            yield process
        except BaseException:
            await _stop(process)
            raise
        if self._closed:
            await _stop(process)
            return
        self._idle.append(process)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._stop_idle)

    async def _start(self) -> Process:
        # -P: nothing is imported from the working directory; the environment may hold secrets.
        return await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "mirror.isolation.worker", str(self._memory_bytes),
            stdin=PIPE, stdout=PIPE, stderr=asyncio.subprocess.DEVNULL, cwd=os.sep,
            env={"PYTHONPATH": _ROOT, "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8"},
        )  # fmt: skip

    def _stop_idle(self) -> None:
        for process in self._idle:
            if process.stdin is not None:
                process.stdin.close()  # it ends by itself
        self._idle.clear()

    async def close(self) -> None:
        """Stop the processes."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        idle, self._idle = self._idle, []
        for process in idle:
            await _stop(process)


async def _exchange(process: Process, wanted: Call) -> CallResult:
    """Send a call and return its result. Raises OSError, EOFError and MsgspecError."""
    assert process.stdin is not None
    assert process.stdout is not None
    content = msgspec.msgpack.encode(wanted)
    process.stdin.write(LENGTH.pack(len(content)))
    process.stdin.write(content)
    await process.stdin.drain()
    (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
    if length > MOST_RESULT_BYTES:
        raise EOFError
    return msgspec.msgpack.decode(await process.stdout.readexactly(length), type=CallResult)


async def _stop(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()
