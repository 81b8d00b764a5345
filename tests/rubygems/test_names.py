"""Names, versions and platforms, against what Ruby makes of them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import Invalid
from mirror.rubygems.names import (
    FullName,
    canonical,
    full_name,
    is_new_version,
    number,
    parse_gem_filename,
    platform_parts,
    split_full_name,
    split_number,
)
from mirror.rubygems.versions import is_prerelease, version_key

VERSIONS = [
    "0",
    "1",
    "1.0",
    "1.0.0",
    "1.1",
    "1.10",
    "1.2",
    "1.9",
    "2.0.0.rc1",
    "2.0.0.rc2",
    "2.0.0.rc10",
    "2.0.0",
    "2.0.a",
    "2.a.0",
    "2.a",
    "2.a.1",
    "2.a.0.1",
    "2.0.a.0.b",
    "2.0.a.b",
    "2.0.0.a",
    "1.0.b",
    "1.a",
    "1.a.0.b",
    "1.a.b",
    "1.a.0.0.b",
    "1.0.1",
    "1.0.0.1",
    "1.0.a1",
    "1.0.a01",
    "1.0.A",
    "1.0.Z",
    "1.0.pre.beta",
    "1.0-beta",
    "1.0-beta.1",
    "0.0",
    "0.a",
    "0.0.a",
    "0.0.0.1",
    "10.0",
    "9.9.9",
    "5.2.4.beta",
    "5.2.4",
    "3.0.0.beta10",
    "3.0.0.beta2",
    "1.2.b3",
    "1.2.b.3",
    "1.2.3b",
    "20240101",
    "1.0.0a",
    "00.1",
    "1.00.2",
    "99999999999999999999",
    "1.0.0.0.0.0.1",
    "1.x.1",
    "1.x.a",
    "1.x",
    "1.x.0",
    "1.x.0.0",
]


def test_versions_sort_as_ruby_sorts_them(newer_ruby):
    theirs = newer_ruby("answer input.sort_by { |v| [Gem::Version.new(v), v] }", VERSIONS)
    shuffled = random.Random(1).sample(VERSIONS, len(VERSIONS))
    assert sorted(shuffled, key=lambda version: (version_key(version), version)) == theirs


def test_every_pair_of_versions_compares_as_ruby_compares_it(newer_ruby):
    theirs = newer_ruby(
        "vs = input.map { |v| Gem::Version.new(v) }; answer vs.map { |a| vs.map { |b| a <=> b } }", VERSIONS
    )
    keys = [version_key(version) for version in VERSIONS]
    assert [[(a > b) - (a < b) for b in keys] for a in keys] == theirs


def test_random_versions_compare_as_ruby_compares_them(newer_ruby):
    random_ = random.Random(7)
    parts = ["0", "0", "0", "1", "2", "10", "a", "b", "rc", "rc1", "0a", "b0"]
    pairs = [
        [".".join([str(random_.randrange(2)), *random_.choices(parts, k=random_.randrange(6))]) for _ in "ab"]
        for _ in range(5000)
    ]
    theirs = newer_ruby("answer input.map { |a, b| Gem::Version.new(a) <=> Gem::Version.new(b) }", pairs)
    for (a, b), expected in zip(pairs, theirs, strict=True):
        one, other = version_key(a), version_key(b)
        assert (one > other) - (one < other) == expected, (a, b)


def test_prereleases_are_those_of_ruby(ruby):
    theirs = ruby("answer input.map { |v| Gem::Version.new(v).prerelease? }", VERSIONS)
    assert [is_prerelease(version) for version in VERSIONS] == theirs


def test_ruby_accepts_what_is_called_a_version(ruby):
    odd = ["1", "1.0", "", "a", "1.", ".1", "1..2", "1.a", "1 2", "1\n", "1.0+x", "1/2", "1.é", "v1"]
    theirs = ruby("answer input.map { |v| Gem::Version.correct?(v) ? true : false }", odd)
    assert {text for text in odd if is_new_version(text)} <= {
        text for text, right in zip(odd, theirs, strict=True) if right
    }
    assert is_new_version("1.a")
    assert not is_new_version("")
    assert not is_new_version("1\n")
    assert not is_new_version("1." * 100 + "0")


@pytest.mark.parametrize("name", ["rack", "_", "-", ".cat", "http_parser.rb", "RubyInline", "a" * 200])
def test_names_of_the_public_index_are_names(name):
    assert canonical(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0", "a\n", "a b", "é", "a" * 201, "../x", "a\\b", "%2e"])
def test_what_could_leave_a_folder_or_a_line_is_no_name(name):
    with pytest.raises(Invalid):
        canonical(name)


@pytest.mark.parametrize(
    ("filename", "expected"),
    [
        ("rack-3.0.gem", ("rack", "3.0", "ruby")),
        ("io-console-0.8.0-java.gem", ("io-console", "0.8.0", "java")),
        ("win32-api-1.0.4-x86-mswin32-60.gem", ("win32-api", "1.0.4", "x86-mswin32-60")),
        ("nokogiri-1.16.0-x86_64-linux-musl.gem", ("nokogiri", "1.16.0", "x86_64-linux-musl")),
        ("ruby2_keywords-0.0.5.gem", ("ruby2_keywords", "0.0.5", "ruby")),
        ("foo-2-1.0.gem", ("foo-2", "1.0", "ruby")),
        ("foo-3.gem", ("foo", "3", "ruby")),
        ("--1.0.gem", ("-", "1.0", "ruby")),
        (".cat-0.1.gem", (".cat", "0.1", "ruby")),
    ],
)
def test_file_names_are_read(filename, expected):
    assert parse_gem_filename(filename) == FullName(*expected)
    assert FullName(*expected).filename == filename


def test_whoever_knows_the_names_decides_between_readings():
    assert split_full_name("a-1.0-2.0") == ("a", "1.0", "2.0")
    assert split_full_name("a-1.0-2.0", {"a-1.0"}.__contains__) == ("a-1.0", "2.0", "ruby")
    assert split_full_name("a-1.0-2.0", {"b"}.__contains__) == ("a", "1.0", "2.0")


@pytest.mark.parametrize(
    "filename",
    [
        "",
        ".gem",
        "rack.gem",
        "rack-.gem",
        "-1.0.gem",
        "rack-3.0",
        "a/b-1.0.gem",
        "../x-1.0.gem",
        "x-1.0-.gem",
        "x-1.0-a b.gem",
        "x" * 300 + "-1.0.gem",
        "x-1.0\0.gem",
        "..-1.0.gem",
    ],
)
def test_other_file_names_are_invalid(filename):
    with pytest.raises(Invalid):
        parse_gem_filename(filename)


@given(
    name=st.from_regex(r"\A[a-z][a-z_]{0,8}(-[a-z]+)?\Z"),
    version=st.from_regex(r"\A[0-9]{1,3}(\.[0-9a-z]{1,4}){1,3}\Z"),
    platform=st.sampled_from(["ruby", "java", "x86_64-linux", "x86-mswin32-60"]),
)
def test_full_names_are_taken_apart_again(name, version, platform):
    assert split_full_name(full_name(name, version, platform), {name}.__contains__) == (name, version, platform)
    assert split_number(number(version, platform)) == (version, platform)


@given(st.text(max_size=300))
def test_no_text_breaks_the_order_or_the_reading(text):
    version_key(text)
    platform_parts(text)
    is_prerelease(text)
