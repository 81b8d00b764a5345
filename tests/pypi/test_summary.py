"""What a Python project says of itself to people: read leniently, from whatever says it."""

import msgspec
import pytest

from mirror.errors import Invalid
from mirror.model import File, Project, ProjectSummary
from mirror.pypi import clients, summary
from tests.builders import metadata

WHEEL = File(filename="a-1.0-py3-none-any.whl", version="1.0", requires=">=3.9")
SDIST = File(filename="a-1.0.tar.gz", version="1.0")


def test_a_wheel_stands_for_a_version_and_the_newest_final_one_for_the_project() -> None:
    young = File(filename="a-2.0rc1.tar.gz", version="2.0rc1")
    project = Project(name="a", files=(SDIST, WHEEL, young))
    assert summary.file_to_read(project) is WHEEL
    assert summary.file_to_read(project, "2.0rc1") is young
    assert summary.file_to_read(project, "3.0") is None
    assert summary.file_to_read(Project(name="a")) is None


def test_core_metadata_is_told_in_full() -> None:
    lines = [
        "License-Expression: MIT",
        "Author: Ada",
        "Home-page: https://a.example",
        "Project-URL: Docs, https://d.example",
    ]
    lines += ["Description-Content-Type: text/markdown; charset=UTF-8; variant=GFM", "", "# hello"]
    needs = ["six>=1", 'Foo_Bar[x,a]<2; extra == "all"', 'tomli; python_version < "3.11"', "not a requirement!"]
    raw = metadata("a", "1.0", requires=needs, requires_python=">=3.9", summary="An a.", extra=lines)
    found = summary.from_sidecar(WHEEL, raw)
    assert (found.summary, found.license, found.authors, found.requires) == ("An a.", "MIT", "Ada", ">=3.9")
    assert (found.description.strip(), found.description_type) == ("# hello", "markdown")
    assert found.links == {"Homepage": "https://a.example", "Docs": "https://d.example"}
    assert [(need.name, need.project, need.wants, need.optional) for need in found.needs] == [
        ("six", "six", ">=1", False),
        ("Foo_Bar[a,x]", "foo-bar", "<2", True),
        ("tomli", "tomli", "", False),
        ("not a requirement!", "", "", False),
    ]


@pytest.mark.parametrize(
    ("written", "read"), [("", "rst"), ("text/x-rst", "rst"), ("text/plain", "plain"), ("image/png", "plain")]
)
def test_a_description_is_read_as_its_type_says(written: str, read: str) -> None:
    document = {"info": {"description": "x", "description_content_type": written}}
    assert summary.from_document(SDIST, msgspec.json.encode(document)).description_type == read


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"info": 1}', b"[" * 100_000, b"\xff"])
def test_what_is_no_document_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid):
        summary.from_document(SDIST, body)


def test_a_document_of_other_types_tells_nothing_wrong() -> None:
    info = {
        "summary": 1,
        "description": ["x"],
        "requires_dist": "six",
        "project_urls": [],
        "license": None,
        "author": {},
    }
    found = summary.from_document(WHEEL, msgspec.json.encode({"info": info}))
    assert found == ProjectSummary(version="1.0", requires=">=3.9", description_type="rst")
    many = {"info": {"requires_dist": ["six"] * 5000 + [1, None], "description": "UNKNOWN"}}
    bounded = summary.from_document(WHEEL, msgspec.json.encode(many))
    assert len(bounded.needs) == summary.MOST_REQUIREMENTS
    assert bounded.description == ""


def test_the_path_of_a_file_is_where_it_is_served() -> None:
    assert clients.file_path("a", WHEEL) == "packages/a/a-1.0-py3-none-any.whl"
    assert clients.file_path("a", File(filename="a 1.0+b.zip", version="1")) == "packages/a/a%201.0%2Bb.zip"
    assert summary.document("a", SDIST).name == "a/1.0"
