"""pip, uv and bandersnatch against a running mirror, with an upstream and without."""

import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Built, sdist, wheel
from tests.clients.nginx import Nginx
from tests.clients.python import having, running, secured, uv
from tests.serving import Serving, Spawned, spawned
from tests.simulator import Simulator
from tests.uploading import upload

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

APP = wheel("app", "2.0", requires=["library>=1,<3"], requires_python=">=3.8")
LIBRARY = wheel("library", "1.5", requires=["plain"])
NEWER = wheel("library", "2.5")
YANKED = wheel("library", "2.9", requires=["nonsense"])
PLAIN = sdist("plain", "0.1")
FOREIGN = wheel("app", "3.0", requires_python=">=99")
INSTALLED = {"app": "2.0", "library": "2.5"}
IMPATIENT = {"PIP_RETRIES": "0", "UV_HTTP_RETRIES": "0"}
"""Variables of a client that does not try again."""


def publish(simulator: Simulator) -> None:
    for built in (APP, LIBRARY, NEWER, PLAIN, FOREIGN):
        simulator.publish(built)
    simulator.publish(YANKED, yanked="broken")


def only_pypi(simulator: Simulator) -> dict[str, Any]:
    return {"pypi": {"format": "pypi", "upstreams": [simulator.simple_url]}}


Index = Spawned | Serving | Nginx | Simulator | None
"""Where a client installs from; None for what it uses when nothing is said."""


def from_index(option: str, index: Index) -> list[str]:
    """The options of a client that let it use an index."""
    return [] if index is None else [option, f"{str(index.url).rstrip('/')}/simple/"]


class Pip:
    """A pip of some age."""

    def __init__(self, python: Path) -> None:
        self.python = python

    async def install(self, index: Index, home: Path, *names: str, **variables: str) -> dict[str, str]:
        """Install into an empty directory, with an empty cache; what is there then."""
        await running(
            self.python, "-m", "pip", "install", *from_index("--index-url", index), "--target", home / "installed",
            "--cache-dir", home / "cache", *names, **variables,
        )  # fmt: skip
        return installed(home / "installed")


class Uv:
    """The newest uv."""

    async def install(self, index: Index, home: Path, *names: str, **variables: str) -> dict[str, str]:
        await running(
            uv(), "pip", "install", "--python", sys.executable, *from_index("--default-index", index),
            "--target", home / "installed", "--cache-dir", home / "cache", *names, **variables,
        )  # fmt: skip
        return installed(home / "installed")


def installed(directory: Path) -> dict[str, str]:
    return dict(path.name.removesuffix(".dist-info").split("-") for path in directory.glob("*.dist-info"))


@pytest.fixture(params=["pip", "pip==22.3.1", "uv"])
def client(request: pytest.FixtureRequest) -> Pip | Uv:
    return Uv() if request.param == "uv" else pip(request.param)


def pip(requirement: str) -> Pip:
    """The newest pip, or an older one; pip 22 does not run on Python 3.12 any more."""
    return Pip(having(requirement, most=(3, 99) if requirement == "pip" else (3, 11)) / "python")


async def test_it_installs_and_installs_again_offline_and_with_upstream_dead(
    simulator: Simulator, tmp_path: Path, client: Pip | Uv
) -> None:
    publish(simulator)
    data = tmp_path / "data"
    async with spawned(data, only_pypi(simulator)) as mirror:
        assert await client.install(mirror, tmp_path / "first", "app") == INSTALLED
        assert simulator.count("GET", "*.whl", status=200) == 2
        assert {blob.name for blob in (data / "blobs").glob("*/*")} >= {APP.sha256, NEWER.sha256}
        simulator.forget()
        assert await client.install(mirror, tmp_path / "second", "app") == INSTALLED
        assert simulator.count("GET", "/packages/*") == 0
        await mirror.end()
    await simulator.go_down("hanging")
    async with spawned(data, only_pypi(simulator)) as mirror:
        assert await client.install(mirror, tmp_path / "third", "app") == INSTALLED
        await mirror.end()
    async with spawned(data, only_pypi(simulator), "--offline") as mirror:
        assert await client.install(mirror, tmp_path / "fourth", "app") == INSTALLED


async def test_sdists_old_versions_and_bare_wheels_install(
    simulator: Simulator, tmp_path: Path, client: Pip | Uv
) -> None:
    simulator.pypi.configure(metadata=False, html_only=True, sizes=False)
    publish(simulator)
    async with spawned(tmp_path / "data", only_pypi(simulator)) as mirror:
        assert await client.install(mirror, tmp_path / "home", "library<2") == {"library": "1.5", "plain": "0.1"}


async def test_a_wrong_file_is_not_installed(simulator: Simulator, tmp_path: Path, client: Pip | Uv) -> None:
    simulator.publish(APP, digests={"sha256": "0" * 64})
    async with spawned(tmp_path / "data", only_pypi(simulator)) as mirror:
        with pytest.raises(AssertionError, match=r"(?i)error"):
            await client.install(mirror, tmp_path / "home", "--no-deps", "app", **IMPATIENT)
    assert APP.sha256 not in {blob.name for blob in (tmp_path / "data" / "blobs").glob("*/*")}


# bandersnatch


async def test_bandersnatch_mirrors_three_projects_and_verifies_them(simulator: Simulator, tmp_path: Path) -> None:
    bandersnatch = having("bandersnatch>=8", least=(3, 12)) / "bandersnatch"
    publish(simulator)
    simulator.publish(wheel("unwanted", "1.0"))
    folder, settings = tmp_path / "folder", tmp_path / "bandersnatch.conf"
    async with (
        spawned(tmp_path / "data", only_pypi(simulator), proxies={"trusted": ["127.0.0.1"]}) as mirror,
        secured(mirror.url, tmp_path) as (url, authority),
    ):
        settings.write_text(
            f"[mirror]\ndirectory = {folder}\nmaster = {url.rstrip('/')}\njson = true\ntimeout = 30\n"
            "workers = 2\nhash-index = false\nstop-on-error = true\nverifiers = 2\nsimple-format = ALL\n"
            "[plugins]\nenabled = allowlist_project\n[allowlist]\npackages =\n    app\n    library\n    plain\n"
        )

        async def ask(command: str) -> None:
            await running(bandersnatch, "--config", settings, command, SSL_CERT_FILE=str(authority))

        await ask("mirror")
        assert files_of(folder) == {built.sha256 for built in (APP, LIBRARY, NEWER, YANKED, PLAIN, FOREIGN)}
        for name in ("app", "library", "plain"):
            assert json.loads((folder / "web" / "json" / name).read_text())["info"]["name"] == name
            assert (folder / "web" / "simple" / name / "index.html").exists()

        # Again, after a release: it follows the serials.
        release = wheel("app", "2.1")
        simulator.publish(release)
        assert (await mirror.get("/simple/", Cache_Control="max-age=0")).status == 200
        await ask("mirror")
        assert release.sha256 in files_of(folder)
        await ask("verify")
        assert len(files_of(folder)) == 7
    assert simulator.count("GET", "*unwanted*.whl") == 0


def files_of(folder: Path) -> set[str]:
    """The digests of all files that were mirrored."""
    found = [path for path in (folder / "web" / "packages").rglob("*") if path.is_file()]
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


# The public index


WANTED = {
    "arroba-1.0-py3-none-any.whl": "f873356ca912e9a8ea15fcb38631a69659c465351699e9e190794c85f16e4015",
    "dumb_pypi-1.14.1-py2.py3-none-any.whl": "a2b87f9253a8d6be4956c1667926eaddfab55d7b590693c0065108665c960c6f",
}


@pytest.mark.public
@pytest.mark.parametrize("client", ["pip", "uv"], indirect=True)
async def test_it_installs_from_the_public_index_and_again_offline(tmp_path: Path, client: Pip | Uv) -> None:
    data, wanted = tmp_path / "data", ("--no-deps", "arroba==1.0", "dumb-pypi==1.14.1")
    async with spawned(data, None) as mirror:
        if (await mirror.get("/simple/arroba/")).status != 200:
            pytest.skip("the public index cannot be reached")
        assert await client.install(mirror, tmp_path / "online", *wanted) == {"arroba": "1.0", "dumb_pypi": "1.14.1"}
        for filename, digest in WANTED.items():
            project = filename.partition("-")[0].replace("_", "-")
            reply = await mirror.get(f"/packages/{project}/{filename}")
            assert (reply.outcome, hashlib.sha256(reply.body).hexdigest()) == ("hit", digest)
            assert (data / "blobs" / digest[:2] / digest).exists()
        await mirror.end()
    async with spawned(data, None, "--offline") as mirror:
        assert await client.install(mirror, tmp_path / "offline", *wanted) == {"arroba": "1.0", "dumb_pypi": "1.14.1"}
        assert [one["requests"] for one in (await mirror.get("/-/status")).json()["upstreams"]] == [0, 0]


ODD = (
    "zope.event==5.0",  # a dot in the name
    "ruamel.yaml==0.18.6",
    "backports.tarfile==1.2.0",
    "jaraco.functools==4.1.0",
    "PyJWT==2.9.0",  # capitals
    "Flask-SQLAlchemy==3.1.1",
    "docopt==0.6.2",  # an sdist alone, of an old tool
    "python-dateutil==2.9.0.post0",
    "attrs==21.1.0",  # yanked
    "certifi==2024.07.04",  # zeros in the version
)


def contents(directory: Path) -> dict[str, str]:
    """The digest of each file, without what tells when and by whom it was installed."""
    files = [path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    own = ("RECORD", "REQUESTED", "INSTALLER", "uv_cache.json")
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name not in own
    }


@pytest.mark.public
@pytest.mark.parametrize("client", ["pip", "pip==23.3.2", "uv"], indirect=True)
async def test_odd_projects_install_through_the_mirror_as_they_do_directly(tmp_path: Path, client: Pip | Uv) -> None:
    async with spawned(tmp_path / "data", None) as mirror:
        if (await mirror.get("/simple/docopt/")).status != 200:
            pytest.skip("the public index cannot be reached")
        await client.install(mirror, tmp_path / "through", "--no-deps", *ODD)
    await client.install(None, tmp_path / "directly", "--no-deps", *ODD)
    through, directly = contents(tmp_path / "through/installed"), contents(tmp_path / "directly/installed")
    assert len(through) > 100
    assert through == directly


# Files that are odd, but genuine


@pytest.mark.parametrize("client", ["pip", "pip==23.3.2", "uv"], indirect=True)
@pytest.mark.parametrize("form", ["json", "html"])
async def test_wheels_with_odd_metadata_install_as_they_do_directly(
    simulator: Simulator, tmp_path: Path, client: Pip | Uv, form: str
) -> None:
    plain = wheel("local", "1.0")
    beside = repacked(
        wheel("beside", "1.0"), {"beside_more-1.0.dist-info.txt": b"", "vendored/x-1.dist-info/METADATA": b"-"}
    )
    packed = repacked(wheel("packed", "1.0"), {}, method=zipfile.ZIP_LZMA)
    long = wheel("long", "1.0")
    tags = "py3-none-" + ".".join(f"linux_{number:03}_x86_64" for number in range(12)) + ".any"
    names = {
        "local": replace(plain, filename="local-1.0+cpu-py3-none-any.whl"),
        "beside": beside,
        "packed": packed,
        "varied": wheel("varied", "1.0"),
        "long": replace(long, filename=f"long-1.0-{tags}.whl"),
    }
    for built in names.values():
        simulator.publish(built, core_metadata=False)
    varied = names["varied"]  # wheel variants, and what tells them apart, stand beside the wheel
    for filename in ("varied-1.0-py3-none-any-x86_64_v3.whl", "varied-1.0-variants.json"):
        simulator.publish(replace(varied, filename=filename), core_metadata=False)
    simulator.pypi.configure(html_only=form == "html", metadata=False)
    async with spawned(tmp_path / "data", only_pypi(simulator)) as mirror:
        for name, built in names.items():
            assert await attempt(client, mirror, tmp_path / name, name) == await attempt(
                client, simulator, tmp_path / f"{name}-direct", name
            ), built.filename


async def attempt(client: Pip | Uv, index: Any, home: Path, name: str) -> dict[str, str] | None:
    """What is installed; None when the client refuses it."""
    try:
        return await client.install(index, home, "--no-deps", name)
    except AssertionError:
        return None


def repacked(built: Built, more: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Built:
    """The wheel with more files, and packed by another method."""
    output = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(built.content)) as old, zipfile.ZipFile(output, "w", method) as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("/RECORD"):
                content += "".join(f"{other},,\n" for other in more).encode()
            new.writestr(name, content)
        for name, content in more.items():
            new.writestr(name, content)
    return replace(built, content=output.getvalue())


@pytest.mark.parametrize("client", ["pip", "pip==23.3.2", "uv"], indirect=True)
async def test_an_upload_is_seen_at_once_by_a_client_with_a_cache(
    simulator: Simulator, tmp_path: Path, client: Pip | Uv
) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    cache.mkdir()
    async with spawned(data, only_pypi(simulator)) as mirror:
        created = await running(
            sys.executable, "-m", "mirror", "token", "create", "--project", "*", "--config", data.with_suffix(".toml")
        )
        for version in ("1.0", "1.1"):
            assert (await upload(mirror, created.split()[-1], wheel("own", version))).status == 200
            home = tmp_path / version
            home.mkdir()
            (home / "cache").symlink_to(cache)
            assert await client.install(mirror, home, "--no-deps", f"own=={version}") == {"own": version}
