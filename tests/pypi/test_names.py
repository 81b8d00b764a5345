"""Names, versions and file names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.tags import Tag
from packaging.utils import canonicalize_name

from mirror.errors import Invalid
from mirror.pypi import names
from mirror.pypi.names import (
    canonical,
    canonical_names,
    kind_of,
    parse_filename,
    safe_filename,
    version_of,
    wheel_tags,
)


@given(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,40}[A-Za-z0-9])?", fullmatch=True))
def test_names_are_normalised_as_the_standard_says(name: str) -> None:
    assert canonical(name) == canonicalize_name(name)
    assert canonical(canonical(name)) == canonical(name)


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", ".", "..", "a/b", "a b", "a\n", "ä", "a\x00", "a" * 201, "a%2f", "a\u200b", "٣"]
)
def test_what_cannot_be_a_name_is_refused(name: str) -> None:
    with pytest.raises(Invalid):
        canonical(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".a.whl", "a/b", "a\\b", "a\x00", "a\n", "a\x7f", "a" * 256, "é.whl", "a" + "é" * 128, "a?b", "-a"],
)
def test_what_cannot_be_a_file_name_is_unsafe(name: str) -> None:
    assert not safe_filename(name)


def test_ordinary_file_names_are_safe() -> None:
    assert all(safe_filename(name) for name in ["a-1.0+local-py3-none-any.whl", "_a-1.tar.gz", "a" * 255, "a b.zip"])


@pytest.mark.parametrize(
    ("filename", "project", "version", "kind"),
    [
        ("foo_bar-1.0-py3-none-any.whl", "foo-bar", "1.0", "wheel"),
        ("foo-1.0-1-py3-none-any.whl", "foo", "1.0", "wheel"),
        ("foo-1.0_1-py3-none-any.whl", "foo", "1.0.post1", "wheel"),
        ("foo-1.0+a.1-cp311-cp311-win_amd64.whl", "foo", "1.0+a.1", "wheel"),
        ("foo-bar-1.0.tar.gz", "foo-bar", "1.0", "sdist"),
        ("Foo.Bar-1.0-beta1.zip", "foo-bar", "1.0b1", "sdist"),
        ("a-b-1-2.tar.gz", "a-b", "1.post2", "sdist"),
        ("a-1.tar.gz", "a", "1", "sdist"),
        ("a-1-1.tar.gz", "a-1", "1", "sdist"),
        ("foo-2004d.tar.bz2", "foo", "2004d", "sdist"),
        ("foo-1.0-py2.7.egg", "foo", "1.0", "other"),
        ("foo-1.0.win32-py2.7.exe", "foo", "1.0", "other"),
        ("foo-1.0.win-amd64.msi", "foo", "1.0", "other"),
        ("foo-1.0-1.noarch.rpm", "foo", "1.0", "other"),
        ("foo-1.0.linux-x86_64.tar.gz", "foo", "1.0", "other"),
        ("foo-1.0.macosx-10.9-x86_64.tar.gz", "foo", "1.0", "other"),
        ("elsewhere-3.tar.gz", "foo", "3", "sdist"),
        ("nothing.tar.gz", "foo", "", "sdist"),
        ("foo-1.0.txz", "foo", "1.0", "sdist"),
        ("foo-1.0.tar.lzma", "foo", "1.0", "sdist"),
        ("foo-1.0-variants.json", "foo", "1.0", "other"),
        ("foo-" + "1" * 240 + ".zip", "foo", "1" * 240, "sdist"),
    ],
)
def test_the_version_of_any_old_file_name_is_found(filename: str, project: str, version: str, kind: str) -> None:
    assert version_of(filename, project) == version
    assert kind_of(filename) == kind


def test_a_wheel_file_name_gives_its_parts() -> None:
    parts = parse_filename("Foo.Bar-1.0.0-2-py2.py3-none-any.whl")
    assert (parts.project, parts.version, parts.kind) == ("foo-bar", "1.0.0", "wheel")
    assert parts.tags == {Tag("py2", "none", "any"), Tag("py3", "none", "any")}


@pytest.mark.parametrize(
    ("filename", "tags"),
    [
        ("foo-1.0-cp312-abi3-linux_x86_64-x86_64_v3.whl", ("cp312", "abi3", "linux_x86_64")),
        ("foo-1.0-2-cp312-abi3-linux_x86_64-null.whl", ("cp312", "abi3", "linux_x86_64")),
        ("foo-1.0-2-cp312-abi3-linux_x86_64.whl", ("cp312", "abi3", "linux_x86_64")),
    ],
)
def test_the_file_name_of_a_variant_wheel_gives_its_parts(filename: str, tags: tuple[str, str, str]) -> None:
    assert parse_filename(filename).tags == {Tag(*tags)}
    assert wheel_tags(filename) == tags
    assert version_of(filename, "foo") == "1.0"
    assert parse_filename(filename).version == "1.0"


@pytest.mark.parametrize("filename", ["foo_bar-1.0.tar.gz", "foo-bar-1.0.zip", "Foo.Bar-1.0.tar.gz"])
def test_an_sdist_file_name_gives_its_parts(filename: str) -> None:
    parts = parse_filename(filename)
    assert (parts.project, parts.version, parts.kind) == ("foo-bar", "1.0", "sdist")


@pytest.mark.parametrize(
    "filename",
    [
        "foo-1.0-py2.7.egg",
        "foo-1.0.tar.bz2",
        "foo.whl",
        "foo-bar-py3-none-any.whl",
        "foo-.tar.gz",
        "../foo-1.0.tar.gz",
        "-1.0.tar.gz",
        "ünï-1.0-py3-none-any.whl",
        "foo-1.0-py3-none-any.whl\x00",
        "foo-1.0.tar.gz.asc",
        "foo-1.0-py3-none-any-Label.whl",
        "foo-1.0-py3-none-any-a_label_that_is_too_long.whl",
        "foo-1.0-build-py3-none-any-label.whl",
        "foo-1.0-py3-none-any-a-b.whl",
    ],
)
def test_what_is_neither_wheel_nor_sdist_cannot_be_uploaded(filename: str) -> None:
    with pytest.raises(Invalid):
        parse_filename(filename)


_ODD = st.lists(st.text(st.sampled_from("aZ09-_.\n é\ud800"), max_size=6) | st.just("a" * 201), max_size=12)


@given(_ODD, st.integers(1, 5))
def test_many_names_at_once_are_normalised_like_each(written: list[str], at_once: int) -> None:
    def alone(name: str) -> str | None:
        try:
            return canonical(name)
        except Invalid:
            return None

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(names, "NAMES_AT_ONCE", at_once)
        assert canonical_names(written) == [alone(name) for name in written]
