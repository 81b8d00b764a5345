"""What is read from a folder of OSV records, and which versions a record is about."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import ConfigError, Invalid
from mirror.policy import osv, records
from mirror.pypi import versions as python
from mirror.rubygems import versions as ruby

CANONICAL = {"PyPI": python.pattern, "RubyGems": lambda name: name}


def record(id: str = "MAL-2026-1", name: str = "evil", ecosystem: str = "PyPI", **affected: Any) -> dict[str, Any]:
    return {"id": id, "affected": [{"package": {"name": name, "ecosystem": ecosystem}, **affected}]}


def between(*events: dict[str, str], type: str = "ECOSYSTEM") -> dict[str, Any]:
    return {"ranges": [{"type": type, "events": list(events)}]}


def write(folder: Path, *records: Any) -> None:
    for number, one in enumerate(records):
        (folder / f"{number}.json").write_text(json.dumps(one))


def advisories(one: dict[str, Any]) -> list[osv.Advisory]:
    return [advisory for _, advisory in osv.read_record(json.dumps(one).encode(), CANONICAL)]


@pytest.mark.parametrize(
    ("affected", "inside", "outside"),
    [
        ({}, ["0.1", "99", "no version"], []),
        ({"versions": ["1.0", "1.1"]}, ["1.0", "1", "1.1.0"], ["1.2", "1.0.1"]),
        (between({"introduced": "0"}), ["0.dev0", "1", "2026.1"], []),
        (between({"introduced": "0"}, {"fixed": "2.0"}), ["0.1", "1.9", "2.0rc1"], ["2.0", "2", "3"]),
        (between({"introduced": "1.5"}, {"last_affected": "2.0"}), ["1.5", "2.0", "2"], ["1.4", "2.0.1"]),
        (
            between({"fixed": "4"}, {"introduced": "3"}, {"fixed": "2"}, {"introduced": "1"}),  # in no order
            ["1", "1.9", "3", "3.9"],
            ["0.9", "2", "2.9", "4"],
        ),
        (between({"introduced": "1"}, {"fixed": "2"}, {"introduced": "2"}, {"fixed": "3"}), ["1", "2", "2.9"], ["3"]),
        (between({"introduced": "2"}, {"last_affected": "2"}), ["2"], ["1", "2.1"]),
        ({"versions": ["5"], **between({"introduced": "1"}, {"fixed": "2"})}, ["1", "5"], ["2", "4"]),
    ],
)
def test_a_record_affects_the_versions_that_it_names(
    affected: dict[str, Any], inside: list[str], outside: list[str]
) -> None:
    (advisory,) = advisories(record(**affected))
    assert [version for version in inside if not advisory.affects(version, python.key)] == []
    assert [version for version in outside if advisory.affects(version, python.key)] == []


def test_versions_of_gems_are_ordered_as_ruby_does() -> None:
    (advisory,) = advisories(record(ecosystem="RubyGems", **between({"introduced": "3.0"}, {"fixed": "3.1.16"})))
    affected = [one for one in ("3.0.0.rc1", "3.0", "3.1.9", "3.1.16.a", "3.1.16") if advisory.affects(one, ruby.key)]
    assert affected == ["3.0", "3.1.9", "3.1.16.a"]


@pytest.mark.parametrize(
    ("more", "severity"),
    [
        ({}, "unknown"),
        ({"database_specific": {"severity": "MODERATE"}}, "medium"),
        ({"database_specific": {"severity": "CRITICAL"}, "severity": [{"score": "CVSS:3.1/AV:P"}]}, "critical"),
        ({"database_specific": {"severity": ["HIGH"]}}, "unknown"),
        ({"database_specific": None}, "unknown"),
        ({"severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"}]}, "critical"),
        (
            {
                "severity": [
                    {"type": "CVSS_V4", "score": "CVSS:4.0/AV:L/AC:H/AT:P/PR:H/UI:A/VC:L/VI:N/VA:N/SC:N/SI:N/SA:N"}
                ]
            },
            "low",
        ),
        ({"severity": [{"type": "CVSS_V3", "score": "CVSS:3.1/nonsense"}, {"score": "7.5"}]}, "unknown"),
    ],
)
def test_a_record_has_the_severity_that_it_says_or_that_its_vector_comes_to(
    more: dict[str, Any], severity: str
) -> None:
    (advisory,) = advisories({**record(), **more})
    assert advisory.severity == severity


def test_a_folder_is_read_by_ecosystem_and_canonical_name(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", record("MAL-1", "Evil_Thing"), record("MAL-2", "evil.thing", "PyPI:part"))
    write(tmp_path, record("MAL-3", "evil_thing", "RubyGems"), record("MAL-4", "evil", "Elsewhere"))
    (tmp_path / "README.md").write_text("not a record")
    index = records.load(tmp_path, CANONICAL)
    assert [one.id for one in index.about("PyPI", "evil-thing")] == ["MAL-1", "MAL-2"]
    assert [one.id for one in index.about("RubyGems", "evil_thing")] == ["MAL-3"]
    assert set(index.projects) == {("PyPI", "evil-thing"), ("RubyGems", "evil_thing")}
    assert index.skipped == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"MAL-1"',
        b'{"id": 7}',
        b'{"affected": []}',
        b'{"id": "MAL-1\\n", "affected": []}',
        b'{"id": "' + b"M" * 500 + b'"}',
        b'{"id": "MAL-1", "affected": {}}',
        b'{"id": "MAL-1", "affected": [{"package": {"name": 7}}]}',
        b'{"id": "MAL-1", "affected": [{"versions": [1]}]}',
        b"\xff\xfe\x00",
        b'{"id": "MAL-1", "database_specific": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"id": "MAL-1", "details": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    ],
)
def test_what_is_no_record_is_left_out_and_counted(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        list(osv.read_record(content, CANONICAL))
    (tmp_path / "bad.json").write_bytes(content)
    write(tmp_path, record())
    index = records.load(tmp_path, CANONICAL)
    assert index.skipped == 1
    assert len(index.about("PyPI", "evil")) == 1


def test_a_record_that_is_too_large_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LARGEST_RECORD_BYTES", 200)
    write(tmp_path, record(), {**record("MAL-2"), "details": "x" * 200})
    index = records.load(tmp_path, CANONICAL)
    assert [one.id for one in index.about("PyPI", "evil")] == ["MAL-2026-1"]
    assert index.skipped == 1


def test_withdrawn_records_and_records_of_commits_only_say_nothing(tmp_path: Path) -> None:
    commits = record("MAL-2", **between({"introduced": "0"}, {"fixed": "0a1b"}, type="GIT"))
    write(tmp_path, {**record(), "withdrawn": "2026-01-01T00:00:00Z"}, commits)
    index = records.load(tmp_path, CANONICAL)
    assert (index.projects, index.skipped) == ({}, 0)


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.mkdir()
    folder.mkdir()
    write(outside, record())
    (folder / "link.json").symlink_to(outside / "0.json")
    (folder / "link").symlink_to(outside)
    (folder / "round").symlink_to(folder)
    os.mkfifo(folder / "pipe.json")  # opening it would wait for ever
    assert records.load(folder, CANONICAL).projects == {}


def test_more_than_fits_in_memory_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, record(), record("MAL-2"))
    monkeypatch.setattr(records, "MOST_BYTES", 150)
    with pytest.raises(ConfigError, match="150 bytes"):
        records.load(tmp_path, CANONICAL)
    monkeypatch.setattr(records, "MOST_RECORDS", 1)
    with pytest.raises(ConfigError, match="more than 1 records"):
        records.load(tmp_path, CANONICAL)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no readable folder"):
        records.load(tmp_path / "nowhere", CANONICAL)
    with pytest.raises(ConfigError, match="no readable folder"):
        records.stamp(tmp_path / "nowhere")


def test_the_stamp_changes_with_the_folder_and_the_digest_with_what_it_says(tmp_path: Path) -> None:
    write(tmp_path, record())
    first = records.load(tmp_path, CANONICAL)
    assert first.stamp == records.stamp(tmp_path)
    os.utime(tmp_path / "0.json", ns=(1, 1))
    touched = records.load(tmp_path, CANONICAL)
    assert touched.stamp != first.stamp
    assert touched.digest == first.digest
    (tmp_path / "0.json").rename(tmp_path / "renamed.json")
    assert records.load(tmp_path, CANONICAL).digest == first.digest
    write(tmp_path, record("MAL-9"))
    assert records.stamp(tmp_path) not in {first.stamp, touched.stamp}
    assert records.load(tmp_path, CANONICAL).digest != first.digest
