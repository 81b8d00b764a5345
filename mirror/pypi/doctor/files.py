"""What Python clients demand of files, and of the metadata beside them (PEP 658, 714)."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from yarl import URL

from mirror.doctor import Asking, Finding, Requirement
from mirror.doctor.asking import url_of
from mirror.doctor.conduct import Conduct, Promise
from mirror.errors import Invalid, UpstreamProtocolError
from mirror.model import File
from mirror.pypi.doctor.index import Subject
from mirror.pypi.wheel import read_metadata

_CONDUCT = Conduct(
    "pypi",
    resumes="pip, which goes on with a download that was cut by Range and If-Range",
    parts="uv and pip's fast-deps, which read a wheel's metadata out of it; Poetry asks for the last bytes",
)
_SIDECAR = Requirement(
    "pypi/metadata",
    "Where a page promises metadata, URL.metadata is there, with the digest that is promised.",
    "pip: a 404 there, or another digest, ends the installation; uv reads the wheel instead",
)
_AGREES = Requirement(
    "pypi/metadata-agrees",
    "The metadata beside a wheel is the METADATA inside it.",
    "pip from 26.2 stops where they differ; others resolve with dependencies that the wheel does not have",
)
_PREFERENCE = ("sha256", "sha512", "sha384", "sha224", "sha1", "md5")


async def file(subject: Subject) -> list[Finding]:
    """One file, by every way in which clients read it."""
    chosen = subject.file
    if chosen is None:
        return [_CONDUCT.digest.unknown("the project has no files; name another with --project")]
    return await _CONDUCT.check(subject.asking, await _promise(subject.asking, chosen))


async def _promise(asking: Asking, chosen: File) -> Promise:
    algorithm = next((name for name in _PREFERENCE if name in chosen.digests), "")
    return Promise(
        url=await _final(asking, chosen.url),
        algorithm=algorithm,
        digest=chosen.digests.get(algorithm, ""),
        size=chosen.size,
    )


async def _final(asking: Asking, url: str) -> URL:
    """Where the file lies, behind redirects."""
    return (await asking.follow(url_of(url), most=1, part=True)).url


async def metadata(subject: Subject) -> list[Finding]:
    """The metadata beside the wheel, if there is any."""
    chosen = subject.file
    promised = chosen.extra.get("core-metadata") if chosen else None
    if chosen is None or not promised:
        return [_SIDECAR.unknown("no file on the page promises any: installers have to read the wheels")]
    reply = await subject.asking.follow(url_of(f"{chosen.url}.metadata"), most=8 << 20)
    if reply.status != 200:
        return [_SIDECAR.fails(f"{chosen.filename}.metadata is answered {reply.said}")]
    content = reply.identity()
    expected = promised.get("sha256") if isinstance(promised, dict) else None
    actual = hashlib.sha256(content).hexdigest()
    sidecar = _SIDECAR.judge(expected in {None, actual}, f"SHA-256 is {actual}, promised is {expected}")
    return [sidecar, await _agrees(subject.asking, chosen, content)]


async def _agrees(asking: Asking, chosen: File, content: bytes) -> Finding:
    if not chosen.filename.endswith(".whl"):
        return _AGREES.unknown("the file is no wheel")
    url = await _final(asking, chosen.url)
    head = await asking.head(url)
    size = head.length if head.status == 200 else chosen.size
    if not size:
        return _AGREES.unknown("the wheel's size is not known, so it cannot be read in parts")
    try:
        inside = await read_metadata(chosen, _Ranges(asking, url, size))
    except UpstreamProtocolError as error:
        return _AGREES.unknown(str(error))
    except Invalid as error:
        return _AGREES.fails(f"the wheel cannot be read: {error}")
    return _AGREES.judge(inside == content, "they differ")


class _Ranges:
    """A Body whose bytes are asked for range by range, as uv does."""

    digest = ""
    modified: str | None = None
    path: Path | None = None

    def __init__(self, asking: Asking, url: URL, size: int) -> None:
        self._asking = asking
        self._url = url
        self.size = size

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        end = self.size if stop is None else stop
        reply = await self._asking.get(self._url, Range=f"bytes={start}-{end - 1}", most=end - start, part=True)
        if reply.status != 206 or len(reply.body) != end - start:
            raise UpstreamProtocolError("the wheel cannot be read in parts")
        yield reply.body
