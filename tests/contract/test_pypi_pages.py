"""The simple pages, the JSON API and provenance, through a mirror of a simulated index."""

import gzip
import json
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from mirror.index.packing import zstd
from tests.builders import sdist, wheel
from tests.serving import Serving
from tests.simulator import Simulator
from tests.uploading import make_token, upload

from .pypi import HTML, JSON, NOW, filenames, is_sentence, mirroring, page_of, stored

SIX = wheel("six", "1.16", requires_python=">=2.7, !=3.0.*")


@pytest.fixture
async def mirror(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Serving]:
    async with mirroring(tmp_path / "data", simulator) as running:
        yield running


class Links(HTMLParser):
    """The anchors and metas of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.anchors: dict[str, dict[str, str | None]] = {}
        self.metas: dict[str | None, str | None] = {}
        self._open: dict[str, str | None] | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._open = dict(attrs)
        elif tag == "meta":
            self.metas[dict(attrs).get("name")] = dict(attrs).get("content")

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.anchors[data], self._open = self._open, None


# Once from upstream, then from memory


async def test_a_page_is_fetched_once_and_kept(mirror: Serving, simulator: Simulator) -> None:
    simulator.publish(SIX)
    first, second = await page_of(mirror, "six"), await page_of(mirror, "six")
    assert (first.outcome, second.outcome) == ("miss", "hit")
    assert first.body == second.body
    assert first.headers["ETag"] == second.headers["ETag"]
    assert await stored(mirror, simulator, "project", "six") is not None
    assert simulator.count("GET", "/simple/six/") == simulator.count() == 1


async def test_the_other_form_of_a_page_asks_nobody(mirror: Serving, simulator: Simulator) -> None:
    simulator.publish(SIX)
    await page_of(mirror, "six")
    reply = await mirror.get("/simple/six/", Accept="text/html")
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert reply.outcome == "hit"
    assert simulator.count() == 1


async def test_a_project_that_is_nowhere_is_a_404_that_is_remembered(mirror: Serving, simulator: Simulator) -> None:
    for _ in range(2):
        reply = await mirror.get("/simple/nothing/", Accept=JSON)
        assert reply.status == 404
        assert is_sentence(reply)
    assert await stored(mirror, simulator, "project", "nothing") is None
    assert simulator.count() == 1


async def test_pages_come_back_after_a_restart_without_a_question(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(SIX)
    async with mirroring(tmp_path / "data", simulator) as mirror:
        before = await page_of(mirror, "six")
    async with mirroring(tmp_path / "data", simulator) as mirror:
        after = await page_of(mirror, "six")
    assert (after.outcome, after.body) == ("hit", before.body)
    assert after.headers["ETag"] == before.headers["ETag"]
    assert simulator.count() == 1


# Every field


def publish_everything(simulator: Simulator) -> None:
    simulator.publish(wheel("full", "1.0"), yanked='broken on "<Windows>" & elsewhere')
    simulator.publish(wheel("full", "1.1"), yanked="")
    simulator.publish(
        wheel("full", "2.0", requires_python=">=3.9"), provenance=True, extra={"x-tomorrow": {"deep": [1, None, "ü"]}}
    )
    simulator.publish(sdist("full", "2.0", requires_python=">=3.9"), extra={"gpg-sig": True})
    simulator.set_status("full", "archived", "It moved to <elsewhere>.")
    simulator.pypi.projects["full"].extra = {"x-project": ["kept"]}


async def test_every_field_of_the_json_page_survives(mirror: Serving, simulator: Simulator) -> None:
    publish_everything(simulator)
    theirs: dict[str, Any] = simulator.pypi._pages.project_json(
        simulator.pypi.projects["full"], simulator.pypi.modes_of("full")
    )
    ours = (await page_of(mirror, "full")).json()
    assert {key: ours[key] for key in theirs if key != "files"} == {
        key: value for key, value in theirs.items() if key != "files"
    }
    assert ours["meta"]["api-version"] == "1.4"
    for their, our in zip(theirs["files"], ours["files"], strict=True):
        moved = {"url", "provenance", "upload-time", "data-dist-info-metadata"}
        # An index may say false where we say nothing: both mean that there is none.
        expected = {key: value for key, value in their.items() if key not in moved and value not in (None, False)}
        assert {key: our[key] for key in expected} == expected
        assert our["upload-time"].rstrip("Z") in their["upload-time"].rstrip("Z")
        assert our["yanked"] == their["yanked"]
        assert our["requires-python"] == their["requires-python"]
        assert "data-dist-info-metadata" not in our  # some pips fall over it
        assert ("provenance" in our) == (their["provenance"] is not None)


async def test_what_html_can_carry_survives_in_html(mirror: Serving, simulator: Simulator) -> None:
    publish_everything(simulator)
    reply = await mirror.get("/simple/full/", Accept=HTML)
    assert reply.headers["Content-Type"] == HTML
    page = Links(reply.text)
    assert page.metas["pypi:repository-version"] == "1.4"
    assert page.metas["pypi:project-status"] == "archived"
    assert page.metas["pypi:project-status-reason"] == "It moved to <elsewhere>."
    first, bare, second = (page.anchors[f"full-{version}-py3-none-any.whl"] for version in ("1.0", "1.1", "2.0"))
    assert first["data-yanked"] == 'broken on "<Windows>" & elsewhere'
    assert bare["data-yanked"] == ""
    assert second["data-requires-python"] == ">=3.9"
    assert second["data-core-metadata"] == second["data-dist-info-metadata"] != "true"
    assert str(second["href"]).endswith(f"#sha256={wheel('full', '2.0', requires_python='>=3.9').sha256}")
    assert str(second["data-provenance"]).endswith("/provenance")
    assert page.anchors["full-2.0.tar.gz"]["data-gpg-sig"] == "true"


async def test_file_urls_stay_below_the_mount(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(SIX)
    async with mirroring(tmp_path / "data", simulator, repository={"mount": "/team"}) as mirror:
        reply = await mirror.get("/team/simple/six/", Accept=JSON)
        (file,) = reply.json()["files"]
        link = urljoin(f"{mirror.url}team/simple/six/", file["url"])
        assert link == f"{mirror.url}team/packages/six/{SIX.filename}"
        assert (await mirror.get(link.removeprefix(mirror.url))).body == SIX.content
        assert (await mirror.get("/simple/six/")).status == 404
    assert simulator.count("GET", "*.whl") == 1


# What the client asks for


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.1, text/html;q=0.01", JSON),
        ("application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01", JSON),
        ("application/vnd.pypi.simple.v1+json, */*;q=0.1", JSON),
        ("application/vnd.pypi.simple.latest+json", JSON),
        ("application/vnd.pypi.simple.latest+html", HTML),
        (HTML, HTML),
        ("text/html", "text/html; charset=utf-8"),
        ("*/*", "text/html; charset=utf-8"),
        ("", "text/html; charset=utf-8"),
        ("image/png", "text/html; charset=utf-8"),  # PEP 691 allows it instead of a 406; people see more than an error
    ],
)
async def test_the_accept_header_chooses_the_form(
    mirror: Serving, simulator: Simulator, accept: str, media_type: str
) -> None:
    simulator.publish(SIX)
    reply = await mirror.get("/simple/six/", **({"Accept": accept} if accept else {}))
    assert (reply.status, reply.headers["Content-Type"]) == (200, media_type)
    assert {part.strip() for part in reply.headers["Vary"].split(",")} == {"Accept", "Accept-Encoding"}
    assert SIX.filename in reply.text


@pytest.mark.parametrize("wanted", [JSON, JSON.replace("+", "%2B"), JSON.replace("v1", "latest"), HTML, "text/html"])
async def test_format_in_the_query_counts_more_than_accept(mirror: Serving, simulator: Simulator, wanted: str) -> None:
    simulator.publish(SIX)
    reply = await mirror.get(f"/simple/six/?format={wanted}", Accept="text/html" if "json" in wanted else JSON)
    expected = wanted.replace("%2B", "+").replace("latest", "v1")
    assert reply.headers["Content-Type"].partition(";")[0] == expected


@pytest.mark.parametrize(("coding", "unpack"), [("gzip", gzip.decompress), ("zstd", zstd.decompress)])
async def test_compressed_pages_are_the_same_page_with_an_etag_of_their_own(
    mirror: Serving, simulator: Simulator, coding: str, unpack: Any
) -> None:
    for number in range(20):
        simulator.publish(wheel("many", f"1.{number}"))
    plain = await page_of(mirror, "many", Accept_Encoding=coding)
    assert "Content-Encoding" not in plain.headers, "the first client waits for no compressor"
    packed = await page_of(mirror, "many", Accept_Encoding=coding)
    assert packed.headers["Content-Encoding"] == coding
    assert int(packed.headers["Content-Length"]) == len(packed.body) < len(plain.body)
    assert unpack(packed.body) == plain.body
    assert packed.headers["ETag"] != plain.headers["ETag"]
    for reply, encoding, status in (
        (packed, coding, 304),
        (packed, "identity", 200),
        (plain, coding, 304),  # as the first client asks again
        (plain, "identity", 304),
    ):
        again = await mirror.get(
            "/simple/many/", Accept=JSON, Accept_Encoding=encoding, If_None_Match=reply.headers["ETag"]
        )
        assert again.status == status
        if status == 304:
            assert again.body == b""
            assert again.headers["ETag"] == reply.headers["ETag"]
            assert again.headers["Vary"] == reply.headers["Vary"]
            assert again.headers["Cache-Control"] == reply.headers["Cache-Control"]
    assert simulator.count() == 1


async def test_a_small_page_is_not_compressed_and_its_304_fits(mirror: Serving, simulator: Simulator) -> None:
    reply = await mirror.get("/simple/", Accept=JSON, Accept_Encoding="gzip, deflate, zstd")
    assert "Content-Encoding" not in reply.headers
    again = await mirror.get(
        "/simple/", Accept=JSON, Accept_Encoding="gzip, deflate, zstd", If_None_Match=f'W/{reply.headers["ETag"]}, "x"'
    )
    assert again.status == 304


@pytest.mark.parametrize("path", ["/simple/", "/simple/six/", "/pypi/six/json"])
async def test_head_is_get_without_the_body(mirror: Serving, simulator: Simulator, path: str) -> None:
    simulator.publish(SIX)
    await mirror.get(path)
    head, get = await mirror.head(path), await mirror.get(path)
    assert (head.status, head.body) == (200, b"")
    changing = {"Date"}
    assert {k: v for k, v in head.headers.items() if k not in changing} == {
        k: v for k, v in get.headers.items() if k not in changing
    }


# Addresses


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/simple/Six/", "/simple/six/"),
        ("/simple/six", "/simple/six/"),
        ("/simple/S.I_X?format=x&y=%20z", "/simple/s-i-x/?format=x&y=%20z"),
        ("/pypi/Six/json", "/pypi/six/json"),
        ("/pypi/Six/1.0/json", "/pypi/six/1.0/json"),
        ("/simple//six/", "/simple/six/"),
        ("///simple//six//?format=x&y=%20//z", "/simple/six/?format=x&y=%20//z"),
        ("//simple/", "/simple/"),
        ("/packages//six/s%2F%2Fx.whl", "/packages/six/s%2F%2Fx.whl"),
    ],
)
async def test_names_have_one_address(mirror: Serving, simulator: Simulator, path: str, location: str) -> None:
    reply = await mirror.get(path)
    assert (reply.status, reply.headers["Location"]) == (301, location)
    assert simulator.count() == 0


async def test_the_root_list_has_names_and_serials(mirror: Serving, simulator: Simulator) -> None:
    simulator.publish(SIX)
    simulator.publish(wheel("Zope.Interface", "1"))
    for path in ("/simple/", "/simple"):  # bandersnatch asks for it without the slash
        reply = await mirror.get(path, Accept=JSON)
        page = reply.json()
        assert reply.headers["X-PyPI-Last-Serial"] == "1002"
        assert page["meta"] == {"api-version": "1.4", "_last-serial": 1002}
        assert page["projects"] == [
            {"name": "six", "_last-serial": 1001},
            {"name": "Zope.Interface", "_last-serial": 1002},
        ]
    html = Links((await mirror.get("/simple/", Accept="text/html")).text)
    assert {name: anchor["href"] for name, anchor in html.anchors.items()} == {
        "six": "six/",
        "Zope.Interface": "zope-interface/",
    }
    assert simulator.count("GET", "/simple/") == simulator.count() == 1


# How old a page may be


async def test_max_age_0_asks_upstream_now(mirror: Serving, simulator: Simulator) -> None:
    simulator.publish(SIX)
    await page_of(mirror, "six")
    simulator.publish(wheel("six", "1.17"))
    assert len(await filenames(mirror, "six")) == 1
    for headers in (NOW, {"Cache_Control": "no-cache"}, {"Pragma": "no-cache"}):
        reply = await page_of(mirror, "six", **headers)
        assert len(reply.json()["files"]) == 2
        assert reply.outcome == "miss"
    assert (await page_of(mirror, "six")).outcome == "hit"
    # The first question brought the new page, the others only its confirmation.
    assert [request.status for request in simulator.asked("GET", "/simple/six/")] == [200, 200, 304, 304]


async def test_a_stale_page_is_served_at_once_and_refreshed_behind(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(SIX)
    ages = {"fresh": 0, "stale_while_revalidate": "1h"}
    async with mirroring(tmp_path / "data", simulator, pages=ages) as mirror:
        await page_of(mirror, "six")
        simulator.publish(wheel("six", "1.17"))
        reply = await page_of(mirror, "six")
        assert (reply.outcome, len(reply.json()["files"])) == ("stale", 1)
        await simulator.until(lambda: simulator.count("GET", "/simple/six/", status=200) == 2)
        while len(await filenames(mirror, "six")) == 1:
            pass
    assert simulator.count("GET", "/simple/six/", status=200) == 2


async def test_past_all_ages_a_page_is_asked_for_conditionally(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(SIX)
    async with mirroring(tmp_path / "data", simulator, pages={"fresh": 0, "stale_while_revalidate": 0}) as mirror:
        first, second = await page_of(mirror, "six"), await page_of(mirror, "six")
        assert first.body == second.body
        simulator.publish(wheel("six", "1.17"))
        assert len(await filenames(mirror, "six")) == 2
    assert [request.status for request in simulator.asked("GET", "/simple/six/")] == [200, 304, 200]


async def test_how_long_a_missing_project_is_believed_missing_is_a_setting(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with mirroring(tmp_path / "data", simulator, pages={"negative": 0}) as mirror:
        assert (await mirror.get("/simple/six/")).status == 404
        simulator.publish(SIX)
        assert await filenames(mirror, "six") == [SIX.filename]


async def test_a_project_that_upstream_removes_is_gone(mirror: Serving, simulator: Simulator) -> None:
    simulator.publish(SIX)
    await page_of(mirror, "six")
    simulator.remove("six")
    assert (await mirror.get("/simple/six/", **NOW)).status == 404
    assert (await mirror.get("/simple/six/")).status == 404
    assert simulator.count("GET", "/simple/six/") == 2


# The JSON API and provenance


async def test_the_json_api_serves_what_upstream_says_with_our_urls(mirror: Serving, simulator: Simulator) -> None:
    simulator.publish(SIX)
    simulator.publish(wheel("six", "1.17"), yanked="too new")
    reply = await mirror.get("/pypi/six/json")
    assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
    assert reply.headers["X-PyPI-Last-Serial"] == "1002"
    page = reply.json()
    assert page["last_serial"] == 1002
    assert page["info"]["summary"] == "The six of the tests"
    assert set(page["releases"]) == {"1.16", "1.17"}
    (file,) = page["releases"]["1.16"]
    assert file["url"] == f"{mirror.url}packages/six/{SIX.filename}"
    assert file["digests"]["sha256"] == SIX.sha256
    assert file["packagetype"] == "bdist_wheel"
    assert page["releases"]["1.17"][0]["yanked_reason"] == "too new"
    assert await stored(mirror, simulator, "legacy", "six") is not None
    assert (await mirror.get("/pypi/six/json")).outcome == "hit"
    assert simulator.count("GET", "/pypi/six/json") == 1

    one = (await mirror.get("/pypi/six/1.16/json")).json()
    assert one["info"]["version"] == "1.16"
    assert [entry["filename"] for entry in one["urls"]] == [SIX.filename]
    assert "releases" not in one
    missing = await mirror.get("/pypi/six/9.9/json")
    assert missing.status == 404
    assert is_sentence(missing)


async def test_an_answer_is_a_hit_only_when_all_of_its_parts_were(mirror: Serving, simulator: Simulator) -> None:
    simulator.publish(SIX, provenance=True)
    await page_of(mirror, "six")
    for path in ("/pypi/six/json", f"/integrity/six/1.16/{SIX.filename}/provenance"):
        assert [(await mirror.get(path)).outcome for _ in range(2)] == ["miss", "hit"]


async def test_the_json_api_is_derived_where_upstream_has_none(mirror: Serving, simulator: Simulator) -> None:
    simulator.pypi.configure(legacy_json=False)
    simulator.publish(SIX)
    page = (await mirror.get("/pypi/six/json")).json()
    assert page["info"]["summary"] == "The six of the tests"
    assert page["info"]["requires_python"] == ">=2.7, !=3.0.*"
    assert [entry["filename"] for entry in page["urls"]] == [SIX.filename]
    assert simulator.count("GET", "*.metadata") == 1


async def test_a_newer_serial_in_the_root_list_makes_a_page_old(mirror: Serving, simulator: Simulator) -> None:
    """bandersnatch compares the two, and takes a page that is behind the list for broken."""
    simulator.publish(SIX)
    await mirror.get("/pypi/six/json")
    simulator.publish(wheel("six", "1.17"))
    listing = (await mirror.get("/simple/", Accept=JSON, **NOW)).json()
    assert listing["projects"] == [{"name": "six", "_last-serial": 1002}]
    reply = await mirror.get("/pypi/six/json")
    assert reply.headers["X-PyPI-Last-Serial"] == "1002"
    assert set(reply.json()["releases"]) == {"1.16", "1.17"}
    assert simulator.count("GET", "/simple/six/") == 2
    await mirror.get("/pypi/six/json")
    assert simulator.count("GET", "/simple/six/") == 2


async def test_provenance_is_passed_through_and_kept(mirror: Serving, simulator: Simulator) -> None:
    entry = simulator.publish(SIX, provenance=True)
    (file,) = (await page_of(mirror, "six")).json()["files"]
    path = urljoin("/simple/six/", file["provenance"])
    assert path == f"/integrity/six/1.16/{SIX.filename}/provenance"
    first, second = await mirror.get(path), await mirror.get(path)
    assert first.headers["Content-Type"] == "application/vnd.pypi.integrity.v1+json"
    assert json.loads(first.body) == entry.provenance
    assert second.body == first.body
    assert simulator.count("GET", "/integrity/*") == 1


def stating(statement: object, version: int = 1) -> dict[str, Any]:
    """A document of the form of PEP 740 with one attestation."""
    attestation = {"version": 1, "envelope": {"statement": statement, "signature": ""}, "verification_material": {}}
    return {"version": version, "attestation_bundles": [{"publisher": {}, "attestations": [attestation]}]}


@pytest.mark.parametrize(
    "lie",
    [
        {"AccessKeyId": "secret"},
        {"version": 1, "attestation_bundles": []},
        {
            "version": 2,
            "attestation_bundles": [{"attestations": [{"envelope": {"statement": {"sha256": SIX.sha256}}}]}],
        },
        {"version": 1, "attestation_bundles": [{"attestations": [{"envelope": {"statement": {"sha256": "0" * 64}}}]}]},
        {"version": 1, "attestation_bundles": [{"attestations": [{"envelope": {"statement": "no base64"}}]}]},
        {"version": 1, "attestation_bundles": [{"attestations": ["secret"]}]},
    ],
    ids=str,
)
async def test_what_is_no_provenance_of_the_file_is_not_shown(
    mirror: Serving, simulator: Simulator, lie: dict[str, Any]
) -> None:
    simulator.publish(SIX, provenance=lie)
    reply = await mirror.get(f"/integrity/six/1.16/{SIX.filename}/provenance")
    assert reply.status == 502
    assert is_sentence(reply)
    assert "secret" not in reply.text


async def test_a_file_without_provenance_has_none(mirror: Serving, simulator: Simulator) -> None:
    simulator.publish(SIX)
    reply = await mirror.get(f"/integrity/six/1.16/{SIX.filename}/provenance")
    assert reply.status == 404
    assert is_sentence(reply)
    assert simulator.count("GET", "/integrity/*") == 0


async def test_links_of_the_json_api_are_not_what_a_client_says_of_itself(
    mirror: Serving, simulator: Simulator
) -> None:
    simulator.publish(SIX)
    for told in ("https", "javascript", ""):
        page = (await mirror.get("/pypi/six/json", X_Forwarded_Proto=told)).json()
        assert page["urls"][0]["url"].startswith("http://127.0.0.1:")
    reply = await mirror.get("/pypi/six/json", Host='x"><script>')
    assert reply.status == 400
    assert is_sentence(reply)


# Addresses of other tools


@pytest.mark.parametrize(
    ("asked", "led_to"),
    [
        ("/simple/index.html", "/simple/"),
        ("/simple/Odd.Name/index.html", "/simple/odd-name/"),
        ("/packages/source/o/Odd_Name/odd_name-1.0.tar.gz", "/packages/odd-name/odd_name-1.0.tar.gz"),
        (
            "/packages/py3/o/odd-name/odd_name-1.0%2Bx-py3-none-any.whl",
            "/packages/odd-name/odd_name-1.0%2Bx-py3-none-any.whl",
        ),
        ("/at/2030-01-01/simple/odd-name/index.html", "/at/2030-01-01/simple/odd-name/"),
    ],
)
async def test_other_addresses_of_a_page_or_file_lead_to_it(
    mirror: Serving, simulator: Simulator, asked: str, led_to: str
) -> None:
    local = wheel("odd_name", "1.0+x")
    simulator.publish(sdist("odd_name", "1.0"))
    simulator.publish(local)
    reply = await mirror.get(asked)
    assert (reply.status, reply.headers["Location"]) == (301, led_to)
    assert (await mirror.get(led_to)).status == 200


@pytest.mark.parametrize(
    "path", ["/packages/source/o/-odd/x-1.zip", "/packages/source/o/odd/.x", "/simple/-/index.html"]
)
async def test_other_addresses_of_what_cannot_be_are_unknown(mirror: Serving, path: str) -> None:
    reply = await mirror.get(path)
    assert reply.status == 404
    assert is_sentence(reply)


async def test_the_json_api_is_found_with_a_slash_behind_it(mirror: Serving, simulator: Simulator) -> None:
    simulator.publish(SIX)
    for path in ("/pypi/six/json", "/pypi/six/1.16/json"):
        assert (await mirror.get(f"{path}/")).json() == (await mirror.get(path)).json()


# Who is told at once


async def test_pages_of_projects_with_uploads_are_asked_for_each_time(mirror: Serving, simulator: Simulator) -> None:
    simulator.publish(SIX)
    token = await make_token(mirror)
    assert (await upload(mirror, token, wheel("own", "1.0"))).status == 200
    for path in ("/simple/own/", "/pypi/own/json"):
        page = await mirror.get(path)
        assert page.headers["Cache-Control"] == "no-cache"
        again = await mirror.get(path, If_None_Match=page.headers["ETag"])
        assert (again.status, again.headers["Cache-Control"]) == (304, "no-cache")
    before = await page_of(mirror, "own")
    assert (await upload(mirror, token, wheel("own", "1.1"))).status == 200
    after = await page_of(mirror, "own", If_None_Match=before.headers["ETag"])
    assert after.json()["versions"] == ["1.0", "1.1"]
    for path in ("/simple/six/", "/pypi/six/json"):
        assert (await mirror.get(path)).headers["Cache-Control"] == "max-age=600"


# Odd values


@pytest.mark.parametrize(
    "odd",
    [
        {"versions": ["1" * 5000]},
        {"meta": {"api-version": "1.1", "_last-serial": 10**30}},
        {"project-status": {"status": []}},
        {"project-status": {"status": "archived", "reason": {"a": 1}}},
        {"x": "[" * 500},
        {"size": 2**64},
        {"upload-time": "0001-01-01T00:00:00+23:59"},
        {"upload-time": "9999-12-31T23:59:59-23:59"},
        {"upload-time": "9999-12-31T23:59:59Z"},
        {"yanked": {"reason": "x"}},
        {"requires-python": "x" * 100_000},
        {"hashes": {"sha256": ["x"], "": "", "x" * 999: "ab" * 30}},
        {"core-metadata": {"sha256": 7}},
    ],
    ids=str,
)
@pytest.mark.parametrize("policies", [[], [{"name": "rest", "kind": "cooldown", "reason": "young", "age": "3 days"}]])
async def test_an_odd_value_on_a_page_breaks_nothing(
    simulator: Simulator, tmp_path: Path, odd: dict[str, Any], policies: list[dict[str, Any]]
) -> None:
    built = sdist("odd", "1.0")
    simulator.publish(built, extra=odd)
    simulator.pypi.projects["odd"].extra = odd
    settings = {"policy": policies} if policies else {}
    async with mirroring(tmp_path / "data", simulator, **settings) as mirror:
        answers = {
            path: (await mirror.get(path, Accept=accept)).status
            for path, accept in (
                ("/simple/odd/", JSON),
                ("/simple/odd/", HTML),
                ("/pypi/odd/json", "*/*"),
                ("/pypi/odd/1.0/json", "*/*"),
                (f"/packages/odd/{built.filename}", "*/*"),
                ("/-/explain/pypi/odd", "*/*"),
                ("/-/projects/pypi/odd/", HTML),
                ("/at/2026-01-01/simple/odd/", JSON),
            )
        }
    assert not {path: status for path, status in answers.items() if status >= 500}, answers
    assert answers["/simple/odd/"] == 200
