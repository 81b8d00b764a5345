"""Flights of the workers of one machine: a symbolic link for each in the data directory, to its owner's address.

The surprise: the links lead nowhere. One is made together with its content, in one step in which one process alone
succeeds, and costs a tenth of a file that is written. Nothing waits for the disk: what a power cut loses has no meaning
afterwards.
"""

import asyncio
import fcntl
import os
import secrets
from pathlib import Path

from mirror.catalog.flights import Flight
from mirror.errors import StorageError

ATTEMPTS = 10
"""Attempts to read who has a flight, each of which may find that it has just ended."""
TURN_ATTEMPTS, TURN_SECONDS = 20, 0.01
"""Attempts to be the only one that takes a flight over, and the seconds between two of them."""


class FlightLinks:
    """The flights of the processes that share a data directory."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError."""
        self._directory = directory
        directory.mkdir(mode=0o700, exist_ok=True)

    def clean(self) -> None:
        """Remove what processes have left behind that were killed; only while no other one runs."""
        for path in self._directory.iterdir():
            path.unlink(missing_ok=True)

    async def take(self, name: str, owner: str) -> Flight:
        """Take a flight, or return it as it is in the hands of another process. Raises StorageError."""
        flight = Flight(name, owner, secrets.randbits(62), mine=True)
        for _ in range(ATTEMPTS):
            try:
                os.symlink(_target(flight), self._path(name))
            except FileExistsError:
                if (found := self._read(name)) is not None:
                    return found
            except OSError as error:
                raise StorageError(f"Flights cannot be recorded: {error.strerror}.") from None
            else:
                return flight
        raise StorageError("Too many flights of one name begin and end at the moment.")

    async def take_over(self, flight: Flight, owner: str) -> Flight:
        """Take a flight from its owner, who does not answer; or return it as another process has taken it since.

        Raises StorageError.
        """
        taken = Flight(flight.name, owner, secrets.randbits(62), mine=True)
        part = self._directory / f"{flight.name}.{taken.token}"
        try:
            turn = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
            try:
                await _take_turn(turn)
                if self._is(flight):
                    os.symlink(_target(taken), part)
                    part.replace(self._path(flight.name))
                    return taken
            finally:
                os.close(turn)
        except OSError as error:
            raise StorageError(f"Flights cannot be recorded: {error.strerror}.") from None
        return await self.take(flight.name, owner)

    async def holds(self, flight: Flight) -> bool:
        """Return whether no other process has taken a flight over."""
        return self._is(flight)

    async def end(self, flight: Flight) -> None:
        """End a flight, unless another process has taken it over."""
        if self._is(flight):
            self._path(flight.name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._directory / name

    def _read(self, name: str) -> Flight | None:
        """Return the flight of another process; None where there is none, or what stands there is none."""
        try:
            owner, _, token = os.readlink(self._path(name)).partition("#")
            return Flight(name, owner, int(token), mine=False)
        except (OSError, ValueError):
            return None

    def _is(self, flight: Flight) -> bool:
        found = self._read(flight.name)
        return found is not None and found.token == flight.token


async def _take_turn(descriptor: int) -> None:
    """Wait until no other process takes a flight over, but not for one that stands still. Raises OSError.

    Where two take over at once, upstream gets two requests, and nothing else happens.
    """
    for _ in range(TURN_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.sleep(TURN_SECONDS)
        else:
            return


def _target(flight: Flight) -> str:
    return f"{flight.owner}#{flight.token}"
