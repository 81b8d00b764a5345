"""The two logs: the application log (standard `logging`), and the access log with one line per request.

Both are text on a terminal and JSON lines otherwise. Both are sanitised when they are written: no credentials, and no
character that could forge a line or move a cursor, wherever the text came from.

Not here on purpose: files and their rotation, which the readers of the streams (journald, a container's runtime) do
better; and structlog, which would add 60 ms and 4.6 MiB to the start for what the formatters below do.

The surprise: access lines are formatted and written by a thread of their own, up to 0.2 s after the response. When
that cannot keep up (a reader that stops, a full disk), lines are dropped and counted; requests never wait.
"""

import logging
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import count
from typing import BinaryIO, Literal, TextIO

import msgspec

from mirror.model import Outcome

LogFormat = Literal["auto", "text", "json"]
Fact = str | int | float | bool | None

_log = logging.getLogger(__name__)

AUDIT = "mirror.audit"
"""The logger of the audit trail, whose lines are never held back."""

# What is removed. Every pattern runs in linear time: a request's path is one of the texts.
_USERINFO = re.compile(r"(?<=://)[^/\s?#]*@")
_HEADER = re.compile(
    r"""(?ix) \b (authorization|cookie|x-api-key) (["']? \s* [:=] \s* ["']?)  # as a line, or in a printed dict
        (?: (?:basic|bearer|token) \s+ )? [^\s"',]+"""
)
_PARAMETER = re.compile(r"([?&;])([^?&;=#\s]*)=([^?&;#\s\"']*)")
_SECRET_NAMES = ("auth", "credential", "key", "passw", "secret", "sig", "token")
_REDACTED = "***"

_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

_MAX_PATH_CHARACTERS = 1024
_MAX_AGENT_CHARACTERS = 256
_REPEATED_LINES = 20  # lines of one kind that are written within …
_REPEAT_SECONDS = 10.0  # … so many seconds; more are only counted
_BATCH_LINES = 50
"""Lines that are formatted at a time, which holds the interpreter's lock for 50 to 100 µs."""
_PAUSE_SECONDS = 0.0005
"""The pause after these. Where one core does everything, the event loop would otherwise wait for all that are left: a
thread that gives up the lock for a write has it again before the other one has woken up."""
_WARNING_SECONDS = 60.0


def redact(text: str) -> str:
    """Return the text without credentials: user information in URLs, authorization headers, secret parameters."""
    if ":" not in text and "=" not in text:
        return text
    if "://" in text:
        text = _USERINFO.sub(f"{_REDACTED}@", text)
    if "=" in text:
        text = _PARAMETER.sub(_redact_parameter, text)
    return _HEADER.sub(rf"\1\2{_REDACTED}", text)


def _redact_parameter(found: re.Match[str]) -> str:
    name = found[2].lower()
    return f"{found[1]}{found[2]}={_REDACTED}" if any(secret in name for secret in _SECRET_NAMES) else found[0]


def printable(text: str) -> str:
    """Return the text with line ends, control characters, direction marks and all else invisible as escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _sanitize(text: str) -> str:
    return printable(redact(text))


def _request_ids() -> Iterator[str]:
    start = os.urandom(4).hex()  # tells the processes apart in one journal
    return (f"{start}-{number:x}" for number in count(1))


_ids = _request_ids()


def request_id(given: str = "") -> str:
    """Return the identifier of a request: the one that a trusted proxy gave if it is harmless, otherwise a new one."""
    return given if given and _GIVEN_ID.fullmatch(given) else next(_ids)


def wants_json(form: LogFormat, stream: TextIO) -> bool:
    """Return whether lines to the stream are JSON: by the setting, or, when it is `auto`, unless it is a terminal."""
    return form == "json" or (form == "auto" and not stream.isatty())


def configure(form: LogFormat = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Send the application log of the whole process to `stream` (stderr by default), replacing what was set before.

    May be called again, on a reload. `level` is a name that `logging` knows, in any case. Raises ValueError otherwise.
    """
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if wants_json(form, stream) else TextFormatter())
    handler.addFilter(RepeatFilter())
    root = logging.getLogger()
    root.setLevel(level.upper())
    root.handlers[:] = [handler]
    logging.raiseExceptions = False  # a log that cannot be written is no reason to write more


class RepeatFilter(logging.Filter):
    """Limits the lines of one kind in ten seconds, and reports how many were not written.

    A kind is a line of source code, so that no client can create new ones. Audit lines are never held back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._kinds: dict[tuple[str, int], tuple[float, int]] = {}  # → since when, how many
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line is written."""
        if record.name == AUDIT:
            return True
        if record.name == "aiohttp.server" and record.exc_info:
            _downgrade(record)
            if not logging.getLogger().isEnabledFor(record.levelno):
                return False
        kind, now = (record.pathname, record.lineno), self._clock()
        with self._lock:
            since, count = self._kinds.get(kind, (now, 0))
            held_back = 0
            if now - since >= _REPEAT_SECONDS:
                held_back, since, count = max(0, count - _REPEATED_LINES), now, 0
            self._kinds[kind] = since, count + 1
        if held_back:
            record.msg, record.args = f"{record.getMessage()} ({held_back} more like it were not written)", ()
        return count < _REPEATED_LINES


def _downgrade(record: logging.LogRecord) -> None:
    """Make a request that is not HTTP, which is the client's fault, one line at level INFO without a traceback."""
    error = record.exc_info[1] if record.exc_info else None
    if type(error).__module__.startswith("aiohttp.http"):
        record.levelno, record.levelname = logging.INFO, "INFO"
        record.msg, record.args = f"{record.getMessage()}: {str(error)[:200]}", ()
        record.exc_info = record.exc_text = None


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, the record's `facts`, and an exception if any."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Fact] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _sanitize(record.getMessage()),
        }
        for name, fact in _facts(record).items():
            line.setdefault(name, _sanitize(fact) if isinstance(fact, str) else fact)
        if record.exc_info:
            line["exception"] = "\n".join(map(_sanitize, self.formatException(record.exc_info).split("\n")))
        return msgspec.json.encode(line, enc_hook=lambda value: _sanitize(str(value))).decode()


class TextFormatter(logging.Formatter):
    """One line for a person: time (local), level, logger, message, facts. A traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [_local(record.created), f"{record.levelname:7}", f"{record.name}:", _sanitize(record.getMessage())]
        parts += [f"{name}={_quoted(fact)}" for name, fact in _facts(record).items() if fact is not None]
        line = " ".join(parts)
        if record.exc_info:
            # Indented, so that no line end inside an exception's text can begin what looks like a line of its own.
            line += "".join(f"\n    {_sanitize(part)}" for part in self.formatException(record.exc_info).split("\n"))
        return line


def _facts(record: logging.LogRecord) -> Mapping[str, Fact]:
    facts: Mapping[str, Fact] = getattr(record, "facts", {})
    return facts


def _quoted(fact: Fact) -> str:
    text = _sanitize(str(fact))
    return text if text and " " not in text and '"' not in text else '"' + text.replace('"', "'") + '"'


@lru_cache(maxsize=16)
def _utc_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))


@lru_cache(maxsize=16)
def _local_second(second: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S.", time.localtime(second))


def _utc(at: float) -> str:
    second = int(at)
    return f"{_utc_second(second)}{int((at - second) * 1000):03d}Z"


def _local(at: float) -> str:
    second = int(at)
    return f"{_local_second(second)}{int((at - second) * 1000):03d}"


class _AccessEntry(msgspec.Struct, gc=False, tag_field="logger", tag="mirror.access"):
    """One response, with the fields of its JSON line.

    Made for every request (a NamedTuple would cost three times as much); the writing thread sanitises it.
    """

    time: float | str
    id: str
    client: str
    method: str
    path: str
    status: int
    bytes: int
    ms: float
    cache: str
    agent: str


_encoder = msgspec.json.Encoder()
_sanitize_agent = lru_cache(maxsize=256)(_sanitize)  # few and long, unlike paths


def _prepare(entries: list[_AccessEntry], stamp: Callable[[float], str]) -> None:
    """Format times, and sanitise what clients sent."""
    # One check of all paths together: nearly always there is nothing to remove from any of them.
    paths = "".join([entry.path for entry in entries])
    names = "".join([entry.client + entry.method + entry.id for entry in entries])
    if ":" in paths or "=" in paths or not paths.isprintable() or not names.isprintable():
        for entry in entries:
            entry.path = _sanitize(entry.path)
            entry.client, entry.method, entry.id = map(printable, (entry.client, entry.method, entry.id))
    for entry in entries:
        entry.time = stamp(float(entry.time))
        entry.ms = int(entry.ms * 1000) / 1000
        entry.agent = _sanitize_agent(entry.agent)


def _json_lines(entries: list[_AccessEntry]) -> bytes:
    _prepare(entries, _utc)
    return _encoder.encode_lines(entries)


def _text_lines(entries: list[_AccessEntry]) -> bytes:
    _prepare(entries, _local)
    return "".join([_text_line(entry) for entry in entries]).encode()


def _text_line(entry: _AccessEntry) -> str:
    agent = entry.agent.replace('"', "'")
    return (
        f"{entry.time} {entry.client} {entry.method} {entry.path} {entry.status} {entry.bytes} B "
        f'{entry.ms:.1f} ms {entry.cache or "-"} "{agent}" {entry.id}\n'
    )


class AccessLog:
    """One line per response, at the cost of an append.

    Owns a daemon thread, which sleeps while there are no requests; the stream stays the caller's. At most `limit`
    lines wait in memory; above that they are dropped, counted in `dropped`, and a warning reports it once a minute.
    """

    def __init__(
        self, stream: BinaryIO, *, json: bool, delay: float = 0.2, batch: int = 1000, limit: int = 20_000
    ) -> None:
        """Write to `stream` after `delay` seconds or `batch` lines, whichever comes first."""
        self._stream = stream
        self._format = _json_lines if json else _text_lines
        self._delay, self._batch, self._limit = delay, batch, limit
        self._entries: deque[_AccessEntry] = deque()
        self._waiting, self._full = threading.Event(), threading.Event()
        self._closing = False
        self._overflowed = 0  # counted by the caller of `add`,
        self._unwritten = 0  # and by the thread: each by one side only
        self._reported = 0
        self._warned = float("-inf")
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were lost so far."""
        return self._overflowed + self._unwritten

    def add(
        self,
        request_id: str,
        client: str,
        method: str,
        path: str,
        status: int,
        sent: int,
        seconds: float,
        cache: Outcome | Literal[""],
        agent: str,
        at: float | None = None,
    ) -> None:
        """Record one response: `path` with its query, `sent` bytes of body, `seconds` until the last of them.

        `at` is when that was, in seconds since the epoch; None for now. Never blocks and never raises. Meant for one
        thread: the event loop's.
        """
        entries = self._entries
        waiting = len(entries)
        if waiting >= self._limit:
            self._overflowed += 1
            return
        if len(path) > _MAX_PATH_CHARACTERS:
            path = redact(path)[:_MAX_PATH_CHARACTERS] + "…"  # redacted first: half a credential is no longer found
        if len(agent) > _MAX_AGENT_CHARACTERS:
            agent = redact(agent)[:_MAX_AGENT_CHARACTERS] + "…"
        at = time.time() if at is None else at
        entries.append(_AccessEntry(at, request_id, client, method, path, status, sent, seconds * 1000, cache, agent))
        if not self._waiting.is_set():
            self._waiting.set()
        if waiting + 1 == self._batch:
            self._full.set()

    def close(self, timeout: float = 2.0) -> None:
        """Write what waits and end the thread; gives up after `timeout` seconds when the stream does not take it."""
        self._closing = True
        self._waiting.set()
        self._full.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._closing:
            self._waiting.wait()
            self._full.wait(self._delay)
            # Cleared before the lines are taken: what is added from here on sets them again.
            self._waiting.clear()
            self._full.clear()
            self._write()
            self._warn()
        self._write()

    def _write(self) -> None:
        entries = self._entries
        while entries:
            lines = [entries.popleft() for _ in range(min(len(entries), _BATCH_LINES))]
            try:
                self._stream.write(self._format(lines))
                self._stream.flush()
            except (OSError, ValueError):  # a full disk, a reader that went away, a stream closed under us
                self._unwritten += len(lines)
            if not self._closing:
                time.sleep(_PAUSE_SECONDS)

    def _warn(self) -> None:
        dropped, now = self.dropped, time.monotonic()
        if dropped > self._reported and now - self._warned >= _WARNING_SECONDS:
            _log.warning("The access log could not be written in time: %d lines lost.", dropped - self._reported)
            self._reported, self._warned = dropped, now
