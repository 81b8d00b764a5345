"""HTTP: negotiation, conditions and statuses."""

import tracemalloc

import pytest
from aiohttp.test_utils import make_mocked_request

from mirror import errors
from mirror.index.freshness import Freshness
from mirror.server.facts import FACTS, RequestFacts, public_url
from mirror.server.middleware import error_response, status_of
from mirror.server.negotiate import (
    choose_encoding,
    is_short_range,
    matches_etag,
    negotiate,
    qualities,
    requested_freshness,
)

OFFERED = ("text/html", "application/json", "application/special")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", "text/html"),
        ("*/*", "text/html"),
        ("application/json", "application/json"),
        ("application/json, text/html;q=0.01", "application/json"),
        ("application/json;q=0.5, text/html", "text/html"),
        ("application/*", "application/json"),
        ("application/json, */*;q=0.1", "application/json"),
        ("APPLICATION/JSON ; Q=0.3", "application/json"),
        ("text/html;q=0, */*;q=0.5", "application/json"),
        ("image/png", None),
        (";;;,,,q=", None),
    ],
)
def test_the_accept_header_chooses(accept: str, chosen: str | None) -> None:
    assert negotiate(accept, OFFERED) == chosen


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("", "identity"),
        ("gzip, deflate", "gzip"),
        ("gzip, deflate, zstd", "zstd"),
        ("gzip;q=1, zstd;q=0.5", "gzip"),
        ("zstd;q=0, gzip;q=0", "identity"),
        ("*", "zstd"),
        ("identity", "identity"),
    ],
)
def test_the_encoding_is_one_that_the_client_takes(accept: str, coding: str) -> None:
    assert choose_encoding(accept, ("zstd", "gzip")) == coding


@pytest.mark.parametrize("header", ['"abc"', 'W/"abc"', "abc", '"x", "abc"', "*", ' "abc" '])
def test_an_etag_matches_in_every_spelling_of_the_clients(header: str) -> None:
    assert matches_etag(header, '"abc"')


def test_another_etag_does_not_match() -> None:
    assert not matches_etag('"abcd", "ab"', '"abc"')


@pytest.mark.parametrize(
    ("headers", "freshness"),
    [
        ({}, Freshness.USUAL),
        ({"Cache-Control": "max-age=0"}, Freshness.NOW),
        ({"Cache-Control": "max-stale=5, No-Cache"}, Freshness.NOW),
        ({"Cache-Control": "max-age=600"}, Freshness.USUAL),
        ({"Pragma": "no-cache"}, Freshness.NOW),
    ],
)
def test_a_client_can_ask_for_a_page_of_now(headers: dict[str, str], freshness: Freshness) -> None:
    assert requested_freshness(headers.get("Cache-Control"), headers.get("Pragma")) is freshness


def url_of(host: str) -> str:
    request = make_mocked_request("GET", "/", headers={"Host": host})
    request[FACTS] = RequestFacts()
    return public_url(request)


@pytest.mark.parametrize("host", ["mirror.example", "mirror.example:8484", "127.0.0.1:1", "[::1]:8484"])
def test_the_public_url_is_the_one_the_client_used(host: str) -> None:
    assert url_of(host) == f"http://{host}"


@pytest.mark.parametrize("host", ['a"><script>', "a/b", "a b", "", "user@host"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(errors.Invalid):
        url_of(host)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UnknownProject("x"), 404),
        (errors.Invalid("x"), 400),
        (errors.TooLarge("x"), 413),
        (errors.Conflict("x"), 409),
        (errors.Unauthorized("x"), 401),
        (errors.Forbidden("x"), 403),
        (errors.Blocked("f", "r", "x"), 403),
        (errors.StorageFull("x"), 507),
        (errors.Offline("x"), 503),
        (errors.UpstreamUnavailable("x"), 503),
        (errors.DigestMismatch("f", "sha256", "a", "b"), 502),
    ],
)
def test_each_error_has_its_status(error: errors.MirrorError, status: int) -> None:
    assert status_of(error) == status


def test_an_unavailable_response_reports_when_to_come_back() -> None:
    response = error_response(errors.UpstreamUnavailable("The upstream is down.", retry_after=12.4))
    assert (response.status, response.headers["Retry-After"], response.text) == (503, "12", "The upstream is down.\n")


@pytest.mark.parametrize(
    ("header", "short"),
    [
        ("bytes=0-0", True),
        ("bytes=-1", True),
        ("bytes=5000000000-5000000099", True),
        ("Bytes = 0 - 99", True),
        ("bytes=5-", False),
        ("bytes=-", False),
        ("bytes=0-1048576", False),
        ("bytes=-1048577", False),
        ("bytes=0-0,5-9", False),
        ("bytes=9-99999999999999999999", False),
        ("lines=0-1", False),
    ],
)
def test_a_short_range_is_one_that_is_short_whatever_the_size(header: str, short: bool) -> None:
    assert is_short_range(header) == short


def test_headers_of_strangers_take_little_memory() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = ",".join(letters[number % 36] + letters[number // 36 % 36] for number in range(660))
    tracemalloc.start()
    try:
        for number in range(1000):
            header = f"x{number},{tokens},{'z' * 8000}"
            qualities(header)
            negotiate(header, ("text/html", "text/plain"))
            choose_encoding(header, ("gzip",))
            requested_freshness(header, None)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 16 << 20
