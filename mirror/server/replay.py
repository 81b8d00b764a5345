"""Replaying responses: a request that means what an earlier one meant gets its response without a handler.

`RequestHead` is what a request means, made by `mirror.server.connection` of what aiohttp's own parser finds in it. Its
`key` has everything on which a response may depend; what is set aside goes to the log, or says who the client is. A
response that is in memory is kept under the key for as long as it is valid; the next one costs a look-up and a write.

A response that depends on who the client is (a private one) is kept under the number of the rights that its client has:
no one with other rights can find it. Credentials, the secret of a browser's session among them, are looked at by
`mirror.auth.guard` each time, by their digest. Other cookies say nothing here.

Where the same bytes come again, even the parser is spared: `HeadCache` keeps what was found in them, unless they hold
credentials or cookies, which are kept nowhere.
"""

import re
import time
import weakref
from collections.abc import Callable, Mapping
from enum import Enum, auto

import msgspec

from mirror.index.cache import BoundedCache, MemoryBudget, Validity, Worth
from mirror.index.change_counter import ChangeCounter
from mirror.server.facts import RequestFacts
from mirror.server.proxies import FORWARDED_HEADERS, ForwardedFields
from mirror.server.segments import StoredPart

REPLAY_REQUEST_BYTES = 4096
"""Bytes of a request up to which its response is kept."""
REPLAY_BODY_BYTES = 16 << 20
"""Bytes of a response's body up to which it is kept. What waits for a slow client is no copy, but these bytes."""
REPLAY_BYTES = 1200
"""Bytes that a replay takes in memory, without key, head and body (measured)."""
STORED_REPLAY_BYTES = 950
"""Bytes that a replay takes in memory whose body is on disk, with the validity that is kept for it (measured)."""
READ_BYTES = 256 << 10
"""Bytes of a body up to which it is read from disk for a replay, where the kernel has it in memory."""
HEAD_BYTES = 600
"""Bytes that a request's head takes in memory, without its bytes and its key (measured)."""

PRIVATE_KEY = b"%d\n%b"
"""The key of a private response: the number of the rights that it is for, and the key of its request."""

UNUSUAL = frozenset(
    {
        b"content-length", b"cookie2", b"expect", b"http2-settings", b"proxy-authorization",
        b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
"""Headers with which a request is left to aiohttp: a body, another protocol, a hop that wants something."""
SET_ASIDE = frozenset(
    {
        b"authorization", b"connection", b"cookie", b"forwarded", b"host", b"user-agent", b"x-forwarded-for",
        b"x-forwarded-host", b"x-forwarded-prefix", b"x-forwarded-proto", b"x-request-id",
    }
)  # fmt: skip
"""Headers that are read for themselves: they are not in the key as they were sent, and may be sent once."""
IGNORED = frozenset(
    {
        b"cdn-loop", b"cf-connecting-ip", b"cf-ipcountry", b"cf-ray", b"cf-visitor", b"keep-alive", b"traceparent",
        b"tracestate", b"true-client-ip", b"via", b"x-amzn-trace-id", b"x-b3-parentspanid", b"x-b3-sampled",
        b"x-b3-spanid", b"x-b3-traceid", b"x-cloud-trace-context", b"x-correlation-id", b"x-forwarded-port",
        b"x-forwarded-server", b"x-real-ip",
    }
)  # fmt: skip
"""Headers that nothing here reads, and that differ from request to request: no response depends on them."""


SESSION_COOKIE = b"mirror-session"
"""The name of the one cookie that is read here."""
_SESSION = re.compile(rb"(?:^|; )%b=([0-9a-f]{64})(?:;|$)" % SESSION_COOKIE)

FORWARDED = frozenset(name.lower().encode() for name in FORWARDED_HEADERS)
"""Those of them in which a proxy reports."""
PERSONAL = frozenset({b"authorization", b"cookie"})
"""Those that may tell who the client is."""


class HeaderRole(Enum):
    """The part that a header plays; one without a part is in the key."""

    UNUSUAL = auto()
    SET_ASIDE = auto()
    IGNORED = auto()


ROLES = {
    **dict.fromkeys(UNUSUAL, HeaderRole.UNUSUAL),
    **dict.fromkeys(SET_ASIDE, HeaderRole.SET_ASIDE),
    **dict.fromkeys(IGNORED, HeaderRole.IGNORED),
}
"""Name of a header in lower case → its part."""


class RequestHead(msgspec.Struct, frozen=True):
    """A GET or HEAD: its meaning, and its sender."""

    key: bytes = b""
    """All on which the response depends but the rights of its client and what a proxy reports; empty: no replays."""
    host: str = ""
    agent: str = ""
    """The User-Agent header."""
    credentials: bytes = b""
    """What tells who the client is, as `credentials_in` returns it."""
    forwarded: ForwardedFields | None = None
    """What a proxy reports, if it can be trusted."""
    request_id: str = ""
    """The identifier that a proxy gave the request, if it can be trusted."""
    keep_alive: bool = True
    """Whether the connection stays open."""
    repeats: bool = True
    """Whether the same bytes may well come again, and may be kept."""


def credentials_in(headers: Mapping[bytes, bytes]) -> bytes | None:
    """Return what tells who sends these headers, with names in lower case; None where only aiohttp can read them.

    It is empty without an Authorization header and without the cookie of a session.
    """
    if b"authorization" in headers:
        return b"header " + headers[b"authorization"]
    cookies = headers.get(b"cookie", b"")
    count, found = cookies.count(SESSION_COOKIE), _SESSION.search(cookies)
    if count and (count > 1 or found is None):
        return None
    return b"session " + found[1] if found else b""


class SharedBytes(msgspec.Struct, weakref=True, eq=False):
    """Bytes that a cache keeps and counts; replays refer to them weakly.

    When the cache lets go of them, replays read them from disk, where they are `stored`; others end.
    """

    content: bytes
    stored: StoredPart | None = None


class Replay(msgspec.Struct, frozen=True):
    """A whole response, and the facts of the request that it answered first."""

    validity: Validity
    status: int
    head: bytes
    size: int
    """Bytes of the body."""
    facts: RequestFacts
    content: bytes = b""
    """The body, unless another cache keeps it."""
    shared: weakref.ReferenceType[SharedBytes] | None = None
    """The body in the cache that keeps it."""
    stored: StoredPart | None = None
    """Where the body is on disk, once that cache has let go of it."""

    def body(self) -> bytes | bytearray | None:
        """Return the body; None where it is neither in memory nor can be read without waiting for a disk."""
        if self.shared is None:
            return self.content
        if (kept := self.shared()) is not None:
            return kept.content
        return self.stored.read_now() if self.stored is not None and self.size <= READ_BYTES else None

    @property
    def worth(self) -> Worth:
        """The highest where the body is on disk: it spares reading the catalog, and takes little."""
        return Worth.USUAL if self.stored is None else Worth.HIGHEST

    @property
    def weight(self) -> int:
        """Bytes that it takes in memory, without its key."""
        held = REPLAY_BYTES if self.stored is None else STORED_REPLAY_BYTES
        return held + len(self.head) + len(self.content) + len(self.facts.path) + len(self.facts.agent)


class ReplayCache(BoundedCache[bytes, Replay]):
    """The responses that can be replayed, by what their requests mean."""

    __slots__ = ("changes", "clock")

    def __init__(
        self, memory: MemoryBudget, clock: Callable[[], float] = time.time, changes: ChangeCounter | None = None
    ) -> None:
        """`changes`: while they differ from what this process has seen, nothing is replayed."""
        super().__init__(memory)
        self.clock = clock
        self.changes = changes or ChangeCounter()

    def beside(self) -> "ReplayCache":
        """Return another one with the same budget and clock."""
        return ReplayCache(self._budget, self.clock, self.changes)

    def heads(self) -> "HeadCache":
        """Return a cache of heads with the same budget."""
        return HeadCache(self._budget)


class HeadCache(BoundedCache[bytes, RequestHead]):
    """The heads that were found in requests, by their bytes: in the same bytes, the same is found."""

    __slots__ = ()

    def keep(self, request: bytes, head: RequestHead) -> None:
        """Keep what was found in a request, unless that holds credentials or cookies, or never comes again."""
        if head.repeats:
            forwarded = sum(len(field) for field in head.forwarded or () if field)
            self.put(request, head, HEAD_BYTES + len(request) + len(head.key) + len(head.agent) + forwarded)
