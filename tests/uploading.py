"""What tests need to upload: tokens, and the forms that the clients send."""

import base64
import io
from collections.abc import Iterable

import aiohttp

from mirror.auth import digest, new_token
from mirror.catalog import Token
from mirror.model import Grant, Right
from tests.builders import Built
from tests.serving import Client, Reply, Serving


async def make_token(
    mirror: Serving, rights: Iterable[Right] = ("upload", "yank"), projects: Iterable[str] = ("*",)
) -> str:
    """A new token of the running mirror."""
    secret = new_token()
    grant = Grant(rights=frozenset(rights), projects=tuple(projects))
    await mirror.mirror.catalog.accounts.add_token(
        Token(name=digest(secret)[:12], sha256=digest(secret), grants=(grant,))
    )
    return secret


def basic(secret: str, user: str = "__token__") -> str:
    """The Authorization header of the clients of Python."""
    return "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode()


def fields_of(built: Built) -> dict[str, str]:
    """What twine says of a file."""
    wheel = built.filename.endswith(".whl")
    return {
        ":action": "file_upload",
        "protocol_version": "1",
        "metadata_version": "2.1",
        "name": built.name,
        "version": built.version,
        "filetype": "bdist_wheel" if wheel else "sdist",
        "pyversion": "py3" if wheel else "source",
        "md5_digest": built.md5,
        "sha256_digest": built.sha256,
    }


def form(
    fields: Iterable[tuple[str, str]], filename: str | None, content: bytes = b"", name: str = "content"
) -> aiohttp.FormData:
    """A multipart form; the file comes last, as from every client."""
    data = aiohttp.FormData(default_to_multipart=True)
    for key, value in fields:
        data.add_field(key, value)
    if filename is not None:
        data.add_field(name, io.BytesIO(content), filename=filename, content_type="application/octet-stream")
    return data


async def upload(
    mirror: Client, secret: str | None, built: Built, path: str = "legacy/", **changes: str | None
) -> Reply:
    """Upload a wheel or sdist; `changes` replace fields, None leaves one out (`_action` stands for `:action`)."""
    fields = fields_of(built) | {key.replace("_action", ":action"): value for key, value in changes.items()}
    said = [(key, value) for key, value in fields.items() if value is not None]
    return await send_form(mirror, secret, form(said, built.filename, built.content), path)


async def send_form(mirror: Client, secret: str | None, data: aiohttp.FormData, path: str = "legacy/") -> Reply:
    """Send a form, with a token or without."""
    headers = {"Authorization": basic(secret)} if secret else {}
    return await mirror.ask("POST", path, data, **headers)


async def push(mirror: Client, secret: str | None, content: bytes) -> Reply:
    """Push a gem as `gem push` does."""
    headers = {"Authorization": secret} if secret else {}
    return await mirror.ask("POST", "api/v1/gems", content, Content_Type="application/octet-stream", **headers)


async def change_gem(mirror: Client, secret: str, what: str, name: str, version: str, **more: str) -> Reply:
    """`yank` or `unyank` a version as the client does."""
    method = "DELETE" if what == "yank" else "PUT"
    data = {"gem_name": name, "version": version, **more}
    return await mirror.ask(method, f"api/v1/gems/{what}", data, Authorization=secret)
