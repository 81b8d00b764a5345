"""Rules → verdicts: what each kind of rule refuses, which of several counts, and when that changes by itself."""

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.config import RuleSettings, load
from mirror.errors import Blocked, ConfigError, Invalid, UnknownFile
from mirror.model import File, Project
from mirror.policy import apply, as_of, explain, osv, osv_folders, parse_moment, policy_for, records, verdict
from mirror.policy.verdicts import Policy
from mirror.pypi import versions as python
from mirror.rubygems import versions as ruby

DAY = 86400.0
NOW = datetime(2026, 8, 3, 10, tzinfo=UTC).timestamp()


def at(days: float) -> datetime:
    """That many days before NOW."""
    return datetime.fromtimestamp(NOW, UTC) - timedelta(days=days)


def file(filename: str = "a-1.0.tar.gz", version: str = "1.0", **more: Any) -> File:
    return File(**{"url": f"https://files.example/{filename}", "filename": filename, "version": version, **more})


def project(*files: File, name: str = "a", **more: Any) -> Project:
    return Project(**{"versions": tuple(dict.fromkeys(one.version for one in files)), **more}, name=name, files=files)


def rule(kind: str, name: str = "", **more: Any) -> dict[str, Any]:
    return {"kind": kind, "name": name or kind, "reason": f"Because of {name or kind}.", **more}


def settings(tables: Iterable[Mapping[str, object]]) -> tuple[RuleSettings, ...]:
    return tuple(RuleSettings.model_validate(table) for table in tables)


def policy(*rules: Mapping[str, object], versions: Any = python, **more: Any) -> Policy:
    return policy_for("main", settings(rules), versions, **more)


def state(rules: list[dict[str, Any]], one: File, *, name: str = "a", now: float = NOW, **more: Any) -> str:
    return verdict(policy(*rules, **more), project(one, name=name), one, now).state


COOLDOWN = rule("cooldown", age="3 days")


# What each kind of rule refuses


@pytest.mark.parametrize(
    ("rules", "name", "one", "expected"),
    [
        # deny
        ([rule("deny")], "a", file(), "blocked"),
        ([rule("deny", action="hide")], "a", file(), "hidden"),
        ([rule("deny", projects=["b", "c-*"])], "a", file(), "visible"),
        ([rule("deny", projects=["A_*"])], "a-b", file(), "blocked"),  # patterns are spelled canonically
        ([rule("deny", versions="<2")], "a", file(version="1.9"), "blocked"),
        ([rule("deny", versions="<2")], "a", file(version="2.0"), "visible"),
        ([rule("deny", versions=">=2")], "a", file(version="2.1rc1"), "blocked"),  # pre-releases too
        ([rule("deny", versions="<2")], "a", file(version="2004d-old"), "visible"),
        ([rule("deny")], "a", file(version="2004d-old"), "blocked"),
        ([rule("deny", repositories=["other"])], "a", file(), "visible"),
        ([rule("deny", repositories=["ma*"])], "a", file(), "blocked"),
        ([rule("deny")], "a", file(url=""), "visible"),  # our own
        ([rule("deny", uploads=True)], "a", file(url=""), "blocked"),
        # allow: together one list
        ([rule("allow", projects=["a"])], "a", file(), "visible"),
        ([rule("allow", projects=["a"])], "b", file(), "blocked"),
        ([rule("allow", projects=["a"])], "b", file(url=""), "visible"),
        ([rule("allow", projects=["a"], uploads=True)], "b", file(url=""), "blocked"),
        ([rule("allow", projects=["a"], action="hide")], "b", file(), "hidden"),
        ([rule("allow", projects=["a"], versions=">=2")], "a", file(version="1"), "blocked"),
        ([rule("allow", "one", projects=["a"]), rule("allow", "two", projects=["b"])], "b", file(), "visible"),
        ([rule("allow", "one", projects=["a"]), rule("allow", "two", projects=["b"])], "c", file(), "blocked"),
        ([rule("allow", projects=["a"], repositories=["other"])], "b", file(), "visible"),
        # deny beats allow, wherever it stands
        ([rule("allow"), rule("deny", versions="==1")], "a", file(version="1"), "blocked"),
        ([rule("deny", versions="==1"), rule("allow")], "a", file(version="1"), "blocked"),
        # cooldown
        ([COOLDOWN], "a", file(uploaded=at(2)), "blocked"),
        ([COOLDOWN], "a", file(uploaded=at(4)), "visible"),
        ([COOLDOWN], "a", file(uploaded=at(-4)), "blocked"),  # from the future
        ([COOLDOWN], "a", file(uploaded=datetime.max.replace(tzinfo=UTC)), "blocked"),
        ([COOLDOWN], "a", file(), "hidden"),
        ([rule("cooldown", age="3 days", unknown="allow")], "a", file(), "visible"),
        ([rule("cooldown", age="3 days", action="hide")], "a", file(uploaded=at(2)), "hidden"),
        ([COOLDOWN], "a", file(uploaded=at(0), url=""), "visible"),
        # kinds of file and platforms
        ([rule("files", kinds=["wheel"])], "a", file("a-1.0.tar.gz"), "blocked"),
        ([rule("files", kinds=["wheel"])], "a", file("a-1.0-py3-none-any.whl"), "visible"),
        ([rule("files", kinds=["wheel", "sdist"])], "a", file("a-1.0.exe"), "blocked"),
        ([rule("files", platforms=["*_x86_64"])], "a", file("a-1.0-cp311-abi3-manylinux1_x86_64.whl"), "visible"),
        ([rule("files", platforms=["*_x86_64"])], "a", file("a-1.0-cp311-abi3-win32.manylinux1_x86_64.whl"), "visible"),
        ([rule("files", platforms=["*_x86_64"])], "a", file("a-1.0-cp311-abi3-win32.win_arm64.whl"), "blocked"),
        ([rule("files", platforms=["*_x86_64"])], "a", file("a-1.0-py3-none-any.whl"), "visible"),
        ([rule("files", platforms=["*_x86_64"])], "a", file("a-1.0.tar.gz"), "visible"),
        # size
        ([rule("size", largest="1 KB")], "a", file(size=1000), "visible"),
        ([rule("size", largest="1 KB")], "a", file(size=1001), "blocked"),
        ([rule("size", largest=1000)], "a", file(), "visible"),
        ([rule("size", largest=1000, unknown="hide")], "a", file(), "hidden"),
    ],
)
def test_a_rule_refuses_what_it_names(rules: list[dict[str, Any]], name: str, one: File, expected: str) -> None:
    assert state(rules, one, name=name) == expected


@pytest.mark.parametrize(
    ("rules", "one", "expected"),
    [
        ([rule("deny", versions="~> 3.1")], file("a-3.9.gem", "3.9"), "blocked"),
        ([rule("deny", versions="~> 3.1")], file("a-4.0.gem", "4.0"), "visible"),
        ([rule("deny", versions=">= 2, < 3")], file("a-3.0.rc1.gem", "3.0.rc1"), "blocked"),
        ([rule("deny", projects=["A"])], file("a-1.gem", "1"), "visible"),  # names of gems are case-sensitive
        ([rule("files", kinds=["gem"])], file("a-1.gem", "1", platform="ruby"), "visible"),
        ([rule("files", platforms=["x86_64-linux*"])], file("a-1.gem", "1", platform="ruby"), "visible"),
        ([rule("files", platforms=["x86_64-linux*"])], file("a-1.gem", "1", platform="x86_64-linux-musl"), "visible"),
        ([rule("files", platforms=["x86_64-linux*"])], file("a-1.gem", "1", platform="java"), "blocked"),
    ],
)
def test_rules_hold_for_gems_as_ruby_understands_them(rules: list[dict[str, Any]], one: File, expected: str) -> None:
    assert state(rules, one, versions=ruby) == expected


@pytest.mark.parametrize(
    ("more", "version", "expected"),
    [
        ({}, "1.0", "blocked"),
        ({}, "2.0", "visible"),  # only vulnerable
        ({"severities": ["high", "critical"]}, "2.0", "blocked"),
        ({"severities": ["low"]}, "2.0", "visible"),
        ({"ids": ["CVE-*"]}, "2.0", "blocked"),
        ({"ids": ["CVE-*"]}, "1.0", "visible"),
        ({"ignore": ["MAL-1"]}, "1.0", "visible"),
        ({"severities": ["high"], "ignore": ["CVE-2026-*"]}, "2.0", "visible"),
        ({"exempt": [{"projects": ["a"], "versions": "==1.0"}]}, "1.0", "visible"),
    ],
)
def test_known_bad_releases_are_refused(tmp_path: Path, more: dict[str, Any], version: str, expected: str) -> None:
    where = {"name": "A", "ecosystem": "PyPI"}
    written: list[dict[str, Any]] = [
        {"id": "MAL-1", "affected": [{"package": where, "versions": ["1.0"]}]},
        {
            "id": "GHSA-2",
            "aliases": ["CVE-2026-2"],
            "affected": [{"package": where, "versions": ["2.0"]}],
            "database_specific": {"severity": "HIGH"},
        },
    ]
    for one in written:
        (tmp_path / f"{one['id']}.json").write_text(json.dumps(one))
    rules = [rule("known-bad", folder=str(tmp_path), **more)]
    (folder,) = osv_folders(settings(rules))
    advisories = {folder: records.load(Path(folder), {"PyPI": python.pattern})}
    assert state(rules, file(version=version), advisories=advisories) == expected
    assert state(rules, file(version=version), name="b", advisories=advisories) == "visible"


def test_the_reason_names_the_record(tmp_path: Path) -> None:
    record = {"id": "MAL-1", "affected": [{"package": {"name": "a", "ecosystem": "PyPI"}}]}
    (tmp_path / "1.json").write_text(json.dumps(record))
    index = records.load(tmp_path, {"PyPI": python.pattern})
    decided = apply(policy(rule("known-bad", folder="/osv"), advisories={"/osv": index}), project(file()), NOW)
    assert decided.withheld["a-1.0.tar.gz"].reason == "Because of known-bad. (MAL-1)"


def test_a_folder_of_records_that_was_not_read_is_an_error() -> None:
    with pytest.raises(ConfigError, match="has not been read"):
        policy(rule("known-bad", folder="/osv"))


@pytest.mark.parametrize(
    ("more", "status", "gone", "expected"),
    [
        ({}, None, False, "visible"),
        ({}, None, True, "hidden"),
        ({"removed": "keep"}, None, True, "visible"),
        ({"removed": "block"}, None, True, "blocked"),
        ({}, "quarantined", False, "blocked"),
        ({}, "quarantined", True, "blocked"),
        ({"quarantined": "hide"}, "quarantined", False, "hidden"),
        ({"quarantined": "keep"}, "quarantined", False, "visible"),
        ({}, "archived", False, "visible"),
    ],
)
def test_what_upstream_removed_or_put_in_quarantine(
    more: dict[str, Any], status: str | None, gone: bool, expected: str
) -> None:
    theirs, ours = file(), file("a-1.0+ours.tar.gz", "1.0+ours", url="")
    listed = project(theirs, ours, status=status)
    decided = apply(policy(**more), listed, NOW, removed={theirs.filename} if gone else set())
    found = decided.withheld.get(theirs.filename)
    assert (found.state if found else "visible") == expected
    assert ours in decided.project.files


# Exemptions, and the moments at which verdicts change


def test_a_version_leaves_its_cooldown_exactly_on_time() -> None:
    young, old = file("a-2.whl", "2", uploaded=at(2)), file("a-1.whl", "1", uploaded=at(200))
    rules, whole = policy(COOLDOWN), project(old, young)
    moment = young.uploaded.timestamp() + 3 * DAY if young.uploaded else 0
    for now in (NOW, moment - 1, math.nextafter(moment, 0)):
        decided = apply(rules, whole, now)
        assert (decided.project.files, decided.project.versions) == ((old,), ("1",))
        assert decided.changes_at == moment
        assert decided.withheld["a-2.whl"].until == moment
        with pytest.raises(Blocked) as refused:
            decided.file("a-2.whl")
        assert (refused.value.rule, refused.value.reason) == (
            "cooldown",
            "Because of cooldown. (until 2026-08-04T10:00:00Z)",
        )
    decided = apply(rules, whole, moment)
    assert decided.project is whole
    assert decided.changes_at is None
    assert decided.file("a-2.whl") is young


def test_an_exemption_ends_exactly_on_time() -> None:
    ends = datetime(2026, 8, 4, tzinfo=UTC).timestamp()
    lifted = [{"projects": ["a"], "versions": "==2.*", "until": datetime(2026, 8, 4).date()}]
    rules = policy(rule("cooldown", age="3 days", exempt=lifted))
    one, other = file("a-2.whl", "2.0", uploaded=at(1)), file("a-3.whl", "3.0", uploaded=at(1))
    before = apply(rules, project(one, other), math.nextafter(ends, 0))
    assert before.project.files == (one,)
    assert before.changes_at == ends
    after = apply(rules, project(one, other), ends)
    assert after.project.files == ()
    assert after.changes_at == NOW + 2 * DAY


def test_an_exemption_that_outlasts_the_cooldown_changes_nothing_later() -> None:
    lifted = [{"projects": ["a"], "until": at(-10)}, {"projects": ["b"]}]
    decided = apply(policy(rule("cooldown", age="3 days", exempt=lifted)), project(file(uploaded=at(1))), NOW)
    assert len(decided.project.files) == 1
    assert decided.changes_at is None


def test_exemptions_that_ended_long_ago_name_no_moment() -> None:
    soft = rule("deny", "soft", action="hide", exempt=[{"projects": ["a"], "until": at(9)}])
    hard = rule("deny", "hard", exempt=[{"projects": ["a"], "until": at(5)}])
    decided = apply(policy(soft, hard), project(file()), NOW)
    assert [one.rule for one in decided.withheld.values()] == ["hard"]
    assert decided.changes_at is None


def test_an_exemption_lifts_no_other_rule() -> None:
    free = [{"projects": ["a"]}]
    rules = [rule("cooldown", age="3 days", exempt=free), rule("deny", versions="==1.0")]
    assert state(rules, file(uploaded=at(1), version="1.0")) == "blocked"
    assert state(rules, file(uploaded=at(1), version="1.1")) == "visible"


def test_an_exemption_puts_a_name_on_the_list_for_a_time() -> None:
    lists = [rule("allow", "one", projects=["x"]), rule("allow", "two", projects=["y"])]
    lists[1]["exempt"] = [{"projects": ["a"], "until": at(-1)}]
    decided = apply(policy(*lists), project(file()), NOW)
    assert len(decided.project.files) == 1
    assert decided.changes_at == NOW + DAY
    assert apply(policy(*lists), project(file()), NOW + DAY).project.files == ()


def test_of_several_rules_the_strictest_counts_and_of_equally_strict_ones_the_first() -> None:
    hide, soft = rule("deny", "hide", action="hide"), rule("cooldown", "soft", age="1 day", action="hide")
    hard, other = rule("cooldown", "hard", age="3 days"), rule("deny", "other", versions="==1.0")
    one = file(uploaded=at(0))

    def named(*rules: dict[str, Any]) -> str:
        return verdict(policy(*rules), project(one), one, NOW).rule

    assert named(hide, hard) == named(hard, hide) == "hard"
    assert named(hard, other) == "hard"
    assert named(other, hard) == "other"
    assert named(soft, hide) == "soft"


def test_a_verdict_holds_until_its_rule_or_state_changes() -> None:
    one = file(uploaded=at(0))
    rules = policy(
        rule("cooldown", "week", age="1 week", action="hide"),
        rule("cooldown", "day", age="1 day"),
        rule("cooldown", "half", age="12 h"),  # never named: it is as strict as `day`, and shorter
    )
    course, now = [], NOW
    while True:
        found = verdict(rules, project(one), one, now)
        course.append((found.state, found.rule, (now - NOW) / DAY))
        if found.until is None:
            break
        now = found.until
    assert course == [("blocked", "day", 0), ("hidden", "week", 1), ("visible", "", 7)]


# What a decided project is


def test_hidden_files_go_on_by_direct_url_and_blocked_ones_do_not() -> None:
    hidden, blocked, seen = file("h.whl", "1"), file("b.whl", "2"), file("v.whl", "3")
    rules = policy(rule("deny", "off", versions="==1", action="hide"), rule("deny", "no", versions="==2"))
    decided = apply(rules, project(hidden, blocked, seen), NOW)
    assert decided.project.files == (seen,)
    assert decided.file("h.whl") is hidden
    assert decided.file("v.whl") is seen
    with pytest.raises(Blocked, match=r"by the rule 'no': Because of no\."):
        decided.file("b.whl")
    with pytest.raises(UnknownFile):
        decided.file("x.whl")


def test_a_version_goes_with_its_last_file_however_it_is_spelled() -> None:
    files = [file("a-1.whl", "1.0"), file("a-1.tar.gz", "1.0"), file("a-2.whl", "2.0"), file("a-3.tar.gz", "3.0")]
    whole = project(*files, versions=("1.0.0", "2.0", "2.0.0", "3.0", "4.0"))
    decided = apply(policy(rule("files", kinds=["wheel"])), whole, NOW)
    assert [one.filename for one in decided.project.files] == ["a-1.whl", "a-2.whl"]
    assert decided.project.versions == ("1.0.0", "2.0", "2.0.0")


@pytest.mark.parametrize(
    "rules", [[], [rule("deny", projects=["b"])], [rule("deny", repositories=["other"])], [rule("deny", versions=">9")]]
)
def test_a_project_that_nothing_is_held_against_comes_back_as_the_same_object(rules: list[dict[str, Any]]) -> None:
    whole = project(file())
    assert apply(policy(*rules), whole, NOW).project is whole


class Counting:
    """Python's versions, which count their calls."""

    ecosystem = python.ecosystem
    pattern, check = staticmethod(python.pattern), staticmethod(python.check)
    key, kind, platforms = staticmethod(python.key), staticmethod(python.kind), staticmethod(python.platforms)
    locks_need_pages, yanked_files_go = python.locks_need_pages, python.yanked_files_go
    asked = 0

    def matches(self, specifier: str, version: str) -> bool:
        self.asked += 1
        return python.matches(specifier, version)


def test_each_version_of_five_thousand_files_is_compared_once() -> None:
    files = [
        file(f"a-{major}.{tag}.whl", f"{major}.0", uploaded=at(major / 10), size=major)
        for major in range(500)
        for tag in ("py3-none-any", *(f"cp3{minor}-cp3{minor}-manylinux1_x86_64" for minor in range(9)))
    ]
    counting = Counting()
    rules = policy(
        COOLDOWN,
        rule("deny", versions="<1"),
        rule("files", platforms=["*_x86_64"]),
        rule("size", largest="1 GB"),
        versions=counting,
    )
    assert len(apply(rules, project(*files), NOW).project.files) == 4700
    assert counting.asked == 500


ages = st.none() | st.floats(-5, 20)
rule_tables = st.lists(
    st.one_of(
        st.builds(lambda days: rule("cooldown", age=f"{days} days"), st.integers(0, 9)),
        st.builds(lambda days: rule("cooldown", age=f"{days} days", action="hide"), st.integers(0, 9)),
        st.builds(lambda n: rule("deny", versions=f"=={n}.*"), st.integers(0, 5)),
        st.builds(lambda n: rule("allow", versions=f">={n}"), st.integers(0, 5)),
        st.builds(
            lambda n, days: rule(
                "deny", exempt=[{"projects": ["a"], "versions": f"<{n}", "until": at(-days)}], action="hide"
            ),
            st.integers(0, 5),
            st.integers(-3, 9),
        ),
        st.just(rule("files", kinds=["wheel"])),
    ),
    max_size=4,
).map(lambda tables: [{**table, "name": f"rule {number}"} for number, table in enumerate(tables)])
whole_projects = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["whl", "tar.gz"]), ages, st.booleans()),
    max_size=8,
    unique_by=lambda t: t[:2],
).map(
    lambda parts: project(
        *(
            file(
                f"a-{major}.{ending}",
                f"{major}.0",
                uploaded=None if days is None else at(days),
                **({"url": ""} if own else {}),
            )
            for major, ending, days, own in parts
        )
    )
)
moments = st.floats(-10, 20).map(lambda days: NOW + days * DAY)


@given(rule_tables, whole_projects, moments)
def test_policy_never_adds(tables: list[dict[str, Any]], whole: Project, now: float) -> None:
    decided = apply(policy(*tables), whole, now)
    kept = {one.filename for one in decided.project.files}
    assert decided.project.files == tuple(one for one in whole.files if one.filename in kept)
    assert set(decided.withheld) == {one.filename for one in whole.files} - kept
    assert set(decided.project.versions) == {one.version for one in decided.project.files}
    assert all(one in decided.project.files for one in whole.files if not one.url)


@given(rule_tables, whole_projects, moments)
def test_the_answer_changes_at_the_moment_that_it_names_and_not_before(
    tables: list[dict[str, Any]], whole: Project, now: float
) -> None:
    rules = policy(*tables)

    def verdicts(moment: float) -> list[tuple[str, str]]:
        found = [verdict(rules, whole, one, moment) for one in whole.files]
        return [(one.state, one.rule) for one in found]

    changes_at = apply(rules, whole, now).changes_at
    if changes_at is None:
        assert verdicts(now) == verdicts(now + 1000 * DAY)
    else:
        assert changes_at > now
        assert verdicts(now) == verdicts((now + changes_at) / 2) == verdicts(math.nextafter(changes_at, 0))
        assert verdicts(now) != verdicts(changes_at)


@given(st.integers(0, 9), whole_projects, moments, st.floats(0, 20))
def test_what_has_left_its_cooldown_never_goes_back(days: int, whole: Project, now: float, later: float) -> None:
    rules = policy(rule("cooldown", age=f"{days} days"))
    before, after = apply(rules, whole, now).project, apply(rules, whole, now + later * DAY).project
    assert all(one in after.files for one in before.files)


@given(rule_tables, whole_projects, moments)
def test_the_order_of_the_rules_opens_nothing(tables: list[dict[str, Any]], whole: Project, now: float) -> None:
    there, back = apply(policy(*tables), whole, now), apply(policy(*tables[::-1]), whole, now)
    assert there.project == back.project
    if not any(table["kind"] == "allow" for table in tables):
        assert {n: one.state for n, one in there.withheld.items()} == {n: one.state for n, one in back.withheld.items()}


# The index as it was


def test_as_of_a_moment_shows_what_was_uploaded_at_or_before_it() -> None:
    first, second, unknown = file("1.whl", "1", uploaded=at(9)), file("2.whl", "2", uploaded=at(5)), file("3.whl", "3")
    whole = project(first, second, unknown)
    assert as_of(whole, at(9), python).files == (first,)
    assert as_of(whole, at(9), python).versions == ("1",)
    assert as_of(whole, at(9) - timedelta(microseconds=1), python).files == ()
    assert as_of(whole, at(0), python).files == (first, second)
    assert as_of(project(first), at(0), python) == project(first)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-08-01", datetime(2026, 8, 1, 23, 59, 59, 999999, UTC)),
        ("2026-08-01T12:00:00Z", datetime(2026, 8, 1, 12, tzinfo=UTC)),
        ("2026-08-01T12:00:00+02:00", datetime(2026, 8, 1, 10, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_day_or_a_time_with_its_zone(text: str, expected: datetime) -> None:
    assert parse_moment(text) == expected


@pytest.mark.parametrize(
    "text", ["", "today", "2026-08-32", "2026-08-01T12:00:00", "2026-08-01T12:00:00Z" + " " * 99, "../../etc/"]
)
def test_anything_else_is_no_moment(text: str) -> None:
    with pytest.raises(Invalid, match="A date is written as"):
        parse_moment(text)


# Explaining


def test_explaining_says_source_age_held_and_every_verdict_to_come() -> None:
    young = file("a-2-py3-none-any.whl", "2.0", uploaded=at(2), source="upstream")
    ours = file("a-1.tar.gz", "1.0", url="", source="uploads", uploaded=at(0), yanked="broken\x1b[31m")
    rules = policy(COOLDOWN, rule("files", kinds=["sdist"], action="hide"))
    whole = project(young, ours)
    assert explain(rules, whole, NOW, held={"a-1.tar.gz"}, removed={"a-2-py3-none-any.whl"}) == [
        "a-2-py3-none-any.whl: from upstream, uploaded 2026-08-01T10:00:00Z (2 days ago), not held, removed upstream",
        "  blocked until 2026-08-04T10:00:00Z by the rule 'cooldown': "
        "Because of cooldown. (until 2026-08-04T10:00:00Z)",
        "  then hidden by the rule 'files': Because of files. (kind wheel)",
        r"a-1.tar.gz: from uploads, uploaded 2026-08-03T10:00:00Z (0 hours ago), held, yanked: broken\x1b[31m",
        "  visible",
    ]
    assert explain(rules, whole, NOW, version="1")[0].startswith("a-1.tar.gz")
    assert explain(rules, whole, NOW, version="9") == ["a: no file of version 9."]


# The configuration


def test_the_digest_is_of_everything_that_a_verdict_depends_on() -> None:
    index = osv.OsvIndex(digest="1")
    table = rule("known-bad", folder="/osv")
    digests = [
        policy().digest,
        policy(COOLDOWN).digest,
        policy(rule("cooldown", age="4 days")).digest,
        policy(COOLDOWN, rule("deny")).digest,
        policy(rule("deny"), COOLDOWN).digest,
        policy(COOLDOWN, removed="keep").digest,
        policy(COOLDOWN, quarantined="keep").digest,
        policy(table, advisories={"/osv": index}).digest,
        policy(table, advisories={"/osv": osv.OsvIndex(digest="2")}).digest,
    ]
    assert len(set(digests)) == len(digests)
    assert policy(COOLDOWN).digest == policy(COOLDOWN, rule("deny", repositories=["other"])).digest


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "x", "reason": "y"}, r"policy\[1\]\.kind: is missing"),
        (rule("deni"), r"kind: should be 'allow', 'deny'"),
        (rule("deny", projekts=["a"]), r"projekts: is not a setting \(did you mean projects\?\)"),
        (rule("deny", reason=""), r"reason: .*at least 1 character"),
        (rule("deny", reason="a\nb"), r"reason: should be one line"),
        (rule("deny", projects=[]), r"projects: .*at least 1 item"),
        (rule("deny", action="explode"), r"action: should be 'hide' or 'block'"),
        (rule("deny", age="3 days"), r"has `age`, which a rule of the kind deny does not have"),
        (rule("cooldown"), r"has no `age`, which a rule of the kind cooldown needs"),
        (rule("cooldown", age="soon"), r"age: should be a duration"),
        (rule("cooldown", age="1 day", unknown="block"), r"unknown: should be 'allow' or 'hide'"),
        (rule("cooldown", age="1 day", exempt=[{"projects": ["a"], "until": "2026-13-01"}]), "month"),
        (rule("cooldown", age="1 day", exempt=[{"versions": ">1"}]), r"exempt\[0\]\.projects: is missing"),
        (rule("size", largest="big"), r"largest: should be a size"),
        (rule("size", largest=-1), r"largest: should be a size"),
        (rule("known-bad"), r"has no `folder`"),
        (rule("known-bad", folder="/x", severities=["awful"]), r"severities\[0\]: should be 'unknown'"),
    ],
)
def test_a_wrong_rule_is_an_error_that_names_the_place(tmp_path: Path, table: dict[str, Any], message: str) -> None:
    overrides = {"data_dir": str(tmp_path), "policy": [rule("deny", "first"), table]}
    with pytest.raises(ConfigError, match=message):
        load(overrides=overrides)


@pytest.mark.parametrize(
    ("table", "versions"),
    [
        (rule("deny", versions="~> 3"), python),
        (rule("allow", versions="newest"), python),
        (rule("cooldown", age="1 day", exempt=[{"projects": ["a"], "versions": "latest"}]), python),
        (rule("deny", versions="==3.*"), ruby),
        (rule("deny", versions=">= 1, nonsense"), ruby),
    ],
)
def test_a_wrong_specifier_is_an_error_that_names_rule_and_repository(table: dict[str, Any], versions: Any) -> None:
    with pytest.raises(ConfigError, match=rf"'{table['name']}', in repository 'main': .* write it as"):
        policy(table, versions=versions)
