"""Specifiers, order and kinds of Python's versions and files, as policy asks for them."""

import pytest

from mirror.errors import Invalid
from mirror.model import File
from mirror.policy.rules import Versions
from mirror.pypi import versions


def test_the_module_is_what_policy_asks_for() -> None:
    asked: Versions = versions
    assert asked.ecosystem == "PyPI"


@pytest.mark.parametrize(
    ("specifier", "inside", "outside"),
    [
        (">=2,<3", ["2", "2.0.post1", "2.9"], ["1.9", "3.0", "3.0rc1"]),
        (">=2", ["2.1rc1", "2.1.dev1"], ["2.0rc1"]),
        ("==2.32.*", ["2.32", "2.32.3", "2.32.0rc1"], ["2.3", "2.33"]),
        ("==1.0", ["1", "1.0.0", "1.0+local"], ["1.0.1"]),
        ("~=2.2", ["2.2", "2.9"], ["3.0", "2.1"]),
        ("===2004d", ["2004d"], ["2004e"]),
        (">=0", ["0"], ["2004d", "", "9" * 300, "1" * 5000]),
    ],
)
def test_a_specifier_names_versions_as_pep_440_says(specifier: str, inside: list[str], outside: list[str]) -> None:
    versions.check(specifier)
    assert [version for version in inside if not versions.matches(specifier, version)] == []
    assert [version for version in outside if versions.matches(specifier, version)] == []


@pytest.mark.parametrize("specifier", ["2.0", "~> 2", ">=2;", "latest", ">= 2 < 3"])
def test_what_is_no_specifier_is_refused(specifier: str) -> None:
    with pytest.raises(Invalid, match="is not a version specifier"):
        versions.check(specifier)


def test_versions_are_in_order_and_what_is_none_comes_first() -> None:
    order = ["2004d", "0.dev0", "1.0a1", "1.0rc1", "1.0", "1.0.post1", "1.1", "1.10", "1!0.1"]
    assert sorted(order, key=versions.key, reverse=True) == order[::-1]
    assert versions.key("1.0") == versions.key("1") == versions.key("v1.0.0")
    assert len({versions.key("1.0"), versions.key("1"), versions.key("1" * 5000)}) == 2


@pytest.mark.parametrize(
    ("filename", "kind", "platforms"),
    [
        ("a-1-py3-none-any.whl", "wheel", ()),
        ("a-1-cp311-cp311-win_amd64.whl", "wheel", ("win_amd64",)),
        (
            "a-1-1build-cp311-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
            "wheel",
            ("manylinux_2_17_x86_64", "manylinux2014_x86_64"),
        ),
        ("a-1-cp311-cp311-win_amd64-x86_64_v3.whl", "wheel", ("win_amd64",)),
        ("a-1.tar.gz", "sdist", ()),
        ("a-1.zip", "sdist", ()),
        ("a-1-py2.7.egg", "egg", ()),
        ("a-1.win32.exe", "other", ()),
    ],
)
def test_a_file_is_known_by_its_name(filename: str, kind: str, platforms: tuple[str, ...]) -> None:
    file = File(filename=filename, version="1")
    assert (versions.kind(file), versions.platforms(file)) == (kind, platforms)


@pytest.mark.parametrize(("written", "spelled"), [("Acme_*", "acme-*"), ("acme.-_core", "acme-core"), ("*", "*")])
def test_patterns_are_spelled_as_canonical_names_are(written: str, spelled: str) -> None:
    assert versions.pattern(written) == spelled
