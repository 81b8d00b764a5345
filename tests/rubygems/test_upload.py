"""Pushing, yanking, owners and keys as the clients of RubyGems do: every response, and what the index then lists."""

import asyncio
import gzip
import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import yaml
from rubymarshal.reader import loads

from mirror.auth.passwords import hash_password
from mirror.catalog import Upload, User
from mirror.model import Grant
from mirror.rubygems.log.versions_map import parse_versions
from tests.builders import addressed_gem, gem, noise, wheel
from tests.objects import local_files
from tests.serving import Serving, serving
from tests.uploading import basic, change_gem, form, make_token, push

BYTES = "application/octet-stream"


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Serving]:
    repositories = {"rubygems": {"format": "rubygems", "upstreams": []}}
    limits = {"upload": 300_000, "form": 50_000, "shutdown_grace": 1}
    async with serving(tmp_path / "data", repositories, limits=limits) as mirror:
        yield mirror
        assert list((local_files(tmp_path / "data") / "incoming").iterdir()) == [], "nothing is left half way"


@pytest.fixture
async def key(mirror: Serving) -> str:
    return await make_token(mirror)


async def nothing_is_there(mirror: Serving) -> bool:
    listed = (await mirror.get("versions")).text.partition("---\n")[2]
    return listed == "" and await mirror.mirror.catalog.uploads.blobs() == set()


async def test_a_gem_is_in_every_index_as_soon_as_it_is_answered(mirror: Serving, key: str) -> None:
    built = gem("acme", "1.0", dependencies={"rack": [">= 1", "< 4"]}, required_ruby=">= 3.0")
    reply = await push(mirror, key, built.content)
    assert (reply.status, reply.text) == (200, "Successfully registered gem: acme (1.0)")

    info = await mirror.get("info/acme")
    assert info.text.startswith(f"---\n1.0 rack:< 4&>= 1|checksum:{built.sha256},ruby:>= 3.0,created_at:")
    listed = (await mirror.get("versions")).text.splitlines()[-1]
    assert listed == f"acme 1.0 {hashlib.md5(info.body).hexdigest()}"
    assert (await mirror.get("names")).text == "---\nacme\n"
    ((name, version, platform),) = loads(gzip.decompress((await mirror.get("specs.4.8.gz")).body))
    assert (str(name), str(version.marshal_dump()[0]), str(platform)) == ("acme", "1.0", "ruby")
    spec = zlib.decompress((await mirror.get("quick/Marshal.4.8/acme-1.0.gemspec.rz")).body)
    assert b"acme" in spec
    assert b"rack" in spec
    assert (await mirror.get("gems/acme-1.0.gem")).body == built.content


async def test_the_json_apis_return_all_that_the_gem_holds_about_itself(mirror: Serving, key: str) -> None:
    built = gem("acme", "1.0", dependencies={"rack": ">= 1"}, development={"rake": ">= 0"}, summary="It is")
    await push(mirror, key, built.content)
    about = (await mirror.get("api/v1/gems/acme.json")).json()
    assert (about["name"], about["version"], about["sha"]) == ("acme", "1.0", built.sha256)
    assert (about["info"], about["licenses"], about["authors"]) == ("It is", ["MIT"], "Nobody")
    assert about["dependencies"]["runtime"] == [{"name": "rack", "requirements": ">= 1"}]
    assert about["dependencies"]["development"] == [{"name": "rake", "requirements": ">= 0"}]
    (version,) = (await mirror.get("api/v1/versions/acme.json")).json()
    assert (version["number"], version["sha"], version["summary"]) == ("1.0", built.sha256, "It is")
    assert (await mirror.get("api/v1/versions/acme/latest.json")).json() == {"version": "1.0"}
    assert (await mirror.get("api/v2/rubygems/acme/versions/1.0.json")).json()["sha"] == built.sha256


async def test_clients_that_update_by_range_see_each_change_as_a_few_bytes(mirror: Serving, key: str) -> None:
    await push(mirror, key, gem("acme", "1.0").content)
    changes = [
        lambda: push(mirror, key, gem("acme", "1.1").content),
        lambda: change_gem(mirror, key, "yank", "acme", "1.1"),
        lambda: change_gem(mirror, key, "unyank", "acme", "1.1"),
    ]
    for path in ("versions", "info/acme"):
        assert (await mirror.get(path)).status == 200
    for change in changes:
        old = await mirror.get("versions")
        assert (await change()).status == 200
        etag = old.headers["ETag"]
        new = await mirror.get("versions", Range=f"bytes={len(old.body) - 1}-", If_None_Match=etag)
        assert new.status == 206
        assert len(new.body) < 100
        assert old.body + new.body[1:] == (await mirror.get("versions")).body
        info = (await mirror.get("info/acme")).body
        assert new.body.split()[-1].decode() == hashlib.md5(info).hexdigest()


async def test_the_same_bytes_again_are_fine_and_others_are_a_conflict(mirror: Serving, key: str) -> None:
    built = gem("acme", "1.0")
    await push(mirror, key, built.content)
    log = (await mirror.get("versions")).body
    assert (await push(mirror, key, built.content)).status == 200
    reply = await push(mirror, key, gem("acme", "1.0", summary="another").content)
    assert (reply.status, "never overwritten" in reply.text) == (409, True)
    assert (await mirror.get("versions")).body == log
    assert (await mirror.get("gems/acme-1.0.gem")).body == built.content


async def test_a_yanked_version_is_gone_until_it_is_unyanked(mirror: Serving, key: str) -> None:
    generic, java = gem("acme", "1.0"), gem("acme", "1.0", platform="java")
    for built in (generic, java):
        await push(mirror, key, built.content)
    before = (await mirror.get("info/acme")).body
    reply = await change_gem(mirror, key, "yank", "acme", "1.0", platform="java")
    assert (reply.status, reply.text) == (200, "Successfully deleted gem: acme (1.0-java)")
    assert "1.0-java" not in (await mirror.get("info/acme")).text
    assert "1.0 " in (await mirror.get("info/acme")).text
    assert (await mirror.get("gems/acme-1.0-java.gem")).status == 403
    reply = await push(mirror, key, java.content)
    assert (reply.status, "un-yank" in reply.text) == (409, True)
    assert (await change_gem(mirror, key, "unyank", "acme", "1.0", platform="java")).status == 200
    assert (await mirror.get("info/acme")).body == before


async def test_a_gem_of_which_all_is_yanked_leaves_the_index(mirror: Serving, key: str) -> None:
    await push(mirror, key, gem("acme", "1.0").content)
    await change_gem(mirror, key, "yank", "acme", "1.0")
    assert (await mirror.get("names")).text == "---\n"
    assert (await mirror.get("info/acme")).text == "---\n"
    assert list(loads(gzip.decompress((await mirror.get("specs.4.8.gz")).body))) == []
    assert (await mirror.get("api/v1/versions/acme/latest.json")).json() == {"version": "unknown"}


@pytest.mark.parametrize(
    ("name", "version", "more"), [("acme", "9", {}), ("other", "1.0", {}), ("acme", "1.0", {"platform": "java"})]
)
async def test_what_was_not_pushed_here_cannot_be_yanked(
    mirror: Serving, key: str, name: str, version: str, more: dict[str, str]
) -> None:
    await push(mirror, key, gem("acme", "1.0").content)
    reply = await change_gem(mirror, key, "yank", name, version, **more)
    assert (reply.status, "could not be found" in reply.text) == (404, True)


@pytest.mark.parametrize(
    "body", ["", "gem_name=acme", "gem_name=acme&gem_name=acme&version=1.0", "version=1", "x=1&" * 200]
)
async def test_a_yank_that_does_not_say_what_is_refused(mirror: Serving, key: str, body: str) -> None:
    await push(mirror, key, gem("acme", "1.0").content)
    reply = await mirror.ask("DELETE", "api/v1/gems/yank", body.encode(), Authorization=key)
    assert reply.status == 400
    assert "1.0 " in (await mirror.get("info/acme")).text


async def test_a_form_in_the_query_counts_as_well(mirror: Serving, key: str) -> None:
    await push(mirror, key, gem("acme", "1.0").content)
    reply = await mirror.ask("DELETE", "api/v1/gems/yank?gem_name=acme&version=1.0", Authorization=key)
    assert reply.status == 200


async def test_attestations_come_in_a_form_and_are_served(mirror: Serving, key: str) -> None:
    built = gem("acme", "1.0")
    data = aiohttp.FormData()
    data.add_field("gem", built.content, filename="acme-1.0.gem", content_type=BYTES)
    data.add_field("attestations", '[{"mediaType":"a"}]', content_type="application/json")
    reply = await mirror.ask("POST", "api/v1/gems", data, Authorization=key)
    assert (reply.status, reply.text) == (200, "Successfully registered gem: acme (1.0)")
    assert (await mirror.get("api/v1/attestations/acme-1.0.json")).json() == [{"mediaType": "a"}]
    await push(mirror, key, gem("acme", "1.1").content)
    assert (await mirror.get("api/v1/attestations/acme-1.1.json")).status == 404
    assert (await mirror.get("api/v1/attestations/other-1.1.json")).status == 404


async def test_a_form_without_a_gem_or_with_bad_attestations_is_refused(mirror: Serving, key: str) -> None:
    built = gem("acme", "1.0")
    for data in (
        form([("attestations", "[]")], None),
        form([("attestations", "{}")], "acme-1.0.gem", built.content, "gem"),
        form([("attestations", "x" * 60_000)], "acme-1.0.gem", built.content, "gem"),
    ):
        reply = await mirror.ask("POST", "api/v1/gems", data, Authorization=key)
        assert reply.status in (413, 422)
    assert await nothing_is_there(mirror)


async def test_what_is_no_gem_is_refused_with_the_reason(mirror: Serving, key: str) -> None:
    good = gem("acme", "1.0").content
    for content in (b"", b"hello", noise(5000), wheel("acme", "1.0").content, good[:1000], good[:2200]):
        reply = await push(mirror, key, content)
        assert reply.status == 422, reply.text
        assert reply.text.startswith("The ")
    reply = await push(mirror, key, gem("acme", "1.0", size=400_000).content)
    assert reply.status == 413
    assert await nothing_is_there(mirror)


async def test_the_right_to_push_is_checked_for_the_gem_that_is_inside(mirror: Serving) -> None:
    limited = await make_token(mirror, ["upload"], ["acme-*"])
    reader = await make_token(mirror, ["read"])
    inside, outside = gem("acme-tools", "1.0").content, gem("other", "1.0").content
    for secret, content, status in (
        (None, inside, 401),
        ("nonsense", inside, 401),
        (reader, inside, 403),
        (limited, outside, 403),
        (limited, inside, 200),
    ):
        assert (await push(mirror, secret, content)).status == status
    assert (await mirror.get("names")).text == "---\nacme-tools\n"
    assert (await change_gem(mirror, limited, "yank", "acme-tools", "1.0")).status == 403
    yanker = await make_token(mirror, ["yank"], ["acme-*"])
    assert (await change_gem(mirror, yanker, "yank", "acme-tools", "1.0")).status == 200


async def user(mirror: Serving, name: str, *grants: Grant) -> str:
    """A user whose password is their name, twice."""
    await mirror.mirror.catalog.accounts.add_user(User(name=name, password=hash_password(name * 2), grants=grants))
    return basic(name * 2, name)


async def test_an_owner_may_push_and_yank_that_gem(mirror: Serving, key: str) -> None:
    await push(mirror, key, gem("acme", "1.0").content)
    admin = await make_token(mirror, ["admin"])
    bob = await user(mirror, "bobby")
    path = "api/v1/gems/acme/owners"
    assert (await push(mirror, bob, gem("acme", "1.1").content)).status == 403

    assert (await mirror.ask("POST", path, {"email": "bobby"}, Authorization=key)).status == 403
    assert (await mirror.ask("POST", path, {"email": "nobody"}, Authorization=admin)).status == 404
    reply = await mirror.ask("POST", path, {"email": "bobby"}, Authorization=admin)
    assert (reply.status, reply.text) == (200, "Owner added successfully.")
    owners = await mirror.ask("GET", f"{path}.yaml", Authorization=admin)
    assert yaml.safe_load(owners.text) == [{"email": "bobby", "handle": "bobby"}]
    assert (await mirror.ask("GET", f"{path}.json", Authorization=admin)).json() == yaml.safe_load(owners.text)
    assert (await push(mirror, bob, gem("acme", "1.1").content)).status == 200
    assert (await push(mirror, bob, gem("other", "1.1").content)).status == 403
    assert (await change_gem(mirror, bob, "yank", "acme", "1.1")).status == 200

    reply = await mirror.ask("DELETE", path, {"email": "bobby"}, Authorization=admin)
    assert (reply.status, reply.text) == (200, "Owner removed successfully.")
    assert (await mirror.ask("DELETE", path, {"email": "bobby"}, Authorization=admin)).status == 404
    assert (await push(mirror, bob, gem("acme", "1.2").content)).status == 403


async def test_signing_in_gives_a_key_that_pushes(mirror: Serving) -> None:
    login = await user(mirror, "alice", Grant(rights=frozenset({"upload"})))
    body = b"name=laptop&push_rubygem=true"
    reply = await mirror.ask("POST", "api/v1/api_key", body, Authorization=login)
    assert reply.status == 200
    assert (await push(mirror, reply.text, gem("acme", "1.0").content)).status == 200
    assert (await mirror.ask("POST", "api/v1/api_key", body, Authorization=basic("wrong", "alice"))).status == 401
    assert (await mirror.ask("POST", "api/v1/api_key", body)).status == 401
    assert (await mirror.get("api/v1/api_key")).status == 410


async def test_who_pushed_from_where_and_when_is_kept(mirror: Serving) -> None:
    login = await user(mirror, "alice", Grant(rights=frozenset({"upload"})))
    await push(mirror, login, gem("acme", "1.0").content)
    (record,) = await asyncio.to_thread(list, mirror.mirror.store.records.read("rubygems"))
    assert isinstance(record, Upload)
    assert (record.uploader, record.origin, record.project) == ("alice", "127.0.0.1", "acme")
    assert record.uploaded > 1_700_000_000


async def test_a_gem_keeps_the_c_library_in_its_name(mirror: Serving, key: str) -> None:
    for platform in ("x86_64-linux-gnu", "x86_64-linux-musl", "x86_64-linux"):
        reply = await push(mirror, key, gem("acme", "1.0", platform=platform).content)
        assert reply.text == f"Successfully registered gem: acme (1.0-{platform})"
    lines = (await mirror.get("info/acme")).text.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["1.0-x86_64-linux-gnu", "1.0-x86_64-linux-musl", "1.0-x86_64-linux"]
    reply = await change_gem(mirror, key, "yank", "acme", "1.0", platform="x86_64-linux-gnu")
    assert reply.text == "Successfully deleted gem: acme (1.0-x86_64-linux-gnu)"


async def test_builds_for_several_ruby_abis_stand_beside_each_other(mirror: Serving, key: str) -> None:
    old, new = (addressed_gem("acme", "1.0", abi) for abi in ("3.3", "3.4"))
    plain = gem("acme", "1.0", platform="x86_64-linux")
    for built in (old, new, plain):
        assert (await push(mirror, key, built.content)).status == 200
    tokens = [f"1.0-{built.sha256[:8]}" for built in (old, new)]
    info = await mirror.get("info/acme")
    lines = info.text.splitlines()[1:]
    assert [line.split()[0] for line in lines] == [*tokens, "1.0-x86_64-linux"]
    assert ",ruby:~> 3.4.0,rubygems:>= 4.1.0.a,platform:= x86_64-linux," in lines[1]
    listed = parse_versions((await mirror.get("versions")).body)
    assert sorted(listed.versions("acme")) == sorted([*tokens, "1.0-x86_64-linux"])
    assert listed.md5("acme") == hashlib.md5(info.body).hexdigest()

    for built in (old, new):
        assert (await mirror.get(f"gems/{built.filename}")).body == built.content
        quick = await mirror.get(f"quick/Marshal.4.8/{built.filename.removesuffix('.gem')}.gemspec.rz")
        assert b"x86_64-linux" in zlib.decompress(quick.body)
    rows = loads(gzip.decompress((await mirror.get("specs.4.8.gz")).body))
    assert [str(platform) for _, _, platform in rows] == ["x86_64-linux"]
    one = (await mirror.get("api/v2/rubygems/acme/versions/1.0.json?platform=x86_64-linux&ruby_abi=3.4")).json()
    assert (one["sha"], one["ruby_abi"], one["content_address"]) == (new.sha256, "3.4", new.sha256[:8])
    assert one["gem_uri"].endswith(new.filename)
    one = (await mirror.get("api/v2/rubygems/acme/versions/1.0.json?platform=x86_64-linux")).json()
    assert one["sha"] == plain.sha256
    described = (await mirror.get("api/v1/versions/acme.json")).json()
    assert sorted(filter(None, (row.get("ruby_abi") for row in described))) == ["3.3", "3.4"]


async def test_there_is_one_build_for_each_ruby_abi(mirror: Serving, key: str) -> None:
    built = addressed_gem("acme", "1.0", "3.4")
    for _ in range(2):
        assert (await push(mirror, key, built.content)).status == 200
    reply = await push(mirror, key, addressed_gem("acme", "1.0", "3.4", summary="another").content)
    assert (reply.status, built.filename in reply.text) == (409, True)
    assert (await push(mirror, key, addressed_gem("acme", "1.0", "3.4", platform="arm64-darwin").content)).status == 200
    assert (await push(mirror, key, addressed_gem("acme", "1.1", "3.4").content)).status == 200


async def test_the_build_for_one_ruby_abi_is_yanked(mirror: Serving, key: str) -> None:
    old, new = (addressed_gem("acme", "1.0", abi) for abi in ("3.3", "3.4"))
    for built in (old, new):
        await push(mirror, key, built.content)
    reply = await change_gem(mirror, key, "yank", "acme", "1.0", platform="x86_64-linux")
    assert (reply.status, "--ruby-abi 3.3 or 3.4" in reply.text) == (404, True)
    which = {"platform": "x86_64-linux", "ruby_abi": "3.4"}
    reply = await change_gem(mirror, key, "yank", "acme", "1.0", **which)
    assert (reply.status, reply.text) == (200, f"Successfully deleted gem: acme (1.0-{new.sha256[:8]})")
    assert [line.split()[0] for line in (await mirror.get("info/acme")).text.splitlines()[1:]] == [
        f"1.0-{old.sha256[:8]}"
    ]
    assert (await change_gem(mirror, key, "unyank", "acme", "1.0", **which)).status == 200
    assert (await change_gem(mirror, key, "yank", "acme", "1.0", platform="x86_64-linux", ruby_abi="4.0")).status == 404


async def test_a_platform_cannot_take_the_file_name_of_another_gem(mirror: Serving) -> None:
    squatter, owner = [await make_token(mirror, projects=[name]) for name in ("foo", "foo-1")]
    reply = await push(mirror, squatter, gem("foo", "1", platform="2.0-java").content)
    assert (reply.status, "processor" in reply.text) == (422, True)
    real = gem("foo-1", "2.0", platform="java")
    assert (await push(mirror, owner, real.content)).status == 200
    assert (await mirror.get("gems/foo-1-2.0-java.gem")).body == real.content


async def test_the_owner_of_a_gem_in_another_repository_is_none_here(mirror: Serving) -> None:
    admin = await make_token(mirror, ["admin"])
    elsewhere = Grant(rights=frozenset({"upload", "yank"}), repositories=("other",), projects=("acme",))
    bob = await user(mirror, "bobby", elsewhere)
    path = "api/v1/gems/acme/owners"
    assert (await mirror.ask("GET", f"{path}.json", Authorization=admin)).json() == []
    assert (await mirror.ask("POST", path, {"email": "bobby"}, Authorization=admin)).status == 200
    assert (await push(mirror, bob, gem("acme", "1.0").content)).status == 200


async def test_what_is_wrong_inside_a_gem_is_said_and_is_no_fault_of_the_mirror(mirror: Serving, key: str) -> None:
    for wrong in (b"date: 1899-01-01", b"date: [2020]", b"platform: [java]", b"version: 1.5"):
        about = re.sub(rb"^%b:.*$" % wrong.split(b":")[0], wrong, gem("acme", "1.0").metadata, count=1, flags=re.M)
        reply = await push(mirror, key, with_metadata(about))
        assert reply.status == 422, reply.text
        assert reply.text.startswith("The gem's metadata ")


def with_metadata(about: bytes) -> bytes:
    """A gem with another specification, and without checksums."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in (("metadata.gz", gzip.compress(about)), ("data.tar.gz", gzip.compress(bytes(1024)))):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()
