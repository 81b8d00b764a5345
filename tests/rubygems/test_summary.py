"""What a gem says about itself to people, from its specification or from its line on the info page."""

from pathlib import Path

import pytest
from yarl import URL

from mirror.errors import Invalid
from mirror.model import Dependency, File, Project
from mirror.rubygems import clients, package, pages, summary
from mirror.rubygems.marshal.writing import gemspec_rz
from tests.builders import gem

INFO = b"---\n1.0 rack:< 4&>= 3,tilt:~> 2.0|checksum:%s,ruby:>= 2.7\n2.0.pre |checksum:%s\n" % (b"0" * 64, b"1" * 64)


def project() -> Project:
    return pages.parse_info(INFO, "sinatra", URL("https://gems.example/"))


def test_the_newest_release_stands_for_a_gem() -> None:
    newest = summary.file_to_read(project())
    assert newest is not None
    assert newest.version == "1.0"
    young = summary.file_to_read(project(), "2.0.pre")
    assert young is not None
    assert young.version == "2.0.pre"
    assert summary.file_to_read(project(), "3") is None


def test_the_line_of_the_index_tells_what_is_needed() -> None:
    file = summary.file_to_read(project())
    assert file is not None
    found = summary.from_index(file)
    assert found.requires == ">= 2.7"
    assert found.needs == (
        Dependency(name="rack", project="rack", wants="< 4, >= 3"),
        Dependency(name="tilt", project="tilt", wants="~> 2.0"),
    )


def test_the_specification_tells_the_rest(tmp_path: Path) -> None:
    built = gem(
        "rack", "3.0", summary="A modular web server interface", dependencies={"logger": ">= 1"},
        development={"minitest": "~> 5.0"}, metadata={"source_code_uri": "https://code.example/rack", "x": "y"},
    )  # fmt: skip
    path = tmp_path / built.filename
    path.write_bytes(built.content)
    file = package.inspect(built.filename, path)
    spec = pages.spec_of(file)
    assert spec is not None
    found = summary.from_sidecar(file, gemspec_rz(spec))
    assert found.summary == "A modular web server interface"
    assert (found.license, found.authors) == ("MIT", "Nobody")
    assert found.links == {"Source code": "https://code.example/rack"}
    assert [(need.project, need.wants, need.optional) for need in found.needs] == [
        ("logger", ">= 1", False),
        ("minitest", "~> 5.0", True),
    ]
    assert clients.file_path("rack", file) == "gems/rack-3.0.gem"


def test_what_is_no_specification_is_refused() -> None:
    file = File(filename="rack-3.0.gem", version="3.0")
    for content in (b"", b"\x04\x08", b"x" * 1000):
        with pytest.raises(Invalid):
            summary.from_sidecar(file, content)
    with pytest.raises(Invalid):
        summary.from_document(file, b"{}")
    assert summary.document("rack", file) is None
