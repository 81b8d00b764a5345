"""What twine, uv and Poetry demand of the upload API: by uploading a wheel, where somebody named a project for it."""

import base64
import hashlib
import io
import zipfile
from functools import partial

import aiohttp
from yarl import URL

from mirror.doctor import Asking, Check, Finding, Reply, Requirement
from mirror.model import UpstreamResponse
from mirror.pypi.doctor.index import ANY, Index
from mirror.pypi.names import canonical
from mirror.pypi.pages import JSON_TYPE, parse_simple

VERSION = "0.0.1"
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
    "What was uploaded is on the project's page at once, with its digest.",
    "uv publish --check-url, which reads it back",
)
_NOBODY = Requirement(
    "pypi/upload-login",
    "An upload without credentials is 401, and says how to log in.",
    "twine and uv, which then ask for a password; and everyone, if anybody may upload",
)
_UNSLASHED = Requirement(
    "pypi/upload-slash",
    "The upload URL without its last slash is the same, not a redirect.",
    "twine, Poetry and pdm refuse every redirect",
)


def uploads(index: Index, project: str, token: str) -> list[Check]:
    """The check that uploads `project` 0.0.1, a wheel with nothing in it, and the same wheel again in the next run.

    Raises Invalid for a name that is none.
    """
    canonical(project)
    return [partial(_check, index, project, token)]


async def _check(index: Index, project: str, token: str) -> list[Finding]:
    url = index.root / "legacy" / ""
    wheel, other = wheel_of(project, "1"), wheel_of(project, "2")
    nobody = await _send(index.asking, url, None, project, wheel)
    bare = await _send(index.asking, url.with_path(url.path.rstrip("/")), None, project, wheel)
    first = await _send(index.asking, url, token, project, wheel)
    found = [
        _NOBODY.judge(nobody.status == 401 and bool(nobody.header("WWW-Authenticate")), nobody.said),
        _UNSLASHED.judge(bare.status == nobody.status, f"{bare.said}, with the slash {nobody.said}"),
        _ACCEPTED.judge(first.status // 100 == 2, first.quoted),
    ]
    if first.status // 100 != 2:
        return found
    again = await _send(index.asking, url, token, project, wheel)
    refused = await _send(index.asking, url, token, project, other)
    exists = refused.status == 409 or (
        refused.status == 400 and b"already exist" in refused.body + refused.reason.encode()
    )
    return [
        *found,
        _AGAIN.judge(again.status // 100 == 2, again.quoted),
        _OTHER.judge(exists, refused.quoted),
        await _visible(index, project, wheel),
    ]


async def _visible(index: Index, project: str, wheel: bytes) -> Finding:
    name = canonical(project)
    page = await index.asking.follow(index.simple / name / "", Accept=ANY)
    if page.status != 200:
        return _VISIBLE.fails(f"the page is answered {page.said}")
    content_type = JSON_TYPE if page.body.lstrip().startswith(b"{") else "text/html"
    listed = parse_simple(UpstreamResponse(url=str(page.url), content_type=content_type, body=page.body), name)
    file = listed.file(filename_of(project))
    return _VISIBLE.judge(
        file is not None and file.sha256 == hashlib.sha256(wheel).hexdigest(),
        "it is not there" if file is None else "its SHA-256 is absent or another",
    )


async def _send(asking: Asking, url: URL, token: str | None, project: str, wheel: bytes) -> Reply:
    """One upload, as twine sends it; without a token, without any credentials."""
    form = aiohttp.FormData(default_to_multipart=True)
    said = {
        ":action": "file_upload",
        "protocol_version": "1",
        "metadata_version": "2.1",
        "name": project,
        "version": VERSION,
        "filetype": "bdist_wheel",
        "pyversion": "py3",
        "sha256_digest": hashlib.sha256(wheel).hexdigest(),
    }
    for key, value in said.items():
        form.add_field(key, value)
    filename = filename_of(project)
    form.add_field("content", io.BytesIO(wheel), filename=filename, content_type="application/octet-stream")
    login = "Basic " + base64.b64encode(f"__token__:{token}".encode()).decode() if token else ""
    return await asking.ask("POST", url, {"Authorization": login}, form, most=65536, part=True)


def filename_of(project: str) -> str:
    """The name of the wheel that is uploaded."""
    return f"{canonical(project).replace('-', '_')}-{VERSION}-py3-none-any.whl"


def wheel_of(project: str, words: str) -> bytes:
    """A wheel that installs nothing; equal arguments, equal bytes, so that a second run finds the same file."""
    stem = f"{canonical(project).replace('-', '_')}-{VERSION}.dist-info"
    members = {
        f"{stem}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: {VERSION}\nSummary: Check {words}\n",
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
