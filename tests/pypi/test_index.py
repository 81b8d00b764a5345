"""The list of all projects."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import Invalid, UpstreamProtocolError
from mirror.model import Names, UpstreamResponse
from mirror.pypi import index
from mirror.pypi.index import parse_names, render_names_html, render_names_json
from mirror.pypi.names import canonical

JSON = "application/vnd.pypi.simple.v1+json"


def parse(body: bytes, content_type: str = JSON) -> Names:
    return parse_names(UpstreamResponse(url="https://index.example/simple/", content_type=content_type, body=body))


@st.composite
def names(draw: st.DrawFn, *, serials: bool) -> Names:
    written = draw(st.lists(st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,9}[A-Za-z0-9])?", fullmatch=True)))
    by_name = {canonical(each): each for each in written}
    serial = st.none() | st.integers(0, 1 << 50) if serials else st.none()
    return Names(
        serials={name: draw(serial) for name in by_name},
        display={name: each for name, each in by_name.items() if name != each},
        serial=draw(serial),
    )


@given(names(serials=True))
def test_json_gives_back_the_names_that_were_rendered(listed: Names) -> None:
    assert parse(render_names_json(listed)) == listed


@given(names(serials=True))
def test_an_entry_that_is_odd_changes_nothing_about_the_others(listed: Names) -> None:
    page = json.loads(render_names_json(listed))
    page["projects"].insert(0, {"name": 7, "_last-serial": -1})
    assert parse(json.dumps(page).encode()) == listed


@given(names(serials=False))
def test_html_gives_back_the_names_that_were_rendered(listed: Names) -> None:
    assert parse(render_names_html(listed), "text/html") == listed


def test_serials_are_read_and_absurd_names_left_out() -> None:
    page = {
        "meta": {"api-version": "1.4", "_last-serial": 9, "x": 1},
        "projects": [
            {"name": "Foo.Bar", "_last-serial": 7, "x": 1},
            {"name": "six"},
            {"name": "../etc"},
            {"name": 7},
            {},
            {"name": "odd", "_last-serial": "7"},
        ],
    }
    listed = parse(json.dumps(page).encode())
    assert listed == Names(serials={"foo-bar": 7, "six": None, "odd": None}, display={"foo-bar": "Foo.Bar"}, serial=9)


def test_a_page_without_serials_prints_none() -> None:
    assert json.loads(render_names_json(Names(serials={"six": None}))) == {
        "meta": {"api-version": "1.4"},
        "projects": [{"name": "six"}],
    }


def test_html_lists_of_file_servers_give_their_directories() -> None:
    body = b'<html><a href="../">Up</a><a href="foo-bar/">foo-b..&gt;</a><a href="/simple/six/">Six</a></html>'
    assert set(parse(body, "text/html").serials) == {"foo-bar", "six"}


def test_an_empty_html_list_is_one_when_it_looks_like_one() -> None:
    assert parse(b"<html><head><title>Simple index</title></head><body></body></html>", "text/html") == Names()


@pytest.mark.parametrize(
    "body",
    [
        b"<html><head><title>Maintenance</title></head></html>",
        b"<html><body></body></html>",
        b'<html><body><a href="https://portal.example/login">Click here</a> to log in.</body></html>',
        b'<html><body><a href="/a">One</a><a href="/b">Two</a><a href="six/">six</a></body></html>',
        b'<html><head><title>Simple index</title><meta http-equiv="refresh" content="0"></head></html>',
    ],
)
def test_html_that_does_not_look_like_a_list_of_projects_is_none(body: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        parse(body, "text/html")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", JSON), (b"[]", JSON), (b"{}", JSON), (b'{"projects": 1}', JSON), (b'{"projects": [1]}', JSON),
        (b'{"projects": [], "meta": {"api-version": "2.0"}}', JSON), (b"", "text/html"), (b"gone", "text/plain"),
        (b"<!x>", "text/html"), (b'{"projects":' + b"[" * 100_000, JSON),
    ],
)  # fmt: skip
def test_what_is_no_list_of_projects_is_a_protocol_error(body: bytes, content_type: str) -> None:
    with pytest.raises(UpstreamProtocolError):
        parse(body, content_type)


@given(st.binary(max_size=100), st.sampled_from([JSON, "text/html", ""]))
def test_any_bytes_are_a_list_or_a_protocol_error(body: bytes, content_type: str) -> None:
    try:
        listed = parse(body, content_type)
    except UpstreamProtocolError:
        return
    for name in listed.serials:
        try:
            assert canonical(name) == name
        except Invalid:
            pytest.fail(f"{name!r} is not a name")


@pytest.mark.parametrize(
    ("content_type", "start", "piece"),
    [(JSON, b'{"projects": [', b'{"name":"a"},'), ("text/html", b"<html>", b"<a href=a>a")],
)
def test_more_projects_than_any_index_has_are_refused_before_they_are_read(
    monkeypatch: pytest.MonkeyPatch, content_type: str, start: bytes, piece: bytes
) -> None:
    monkeypatch.setattr(index, "NAMES_LIMIT", 1000)
    parse(start + piece * 990 + b'{"name":"b"}]}', content_type)
    with pytest.raises(UpstreamProtocolError, match="1,000"):
        parse(start + piece * 1010 + b'{"name":"b"}]}', content_type)


def test_a_serial_that_no_database_can_hold_is_left_out() -> None:
    assert parse(b'{"projects": [{"name": "a", "_last-serial": %d}]}' % 10**18).serials == {"a": 10**18}
    assert parse(b'{"projects": [{"name": "a", "_last-serial": %d}]}' % 2**63).serials == {"a": None}
