"""The index as a whole: against the parsers of real bundler and RubyGems, and as properties."""

import base64
import gzip
import hashlib
import json
import zlib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import UpstreamProtocolError
from mirror.rubygems.index import info_from_gemspecs, map_from_specs, render_names, specs
from mirror.rubygems.log.published_log import PublishedLog
from mirror.rubygems.log.upstream_copy import Append, Refetch, Refused, Replace, Unchanged, UpstreamCopy, follow
from mirror.rubygems.log.versions_map import EMPTY_MD5, VersionsMap, diff, parse_versions, render_versions
from mirror.rubygems.marshal import GemDependency, GemRequirement, Gemspec
from mirror.rubygems.marshal.reading import load_specs
from mirror.rubygems.marshal.writing import dump
from mirror.rubygems.versions import version_key
from mirror.server.respond import digest_headers

DATA = Path(__file__).parent / "data"
HEADERS = json.loads((DATA / "info-headers.json").read_text())
NOON = datetime(2026, 8, 1, 12, tzinfo=UTC)
M1, M2, M3 = ("1" * 32, "2" * 32, "3" * 32)


def map_of(**gems: tuple[str, str]) -> VersionsMap:
    versions = VersionsMap()
    for name, (listed, md5) in gems.items():
        versions.set(name, listed.split(",") if listed else [], md5)
    return versions


def seen(versions: VersionsMap) -> dict[str, tuple[set[str], str | None]]:
    return {name: (set(versions.versions(name)), versions.md5(name)) for name in versions}


def test_a_log_is_read_as_the_protocol_defines():
    body = b"""created_at: 2026-08-01T00:00:00Z
---
rack 1.0,2.0 11111111111111111111111111111111
- 1 22222222222222222222222222222222
_ 1 22222222222222222222222222222222
.cat 0.1 22222222222222222222222222222222

http_parser.rb 0.1,0.1-java
RubyInline 1 22222222222222222222222222222222
rack -1.0,3.0,3.0-java 22222222222222222222222222222222
gone 1 11111111111111111111111111111111
gone -1 33333333333333333333333333333333
nothing
-never -1 1
"""
    versions = parse_versions(body)
    assert seen(versions) == {
        "rack": ({"2.0", "3.0", "3.0-java"}, M2),
        "-": ({"1"}, M2),
        "_": ({"1"}, M2),
        ".cat": ({"0.1"}, M2),
        "http_parser.rb": ({"0.1", "0.1-java"}, None),
        "RubyInline": ({"1"}, M2),
    }
    assert "gone" not in versions
    assert versions.md5("gone") == M3, "who saw it once asks for its page"
    assert versions.md5("unknown") is None
    assert versions.versions("unknown") == ()


@pytest.mark.parametrize(
    "body", [b"", b"---\n", b"a: b\n---\n", b"\n\n", b"\xff\xfe \xff \xff\n", b"---\r\nx\r\n", b"a  b\n"]
)
def test_odd_logs_are_read_without_error(body):
    list(parse_versions(body))


def test_carriage_returns_and_repetitions_do_no_harm():
    versions = parse_versions(b"---\na 1,1,2 " + M1.encode() + b"\r\na 2 " + M2.encode() + b"\n")
    assert versions.versions("a") == ("1", "2")
    assert versions.md5("a") == M2


# --- differences

CHANGES = {
    "nothing": ({"a": ("1", M1)}, {"a": ("1", M1)}, b""),
    "another order": ({"a": ("1,2", M1)}, {"a": ("2,1", M1)}, b""),
    "a new gem": ({"a": ("1", M1)}, {"a": ("1", M1), "b": ("1,2-java", M2)}, f"b 1,2-java {M2}\n".encode()),
    "a new version": ({"a": ("1", M1)}, {"a": ("1,2", M2)}, f"a 2 {M2}\n".encode()),
    "a yank": ({"a": ("1,2,3", M1)}, {"a": ("1,3", M2)}, f"a -2 {M2}\n".encode()),
    "both": ({"a": ("1,2", M1)}, {"a": ("2,3", M2)}, f"a -1,3 {M2}\n".encode()),
    "another page only": ({"a": ("1.0.0,2,3.0", M1)}, {"a": ("1.0.0,2,3.0", M2)}, f"a -2,2 {M2}\n".encode()),
    "all versions gone": ({"a": ("1,2", M1)}, {"a": ("", M3)}, f"a -1,-2 {M3}\n".encode()),
    "a gem gone": ({"a": ("1,2", M1)}, {}, f"a -1,-2 {EMPTY_MD5}\n".encode()),
    "a gem still gone": ({"a": ("", EMPTY_MD5)}, {}, b""),
    "a gem back": ({"a": ("", EMPTY_MD5)}, {"a": ("1", M1)}, f"a 1 {M1}\n".encode()),
}


@pytest.mark.parametrize(("before", "after", "expected"), CHANGES.values(), ids=CHANGES)
def test_the_smallest_lines_carry_a_change(before, after, expected):
    log = PublishedLog.begin(map_of(**before), NOON)
    longer, tail = log.updated(map_of(**after))
    assert tail == expected
    assert longer.slice() == log.slice() + tail
    assert seen(longer.map) == seen(map_of(**after))


BUNDLER = """
require 'bundler'; require 'bundler/compact_index_client'; require 'tmpdir'
def read(log)
  Dir.mktmpdir do |dir|
    File.binwrite(File.join(dir, 'versions'), log)
    cache = Bundler::CompactIndexClient::Cache.new(Pathname.new(dir))
    if defined?(Bundler::CompactIndexClient::Parser)  # since Bundler 2.6
      parser = Bundler::CompactIndexClient::Parser.new(cache)
      versions, sums = parser.versions, parser.send(:info_checksums)
    else
      versions, sums = cache.versions
    end
    versions.reject { |_, v| v.empty? }.to_h { |n, v| [n, [v.map { |x| x.drop(1).compact.join('-') }.sort, sums[n]]] }
  end
end
"""


def test_bundler_reads_each_state_of_a_log_as_we_do(ruby):
    states = [after for _, after, _ in CHANGES.values()] + [before for before, _, _ in CHANGES.values()]
    log = PublishedLog.begin(VersionsMap(), NOON)
    logs, wanted = [], []
    for state in states:
        log, _ = log.updated(map_of(**state))
        logs.append(log.slice().decode())
        wanted.append({name: [sorted(listed), md5] for name, (listed, md5) in seen(map_of(**state)).items()})
    assert ruby(BUNDLER + "answer input.map { |log| read(log) }", logs) == wanted


tokens = st.sampled_from(["0", "1", "1.0", "1.1", "1.1-java", "2.0.rc1", "2.0", "2.0-x86_64-linux"])
entries = st.tuples(st.lists(tokens, max_size=5, unique=True), st.sampled_from([M1, M2, M3]))
maps = st.dictionaries(st.sampled_from(["a", "b", "-", "_", ".cat", "a.b", "Z"]), entries, max_size=7)


def built(gems: dict[str, tuple[list[str], str]]) -> VersionsMap:
    versions = VersionsMap()
    for name, (listed, md5) in gems.items():
        versions.set(name, listed, md5)
    return versions


@given(maps, maps)
def test_published_and_difference_give_what_is_wanted(before, after):
    published, wanted = built(before), built(after)
    lines = diff(published, wanted)
    published.apply(lines)
    assert seen(published) == seen(wanted)
    assert diff(published, wanted) == []
    assert published == wanted


@given(st.lists(maps, max_size=6))
def test_a_log_after_any_history_is_one_that_is_read_back(history):
    log = PublishedLog.begin(VersionsMap(), NOON)
    whole = log.slice()
    for gems in history:
        log, tail = log.updated(built(gems))
        whole += tail
        assert seen(log.map) == seen(built(gems))
    assert log.slice() == whole
    assert gzip.decompress(b"".join(log.gzip_chunks)) == whole
    assert seen(parse_versions(whole)) == seen(log.map)
    again = PublishedLog.from_bytes(whole)
    assert (again.slice(), again.etag, again.sha256) == (whole, log.etag, log.sha256)
    assert again.etag == hashlib.md5(whole).hexdigest()
    assert again.sha256 == hashlib.sha256(whole).hexdigest()


@given(maps)
def test_a_complete_log_is_read_back(gems):
    assert seen(parse_versions(render_versions(built(gems), NOON))) == seen(built(gems))


def test_a_log_stays_what_it_was_when_it_is_continued():
    log = PublishedLog.begin(map_of(a=("1", M1)), NOON)
    before = log.slice(), log.etag, log.sha256, b"".join(log.gzip_chunks)
    longer, tail = log.updated(map_of(a=("1,2", M2)))
    assert (log.slice(), log.etag, log.sha256, b"".join(log.gzip_chunks)) == before
    assert longer.slice(log.size) == tail
    assert longer.slice(log.size - 1) == b"\n" + tail
    assert log.appended(tail).slice() == longer.slice()
    assert log.updated(log.map) == (log, b"")


def test_the_gzip_form_is_one_member_that_ruby_inflates(ruby):
    log = PublishedLog.begin(map_of(a=("1", M1)), NOON)
    wanted = log.map.copy()
    for at in range(200):
        wanted.set(f"gem{at}", ["1.0"], M2)
        log, _ = log.updated(wanted)
    assert len(log.chunks) < 100
    packed = b"".join(log.gzip_chunks)
    assert PublishedLog.from_bytes(log.slice(), packed=False).gzip_chunks == ()
    assert (
        gzip.decompress(b"".join(PublishedLog.from_bytes(log.slice(), packed=False).packed().gzip_chunks))
        == log.slice()
    )
    inflated = ruby(
        "answer Zlib::GzipReader.new(StringIO.new(input.unpack1('m'))).read", base64.b64encode(packed).decode()
    )
    assert inflated.encode() == log.slice()


@given(st.integers(0, 400), st.integers(0, 400))
def test_any_slice_is_the_slice_of_the_whole(start, stop):
    log = PublishedLog.begin(map_of(a=("1", M1)), NOON)
    for at in range(5):
        log, _ = log.updated(map_of(a=("1", M1), **{f"b{at}": ("1", M2)}))
    assert log.slice(start, stop) == log.slice()[start:stop]
    assert log.slice(start) == log.slice()[start:]


def test_every_genuine_page_has_the_digest_headers_that_were_recorded():
    for name, headers in HEADERS.items():
        sha256 = hashlib.sha256((DATA / "info" / name).read_bytes()).digest()
        ours = digest_headers(sha256)
        assert ours["Repr-Digest"].split(":")[1] in headers["repr-digest"]
        assert ours["Digest"].removeprefix("sha-256=") in headers["digest"]


# --- following

OLD = b"created_at: 2026-08-01T00:00:00Z\n---\na 1 " + M1.encode() + b"\n"
TAIL = b"a 2 " + M2.encode() + b"\n"
NEW = OLD + TAIL
COPY = UpstreamCopy.of(OLD, '"old"')


def b64(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def span(start: int, stop: int, total: int | str) -> dict[str, str]:
    return {"Content-Range": f"bytes {start}-{stop - 1}/{total}"}


RANGE = span(len(OLD) - 1, len(NEW), len(NEW))
GOOD = {**RANGE, "Repr-Digest": f"sha-256=:{b64(NEW)}:", "ETag": '"new"'}


def test_the_tail_is_requested_with_one_byte_of_overlap():
    assert COPY.request_headers() == {
        "Range": f"bytes={len(OLD) - 1}-",
        "Accept-Encoding": "identity",
        "If-None-Match": '"old"',
    }
    assert "If-None-Match" not in UpstreamCopy.of(OLD, None).request_headers()


@pytest.mark.parametrize(
    "header",
    [
        {"Repr-Digest": f"sha-256=:{b64(NEW)}:"},
        {"repr-digest": f'sha-256="{b64(NEW)}"'},
        {"Digest": f"sha-256={b64(NEW)}"},
        {"Digest": f"SHA-256={b64(NEW)}"},
        {"Digest": f"sha-512=:AAAA:, sha-256=:{b64(NEW)}:"},
        {"Digest": f"sha-256={b64(NEW)},md5=xyz"},
    ],
)
def test_a_proven_tail_is_appended_however_the_digest_is_spelled(header):
    verdict = follow(COPY, 206, {**RANGE, **header, "ETag": '"new"'}, b"\n" + TAIL)
    assert isinstance(verdict, Append)
    assert verdict.tail == TAIL
    assert verdict.copy.request_headers() == UpstreamCopy.of(NEW, '"new"').request_headers()
    assert verdict.copy.sha256.digest() == hashlib.sha256(NEW).digest()
    assert COPY.sha256.digest() == hashlib.sha256(OLD).digest(), "the old copy is untouched"


def test_nothing_new_is_unchanged():
    assert follow(COPY, 304, {}, b"") == Unchanged()
    same = {**span(len(OLD) - 1, len(OLD), len(OLD)), "Digest": f"sha-256={b64(OLD)}"}
    assert follow(COPY, 206, same, b"\n") == Unchanged()


CUT = NEW[:-10]
SUSPECT = {
    "416": (416, {"Content-Range": f"bytes */{len(OLD)}"}, b""),
    "412": (412, {}, b""),
    "an empty 206": (206, {}, b""),
    "a 206 without a digest": (206, RANGE, b"\n" + TAIL),
    "a 206 with another digest": (206, {**RANGE, "Digest": f"sha-256={b64(TAIL)}"}, b"\n" + TAIL),
    "a 206 whose digest is nonsense": (206, {**RANGE, "Digest": "sha-256=xyz"}, b"\n" + TAIL),
    "a 206 without its range": (206, {"Digest": f"sha-256={b64(NEW)}"}, b"\n" + TAIL),
    "a 206 that starts elsewhere": (206, {**GOOD, **span(0, len(NEW), len(NEW))}, NEW),
    "a 206 that starts one later": (206, {**GOOD, **span(len(OLD), len(NEW), len(NEW))}, TAIL),
    "a 206 with a wrong start": (206, {**GOOD, **span(len(OLD) - 2, len(NEW) - 1, len(NEW))}, b"\n" + TAIL),
    "a wrong overlapping byte": (206, GOOD, b"x" + TAIL),
    "a truncated tail": (206, GOOD, b"\n" + TAIL[:-5]),
    "a tail that ends within a line": (
        206,
        {**span(len(OLD) - 1, len(NEW) - 1, len(NEW)), "Digest": f"sha-256={b64(NEW[:-1])}"},
        b"\n" + TAIL[:-1],
    ),
    "a compressed tail": (206, {**GOOD, "Content-Encoding": "gzip"}, b"\n" + TAIL),
    "a truncated 200": (200, {"Digest": f"sha-256={b64(NEW)}"}, CUT),
    "a 200 that ends within a line": (200, {}, CUT),
    "a 200 cut at the end of a line": (200, {"Content-Length": str(len(NEW))}, OLD),
    "a 200 cut at the end of a line, with its digest": (200, {"Repr-Digest": f"sha-256=:{b64(NEW)}:"}, OLD),
    "a shorter 200 that nothing proves": (200, {}, b"---\na 1 1\n"),
    "an empty 200": (200, {}, b""),
    "a page for people": (200, {"Content-Length": "21"}, b"<html>sign in</html>\n"),
}


@pytest.mark.parametrize(("status", "headers", "body"), SUSPECT.values(), ids=SUSPECT)
def test_what_proves_nothing_is_requested_again_completely(status, headers, body):
    assert isinstance(follow(COPY, status, headers, body), Refetch)


@pytest.mark.parametrize("case", [case for case in SUSPECT.values() if case[0] == 200 and case[1] != {}])
def test_an_incomplete_body_never_replaces_a_good_copy(case):
    assert isinstance(follow(None, *case), Refused)


@pytest.mark.parametrize("status", [403, 404, 429, 500, 502, 503])
def test_an_error_leaves_the_copy_alone(status):
    assert isinstance(follow(COPY, status, {}, b"x"), Refused)
    assert isinstance(follow(None, status, {}, b"x"), Refused)


@pytest.mark.parametrize("status", [206, 304, 416])
def test_a_response_to_a_range_that_was_not_requested_is_refused(status):
    assert isinstance(follow(None, status, GOOD, b"\n" + TAIL), Refused)


@pytest.mark.parametrize("asked", [COPY, None])
@pytest.mark.parametrize(
    "headers",
    [
        {"Digest": f"sha-256={b64(NEW)}"},
        {"Content-Length": str(len(NEW))},
        {"Content-Length": "3", "Content-Encoding": "gzip"},
        {},
    ],
)
def test_a_complete_body_replaces_the_copy(asked, headers):
    verdict = follow(asked, 200, {**headers, "ETag": '"x"'}, NEW)
    assert isinstance(verdict, Replace)
    assert verdict.body == NEW
    assert (verdict.copy.size, verdict.copy.etag) == (len(NEW), '"x"')


def test_a_monthly_rewrite_that_is_shorter_replaces_the_copy_when_it_is_proven():
    short = b"created_at: 2026-09-01T00:00:00Z\n---\na 1 " + M1.encode() + b"\n"
    assert isinstance(follow(UpstreamCopy.of(NEW, None), 200, {"Digest": f"sha-256={b64(short)}"}, short), Replace)


@given(
    st.sampled_from([200, 206, 304, 416]),
    st.binary(max_size=80),
    st.sampled_from(["", GOOD["Repr-Digest"], "sha-256=::"]),
)
def test_no_answer_makes_a_copy_that_does_not_end_its_lines(status, body, digest):
    for asked in (COPY, None):
        verdict = follow(asked, status, {"Repr-Digest": digest, **RANGE}, body)
        if isinstance(verdict, Replace):
            assert verdict.body.endswith(b"\n")
        if isinstance(verdict, Append):
            assert hashlib.sha256(OLD + verdict.tail).digest() == verdict.copy.sha256.digest()


# --- names and specs

INDEX = map_of(
    zeta=("1.10,1.9,1.9-java,2.0.rc1", M1),
    alpha=("0.1,0.1.a", M1),
    Beta=("1-x86_64-linux,1,1-java,0.9-java", M1),
    gone=("", EMPTY_MD5),
)


def test_names_are_those_of_gems_with_versions():
    assert render_names(INDEX) == b"---\nBeta\nalpha\nzeta\n"


def load_in_ruby(ruby, body: bytes):
    return ruby(
        """
        rows = Marshal.load(Zlib::GzipReader.new(StringIO.new(input.unpack1('m'))).read)
        answer rows.map { |n, v, p| [n, v.to_s, p, v.class.to_s] }
        """,
        base64.b64encode(body).decode(),
    )


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (
            "specs",
            [
                "Beta 0.9 java",
                "Beta 1 ruby",
                "Beta 1 java",
                "Beta 1 x86_64-linux",
                "alpha 0.1 ruby",
                "zeta 1.9 ruby",
                "zeta 1.9 java",
                "zeta 1.10 ruby",
            ],
        ),
        (
            "latest_specs",
            ["Beta 1 ruby", "Beta 1 java", "Beta 1 x86_64-linux", "alpha 0.1 ruby", "zeta 1.9 java", "zeta 1.10 ruby"],
        ),
        ("prerelease_specs", ["alpha 0.1.a ruby", "zeta 2.0.rc1 ruby"]),
    ],
)
def test_ruby_loads_the_specs(which, expected, ruby):
    rows = load_in_ruby(ruby, specs(INDEX, which))
    assert rows == [[*row.split(), "Gem::Version"] for row in expected]


def test_the_legacy_index_leaves_content_addressed_gems_out():
    versions = map_of(a=("1,1-78be552b,1-java,2-0123456789abcdef", M1))
    rows = [row for which in ("specs", "latest_specs") for row in load_specs(gzip.decompress(specs(versions, which)))]
    assert rows == [("a", "1", "ruby"), ("a", "1", "java")] * 2


def test_one_odd_version_does_not_spoil_the_specs(ruby):
    odd = parse_versions(b"---\na 1.0,x,1..2,1_0,\xff,2.0-\xff " + M1.encode() + b"\nb\xff 1 " + M1.encode() + b"\n")
    rows = ruby(
        "answer Marshal.load(Zlib::GzipReader.new(StringIO.new(input.unpack1('m'))).read).size",
        base64.b64encode(specs(odd, "specs")).decode(),
    )
    assert rows == 3


def test_the_specs_of_the_genuine_gems_are_in_rubys_order(ruby):
    versions = VersionsMap()
    for page in (DATA / "info").iterdir():
        body = page.read_bytes()
        listed = [line.split(" ")[0] for line in body.decode().splitlines()[1:]]
        versions.set(page.name, listed, hashlib.md5(body).hexdigest())
        assert f'"{versions.md5(page.name)}"' == HEADERS[page.name]["etag"]
    rows = load_in_ruby(ruby, specs(versions, "specs"))
    by_gem: dict[str, list[str]] = {}
    for name, version, _, _ in rows:
        by_gem.setdefault(name, []).append(version)
    assert list(by_gem) == sorted(by_gem)
    sorted_ = ruby("answer input.transform_values { |vs| vs.sort_by { |v| Gem::Version.new(v) } }", by_gem)
    for name, listed in by_gem.items():
        assert [version_key(v) for v in listed] == [version_key(v) for v in sorted_[name]]
    assert len(rows) + len(load_in_ruby(ruby, specs(versions, "prerelease_specs"))) == sum(
        len(versions.versions(name)) for name in versions
    )


def test_an_upstream_with_the_legacy_index_only_is_read():
    versions = map_from_specs(specs(INDEX, "specs"), specs(INDEX, "prerelease_specs"))
    assert {name: set(versions.versions(name)) for name in versions} == {
        name: set(INDEX.versions(name)) for name in INDEX
    }
    assert versions.md5("zeta") is None
    assert all(len(line.split(b" ")) == 3 for line in diff(VersionsMap(), versions)), "clients stumble over two words"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        gzip.compress(b"", mtime=0),
        gzip.compress(dump("x"), mtime=0),
        gzip.compress(dump([["a", "1", "ruby"]]), mtime=0),
        gzip.compress(b"\x04\b[\x04\x00\xca\x9a\x3b", mtime=0),
        zlib.compress(dump([])),
    ],
)
def test_a_damaged_legacy_index_is_refused(body):
    with pytest.raises(UpstreamProtocolError):
        map_from_specs(body)


def test_a_page_is_made_from_gemspecs():
    spec = Gemspec(
        name="a",
        version="1.0",
        dependencies=(
            GemDependency("b", GemRequirement(((">=", "1"), ("<", "2")))),
            GemDependency("c", kind="development"),
        ),
        required_ruby_version=GemRequirement(((">=", "2.5"),)),
    )
    java = msgspec.structs.replace(spec, platform="java", dependencies=(), required_ruby_version=GemRequirement())
    assert info_from_gemspecs([spec, java]) == b"---\n1.0 b:< 2&>= 1|ruby:>= 2.5\n1.0-java |\n"
    assert hashlib.md5(info_from_gemspecs([])).hexdigest() == EMPTY_MD5


def test_bundler_reads_pages_made_from_gemspecs(ruby):
    page = info_from_gemspecs([Gemspec(name="a", version="1.0", platform="java")]).decode()
    read = ruby(
        """
        require 'rubygems/resolver'; require 'rubygems/resolver/api_set/gem_parser'
        answer Gem::Resolver::APISet::GemParser.new.parse(input.lines[1].chomp)
        """,
        page,
    )
    assert read == ["1.0", "java", [], []]


def test_many_lines_of_one_gem_take_no_longer_than_those_of_many() -> None:
    lines = b"".join(b"rack 1.%d %032d\n" % (number, number) for number in range(100_000))
    versions = parse_versions(b"---\n" + lines + b"rack -1.7 " + b"a" * 32 + b"\n")
    assert len(versions.versions("rack")) == 99_999
    assert versions.md5("rack") == "a" * 32


def test_absurd_names_and_digests_are_not_listed() -> None:
    versions = parse_versions(b"---\n" + b"n" * 201 + b" 1.0 x\nrack 1.0 " + b"a" * 65 + b"\n")
    assert (list(versions), versions.md5("rack")) == (["rack"], None)
