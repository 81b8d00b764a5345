"""The two logs: their lines, what is removed from them, and what happens when no one reads them."""

import io
import json
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.auth.audit import audit
from mirror.telemetry import log
from mirror.telemetry.log import AccessLog, RepeatFilter, printable, redact, request_id


class Standstill(io.RawIOBase):
    """A stream that blocks writers until it is released."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked = threading.Event()
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.asked.set()
        assert self.go.wait(30)
        assert isinstance(data, bytes)
        self.taken += data
        return len(data)


class FullDisk(io.RawIOBase):
    def write(self, data: object) -> int:
        raise OSError(28, "No space left on device")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:], root.level, logging.raiseExceptions = before


def add(access: AccessLog, **changes: object) -> None:
    facts: dict[str, object] = {
        "request_id": "ab-1",
        "client": "127.0.0.1",
        "method": "GET",
        "path": "/simple/six/",
        "status": 200,
        "sent": 1234,
        "seconds": 0.0125,
        "cache": "hit",
        "agent": "pip/26.2",
    }
    access.add(**(facts | changes))  # type: ignore[arg-type]


def written(*, as_json: bool = True, **changes: object) -> str:
    stream = io.BytesIO()
    access = AccessLog(stream, json=as_json)
    add(access, **changes)
    access.close()
    return stream.getvalue().decode()


def test_an_access_line_as_json_has_every_fact() -> None:
    line = json.loads(written())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert line == {
        "logger": "mirror.access",
        "id": "ab-1",
        "client": "127.0.0.1",
        "method": "GET",
        "path": "/simple/six/",
        "status": 200,
        "bytes": 1234,
        "ms": 12.5,
        "cache": "hit",
        "agent": "pip/26.2",
    }


def test_an_access_line_as_text_is_one_line_for_a_person() -> None:
    line = written(as_json=False, cache="", agent='ag"ent')
    assert line.endswith(' 127.0.0.1 GET /simple/six/ 200 1234 B 12.5 ms - "ag\'ent" ab-1\n')


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("field", ["path", "agent", "client", "method", "request_id"])
def test_no_client_can_forge_a_line_or_move_a_cursor(as_json: bool, field: str) -> None:
    text = written(as_json=as_json, **{field: "/a\r\n2026 GET /forged\x1b[2J\x9b\u202e\u2028\udcff\x00"})
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert "\\x1b[2J" in text.replace("\\\\", "\\")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/simple/?token=hunter2&format=json", "/simple/?token=***&format=json"),
        ("/x?X-Amz-Signature=hunter2", "/x?X-Amz-Signature=***"),
        ("/x?since=3&wait=30", "/x?since=3&wait=30"),
        ("http://me:hunter2@mirror.example/simple/", "http://***@mirror.example/simple/"),
    ],
)
def test_secrets_in_a_path_are_not_logged(path: str, shown: str) -> None:
    assert json.loads(written(path=path))["path"] == shown


def test_a_secret_is_not_logged_where_a_long_path_is_cut() -> None:
    path = "/" + "a" * 1000 + "http://name:" + "hunter2" * 3 + "@x/" + "b" * 5000
    line = json.loads(written(path=path, agent="b" * 5000))
    assert "hunter2" not in line["path"]
    assert len(line["path"]) < 1100
    assert len(line["agent"]) < 300


@pytest.mark.parametrize(
    "text",
    [
        "GET https://user:hunter2@index.example/simple/ failed",
        "GET https://hunter2@index.example/",
        "GET https://user:p@hunter2@index.example/",
        "https://index.example/?api_key=hunter2",
        "Authorization: Basic hunter2",
        "authorization: hunter2",
        "{'Authorization': 'Bearer hunter2', 'Accept': '*/*'}",
        "Cookie: hunter2",
    ],
)
def test_credentials_are_redacted_from_any_text(text: str) -> None:
    assert "hunter2" not in redact(text)
    assert redact(redact(text)) == redact(text)


def test_what_is_no_secret_is_left_alone() -> None:
    text = "https://index.example/simple/six/?format=json was read in 3 ms: 200 (a@b.example)"
    assert redact(text) == text


@given(st.text(st.characters()))
def test_printable_text_is_always_printable(text: str) -> None:
    assert printable(text).isprintable()
    printable(text).encode()


def test_lines_of_a_reader_that_stands_still_are_dropped_and_counted_while_requests_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream = Standstill()
    access = AccessLog(stream, json=True, batch=10, limit=100)
    for _ in range(10):
        add(access)
    assert stream.asked.wait(30)  # these ten are on their way out
    for _ in range(150):
        add(access)
    assert access.dropped == 50
    stream.go.set()
    access.close(30)
    assert len(stream.taken.splitlines()) == 110
    assert "50 lines lost" in caplog.text


def test_closing_gives_up_on_a_reader_that_stands_still() -> None:
    stream = Standstill()
    access = AccessLog(stream, json=True)
    add(access)
    access.close(0.05)
    stream.go.set()


def test_a_full_disk_costs_lines_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    access = AccessLog(FullDisk(), json=True, delay=0)
    add(access)
    access.close(30)
    assert access.dropped == 1


def test_no_line_is_lost_when_many_are_added_while_others_are_written() -> None:
    stream = io.BytesIO()
    access = AccessLog(stream, json=True, delay=0.001, batch=7)
    for number in range(5000):
        add(access, request_id=str(number))
    access.close(30)
    assert [json.loads(line)["id"] for line in stream.getvalue().splitlines()] == [str(n) for n in range(5000)]


def test_lines_come_out_without_more_requests_and_without_closing() -> None:
    stream = Standstill()
    stream.go.set()
    access = AccessLog(stream, json=True, delay=0.01)
    add(access)
    assert stream.asked.wait(30)
    access.close()


def test_request_ids_are_unique_and_a_given_one_is_kept_only_when_harmless() -> None:
    assert len({request_id() for _ in range(1000)}) == 1000
    assert request_id("from-proxy_1.2") == "from-proxy_1.2"
    for hostile in ("a b", "a\n", "x" * 65, "é", "<script>"):
        assert request_id(hostile) != hostile


@pytest.mark.usefixtures("restored_logging")
class TestApplicationLog:
    def test_lines_are_text_on_a_terminal_and_json_elsewhere(self) -> None:
        for stream, as_json in ((Terminal(), False), (io.StringIO(), True)):
            log.configure("auto", stream=stream)
            logging.getLogger("mirror.x").warning("look at %s", "this")
            text = stream.getvalue()
            assert text.startswith("{") is as_json
            assert "look at this" in text
            assert text.count("\n") == 1

    def test_a_json_line_carries_level_logger_message_and_facts(self) -> None:
        stream = io.StringIO()
        log.configure("json", stream=stream)
        logging.getLogger("mirror.x").error("no", extra={"facts": {"upstream": "index.example", "level": "forged"}})
        line = json.loads(stream.getvalue())
        assert line.pop("time").endswith("Z")
        assert line == {"level": "error", "logger": "mirror.x", "message": "no", "upstream": "index.example"}

    @pytest.mark.parametrize("form", ["json", "text"])
    def test_neither_message_nor_exception_can_hold_a_secret_or_forge_a_line(self, form: log.LogFormat) -> None:
        stream = io.StringIO()
        log.configure(form, stream=stream)
        try:
            raise ValueError("https://me:hunter2@index.example/\n2026-01-01 ERROR forged\x1b[2J")
        except ValueError:
            logging.getLogger("mirror.x").exception("bad\nthing at https://me:hunter2@index.example/")
        text = stream.getvalue()
        assert "hunter2" not in text
        assert "Traceback" in text
        assert "\x1b" not in text
        assert not any(line.startswith(("thing", "2026-01-01 ERROR")) for line in text.splitlines())

    def test_an_audit_line_is_written_whatever_the_level(self) -> None:
        stream = io.StringIO()
        log.configure("json", "error", stream)
        logging.getLogger("mirror.x").info("not this")
        audit("upload", who="ann", client="192.0.2.1", serial=7, project="six", filename="six-1.0.tar.gz")
        line = json.loads(stream.getvalue())
        del line["time"]
        assert line == {
            "level": "info",
            "logger": "mirror.audit",
            "message": "audit",
            "what": "upload",
            "who": "ann",
            "client": "192.0.2.1",
            "serial": 7,
            "project": "six",
            "filename": "six-1.0.tar.gz",
        }

    def test_an_audit_line_as_text_keeps_hostile_facts_inside_their_quotes(self) -> None:
        stream = io.StringIO()
        log.configure("text", stream=stream)
        audit("yank", who='ann" what=delete', client="192.0.2.1", reason="two\nlines")
        text = stream.getvalue()
        assert """who="ann' what=delete" client=192.0.2.1 reason=two\\nlines\n""" in text
        assert text.count("\n") == 1

    def test_a_second_configuration_replaces_the_first(self) -> None:
        first, second = io.StringIO(), io.StringIO()
        log.configure("json", stream=first)
        log.configure("json", stream=second)
        logging.getLogger("mirror.x").warning("once")
        assert first.getvalue() == ""
        assert second.getvalue().count("once") == 1

    def test_an_unknown_level_is_refused(self) -> None:
        with pytest.raises(ValueError, match="LOUD"):
            log.configure(level="loud", stream=io.StringIO())


def test_a_process_that_ends_without_closing_does_not_hang_on_its_log() -> None:
    program = (
        "import os; from mirror.telemetry.log import AccessLog\n"
        "read, write = os.pipe()\n"
        "access = AccessLog(os.fdopen(write, 'wb', buffering=0), json=True, delay=0)\n"
        "for n in range(19_000): access.add('a', 'b', 'GET', '/' + 'x' * 900, 200, 1, 0.1, 'hit', 'agent')\n"
        "access.close(0.1)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_flood_of_lines_of_one_kind_is_counted_instead_of_written(restored_logging: None) -> None:
    stream, now = io.StringIO(), [0.0]
    log.configure("text", "info", stream)
    (handler,) = logging.getLogger().handlers
    handler.filters[:] = [RepeatFilter(lambda: now[0])]
    logger = logging.getLogger("mirror.test")

    def shout(number: int) -> None:
        logger.warning("request %d failed", number)

    for number in range(1000):
        shout(number)
    logger.warning("something else")
    for _ in range(30):
        audit("refused", who="alice", client="127.0.0.1")
    assert stream.getvalue().count("failed") == 20
    assert stream.getvalue().count("something else") == 1
    assert stream.getvalue().count("refused") == 30
    now[0] = 11.0
    shout(1000)
    assert "request 1000 failed (980 more like it were not written)" in stream.getvalue()


def test_what_is_no_http_costs_a_line_and_no_traceback(restored_logging: None) -> None:
    from aiohttp.http_exceptions import BadHttpMessage

    stream = io.StringIO()
    log.configure("json", "info", stream)
    try:
        raise BadHttpMessage("bad\nthings")
    except BadHttpMessage:
        logging.getLogger("aiohttp.server").exception("Error handling request from %s", "127.0.0.1")
    (line,) = stream.getvalue().splitlines()
    said = json.loads(line)
    assert said["level"] == "info"
    assert "exception" not in said
