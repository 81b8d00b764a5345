"""Make a data directory with the code of another checkout, and record what that code answers from it.

    python -m tests.data.make_store CHECKOUT ARCHIVE

What for: a later version has to open what an earlier one wrote, and to answer byte for byte the same
(`tests/service/test_old_store.py`). The mirror runs as a process of its own from CHECKOUT and is driven by HTTP and by
its commands only, so that this works with any version; everything else comes from the checkout that this file is in.
The archive holds `data/` as the process left it, `settings.json`, `requests.json` and one file for each body.

The surprise: the upstreams of the settings are example hosts. The mirror reaches the simulator as the HTTP proxy on the
way to them, so that no port and no host of this machine gets into the catalog.
"""

import asyncio
import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from tests.builders import gem, sdist, wheel
from tests.serving import write_settings
from tests.simulator import Request, SimulatedResponse, Simulator
from tests.uploading import basic, fields_of, form

INDEX = "http://index.example/"
GEMS = "http://gems.example/"
PUBLISHED = datetime(2026, 5, 5, 10, tzinfo=UTC).timestamp()
HOST = "mirror.example"
RUN_SECONDS = 60.0
READY = re.compile(r"The mirror is ready: (http://[^\s,]+)")

POLICY = [
    {
        "name": "no-two",
        "kind": "deny",
        "reason": "Two is broken.",
        "repositories": ["pypi"],
        "projects": ["beta"],
        "versions": "==2.0",
    },
    {
        "name": "hidden",
        "kind": "deny",
        "reason": "Old.",
        "repositories": ["pypi"],
        "projects": ["gamma"],
        "versions": "<2",
        "action": "hide",
    },
]
PATHS = [
    *("/simple/", "/simple/alpha/", "/simple/beta/", "/simple/gamma/", "/simple/acme-own/", "/simple/taken-back/"),
    *("/simple/marked/", "/simple/nothing-here/", "/simple/acme-unknown/"),
    *("/pypi/alpha/json", "/pypi/alpha/1.0/json", "/pypi/beta/json", "/pypi/acme-own/json", "/pypi/gamma/json"),
    *("/versions", "/names", "/specs.4.8.gz", "/latest_specs.4.8.gz", "/prerelease_specs.4.8.gz", "/specs.4.8"),
    *(f"/info/{name}" for name in ("ruddy", "native", "acme-gem", "withdrawn", "nothing-here")),
    *("/api/v1/gems/ruddy.json", "/api/v1/versions/ruddy.json", "/api/v1/versions/ruddy/latest.json"),
    *("/api/v1/dependencies?gems=ruddy,native,acme-gem", "/api/v1/dependencies.json?gems=ruddy"),
    *("/api/v1/gems/acme-gem.json", "/api/v1/versions/acme-gem.json"),
    "/integrity/alpha/1.0/alpha-1.0-py3-none-any.whl/provenance",
]
"""Beside these, every file that a page names is asked for, with its sidecars."""
NOT_ON_PAGES = [
    *("/packages/taken-back/taken_back-1.1-py3-none-any.whl", "/gems/withdrawn-1.0.gem", "/gems/acme-gem-1.1.gem"),
    *("/packages/gamma/gamma-1.0-py3-none-any.whl", "/packages/beta/Beta-2.0-py3-none-any.whl"),
]
"""Files that were taken back, yanked, hidden or blocked."""
JSON = "application/vnd.pypi.simple.v1+json"
KEPT_HEADERS = ["Content-Type", "ETag", "Last-Modified", "Repr-Digest", "Digest", "X-PyPI-Last-Serial", "Location"]


class Upstreams(Simulator):
    """The simulator as the HTTP proxy on the way to its example hosts."""

    def _answer(self, request: Request) -> SimulatedResponse:
        path = URL(request.path, encoded=True).raw_path  # absolute, since we are the proxy (RFC 9112, section 3.2.2)
        return super()._answer(dataclasses.replace(request, path=path))


class Mirror:
    """A process of the other checkout."""

    def __init__(self, checkout: Path, settings: Path) -> None:
        self._checkout = checkout
        self._settings = settings
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")}
        self._environment["PYTHONPATH"] = str(checkout)

    def command(self, *words: str, stdin: str = "") -> str:
        """Run a command of it, and return what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "mirror", *words, "--config", str(self._settings)],
            cwd=self._checkout, env=self._environment, input=stdin, text=True, capture_output=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    @asynccontextmanager
    async def serving(self, *words: str) -> AsyncIterator["Session"]:
        """Run `mirror serve` until the end of the block."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mirror", "serve", "--config", str(self._settings), *words,
            cwd=self._checkout, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        try:
            async with asyncio.timeout(RUN_SECONDS), session() as http:
                while not (ready := READY.match((await process.stderr.readline()).decode())):
                    assert process.returncode is None, "the mirror does not start"
                reading = asyncio.create_task(process.stderr.read())
                yield Session(ready[1], http)
                process.terminate()
                assert await process.wait() == 0, (await reading).decode()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


class Session:
    """Requests to the mirror under the name that is recorded."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url.rstrip("/")
        self._session = session

    async def send(
        self, method: str, path: str, data: Any = None, **headers: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request: status, headers, body."""
        named = {"Host": HOST} | {name.replace("_", "-"): value for name, value in headers.items()}
        url = URL(self._url + path, encoded=True)
        sending = self._session.request(method, url, data=data, headers=named, allow_redirects=False)
        async with sending as response:
            return response.status, response.headers, await response.read()

    async def get(self, path: str, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
        return await self.send("GET", path, **headers)


def session() -> aiohttp.ClientSession:
    """A client that takes every response as it comes."""
    return aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept-Encoding", "User-Agent"])


def publish(simulator: Simulator) -> None:
    """Everything that upstream has, before and after nothing changes any more."""
    simulator.publish(wheel("alpha", "1.0", requires=["beta>=1"], requires_python=">=3.9"), provenance=True)
    simulator.publish(sdist("alpha", "1.0"))
    simulator.publish(wheel("alpha", "1.1rc1"), yanked="Not yet.")
    simulator.publish(wheel("Beta", "1.0"))
    simulator.publish(wheel("Beta", "2.0"))
    simulator.publish(wheel("gamma", "1.0"))
    simulator.publish(wheel("gamma", "2.0", tags="cp312-cp312-manylinux_2_28_x86_64"), core_metadata=False)
    simulator.publish(wheel("taken-back", "1.0"))
    simulator.publish(wheel("taken-back", "1.1"))
    simulator.publish(wheel("marked", "1.0"))
    simulator.set_status("marked", "archived", "No one works on it.")
    simulator.publish(wheel("unused", "1.0"))
    simulator.push(gem("ruddy", "1.0", dependencies={"native": ">= 1"}, required_ruby=">= 2.7"))
    simulator.push(gem("ruddy", "1.1"))
    simulator.push(gem("native", "1.0"))
    simulator.push(gem("native", "1.0", platform="x86_64-linux"))
    simulator.push(gem("withdrawn", "1.0"))
    simulator.push(gem("withdrawn", "1.1.pre"))
    simulator.push(gem("acme-gem", "0.1"))  # hidden by our own of that name


async def fill(mirror: Mirror, client: Session, simulator: Simulator, tokens: dict[str, str]) -> None:
    """Bring in everything: from upstream, by upload, by commands; and let upstream take some of it back."""
    tokens["all"] = mirror.command("token", "create", "--name", "all", "--right", "admin").split()[-1]
    tokens["read"] = mirror.command("token", "create", "--name", "reader", "--right", "read").split()[-1]
    mirror.command("user", "add", "alice", "--group", "developers", "--right", "upload", stdin="alice's password\n")
    authorization = basic(tokens["all"])
    for built in (wheel("acme-own", "1.0"), sdist("acme-own", "1.0"), wheel("acme-own", "2.0")):
        data = form(fields_of(built).items(), built.filename, built.content)
        status, _, body = await client.send("POST", "/legacy/", data, Authorization=authorization)
        assert status == 200, body
    await fetch_all(client)
    for number in ("1.0", "1.1"):
        content = gem("acme-gem", number).content
        status, _, body = await client.send("POST", "/api/v1/gems", content, Authorization=tokens["all"])
        assert status == 200, body
    mirror.command("yank", "acme-own", "2.0", "--reason", "Wrong in one place.")
    mirror.command("yank", "acme-gem", "1.1")
    await client.get("/versions")
    mirror.command("sync", "alpha==1.0", "gem:native", "--set", "kept")
    simulator.remove("taken-back", "taken_back-1.1-py3-none-any.whl")
    simulator.yank_gem("withdrawn", "1.0")
    simulator.push(gem("ruddy", "1.2"))
    for path in ("/simple/taken-back/", "/versions", "/info/withdrawn", "/info/ruddy"):
        await client.get(path, Cache_Control="no-cache")
    await fetch_all(client)


async def fetch_all(client: Session) -> None:
    """Ask for everything, so that it is held."""
    for path in PATHS:
        await client.get(path, Accept=JSON) if path.startswith("/simple/") else await client.get(path)
    for path in await files_of(client):
        await client.get(path)


async def files_of(client: Session) -> list[str]:
    """The files and sidecars that the pages name."""
    paths: list[str] = []
    for page in PATHS:
        if page.startswith("/simple/") and page != "/simple/":
            status, _, body = await client.get(page, Accept=JSON)
            for file in json.loads(body)["files"] if status == 200 else ():
                path = URL(f"http://{HOST}{page}").join(URL(file["url"])).raw_path
                paths += [path, f"{path}.metadata"]
    for name in ("ruddy", "native", "acme-gem", "withdrawn"):
        _, _, body = await client.get(f"/info/{name}")
        for line in body.decode().splitlines()[1:]:
            full = f"{name}-{line.split(' ')[0]}"
            paths += [f"/gems/{full}.gem", f"/quick/Marshal.4.8/{full}.gemspec.rz"]
    return sorted({*paths, *NOT_ON_PAGES})


async def record(client: Session, archive: dict[str, bytes]) -> list[dict[str, Any]]:
    """Every answer: `path`, `accept`, `status`, `headers`, and the name of its body in the archive."""
    answers = []
    asked = [(path, accept) for path in [*PATHS, *await files_of(client)] for accept in accepts(path)]
    for path, accept in asked:
        headers = {"Accept": accept} if accept else {}
        status, answered, body = await client.get(path, **headers)
        name = f"bodies/{hashlib.sha256(body).hexdigest()[:16]}"
        archive[name] = body
        kept = {name: answered[name] for name in KEPT_HEADERS if name in answered}
        answers.append({"path": path, "accept": accept, "status": status, "headers": kept, "body": name})
    return answers


def accepts(path: str) -> list[str]:
    """The media types under which a path is recorded."""
    return ["text/html", JSON] if path.startswith("/simple/") else [""]


async def make(checkout: Path, target: Path) -> None:
    """Write the archive."""
    with tempfile.TemporaryDirectory() as temporary:
        data_dir = Path(temporary) / "data"
        async with Upstreams(clock=lambda: PUBLISHED) as simulator:
            simulator.pypi.at(INDEX, "http://files.example/")
            publish(simulator)
            repositories = {
                "pypi": {"format": "pypi", "upstreams": [{"url": f"{INDEX}simple/"}], "private": ["acme-*"]},
                "rubygems": {"format": "rubygems", "upstreams": [{"url": GEMS}]},
            }
            proxied = json.loads(json.dumps(repositories))
            for repository in proxied.values():
                repository["upstreams"][0]["proxy"] = simulator.url
            settings = write_settings(data_dir, proxied, policy=POLICY)
            mirror = Mirror(checkout, settings)
            tokens: dict[str, str] = {}
            async with mirror.serving() as client:
                await fill(mirror, client, simulator, tokens)
        archive: dict[str, bytes] = {}
        async with mirror.serving("--offline") as client:
            answers = await record(client, archive)
        for leftover in ("incoming", "catalog.sqlite.spare", "lock"):
            path = data_dir / leftover
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        about = {"repositories": repositories, "policy": POLICY, "tokens": tokens}
        archive["settings.json"] = json.dumps(about, indent=1).encode()
        archive["requests.json"] = json.dumps(answers, indent=1).encode()
        with tarfile.open(target, "w:xz") as tar:
            tar.add(data_dir, "data", filter=anonymous)
            for name, body in sorted(archive.items()):
                member = tarfile.TarInfo(name)
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
    print(f"{target}: {target.stat().st_size} bytes, {len(answers)} answers")


def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who owned a file here."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    asyncio.run(make(Path(sys.argv[1]).resolve(), Path(sys.argv[2])))
