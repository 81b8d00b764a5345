"""Requirements, order and kinds of Ruby's versions and files, as policy asks for them."""

import json
from pathlib import Path

import pytest

from mirror.errors import Invalid
from mirror.model import File
from mirror.policy.rules import Versions
from mirror.rubygems import versions


def test_the_module_is_what_policy_asks_for() -> None:
    asked: Versions = versions
    assert asked.ecosystem == "RubyGems"


@pytest.mark.parametrize(
    ("requirement", "inside", "outside"),
    [
        ("~> 3.1", ["3.1", "3.1.0", "3.9.9"], ["3.0.9", "3.1.rc1", "4.0", "4.0.rc1"]),
        ("~> 3.1.4", ["3.1.4", "3.1.99"], ["3.1.3", "3.2"]),
        ("~> 3", ["3", "3.99"], ["4", "2.9"]),
        ("~> 2.0.rc1", ["2.0.rc1", "2.0", "2.9"], ["2.0.b1", "3.0"]),
        (">= 2, < 4", ["2.0", "3.9", "4.0.rc1"], ["1.9", "2.0.rc1", "4", "4.0.0"]),
        ("3.1.16", ["3.1.16", "3.1.16.0"], ["3.1.1", "3.1.16.1"]),
        ("!=1.0", ["1.1", "1.0.a"], ["1", "1.0.0"]),
        ("> 1.9", ["1.10", "1.9.1"], ["1.9", "1.9.0.a"]),
        ("<=1.0.0", ["1", "1.0.a"], ["1.0.1"]),
        (">= 0", ["0"], ["", "oops", "1 2", "1" * 5000]),
    ],
)
def test_a_requirement_names_versions_as_ruby_does(requirement: str, inside: list[str], outside: list[str]) -> None:
    versions.check(requirement)
    assert [version for version in inside if not versions.matches(requirement, version)] == []
    assert [version for version in outside if versions.matches(requirement, version)] == []


KNOWN = json.loads((Path(__file__).parent / "data" / "gem-versions.json").read_text())
"""What Ruby itself answers."""


def test_versions_have_the_order_that_ruby_gives_them() -> None:
    for one, other, order in KNOWN["order"]:
        mine, theirs = versions.version_key(one), versions.version_key(other)
        assert (mine > theirs) - (mine < theirs) == order, (one, other)


def test_a_requirement_allows_what_ruby_lets_it() -> None:
    for text, names_prerelease, allowed in KNOWN["requirements"]:
        if text:
            assert [one for one in KNOWN["versions"] if versions.matches(text, one)] == allowed, text
        # Pre-releases are left out by the dependency, not by the requirement, which Ruby was asked for.
        expected = [one for one in allowed if names_prerelease or not versions.is_prerelease(one)]
        assert [one for one in KNOWN["versions"] if versions.allows(text, one)] == expected, text


@pytest.mark.parametrize("text", ["", "x", "1..2", "1.0/2", "1" * 300, "1\n"])
def test_what_is_no_version_is_not_read(text: str) -> None:
    assert not versions.is_version(text)


def test_no_requirement_allows_all_releases() -> None:
    assert [one for one in ("1", "2.rc1", "oops") if versions.allows(" ", one)] == ["1"]


@pytest.mark.parametrize("requirement", ["", "==1", "3.*", ">= 2 < 4", "latest", ">= 1,", "~> " + "1" * 200])
def test_what_is_no_requirement_is_refused(requirement: str) -> None:
    with pytest.raises(Invalid, match="is no requirement"):
        versions.check(requirement)


def test_versions_are_in_order() -> None:
    order = ["0.9", "1.0.a.2", "1.0.b1", "1.0.rc", "1.0", "1.0.1.pre", "1.0.1", "1.10"]
    assert sorted(order, key=versions.key, reverse=True) == order[::-1]
    assert len({versions.key("1"), versions.key("1.0.0")}) == 1


@pytest.mark.parametrize(
    ("platform", "platforms"),
    [(None, ()), ("", ()), ("ruby", ()), ("java", ("java",)), ("x86_64-linux", ("x86_64-linux",))],
)
def test_a_gem_with_compiled_parts_is_for_one_platform(platform: str | None, platforms: tuple[str, ...]) -> None:
    file = File(filename="a-1.gem", version="1", platform=platform)
    assert (versions.kind(file), versions.platforms(file)) == ("gem", platforms)


def test_names_of_gems_are_case_sensitive() -> None:
    assert versions.pattern("RubyInline*") == "RubyInline*"
