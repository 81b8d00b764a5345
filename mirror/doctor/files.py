"""What clients of both ecosystems require of a file: that it is whole, and served in parts (RFC 9110, section 14)."""

import hashlib

import msgspec
from yarl import URL

from mirror.doctor.client import IndexClient, WireResponse
from mirror.doctor.findings import Finding, Requirement
from mirror.errors import TooLarge

RANGE_BYTES = 64
"""The length of a range that is tried."""


class ExpectedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file, with the digest and size that its index promises."""

    url: URL
    algorithm: str = ""
    digest: str = ""
    """Lower-case hex; empty where the index promises none."""
    size: int | None = None


class FileRequirements:
    """The requirements on files, for the clients of one ecosystem."""

    def __init__(self, area: str, resumes: str, parts: str) -> None:
        """`resumes`: the clients that resume a download; `parts`: those that read parts of a file."""

        def requirement(name: str, text: str, hurts: str) -> Requirement:
            return Requirement(f"{area}/file-{name}", text, hurts)

        self.digest = requirement(
            "digest",
            "A file has the digest and the size that its index promises.",
            "every installer: it throws the file away and stops; one that does not compare installs a damaged file",
        )
        self.length = requirement(
            "length",
            "A file has its length in Content-Length.",
            "progress bars, and every client that has to notice a download that was cut",
        )
        self.encoding = requirement(
            "encoding",
            "A file is sent as it is, without Content-Encoding, also to clients that accept gzip.",
            "installers that compare the digest of what they receive; ranges of two encodings do not fit together",
        )
        self.head = requirement("head", "HEAD of a file has the headers of GET.", parts)
        self.accepts = requirement("accept-ranges", "A file has Accept-Ranges: bytes.", parts)
        self.range = requirement("range", "bytes=A-B returns exactly these bytes, with the right Content-Range.", parts)
        self.rest = requirement("range-open", "bytes=A- returns the rest of the file.", resumes)
        self.suffix = requirement("range-suffix", "bytes=-N returns the last N bytes.", parts)
        self.beyond = requirement(
            "range-beyond", "A range beyond the end is answered 416, with the size in Content-Range.", resumes
        )
        self.if_range = requirement(
            "if-range",
            "A range is returned when If-Range has the file's ETag, the whole file when it has another.",
            resumes,
        )
        self.etag = requirement("etag", "A file has a strong ETag, and is answered 304 for it.", resumes)
        self.immutable = requirement(
            "cache-control",
            "A file may be kept for at least a day (Cache-Control: max-age).",
            "pip's and uv's caches and every proxy in between: they request again what never changes",
        )

    async def check(self, client: IndexClient, expected: ExpectedFile) -> list[Finding]:
        """Check one file by a dozen requests; a file that is too long is not read as a whole."""
        url = expected.url
        head = await client.head(url, Accept_Encoding="gzip")
        try:
            whole = await client.get(url, Accept_Encoding="gzip")
        except TooLarge as error:
            return [self.digest.unknown(str(error)), *await self.parts(client, url, head, None)]
        if whole.status != 200:
            return [self.digest.fails(f"GET answers {whole.phrase}")]
        encoding = whole.header("Content-Encoding")
        return [
            self._whole(expected, whole),
            self.length.judge(whole.length == len(whole.body), f"Content-Length is {whole.display('Content-Length')}"),
            self.encoding.judge(encoding in {"", "identity"}, f"Content-Encoding is {encoding}"),
            self._head(head, whole),
            self._cache(whole),
            await self._etag(client, whole),
            *await self.parts(client, url, whole, whole.body),
        ]

    def _whole(self, expected: ExpectedFile, whole: WireResponse) -> Finding:
        if expected.size not in {None, len(whole.body)}:
            return self.digest.fails(f"{len(whole.body)} bytes, promised are {expected.size}")
        if not expected.digest:
            return self.digest.unknown("the index promises no digest that could be compared")
        try:
            actual = hashlib.new(expected.algorithm, whole.body, usedforsecurity=False).hexdigest()
        except (ValueError, TypeError):
            return self.digest.unknown(f"the index promises a digest of the unknown kind {expected.algorithm}")
        return self.digest.judge(
            actual == expected.digest, f"{expected.algorithm} is {actual}, promised is {expected.digest}"
        )

    def _head(self, head: WireResponse, whole: WireResponse) -> Finding:
        if head.status != 200:
            return self.head.fails(f"HEAD answers {head.phrase}")
        names = ("Content-Length", "Content-Type", "ETag", "Accept-Ranges", "Last-Modified")
        different = [name for name in names if head.header(name) != whole.header(name)]
        return self.head.judge(not different, f"HEAD and GET differ in {', '.join(different)}")

    def _cache(self, whole: WireResponse) -> Finding:
        value = whole.header("Cache-Control")
        ages = [part.partition("=")[2] for part in value.replace(" ", "").split(",") if part.startswith("max-age=")]
        long_enough = bool(ages) and ages[0].isdecimal() and (len(ages[0]) > 18 or int(ages[0]) >= 86_400)
        return self.immutable.judge(long_enough, f"Cache-Control is {value or 'absent'}")

    async def _etag(self, client: IndexClient, whole: WireResponse) -> Finding:
        etag = whole.header("ETag")
        if not (etag.startswith('"') and etag.endswith('"') and len(etag) > 2):
            return self.etag.fails(f"ETag is {etag or 'absent'}")
        again = await client.get(whole.url, If_None_Match=etag)
        return self.etag.judge(again.status == 304, f"the same ETag is answered {again.phrase}")

    async def parts(self, client: IndexClient, url: URL, known: WireResponse, content: bytes | None) -> list[Finding]:
        """Check ranges of a file; `known` has its headers, `content` its bytes, where they were read."""
        size = len(content) if content is not None else known.length
        if not size:
            return [self.range.unknown("the size of the file is not known")]
        stop = min(size, RANGE_BYTES)
        beyond = await client.get(url, Range=f"bytes={size + 10}-", most=1, part=True)
        refused = beyond.status == 416 and beyond.header("Content-Range").replace(" ", "") == f"bytes*/{size}"
        accepts = known.header("Accept-Ranges")
        return [
            self.accepts.judge(accepts == "bytes", f"Accept-Ranges is {accepts or 'absent'}"),
            await self._part(client, self.range, url, f"bytes=0-{stop - 1}", (0, stop, size), content),
            await self._part(client, self.rest, url, f"bytes={size - stop}-", (size - stop, size, size), content),
            await self._part(client, self.suffix, url, f"bytes=-{stop}", (size - stop, size, size), content),
            self.beyond.judge(refused, f"{beyond.phrase}, Content-Range: {beyond.display('Content-Range')}"),
            await self._if_range(client, url, known.header("ETag"), stop),
        ]

    async def _part(
        self,
        client: IndexClient,
        requirement: Requirement,
        url: URL,
        wanted: str,
        place: tuple[int, int, int],
        content: bytes | None,
    ) -> Finding:
        start, stop, size = place
        reply = await client.get(url, Range=wanted, most=RANGE_BYTES + 1, part=True)
        if reply.status != 206:
            return requirement.fails(f"{wanted} is answered {reply.phrase}")
        if reply.header("Content-Range") != f"bytes {start}-{stop - 1}/{size}":
            return requirement.fails(f"{wanted} is answered with Content-Range: {reply.display('Content-Range')}")
        right = reply.body == content[start:stop] if content is not None else len(reply.body) == stop - start
        return requirement.judge(right, f"{wanted} returns other bytes than the whole file has there")

    async def _if_range(self, client: IndexClient, url: URL, etag: str, stop: int) -> Finding:
        if not etag:
            return self.if_range.fails("there is no ETag to send")
        wanted = f"bytes=0-{stop - 1}"
        same = await client.get(url, Range=wanted, If_Range=etag, most=RANGE_BYTES, part=True)
        other = await client.get(url, Range=wanted, If_Range='"another"', most=RANGE_BYTES, part=True)
        seen = f"with the same ETag {same.phrase}, with another {other.phrase}"
        return self.if_range.judge((same.status, other.status) == (206, 200), seen)
