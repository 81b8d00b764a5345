"""The protocols between systemd and a service: readiness, reload, stop, watchdog and listening sockets.

They are a datagram of `KEY=value` lines and a few environment variables, by contract stable for ever (sd_notify(3),
sd_listen_fds(3)). No library is used: sdnotify has had no release since 2017 and knows neither reload nor descriptors,
and systemd's own binding needs a C compiler and headers.

The surprise: variables are removed from the environment when they are read, so that no child process (a resolver, say)
speaks for the service or takes its sockets. Without systemd all of it does nothing.
"""

import asyncio
import logging
import os
import socket
import stat
import time
from collections.abc import Callable, MutableMapping

from mirror.errors import ConfigError

logger = logging.getLogger(__name__)

_FIRST_FD = 3  # SD_LISTEN_FDS_START
_MOST_FDS = 64
_SEND_TIMEOUT = 1.0
LATE_SECONDS = 10.0
"""How late the event loop may be before the watchdog is no longer reset."""

Environment = MutableMapping[str, str]


class Notifier:
    """Reports the state of the service to the service manager. Does nothing when none listens."""

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        """Send to the datagram socket at `address`: a path, or `@…` for an abstract name; empty: send nothing.

        `watchdog` is the time in seconds after which systemd restarts a silent service; None: it does not.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog = watchdog if address else None

    @classmethod
    def from_environment(cls, environment: Environment = os.environ) -> "Notifier":
        """Return the notifier that systemd set up for this process, taking its variables out of the environment."""
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        for_us = environment.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        if not address.startswith(("/", "@")):
            address = ""  # the protocol has only these two for a process on the same kernel
        watchdog = int(microseconds) / 1e6 if for_us and microseconds.isdecimal() and int(microseconds) else None
        return cls(address, watchdog)

    def ready(self, status: str = "") -> None:
        """Report that the service answers requests: after the start, and again after each `reloading`."""
        self._send("READY=1", *([_status(status)] if status else []))

    def reloading(self) -> None:
        """Report that the configuration is being read again; `ready` has to follow, whether it was valid or not."""
        # MONOTONIC_USEC lets systemd tell this reload from an earlier one; CLOCK_MONOTONIC is what it compares with.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str = "") -> None:
        """Report that the service takes no new requests and finishes those it has."""
        self._send("STOPPING=1", *([_status(status)] if status else []))

    def alive(self) -> None:
        """Reset the watchdog's timer."""
        self._send("WATCHDOG=1")

    async def keep_alive(self, healthy: Callable[[], bool] = lambda: True) -> None:
        """Reset the watchdog twice in its time, for ever, while `healthy()`; return at once without a watchdog.

        It runs on the event loop, so that one that hangs falls silent and systemd restarts the service.
        """
        if self.watchdog is None:
            return
        was_healthy = True
        while True:
            is_healthy = healthy()
            if is_healthy:
                self.alive()
            elif was_healthy:
                logger.error("The service is not healthy: systemd restarts it within %.0f s.", self.watchdog)
            was_healthy = is_healthy
            await asyncio.sleep(self.watchdog / 2)

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(_SEND_TIMEOUT)
                channel.connect(self._address)
                channel.sendall("\n".join(lines).encode())
        except OSError as error:
            logger.warning("could not notify systemd of %s: %s", lines[0], error)


class Heartbeat:
    """Notices an event loop that is late; one that hangs does not even reset the watchdog."""

    def __init__(self) -> None:
        self._beat = 0.0

    def beat(self) -> None:
        """Record that the event loop runs; to be called about once a second."""
        self._beat = time.monotonic()

    def healthy(self) -> bool:
        """Return whether the last beat is recent; True before the first."""
        return not self._beat or time.monotonic() - self._beat < LATE_SECONDS


def _status(text: str) -> str:
    return "STATUS=" + " ".join(text.split())  # a line end would begin another assignment


def listen_fds(environment: Environment = os.environ) -> list[socket.socket]:
    """Return the listening sockets that systemd passed to this process, in the order of its unit; mostly none.

    Takes its variables out of the environment; the sockets are not inherited by children, and the caller owns them.
    Raises ConfigError when one is not a listening stream socket.
    """
    pid, number = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not number.isdecimal():
        return []
    if int(number) > _MOST_FDS:
        raise ConfigError(f"systemd passes {number} sockets, more than {_MOST_FDS}: leave fewer in the socket unit.")
    return [_listening_socket(fd) for fd in range(_FIRST_FD, _FIRST_FD + int(number))]


def _listening_socket(fd: int) -> socket.socket:
    wrong = f"Descriptor {fd} from systemd is no listening stream socket: set ListenStream= and Accept=no in its unit."
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise ConfigError(wrong)
        os.set_inheritable(fd, False)
        passed = socket.socket(fileno=fd)
    except OSError as error:
        raise ConfigError(wrong) from error
    if passed.type != socket.SOCK_STREAM or not passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        passed.detach()
        raise ConfigError(wrong)
    passed.setblocking(False)
    return passed
