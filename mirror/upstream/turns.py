"""What requests do about the trouble of a host: wait for their turn, report how they failed, read a login again."""

import asyncio
from collections.abc import Callable

import aiohttp
from yarl import URL

from mirror.errors import UpstreamUnavailable
from mirror.model import UrlClass
from mirror.upstream.failures import ConnectFailure, InvalidResponse, RequestPause, TemporaryFailure
from mirror.upstream.pacing import Hold, HostPacing, client_wait
from mirror.upstream.values import Credentials, basic_authorization

PATIENCE_SECONDS = 10.0
"""The longest pause that an upstream asks for, and for which a request waits that comes meanwhile: clients hang up."""


def address_of(url: URL) -> int:
    """Return what stands for a URL among the addresses of its host."""
    return hash(url.raw_path_qs)


def pause_error(url: URL, hold: Hold) -> RequestPause:
    """Return the error for a request that is not sent."""
    return RequestPause(f"{url.host} {hold.reason}; trying again in {hold.seconds:.0f} s.", client_wait(hold.seconds))


async def wait_turn(host: HostPacing, url: URL, kind: UrlClass, clock: Callable[[], float], deadline: float) -> None:
    """Wait until a request may be sent, where that is a matter of patience. Raises RequestPause.

    `deadline` is on the clock of the event loop; a later turn is not waited for, nor is a host that does not answer.
    """
    time, address = asyncio.get_running_loop().time, address_of(url)
    while True:
        left = deadline - time()
        if hold := host.blocked(address, kind, clock()):
            if not hold.asked or hold.seconds > min(left, PATIENCE_SECONDS):
                raise pause_error(url, hold)
            await asyncio.sleep(hold.seconds)
            continue
        delay = host.delay(kind, clock(), left)
        if delay > left:
            raise pause_error(url, Hold(delay, "has more requests waiting than it may be sent", True))
        if not delay:
            return
        await asyncio.sleep(delay)
        if not host.blocked(address, kind, clock()):
            return  # else what came meanwhile is waited for, and the turn is taken again


def note_failure(host: HostPacing, url: URL, kind: UrlClass, error: Exception, began: float, now: float) -> None:
    """Record that a request that was sent at `began` got no answer."""
    match error:
        case aiohttp.ConnectionTimeoutError() | aiohttp.ClientConnectorError() | ConnectFailure():
            host.unreachable(now, slow=isinstance(error, TimeoutError))
        case TimeoutError():
            host.silent(address_of(url), began, now)
        case aiohttp.ClientResponseError() | aiohttp.InvalidURL() | InvalidResponse():
            pass  # it did answer, though not in HTTP
        case _:
            host.failed(address_of(url), kind, now)


def note_timeout(host: HostPacing, url: URL, kind: UrlClass, began: float, now: float) -> None:
    """Record that an answer was not complete in time."""
    if host.answered < began:
        host.silent(address_of(url), began, now)
    else:
        host.failed(address_of(url), kind, now)


def note_trouble(
    host: HostPacing, url: URL, kind: UrlClass, failure: UpstreamUnavailable, began: float, now: float
) -> None:
    """Record an answer that reports trouble, as `failures.trouble` reads it."""
    host.reached(now)
    match failure:
        case TemporaryFailure(limited=True):
            host.limited(address_of(url), kind, began, now, failure.wait)
        case TemporaryFailure():
            host.failed(address_of(url), kind, now, failure.wait)
        case _:
            host.failed(address_of(url), kind, now)


async def read_again(read: Callable[[], tuple[str, str] | None], known: str | None) -> str | None:
    """Return the Authorization with user name and password as they are now, the known one if they cannot be read."""
    try:
        login = await asyncio.to_thread(read)
    except ValueError:
        return known
    return basic_authorization(Credentials(*login)) if login else None
