"""Every endpoint through a running mirror: what is sent, what is stored, what was requested upstream."""

import gzip
import hashlib
import json
import time
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from mirror.rubygems import json_api
from mirror.rubygems.log.upstream_specs import LARGE_SECONDS
from mirror.rubygems.marshal.reading import load_specs
from tests.builders import gem
from tests.genuine import GEMS
from tests.serving import Serving, serving
from tests.simulator import Body, Corrupt, Fault, Instead, Request, Simulator, Stall, Status
from tests.uploading import make_token, push

HOSTILE = [
    "info/%2e%2e", "info/..%2f..%2fetc%2fpasswd", "info/a%00b", "info/%ff%fe", "info/a%0d%0aSet-Cookie:%20x",
    "info/" + "a" * 300, "info/a%20b", "info/<script>", "info/%E2%80%AErack", "info/", "info/a/b",
    "gems/..%2f..%2fcatalog.sqlite", "gems/rack.gem", "gems/rack-3.0.gem%00", "gems/-.gem", "gems/.gem",
    "gems/rack-3.0.tar.gz", "gems/" + "a-1.0" * 80 + ".gem", "gems/rack-3.0.gem/..", "gems/rack-3.0-..%2fx.gem",
    "quick/Marshal.4.8/..%2fx-1.gemspec.rz", "quick/Marshal.4.8/rack.gemspec.rz",
    "quick/Marshal.4.9/rack-3.0.gemspec.rz",
    "specs.4.9.gz", "other_specs.4.8.gz", "specs.4.8.gz.gz", "api/v1/gems/%2e%2e%2f.json", "api/v1/gems/.json",
    "api/v1/versions/a%20b.json", "api/v2/rubygems/rack/versions/..%2f..%2fx.json",
    "api/v2/rubygems/rack/versions/3.0.json?platform=..%2f..", "api/v2/rubygems/rack/versions/9.9.json",
    "api/v1/search.json", "api/v1/search.json?query=" + "x" * 500, "versions/x", "%2fversions",
]  # fmt: skip


@pytest.fixture
async def mirror(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Serving]:
    simulator.load_genuine(GEMS)
    simulator.push(gem("rack", "4.0.pre1"))
    simulator.push(gem("rack", "3.0"))
    simulator.push(gem("ffi", "1.17.2", platform="java"))
    simulator.push(gem("a-1", "2.0"))
    simulator.push(gem("a", "1.0"))
    async with serving(tmp_path / "data", upstreams(simulator), network={"retries": 0}) as running:
        yield running


def upstreams(simulator: Simulator, **more: Any) -> dict[str, Any]:
    return {"rubygems": {"format": "rubygems", "upstreams": [simulator.url], **more}}


@pytest.mark.parametrize("path", HOSTILE)
async def test_hostile_names_and_paths_get_one_plain_sentence(mirror: Serving, simulator: Simulator, path: str) -> None:
    await mirror.get("versions")
    simulator.forget()
    reply = await mirror.get(path)
    assert reply.status in (400, 404), reply.text
    assert reply.headers["Content-Type"].startswith("text/plain")
    assert len(reply.text) < 400
    assert "Traceback" not in reply.text
    assert all(request.path.startswith(("/info/rack", "/api/")) for request in simulator.requests)


RUBY_SPECS = """
answer(input.map { |text|
  Marshal.load(text.unpack1('m')).map { |name, version, platform|
    raise version.class.name unless version.is_a?(Gem::Version)
    [name, version.to_s, platform] } })
"""


async def test_the_specs_are_those_of_upstream_when_ruby_reads_them(
    mirror: Serving, simulator: Simulator, ruby: Callable[..., Any]
) -> None:
    bodies = []
    for which in ("specs", "latest_specs", "prerelease_specs"):
        reply = await mirror.get(f"{which}.4.8.gz")
        assert reply.headers["Content-Type"] == "application/octet-stream"
        plain = await mirror.get(f"{which}.4.8")
        assert plain.body == gzip.decompress(reply.body)
        bodies.append(plain.body)
    theirs = [simulator_specs(simulator, which) for which in ("specs", "latest_specs", "prerelease_specs")]
    ours, expected = [ruby(RUBY_SPECS, [b64encode(body).decode() for body in each]) for each in (bodies, theirs)]
    assert [sorted(each) for each in ours] == [sorted(each) for each in expected]
    assert len(ours[0]) == len(list(GEMS.glob("*.gem"))) + 4
    assert ours[2] == [["rack", "4.0.pre1", "ruby"]]


def simulator_specs(simulator: Simulator, which: str) -> bytes:
    answer = simulator.rubygems.answer(Request("GET", f"/{which}.4.8", "", CIMultiDict(), 0, 0))
    assert answer is not None
    return bytes(answer.body)


SPECS = ("specs", "latest_specs", "prerelease_specs")


async def test_the_specs_are_upstreams_own_bytes_while_nothing_differs(mirror: Serving, simulator: Simulator) -> None:
    theirs = {which: simulator_file(simulator, which) for which in SPECS}
    for which, body in theirs.items():
        assert (await mirror.get(f"{which}.4.8.gz")).body == body
        assert (await mirror.get(f"{which}.4.8")).body == gzip.decompress(body)
        reply = await mirror.get(f"{which}.4.8.gz")
        assert (reply.outcome, reply.headers["ETag"]) == ("hit", f'"{hashlib.md5(body).hexdigest()}"')
        assert simulator.count(path=f"/{which}.4.8.gz") == 1
    await push(mirror, await make_token(mirror), gem("our-own", "1.0").content)
    ours = gzip.decompress((await mirror.get("specs.4.8.gz")).body)
    assert b"our-own" in ours
    assert simulator.count(path="/specs.4.8.gz") == 1  # it cannot list what only this mirror has


async def test_a_newer_list_brings_upstreams_newer_specs(mirror: Serving, simulator: Simulator) -> None:
    before = (await mirror.get("specs.4.8.gz")).headers
    simulator.push(gem("newer", "1.0"))
    for one in mirror.mirror.upstream_indexes.values():
        one.asked_at = 0
    after = await mirror.get("specs.4.8.gz", If_Modified_Since=before["Last-Modified"])
    assert (after.status, after.body) == (200, simulator_file(simulator, "specs"))
    assert simulator.count(path="/specs.4.8.gz") == 2


async def test_upstreams_specs_outlive_a_restart_without_the_network(simulator: Simulator, tmp_path: Path) -> None:
    simulator.load_genuine(GEMS)
    async with serving(tmp_path / "data", upstreams(simulator)) as mirror:
        bodies = [(await mirror.get(f"{which}.4.8.gz")).body for which in SPECS]
    assert bodies == [simulator_file(simulator, which) for which in SPECS]
    asked = len(simulator.requests)
    async with serving(tmp_path / "data", upstreams(simulator), offline=True) as mirror:
        assert [(await mirror.get(f"{which}.4.8.gz")).body for which in SPECS] == bodies
    assert len(simulator.requests) == asked


async def test_a_policy_that_hides_a_version_hides_it_in_the_specs(simulator: Simulator, tmp_path: Path) -> None:
    simulator.load_genuine(GEMS)
    async with serving(tmp_path / "data", upstreams(simulator)) as mirror:
        assert (await mirror.get("specs.4.8.gz")).body == simulator_file(simulator, "specs")
    rule = {"name": "hidden", "kind": "deny", "projects": ["rack"], "reason": "It is hidden."}
    async with serving(tmp_path / "data", upstreams(simulator), policy=[rule]) as mirror:
        await mirror.get("info/rack")
        rows = load_specs(gzip.decompress((await mirror.get("specs.4.8.gz")).body))
    names = {name for name, _, _ in rows}
    assert "rack" not in names
    assert "sinatra" in names


@pytest.mark.parametrize(
    "fault",
    [
        Status(500), Status(404), Stall(), Corrupt(), Body(b"<html>maintenance</html>"),
        Instead(gzip.compress(b"\x04\x08[\x06[\x06" + b"[\x06" * 100 + b"0")),
        Instead(gzip.compress(b"\x04\x08[\x06o:\nEvil\0")), Instead(gzip.compress(bytes(10 << 20))),
    ],
    ids=["500", "404", "silent", "corrupt", "a page", "too deep", "another class", "nothing but zeros"],
)  # fmt: skip
async def test_the_specs_are_made_here_where_upstreams_cannot_be_used(
    mirror: Serving, simulator: Simulator, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.rubygems.log.upstream_specs.WAIT_SECONDS", 1.0)
    simulator.inject("/specs.4.8.gz", fault)
    for _ in range(2):
        reply = await mirror.get("specs.4.8.gz")
        assert reply.status == 200
        assert b"rack" in gzip.decompress(reply.body)
    assert simulator.count(path="/specs.4.8.gz") <= 3  # with the transport's own retry
    assert (await mirror.get("info/rack")).status == 200


async def test_specs_that_lag_behind_their_own_list_are_not_passed_on(mirror: Serving, simulator: Simulator) -> None:
    lagging = simulator_file(simulator, "specs")
    simulator.push(gem("newer", "1.0"))
    simulator.inject("/specs.4.8.gz", Instead(lagging))
    body = (await mirror.get("specs.4.8.gz")).body
    assert body != lagging
    assert b"newer" in gzip.decompress(body)


async def test_a_large_list_is_seldom_compared_with_upstreams_specs(
    mirror: Serving, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.rubygems.log.upstream_specs.LARGE_GEMS", 5)
    assert (await mirror.get("specs.4.8.gz")).body == simulator_file(simulator, "specs")
    simulator.push(gem("newer", "1.0"))
    for one in mirror.mirror.upstream_indexes.values():
        one.asked_at = 0
    assert b"newer" in gzip.decompress((await mirror.get("specs.4.8.gz")).body)
    assert simulator.count(path="/specs.4.8.gz") == 1


async def test_of_several_nodes_one_compares_and_all_serve_the_same_specs(
    simulator: Simulator, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.rubygems.log.upstream_specs.LARGE_GEMS", 5)
    simulator.load_genuine(GEMS)
    now = time.time()
    shared = {"catalog": {"url": postgres_url}}
    async with (
        serving(tmp_path / "one", upstreams(simulator), clock=lambda: now, **shared) as one,
        serving(tmp_path / "two", upstreams(simulator), clock=lambda: now, **shared) as two,
    ):

        async def bodies() -> list[bytes]:
            return [(await node.get("specs.4.8.gz")).body for node in (one, two)]

        assert (await one.get("specs.4.8.gz")).body == simulator_file(simulator, "specs")
        simulator.push(gem("newer", "1.0"))
        for node in (one, two):
            for index in node.mirror.upstream_indexes.values():
                index.asked_at = 0
        # `two`, which has never compared, would at once; what `one` knows keeps both of them from it.
        ours = await bodies()
        assert ours[0] == ours[1] != simulator_file(simulator, "specs")
        assert b"newer" in gzip.decompress(ours[0])
        now += LARGE_SECONDS + 1
        assert (await two.get("specs.4.8.gz")).body == simulator_file(simulator, "specs")
        assert await bodies() == [simulator_file(simulator, "specs")] * 2
        assert simulator.count(path="/specs.4.8.gz") == 2


async def test_large_specs_are_read_in_an_isolated_process(
    mirror: Serving, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.rubygems.log.upstream_specs.SMALL_BYTES", 10)
    monkeypatch.setattr("mirror.rubygems.log.upstream_specs.WAIT_SECONDS", 30.0)
    assert (await mirror.get("specs.4.8.gz")).body == simulator_file(simulator, "specs")


async def test_with_two_upstreams_the_specs_are_made_here(simulator: Simulator, tmp_path: Path) -> None:
    simulator.load_genuine(GEMS)
    async with Simulator() as other:
        repository = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url, other.url]}}
        async with serving(tmp_path / "data", repository) as mirror:
            assert b"rack" in gzip.decompress((await mirror.get("specs.4.8.gz")).body)
    assert simulator.count(path="/specs.4.8.gz") == 0


def simulator_file(simulator: Simulator, which: str) -> bytes:
    answer = simulator.rubygems.answer(Request("GET", f"/{which}.4.8.gz", "", CIMultiDict(), 0, 0))
    assert answer is not None
    return bytes(answer.body)


async def test_unchanged_specs_are_304_by_time_and_by_etag_until_a_gem_comes(
    mirror: Serving, simulator: Simulator
) -> None:
    first = await mirror.get("specs.4.8.gz")
    for headers in (
        {"If_Modified_Since": first.headers["Last-Modified"]},
        {"If_None_Match": first.headers["ETag"]},
    ):
        assert (await mirror.get("specs.4.8.gz", **headers)).status == 304
    assert (await mirror.head("specs.4.8.gz")).headers["Content-Length"] == str(len(first.body))
    simulator.push(gem("rack", "5.0"))
    for one in mirror.mirror.upstream_indexes.values():
        one.asked_at = 0
    again = await mirror.get("specs.4.8.gz", If_None_Match=first.headers["ETag"])
    assert again.status == 200
    assert b"5.0" in gzip.decompress(again.body)


async def test_specs_are_304_by_the_time_of_a_clients_own_copy_unless_that_is_the_second_of_the_change(
    mirror: Serving,
) -> None:
    first = await mirror.get("specs.4.8.gz")
    changed = parsedate_to_datetime(first.headers["Last-Modified"])
    for seconds, status in ((0, 304), (90, 304), (-1, 200)):
        date = format_datetime(changed + timedelta(seconds=seconds), usegmt=True)
        assert (await mirror.get("specs.4.8.gz", If_Modified_Since=date)).status == status


@pytest.mark.parametrize("path", ["versions", "names", "specs.4.8.gz"])
async def test_the_first_list_of_versions_is_a_miss_and_those_after_it_are_hits(mirror: Serving, path: str) -> None:
    assert [(await mirror.get(path)).outcome for _ in range(3)] == ["miss", "hit", "hit"]


@pytest.mark.parametrize("path", ["gems/missing.gem", "quick/Marshal.4.8/missing.gemspec.rz", "gems/rack.tar.gz"])
async def test_what_is_no_full_name_is_not_there(mirror: Serving, path: str) -> None:
    assert (await mirror.get(path)).status == 404


async def test_a_listed_gem_without_a_page_is_an_empty_page_until_there_is_one(
    mirror: Serving, simulator: Simulator
) -> None:
    assert "tilt " in (await mirror.get("versions")).text
    simulator.inject("/info/tilt", Status(404), times=1)
    reply = await mirror.get("info/tilt")
    assert (reply.status, reply.body) == (200, b"---\n")
    assert (await mirror.get("info/tilt")).body == simulator.rubygems.info("tilt")
    simulator.inject("/info/tilt", Status(404))
    assert (await mirror.get("info/tilt", Cache_Control="no-cache")).body == simulator.rubygems.info("tilt")


@pytest.mark.parametrize("path", ["gems/{}-1-2.0.gem", "quick/Marshal.4.8/{}-1-2.0.gemspec.rz"])
async def test_the_reading_of_a_file_name_does_not_tell_whether_there_is_a_hidden_gem(
    simulator: Simulator, tmp_path: Path, path: str
) -> None:
    simulator.push(gem("hush-gem", "1.0"))
    closed = {"rules": [{"projects": ["hush*"], "read": ["@developers"]}]}
    async with serving(tmp_path / "data", upstreams(simulator), auth=closed) as mirror:
        await mirror.get("versions")
        there, absent = [await mirror.get(path.format(name)) for name in ("hush-gem", "hush-not")]
        assert (there.status, there.text.replace("hush-gem", "N")) == (404, absent.text.replace("hush-not", "N"))


async def test_a_gem_comes_from_upstream_once_with_its_digest_checked(mirror: Serving, simulator: Simulator) -> None:
    content = (GEMS / "rack-3.1.16.gem").read_bytes()
    first = await mirror.get("gems/rack-3.1.16.gem")
    assert (first.status, first.body, first.outcome) == (200, content, "miss")
    assert first.headers["ETag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    await simulator.go_down()
    again = await mirror.get("gems/rack-3.1.16.gem", Range="bytes=100-199")
    assert (again.status, again.body, again.outcome) == (206, content[100:200], "hit")
    assert simulator.count("GET", "/gems/*") == 1


async def test_a_damaged_gem_never_arrives_complete_and_is_not_kept(mirror: Serving, simulator: Simulator) -> None:
    simulator.inject("/gems/tilt-*", Corrupt(2000), times=1)
    try:
        reply = await mirror.get("gems/tilt-2.6.1.gem")
    except aiohttp.ClientError:
        pass
    else:
        assert reply.status >= 500
    assert (await mirror.get("gems/tilt-2.6.1.gem")).body == (GEMS / "tilt-2.6.1.gem").read_bytes()


async def test_a_name_that_can_be_read_in_two_ways_is_read_as_the_gem_that_exists(mirror: Serving) -> None:
    assert (await mirror.get("gems/a-1-2.0.gem")).status == 200
    assert (await mirror.get("gems/a-1.0.gem")).status == 200
    assert (await mirror.get("gems/ffi-1.17.2-java.gem")).status == 200
    assert (await mirror.get("gems/ffi-1.17.2-jruby.gem")).status == 404


async def test_a_gemspec_is_passed_on_and_kept(mirror: Serving, simulator: Simulator) -> None:
    reply = await mirror.get("quick/Marshal.4.8/sinatra-4.1.1.gemspec.rz")
    assert reply.body == simulator.rubygems.gems["sinatra-4.1.1"].spec.marshalled()
    await simulator.go_down()
    assert (await mirror.get("quick/Marshal.4.8/sinatra-4.1.1.gemspec.rz")).body == reply.body


RUBY_GEMSPEC = """
require 'tempfile'
answer(input.map { |packed, whole|
  ours = Marshal.load(Gem::Util.inflate(packed.unpack1('m')))
  file = Tempfile.new(['a', '.gem'], binmode: true)
  file.write(whole.unpack1('m'))
  file.close
  theirs = Marshal.load(Marshal.dump(Gem::Package.new(file.path).spec))
  [ours.full_name, ours == theirs, ours.dependencies == theirs.dependencies] })
"""


async def test_a_gemspec_is_made_from_the_gem_when_upstream_has_none(
    mirror: Serving, simulator: Simulator, ruby: Callable[..., Any]
) -> None:
    simulator.rubygems.configure(gemspecs=False)
    given = []
    for path in sorted(GEMS.glob("*.gem")):
        reply = await mirror.get(f"quick/Marshal.4.8/{path.stem}.gemspec.rz")
        assert reply.status == 200
        assert zlib.decompress(reply.body)[:2] == b"\x04\x08"
        given.append([b64encode(reply.body).decode(), b64encode(path.read_bytes()).decode()])
    assert ruby(RUBY_GEMSPEC, given) == [[path.stem, True, True] for path in sorted(GEMS.glob("*.gem"))]


async def test_the_json_about_gems_is_upstreams_with_our_addresses(mirror: Serving, simulator: Simulator) -> None:
    about = (await mirror.get("api/v1/gems/sinatra.json")).json()
    assert about["version"] == "4.1.1"
    assert about["gem_uri"] == f"{mirror.url}gems/sinatra-4.1.1.gem"
    assert about["info"] == simulator.rubygems.gems["sinatra-4.1.1"].spec.fields["description"]
    releases = (await mirror.get("api/v1/versions/rack.json")).json()
    assert [release["number"] for release in releases] == ["4.0.pre1", "3.1.16", "3.0"]
    assert (await mirror.get("api/v1/versions/rack/latest.json")).json() == {"version": "3.1.16"}
    assert (await mirror.get("api/v1/versions/nothing/latest.json")).json() == {"version": "unknown"}
    one = (await mirror.get("api/v2/rubygems/ffi/versions/1.17.2.json?platform=java")).json()
    assert (one["number"], one["platform"]) == ("1.17.2", "java")
    assert one["gem_uri"] == f"{mirror.url}gems/ffi-1.17.2-java.gem"


async def test_the_json_is_made_here_when_upstream_has_none(mirror: Serving, simulator: Simulator) -> None:
    simulator.inject("/api/*", Status(404))
    about = (await mirror.get("api/v1/gems/sinatra.json")).json()
    assert (about["name"], about["version"]) == ("sinatra", "4.1.1")
    assert {"name": "tilt", "requirements": "~> 2.0"} in about["dependencies"]["runtime"]
    assert (await mirror.get("api/v2/rubygems/rack/versions/3.1.16.json")).json()["number"] == "3.1.16"


JSON_PATHS = [
    "api/v1/gems/sinatra.json",
    "api/v1/versions/sinatra.json",
    "api/v1/versions/sinatra/latest.json",
    "api/v2/rubygems/sinatra/versions/4.1.1.json",
    "api/v1/search.json?query=sinatra",
]


@pytest.mark.parametrize("trouble", [Status(500), Status(429, 3600), Stall(), Body(b"<html>Log in</html>")])
async def test_the_json_is_made_of_what_is_held_when_the_api_of_upstream_is_away(
    mirror: Serving, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, trouble: Fault
) -> None:
    monkeypatch.setattr(json_api, "DOCUMENT_SECONDS", 0.3)
    for path in ("versions", "info/sinatra", "gems/sinatra-4.1.1.gem"):
        assert (await mirror.get(path)).status == 200
    simulator.inject("/api/*", trouble)
    for path in JSON_PATHS:
        reply = await mirror.get(path)
        assert reply.status == 200, path
        assert "4.1.1" in reply.text
    about = (await mirror.get(JSON_PATHS[0])).json()
    spec = simulator.rubygems.gems["sinatra-4.1.1"].spec
    assert (about["info"], about["homepage_uri"]) == (spec.fields["description"], spec.fields["homepage"])
    assert {"name": "tilt", "requirements": "~> 2.0"} in about["dependencies"]["runtime"]
    simulator.heal()


async def test_the_json_is_made_of_what_is_held_offline(simulator: Simulator, tmp_path: Path) -> None:
    simulator.load_genuine(GEMS)
    async with serving(tmp_path / "data", upstreams(simulator)) as mirror:
        for path in ("versions", "info/sinatra", "gems/sinatra-4.1.1.gem"):
            await mirror.get(path)
    async with serving(tmp_path / "data", upstreams(simulator), offline=True) as mirror:
        for path in JSON_PATHS:
            reply = await mirror.get(path)
            assert (reply.status, "4.1.1" in reply.text) == (200, True), path


async def test_the_attestations_of_an_upstream_are_passed_on(mirror: Serving, simulator: Simulator) -> None:
    path = "api/v1/attestations/rack-3.0.json"
    assert (await mirror.get(path)).status == 404
    simulator.rubygems.attestations = {full: [{"mediaType": "a"}] for full in ("rack-3.0", "rack-3.1.16", "rack-77")}
    for _ in range(2):
        assert (await mirror.get(path, Cache_Control="no-cache")).json() == [{"mediaType": "a"}]
        simulator.inject(f"/{path}", Body(b"<html>"))  # nothing replaces them that is none
    assert (await mirror.get("api/v1/attestations/rack-77.json")).status == 404
    simulator.inject("/api/v1/attestations/*", Status(500))
    assert (await mirror.get("api/v1/attestations/rack-3.1.16.json")).status == 503


async def test_a_search_finds_the_word_itself_first(mirror: Serving) -> None:
    found = (await mirror.get("api/v1/search.json?query=rack")).json()
    assert [one["name"] for one in found] == ["rack", "rack-session", "rack-protection"]
    assert (await mirror.get("api/v1/search.json?query=nothing")).json() == []


async def test_the_dependency_api_is_gone_as_it_is_in_public(mirror: Serving) -> None:
    assert (await mirror.get("api/v1/dependencies?gems=rack")).status == 404
    assert (await mirror.get("api/v1/dependencies.json?gems=rack")).status == 404


async def test_a_repository_at_a_path_of_its_own_has_every_endpoint_below_it(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.push(gem("rack", "3.0"))
    table = {"team": {"format": "rubygems", "mount": "/team", "upstreams": [simulator.url]}}
    async with serving(tmp_path / "data", table) as mirror:
        assert (await mirror.head("team/")).status == 200
        for path in (
            "versions", "names", "info/rack", "gems/rack-3.0.gem", "specs.4.8.gz", "latest_specs.4.8.gz",
            "prerelease_specs.4.8.gz", "quick/Marshal.4.8/rack-3.0.gemspec.rz", "api/v1/gems/rack.json",
            "api/v1/versions/rack.json", "api/v1/versions/rack/latest.json",
            "api/v2/rubygems/rack/versions/3.0.json", "api/v1/search.json?query=rack",
        ):  # fmt: skip
            assert (await mirror.get(f"team/{path}")).status == 200, path
            assert (await mirror.get(path)).status == 404, path
        about = json.loads((await mirror.get("team/api/v1/gems/rack.json")).body)
        assert about["gem_uri"] == f"{mirror.url}team/gems/rack-3.0.gem"


async def test_offline_what_is_held_is_served_and_the_rest_is_refused(simulator: Simulator, tmp_path: Path) -> None:
    simulator.push(gem("rack", "3.0"))
    simulator.push(gem("tilt", "1.0"))
    async with serving(tmp_path / "data", upstreams(simulator)) as mirror:
        paths = ["versions", "names", "info/rack", "gems/rack-3.0.gem", "quick/Marshal.4.8/rack-3.0.gemspec.rz"]
        before = {path: (await mirror.get(path)).body for path in paths}
    await simulator.go_down()
    simulator.forget()
    async with serving(tmp_path / "data", upstreams(simulator), offline=True) as mirror:
        for path, body in before.items():
            reply = await mirror.get(path)
            assert (reply.status, reply.body, reply.outcome) == (200, body, "offline"), path
        for path in ("info/tilt", "gems/tilt-1.0.gem", "quick/Marshal.4.8/tilt-1.0.gemspec.rz"):
            reply = await mirror.get(path)
            assert reply.status == 503
            assert "is not held here" in reply.text
        assert simulator.requests == []
