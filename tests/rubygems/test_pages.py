"""/info and the JSON about one gem; the genuine pages beside this file are the measure."""

import base64
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from mirror.errors import Invalid, UpstreamProtocolError
from mirror.model import File, Page, Project, UpstreamResponse
from mirror.rubygems import FORMAT
from mirror.rubygems.marshal import GemDependency, GemRequirement, Gemspec
from mirror.rubygems.names import abi_of, address_of, listed_as
from mirror.rubygems.pages import (
    EMPTY,
    Links,
    dependencies,
    gem_json,
    info_line,
    latest_json,
    parse_info,
    render_info,
    search_json,
    shown,
    version_json,
    versions_json,
    visible,
)

DATA = Path(__file__).parent / "data"
HEADERS = json.loads((DATA / "info-headers.json").read_text())
GENUINE = sorted((DATA / "info").iterdir())
BASE = URL("https://gems.example/")
SUM = "c2bc769eb7c9979d9de758f3fee6025c9416a45a6c436a371d4cb10bd2eadefb"
LINKS = Links(lambda filename: f"http://mirror.example/gems/{filename}", lambda name: f"http://mirror.example/{name}")


def answer(body: bytes, url: str) -> UpstreamResponse:
    return UpstreamResponse(url=url, content_type="text/plain; charset=utf-8", body=body)


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.name)
def test_genuine_pages_are_rendered_byte_for_byte(path):
    body = path.read_bytes()
    project = FORMAT.parse(Page("project", path.name), answer(body, f"https://gems.example/info/{path.name}"))
    rendered = render_info(project)
    assert rendered == body
    listed = HEADERS[path.name]
    assert f'"{FORMAT.revision(rendered)}"' == listed["etag"]
    assert base64.b64encode(hashlib.sha256(rendered).digest()).decode() in listed["repr-digest"]
    assert len(project.files) == len(body.splitlines()) - 1
    assert all(file.sha256 and file.url == f"https://gems.example/gems/{file.filename}" for file in project.files)
    without_body = msgspec.structs.replace(project, extra={})
    assert render_info(without_body) == body, "also line by line"


def test_all_genuine_dependencies_are_those_that_rubys_parser_reads(ruby):
    lines = {path.name: path.read_bytes().decode().splitlines()[1:] for path in GENUINE}
    theirs = ruby(
        """
        require 'rubygems/resolver'; require 'rubygems/resolver/api_set/gem_parser'
        parser = Gem::Resolver::APISet::GemParser.new
        answer input.transform_values { |lines| lines.map { |line| parser.parse(line) } }
        """,
        lines,
    )
    for path in GENUINE:
        project = parse_info(path.read_bytes(), path.name, BASE)
        ours = []
        for file, (_, _, _, facts) in zip(project.files, theirs[path.name], strict=True):
            platform = None if file.platform == "ruby" else file.platform
            needs = [[name, list(clauses)] for name, clauses in dependencies(file)]
            ours.append([file.version, platform, needs])
            listed = dict(facts)
            assert [file.sha256] == listed["checksum"]
            assert (file.requires or "") == ", ".join(listed.get("ruby", []))
        assert ours == [entry[:3] for entry in theirs[path.name]]


def test_a_line_is_read():
    body = (
        b"---\n1.0-java a:>= 1&< 3,b:= 2|checksum:%s,ruby:< 4&>= 2.7,rubygems:> 1.3.1,x:y"
        b",created_at:2026-06-02T03:04:05Z\n" % SUM.encode()
    )
    (file,) = parse_info(body, "rack", BASE).files
    assert (file.filename, file.version, file.platform) == ("rack-1.0-java.gem", "1.0", "java")
    assert file.digests == {"sha256": SUM}
    assert file.requires == "< 4, >= 2.7"
    assert file.uploaded == datetime(2026, 6, 2, 3, 4, 5, tzinfo=UTC)
    assert dependencies(file) == (("a", (">= 1", "< 3")), ("b", ("= 2",)))
    assert file.extra["line"] == body.splitlines()[1]


ODD = [
    b"---\n",
    b"",
    b"---\n\n1.0 |checksum:1\n\n",
    b"1.0 |checksum:1\n",
    b"---\n1.0\n1.1 \n1.2 |\n1.3 a\n1.4 a:\n1.5 |,,,\n",
    b"---\n1.0 |checksum:abc,future:1:2:3,created_at:never\n",
    b"---\r\n---\n1.0 |checksum:1\r\n",
    b"created_at: 2026\n---\n1.0 a:>= 1|checksum:1",
    b"---\n../../etc/passwd |checksum:1\n1.0 |checksum:1\n",
    b"---\n1.0 |checksum:1\n1.0 |checksum:2\n",
    b"---\n1.0 \xff\xfe:\x00|checksum:\xff,ruby:\xff\n",
]


@pytest.mark.parametrize("body", ODD)
def test_odd_pages_pass_through_untouched(body):
    project = parse_info(body, "odd", BASE)
    assert render_info(project) == body
    for file in project.files:
        msgspec.json.encode([dependencies(file), msgspec.structs.replace(file, extra={})])
        assert "/" not in file.filename
    assert len({file.filename for file in project.files}) == len(project.files)


@pytest.mark.parametrize("body", [b"<html><body>Sign in</body></html>\n", b"not found\n", b"\0\0\0", b"<?xml 1.0?>\n1"])
def test_what_is_no_page_of_the_compact_index_is_refused(body):
    with pytest.raises(UpstreamProtocolError):
        parse_info(body, "rack", BASE)


@pytest.mark.parametrize("name", ["..", "a/b", "", "a b"])
def test_a_page_of_a_nonsense_name_is_refused(name):
    with pytest.raises(Invalid):
        parse_info(EMPTY, name, BASE)


def test_hidden_and_yanked_files_are_left_out_and_the_rest_keeps_its_bytes():
    body = (DATA / "info" / "rack").read_bytes()
    project = parse_info(body, "rack", BASE)
    lines = body.splitlines(keepends=True)
    fewer = msgspec.structs.replace(project, files=project.files[2:])
    assert render_info(fewer) == b"".join([lines[0], *lines[3:]])
    yanked = (msgspec.structs.replace(project.files[0], yanked=""), *project.files[1:])
    assert render_info(msgspec.structs.replace(project, files=yanked)) == b"".join([lines[0], *lines[2:]])
    assert render_info(msgspec.structs.replace(project, files=())) == EMPTY


def test_links_below_a_mount_and_after_a_redirect_are_absolute():
    page = Page("project", "rack")
    project = FORMAT.parse(page, answer(b"---\n1.0 |checksum:1\n", "https://other.example/a/b/info/rack?x=1"))
    assert project.files[0].url == "https://other.example/a/b/gems/rack-1.0.gem"


SPEC = Gemspec(
    name="acme",
    version="2.0",
    platform="java",
    summary="Sum",
    authors=("A", "B"),
    homepage="https://acme.example",
    licenses=("MIT",),
    metadata={"source_code_uri": "https://code.example"},
    date=datetime(2026, 1, 1, tzinfo=UTC),
    dependencies=(
        GemDependency("zeta", GemRequirement(((">=", "2"), ("<", "4")))),
        GemDependency("alpha"),
        GemDependency("rake", GemRequirement(), "development"),
    ),
    required_ruby_version=GemRequirement(((">=", "2.5"), ("<", "5"))),
    required_rubygems_version=GemRequirement(),
)


def own(spec: Gemspec = SPEC) -> File:
    return File(
        filename="acme-2.0-java.gem",
        version="2.0",
        platform="java",
        digests={"sha256": SUM},
        uploaded=datetime(2026, 8, 1, 12, 0, 5, 999, tzinfo=UTC),
        extra={"spec": msgspec.to_builtins(spec)},
    )


def test_the_line_of_our_own_gem_is_the_public_format():
    expected = (
        f"2.0-java alpha:>= 0,zeta:< 4&>= 2|checksum:{SUM},ruby:< 5&>= 2.5,created_at:2026-08-01T12:00:05Z".encode()
    )
    assert info_line(own()) == expected
    with_rubygems = msgspec.structs.replace(
        SPEC,
        dependencies=(),
        required_ruby_version=GemRequirement(),
        required_rubygems_version=GemRequirement(((">", "1.3.1"),)),
    )
    line = info_line(msgspec.structs.replace(own(with_rubygems), uploaded=None))
    assert line == f"2.0-java |checksum:{SUM},rubygems:> 1.3.1".encode()


def test_our_own_page_is_read_back_and_survives_json():
    stored = msgspec.json.decode(msgspec.json.encode(own()), type=File)
    body = render_info(Project(name="acme", files=(stored,)))
    (back,) = parse_info(body, "acme", BASE).files
    assert (back.sha256, back.requires, back.uploaded) == (
        SUM,
        "< 5, >= 2.5",
        datetime(2026, 8, 1, 12, 0, 5, tzinfo=UTC),
    )
    assert dependencies(back) == dependencies(stored) == (("alpha", (">= 0",)), ("zeta", ("< 4", ">= 2")))


def test_an_upload_and_upstream_lines_stand_on_one_page():
    body = b"---\n1.0 |checksum:" + SUM.encode() + b"\n"
    project = parse_info(body, "acme", BASE)
    both = msgspec.structs.replace(project, files=(*project.files, own()))
    assert render_info(both) == body + info_line(own()) + b"\n"


names = st.from_regex(r"\A[a-z]{1,6}\Z")
clauses = st.lists(
    st.builds("{} {}".format, st.sampled_from(["=", ">=", "~>"]), st.from_regex(r"\A[0-9]\.[0-9a-z]\Z")),
    min_size=1,
    max_size=3,
).map("&".join)
facts = st.dictionaries(st.sampled_from(["ruby", "rubygems", "later"]), clauses, max_size=3)
lines = st.builds(
    lambda version, platform, needs, listed, sha: (
        f"{version}{platform} {','.join(f'{n}:{c}' for n, c in needs.items())}|"
        + ",".join([f"checksum:{sha}", *(f"{k}:{v}" for k, v in listed.items())])
    ),
    st.from_regex(r"\A[0-9](\.[0-9a-z]{1,2}){0,3}\Z"),
    st.sampled_from(["", "-java", "-x86_64-linux"]),
    st.dictionaries(names, clauses, max_size=3),
    facts,
    st.just(SUM),
)


@given(st.lists(lines, unique_by=lambda line: line.split(" ")[0]))
def test_pages_come_back_byte_for_byte(some):
    body = EMPTY + "".join(f"{line}\n" for line in some).encode()
    project = parse_info(body, "x", BASE)
    assert render_info(project) == render_info(msgspec.structs.replace(project, extra={})) == body
    assert parse_info(render_info(project), "x", BASE) == project


@given(st.binary(max_size=300))
def test_any_bytes_are_a_page_that_comes_back_or_are_refused(data):
    try:
        project = parse_info(b"---\n" + data, "x", BASE)
    except UpstreamProtocolError:
        return
    for file in project.files:
        dependencies(file)
        info_line(file)
    assert render_info(project) == b"---\n" + data


# --- what is asked for


@pytest.mark.parametrize(
    ("page", "url"),
    [
        (Page("project", "rack"), "https://gems.example/x/info/rack"),
        (Page("names"), "https://gems.example/x/names"),
        (Page("gem_json", "rack"), "https://gems.example/x/api/v1/gems/rack.json"),
        (Page("versions_json", "rack"), "https://gems.example/x/api/v1/versions/rack.json"),
        (Page("version_json", "rack/3.0"), "https://gems.example/x/api/v2/rubygems/rack/versions/3.0.json"),
        (
            Page("version_json", "ffi/1.0/java"),
            "https://gems.example/x/api/v2/rubygems/ffi/versions/1.0.json?platform=java",
        ),
    ],
)
def test_pages_have_their_addresses(page, url):
    assert str(FORMAT.request_for(URL("https://gems.example/x"), page).url) == url
    assert str(FORMAT.request_for(URL("https://gems.example/x/"), page).url) == url


def test_a_nonsense_name_is_never_asked_for():
    with pytest.raises(Invalid):
        FORMAT.request_for(BASE, Page("project", "..%2f"))


def test_names_are_read_and_absurd_ones_left_out():
    names = FORMAT.parse_names(answer(b"---\n-\n.cat\na/b\n\nrack\n..\n", "https://gems.example/names"))
    assert list(names.serials) == ["-", ".cat", "rack"]
    with pytest.raises(UpstreamProtocolError):
        FORMAT.parse_names(answer(b"<html>", "https://gems.example/names"))


# --- JSON


def project_of(*tokens: str) -> Project:
    return parse_info(EMPTY + "".join(f"{token} |checksum:{SUM}\n" for token in tokens).encode(), "rack", BASE)


def test_the_newest_release_stands_for_the_gem():
    project = project_of("1.10", "1.9", "2.0.rc1", "1.10-java", "0.1")
    assert [f.filename for f in visible(project)] == [
        f"rack-{each}.gem" for each in ("2.0.rc1", "1.10", "1.10-java", "1.9", "0.1")
    ]
    assert shown(project).filename == "rack-1.10.gem"
    assert shown(project_of("2.0.rc1")).version == "2.0.rc1"
    assert json.loads(latest_json(project)) == {"version": "1.10"}
    assert json.loads(latest_json(None)) == {"version": "unknown"}


def test_json_of_our_own_gem_has_the_fields_of_the_public_index():
    project = Project(name="acme", files=(own(),))
    gem = json.loads(gem_json(project, LINKS))
    assert gem == gem | {
        "name": "acme",
        "version": "2.0",
        "platform": "java",
        "authors": "A, B",
        "info": "Sum",
        "licenses": ["MIT"],
        "sha": SUM,
        "yanked": False,
        "version_created_at": "2026-08-01T12:00:05.000Z",
        "project_uri": "http://mirror.example/acme",
        "gem_uri": "http://mirror.example/gems/acme-2.0-java.gem",
        "homepage_uri": "https://acme.example",
        "source_code_uri": "https://code.example",
        "dependencies": {
            "development": [{"name": "rake", "requirements": ">= 0"}],
            "runtime": [
                {"name": "zeta", "requirements": ">= 2, < 4"},
                {"name": "alpha", "requirements": ">= 0"},
            ],
        },
    }
    (version,) = json.loads(versions_json(project))
    assert version == version | {
        "number": "2.0",
        "platform": "java",
        "built_at": "2026-01-01T00:00:00.000Z",
        "ruby_version": ">= 2.5, < 5",
        "rubygems_version": ">= 0",
        "prerelease": False,
        "summary": "Sum",
    }
    one = json.loads(version_json(project, own(), LINKS))
    assert one == {**gem, **version}


def test_upstream_json_is_filtered_and_points_to_us():
    project = project_of("1.0", "2.0")
    hidden = msgspec.structs.replace(project, files=project.files[:1])
    upstream = json.dumps(
        [{"number": "2.0", "platform": "ruby", "downloads_count": 7}, {"number": "1.0", "platform": "ruby", "later": 1}]
    ).encode()
    assert [entry["number"] for entry in json.loads(versions_json(project, upstream))] == ["2.0", "1.0"]
    assert json.loads(versions_json(hidden, upstream)) == [{"number": "1.0", "platform": "ruby", "later": 1}]
    listed = json.dumps(
        {"version": "2.0", "platform": "ruby", "downloads": 9, "gem_uri": "https://gems.example/x"}
    ).encode()
    shown_ = json.loads(gem_json(project, LINKS, listed))
    assert shown_["downloads"] == 9
    assert shown_["gem_uri"] == "http://mirror.example/gems/rack-2.0.gem"
    assert json.loads(gem_json(hidden, LINKS, listed))["version"] == "1.0", "the hidden version does not show"
    assert [entry["version"] for entry in json.loads(search_json([(project, listed), (project, None)], LINKS))] == [
        "2.0",
        "2.0",
    ]


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b"3", b'[1, null, {"number": 1}]', b"[" * 100_000])
def test_damaged_upstream_json_is_replaced_by_our_own(damaged):
    project = project_of("1.0")
    assert json.loads(versions_json(project, damaged))[0]["number"] == "1.0"
    assert json.loads(gem_json(project, LINKS, damaged))["version"] == "1.0"
    assert json.loads(version_json(project, project.files[0], LINKS, damaged))["number"] == "1.0"


ADDRESSED = (
    b"---\n"
    b"1.0 |checksum:" + b"a" * 64 + b"\n"
    b"1.0-78be552b a:>= 1|checksum:" + b"b" * 64 + b",ruby:~> 3.4.0,rubygems:>= 4.1.0.a,platform:= x86_64-linux\n"
    b"1.0-00c0ffee |checksum:" + b"c" * 64 + b",ruby:~> 3.3.0,platform:x86_64-linux,newer:thing\n"
    b"1.0-deadbeef |checksum:" + b"d" * 64 + b"\n"
    b"1.0-DEADBEEF |platform:= x86_64-linux\n"
)


def test_a_content_address_stands_where_others_have_their_platform():
    project = parse_info(ADDRESSED, "a", URL("https://gems.example/"))
    rows = [(file.filename, file.platform, address_of(file), abi_of(file), listed_as(file)) for file in project.files]
    assert rows == [
        ("a-1.0.gem", "ruby", None, None, "1.0"),
        ("a-1.0-78be552b.gem", "x86_64-linux", "78be552b", "3.4", "1.0-78be552b"),
        ("a-1.0-00c0ffee.gem", "x86_64-linux", "00c0ffee", "3.3", "1.0-00c0ffee"),
        ("a-1.0-deadbeef.gem", "deadbeef", None, None, "1.0-deadbeef"),
        ("a-1.0-DEADBEEF.gem", "DEADBEEF", None, None, "1.0-DEADBEEF"),
    ]
    assert render_info(project) == ADDRESSED


def test_what_is_not_known_of_a_line_passes_where_others_are_hidden():
    project = parse_info(ADDRESSED, "a", URL("https://gems.example/"))
    fewer = msgspec.structs.replace(project, files=project.files[1:])
    assert render_info(fewer) == b"---\n" + b"".join(ADDRESSED.splitlines(keepends=True)[2:])


def test_json_tells_builds_for_several_ruby_abis_apart():
    project = parse_info(ADDRESSED, "a", URL("https://gems.example/"))
    listed = {"number": "1.0", "platform": "x86_64-linux", "content_address": "00c0ffee", "downloads_count": 7}
    rows = msgspec.json.decode(versions_json(project, msgspec.json.encode([listed])))
    assert [row.get("downloads_count") for row in rows if row.get("content_address") == "00c0ffee"] == [7]
    assert [row["ruby_abi"] for row in rows if row.get("content_address") == "78be552b"] == ["3.4"]
