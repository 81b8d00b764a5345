"""What several processes want at the same time is fetched by one of them, and the others get it from that one.

A process that wants something takes its flight, and fetches it; one that comes later finds who has the flight, and
follows: it streams a file from there, or waits until a page is stored and reads that. Where the leader breaks off,
stands still or fails, one of those that followed takes the flight over and goes on, and the others follow that one.
Nothing depends on it: where flights cannot be recorded, each process fetches for itself.

The surprise: to have taken a flight does not mean that the thing is still missing, since another process may have
brought it since it was looked for. So it is looked for once more then.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Protocol, TypeVar

from mirror.catalog.flights import Flight
from mirror.errors import MirrorError, StorageError
from mirror.transfer.growing import GrowingBody
from mirror.transfer.nodes import BrokenFlight, FailedFlight, MissingFlight, NodeClient, SilentNode
from mirror.upstream import Stream

logger = logging.getLogger(__name__)

T = TypeVar("T")

WAIT_SECONDS = 20.0
"""The longest that a process waits for a page or a small file that another one fetches, before it does so itself."""
LANDING_SECONDS = 60.0
"""The longest that a process which has followed waits for the leader to store the file, before it does so itself."""
PAUSE_SECONDS = 0.05
"""Pause before a flight is asked for again that its owner does not know yet, or any more."""
MISSING_ATTEMPTS = 4
"""Times that an owner may not know of its flight, after which it is taken from it: it has started anew."""
MOST_FAILURES = 2
"""Leaders that could not fetch something, after which a process tries for itself: upstream says to it what is wrong."""
BOARDINGS = 12
"""Flights that broke off, after which a process fetches a file without caring for the others."""


class AlreadyHeld(MirrorError):
    """Another process has brought the file meanwhile, so that nothing has to be fetched."""


class FlightRegistry(Protocol):
    """The record of what processes fetch, which all of them share. All methods raise StorageError."""

    async def take(self, name: str, owner: str) -> Flight:
        """Take a flight, or return it as it is in the hands of another process."""

    async def take_over(self, flight: Flight, owner: str) -> Flight:
        """Take a flight from its owner, who does not answer; or return it as another process has taken it since."""

    async def holds(self, flight: Flight) -> bool:
        """Return whether no other process has taken a flight over."""

    async def end(self, flight: Flight) -> None:
        """End a flight, unless another process has taken it over."""


class LedFlight:
    """A flight that this process leads."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self._body: GrowingBody | None = None
        self._source = ""

    def show(self, body: GrowingBody) -> None:
        """Let others follow a file."""
        self._body, self._source = body, body.label[0]

    @property
    def body(self) -> GrowingBody | None:
        """The file that others may follow; None where it is none, or now comes from a source that is not theirs."""
        return self._body if self._body is not None and self._body.label[0] == self._source else None


class Flights:
    """The flights of this process, and its way to those of others."""

    def __init__(self, registry: FlightRegistry, address: str, nodes: NodeClient) -> None:
        """`address` is where this process is reached by the others."""
        self._registry = registry
        self._address = address
        self.nodes = nodes
        self.led: dict[str, LedFlight] = {}
        """Those that this process leads, by name."""
        self._taking: dict[str, asyncio.Event] = {}
        """Those that are being taken, by name; set once it is known who leads."""
        self._missing: dict[int, int] = {}
        """How often the owner of a flight did not know of it, by token."""
        self._ending: set[asyncio.Task[None]] = set()

    async def take(self, name: str, passed_over: Flight | None = None) -> Flight | None:
        """Take a flight, or return that of another process; None where it cannot be recorded, or is ours already.

        `passed_over` is the flight of a process that does not answer, and from which it is taken.
        """
        if name in self.led:
            return None
        known = self._taking[name] = asyncio.Event()
        try:
            if passed_over is None:
                flight = await self._registry.take(name, self._address)
            else:
                flight = await self._registry.take_over(passed_over, self._address)
            if not flight.mine and flight.owner == self._address and name not in self.led:
                # One of this process's earlier life, at the same address.
                flight = await self._registry.take_over(flight, self._address)
        except StorageError:
            return None
        else:
            if flight.mine:
                self.led[name] = LedFlight()
            return flight
        finally:
            known.set()
            if self._taking.get(name) is known:
                del self._taking[name]

    async def leading(self, name: str) -> LedFlight | None:
        """Return the flight of a name if this process leads it; where it is taking it just now, once that is known.

        Another process may learn who leads it first: the record is written, and its writer has not read that yet.
        """
        if (known := self._taking.get(name)) is not None:
            await known.wait()
        return self.led.get(name)

    async def take_after(self, failed: Flight) -> Flight | None:
        """Take a flight whose leader could not fetch it, or return it as another process leads it since.

        None where that leader goes on with it for itself, and as `take` does.
        """
        for _ in range(MISSING_ATTEMPTS):
            await asyncio.sleep(PAUSE_SECONDS)  # its end is recorded a moment later
            flight = await self.take(failed.name)
            if flight is None or flight.token != failed.token:
                return flight
        return None

    def end(self, flight: Flight) -> None:
        """End a flight that this process has taken, and wake those who follow it; no one waits for the record."""
        led = self.led.pop(flight.name, None)
        if led is not None:
            led.ended.set()
        ending = asyncio.create_task(self._record_end(flight), name="the end of a flight")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _record_end(self, flight: Flight) -> None:
        with suppress(StorageError):
            await self._registry.end(flight)

    async def holds(self, flight: Flight) -> bool:
        """Return whether a flight is still this process's; also while that cannot be found out."""
        try:
            return await self._registry.holds(flight)
        except StorageError:
            return True

    async def to_take_over(self, flight: Flight, error: MirrorError) -> Flight | None:
        """Return a flight if it is to be taken from its owner after an error of following it, else None."""
        match error:
            case SilentNode():
                return flight
            case BrokenFlight():
                await asyncio.sleep(PAUSE_SECONDS)
            case MissingFlight():
                count = self._missing[flight.token] = self._missing.pop(flight.token, 0) + 1
                while len(self._missing) > MISSING_ATTEMPTS * 100:
                    del self._missing[next(iter(self._missing))]
                await asyncio.sleep(PAUSE_SECONDS)
                return flight if count >= MISSING_ATTEMPTS else None
        return None

    async def once(self, name: str, look: Callable[[], Awaitable[T | None]], work: Callable[[], Awaitable[T]]) -> T:
        """Return what another process has brought, as `look` finds it, or else the result of `work`.

        One process at a time is at work; but no one waits longer than WAIT_SECONDS, nor for a third one where two have
        failed.
        """
        found, flight = await self._wait_turn(name, look)
        if found is not None:
            return found
        if flight is None:
            return await work()
        try:
            found = await look()
            return found if found is not None else await work()
        finally:
            self.end(flight)

    async def _wait_turn(self, name: str, look: Callable[[], Awaitable[T | None]]) -> tuple[T | None, Flight | None]:
        """Return what another process has brought, or the flight taken; neither where this process goes alone."""
        passed_over: Flight | None = None
        failures = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_SECONDS):
                while failures < MOST_FAILURES:
                    flight = await self.take(name, passed_over)
                    if flight is None or flight.mine:
                        return None, flight
                    error = await self._wait_ended(flight)
                    found = await look()
                    if found is not None:
                        return found, None
                    failures += error is None
                    passed_over = None if error is None else await self.to_take_over(flight, error)
        return None, None

    async def _wait_ended(self, flight: Flight) -> MirrorError | None:
        """Wait for the end of another process's flight, and return the error of waiting, if any."""
        try:
            await self.nodes.wait_ended(flight)
        except (SilentNode, MissingFlight, FailedFlight) as error:
            return error
        return None

    async def close(self) -> None:
        """Record the end of all flights, and close the connections to other processes."""
        await asyncio.gather(*self._ending)
        await self.nodes.close()


class SharedTransfer:
    """The flight of one file, as one transfer takes part in it: as its leader, or following another process."""

    def __init__(self, flights: Flights, name: str, body: GrowingBody, is_held: Callable[[], Awaitable[bool]]) -> None:
        """`is_held` looks whether another process has brought the file."""
        self._flights = flights
        self._name = name
        self._body = body
        self._is_held = is_held
        self._own: Flight | None = None
        """The flight while this process leads it."""
        self._leader: Flight | None = None
        """The flight while another process leads it."""
        self._boardings = 0
        self._failures = 0

    @property
    def follows(self) -> bool:
        """Whether the bytes come from another process."""
        return self._leader is not None

    async def board(self, error: MirrorError | None = None) -> None:
        """Take the flight, or learn who leads it; `error` is the one of following so far.

        Raises AlreadyHeld where another process has brought the file, unless some of it is already being read.
        """
        leader, self._leader = self._leader, None
        self._boardings += 1
        passed_over: Flight | None = None
        flight: Flight | None
        match error:
            case FailedFlight() if leader is not None:
                self._failures += 1
                flight = await self._flights.take_after(leader) if self._failures < MOST_FAILURES else None
            case MissingFlight() if not self._body.started and await self._is_held():
                raise AlreadyHeld(f"{self._name} was brought by another process.")  # whose flight has just ended
            case _:
                if error is not None and leader is not None:
                    passed_over = await self._flights.to_take_over(leader, error)
                takes = self._boardings <= BOARDINGS
                flight = await self._flights.take(self._name, passed_over) if takes else None
        if flight is None:
            return
        if not flight.mine:
            self._leader = flight
            return
        self._own = flight
        self._flights.led[self._name].show(self._body)
        if not self._body.started and await self._is_held():
            raise AlreadyHeld(f"{self._name} was brought by another process.")

    def stream(self, start: int) -> AbstractAsyncContextManager[Stream]:
        """Open the file at the process that leads, from an offset on. Raises UpstreamUnavailable."""
        assert self._leader is not None, "another process leads"
        return self._flights.nodes.stream(self._leader, start, lambda: self._body.received)

    async def may_store(self) -> bool:
        """Return whether what was fetched is still this process's to store and record."""
        return self._own is None or await self._flights.holds(self._own)

    async def was_stored(self) -> bool:
        """Wait for the process that led to store the file, and return whether it did."""
        if self._leader is None:
            return False
        if await self._is_held():  # in a store of several nodes its last bytes come after that
            return True
        with suppress(TimeoutError, SilentNode, MissingFlight, FailedFlight):
            async with asyncio.timeout(LANDING_SECONDS):
                await self._flights.nodes.wait_ended(self._leader)
        return await self._is_held()

    def leave(self) -> None:
        """End the flight, if this process leads it."""
        own, self._own = self._own, None
        if own is not None:
            self._flights.end(own)


def flight_name(*what: str) -> str:
    """Return the name of the flight of something, for all processes the same."""
    return hashlib.sha256("\0".join(what).encode(errors="surrogateescape")).hexdigest()
