"""What the routes decide by themselves: which files are said to have metadata, and where things are."""

from mirror.model import File, Project
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


def test_links_quote_what_urls_may_not_hold() -> None:
    file = File(filename="six-1+cu%20 x.whl", version="1+cu")
    assert _linker("../../packages/six")(file) == "../../packages/six/six-1%2Bcu%2520%20x.whl"
    assert _provenance_linker("six")(file) == "../../integrity/six/1%2Bcu/six-1%2Bcu%2520%20x.whl/provenance"


def test_whoever_does_not_ask_for_json_by_name_gets_html() -> None:
    assert negotiate("*/*", OFFERED) == "text/html"
    assert negotiate("application/*", OFFERED) == OFFERED[1]
