"""The simulator behaves as the public indexes do, and each of its modes changes what it says it changes."""

import asyncio
import gzip
import hashlib
import json
import os
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from rubymarshal.reader import loads  # type: ignore[import-untyped]

from tests.builders import gem, sdist, wheel
from tests.clients import require_client
from tests.simulator import Simulator
from tests.simulator.gemspec import order

JSON = {"Accept": "application/vnd.pypi.simple.v1+json"}
HTML = {"Accept": "text/html"}


class Client:
    """Asks the simulator by path, without following redirects or decompressing."""

    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession) -> None:
        self.simulator, self.session = simulator, session

    async def get(self, path: str, headers: dict[str, str] | None = None, method: str = "GET") -> "Reply":
        url = path if path.startswith("http") else self.simulator.url + path.lstrip("/")
        async with self.session.request(method, url, headers=headers, allow_redirects=False) as response:
            return Reply(response.status, dict(response.headers), await response.read())


class Reply:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, {name.lower(): text for name, text in headers.items()}, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[Client]:
    plain = {"Accept-Encoding": "identity"}
    async with aiohttp.ClientSession(headers=plain, auto_decompress=False) as session:
        yield Client(simulator, session)


SIX = wheel("six", "1.16", requires_python=">=3.8")
SIX_SDIST = sdist("six", "1.16")


async def test_the_same_arguments_build_the_same_bytes() -> None:
    for build in (wheel, sdist, gem):
        assert build("a", "1", size=3_000_000).content == build("a", "1", size=3_000_000).content
        assert build("a", "1", size=3_000_000).sha256 != build("a", "2", size=3_000_000).sha256
        assert 3_000_000 <= build("a", "1", size=3_000_000).size < 3_100_000


# PyPI


async def test_a_json_page_has_every_field_of_api_1_4(simulator: Simulator, client: Client) -> None:
    moment = datetime(2026, 8, 1, 12, tzinfo=UTC)
    simulator.publish(SIX, uploaded=moment, yanked="broken", provenance=True, extra={"x-new": 1})
    simulator.publish(SIX_SDIST, uploaded=moment)
    reply = await client.get("simple/six/", JSON)
    assert reply.headers["content-type"] == JSON["Accept"]
    assert reply.headers["cache-control"] == "max-age=600, public"
    assert reply.headers["vary"] == "Accept, Accept-Encoding"
    assert reply.headers["x-pypi-last-serial"] == str(simulator.pypi.serial)
    page = reply.json
    assert page["meta"] == {"api-version": "1.4", "_last-serial": simulator.pypi.serial}
    assert (page["name"], page["versions"], page["project-status"]) == ("six", ["1.16"], {"status": "active"})
    first, second = page["files"]
    assert first["core-metadata"] == {"sha256": hashlib.sha256(SIX.metadata).hexdigest()}
    assert first["hashes"] == {"sha256": SIX.sha256}
    assert (first["requires-python"], first["size"], first["yanked"]) == (">=3.8", SIX.size, "broken")
    assert (first["upload-time"], first["x-new"]) == ("2026-08-01T12:00:00.000000Z", 1)
    assert (await client.get(first["provenance"])).json["version"] == 1
    assert (await client.get(first["url"])).body == SIX.content
    assert (await client.get(first["url"] + ".metadata")).body == SIX.metadata
    assert (second["core-metadata"], second["yanked"], second["provenance"]) == (False, False, None)
    assert (await client.get(second["url"] + ".metadata")).status == 404


async def test_an_html_page_says_the_same(simulator: Simulator, client: Client) -> None:
    simulator.publish(SIX, yanked="a & b")
    page = (await client.get("simple/six/", HTML)).text
    url = simulator.url + simulator.pypi.projects["six"].files[0].path
    assert f'href="{url}#sha256={SIX.sha256}"' in page
    assert 'data-requires-python="&gt;=3.8"' in page
    assert 'data-yanked="a &amp; b"' in page
    assert f'data-core-metadata="sha256={hashlib.sha256(SIX.metadata).hexdigest()}"' in page
    assert 'content="1.4"' in page


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.1, text/html;q=0.01", "v1+json"),
        ("application/vnd.pypi.simple.latest+json", "v1+json"),
        ("application/vnd.pypi.simple.v1+html", "v1+html; charset=utf-8"),
        ("text/html", "text/html; charset=utf-8"),
        ("*/*", "text/html; charset=utf-8"),
        ("image/png", "text/html; charset=utf-8"),
    ],
)
async def test_the_accept_header_chooses(simulator: Simulator, client: Client, accept: str, content_type: str) -> None:
    simulator.publish(SIX)
    reply = await client.get("simple/six/", {"Accept": accept})
    assert reply.headers["content-type"].endswith(content_type)
    assert (await client.get("simple/six/?format=" + JSON["Accept"].replace("+", "%2B"))).json["name"] == "six"


async def test_a_validator_that_matches_is_304_until_something_changes(simulator: Simulator, client: Client) -> None:
    simulator.publish(SIX)
    etag = (await client.get("simple/six/", JSON)).headers["etag"]
    same = await client.get("simple/six/", {**JSON, "If-None-Match": etag})
    assert (same.status, same.body) == (304, b"")
    simulator.yank("six", "1.16", "bad")
    assert (await client.get("simple/six/", {**JSON, "If-None-Match": etag})).json["files"][0]["yanked"] == "bad"
    simulator.unyank("six", "1.16")
    assert (await client.get("simple/six/", {**JSON, "If-None-Match": etag})).json["files"][0]["yanked"] is False


async def test_pages_are_compressed_on_request(simulator: Simulator, client: Client) -> None:
    simulator.publish(SIX)
    reply = await client.get("simple/six/", {**JSON, "Accept-Encoding": "gzip"})
    assert reply.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(reply.body))["name"] == "six"


async def test_the_root_lists_projects_with_their_serials(simulator: Simulator, client: Client) -> None:
    simulator.publish(wheel("Zope.Interface", "1"))
    simulator.publish(SIX)
    listed = (await client.get("simple/", JSON)).json
    assert listed["meta"]["_last-serial"] == simulator.pypi.serial
    assert [each["name"] for each in listed["projects"]] == ["six", "Zope.Interface"]
    assert listed["projects"][0]["_last-serial"] == simulator.pypi.serial
    assert '<a href="/simple/zope-interface/">' in (await client.get("simple/")).text
    assert (await client.get("simple", JSON)).json == listed


async def test_names_that_are_not_canonical_are_redirected(simulator: Simulator, client: Client) -> None:
    simulator.publish(SIX)
    for path in ("simple/Six/", "simple/six"):
        reply = await client.get(path)
        assert (reply.status, reply.headers["location"]) == (301, "/simple/six/")
    assert (await client.get("simple/seven/")).status == 404


async def test_removal_and_quarantine(simulator: Simulator, client: Client) -> None:
    simulator.publish(SIX)
    simulator.publish(SIX_SDIST)
    url = (await client.get("simple/six/", JSON)).json["files"][1]["url"]
    simulator.remove("six", SIX_SDIST.filename)
    assert len((await client.get("simple/six/", JSON)).json["files"]) == 1
    assert (await client.get(url)).status == 404
    simulator.set_status("six", "quarantined", "malware")
    page = (await client.get("simple/six/", JSON)).json
    assert (page["files"], page["project-status"]) == ([], {"status": "quarantined", "reason": "malware"})
    assert 'content="malware"' in (await client.get("simple/six/")).text
    simulator.remove("six")
    assert (await client.get("simple/six/", JSON)).status == 404


async def test_the_legacy_json_has_releases_and_urls(simulator: Simulator, client: Client) -> None:
    simulator.publish(SIX)
    simulator.publish(wheel("six", "1.9", requires=["rich"]))
    newest = await client.get("pypi/six/json")
    assert newest.headers["x-pypi-last-serial"] == str(newest.json["last_serial"])
    assert newest.json["info"]["version"] == "1.16"
    assert sorted(newest.json["releases"]) == ["1.16", "1.9"]
    assert newest.json["urls"][0]["digests"] == {"sha256": SIX.sha256, "md5": SIX.md5}
    older = (await client.get("pypi/six/1.9/json")).json
    assert older["info"]["requires_dist"] == ["rich"]
    assert "releases" not in older
    assert (await client.get("pypi/six/2/json")).status == 404


async def test_files_understand_ranges(simulator: Simulator, client: Client) -> None:
    path = simulator.publish(SIX).path
    whole = await client.get(path)
    etag = whole.headers["etag"]
    assert (await client.get(path, method="HEAD")).headers["content-length"] == str(SIX.size)
    for given, start, stop in (("10-", 10, SIX.size), ("0-4", 0, 5), ("-7", SIX.size - 7, SIX.size)):
        part = await client.get(path, {"Range": f"bytes={given}", "If-Range": etag})
        assert (part.status, part.body) == (206, SIX.content[start:stop])
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIX.size}"
    other = await client.get(path, {"Range": "bytes=10-", "If-Range": '"other"'})
    assert (other.status, other.body) == (200, SIX.content)
    beyond = await client.get(path, {"Range": f"bytes={SIX.size}-"})
    assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{SIX.size}")
    assert (await client.get(path, {"If-None-Match": etag})).status == 304


async def test_an_index_that_speaks_html_only(simulator: Simulator, client: Client) -> None:
    simulator.publish(SIX)
    simulator.pypi.configure(html_only=True)
    assert (await client.get("simple/six/", JSON)).headers["content-type"] == "text/html; charset=utf-8"
    simulator.pypi.configure(html_only=False, refuse_json=True)
    assert (await client.get("simple/six/", JSON)).status == 406
    assert (await client.get("simple/six/", HTML)).status == 200


async def test_an_index_that_says_little(simulator: Simulator, client: Client) -> None:
    simulator.publish(SIX)
    simulator.pypi.configure(
        etag=False, hashes=(), sizes=False, upload_times=False, metadata=False, serials=False, legacy_json=False
    )
    simulator.pypi.configure(api_version="1.0", max_age=None)
    reply = await client.get("simple/six/", JSON)
    assert not {"etag", "x-pypi-last-serial", "cache-control"} & set(reply.headers)
    assert "versions" not in reply.json
    [file] = reply.json["files"]
    assert file["hashes"] == {}
    assert not {"size", "upload-time", "core-metadata"} & set(file)
    assert (await client.get(file["url"] + ".metadata")).status == 404
    assert (await client.get("pypi/six/json")).status == 404
    assert "#" not in (await client.get("simple/six/", HTML)).text


async def test_a_mode_can_hold_for_one_project(simulator: Simulator, client: Client) -> None:
    simulator.publish(SIX)
    simulator.publish(wheel("seven", "1"))
    simulator.pypi.configure(project="Six", hashes=("md5",))
    assert (await client.get("simple/six/", JSON)).json["files"][0]["hashes"] == {"md5": SIX.md5}
    assert f"#md5={SIX.md5}" in (await client.get("simple/six/", HTML)).text
    assert "sha256" in (await client.get("simple/seven/", JSON)).json["files"][0]["hashes"]


async def test_urls_are_relative_or_under_a_base_or_elsewhere(simulator: Simulator, client: Client) -> None:
    path = simulator.publish(SIX).path
    simulator.pypi.configure(urls="relative")
    assert (await client.get("simple/six/", JSON)).json["files"][0]["url"] == f"../../{path}"
    simulator.pypi.configure(urls="base", files_elsewhere=True)
    page = (await client.get("simple/six/", HTML)).text
    assert f'<base href="{simulator.other_url}packages/">' in page
    assert f'href="{path.removeprefix("packages/")}#' in page
    simulator.pypi.configure(urls="absolute")
    url = (await client.get("simple/six/", JSON)).json["files"][0]["url"]
    assert url == simulator.other_url + path
    assert (await client.get(url)).body == SIX.content
    assert simulator.requests[-1].port == simulator.other_port


async def test_pages_and_files_are_redirected_to_the_other_host(simulator: Simulator, client: Client) -> None:
    path = simulator.publish(SIX).path
    simulator.pypi.configure(redirect_pages=True, redirect_files=True)
    for each in ("simple/six/", path):
        reply = await client.get(each)
        assert (reply.status, reply.headers["location"]) == (302, simulator.other_url + each)
        assert (await client.get(reply.headers["location"])).status == 200


async def test_files_without_ranges_without_etag_without_head(simulator: Simulator, client: Client) -> None:
    path = simulator.publish(SIX).path
    simulator.pypi.configure(ranges=False, file_etag=False, head=False)
    reply = await client.get(path, {"Range": "bytes=10-"})
    assert (reply.status, reply.body) == (200, SIX.content)
    assert not {"etag", "accept-ranges"} & set(reply.headers)
    assert (await client.get(path, method="HEAD")).status == 405


async def test_a_page_can_lie_about_a_file(simulator: Simulator, client: Client) -> None:
    simulator.publish(SIX, digests={"sha256": "0" * 64}, metadata=b"Name: other\n")
    [file] = (await client.get("simple/six/", JSON)).json["files"]
    assert file["hashes"] == {"sha256": "0" * 64}
    assert (await client.get(file["url"] + ".metadata")).body == b"Name: other\n"


async def test_a_login_is_wanted_on_the_main_port_only(simulator: Simulator, client: Client) -> None:
    path = simulator.publish(SIX).path
    simulator.require_login("user", "pass word")
    refused = await client.get("simple/six/")
    assert (refused.status, refused.headers["www-authenticate"]) == (401, 'Basic realm="simulator"')
    let_in = {"Authorization": aiohttp.encode_basic_auth("user", "pass word")}
    assert (await client.get("simple/six/", let_in)).status == 200
    assert (await client.get(simulator.other_url + path)).status == 200


# RubyGems


async def test_the_compact_index_follows_pushes_and_yanks(simulator: Simulator, client: Client) -> None:
    moment = datetime(2026, 8, 1, 12, tzinfo=UTC)
    spec = simulator.push(
        gem("rack", "3.0", dependencies={"b": [">= 1", "< 2"], "a": "~> 3"}, required_ruby=">= 2.5"), created=moment
    )
    simulator.push(gem("rack", "3.0", platform="java"), created=moment)
    info = await client.get("info/rack")
    lines = info.text.splitlines()
    assert lines[0] == "---"
    about = f"checksum:{spec.sha256},ruby:>= 2.5,created_at:2026-08-01T12:00:00Z"
    assert lines[1] == f"3.0 a:~> 3,b:< 2&>= 1|{about}"
    assert lines[2].startswith("3.0-java |checksum:")
    listed = (await client.get("versions")).text.splitlines()
    assert listed[0].startswith("created_at: ")
    assert listed[2].startswith("rack 3.0 ")
    assert listed[3] == f"rack 3.0-java {hashlib.md5(info.body).hexdigest()}"
    simulator.yank_gem("rack", "3.0", "java")
    assert (await client.get("versions")).text.splitlines()[4] == f"rack -3.0-java {simulator.rubygems.md5('rack')}"
    assert "java" not in (await client.get("info/rack")).text
    assert (await client.get("gems/rack-3.0-java.gem")).status == 403
    simulator.unyank_gem("rack", "3.0", "java")
    assert (await client.get("versions")).text.splitlines() == listed
    assert (await client.get("names")).text == "---\nrack\n"
    assert (await client.get("info/none")).status == 404


async def test_pages_of_the_compact_index_carry_both_digests_also_on_a_part(
    simulator: Simulator, client: Client
) -> None:
    simulator.push(gem("rack", "3.0"))
    whole = await client.get("versions")
    md5 = hashlib.md5(whole.body).hexdigest()
    part = await client.get("versions", {"Range": f"bytes={len(whole.body) - 1}-", "Accept-Encoding": "gzip"})
    assert (part.status, part.body) == (206, b"\n")
    for header in ("etag", "digest", "repr-digest"):
        assert part.headers[header] == whole.headers[header]
    assert whole.headers["etag"] == f'"{md5}"'
    assert whole.headers["repr-digest"].startswith("sha-256=:")
    for tag in (md5, f'"{md5}"', f'W/"{md5}"'):
        assert (await client.get("versions", {"If-None-Match": tag, "Range": "bytes=1-"})).status == 304
    beyond = {"Range": f"bytes={len(whole.body)}-"}
    assert (await client.get("versions", beyond)).status == 200
    simulator.rubygems.configure(refuse_ranges_past_end=True, digest="bare", etag=False)
    refused = await client.get("versions", beyond)
    assert refused.status == 416
    assert not refused.headers["repr-digest"].startswith("sha-256=:")
    assert "etag" not in refused.headers


async def test_versions_is_rewritten_and_late_commits_come_before_the_tail(simulator: Simulator) -> None:
    for name in ("b", "a", "c"):
        simulator.push(gem(name, "1"))
    simulator.push(gem("a", "2"))
    simulator.yank_gem("c", "1")
    simulator.push(gem("late", "1"), before_last=1)
    names = [line.split()[0] for line in simulator.rubygems.versions().decode().splitlines()[2:]]
    assert names == ["b", "a", "c", "a", "late", "c"]
    simulator.rewrite()
    lines = simulator.rubygems.versions().decode().splitlines()[2:]
    assert [line.rsplit(" ", 1)[0] for line in lines] == ["a 1,2", "b 1", "late 1"]


async def test_the_legacy_index_and_the_json(simulator: Simulator, client: Client) -> None:
    simulator.push(gem("rack", "2.9"))
    newest = simulator.push(gem("rack", "3.10", dependencies={"tilt": "~> 2.0"}))
    simulator.push(gem("rack", "4.0.pre"))
    seen = {}
    for kind in ("specs", "latest_specs", "prerelease_specs"):
        reply = await client.get(f"{kind}.4.8.gz")
        seen[kind] = [str(version.marshal_dump()[0]) for _, version, _ in loads(gzip.decompress(reply.body))]
        again = await client.get(f"{kind}.4.8.gz", {"If-Modified-Since": reply.headers["last-modified"]})
        assert again.status == 304
    assert seen == {"specs": ["2.9", "3.10"], "latest_specs": ["3.10"], "prerelease_specs": ["4.0.pre"]}
    assert zlib.decompress((await client.get("quick/Marshal.4.8/rack-3.10.gemspec.rz")).body)[:2] == b"\x04\x08"
    about = (await client.get("api/v1/gems/rack.json")).json
    assert about["dependencies"]["runtime"] == [{"name": "tilt", "requirements": "~> 2.0"}]
    versions = (await client.get("api/v1/versions/rack.json")).json
    assert [each["number"] for each in versions] == ["4.0.pre", "3.10", "2.9"]
    assert (await client.get("api/v1/versions/rack/latest.json")).json == {"version": "3.10"}
    assert (await client.get("api/v2/rubygems/rack/versions/3.10.json?platform=ruby")).json["sha"] == newest.sha256
    assert (await client.get("api/v2/rubygems/rack/versions/3.10.json?platform=java")).status == 404
    assert [each["name"] for each in (await client.get("api/v1/search.json?query=ac")).json] == ["rack"]
    assert (await client.get("api/v1/dependencies?gems=rack")).status == 404
    assert (await client.get("", method="HEAD")).status == 200


async def test_an_index_with_the_legacy_index_only_and_one_without_it(simulator: Simulator, client: Client) -> None:
    simulator.push(gem("rack", "3.0"))
    simulator.rubygems.configure(legacy_only=True)
    for path in ("versions", "info/rack", "names"):
        assert (await client.get(path)).status == 404
    assert (await client.get("specs.4.8.gz")).status == 200
    simulator.rubygems.configure(legacy_only=False, legacy_index=False, gemspecs=False)
    assert (await client.get("versions")).status == 200
    assert (await client.get("specs.4.8.gz")).status == 404
    assert (await client.get("quick/Marshal.4.8/rack-3.0.gemspec.rz")).status == 404


async def test_recorded_info_is_served_byte_for_byte(simulator: Simulator, client: Client, tmp_path: Path) -> None:
    (tmp_path / "gems").mkdir()
    (tmp_path / "info").mkdir()
    built = gem("odd", "2")
    body = f"---\n1.0 |checksum:00,odd:token:here\n2 |checksum:{built.sha256}\n".encode()
    (tmp_path / "info" / "odd").write_bytes(body)
    for each in (built, gem("rack", "3.0")):
        (tmp_path / "gems" / each.filename).write_bytes(each.content)
    simulator.load_genuine(tmp_path / "gems", tmp_path / "info")
    assert (await client.get("info/odd")).body == body
    assert (await client.get("versions")).text.splitlines()[2] == f"odd 1.0,2 {hashlib.md5(body).hexdigest()}"
    assert (await client.get("gems/odd-2.gem")).body == built.content
    assert (await client.get("gems/odd-1.0.gem")).status == 404
    assert (await client.get("info/rack")).status == 200


def test_versions_sort_as_ruby_sorts_them() -> None:
    expected = ["1.a", "1.0.b2", "1", "1.0.1.pre", "1.0.1", "1.2", "1.10", "2.0.0"]
    assert sorted(sorted(expected), key=order) == expected


# Real clients


async def run(*command: str, **environment: str) -> str:
    """Run a client with an environment of its own; returns what it printed."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**kept, **environment}
    )
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    return printed


@pytest.mark.clients
async def test_pip_installs_a_built_wheel(simulator: Simulator, tmp_path: Path) -> None:
    pip = require_client("pip")
    simulator.publish(wheel("six", "1.16", requires=["Seven.Up>=1"]))
    simulator.publish(wheel("Seven.Up", "1.2"))
    await run(
        *(pip, "--isolated", "install", "--no-cache-dir", "--disable-pip-version-check"),
        *("--index-url", simulator.simple_url, "--target", str(tmp_path / "lib"), "six"),
        HOME=str(tmp_path),
    )
    assert (tmp_path / "lib/six/__init__.py").read_text() == '__version__ = "1.16"\n'
    assert (tmp_path / "lib/Seven_Up-1.2.dist-info/METADATA").exists()


@pytest.mark.clients
async def test_uv_builds_and_installs_a_built_sdist(simulator: Simulator, tmp_path: Path) -> None:
    uv = require_client("uv")
    simulator.publish(sdist("six", "1.16", requires_python=">=3.8"))
    await run(
        *(uv, "pip", "install", "--no-config", "--no-cache", "--python", sys.executable),
        *("--index-url", simulator.simple_url, "--target", str(tmp_path / "lib"), "six"),
        HOME=str(tmp_path),
    )
    assert (tmp_path / "lib/six/__init__.py").read_text() == '__version__ = "1.16"\n'
    assert simulator.count("GET", "*.tar.gz") == 1


@pytest.mark.clients
async def test_gem_installs_a_built_gem_with_what_it_needs(simulator: Simulator, tmp_path: Path) -> None:
    client = require_client("gem")
    simulator.push(gem("tilt", "2.1"))
    simulator.push(gem("rack", "3.0", dependencies={"tilt": ["~> 2.0", "< 2.5"]}, required_ruby=">= 2.5"))
    homes = {"HOME": str(tmp_path), "GEM_HOME": str(tmp_path / "gems"), "GEM_PATH": str(tmp_path / "gems")}
    printed = await run(
        *(client, "install", "--norc", "--no-document", "--clear-sources", "--source", simulator.url, "rack"), **homes
    )
    assert "2 gems installed" in printed
    seen = await run(require_client("ruby"), "-e", "require 'tilt'; require 'rack'; print $rack_version", **homes)
    assert seen == "3.0"
    listed = await run(client, "list", "--norc", "-r", "--clear-sources", "--source", simulator.url, **homes)
    assert "rack (3.0)" in listed


@pytest.mark.clients
async def test_ruby_reads_the_marshalled_specification_as_that_of_the_gem(tmp_path: Path) -> None:
    ruby = require_client("ruby")
    async with Simulator() as simulator:
        for platform in ("ruby", "java", "x86_64-linux", "arm64-darwin-23"):
            spec = simulator.push(
                gem("rack", "3.0", platform=platform, dependencies={"a": ">= 1"}, development={"b": "~> 2"})
            )
            (tmp_path / f"{spec.full_name}.gem").write_bytes(spec.content)
            (tmp_path / f"{spec.full_name}.gem.rz").write_bytes(spec.marshalled())
    script = """
        require "rubygems/package"
        require "zlib"
        Dir["*.gem"].each do |path|
          ours = Marshal.load(Zlib::Inflate.inflate(File.binread(path + ".rz")))
          puts "#{path} #{ours == Marshal.load(Marshal.dump(Gem::Package.new(path).spec))}"
        end
    """
    seen = await run(ruby, "-C", str(tmp_path), "-e", script, HOME=str(tmp_path))
    assert len(seen.splitlines()) == 4
    assert "false" not in seen


async def test_as_a_process_it_prints_its_url_and_writes_its_log(tmp_path: Path) -> None:
    for folder, built in (("wheels", SIX), ("wheels", SIX_SDIST), ("gems", gem("rack", "3.0"))):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / built.filename).write_bytes(built.content)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.simulator", "--wheels", str(tmp_path / "wheels")),
        *("--gems", str(tmp_path / "gems"), "--log", str(tmp_path / "log")),
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert process.stdout is not None
    try:
        url = (await process.stdout.readline()).decode().strip()
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}simple/six/", headers=JSON) as response:
                assert len((await response.json(content_type=None))["files"]) == 2
            async with session.get(f"{url}versions") as response:
                assert "rack 3.0 " in await response.text()
    finally:
        process.terminate()
        await process.communicate()
    logged = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(each["path"], each["status"]) for each in logged] == [("/simple/six/", 200), ("/versions", 200)]


# The guard


async def test_a_connection_that_leaves_loopback_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import conftest

    monkeypatch.setattr(conftest, "_strays", [])  # this test strays on purpose
    loop = asyncio.get_running_loop()
    with pytest.raises(conftest.NotLoopback):
        await loop.create_connection(asyncio.Protocol, "192.0.2.1", 80)
    with pytest.raises(conftest.NotLoopback):
        await loop.getaddrinfo("index.example", 80)
    assert conftest._strays == ["socket.connect '192.0.2.1'", "socket.getaddrinfo 'index.example'"]


def test_the_default_time_of_publishing_is_the_clock_of_the_simulator() -> None:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    simulator = Simulator(clock=moment.timestamp)
    assert simulator.publish(SIX).uploaded == moment
    assert simulator.publish(SIX, uploaded=moment - timedelta(days=2)).uploaded < moment


def test_a_missing_client_skips_here_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="is not installed"):
        require_client("no-such-client")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="is not installed"):
        require_client("no-such-client")
