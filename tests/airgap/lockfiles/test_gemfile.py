"""Gemfile.lock: one written by bundler, one with every section, and broken ones."""

from pathlib import Path

import pytest

from mirror.airgap.lockfiles import parse, read, rewrite
from mirror.errors import InvalidLock

DATA = Path(__file__).parent / "data"

EVERYTHING = """GIT
  remote: https://user:secret@code.example/fork.git
  revision: 0123456789abcdef
  branch: main
  specs:
    fork (1.0)
      rack (>= 2)

PATH
  remote: engines/shop
  specs:
    shop (0.1.0)

GEM
  remote: https://gems.example/
  remote: https://second.example/
  specs:
    ffi (1.17.2)
    ffi (1.17.2-x86_64-linux-gnu)
    rack (3.1.16)

GEM
  remote: https://third.example/
  specs:
    private (2.0.0.rc1)

PLATFORMS
  ruby
  x86_64-linux-gnu

DEPENDENCIES
  fork!
  private!
  rack (~> 3.0)
  shop!

CHECKSUMS
  ffi (1.17.2) sha256=AB
  ffi (1.17.2-x86_64-linux-gnu) sha256=cd,sha512=ef
  rack (3.1.16)

RUBY VERSION
   ruby 3.3.4p94

BUNDLED WITH
   2.6.2
"""


def test_a_lock_of_bundler_is_understood() -> None:
    parsed = read(DATA / "gemfile-2.3.txt")
    assert (parsed.kind, parsed.ecosystem) == ("Gemfile.lock", "rubygems")
    assert parsed.indexes == ("https://gems.example/",)
    assert parsed.platforms == ("arm64-darwin", "ruby", "x86_64-linux")
    assert [f"{pin.project} {pin.version} {pin.platform}" for pin in parsed.pins][:3] == [
        "base64 0.3.0 ruby",
        "ffi 1.17.2 ruby",
        "logger 1.7.0 ruby",
    ]
    assert len(parsed.pins) == 10


def test_every_section_has_its_meaning() -> None:
    parsed = parse("Gemfile.lock", EVERYTHING)
    assert [(pin.project, pin.version, pin.platform, pin.hashes, pin.index) for pin in parsed.pins] == [
        ("ffi", "1.17.2", "ruby", ("sha256:ab",), "https://second.example/"),
        ("ffi", "1.17.2", "x86_64-linux-gnu", ("sha256:cd", "sha512:ef"), "https://second.example/"),
        ("rack", "3.1.16", "ruby", (), "https://second.example/"),
        ("private", "2.0.0.rc1", "ruby", (), "https://third.example/"),
    ]
    assert [(one.name, one.local) for one in parsed.external] == [("fork", False), ("shop", True)]
    assert "secret" not in parsed.external[0].reason
    assert parsed.platforms == ("ruby", "x86_64-linux-gnu")
    assert parsed.indexes == ("https://gems.example/", "https://second.example/", "https://third.example/")


def test_windows_line_ends_make_no_difference() -> None:
    assert parse("Gemfile.lock", EVERYTHING.replace("\n", "\r\n")) == parse("Gemfile.lock", EVERYTHING)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("GEM\n  remote: https://gems.example/\nwat\n", 3, "'wat' is not the heading of a section"),
        ("CONTENT ADDRESSES\n  ffi (1.0-x86_64-linux) NOHEX\n", 2, "is not a content address"),
        ("CONTENT ADDRESSES\n  ffi (1.0-../x) 78be552b\n", 2, "is not a platform"),
        ("  rack (1)\n", 1, "before the first section"),
        ("GEM\n  specs:\n    rack\n", 3, "is not a gem with its version"),
        ("GEM\n  specs:\n    rack (../1)\n", 3, "is not a gem version"),
        ("GEM\n  specs:\n    ra/ck (1)\n", 3, "is not a gem name"),
        ("GEM\n  specs:\n    rack (1-../x)\n", 3, "is not a platform"),
        ("GEM\n    rack (1)\n", 2, "is not expected here"),
        ("CHECKSUMS\n  rack 1\n", 2, "is not a checksum"),
        ("GEM\n<<<<<<< HEAD\n  specs:\n", 2, "merge conflicts"),
    ],
)
def test_a_broken_gemfile_lock_is_refused_with_line_and_reason(text: str, line: int, reason: str) -> None:
    with pytest.raises(InvalidLock) as caught:
        parse("Gemfile.lock", text)
    assert caught.value.line == line
    assert reason in caught.value.reason


ADDRESSED = EVERYTHING.replace(
    "CHECKSUMS\n", "CONTENT ADDRESSES\n  ffi (1.17.2-x86_64-linux-gnu) 78be552b sha256=78BE\n\nCHECKSUMS\n"
)


def test_a_content_address_is_a_pin_beside_that_of_the_platform() -> None:
    parsed = parse("Gemfile.lock", ADDRESSED)
    pins = [(pin.platform, pin.address, pin.hashes, pin.index) for pin in parsed.pins if pin.project == "ffi"]
    assert pins == [
        ("ruby", "", ("sha256:ab",), "https://second.example/"),
        ("x86_64-linux-gnu", "", ("sha256:cd", "sha512:ef"), "https://second.example/"),
        ("x86_64-linux-gnu", "78be552b", ("sha256:78be",), "https://second.example/"),
    ]
    assert parsed.ruby == "3.3.4"
    assert parsed.warnings == ()
    moved = rewrite(ADDRESSED, "Gemfile.lock", {"https://second.example/": "http://mirror.example/"})
    assert moved == ADDRESSED.replace("https://second.example/", "http://mirror.example/")


def test_a_section_that_no_one_knows_yet_is_skipped_with_a_warning() -> None:
    newer = EVERYTHING.replace("CHECKSUMS\n", "FROM THE FUTURE\n  thing (1) x\n      deep\n\nCHECKSUMS\n")
    parsed = parse("Gemfile.lock", newer)
    assert parsed.warnings == ("the section 'FROM THE FUTURE' is not known, and is skipped",)
    assert [pin.project for pin in parsed.pins] == [pin.project for pin in parse("Gemfile.lock", EVERYTHING).pins]
    moved = rewrite(newer, "Gemfile.lock", {"https://second.example/": "http://mirror.example/"})
    assert moved == newer.replace("https://second.example/", "http://mirror.example/")
