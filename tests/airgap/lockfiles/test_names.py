"""Names with specifiers from the command line."""

import pytest

from mirror.airgap.lockfiles import Pin, VersionRange, named, parse_name
from mirror.errors import Invalid


@pytest.mark.parametrize(
    ("text", "ecosystem", "project", "specifier"),
    [
        ("requests", "pypi", "requests", ""),
        ("Django>=4.2", "pypi", "django", ">=4.2"),
        ("pypi:Zope.Interface", "pypi", "zope-interface", ""),
        ("rack:~> 3.0", "rubygems", "rack", "~> 3.0"),
        ("rack:>= 1, < 2", "rubygems", "rack", ">= 1, < 2"),
        ("gem:RedCloth", "rubygems", "RedCloth", ""),
        ("gem:rack:3.1.16", "rubygems", "rack", "3.1.16"),
    ],
)
def test_a_name_tells_its_ecosystem(text: str, ecosystem: str, project: str, specifier: str) -> None:
    asked = parse_name(text, 3)
    assert asked.ecosystem == ecosystem
    assert isinstance(asked.entry, VersionRange)
    assert (asked.entry.project, asked.entry.specifier, asked.entry.newest) == (project, specifier, 3)


def test_an_exact_version_is_a_pin_and_a_marker_stays_with_it() -> None:
    entry = parse_name("six==1.16 ; os_name == 'nt'").entry
    assert isinstance(entry, Pin)
    assert (entry.project, entry.version, entry.markers) == ("six", "1.16", ('os_name == "nt"',))


def test_names_of_both_ecosystems_come_apart() -> None:
    python, ruby = named(["six==1", "gem:rack", "click"])
    assert (python.ecosystem, [pin.project for pin in python.pins]) == ("pypi", ["six"])
    assert [entry.project for entry in python.ranges] == ["click"]
    assert (ruby.ecosystem, [entry.project for entry in ruby.ranges]) == ("rubygems", ["rack"])
    assert named([]) == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b",
        "requests>>1",
        "rack:~> x/y",
        "gem:../x",
        "a @ https://files.example/a.zip",
        "https://x.example/",
        "gem:",
    ],
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_name(text)


def test_the_newest_none_of_them_is_refused() -> None:
    with pytest.raises(Invalid, match="1 or more"):
        named(["six"], newest=0)
