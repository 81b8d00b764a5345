"""Uploading as twine, uv, poetry and flit do: every answer, what is stored, and what pages then say."""

import base64
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.builders import Built, sdist, wheel
from tests.objects import local_files
from tests.serving import Reply, Serving, serving
from tests.uploading import basic, fields_of, form, make_token, send_form, upload

JSON = "application/vnd.pypi.simple.v1+json"


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Serving]:
    repositories = {"pypi": {"format": "pypi", "upstreams": []}}
    limits = {"upload": 300_000, "form": 50_000, "form_fields": 60, "shutdown_grace": 1}
    async with serving(tmp_path / "data", repositories, limits=limits) as mirror:
        yield mirror
        assert list((local_files(tmp_path / "data") / "incoming").iterdir()) == [], "nothing is left half way"


@pytest.fixture
async def token(mirror: Serving) -> str:
    return await make_token(mirror)


async def page(mirror: Serving, name: str) -> dict[str, Any]:
    reply = await mirror.get(f"simple/{name}/", Accept=JSON)
    assert reply.status == 200, reply.text
    document: dict[str, Any] = reply.json()
    return document


async def nothing_is_there(mirror: Serving, name: str = "acme") -> bool:
    return (await mirror.get(f"simple/{name}/")).status == 404 and await mirror.mirror.catalog.uploads.blobs() == set()


async def test_a_wheel_is_on_every_page_as_soon_as_it_is_answered(mirror: Serving, token: str) -> None:
    built = wheel("Acme.Tools", "1.0", requires_python=">=3.8", summary="Tools", requires=["six>=1"])
    assert (await upload(mirror, token, built)).status == 200

    (file,) = (await page(mirror, "acme-tools"))["files"]
    assert file["hashes"] == {"sha256": built.sha256}
    assert (file["size"], file["requires-python"], file["yanked"]) == (built.size, ">=3.8", False)
    assert file["core-metadata"] == {"sha256": hashlib.sha256(built.metadata).hexdigest()}
    assert (await page(mirror, "acme-tools"))["versions"] == ["1.0"]
    assert (await mirror.get(f"packages/acme-tools/{built.filename}")).body == built.content
    assert (await mirror.get(f"packages/acme-tools/{built.filename}.metadata")).body == built.metadata
    html = (await mirror.get("simple/acme-tools/")).text
    assert f"#sha256={built.sha256}" in html
    names = (await mirror.get("simple/", Accept=JSON)).json()["projects"]
    assert [entry["name"] for entry in names] == ["acme-tools"]


@pytest.mark.parametrize("make", [wheel, sdist])
async def test_the_json_api_says_all_that_the_file_says_of_itself(mirror: Serving, token: str, make: Any) -> None:
    extra = ["Home-page: https://acme.example/", "Classifier: Topic :: Utilities", "License: MIT"]
    built = make("acme", "2.0", requires=["six>=1"], requires_python=">=3.9", summary="It is", extra_metadata=extra)
    await upload(mirror, token, built)
    for path in ("pypi/acme/json", "pypi/acme/2.0/json"):
        document = (await mirror.get(path)).json()
        info = document["info"]
        assert (info["name"], info["version"], info["summary"]) == ("acme", "2.0", "It is")
        assert info["requires_dist"] == ["six>=1"]
        assert (info["requires_python"], info["license"]) == (">=3.9", "MIT")
        assert (info["home_page"], info["classifiers"]) == ("https://acme.example/", ["Topic :: Utilities"])
        (url,) = document["urls"]
        blake2b = hashlib.blake2b(built.content, digest_size=32).hexdigest()
        assert url["digests"] == {"sha256": built.sha256, "md5": built.md5, "blake2b_256": blake2b}
        assert (url["size"], url["filename"], url["requires_python"]) == (built.size, built.filename, ">=3.9")
        assert url["upload_time_iso_8601"].endswith("Z")
        assert (await mirror.get(url["url"].removeprefix(mirror.url))).body == built.content
        assert "releases" not in document or document["releases"]["2.0"] == [url]


@pytest.mark.parametrize("path", ["legacy/", "legacy", "", "simple/", "simple"])
async def test_every_url_that_clients_are_set_up_with_takes_uploads(mirror: Serving, token: str, path: str) -> None:
    assert (await upload(mirror, token, wheel("acme", "1.0"), path)).status == 200
    assert (await page(mirror, "acme"))["versions"] == ["1.0"]


async def test_the_same_bytes_again_are_fine_and_change_nothing(mirror: Serving, token: str) -> None:
    built = wheel("acme", "1.0")
    await upload(mirror, token, built)
    before = await page(mirror, "acme")
    assert (await upload(mirror, token, built)).status == 200
    assert await page(mirror, "acme") == before


async def test_other_bytes_under_the_same_name_are_refused_as_twine_expects(mirror: Serving, token: str) -> None:
    built = wheel("acme", "1.0")
    await upload(mirror, token, built)
    reply = await upload(mirror, token, wheel("acme", "1.0", files={"acme/more.py": b""}))
    assert reply.status == 400
    assert reply.text.startswith("File already exists (")
    assert reply.reason.startswith("File already exists (")
    assert (await mirror.get(f"packages/acme/{built.filename}")).body == built.content


async def test_the_name_of_a_deleted_file_is_not_used_again(mirror: Serving, token: str) -> None:
    built = wheel("acme", "1.0")
    await upload(mirror, token, built)
    await mirror.mirror.publishers["pypi"].delete(built.filename)
    assert await nothing_is_there(mirror)
    assert (await mirror.get(f"packages/acme/{built.filename}")).status == 404
    for again in (built, wheel("acme", "1.0", files={"acme/more.py": b""})):
        reply = await upload(mirror, token, again)
        assert (reply.status, "deleted here" in reply.text) == (400, True)
    assert (await upload(mirror, token, wheel("acme", "1.1"))).status == 200


async def test_another_spelling_of_a_name_is_no_other_file(mirror: Serving, token: str) -> None:
    built = sdist("Same", "1.0")
    assert (await upload(mirror, token, replace(built, filename="same-1.0.tar.gz"))).status == 200
    for filename in ("Same-1.0.tar.gz", "SAME-1.0.tar.gz"):
        other = sdist("Same", "1.0", files={"same/more.py": b""})
        for again in (built, other):
            reply = await upload(mirror, token, replace(again, filename=filename))
            assert reply.status == 400
            assert "same-1.0.tar.gz" in reply.text
            assert reply.text.endswith("publish another version.\n")
    await mirror.mirror.publishers["pypi"].delete("same-1.0.tar.gz")
    assert (await upload(mirror, token, replace(built, filename="SAME-1.0.tar.gz"))).status == 400
    assert (await upload(mirror, token, sdist("same", "1.1"))).status == 200
    dashes = sdist("a-b", "1.0")
    assert (await upload(mirror, token, replace(dashes, filename="a-b-1.0.tar.gz"))).status == 200
    assert (await upload(mirror, token, replace(dashes, filename="a_b-1.0.tar.gz"))).status == 400
    assert (await upload(mirror, token, wheel("a-b", "1.0"))).status == 200


async def test_a_form_whose_lines_end_in_lf_alone_is_refused_with_what_to_do(mirror: Serving, token: str) -> None:
    body = b'--x\nContent-Disposition: form-data; name=":action"\n\nfile_upload\n--x--\n'
    headers = {"Authorization": basic(token), "Content-Type": "multipart/form-data; boundary=x"}
    reply = await mirror.ask("POST", "legacy/", body, **headers)
    assert reply.status == 400
    assert "CR LF" in reply.text


async def test_a_yanked_file_says_so_with_its_reason_until_it_is_unyanked(mirror: Serving, token: str) -> None:
    built = wheel("acme", "1.0")
    await upload(mirror, token, built)
    writer = mirror.mirror.publishers["pypi"]
    await writer.yank(built.filename, 'broken "<b>"')
    assert (await page(mirror, "acme"))["files"][0]["yanked"] == 'broken "<b>"'
    assert 'data-yanked="broken &quot;&lt;b&gt;&quot;"' in (await mirror.get("simple/acme/")).text
    document = (await mirror.get("pypi/acme/json")).json()
    assert (document["info"]["yanked"], document["info"]["yanked_reason"]) == (True, 'broken "<b>"')
    assert (await mirror.get(f"packages/acme/{built.filename}")).status == 200
    await writer.unyank(built.filename)
    assert (await page(mirror, "acme"))["files"][0]["yanked"] is False


PARTS = "multipart/form-data; boundary=x"

BAD_FORMS: dict[str, tuple[dict[str, str | None], str]] = {
    "no action": ({"_action": None}, "':action'"),
    "another action": ({"_action": "submit"}, "'submit'"),
    "another protocol": ({"protocol_version": "2"}, "'protocol_version'"),
    "no name": ({"name": None}, "no 'name'"),
    "an empty version": ({"version": ""}, "no 'version'"),
    "another name": ({"name": "other"}, "'other'"),
    "a name that is none": ({"name": "../x"}, "cannot be the name"),
    "another version": ({"version": "2.0"}, "'2.0'"),
    "no filetype": ({"filetype": None}, "no 'filetype'"),
    "another filetype": ({"filetype": "sdist"}, "'filetype'"),
    "another pyversion": ({"pyversion": "source"}, "'pyversion'"),
    "another requires_python": ({"requires_python": ">=2"}, "requires Python"),
    "a wrong md5": ({"md5_digest": "0" * 32}, "md5"),
    "a wrong sha256": ({"sha256_digest": "0" * 64}, "sha256"),
    "a wrong blake2": ({"blake2_256_digest": "0" * 64}, "blake2b_256"),
    "attestations that are none": ({"attestations": "[{}]"}, "attestations"),
}


@pytest.mark.parametrize("what", BAD_FORMS)
async def test_a_form_that_does_not_agree_is_refused_and_nothing_is_kept(
    mirror: Serving, token: str, what: str
) -> None:
    changes, why = BAD_FORMS[what]
    reply = await upload(mirror, token, wheel("acme", "1.0"), **changes)
    assert reply.status == 400
    assert why in reply.text
    assert await nothing_is_there(mirror)


async def test_every_digest_may_be_given_and_spelled_in_capitals(mirror: Serving, token: str) -> None:
    built = wheel("acme", "1.0")
    blake2b = hashlib.blake2b(built.content, digest_size=32).hexdigest().upper()
    reply = await upload(mirror, token, built, blake2_256_digest=blake2b, sha256_digest=built.sha256.upper())
    assert reply.status == 200


@pytest.mark.parametrize("field", [":action", "name", "version", "sha256_digest", "filetype"])
async def test_a_field_that_is_there_twice_is_refused(mirror: Serving, token: str, field: str) -> None:
    built = wheel("acme", "1.0")
    fields = fields_of(built)
    data = form([*fields.items(), (field, fields[field])], built.filename, built.content)
    reply = await send_form(mirror, token, data)
    assert (reply.status, f"{field!r} 2 times" in reply.text) == (400, True)
    assert await nothing_is_there(mirror)


async def test_a_file_that_is_there_twice_or_not_at_all_is_refused(mirror: Serving, token: str) -> None:
    built = wheel("acme", "1.0")
    data = form(fields_of(built).items(), built.filename, built.content)
    data.add_field("content", built.content, filename=built.filename)
    assert (await send_form(mirror, token, data)).status == 400
    reply = await send_form(mirror, token, form(fields_of(built).items(), None))
    assert (reply.status, "no file" in reply.text) == (400, True)
    nameless = form(fields_of(built).items(), "", built.content)
    assert (await send_form(mirror, token, nameless)).status == 400
    assert await nothing_is_there(mirror)


@pytest.mark.parametrize(
    "filename",
    ["../acme-1.0-py3-none-any.whl", "acme.whl", "acme-1.0.tar.bz2", "acme-1.0.exe", "a" * 300 + "-1.0.tar.gz", "é"],
)
async def test_a_file_name_that_is_none_is_refused(mirror: Serving, token: str, filename: str) -> None:
    built = wheel("acme", "1.0")
    reply = await send_form(mirror, token, form(fields_of(built).items(), filename, built.content))
    assert reply.status == 400
    assert await nothing_is_there(mirror)


async def test_a_body_that_is_larger_than_the_limits_is_refused(mirror: Serving, token: str) -> None:
    reply = await upload(mirror, token, wheel("acme", "1.0", size=400_000))
    assert (reply.status, "is the limit" in reply.text) == (413, True)
    reply = await upload(mirror, token, wheel("acme", "1.0"), description="x" * 60_000)
    assert reply.status == 413
    built = wheel("acme", "1.0")
    many = [*fields_of(built).items(), *(("classifiers", "x") for _ in range(70))]
    assert (await send_form(mirror, token, form(many, built.filename, built.content))).status == 413
    assert await nothing_is_there(mirror)


async def test_a_body_larger_than_the_limit_is_refused_without_saying_its_length(mirror: Serving, token: str) -> None:
    data = form(fields_of(built := wheel("acme", "1.0", size=350_000)).items(), built.filename, built.content)
    payload = data()

    async def chunks() -> AsyncIterator[bytes]:
        yield await payload.as_bytes()

    from tests.uploading import basic

    headers = {"Content_Type": payload.headers["Content-Type"], "Authorization": basic(token)}
    reply = await mirror.ask("POST", "legacy/", chunks(), **headers)
    assert reply.status == 413
    assert await nothing_is_there(mirror)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"--x\r\n"),
        (PARTS, b""),
        (PARTS, b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\nno end"),
        (PARTS, b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n"),
        (
            PARTS,
            b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xff\r\n--x--\r\n',
        ),
        (
            PARTS,
            b"--x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y--\r\n--x--\r\n",
        ),
        (PARTS + "x" * 200, b""),
    ],
)
async def test_a_body_that_is_no_form_is_refused(mirror: Serving, token: str, content_type: str, body: bytes) -> None:
    from tests.uploading import basic

    reply = await mirror.ask("POST", "legacy/", body, Content_Type=content_type, Authorization=basic(token))
    assert reply.status == 400
    assert await nothing_is_there(mirror)


async def test_a_packed_body_and_another_sites_form_are_refused(mirror: Serving, token: str) -> None:
    from tests.uploading import basic

    for header, status in (({"Content_Encoding": "gzip"}, 400), ({"Sec_Fetch_Site": "cross-site"}, 403)):
        data = form(fields_of(built := wheel("acme", "1.0")).items(), built.filename, built.content)
        reply = await mirror.ask("POST", "legacy/", data, Authorization=basic(token), **header)
        assert reply.status == status
    assert await nothing_is_there(mirror)


async def test_whoever_has_no_right_is_refused_before_the_file_is_read(mirror: Serving) -> None:
    other = await make_token(mirror, ["upload"], ["other-*"])
    built = wheel("acme", "1.0", size=290_000)
    for secret, status in ((None, 401), ("mirror_" + "0" * 64, 401), (other, 403)):
        reply: Reply = await upload(mirror, secret, built)
        assert reply.status == status
        assert (status == 401) == reply.headers.get("WWW-Authenticate", "").startswith("Basic realm=")
    assert await nothing_is_there(mirror)


def attestation(built: Built, **changes: str) -> str:
    subject = {"name": changes.get("name", built.filename), "digest": {"sha256": changes.get("sha256", built.sha256)}}
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [subject],
        "predicateType": "x",
        "predicate": None,
    }
    envelope = {"statement": base64.b64encode(json.dumps(statement).encode()).decode(), "signature": "c2ln"}
    material = {"certificate": "Y2VydA==", "transparency_entries": [{"logIndex": "1"}]}
    return json.dumps([{"version": 1, "verification_material": material, "envelope": envelope}])


async def test_attestations_are_kept_and_served_as_provenance(mirror: Serving, token: str) -> None:
    built = wheel("acme", "1.0")
    sent = attestation(built)
    assert (await upload(mirror, token, built, attestations=sent)).status == 200
    (file,) = (await page(mirror, "acme"))["files"]
    path = "integrity/acme/1.0/acme-1.0-py3-none-any.whl/provenance"
    assert file["provenance"].endswith(path)
    reply = await mirror.get(path)
    assert reply.headers["Content-Type"] == "application/vnd.pypi.integrity.v1+json"
    document = reply.json()
    assert document["version"] == 1
    (bundle,) = document["attestation_bundles"]
    assert bundle["attestations"] == json.loads(sent)
    assert isinstance(bundle["publisher"]["kind"], str)


@pytest.mark.parametrize("changes", [{"name": "other.whl"}, {"sha256": "0" * 64}])
async def test_an_attestation_of_something_else_is_refused(
    mirror: Serving, token: str, changes: dict[str, str]
) -> None:
    built = wheel("acme", "1.0")
    reply = await upload(mirror, token, built, attestations=attestation(built, **changes))
    assert (reply.status, "about another file" in reply.text) == (400, True)
    assert await nothing_is_there(mirror)


async def test_text_out_of_metadata_is_escaped_on_html_pages(mirror: Serving, token: str) -> None:
    evil = '"><script>alert(1)</script>'
    built = wheel("acme", "1.0", summary=evil, requires_python=">=3,<4")
    await upload(mirror, token, built)
    html = (await mirror.get("simple/acme/")).text
    assert "<script" not in html
    assert 'data-requires-python="&gt;=3,&lt;4"' in html
    assert (await mirror.get("pypi/acme/json")).json()["info"]["summary"] == evil
