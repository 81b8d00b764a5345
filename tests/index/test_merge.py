"""Who wins when several sources have a project, and what a union of them shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.index.merge import merge
from mirror.model import File, Project


def file(filename: str, source: str = "", **digests: str) -> File:
    return File(filename=filename, version="1", digests=digests, source=source)


names = st.sampled_from(["a-1.whl", "a-2.whl", "a-1.tar.gz", "a-3.zip"])


@st.composite
def projects(draw: st.DrawFn, source: str = "") -> Project:
    filenames = draw(st.lists(names, unique=True))
    return Project(
        name="a",
        files=tuple(file(name, source, sha256=draw(st.sampled_from("fe")) * 64) for name in filenames),
        versions=tuple(draw(st.lists(st.sampled_from(["1", "2", "3"]), unique=True))),
        serial=draw(st.none() | st.integers(0, 99)),
        status=draw(st.sampled_from([None, "active", "archived", "quarantined", "deprecated", "on fire"])),
        extra=draw(st.dictionaries(st.sampled_from("xy"), st.integers(), max_size=2)),
    )


several = st.tuples(projects("first"), projects("second"), projects("third"))


@given(several)
def test_without_a_union_the_first_source_is_shown_as_it_is(parts: tuple[Project, ...]) -> None:
    merged = merge(parts, union=False)
    assert merged.project is parts[0]
    assert merged.conflicts == ()


@given(projects(), st.integers(1, 3))
def test_merging_a_project_with_itself_changes_nothing(project: Project, times: int) -> None:
    merged = merge([project] * times, union=True)
    assert merged.project == project
    assert merged.conflicts == ()


@given(several)
def test_merging_again_what_was_merged_changes_nothing(parts: tuple[Project, ...]) -> None:
    once = merge(parts, union=True).project
    assert merge([once, *parts], union=True).project == once
    assert merge([merge(parts[:2], union=True).project, parts[2]], union=True).project == once


@given(several)
def test_in_a_union_the_earlier_source_wins_each_file_name(parts: tuple[Project, ...]) -> None:
    merged = merge(parts, union=True)
    every = [one for part in parts for one in part.files]
    assert {one.filename for one in merged.project.files} == {one.filename for one in every}
    assert len(merged.project.files) == len({one.filename for one in every})
    for one in merged.project.files:
        assert one is next(other for other in every if other.filename == one.filename)


@given(several)
def test_a_union_reports_every_file_with_other_bytes(parts: tuple[Project, ...]) -> None:
    merged = merge(parts, union=True)
    shown = {one.filename: one for one in merged.project.files}
    differing = [
        (one.filename, one.source) for part in parts for one in part.files if one.sha256 != shown[one.filename].sha256
    ]
    assert [(conflict.filename, conflict.other_source) for conflict in merged.conflicts] == differing
    for conflict in merged.conflicts:
        assert (conflict.source, conflict.digest) == (shown[conflict.filename].source, shown[conflict.filename].sha256)


def test_digests_of_different_algorithms_are_no_clash() -> None:
    ours, theirs = file("a.whl", "uploads", sha256="1"), file("a.whl", "upstream", md5="2")
    assert not merge([Project(name="a", files=(ours,)), Project(name="a", files=(theirs,))], union=True).conflicts


def test_a_union_has_all_versions_the_largest_serial_and_the_extra_of_the_first() -> None:
    first = Project(name="a", versions=("2", "1"), serial=5, extra={"meta": 1})
    second = Project(name="a", versions=("1", "3"), serial=9, extra={"meta": 2, "more": 3})
    merged = merge([first, second, Project(name="a")], union=True).project
    assert merged == Project(name="a", versions=("2", "1", "3"), serial=9, extra={"meta": 1})


@pytest.mark.parametrize(
    ("statuses", "strictest"),
    [
        ([None, None], None),
        ([None, "active"], "active"),
        (["active", "unheard-of"], "unheard-of"),
        (["unheard-of", "deprecated"], "deprecated"),
        (["archived", "deprecated"], "archived"),
        (["archived", "quarantined", "active"], "quarantined"),
    ],
)
def test_a_union_has_the_strictest_status(statuses: list[str | None], strictest: str | None) -> None:
    parts = [Project(name="a", status=status) for status in statuses]
    assert merge(parts, union=True).project.status == strictest
    assert merge(parts[::-1], union=True).project.status == strictest
