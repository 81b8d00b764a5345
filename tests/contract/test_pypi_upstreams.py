"""Upstreams as they are met: several, odd, hostile and closed ones, and what each is asked."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import sdist, wheel
from tests.simulator import Body, Headers, Simulator, Status

from .pypi import JSON, NOW, filenames, held, is_sentence, mirroring, page_of, patient, stored

LEFT = wheel("thing", "1.0", summary="left")
RIGHT = wheel("thing", "1.0", summary="right")


# Odd ones


ODD: dict[str, dict[str, Any]] = {
    "json": {},
    "html": {"html_only": True},
    "html relative": {"html_only": True, "urls": "relative"},
    "html base": {"html_only": True, "urls": "base"},
    "json relative": {"urls": "relative"},
    "elsewhere": {"files_elsewhere": True},
    "pages redirected": {"redirect_pages": True},
    "pages redirected, relative": {"redirect_pages": True, "urls": "relative", "html_only": True},
    "files redirected": {"redirect_files": True},
    "no etag": {"etag": False, "file_etag": False},
    "no hashes": {"hashes": (), "html_only": True},
    "old": {"api_version": "1.0", "html_only": True, "metadata": False, "serials": False, "etag": False, "gzip": False},
    "no ranges, no HEAD": {"ranges": False, "head": False, "metadata": False},
    "406 for JSON": {"refuse_json": True},
}


@pytest.mark.parametrize("modes", ODD.values(), ids=ODD)
async def test_every_kind_of_index_is_served(simulator: Simulator, tmp_path: Path, modes: dict[str, Any]) -> None:
    simulator.pypi.configure(**modes)
    built = wheel("thing", "1.0", requires_python=">=3.8"), sdist("thing", "1.0", requires_python=">=3.8")
    for one in built:
        simulator.publish(one, yanked="no good")
    async with mirroring(tmp_path / "data", simulator) as mirror:
        page = (await page_of(mirror, "thing")).json()
        assert page["meta"]["api-version"] == ("1.4" if all("size" in file for file in page["files"]) else "1.0")
        assert page["versions"] == ["1.0"]
        for file, one in zip(page["files"], built, strict=True):
            assert file["filename"] == one.filename
            assert file["requires-python"] == ">=3.8"
            assert file["yanked"] == "no good"
            assert file["url"] == f"../../packages/thing/{one.filename}"
            assert "hashes" in file  # uv drops the whole page without
            assert (await mirror.get(f"/packages/thing/{one.filename}")).body == one.content
        assert (await mirror.get(f"/packages/thing/{built[0].filename}.metadata")).body == built[0].metadata
        assert (await page_of(mirror, "thing", **NOW)).json() == page


# Hostile ones


BAD_PAGES: dict[str, bytes] = {
    "half a document": b'{"meta": {"api-version": "1.0"}, "name": "thing", "files": [{"filename"',
    "another project": b'{"meta": {"api-version": "1.0"}, "name": "other", "files": []}',
    "a login page": b"<!DOCTYPE html><html><body><form><input name=password></form></body></html>",
    "nothing": b"",
    "not text": bytes(range(256)) * 10,
    "no files": b'{"meta": {"api-version": "1.0"}, "name": "thing"}',
    "a list": b"[]",
    "API 2": b'{"meta": {"api-version": "2.0"}, "name": "thing", "files": []}',
    "too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("bad", BAD_PAGES.values(), ids=BAD_PAGES)
async def test_a_page_that_is_none_does_not_replace_a_good_one(
    simulator: Simulator, tmp_path: Path, bad: bytes
) -> None:
    simulator.pypi.configure(gzip=False)
    simulator.publish(LEFT)
    async with mirroring(tmp_path / "data", simulator, network=patient()) as mirror:
        before = await page_of(mirror, "thing")
        raw = await stored(mirror, simulator, "project", "thing")
        simulator.inject("/simple/thing/", Body(bad))
        simulator.inject("/simple/thing/", Headers({"ETag": '"another"'}))
        simulator.publish(wheel("thing", "2.0"))
        after = await page_of(mirror, "thing", **NOW)
        assert (after.outcome, after.body) == ("stale", before.body)
        assert await stored(mirror, simulator, "project", "thing") == raw
        simulator.heal()
        assert len(await filenames(mirror, "thing", **NOW)) == 2


@pytest.mark.parametrize("bad", BAD_PAGES.values(), ids=BAD_PAGES)
async def test_a_first_page_that_is_none_is_a_502_and_not_kept(
    simulator: Simulator, tmp_path: Path, bad: bytes
) -> None:
    simulator.pypi.configure(gzip=False)
    simulator.publish(LEFT)
    simulator.inject("/simple/thing/", Body(bad))
    async with mirroring(tmp_path / "data", simulator, network=patient()) as mirror:
        reply = await mirror.get("/simple/thing/", Accept=JSON)
        assert reply.status == 502
        assert is_sentence(reply)
        assert await stored(mirror, simulator, "project", "thing") is None
        simulator.heal()
        assert await filenames(mirror, "thing") == [LEFT.filename]


async def test_a_page_above_the_limit_is_not_read_to_its_end(simulator: Simulator, tmp_path: Path) -> None:
    simulator.pypi.configure(gzip=False)
    simulator.publish(LEFT)
    async with mirroring(tmp_path / "data", simulator, network=patient(), pages={"max_size": 100_000}) as mirror:
        before = await page_of(mirror, "thing")
        simulator.inject("/simple/thing/", Headers({"ETag": '"another"'}))
        simulator.inject("/simple/thing/", Body(b'{"files": [' + b" " * 50_000_000), times=1)
        simulator.publish(wheel("thing", "2.0"))
        assert (await page_of(mirror, "thing", **NOW)).body == before.body
        assert simulator.bytes_sent("/simple/thing/") < 20_000_000


async def test_absurd_entries_are_left_out_and_the_rest_is_served(simulator: Simulator, tmp_path: Path) -> None:
    simulator.pypi.configure(gzip=False)
    simulator.publish(LEFT)
    entry = simulator.pypi._pages.project_json(simulator.pypi.projects["thing"], simulator.pypi.modes)["files"][0]
    absurd: list[dict[str, Any]] = [
        entry | {"filename": "../../etc/passwd"},
        entry | {"filename": "a\x00.whl"},
        entry | {"filename": "x" * 5000 + ".whl"},
        entry | {"filename": "file-1.0-py3-none-any.whl", "url": "file:///etc/passwd"},
        entry | {"filename": "js-1.0-py3-none-any.whl", "url": "javascript:alert(1)"},
        entry | {"filename": "ftp-1.0.tar.gz", "url": "ftp://index.example/x"},
        {"filename": 7, "url": []},
        {"url": "https://files.example/x"},
    ]

    body = json.dumps({"meta": {"api-version": "1.0"}, "name": "thing", "files": [*absurd, 3, entry]}).encode()
    simulator.inject("/simple/thing/", Body(body))
    async with mirroring(tmp_path / "data", simulator) as mirror:
        assert await filenames(mirror, "thing") == [LEFT.filename]
        for name in ("file-1.0-py3-none-any.whl", "js-1.0-py3-none-any.whl", "..%2f..%2fetc%2fpasswd"):
            assert (await mirror.get(f"/packages/thing/{name}")).status == 404


async def test_a_page_that_redirects_for_ever_is_a_502(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(LEFT)
    simulator.inject("/simple/thing/", Status(302))
    simulator.inject("/simple/thing/", Headers({"Location": "/simple/thing/"}))
    async with mirroring(tmp_path / "data", simulator, network=patient()) as mirror:
        reply = await mirror.get("/simple/thing/")
        assert reply.status == 502
        assert is_sentence(reply)
    assert simulator.count() < 10


# Closed ones


async def test_credentials_go_to_their_own_origin_only(simulator: Simulator, tmp_path: Path) -> None:
    simulator.require_login("ci", "s3cret")
    simulator.pypi.configure(files_elsewhere=True)
    simulator.publish(LEFT)
    upstreams = [{"url": simulator.simple_url, "username": "ci", "password": "s3cret"}]
    async with mirroring(tmp_path / "data", simulator, repository={"upstreams": upstreams}) as mirror:
        page = await page_of(mirror, "thing")
        assert (await mirror.get(f"/packages/thing/{LEFT.filename}")).body == LEFT.content
        status = await mirror.get("/-/status")
        for reply in (page, status):
            assert "s3cret" not in reply.text
    own, other = simulator.asked("GET", "/simple/*"), simulator.asked("GET", "*.whl")
    assert all(request.headers["Authorization"].startswith("Basic ") for request in own)
    assert [request.port for request in other] == [simulator.other_port]
    assert not any("Authorization" in request.headers for request in other)


async def test_a_redirect_to_another_host_carries_no_credentials(simulator: Simulator, tmp_path: Path) -> None:
    simulator.require_login("ci", "s3cret")
    simulator.pypi.configure(redirect_pages=True, redirect_files=True)
    simulator.publish(LEFT)
    upstreams = [{"url": simulator.simple_url, "username": "ci", "password": "s3cret"}]
    async with mirroring(tmp_path / "data", simulator, repository={"upstreams": upstreams}) as mirror:
        assert (await mirror.get(f"/packages/thing/{LEFT.filename}")).body == LEFT.content
    elsewhere = [request for request in simulator.requests if request.port == simulator.other_port]
    assert len(elsewhere) == 2
    assert not any("Authorization" in request.headers for request in elsewhere)


async def test_refused_credentials_are_a_502_that_says_so_and_never_a_404(
    simulator: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    simulator.require_login("ci", "s3cret")
    simulator.publish(LEFT)
    upstreams = [{"url": simulator.simple_url, "username": "ci", "password": "wr0ng"}]
    async with mirroring(tmp_path / "data", simulator, repository={"upstreams": upstreams}) as mirror:
        reply = await mirror.get("/simple/thing/")
        assert reply.status == 502
        assert "credentials" in reply.text
        assert is_sentence(reply)
    assert "wr0ng" not in caplog.text + reply.text


async def test_upstream_is_told_who_asks(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(LEFT)
    async with mirroring(tmp_path / "data", simulator, network={"user_agent": "team@mirror.example"}) as mirror:
        await page_of(mirror, "thing")
    (request,) = simulator.requests
    assert request.headers["User-Agent"].startswith("mirror/")
    assert request.headers["User-Agent"].endswith(" team@mirror.example")


# Several


@pytest.fixture
async def second() -> AsyncIterator[Simulator]:
    async with Simulator() as running:
        yield running


async def test_the_first_upstream_that_has_a_project_is_the_only_one_asked(
    simulator: Simulator, second: Simulator, tmp_path: Path
) -> None:
    simulator.publish(LEFT)
    second.publish(RIGHT)
    second.publish(wheel("thing", "9.0"))
    second.publish(wheel("rare", "1.0"))
    async with mirroring(tmp_path / "data", simulator, second) as mirror:
        assert await filenames(mirror, "thing") == [LEFT.filename]
        assert (await mirror.get(f"/packages/thing/{LEFT.filename}")).body == LEFT.content
        assert (await mirror.get("/packages/thing/thing-9.0-py3-none-any.whl")).status == 404
        assert second.count() == 0
        assert await filenames(mirror, "rare") == ["rare-1.0-py3-none-any.whl"]
        assert (await mirror.get("/packages/rare/rare-1.0-py3-none-any.whl")).status == 200
        assert simulator.count("GET", "/simple/rare/", status=404) == 1
        names = (await mirror.get("/simple/", Accept=JSON)).json()["projects"]
        assert [project["name"] for project in names] == ["rare", "thing"]


async def test_a_union_shows_all_files_and_the_earlier_source_wins_a_name(
    simulator: Simulator, second: Simulator, tmp_path: Path
) -> None:
    simulator.publish(LEFT)
    second.publish(RIGHT)
    newer = wheel("thing", "9.0")
    second.publish(newer)
    async with mirroring(tmp_path / "data", simulator, second, repository={"union": ["th*"]}) as mirror:
        assert await filenames(mirror, "thing") == [LEFT.filename, newer.filename]
        assert (await mirror.get(f"/packages/thing/{LEFT.filename}")).body == LEFT.content
        assert (await mirror.get(f"/packages/thing/{newer.filename}")).body == newer.content
        assert simulator.count("GET", "*.whl") == second.count("GET", "*.whl") == 1


@pytest.mark.parametrize("path", ["/simple/acme-secret/", "/pypi/acme-secret/json", "/packages/acme-secret/a-1.whl"])
async def test_a_private_name_never_leaves_the_house(
    simulator: Simulator, second: Simulator, tmp_path: Path, path: str
) -> None:
    for upstream in (simulator, second):
        upstream.publish(wheel("acme-secret", "1.0"))
        upstream.publish(LEFT)
    async with mirroring(tmp_path / "data", simulator, second, repository={"private": ["Acme_*"]}) as mirror:
        reply = await mirror.get(path, **NOW)
        assert reply.status == 404
        assert is_sentence(reply)
        assert not simulator.requests + second.requests
        names = (await mirror.get("/simple/", Accept=JSON)).json()["projects"]
        assert [project["name"] for project in names] == ["thing"]


Breaking = Callable[[Simulator], Awaitable[None]]


async def down(simulator: Simulator) -> None:
    await simulator.go_down()


async def failing(simulator: Simulator) -> None:
    simulator.inject("*", Status(500))


async def refusing(simulator: Simulator) -> None:
    simulator.require_login("who", "knows")


async def nonsense(simulator: Simulator) -> None:
    simulator.inject("*", Body(b"<html><form></form></html>"))


@pytest.mark.parametrize("break_", [down, failing, refusing, nonsense])
async def test_a_broken_first_upstream_never_makes_the_second_one_speak(
    simulator: Simulator, second: Simulator, tmp_path: Path, break_: Breaking
) -> None:
    simulator.publish(LEFT)
    second.publish(RIGHT)
    await break_(simulator)
    async with mirroring(tmp_path / "data", simulator, second, network=patient()) as mirror:
        for path in ("/simple/thing/", f"/packages/thing/{RIGHT.filename}", "/pypi/thing/json"):
            reply = await mirror.get(path)
            assert reply.status in (502, 503)
            assert is_sentence(reply)
        assert second.count() == 0
        assert await held(mirror) == set()


async def test_a_first_upstream_that_is_down_is_passed_for_what_it_last_said_it_has_not(
    simulator: Simulator, second: Simulator, tmp_path: Path
) -> None:
    second.publish(RIGHT)
    async with mirroring(
        tmp_path / "data", simulator, second, network=patient(), pages={"negative": 0, "fresh": 0}
    ) as mirror:
        assert await filenames(mirror, "thing") == [RIGHT.filename]
        await simulator.go_down()
        assert await filenames(mirror, "thing") == [RIGHT.filename]
        assert (await mirror.get("/simple/other/")).status == 503


async def test_a_project_that_appears_at_the_first_upstream_wins_from_then_on(
    simulator: Simulator, second: Simulator, tmp_path: Path
) -> None:
    second.publish(RIGHT)
    async with mirroring(tmp_path / "data", simulator, second, pages={"negative": 0}) as mirror:
        assert (await mirror.get(f"/packages/thing/{RIGHT.filename}")).body == RIGHT.content
        simulator.publish(LEFT)
        (file,) = (await page_of(mirror, "thing", **NOW)).json()["files"]
        assert file["hashes"]["sha256"] == LEFT.sha256
        assert (await mirror.get(f"/packages/thing/{LEFT.filename}")).body == LEFT.content
