"""The JSON API."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from mirror.errors import NotFound
from mirror.model import File, Project
from mirror.pypi import legacy
from mirror.pypi.legacy import latest_version
from mirror.pypi.metadata import info_from_metadata

SHA = "0123456789abcdef" * 4
METADATA = b"Metadata-Version: 2.1\nName: Foo\nVersion: 2.0\nSummary: Ours\nRequires-Dist: six\n\nText\n"


def file(filename: str, version: str, **fields: Any) -> File:
    return File(filename=filename, version=version, url=f"https://files.example/x/{filename}", **fields)


OLD = file("foo-1.0.tar.gz", "1.0", yanked="broken", digests={"sha256": SHA}, size=5, requires=">=3")
NEW = file(
    "foo-2.0-py2.py3-none-any.whl",
    "2.0",
    digests={"sha256": SHA, "md5": "a" * 32, "blake2b_256": "b" * 64},
    size=7,
    uploaded=datetime(2024, 2, 5, 22, 28, 58, 645773, UTC),
    requires=">=3.8",
)
PROJECT = Project(name="foo", files=(OLD, NEW), versions=("0.5", "1.0", "2.0"), serial=9)
UPSTREAM = {
    "info": {**info_from_metadata(b""), "name": "Foo", "version": "2.0", "summary": "Theirs", "x-info": 1},
    "last_serial": 3,
    "ownership": {"organization": "acme", "roles": []},
    "releases": {
        "1.0": [{"filename": "foo-1.0.tar.gz", "url": "https://files.example/u", "digests": {"sha256": SHA, "md5": "c"},
                 "downloads": -1, "upload_time": "2020-01-01T00:00:00", "x-file": 1}],
        "3.0": [{"filename": "foo-3.0.tar.gz", "url": "https://files.example/hidden"}],
    },
    "urls": [],
    "vulnerabilities": [{"id": "PYSEC-1"}],
    "x-page": 1,
}  # fmt: skip


def render(
    project: Project = PROJECT, upstream: object = None, version: str | None = None, metadata: bytes | None = METADATA
) -> dict[str, Any]:
    body = upstream if isinstance(upstream, bytes) or upstream is None else json.dumps(upstream).encode()
    found = json.loads(
        legacy.render(project, body, version, lambda file: f"https://ours/packages/{file.filename}", metadata)
    )
    assert isinstance(found, dict)
    return found


def test_everything_is_derived_without_an_upstream() -> None:
    page = render()
    assert page.keys() == {"info", "last_serial", "ownership", "releases", "urls", "vulnerabilities"}
    assert page["last_serial"] == 9
    assert page["info"] == info_from_metadata(METADATA) | {"requires_python": ">=3.8"}
    assert list(page["releases"]) == ["0.5", "1.0", "2.0"]
    assert page["releases"]["0.5"] == []
    assert page["urls"] == page["releases"]["2.0"]
    assert page["urls"] == [
        {
            "comment_text": "",
            "digests": {"blake2b_256": "b" * 64, "md5": "a" * 32, "sha256": SHA},
            "downloads": -1,
            "filename": "foo-2.0-py2.py3-none-any.whl",
            "has_sig": False,
            "md5_digest": "a" * 32,
            "packagetype": "bdist_wheel",
            "python_version": "py2.py3",
            "requires_python": ">=3.8",
            "size": 7,
            "upload_time": "2024-02-05T22:28:58",
            "upload_time_iso_8601": "2024-02-05T22:28:58.645773Z",
            "url": "https://ours/packages/foo-2.0-py2.py3-none-any.whl",
            "yanked": False,
            "yanked_reason": None,
        }
    ]


def test_one_version_has_its_files_and_its_yank_and_no_releases() -> None:
    page = render(version="1.0.0")
    assert "releases" not in page
    assert [each["filename"] for each in page["urls"]] == ["foo-1.0.tar.gz"]
    assert (page["urls"][0]["packagetype"], page["urls"][0]["python_version"]) == ("sdist", "source")
    assert (page["urls"][0]["yanked"], page["urls"][0]["yanked_reason"]) == (True, "broken")
    assert (page["info"]["version"], page["info"]["yanked_reason"]) == ("1.0", "broken")
    assert page["info"]["requires_dist"] is None, "the metadata given is that of another version"


def test_what_upstream_says_beyond_files_is_passed_through() -> None:
    page = render(upstream=UPSTREAM)
    assert page["info"]["summary"] == "Theirs"
    assert page["info"]["x-info"] == 1
    assert page["ownership"]["organization"] == "acme"
    assert page["vulnerabilities"] == [{"id": "PYSEC-1"}]
    assert page["x-page"] == 1
    assert page["last_serial"] == 9
    old = page["releases"]["1.0"][0]
    assert (old["x-file"], old["upload_time"], old["md5_digest"]) == (1, "2020-01-01T00:00:00", "c")


def test_no_file_and_no_address_that_the_project_lacks_is_shown() -> None:
    page = render(upstream=UPSTREAM)
    assert "3.0" not in page["releases"]
    assert "files.example" not in json.dumps(page)


def test_info_of_a_hidden_version_is_not_shown() -> None:
    hidden = {**UPSTREAM, "info": {**info_from_metadata(b""), "version": "3.0", "summary": "Hidden"}}
    page = render(upstream=hidden, metadata=None)
    assert (page["info"]["version"], page["info"]["summary"]) == ("2.0", None)
    assert page["vulnerabilities"] == []


def test_what_upstream_says_of_another_file_of_that_name_is_not_passed_on() -> None:
    other = {**UPSTREAM, "urls": [{"filename": NEW.filename, "digests": {"sha256": "f" * 64, "md5": "f"}, "x": 1}]}
    entry = render(upstream=other)["urls"][0]
    assert entry["digests"]["md5"] == "a" * 32
    assert "x" not in entry


@pytest.mark.parametrize(
    "upstream",
    [b"", b"<html>", b"[]", b"{}", {"info": 7, "releases": [], "urls": {}}, {"releases": {"1": 7}, "urls": [7, {}]},
     {"info": {"version": 7}, "urls": [{"filename": "foo-1.0.tar.gz", "digests": 7}]}],
)  # fmt: skip
def test_an_upstream_document_that_is_none_does_no_harm(upstream: object) -> None:
    assert render(upstream=upstream)["info"]["summary"] == "Ours"


def test_a_version_that_the_project_lacks_is_not_found() -> None:
    with pytest.raises(NotFound):
        render(version="3.0", upstream=UPSTREAM)


@pytest.mark.parametrize(
    ("files", "latest"),
    [
        (["1.0", "2.0", "10.0"], "10.0"),
        (["1.0", "2.0rc1"], "1.0"),
        (["1.0rc1", "1.0rc2"], "1.0rc2"),
        (["1.0", "yanked 2.0"], "1.0"),
        (["yanked 1.0", "yanked 2.0"], "2.0"),
        (["old", "0.1"], "0.1"),
        ([], None),
    ],
)
def test_the_latest_version_is_the_newest_final_one_that_is_not_yanked(files: list[str], latest: str | None) -> None:
    def make(text: str) -> File:
        version = text.removeprefix("yanked ")
        return file(f"foo-{version}.tar.gz", version, yanked="" if version != text else None)

    assert latest_version(Project(name="foo", files=tuple(map(make, files)))) == latest


def test_a_project_without_files_has_a_document() -> None:
    page = render(Project(name="foo"), metadata=None)
    assert (page["releases"], page["urls"], page["info"]["name"]) == ({}, [], "foo")
