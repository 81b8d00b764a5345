"""Flights of the workers of one machine: a file for each in the data directory, locked by the process that fetches.

The kernel unlocks the file of a process that has ended, however it did. From one that stands still the flight is taken
by putting another file in the place of its own; so a process has a flight for as long as the file that it has locked is
the one with its name. Nothing here waits for the disk: a few system calls on the event loop cost less than a thread.
"""

import asyncio
import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path

from mirror.catalog.flights import Flight
from mirror.errors import StorageError

ATTEMPTS = 100
"""Attempts to take a flight or to read who has it; a process needs a moment between the two halves of taking it."""
PAUSE_SECONDS = 0.005
"""Seconds between two of them."""
ADDRESS_BYTES = 300
"""The most bytes that are read of an address."""


class FlightFiles:
    """The flights of the processes that share a data directory."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError."""
        self._directory = directory
        self._locked: dict[tuple[str, int], int] = {}
        """Descriptors of the files that this process has locked, by name and inode."""
        directory.mkdir(mode=0o700, exist_ok=True)

    def clean(self) -> None:
        """Remove what processes have left behind that were killed; only while no other one runs."""
        for path in self._directory.iterdir():
            path.unlink(missing_ok=True)

    async def take(self, name: str, owner: str) -> Flight:
        """Take a flight, or return it as it is in the hands of another process. Raises StorageError."""
        for _ in range(ATTEMPTS):
            try:
                flight = self._take(name, owner)
            except OSError as error:
                raise StorageError(f"Flights cannot be recorded: {error.strerror}.") from None
            if flight is not None:
                return flight
            await asyncio.sleep(PAUSE_SECONDS)
        raise StorageError("Another process has a flight and does not record its address.")

    def _take(self, name: str, owner: str) -> Flight | None:
        """Return the flight; None where it is being taken or is ending at this moment."""
        path = self._directory / name
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            inode = os.fstat(descriptor).st_ino
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                address = os.pread(descriptor, ADDRESS_BYTES, 0).decode(errors="replace")
                return Flight(name, address, inode, mine=False) if address else None
            if not _is_at(path, inode):
                return None  # it has ended since it was opened
            self._keep(name, inode, descriptor, owner)
            descriptor = -1
            return Flight(name, owner, inode, mine=True)
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _keep(self, name: str, inode: int, descriptor: int, owner: str) -> None:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, owner.encode(), 0)
        self._locked[name, inode] = descriptor

    async def take_over(self, flight: Flight, owner: str) -> Flight:
        """Take a flight from its owner, who does not answer; or return it as another process has taken it since.

        Raises StorageError.
        """
        path = self._directory / flight.name
        part = self._directory / f"{flight.name}.{secrets.token_hex(8)}"
        try:
            turn = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                with suppress(BlockingIOError):  # two that take over at once are two requests upstream, no more
                    fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(path, flight.token):
                    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    inode = os.fstat(descriptor).st_ino
                    self._keep(flight.name, inode, descriptor, owner)
                    part.replace(path)
                    return Flight(flight.name, owner, inode, mine=True)
            finally:
                os.close(turn)
        except OSError as error:
            raise StorageError(f"Flights cannot be recorded: {error.strerror}.") from None
        return await self.take(flight.name, owner)

    async def holds(self, flight: Flight) -> bool:
        """Return whether no other process has taken a flight over."""
        return _is_at(self._directory / flight.name, flight.token)

    async def end(self, flight: Flight) -> None:
        """End a flight, unless another process has taken it over."""
        path = self._directory / flight.name
        if _is_at(path, flight.token):
            path.unlink(missing_ok=True)
        if (descriptor := self._locked.pop((flight.name, flight.token), -1)) >= 0:
            os.close(descriptor)


def _is_at(path: Path, inode: int) -> bool:
    """Return whether it is this file that has the name."""
    try:
        return path.stat().st_ino == inode
    except OSError:
        return False
