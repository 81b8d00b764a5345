"""Our copy of an upstream's `/versions`: how to request its tail, and what to believe of the response."""

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from mirror.rubygems.log.versions_map import VersionsMap, parse_versions

if TYPE_CHECKING:
    from hashlib import _Hash


LEGACY = b"legacy\n"
"""Stands before a stored copy that was made from specs."""


class UpstreamCopy(msgspec.Struct, frozen=True):
    """The state that keeps a copy of an upstream's `/versions` up to date, without the bytes themselves."""

    size: int
    sha256: "_Hash"
    etag: str | None

    @classmethod
    def of(cls, body: bytes, etag: str | None) -> "UpstreamCopy":
        """Return the description of a body. Blocking for a large one."""
        return cls(len(body), hashlib.sha256(body), etag)

    def grown(self, tail: bytes) -> "UpstreamCopy":
        """Return the description of the copy with more bytes."""
        sha256 = self.sha256.copy()
        sha256.update(tail)
        return UpstreamCopy(self.size + len(tail), sha256, None)

    def request_headers(self) -> dict[str, str]:
        """Return the headers that request the tail: one byte of overlap shows whether it fits."""
        headers = {"Range": f"bytes={self.size - 1}-", "Accept-Encoding": "identity"}
        return headers | {"If-None-Match": self.etag} if self.etag else headers


def read_copy(stored: bytes) -> tuple[UpstreamCopy | None, VersionsMap]:
    """Return the description of a stored copy, None of one that was made from specs, and what it lists. Blocking."""
    copy = None if stored.startswith(LEGACY) else UpstreamCopy.of(stored, None)
    return copy, parse_versions(stored.removeprefix(LEGACY))


class Unchanged(msgspec.Struct, frozen=True):
    """The copy equals what upstream has."""


class Append(msgspec.Struct, frozen=True):
    """Upstream has more bytes; `copy` describes the copy with them."""

    tail: bytes
    copy: UpstreamCopy


class Replace(msgspec.Struct, frozen=True):
    """The body replaces the copy."""

    body: bytes
    copy: UpstreamCopy


class Refetch(msgspec.Struct, frozen=True):
    """The response proves nothing: request all of it, without Range and without validator."""

    reason: str


class Refused(msgspec.Struct, frozen=True):
    """The response is not believed: keep the copy, and ask again later."""

    reason: str


FollowResult: TypeAlias = Unchanged | Append | Replace | Refetch | Refused


def follow(copy: UpstreamCopy | None, status: int, headers: Mapping[str, str], body: bytes) -> FollowResult:
    """Return what an upstream's response means for our copy of its `/versions`.

    `copy` is what the request was made from; None when it was for everything, and then the result is never Refetch.
    `body` is decoded. Blocking for a large body, which is hashed.
    """
    fields = {key.lower(): value for key, value in headers.items()}
    if copy is not None:
        if status == 304:
            return Unchanged()
        if status == 206:
            return _append(copy, fields, body)
        if status in {400, 412, 416}:
            return Refetch(f"The upstream responded {status} to a range.")
    if status != 200:
        return Refused(f"The upstream responded {status} for its list of versions.")
    doubt = _doubt(copy, fields, body)
    if doubt is None:
        return Replace(body, UpstreamCopy.of(body, fields.get("etag")))
    return Refused(doubt) if copy is None else Refetch(doubt)


def _append(copy: UpstreamCopy, fields: Mapping[str, str], body: bytes) -> FollowResult:
    span = re.fullmatch(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)", fields.get("content-range", "").strip())
    if span is None or int(span[1]) != copy.size - 1 or int(span[2]) - int(span[1]) + 1 != len(body):
        return Refetch("The upstream sent another range than was requested.")
    if fields.get("content-encoding", "identity") != "identity":
        return Refetch("The upstream compressed a range.")
    # Only complete lines are ever kept, so that the overlapping byte is the end of a line, as the last one has to be.
    if not body.startswith(b"\n") or not body.endswith(b"\n"):
        return Refetch("The upstream's tail does not fit the copy, or ends within a line.")
    tail = body[1:]
    sha256 = copy.sha256.copy()
    sha256.update(tail)
    if _digest(fields) != sha256.digest():
        return Refetch("The upstream's tail has no digest, or another one than the copy with it.")
    if not tail:
        return Unchanged()
    return Append(tail, UpstreamCopy(copy.size + len(tail), sha256, fields.get("etag")))


def _doubt(copy: UpstreamCopy | None, fields: Mapping[str, str], body: bytes) -> str | None:
    """Return why a complete body is not believed, None when it is."""
    if not body.endswith(b"\n") or not (body.startswith(b"---\n") or b"\n---\n" in body[:4096]):
        return "The upstream's list of versions is cut off, or is something else."
    digest = _digest(fields)
    if digest is not None and digest != hashlib.sha256(body).digest():
        return "The upstream's list of versions does not have the digest in its header."
    encoded = fields.get("content-encoding", "identity") != "identity"
    length = fields.get("content-length", "")
    if not encoded and length.isdigit() and int(length) != len(body):
        return "The upstream's list of versions does not have the length in its header."
    if digest is None and not length and copy is not None and len(body) < copy.size:
        return "The upstream's list of versions became shorter, and nothing shows that it is complete."
    return None


_SHA256 = re.compile(r"(?:^|,)\s*sha-256\s*=\s*[:\"]?([A-Za-z0-9+/]{43}=)[:\"]?\s*(?:,|$)", re.IGNORECASE)


def _digest(fields: Mapping[str, str]) -> bytes | None:
    """Return the SHA-256 of the uncompressed body from the headers: `:x:`, `"x"` and bare `x` are all in use."""
    for header in ("repr-digest", "digest"):
        if match := _SHA256.search(fields.get(header, "")):
            return base64.b64decode(match[1])
    return None
