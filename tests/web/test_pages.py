"""The pages over HTTP: what they show of what is there, to whom, and what stays as clients need it."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request

from mirror.auth import digest, new_token
from mirror.server.facts import FACTS, RequestFacts
from mirror.web.routes import _root
from mirror.web.summaries import ProjectSummaries
from tests.builders import gem, sdist, wheel
from tests.serving import Serving, repositories, serving
from tests.simulator import Simulator, Stall, Status
from tests.uploading import basic, make_token, upload
from tests.web import stage
from tests.web.reading import look, sound


@pytest.fixture
async def mirror(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(tmp_path / "data", repositories(simulator)) as running:
        yield running


async def test_the_root_is_a_page_for_browsers_and_a_line_for_everything_else(mirror: Serving) -> None:
    page = await look(mirror, "")
    assert page.status == 200
    sound(page)
    for agent, accept in (("curl/8.5", "*/*"), ("pip/25.0", "text/html"), ("", "application/json"), ("x", "")):
        reply = await mirror.get("", User_Agent=agent, Accept=accept)
        assert reply.headers["Content-Type"].startswith("text/plain"), agent
        assert len(reply.body) < 200
    head = await mirror.head("", User_Agent="Ruby, RubyGems/3.6.2")
    assert (head.status, head.headers.get("Content-Type", "")[:9]) != (200, "text/html")
    assert head.status == 200


async def test_the_start_page_names_the_host_it_is_asked_by_and_every_repository(
    simulator: Simulator, tmp_path: Path
) -> None:
    team = {"team": {"format": "pypi", "upstreams": [simulator.simple_url]}}
    names = ["mirror.example"]
    async with serving(tmp_path / "data", repositories(simulator) | team, allowed_hosts=names) as mirror:
        tree = sound(await look(mirror, "", Host="mirror.example:8484"))
        lines = [node.text() for node in tree.css("code[data-copy]")]
        assert "pip install --index-url http://mirror.example:8484/simple/ --trusted-host mirror.example NAME" in lines
        assert "uv pip install --default-index http://mirror.example:8484/team/simple/ NAME" in lines
        assert f"bundle config set --global mirror.{simulator.url} http://mirror.example:8484/" in lines
        assert "twine upload --repository-url http://mirror.example:8484/team/legacy/ dist/*" in lines
        named = {line.split()[0] for line in lines}
        assert named >= {"pip", "uv", "poetry", "pdm", "twine", "gem", "bundle"}
        moved = await look(mirror, "team/")
        assert (moved.status, moved.headers["Location"]) == (302, "../")
        assert (await mirror.get("team/", Accept="*/*")).headers["Content-Type"].startswith("text/plain")
        forged = await look(mirror, "", Host="evil.example/$(id)")
        assert forged.status == 400


async def test_what_was_saved_is_shown_in_figures_and_over_time(mirror: Serving, simulator: Simulator) -> None:
    empty = sound(await look(mirror, ""))
    assert not empty.css("figure svg")
    assert "Nothing yet" in empty.css_first("main").text()
    stage.publish(simulator)
    await stage.use(mirror)
    young = sound(await look(mirror, ""))
    assert len(young.css("figure rect.saved")) == 48, "by the hour while there is little"
    await stage.month(mirror)
    tree = sound(await look(mirror, ""))
    assert len(tree.css("figure rect.saved")) == 30
    assert "of" in tree.css_first("figure title").text()
    assert len(tree.css("table tbody tr")) == 30
    figures = {node.css_first("dt").text(): node.css_first("dd").text() for node in tree.css(".figures div")}
    files, size = await mirror.mirror.catalog.files.totals()
    assert figures["files"] == str(files)
    assert float(figures["answered from here"].split()[0]) > 90
    assert size


async def test_the_page_of_a_project_shows_it_as_it_is(mirror: Serving, simulator: Simulator) -> None:
    stage.publish(simulator)
    await stage.use(mirror)
    tree = sound(await look(mirror, "-/projects/pypi/flask/"))
    assert tree.css_first("h1").text() == "flask 3.1.0", "the newest final version"
    assert tree.css_first(".lead").text().startswith("A simple framework")
    assert tree.css_first(".description pre").text().startswith("# save this as app.py")
    files = {node.css_first(".filename").text().strip(): node for node in tree.css(".files > li")}
    assert set(files) == {"flask-3.1.0-py3-none-any.whl", "flask-3.1.0.tar.gz"}
    wheel_row = files["flask-3.1.0-py3-none-any.whl"]
    link = wheel_row.css_first("a").attributes["href"]
    assert link == "../../../../packages/flask/flask-3.1.0-py3-none-any.whl"
    assert [node.text() for node in wheel_row.css(".badge")] == ["held"]
    built = (await mirror.mirror.repositories["pypi"].project("flask")).files["flask-3.1.0-py3-none-any.whl"]
    assert wheel_row.css_first(".digest code").text() == built.sha256
    needs = {node.css_first("a").text(): node.css_first("a").attributes["href"] for node in tree.css(".needs li")}
    assert needs["jinja2"] == "../../../../-/projects/pypi/jinja2/"
    assert needs["asgiref"]
    assert [node.text() for node in tree.css(".links li")] == ["Documentation", "Changes", "Chat"]
    assert len(tree.css(".links a")) == 2, "javascript: is no link"
    versions = [node.css_first("a").text() for node in tree.css(".versions li")]
    assert versions[:3] == ["3.1.0", "3.1.0rc1", "3.0.3"]
    assert (await mirror.get("packages/flask/flask-3.1.0-py3-none-any.whl")).outcome == "hit"


async def test_another_version_has_its_own_page_and_says_that_it_is_yanked(
    mirror: Serving, simulator: Simulator
) -> None:
    stage.publish(simulator)
    tree = sound(await look(mirror, "-/projects/pypi/flask/?version=2.3.1"))
    assert [node.text() for node in tree.css(".files .badge")] == ["not held", "yanked"] * 2
    assert [node.text() for node in tree.css(".files .why")] == ["Yanked: Broke session cookies; use 2.3.2."] * 2
    assert "flask==2.3.1" in tree.css_first("code[data-copy]").text()
    gone = await look(mirror, "-/projects/pypi/flask/?version=9")
    assert gone.status == 404
    assert "no version" in sound(gone).css_first("main").text()


async def test_a_gem_is_shown_like_a_python_project(mirror: Serving, simulator: Simulator) -> None:
    stage.publish(simulator)
    await mirror.get("gems/rack-3.1.16.gem")
    tree = sound(await look(mirror, "-/projects/rubygems/rack/"))
    assert tree.css_first("h1").text() == "rack 3.1.16"
    assert tree.css_first(".files a").attributes["href"] == "../../../../gems/rack-3.1.16.gem"
    assert "held" in [node.text() for node in tree.css(".files .badge")]
    assert tree.css_first(".needs li").text().split() == ["minitest", "~>", "5.0", "development"]
    named = sound(await look(mirror, "-/projects/rubygems/sinatra/"))
    assert {node.text() for node in named.css(".needs a")} == {"rack", "mustermann", "tilt"}


async def test_an_sdist_is_described_by_the_json_api(mirror: Serving, simulator: Simulator) -> None:
    metadata = stage.described("text/markdown", "Only *source*.", "License: MIT")
    simulator.publish(sdist("only-source", "1.0", requires=["six"], extra_metadata=metadata))
    tree = sound(await look(mirror, "-/projects/pypi/only-source/"))
    page = tree.css_first("main").text()
    assert "MIT" in page
    assert tree.css_first(".needs a").text() == "six"


async def test_names_are_spelled_canonically_and_addresses_end_in_a_slash(
    mirror: Serving, simulator: Simulator
) -> None:
    simulator.publish(wheel("flask-login", "1.0"))
    moved = await look(mirror, "-/projects/pypi/Flask_Login/")
    assert (moved.status, moved.headers["Location"]) == (301, "../flask-login/")
    slash = await look(mirror, "-/projects/pypi/flask-login?version=1.0")
    assert (slash.status, slash.headers["Location"]) == (301, "flask-login/?version=1.0")
    for path in (
        "-/projects/pypi/a%2F..%2Fb/",
        "-/projects/pypi/%00/",
        "-/projects/nowhere/six/",
        "-/projects/pypi/no/",
    ):
        reply = await look(mirror, path)
        assert reply.status in (400, 404), path
        sound(reply)
    assert (await look(mirror, "-/static/style.css")).headers["Cache-Control"].endswith("immutable")
    for path in ("-/static/nothing", "-/static/..%2Froutes.py", "-/static/%2Fetc%2Fpasswd"):
        assert (await look(mirror, path)).status == 404


async def test_search_finds_what_is_held_first_then_what_is_known(mirror: Serving, simulator: Simulator) -> None:
    stage.publish(simulator)
    await stage.use(mirror)
    await mirror.get("simple/pyflakes/")
    tree = sound(await look(mirror, "-/projects/?q=Fla"))
    assert [node.css_first("a").text() for node in tree.css(".projects li")] == ["flask", "pyflakes"]
    assert [node.text() for node in tree.css("h2")] == ["Held here", "Known, not held"]
    await mirror.get("simple/", Accept="application/vnd.pypi.simple.v1+json")
    known = sound(await look(mirror, "-/projects/?q=fla"))
    names = [node.css_first("a").text() for node in known.css(".projects li")]
    assert names == ["flask", "flask-login", "pyflakes"], "the stored list of names is known too"
    asked = simulator.count()
    await look(mirror, "-/projects/?q=zzz")
    await look(mirror, "-/projects/")
    assert simulator.count() == asked, "browsing asks no upstream"
    nothing = sound(await look(mirror, "-/projects/?q=zzz"))
    assert nothing.css_first(".notice a").attributes["href"] == "../../-/projects/pypi/zzz/"
    assert (await look(mirror, "-/projects/?from=nonsense")).status == 400
    assert (await look(mirror, "-/projects/?from=9.a")).status == 400


async def test_policy_is_shown_with_its_rule_and_reason(simulator: Simulator, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    simulator.publish(wheel("six", "1.0"), uploaded=now - timedelta(days=100))
    simulator.publish(wheel("six", "2.0"), uploaded=now)
    rule = {"name": "rest", "kind": "cooldown", "reason": "New releases rest.", "age": "3 days", "action": "block"}
    async with serving(tmp_path / "data", repositories(simulator), policy=[rule]) as mirror:
        tree = sound(await look(mirror, "-/projects/pypi/six/"))
        assert tree.css_first("h1").text() == "six 1.0"
        assert "withheld" in tree.css_first(".versions").text()
        young = sound(await look(mirror, "-/projects/pypi/six/?version=2.0"))
        assert young.css_first(".files .badge.bad").text() == "blocked"
        said = young.css_first(".files .why").text()
        assert "By the rule “rest”: New releases rest." in said
        assert said.count("until") == 1
        assert not young.css(".project-head code"), "what cannot be installed is not offered"
        assert not young.css(".files a"), "what is refused is not linked"


async def test_an_upload_is_marked_as_ours_and_stands_in_the_journal(mirror: Serving) -> None:
    await upload(mirror, await make_token(mirror), wheel("acme-tools", "1.0", summary="Ours"))
    tree = sound(await look(mirror, "-/projects/pypi/acme-tools/"))
    assert "uploaded here" in [node.text() for node in tree.css(".files .badge")]
    listed = sound(await look(mirror, "-/projects/?q=acme"))
    assert listed.css_first(".projects li a").text() == "acme-tools"
    activity = sound(await look(mirror, "-/activity/"))
    assert activity.css_first(".entries .ours").text() == "uploaded"
    assert activity.css_first(".entries .file").text() == "acme_tools-1.0-py3-none-any.whl"


async def test_the_journal_is_read_page_by_page_without_a_gap(mirror: Serving, simulator: Simulator) -> None:
    for number in range(120):
        simulator.publish(wheel(f"p{number}", "1.0"))
        await mirror.get(f"simple/p{number}/")
    seen: list[str] = []
    path = "-/activity/"
    while True:
        tree = sound(await look(mirror, path))
        seen += [node.css_first("a").text() for node in tree.css(".entries li")]
        following = tree.css_first(".pager a[rel=next]")
        if following is None:
            break
        path = f"-/activity/{following.attributes['href']}"
    assert seen == [f"p{number}" for number in reversed(range(120))]
    assert (await look(mirror, "-/activity/?before=x")).status == 400


async def test_private_projects_leave_no_trace_for_those_who_may_not_read_them(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(wheel("acme-secret", "1.0"))
    simulator.publish(wheel("six", "1.0"))
    simulator.push(gem("acme-gem", "1.0"))
    rules = {"rules": [{"projects": ["acme-*"], "read": ["authenticated"], "upload": []}]}
    async with serving(tmp_path / "data", repositories(simulator), auth=rules) as mirror:
        secret = await make_token(mirror, ["read"])
        signed = {"Authorization": basic(secret)}
        for name in ("acme-secret", "six"):
            await mirror.get(f"simple/{name}/", **signed)
            await mirror.get(f"packages/{name}/{name.replace('-', '_')}-1.0-py3-none-any.whl", **signed)
        await mirror.get("info/acme-gem", **signed)
        for path in ("-/projects/", "-/projects/?q=acme", "-/projects/?q=secret", "-/activity/", "-/state/"):
            stranger = await look(mirror, path)
            sound(stranger)
            shown = stranger.text.replace('value="acme"', "").replace("like <q>acme</q>", "")
            assert "acme-secret" not in shown, path
            assert "acme-gem" not in shown, path
        first = await look(mirror, "-/projects/pypi/acme-nothing/")
        second = await look(mirror, "-/projects/pypi/acme-secret/")
        assert first.status == second.status == 404
        assert first.text.replace("acme-nothing", "acme-secret") == second.text, "both look alike"
        friend = await look(mirror, "-/projects/?q=acme", **signed)
        assert [node.css_first("a").text() for node in sound(friend).css(".projects li")] == ["acme-secret", "acme-gem"]
        own = await look(mirror, "-/projects/pypi/acme-secret/", **signed)
        assert own.status == 200
        assert own.headers["Cache-Control"] == "no-store"
        assert "Authorization" in own.headers["Vary"]


async def test_a_closed_mirror_asks_who_one_is(simulator: Simulator, tmp_path: Path) -> None:
    rules = {"rules": [{"read": ["authenticated"]}]}
    async with serving(tmp_path / "data", repositories(simulator), auth=rules) as mirror:
        for path in ("-/projects/", "-/activity/", "-/projects/pypi/six/", "-/state/", "-/signin"):
            reply = await look(mirror, path)
            assert reply.status == (200 if path == "-/signin" else 401), path
            assert "Basic" not in reply.headers.get("WWW-Authenticate", ""), "no password of HTTP"
            assert sound(reply).css_first("form.signin input[type=password]") is not None
        signed = {"Authorization": basic(await make_token(mirror, ["read"]))}
        back = await look(mirror, "-/signin", **signed)
        assert (back.status, back.headers["Location"]) == (303, "projects/")
        assert (await look(mirror, "-/projects/", **signed)).status == 200
        wrong = await look(mirror, "-/projects/", Authorization=basic(new_token()))
        assert wrong.status == 401


async def test_the_state_is_for_administrators_where_there_are_any(
    mirror: Serving, simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(wheel("six", "1.0"))
    await mirror.get("simple/six/")
    everyone = sound(await look(mirror, "-/state/"))
    assert len(everyone.css(".cards li")) == 2
    assert "Tokens" not in everyone.css_first("main").text()
    reader, admin = await make_token(mirror, ["read"]), await make_token(mirror, ["admin"])
    assert (await look(mirror, "-/state/")).status == 401
    assert (await look(mirror, "-/state/", Authorization=basic(reader))).status == 403
    tree = sound(await look(mirror, "-/state/", Authorization=basic(admin)))
    assert len(tree.css("section")) == 4
    assert digest(admin)[:12] in tree.css_first("main").text()
    assert admin not in tree.css_first("main").text()
    assert digest(admin) not in tree.css_first("main").text()
    start = sound(await look(mirror, ""))
    assert not [node for node in start.css("nav a") if node.text() == "State"]


async def test_pages_say_what_is_wrong_when_upstream_is(mirror: Serving, simulator: Simulator) -> None:
    simulator.publish(wheel("six", "1.0", size=100))
    simulator.inject("*.metadata", Status(500), times=100)
    simulator.inject("/packages/*", Status(500), times=100)
    tree = sound(await look(mirror, "-/projects/pypi/six/"))
    assert tree.css_first("h1").text() == "six 1.0"
    assert tree.css_first(".notice").text()
    await simulator.go_down()
    down = await look(mirror, "-/projects/pypi/unheard-of/")
    assert down.status == 503
    assert int(down.headers["Retry-After"]) >= 1
    sound(down)


async def test_pages_work_below_the_prefix_of_a_proxy(mirror: Serving, simulator: Simulator) -> None:
    simulator.publish(wheel("six", "1.0"))
    for path in ("", "-/projects/", "-/projects/pypi/six/", "-/activity/", "-/state/"):
        tree = sound(await look(mirror, path))
        root = "../" * path.count("/") or "./"
        for node in tree.css("link[href], script[src], form[action], nav a[href], .brand"):
            address = node.attributes.get("href") or node.attributes.get("src") or node.attributes["action"] or ""
            assert address.startswith((root, "?", "#")), (path, address)


async def test_the_lines_to_copy_have_the_prefix_of_a_proxy(mirror: Serving) -> None:
    (browsable, *_) = mirror.endpoints.pages._repositories.values()
    request = make_mocked_request("GET", "/", headers={"Host": "inside:1"})
    request[FACTS] = RequestFacts(origin="https://packages.example/mirror")
    assert str(_root(request, browsable)) == "https://packages.example/mirror/"


async def test_a_page_does_not_wait_for_a_slow_upstream(
    mirror: Serving, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.publish(wheel("six", "1.0", summary="Six."))
    await mirror.get("simple/six/")
    stalled = simulator.inject("*.metadata", Stall())
    mirror.endpoints.pages._summaries = ProjectSummaries(0.2)
    tree = sound(await look(mirror, "-/projects/pypi/six/"))
    assert "slow" in tree.css_first(".notice").text()
    assert "six-1.0-py3-none-any.whl" in tree.css_first(".files").text()
    stalled.release()
    simulator.heal()
    mirror.endpoints.pages._summaries = ProjectSummaries(20)
    assert sound(await look(mirror, "-/projects/pypi/six/")).css_first(".lead").text() == "Six."


async def test_a_project_of_thousands_of_files_has_a_page_of_bounded_size(
    mirror: Serving, simulator: Simulator
) -> None:
    for number in range(300):
        for tags in ("py3-none-any", "cp313-cp313-win_amd64"):
            simulator.publish(wheel("many", f"1.{number}", tags=tags))
    before = await mirror.mirror.statistics.totals()
    page = await look(mirror, "-/projects/pypi/many/?page=3")
    tree = sound(page)
    assert len(page.body) < 100_000
    assert tree.css_first("h1").text() == "many 1.299"
    assert [node.css_first("a").text() for node in tree.css(".versions li")][::99] == ["1.99", "1.0"]
    assert [node.text() for node in tree.css(".pager a")] == ["Newer"]
    assert await mirror.mirror.statistics.totals() == before, "people who look around are no clients served"
