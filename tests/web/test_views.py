"""How pages write sizes, ages and the texts of strangers, and what the page of a project is made of."""

from datetime import UTC, datetime

import pytest

from mirror.model import Dependency, File, Project, ProjectSummary
from mirror.policy import Verdict
from mirror.pypi import clients, versions
from mirror.telemetry.statistics import Span
from mirror.web import views
from mirror.web.plot import plot


@pytest.mark.parametrize(
    ("number", "written"),
    [(None, "size unknown"), (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1540, "1.5 kB"), (999_960, "1 MB"),
     (123_456_789, "123 MB"), (4 * 10**12, "4 TB"), (5 * 10**16, "50000 TB")],
)  # fmt: skip
def test_bytes_are_written_for_people(number: int | None, written: str) -> None:
    assert views.size(number) == written


@pytest.mark.parametrize(
    ("part", "whole", "written"),
    [(0, 0, "—"), (0, 9, "0 %"), (9, 9, "100 %"), (1, 10**9, "0.1 %"), (10**9 - 1, 10**9, "99.9 %"), (2, 3, "67 %")],
)
def test_a_share_says_all_or_nothing_only_when_it_is(part: int, whole: int, written: str) -> None:
    assert views.share(part, whole) == written


@pytest.mark.parametrize(
    ("ago", "written"),
    [(0, "just now"), (-30, "just now"), (90, "1 minute ago"), (7200, "2 hours ago"), (86_400 * 3, "3 days ago"),
     (86_400 * 400, "1 year ago"), (-86_400 * 2, "in 2 days")],
)  # fmt: skip
def test_ages_are_in_the_unit_that_says_most(ago: float, written: str) -> None:
    assert views.age(1_000_000_000 - ago, 1_000_000_000) == written


def test_a_moment_that_no_calendar_has_is_not_written() -> None:
    assert views.moment(0) == "1970-01-01T00:00:00Z"
    assert [views.moment(at) for at in (None, 1e300, float("nan"), float("inf"))] == [""] * 4


def test_texts_of_strangers_are_bounded_and_show_what_does_not_print() -> None:
    assert views.printable("a" * 1000, 10) == "a" * 10 + "…"
    assert views.printable("exe\u202egpj.wheel") == "exe\\u202egpj.wheel"
    assert views.printable("a\x00b\x1b[31m\nc\u200b") == "a\\x00b\\x1b[31m c\\u200b"
    assert views.printable("naïve 漢字 🦊") == "naïve 漢字 🦊"


@pytest.mark.parametrize(
    "url",
    ["javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "//evil.example/x", "ftp://evil.example/", "",
     "http://", "https://[", "http://evil.example/" + "x" * 3000, "http://evil.example/\u202e",
     "\x00javascript:alert(1)"],
)  # fmt: skip
def test_only_addresses_of_the_web_become_links(url: str) -> None:
    assert views.web_address(url) == ""
    assert views.web_address(" https://docs.example/a?b=c ") == "https://docs.example/a?b=c"


def shown(
    project: Project,
    *,
    version: str,
    page: int = 1,
    withheld: dict[str, Verdict] | None = None,
    held: dict[str, int] | None = None,
    about: ProjectSummary | None = None,
) -> views.ProjectPage:
    return views.project_page(
        project,
        withheld or {},
        about or ProjectSummary(version=version),
        version=version,
        newest="2.0",
        page=page,
        held=held or {},
        own=["uploads"],
        key=versions.key,
        path=clients.file_path,
    )


def test_files_say_whether_they_are_held_and_why_they_are_withheld() -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)
    plain = File(
        filename="a-2.0.tar.gz", version="2.0", size=10, uploaded=when, source="up", digests={"sha256": "0" * 64}
    )
    ours = File(filename="a-2.0-py3-none-any.whl", version="2.0", size=20, source="uploads", yanked="bad")
    young = File(filename="a-2.0-cp313.whl", version="2.0", source="up")
    verdict = Verdict(file=young, state="blocked", rule="rest", reason="Too young.", until=99.0)
    page = shown(
        Project(name="a", files=(plain, ours), versions=("1.0", "2.0")),
        version="2.0",
        withheld={young.filename: verdict},
        held={plain.filename: 10},
    )
    rows = {row.filename: row for row in page.files}
    assert (rows[plain.filename].held, rows[plain.filename].own) == (True, False)
    assert (rows[ours.filename].held, rows[ours.filename].yanked) == (True, "bad")
    blocked = rows[young.filename]
    assert (blocked.state, blocked.rule, blocked.reason, blocked.until) == ("blocked", "rest", "Too young.", 99.0)
    assert blocked.path == "", "what is refused is not linked"
    history = [(row.version, row.files, row.held, row.withheld) for row in page.versions]
    assert history == [("2.0", 3, 2, 1), ("1.0", 0, 0, 0)]
    assert (page.held, page.held_size) == (2, 30)


def test_pages_of_large_projects_are_bounded() -> None:
    files = tuple(File(filename=f"a-{n}.0-{m}.whl", version=f"{n}.0") for n in range(1000) for m in range(2))
    many = tuple(File(filename=f"a-2000-{n}.whl", version="2000") for n in range(1000))
    needs = tuple(Dependency(name=f"n{n}") for n in range(1000))
    project = Project(name="a", files=files + many)
    page = shown(project, version="2000", page=99, about=ProjectSummary(version="2000", needs=needs))
    assert (len(page.files), page.files_left_out) == (views.FILES_SHOWN, 1000 - views.FILES_SHOWN)
    assert (page.pages, page.page, len(page.versions)) == (11, 11, 1), "a page past the end is the last one"
    assert (len(page.dependencies), page.dependencies_left_out) == (
        views.DEPENDENCIES_SHOWN,
        1000 - views.DEPENDENCIES_SHOWN,
    )


def test_the_plot_stays_within_its_frame_and_adds_up() -> None:
    assert plot([Span(start=0)] * 5, 24) is None
    spans = [Span(start=86_400 * n, requests=n, hits=n, saved=n * 7, fetched=n * 3) for n in range(30)]
    drawn = plot(spans, 24)
    assert drawn is not None
    for bar, span in zip(drawn.bars, spans, strict=True):
        assert drawn.left <= bar.x < bar.x + bar.width <= drawn.width
        assert 0 <= bar.fetched_y <= bar.saved_y <= drawn.base
        assert bar.saved_height + bar.fetched_height == pytest.approx((span.saved + span.fetched) / 500 * 150, abs=0.02)
    assert drawn.grid[-1].label == "500 B"
