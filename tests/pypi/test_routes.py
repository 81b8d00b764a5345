"""What the routes decide by themselves: which files are said to have metadata, and where things are."""

import json

import msgspec

from mirror.model import File, Project
from mirror.pypi.pages import render_json
from mirror.pypi.routes import OFFERED, _linker, _provenance_linker, advertised
from mirror.server.negotiate import negotiate

WHEEL = File(filename="six-1-py3-none-any.whl", version="1")
PROMISED = File(filename="six-2-py3-none-any.whl", version="2", extra={"core-metadata": {"sha256": "ab"}, "x-own": 1})
SDIST = File(filename="six-1.tar.gz", version="1")


def test_every_wheel_is_said_to_have_metadata() -> None:
    shown = advertised(Project(name="six", files=(WHEEL, PROMISED, SDIST)))
    assert [file.extra.get("core-metadata") for file in shown.files] == [True, {"sha256": "ab"}, None]
    assert shown.files[1] is PROMISED
    assert WHEEL.extra == {}


def test_a_page_that_says_all_of_it_already_is_left_alone() -> None:
    project = Project(name="six", files=(PROMISED, SDIST))
    assert advertised(project) is project


def test_only_what_has_metadata_here_is_said_to_have_it() -> None:
    gap = msgspec.structs.replace(PROMISED, sidecar=False)
    long = File(filename=f"six-1-py3-none-{'x' * 240}.whl", version="1", extra={"core-metadata": True})
    promised = msgspec.structs.replace(SDIST, extra={"core-metadata": True})
    shown = advertised(Project(name="six", files=(gap, long, promised, WHEEL)))
    assert [file.extra["core-metadata"] for file in shown.files] == [False, False, False, True]
    assert json.loads(render_json(shown, lambda file: "x"))["files"][0]["x-own"] == 1
    assert b"core-metadata" not in render_json(msgspec.structs.replace(shown, files=shown.files[:3]), lambda file: "x")


def test_links_quote_what_urls_may_not_hold() -> None:
    file = File(filename="six-1+cu%20 x.whl", version="1+cu")
    assert _linker("../../packages/six")(file) == "../../packages/six/six-1%2Bcu%2520%20x.whl"
    assert _provenance_linker("six")(file) == "../../integrity/six/1%2Bcu/six-1%2Bcu%2520%20x.whl/provenance"


def test_whoever_does_not_ask_for_json_by_name_gets_html() -> None:
    assert negotiate("*/*", OFFERED) == "text/html"
    assert negotiate("application/*", OFFERED) == OFFERED[1]
