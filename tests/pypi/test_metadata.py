"""Core metadata, as `info` of the JSON API shows it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import Invalid
from mirror.pypi.metadata import _fields, _identity, _identity_of_plain_head, identify, info_from_metadata

FULL = """\
Metadata-Version: 2.4
Name: Foo.Bar
Version: 1.0
Summary: A foo
Author: Ada
Author-email: ada@index.example
Maintainer: Bob
Maintainer-email: bob@index.example
Home-page: https://index.example/home
Download-URL: https://index.example/download
License: MIT, say
License-Expression: MIT
License-File: LICENSE
License-File: NOTICE
Classifier: Topic :: Software Development
Classifier: Programming Language :: Python
Keywords: foo,bar
Platform: linux
Platform: win32
Project-URL: Source, https://index.example/source
Project-URL: Docs, https://index.example/docs
Requires-Python: >=3.8
Requires-Dist: six (>=1.0)
Requires-Dist: rich; extra == "cli"
Provides-Extra: cli
Dynamic: classifier
Description-Content-Type: text/markdown
X-Own: ignored

# Foo ä

Long.
"""


def test_info_has_every_field_that_the_metadata_has() -> None:
    assert info_from_metadata(FULL.encode()) == {
        "author": "Ada",
        "author_email": "ada@index.example",
        "bugtrack_url": None,
        "classifiers": ["Topic :: Software Development", "Programming Language :: Python"],
        "description": "# Foo ä\n\nLong.\n",
        "description_content_type": "text/markdown",
        "docs_url": None,
        "download_url": "https://index.example/download",
        "downloads": {"last_day": -1, "last_month": -1, "last_week": -1},
        "dynamic": ["classifier"],
        "home_page": "https://index.example/home",
        "keywords": "foo,bar",
        "license": "MIT, say",
        "license_expression": "MIT",
        "license_files": ["LICENSE", "NOTICE"],
        "maintainer": "Bob",
        "maintainer_email": "bob@index.example",
        "name": "Foo.Bar",
        "package_url": None,
        "platform": "linux,win32",
        "project_url": None,
        "project_urls": {"Source": "https://index.example/source", "Docs": "https://index.example/docs"},
        "provides_extra": ["cli"],
        "release_url": None,
        "requires_dist": ["six (>=1.0)", 'rich; extra == "cli"'],
        "requires_python": ">=3.8",
        "summary": "A foo",
        "version": "1.0",
        "yanked": False,
        "yanked_reason": None,
    }


def test_info_of_nothing_has_the_same_keys() -> None:
    assert info_from_metadata(b"").keys() == info_from_metadata(FULL.encode()).keys()


def test_line_ends_and_a_byte_order_mark_make_no_difference() -> None:
    windows = b"\xef\xbb\xbf" + FULL.replace("\n", "\r\n").encode()
    assert info_from_metadata(windows) == info_from_metadata(FULL.encode())
    assert identify(windows) == identify(FULL.encode())


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: f"Name: a\nVersion: 1\n{text}".encode()))
def test_any_bytes_give_info_or_are_invalid(raw: bytes) -> None:
    try:
        assert set(info_from_metadata(raw)) >= {"name", "version", "description"}
        identify(raw)
    except Invalid:
        pass


@pytest.mark.timeout(30)
def test_many_different_fields_are_refused_before_they_cost_time() -> None:
    with pytest.raises(Invalid):
        info_from_metadata(b"".join(b"X-%d: 1\n" % number for number in range(15_000)))


@pytest.mark.timeout(30)
def test_a_nest_of_parts_is_not_parsed_as_mail() -> None:
    part = b"".join(b"Content-Type: multipart/mixed; boundary=%d\n\n--%d\n" % (n, n) for n in range(5000))
    assert info_from_metadata(b"Name: a\nVersion: 1\n" + part)["name"] == "a"


LINES = [
    *(b"Name: six", b"name:a", b"Version: 1.0", b"Version: 1.0  ", b"Version:x", b"Metadata-Version: 2.1"),
    *(b"Requires-Python: >=3", b"requires-python:", b"  more", b"\tmore", b"Author: M\xc3\xbc", b"Name: \xff", b""),
    *(b"no colon", b"From me", b"Name : six", b"Content-Type: multipart/mixed; boundary=x", b"Summary: a: b"),
]


@given(st.lists(st.sampled_from(LINES), min_size=1, max_size=7), st.sampled_from([b"\n", b"\r\n"]))
def test_the_identity_of_a_plain_head_is_the_parsed_one_or_none(lines: list[bytes], end: bytes) -> None:
    raw = end.join(lines)
    try:
        seen = _identity_of_plain_head(raw)
    except Invalid as error:
        seen = None
        with pytest.raises(Invalid, match=re.escape(str(error))):
            _identity(*_fields(raw))
    if seen is not None:
        assert seen == _identity(*_fields(raw))
