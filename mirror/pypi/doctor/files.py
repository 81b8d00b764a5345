"""What Python clients require of files, of the metadata beside them (PEP 658, 714), and of the upload API.

Uploading is tried only where a project was named for it.
"""

import base64
import hashlib
import io
import zipfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
from yarl import URL

from mirror.doctor import Check, Finding, IndexClient, Requirement, WireResponse
from mirror.doctor.client import url_of
from mirror.doctor.files import ExpectedFile, FileRequirements
from mirror.errors import Invalid, UpstreamProtocolError
from mirror.model import File, Page, UpstreamResponse
from mirror.pypi.doctor.index import ANY, Index, Subject
from mirror.pypi.names import canonical
from mirror.pypi.pages import JSON_TYPE, parse_simple
from mirror.pypi.wheel import read_metadata

_FILE = FileRequirements(
    "pypi",
    resumes="pip, which resumes a download by Range and If-Range",
    parts="uv and pip's fast-deps, which read metadata out of a wheel; Poetry requests the last bytes",
)
_SIDECAR = Requirement(
    "pypi/metadata",
    "Where a page promises metadata, URL.metadata exists, with the promised digest.",
    "pip: a 404, or another digest, ends the installation; uv reads the wheel instead",
)
_AGREES = Requirement(
    "pypi/metadata-agrees",
    "The metadata beside a wheel is the METADATA inside it.",
    "pip from 26.2 stops where they differ; others resolve with dependencies that the wheel does not have",
)
_PREFERENCE = ("sha256", "sha512", "sha384", "sha224", "sha1", "md5")
_VERSION = "0.0.1"
_EPOCH = (1980, 1, 1, 0, 0, 0)

_ACCEPTED = Requirement(
    "pypi/upload", "An upload is answered 2xx, without a redirect.", "twine, Poetry and pdm refuse every redirect"
)
_AGAIN = Requirement(
    "pypi/upload-again",
    "The same file again is answered 2xx.",
    "a release that was interrupted: uv publish and CI repeat the whole upload",
)
_OTHER = Requirement(
    "pypi/upload-other",
    "The same name with other bytes is 400 File already exists (or 409).",
    "twine --skip-existing looks for these words; an index that accepts it lets released files be replaced",
)
_VISIBLE = Requirement(
    "pypi/upload-visible",
    "An uploaded file is on the project's page at once, with its digest.",
    "uv publish --check-url, which reads it back",
)
_LOGIN = Requirement(
    "pypi/upload-login",
    "An upload without credentials is answered 401, with WWW-Authenticate.",
    "twine and uv, which then ask for a password; and every user, if anyone may upload",
)
_UNSLASHED = Requirement(
    "pypi/upload-slash",
    "The upload URL without its last slash is the same, not a redirect.",
    "twine, Poetry and pdm refuse every redirect",
)


async def file(subject: Subject) -> list[Finding]:
    """Check one file, in every way in which clients read it."""
    chosen = subject.file
    if chosen is None:
        return [_FILE.digest.unknown("the project has no files; name another with --project")]
    return await _FILE.check(subject.client, await _expected(subject.client, chosen))


async def _expected(client: IndexClient, chosen: File) -> ExpectedFile:
    algorithm = next((name for name in _PREFERENCE if name in chosen.digests), "")
    return ExpectedFile(
        url=await _final(client, chosen.url),
        algorithm=algorithm,
        digest=chosen.digests.get(algorithm, ""),
        size=chosen.size,
    )


async def _final(client: IndexClient, url: str) -> URL:
    """Return the URL of the file after redirects."""
    return (await client.follow(url_of(url), most=1, part=True)).url


async def metadata(subject: Subject) -> list[Finding]:
    """Check the metadata beside the wheel, if there is any."""
    chosen = subject.file
    promised = chosen.extra.get("core-metadata") if chosen else None
    if chosen is None or not promised:
        return [_SIDECAR.unknown("no file on the page promises any: installers have to read the wheels")]
    reply = await subject.client.follow(url_of(f"{chosen.url}.metadata"), most=8 << 20)
    if reply.status != 200:
        return [_SIDECAR.fails(f"{chosen.filename}.metadata is answered {reply.phrase}")]
    content = reply.identity()
    expected = promised.get("sha256") if isinstance(promised, dict) else None
    actual = hashlib.sha256(content).hexdigest()
    sidecar = _SIDECAR.judge(expected in {None, actual}, f"SHA-256 is {actual}, promised is {expected}")
    return [sidecar, await _agrees(subject.client, chosen, content)]


async def _agrees(client: IndexClient, chosen: File, content: bytes) -> Finding:
    if not chosen.filename.endswith(".whl"):
        return _AGREES.unknown("the file is not a wheel")
    url = await _final(client, chosen.url)
    head = await client.head(url)
    size = head.length if head.status == 200 else chosen.size
    if not size:
        return _AGREES.unknown("the wheel's size is not known, so it cannot be read in parts")
    try:
        inside = await read_metadata(chosen, _Ranges(client, url, size))
    except UpstreamProtocolError as error:
        return _AGREES.unknown(str(error))
    except Invalid as error:
        return _AGREES.fails(f"the wheel cannot be read: {error}")
    return _AGREES.judge(inside == content, "they differ")


class _Ranges:
    """A Body that requests its bytes range by range, as uv does."""

    digest = ""
    modified: str | None = None
    path: Path | None = None
    location: str | None = None

    def __init__(self, client: IndexClient, url: URL, size: int) -> None:
        self._asking = client
        self._url = url
        self.size = size

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        end = self.size if stop is None else stop
        reply = await self._asking.get(self._url, Range=f"bytes={start}-{end - 1}", most=end - start, part=True)
        if reply.status != 206 or len(reply.body) != end - start:
            raise UpstreamProtocolError("the wheel cannot be read in parts")
        yield reply.body


def uploads(index: Index, project: str, token: str) -> list[Check]:
    """Return the check that uploads `project` 0.0.1, an empty wheel; the next run uploads the same wheel again.

    Raises Invalid for a wrong name.
    """
    canonical(project)
    return [partial(_upload, index, project, token)]


async def _upload(index: Index, project: str, token: str) -> list[Finding]:
    url = index.root / "legacy" / ""
    wheel, other = wheel_of(project, "1"), wheel_of(project, "2")
    anonymous = await _send(index.client, url, None, project, wheel)
    bare = await _send(index.client, url.with_path(url.path.rstrip("/")), None, project, wheel)
    first = await _send(index.client, url, token, project, wheel)
    found = [
        _LOGIN.judge(anonymous.status == 401 and bool(anonymous.header("WWW-Authenticate")), anonymous.phrase),
        _UNSLASHED.judge(bare.status == anonymous.status, f"{bare.phrase}, with the slash {anonymous.phrase}"),
        _ACCEPTED.judge(first.status // 100 == 2, first.excerpt),
    ]
    if first.status // 100 != 2:
        return found
    again = await _send(index.client, url, token, project, wheel)
    refused = await _send(index.client, url, token, project, other)
    exists = refused.status == 409 or (
        refused.status == 400 and b"already exist" in refused.body + refused.reason.encode()
    )
    return [
        *found,
        _AGAIN.judge(again.status // 100 == 2, again.excerpt),
        _OTHER.judge(exists, refused.excerpt),
        await _visible(index, project, wheel),
    ]


async def _visible(index: Index, project: str, wheel: bytes) -> Finding:
    name = canonical(project)
    page = await index.client.follow(index.simple / name / "", Accept=ANY)
    if page.status != 200:
        return _VISIBLE.fails(f"the page is answered {page.phrase}")
    content_type = JSON_TYPE if page.body.lstrip().startswith(b"{") else "text/html"
    listed = parse_simple(
        Page("project", name), UpstreamResponse(url=str(page.url), content_type=content_type, body=page.body)
    )
    file = listed.file(filename_of(project))
    return _VISIBLE.judge(
        file is not None and file.sha256 == hashlib.sha256(wheel).hexdigest(),
        "it is not there" if file is None else "its SHA-256 is absent or another",
    )


async def _send(client: IndexClient, url: URL, token: str | None, project: str, wheel: bytes) -> WireResponse:
    """Upload as twine does; without a token, without any credentials."""
    form = aiohttp.FormData(default_to_multipart=True)
    fields = {
        ":action": "file_upload",
        "protocol_version": "1",
        "metadata_version": "2.1",
        "name": project,
        "version": _VERSION,
        "filetype": "bdist_wheel",
        "pyversion": "py3",
        "sha256_digest": hashlib.sha256(wheel).hexdigest(),
    }
    for key, value in fields.items():
        form.add_field(key, value)
    filename = filename_of(project)
    form.add_field("content", io.BytesIO(wheel), filename=filename, content_type="application/octet-stream")
    login = "Basic " + base64.b64encode(f"__token__:{token}".encode()).decode() if token else ""
    return await client.send("POST", url, {"Authorization": login}, form, most=65536, part=True)


def filename_of(project: str) -> str:
    """Return the name of the wheel that is uploaded."""
    return f"{canonical(project).replace('-', '_')}-{_VERSION}-py3-none-any.whl"


def wheel_of(project: str, words: str) -> bytes:
    """Build an empty wheel; equal arguments give equal bytes, so that a second run uploads the same file."""
    stem = f"{canonical(project).replace('-', '_')}-{_VERSION}.dist-info"
    members = {
        f"{stem}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: {_VERSION}\nSummary: Check {words}\n",
        f"{stem}/WHEEL": "Wheel-Version: 1.0\nGenerator: mirror\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{stem}/RECORD"
    members[record] = "".join(f"{path},{_recorded(text)}\n" for path, text in members.items()) + f"{record},,\n"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, text in members.items():
            archive.writestr(zipfile.ZipInfo(path, _EPOCH), text)
    return buffer.getvalue()


def _recorded(text: str) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    return f"sha256={digest},{len(text.encode())}"
