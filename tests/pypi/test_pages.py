"""The simple pages, in both forms."""

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from mirror.errors import Invalid, UpstreamProtocolError
from mirror.model import File, Page, Project, UpstreamResponse
from mirror.pypi import FORMAT, legacy, summary
from mirror.pypi.documents import TAGS_LIMIT, VALUES_LIMIT, _resolved, absolute_url
from mirror.pypi.pages import FILES_LIMIT, parse_simple, render_html, render_json

URL_OF_PAGE = "https://index.example/simple/foo/"
JSON = "application/vnd.pypi.simple.v1+json"
HTML = "text/html; charset=utf-8"
SHA = "0123456789abcdef" * 4


def from_json(page: object, content_type: str = JSON, **answer: Any) -> Project:
    body = page if isinstance(page, bytes) else json.dumps(page).encode()
    return parse_simple(
        Page("project", "foo"), UpstreamResponse(url=URL_OF_PAGE, content_type=content_type, body=body, **answer)
    )


def from_html(page: str, content_type: str = HTML, url: str = URL_OF_PAGE) -> Project:
    return parse_simple(
        Page("project", "foo"), UpstreamResponse(url=url, content_type=content_type, body=page.encode())
    )


def entry(**fields: Any) -> dict[str, Any]:
    name = fields.pop("filename", "foo-1.0.tar.gz")
    return {"filename": name, "url": f"https://files.example/{name}", "hashes": {}, **fields}


def one(**fields: Any) -> File:
    return from_json({"files": [entry(**fields)]}).files[0]


def anchor(attributes: str = "", href: str = "foo-1.0.tar.gz") -> File:
    return from_html(f'<html><a href="{href}" {attributes}>foo-1.0.tar.gz</a>').files[0]


def address(file: File) -> str:
    return file.url


def provenance(file: File) -> str:
    return file.extra["provenance"]


# Properties

texts = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=30)
reasons = texts.filter(lambda text: text == text.strip())
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
core_metadata = st.one_of(st.just(True), st.builds(lambda sha: {"sha256": sha}, digests))
unknown = st.dictionaries(st.sampled_from(["x-new", "tags"]), st.one_of(texts, st.integers(0, 9), st.lists(texts)))
moments = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))


@st.composite
def projects(draw: st.DrawFn, *, html: bool) -> Project:
    files = []
    for number in draw(st.lists(st.integers(1, 40), unique=True, max_size=6)):
        name = draw(st.sampled_from([f"foo-{number}.0.tar.gz", f"foo-{number}.0-py3-none-any.whl"]))
        extra: dict[str, Any] = {} if html else dict(draw(unknown))
        if draw(st.booleans()):
            extra["core-metadata"] = draw(core_metadata)
        if draw(st.booleans()):
            extra["gpg-sig"] = draw(st.booleans())
        if draw(st.booleans()):
            extra["provenance"] = f"https://index.example/integrity/{number}"
        many = {"sha256": draw(digests), "blake2b_256": draw(digests)}
        files.append(
            File(
                filename=name,
                version=f"{number}.0",
                digests=draw(st.sampled_from([{}, {"sha256": draw(digests)}, {} if html else many])),
                url=f"https://files.example/{number}/{name}",
                size=None if html else draw(st.none() | st.integers(0, 1 << 40)),
                uploaded=None if html else draw(st.none() | moments),
                yanked=draw(st.none() | reasons),
                requires=draw(st.none() | reasons.filter(bool)),
                extra=extra,
            )
        )
    versions = {file.version for file in files} | (set() if html else {"0.1"})
    status = draw(st.sampled_from([None, "active", "archived", "quarantined", "deprecated"]))
    extra = {} if html else {key: value for key, value in draw(unknown).items() if key != "meta"}
    if status and (reason := draw(reasons)):
        extra["status-reason"] = reason
    return Project(
        name="foo",
        files=tuple(files),
        versions=tuple(sorted(versions, key=float)),
        serial=draw(st.none() | st.integers(0, 1 << 40)),
        status=status,
        extra=extra,
    )


@given(projects(html=False))
def test_json_gives_back_what_was_rendered(project: Project) -> None:
    assert from_json(render_json(project, address, provenance)) == project


@given(projects(html=True))
def test_html_gives_back_what_was_rendered(project: Project) -> None:
    body = render_html(project, address, provenance)
    assert (
        parse_simple(Page("project", "foo"), UpstreamResponse(url=URL_OF_PAGE, content_type=HTML, body=body)) == project
    )


@given(st.binary(max_size=200), st.sampled_from([JSON, HTML, "", "text/plain", "application/octet-stream"]))
def test_any_bytes_are_a_page_or_a_protocol_error(body: bytes, content_type: str) -> None:
    with contextlib.suppress(UpstreamProtocolError):
        from_json(body, content_type)


odd = (
    st.none() | st.booleans() | st.integers() | st.integers(-(10**40), 10**40) | st.floats() | texts
    | st.sampled_from(["1" * 5000, "1" * 256, "1." * 128, "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
      "9999-12-31T23:59:59Z", "1e999", "a" * 70_000, "\x00\x1b[2J", "<b>", "quarantined", "http://[::1", "//x"])
)  # fmt: skip
fields = st.sampled_from([
    "files", "meta", "name", "versions", "project-status", "filename", "url", "hashes", "size", "upload-time", "yanked",
    "requires-python", "core-metadata", "dist-info-metadata", "provenance", "api-version", "sha256", "status", "reason",
    "_last-serial", "gpg-sig", "digests", "metadata", "info", "releases", "urls", "vulnerabilities", "version", "x-new",
    "requires_dist", "project_urls", "description", "status-reason", "alternate-locations", "sidecar", "extra",
])  # fmt: skip
anything = st.recursive(
    odd,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields | texts, inner, max_size=6),
    max_leaves=30,
)


def shown_everywhere(project: Project, document: bytes | None = None) -> None:
    """Render a project in every form, beside any document of the JSON API, and send it to another process."""
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(project), type=Project) == project
    render_html(project, address, provenance)
    render_json(project, address, provenance)
    for version in (None, *{file.version for file in project.files}):
        legacy.render(project, document, version, address)
        if document is not None:
            legacy.is_about(document, version or "")
    file = summary.file_to_read(project)
    if file is not None and document is not None:
        with contextlib.suppress(Invalid):
            summary.from_document(file, document)


@given(anything, anything)
@example({"project-status": {"status": []}}, {})
@example({"project-status": {"status": "archived"}, "status-reason": ["x"]}, {})
@example({"size": 1 << 64, "versions": ["1" * 5000]}, {"info": {"version": "1" * 5000}})
def test_any_json_is_a_page_or_a_protocol_error_and_then_renders(value: Any, document: Any) -> None:
    field = value if isinstance(value, dict) else {"x": value}
    page = {"files": [{**entry(), **{k: v for k, v in field.items() if k not in ("filename", "url")}}], **field}
    try:
        project = from_json(page)
    except UpstreamProtocolError:
        return
    assert from_json(render_json(project, address, provenance)) == project
    shown_everywhere(project, json.dumps(document).encode())
    shown_everywhere(
        project, json.dumps({"info": document, "releases": {"1.0": [document]}, "urls": document}).encode()
    )


usual = {
    "size": st.integers(-1, 1 << 63) | st.sampled_from([1.0, None, "1"]),
    "upload-time": moments.map(datetime.isoformat) | texts | st.none(),
    "yanked": st.booleans() | texts | st.none(),
    "requires-python": texts | st.none(),
    "hashes": st.dictionaries(st.sampled_from(["sha256", "md5", "SHA256"]), digests | texts),
    "core-metadata": st.booleans() | core_metadata | st.none(),
    "dist-info-metadata": st.booleans() | core_metadata,
    "data-dist-info-metadata": st.booleans() | core_metadata,
    "gpg-sig": st.booleans() | st.none(),
    "provenance": st.just("https://index.example/integrity/x") | texts | st.none(),
    "filename": st.sampled_from(["foo-1.0-py3-none-any.whl", "foo-1-py3-none-any.whl", "foo-1.0.whl", "foo-2.tar.gz"]),
    "url": st.just("../foo") | texts,
    "x": st.just(1),
}


entries = st.lists(st.fixed_dictionaries({}, optional=usual).map(lambda fields: entry(**fields)))


@given(
    st.fixed_dictionaries({"files": entries}, optional={
        "name": st.sampled_from(["foo", "FOO", None]),
        "versions": st.lists(st.sampled_from(["1.0", "1", "1.0.0", "2", "1.0.whl", "x"])),
        "meta": st.fixed_dictionaries({}, optional={"_last-serial": st.integers(-1, 9), "api-version": st.just("1.4")}),
        "project-status": st.fixed_dictionaries({}, optional={"status": texts | st.just("archived"), "reason": texts}),
        "alternate-locations": st.lists(texts),
    })
)  # fmt: skip
def test_a_page_is_read_the_same_whether_or_not_it_has_an_unknown_field(page: dict[str, Any]) -> None:
    project = from_json({**page, "x-other": 1})
    extra = {key: value for key, value in project.extra.items() if key != "x-other"}
    assert msgspec.structs.replace(project, extra=extra) == from_json(page)


PIECES = [
    "<a href='foo-1.0.tar.gz'", '<a href="https://x/foo-1.0-py3-none-any.whl#sha256=', SHA, '"', "'", ">", "</a>",
    "foo", " data-yanked", "=", " data-requires-python='>3'", " data-core-metadata", "<!--", "-->", "<base href='",
    ' data-dist-info-metadata="sha256=', "<base href='//x:99999/'>", "<script>", "archived", " data-gpg-sig=true",
    "<meta name='pypi:repository-version' content='1.0'>", "<meta name='pypi:project-status' content='", "&#0;",
    "&lt;", "\x00", "\ufffd", "<html>", " data-provenance='x'", "<!--SERIAL 12-->", "foo-" + "1" * 300 + ".zip",
    "<h1>Links for foo</h1>", "1" * 5000,
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=25))
def test_any_html_is_a_page_or_a_protocol_error_and_then_renders(parts: list[str]) -> None:
    try:
        project = from_html("".join(parts))
    except UpstreamProtocolError:
        return
    assert from_json(render_json(project, address, provenance)).files == project.files
    shown_everywhere(project)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, b'{"files": [], "x": ' + b"[" * 100 + b"]" * 100 + b"}"),
        (
            JSON,
            b'{"files": [{"filename": "foo-1.0.zip", "url": "/a", "x": ' + b'{"a":' * 500 + b"1" + b"}" * 501 + b"]}",
        ),
    ],
)
def test_a_value_that_is_nested_deeply_is_not_passed_on(kind: str, body: bytes) -> None:
    project = from_json(body, kind)
    assert "x" not in project.extra
    assert all("x" not in file.extra for file in project.files)


@pytest.mark.parametrize("number", [1 << 64, 10**30, -(1 << 64)])
def test_a_number_that_nothing_can_hold_is_not_passed_on(number: int) -> None:
    project = from_json({"files": [entry(x=[{"y": number}], z=1)], "x": number, "meta": {"x": number}})
    assert (dict(project.files[0].extra), dict(project.extra)) == ({"z": 1}, {})


def many(count: int, piece: str, start: str, end: str, join: str = ",") -> bytes:
    return (start + join.join(piece.replace("%", str(number)) for number in range(count)) + end).encode()


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, lambda: many(FILES_LIMIT + 1, '{"filename":"foo-%.zip","url":"/%"}', '{"files":[', "]}")),
        (JSON, lambda: many(FILES_LIMIT + 1, '"%"', '{"files":[],"versions":[', "]}")),
        (JSON, lambda: b'{"files":[],"x":[' + b"[]," * VALUES_LIMIT + b"0]}"),
        (JSON, lambda: b'{"files":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        (HTML, lambda: many(FILES_LIMIT + 1, "<a href=foo-%.zip>f</a>", "<html>", "", "")),
        (HTML, lambda: many(TAGS_LIMIT + 1, "<a>f</a>".replace("a", "a "), "<html>", "", "")),
    ],
    ids=["files", "versions", "values", "depth", "links to files", "links"],
)
def test_more_things_than_any_project_has_are_refused(kind: str, body: Callable[[], bytes]) -> None:
    with pytest.raises(UpstreamProtocolError):
        from_json(body(), kind)


@pytest.mark.parametrize(
    ("filename", "taken"),
    [
        ("foo-1.0.txz", True), ("foo-1.0.tlz", True), ("foo-1.0.tbz2", True), ("foo-1.0.tar.lzma", True),
        ("foo-1.0.TAR.GZ", True), ("foo-1.0.tar.gz ", True), ("foo-1.0-variants.json", True), ("foo-1.0.egg", True),
        ("index.html", False), ("foo-1.0.json", False), ("foo-1.0.tar.gz.asc", False), ("foo-1.0.whl.metadata", False),
        ("foo.php", False), (".htaccess", False), ("foo-1.0", False),
    ],
)  # fmt: skip
def test_only_distributions_are_taken_from_a_page(filename: str, taken: bool) -> None:
    listed = [filename] if taken else []
    assert [file.filename for file in from_json({"files": [entry(filename=filename)]}).files] == listed
    href = filename.replace(" ", "%20")
    assert [file.filename for file in from_html(f"<html><a href='{href}'>{filename}</a>").files] == listed


# Fields


def test_every_field_of_a_json_page_is_kept() -> None:
    project = from_json({
        "meta": {"api-version": "1.4", "_last-serial": 7, "x-meta": [1]},
        "name": "Foo",
        "versions": ["0.9", "1.0"],
        "project-status": {"status": "archived", "reason": "use bar"},
        "x-page": {"a": 1},
        "files": [entry(
            filename="foo-1.0-py3-none-any.whl", hashes={"sha256": SHA.upper(), "md5": "a" * 32}, size=12,
            **{"requires-python": ">=3.8", "upload-time": "2024-02-05T22:28:58.645773Z", "yanked": "broken",
               "core-metadata": {"sha256": SHA}, "provenance": "/p", "gpg-sig": False, "x-file": None},
        )],
    })  # fmt: skip
    file = project.files[0]
    assert (project.serial, project.status, project.versions) == (7, "archived", ("0.9", "1.0"))
    assert project.extra == {"meta": {"x-meta": [1]}, "x-page": {"a": 1}, "status-reason": "use bar"}
    assert file == File(
        filename="foo-1.0-py3-none-any.whl", version="1.0", url="https://files.example/foo-1.0-py3-none-any.whl",
        digests={"sha256": SHA, "md5": "a" * 32}, size=12, requires=">=3.8", yanked="broken",
        uploaded=datetime(2024, 2, 5, 22, 28, 58, 645773, UTC),
        extra={"core-metadata": {"sha256": SHA}, "provenance": "https://index.example/p", "gpg-sig": False,
               "x-file": None},
    )  # fmt: skip
    page = json.loads(render_json(project, lambda file: "../../packages/foo/" + file.filename, lambda file: "/ours"))
    assert page["meta"] == {"api-version": "1.4", "_last-serial": 7, "x-meta": [1]}
    assert page["project-status"] == {"status": "archived", "reason": "use bar"}
    assert page["files"][0]["url"] == "../../packages/foo/foo-1.0-py3-none-any.whl"
    assert page["files"][0]["provenance"] == "/ours"
    assert page["files"][0]["upload-time"] == "2024-02-05T22:28:58.645773Z"
    assert page["x-page"] == {"a": 1}


def test_every_attribute_of_html_is_read() -> None:
    project = from_html(
        '<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.4">'
        '<meta name="pypi:project-status" content="deprecated">'
        '<meta name="pypi:project-status-reason" content="old &amp; tired"></head><body>'
        f'<a href="../../f/foo-1.0-py3-none-any.whl#sha256={SHA}" data-requires-python="&gt;=3.6, <4"'
        f' data-yanked="bad &quot;build&quot;" data-core-metadata="sha256={SHA}" data-gpg-sig="true"'
        ' data-provenance="/p">foo-1.0-py3-none-any.whl</a></body></html>'
    )
    assert (project.status, project.extra) == ("deprecated", {"status-reason": "old & tired"})
    assert project.files == (
        File(
            filename="foo-1.0-py3-none-any.whl",
            version="1.0",
            url="https://index.example/f/foo-1.0-py3-none-any.whl",
            digests={"sha256": SHA},
            requires=">=3.6, <4",
            yanked='bad "build"',
            extra={
                "core-metadata": {"sha256": SHA},
                "gpg-sig": True,
                "provenance": "https://index.example/p",
            },
        ),
    )


def test_only_pages_with_all_sizes_claim_a_version_above_1_0() -> None:
    known = File(filename="foo-1.tar.gz", version="1", size=1)
    unknown_size = File(filename="foo-2.tar.gz", version="2")
    for files, version in [((known,), "1.4"), ((known, unknown_size), "1.0"), ((), "1.4")]:
        project = Project(name="foo", files=files)
        assert json.loads(render_json(project, address))["meta"]["api-version"] == version
        assert f'name="pypi:repository-version" content="{version}"' in render_html(project, address).decode()


def test_every_file_has_hashes_even_when_none_are_known() -> None:
    page = json.loads(render_json(Project(name="foo", files=(File(filename="foo-1.tar.gz", version="1"),)), address))
    assert page["files"][0]["hashes"] == {}
    assert page["versions"] == ["1"]


def test_json_has_one_key_for_core_metadata_and_html_both_attributes() -> None:
    file = File(filename="foo-1-py3-none-any.whl", version="1", extra={"core-metadata": {"sha256": SHA}})
    project = Project(name="foo", files=(file,))
    written = json.loads(render_json(project, address))["files"][0]
    assert written["core-metadata"] == {"sha256": SHA}
    assert not any("dist-info" in key for key in written)
    html = render_html(project, address).decode()
    assert f'data-core-metadata="sha256={SHA}"' in html
    assert f'data-dist-info-metadata="sha256={SHA}"' in html


@pytest.mark.parametrize("key", ["core-metadata", "dist-info-metadata", "data-dist-info-metadata"])
def test_core_metadata_is_known_by_its_older_names(key: str) -> None:
    assert one(**{key: True}).extra == {"core-metadata": True}
    assert one(**{key: False}).extra == {}
    assert one(**{key: {"sha256": SHA}}).extra == {"core-metadata": {"sha256": SHA}}
    assert one(**{key: {"sha256": "short"}}).extra == {"core-metadata": True}


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("data-core-metadata", True),
        ('data-core-metadata="true"', True),
        (f'data-dist-info-metadata="sha256={SHA}"', {"sha256": SHA}),
        ('data-core-metadata="false"', None),
    ],
)
def test_core_metadata_is_read_from_html(attribute: str, value: object) -> None:
    assert anchor(attribute).extra.get("core-metadata") == value


def test_upstream_addresses_do_not_leak() -> None:
    project = from_json({
        "meta": {"api-version": "1.2", "tracks": ["https://other.example/simple/foo/"]},
        "alternate-locations": ["https://other.example/simple/foo/"],
        "files": [entry(provenance="https://index.example/integrity/x")],
    })  # fmt: skip
    for body in (render_json(project, lambda file: "ours"), render_html(project, lambda file: "ours")):
        assert b"example" not in body


def test_the_metadata_text_of_an_upload_is_not_on_the_page() -> None:
    file = File(filename="foo-1.tar.gz", version="1", extra={"metadata": "Name: foo"})
    assert b"Name: foo" not in render_json(Project(name="foo", files=(file,)), address)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("upload-time", "yesterday"), ("upload-time", 7), ("size", "12"), ("size", -1), ("size", True), ("yanked", {}),
        ("yanked", ""), ("requires-python", 3), ("hashes", []), ("hashes", {"sha256": 1, "MD5!": "00"}),
        ("hashes", {"sha256": "zz"}), ("provenance", 1), ("provenance", "javascript:alert(1)"),
        ("core-metadata", "yes"),
        ("size", 1 << 63), ("size", 10**30), ("upload-time", "0001-01-01T00:00:00+23:59"),
        ("upload-time", "9999-12-31T23:59:59-23:59"), ("upload-time", "1969-12-31T00:00:00Z"),
        ("gpg-sig", "yes"), ("requires-python", None), ("provenance", None), ("yanked", False), ("yanked", None),
    ],
)  # fmt: skip
def test_a_field_of_the_wrong_type_is_dropped_and_not_its_file(field: str, value: object) -> None:
    assert one(**{field: value}) == one()


def test_a_yank_without_reason_is_a_yank() -> None:
    assert one(yanked=True).yanked == ""
    assert anchor("data-yanked").yanked == ""
    assert anchor('data-yanked=""').yanked == ""
    assert anchor().yanked is None
    page = Project(name="foo", files=(one(yanked=True), anchor()))
    assert [file["yanked"] for file in json.loads(render_json(page, address))["files"]] == [True, False]


def test_an_upload_time_without_zone_is_utc_and_others_are_converted() -> None:
    assert one(**{"upload-time": "2024-01-01T00:00:00"}).uploaded == datetime(2024, 1, 1, tzinfo=UTC)
    file = one(**{"upload-time": "2024-01-01T02:00:00+02:00"})
    assert file.uploaded is not None
    assert file.uploaded.utcoffset() == timedelta(0)
    assert b'"upload-time":"2024-01-01T00:00:00Z"' in render_json(Project(name="foo", files=(file,)), address)


@pytest.mark.parametrize(
    "bad",
    [
        {"url": "ftp://files.example/foo-1.0.tar.gz"},
        {"url": "file:///etc/passwd"},
        {"url": "javascript:alert(1)"},
        {"url": "https://"},
        {"url": "http://[::1/foo-1.0.tar.gz"},
        {"url": "https://files.example:99999999/foo-1.0.tar.gz"},
        {"url": "https://files.example/a\nb"},
        {"url": 7},
        {"url": None},
        {"filename": "../foo-1.0.tar.gz"},
        {"filename": ".hidden"},
        {"filename": "foo\x00"},
        {"filename": "a" * 300},
        {"filename": 7},
    ],
)
def test_absurd_entries_are_left_out(bad: dict[str, Any]) -> None:
    project = from_json({"files": [entry(filename="foo-2.0.tar.gz"), {**entry(), **bad}, None, [], "x"]})
    assert [file.filename for file in project.files] == ["foo-2.0.tar.gz"]


def test_of_two_entries_with_one_name_the_first_counts() -> None:
    assert [file.size for file in from_json({"files": [entry(size=1), entry(size=2)]}).files] == [1]


def test_relative_urls_are_resolved_against_the_final_url() -> None:
    assert anchor(href="../../f/foo-1.0.tar.gz").url == "https://index.example/f/foo-1.0.tar.gz"
    assert anchor(href="//files.example/foo-1.0.tar.gz").url == "https://files.example/foo-1.0.tar.gz"
    project = from_json({"files": [{**entry(), "url": "../../f/foo-1.0.tar.gz"}]})
    assert project.files[0].url == "https://index.example/f/foo-1.0.tar.gz"


def test_the_base_element_is_obeyed_and_only_the_first() -> None:
    project = from_html('<base href="/b/"><base href="/c/"><a href="foo-1.0.tar.gz">foo-1.0.tar.gz</a>')
    assert project.files[0].url == "https://index.example/b/foo-1.0.tar.gz"


def test_html_of_a_file_server_gives_its_files_and_nothing_else() -> None:
    project = from_html(
        "<HTML><title>Index of /foo</title><h1>Index of /foo</h1><!-- <a href='foo-9.tar.gz'>x</a> --><pre>"
        '<A HREF="?C=N">Name</A> <A HREF="../">Parent Directory</A>'
        "<A HREF='foo-1.0%2Blocal.tar.gz'>foo-1.0+lo..&gt;</A> <a href=foo-2.0.zip>foo-2.0.zip</a>"
        '<a href="/dl?id=7">foo-3.0.tar.gz</a><a>no</a><a href="x.asc">foo.asc</a></pre>'
    )
    assert [(file.filename, file.version) for file in project.files] == [
        ("foo-1.0+local.tar.gz", "1.0+local"),
        ("foo-2.0.zip", "2.0"),
        ("foo-3.0.tar.gz", "3.0"),
    ]


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha224", "sha384", "sha512"])
def test_other_digests_in_a_fragment_are_read(algorithm: str) -> None:
    length = {"md5": 32, "sha1": 40, "sha224": 56, "sha384": 96, "sha512": 128}[algorithm]
    assert anchor(href=f"foo-1.0.tar.gz#{algorithm}={'a' * length}").digests == {algorithm: "a" * length}
    assert anchor(href=f"foo-1.0.tar.gz#{algorithm}=abc").digests == {}


def test_versions_are_spelled_as_the_index_spells_them() -> None:
    project = from_json({"versions": ["1.0-beta", "2004D"], "files": [entry(filename="foo-1.0b0-py3-none-any.whl")]})
    assert project.files[0].version == "1.0-beta"
    assert project.versions == ("1.0-beta", "2004D")
    assert from_json({"versions": ["1.0"], "files": [entry(filename="foo-1.0.0.tar.gz")]}).files[0].version == "1.0"


def test_versions_are_derived_in_order_where_the_index_lists_none() -> None:
    names = ["foo-1.10.tar.gz", "foo-1.9.tar.gz", "foo-1.9-py3-none-any.whl", "foo-odd.tar.gz"]
    project = from_json({"files": [entry(filename=name) for name in names]})
    assert project.versions == ("odd", "1.9", "1.10")


def test_the_serial_comes_from_the_page_else_from_the_header() -> None:
    assert from_json({"meta": {"_last-serial": 5}, "files": []}, serial=9).serial == 5
    assert from_json({"files": []}, serial=9).serial == 9


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"{}", b'{"files": {}}', b'{"files": [], "meta": {"api-version": "2.0"}}',
        b'{"files": [], "name": "bar"}', b'{"files": [], "name": "../x"}', b"\xff\xfe", b'{"files":' + b"[" * 100_000,
        b"<html></html>",
    ],
)  # fmt: skip
def test_what_is_no_json_page_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        from_json(body)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"moved", b"{}", b"\x1f\x8b\x08", b"<html><form action=/login><input name=user></form></html>",
        b"<html><script>location = '/login'</script></html>",
        b'<html><meta name="pypi:repository-version" content="2.0"></html>',
    ],
)  # fmt: skip
def test_what_is_no_html_page_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        from_json(body, HTML)


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/octet-stream", "nonsense"])
def test_a_page_without_a_useful_content_type_is_recognised(content_type: str) -> None:
    assert len(from_json({"files": [entry()]}, content_type).files) == 1
    assert len(from_html(' \n<a href="foo-1.0.tar.gz">foo-1.0.tar.gz</a>', content_type).files) == 1
    with pytest.raises(UpstreamProtocolError):
        from_json(b"gone", content_type)


def test_a_project_without_files_is_a_page() -> None:
    for html in (
        '<!DOCTYPE html><html><head><meta name="pypi:repository-version" content="1.0"></head><body></body></html>',
        "<html><head><title>Links for foo</title></head><body><h1>Links for foo</h1></body></html>",
        "<html><body><h1>Index of /simple/foo/</h1><hr><pre><a href='../'>../</a></pre></body></html>",
        "<html><head><title>Simple index</title></head></html>",
    ):
        assert from_html(html).files == ()
    assert from_json({"files": []}).files == ()


@pytest.mark.parametrize(
    "html",
    [
        "<!DOCTYPE html><html><body></body></html>",
        "<html><head><title>Maintenance</title></head><body>We are back at 10.</body></html>",
        "<html><body><h1>Blocked by policy</h1><a href='https://portal.example/why'>Why?</a></body></html>",
        '<html><head><meta http-equiv="refresh" content="0; url=/login"><title>Index of</title></head></html>',
        '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>Portal</title></head></html>',
        '<a href="/login">Log in</a>',
        "<html><title>Index of things</title><form><input></form></html>",
    ],
)
def test_html_that_lists_nothing_and_does_not_look_like_an_index_is_none(html: str) -> None:
    for content_type in ("text/html", "application/xhtml+xml"):
        with pytest.raises(UpstreamProtocolError):
            from_html(html, content_type)


def test_an_html_answer_with_a_byte_order_mark_is_read() -> None:
    assert len(from_html('\ufeff<a href="foo-1.0.tar.gz">foo-1.0.tar.gz</a>').files) == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "piece", ["<div>", "<a href=x>", "<a href='", "<a \"<a '", "<!--", "<b id=1><p>", "<a <base <meta ", "<a ''", "<"]
)
def test_html_made_to_take_hours_is_read_in_linear_time(piece: str) -> None:
    # A tree builder takes quadratic time for this: the timeout of the test would end it.
    body = piece * (2_000_000 // len(piece)) + '"\'--><a href="foo-1.0.tar.gz">foo-1.0.tar.gz</a>'
    with contextlib.suppress(UpstreamProtocolError):  # too many links
        assert len(from_html("<html>" + body).files) <= 1


def test_text_in_a_page_cannot_break_out_of_html() -> None:
    evil = '"><script>alert(1)</script>'
    file = File(
        filename="foo-1.tar.gz", version="1", requires=evil, yanked=evil, extra={"provenance": evil}, url="x" + evil
    )
    html = render_html(
        Project(name="foo", files=(file,), status="archived", extra={"status-reason": evil}), address, provenance
    )
    assert b"<script>" not in html


# FORMAT


def test_format_asks_for_each_page_beside_the_simple_index() -> None:
    base = URL("https://index.example/root/simple/")
    urls = {
        Page("project", "foo"): "https://index.example/root/simple/foo/",
        Page("names"): "https://index.example/root/simple/",
        Page("legacy", "foo"): "https://index.example/root/pypi/foo/json",
        Page("release", "foo/1.0+a"): "https://index.example/root/pypi/foo/1.0+a/json",
        Page("provenance", "https://index.example/p"): "https://index.example/p",
    }
    for page, url in urls.items():
        assert str(FORMAT.request_for(base, page).url) == url
    assert FORMAT.request_for(URL("https://index.example/root/simple"), Page("project", "foo")).url == base / "foo" / ""
    assert FORMAT.request_for(base, Page("project", "foo")).accept.startswith(f"{JSON}, ")


def test_the_size_of_a_page_is_limited_by_the_setting_alone() -> None:
    pages = (Page("names"), Page("project", "foo"), Page("legacy", "foo"), Page("release", "foo/1.0"))
    for page in pages:
        assert FORMAT.request_for(URL("https://index.example/simple/"), page).limit >= 1 << 40


def test_format_asks_for_the_metadata_only_where_it_is_offered() -> None:
    base = URL("https://index.example/simple/")
    file = one(filename="foo-1.0-py3-none-any.whl")
    assert FORMAT.has_sidecar(file)
    assert not FORMAT.has_sidecar(one())
    assert FORMAT.request_for_sidecar(base, file) is None
    offered = msgspec.structs.replace(file, extra={"core-metadata": True}, url=file.url + "?token=1")
    ask = FORMAT.request_for_sidecar(base, offered)
    assert ask is not None
    assert str(ask.url) == "https://files.example/foo-1.0-py3-none-any.whl.metadata?token=1"


def test_equal_bodies_have_equal_revisions() -> None:
    assert FORMAT.revision(b"a") == FORMAT.revision(b"a") != FORMAT.revision(b"b")


@given(st.text("ab./#?;:%\\ -_~é", min_size=1, max_size=20))
@example("//host/a")
@example(" //host/a")
@example("a#b/c")
def test_a_link_is_the_same_with_its_directory_resolved_once(link: str) -> None:
    for base in ("https://index.example/simple/six/", "https://index.example/simple/six/index.html?x=/y"):
        assert absolute_url(base, link) == _resolved(base, link)
