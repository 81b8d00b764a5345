"""Policy on the wire: every kind of rule on every URL of both ecosystems, and what changes by itself."""

import asyncio
import json
import logging
import sys
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mirror.cli import main
from mirror.errors import ConfigError
from mirror.index.losses import CONFIRMED_AFTER_SECONDS
from mirror.policy import verdicts
from tests.builders import gem, sdist, wheel
from tests.serving import Client, repositories, serving, spawned
from tests.simulator import Simulator

DAY = 86400.0
START = datetime(2026, 8, 3, 10, tzinfo=UTC)
JSON = "application/vnd.pypi.simple.v1+json"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = START.timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals() -> Iterator[list[dict[str, Any]]]:
    """The audit lines, as they are written."""
    lines: list[dict[str, Any]] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.__dict__["facts"])

    handler, audit = Lines(), logging.getLogger("mirror.audit")
    before = audit.level
    audit.addHandler(handler)
    audit.setLevel(logging.INFO)
    yield lines
    audit.setLevel(before)
    audit.removeHandler(handler)


def ago(days: float) -> datetime:
    return START - timedelta(days=days)


def rule(kind: str, **more: Any) -> dict[str, Any]:
    return {"name": kind, "kind": kind, "reason": f"For a reason called {kind}.", **more}


COOLDOWN = rule("cooldown", age="3 days")


async def filenames(mirror: Client, project: str = "acme", root: str = "") -> set[str]:
    reply = await mirror.get(f"{root}simple/{project}/", Accept=JSON)
    return {file["filename"] for file in reply.json()["files"]} if reply.status == 200 else set()


async def numbers(mirror: Client, name: str = "acme", root: str = "") -> list[str]:
    """What `/info` lists."""
    reply = await mirror.get(f"{root}info/{name}")
    return [line.split()[0] for line in reply.text.splitlines() if line != "---"] if reply.status == 200 else []


async def listed(mirror: Client, name: str = "acme") -> set[str]:
    """What `/versions` lists, and whether its MD5 is that of `/info`."""
    versions: set[str] = set()
    for line in (await mirror.get("versions")).text.splitlines():
        words = line.split()
        if words[:1] == [name]:
            for item in words[1].split(","):
                versions = versions - {item[1:]} if item.startswith("-") else versions | {item}
    return versions


def publish(simulator: Simulator) -> None:
    """Version 1.0 of ten days ago, 2.0 of two days ago, as a wheel and an sdist, and as gems."""
    for version, days in (("1.0", 10), ("2.0", 2)):
        simulator.publish(wheel("acme", version), uploaded=ago(days))
        simulator.publish(sdist("acme", version), uploaded=ago(days))
        simulator.push(gem("acme", version), created=ago(days))
    simulator.push(gem("acme", "2.0", platform="java"), created=ago(2))


def osv(folder: Path, ecosystem: str, identity: str, *versions: str) -> None:
    folder.mkdir(exist_ok=True)
    affected = [{"package": {"ecosystem": ecosystem, "name": "acme"}, "versions": list(versions)}]
    (folder / f"{identity}.json").write_text(json.dumps({"id": identity, "affected": affected}))


WHEELS = {f"acme-{version}-py3-none-any.whl" for version in ("1.0", "2.0")}
SDISTS = {f"acme-{version}.tar.gz" for version in ("1.0", "2.0")}
OLD, NEW = ({f"acme-{version}-py3-none-any.whl", f"acme-{version}.tar.gz"} for version in ("1.0", "2.0"))

PYTHON_RULES = [
    (COOLDOWN, OLD),
    (rule("deny", versions=">=2"), OLD),
    (rule("allow", versions="<2"), OLD),
    (rule("files", kinds=["wheel"]), WHEELS),
    (rule("size", largest="1 B"), set()),
    (rule("known-bad"), OLD),
    (rule("deny", projects=["other"]), OLD | NEW),
    (rule("deny", repositories=["rubygems"]), OLD | NEW),
]


@pytest.mark.parametrize(
    ("one", "visible"), PYTHON_RULES, ids=lambda value: value.get("kind") if isinstance(value, dict) else ""
)
async def test_a_rule_holds_on_every_python_url(
    simulator: Simulator,
    tmp_path: Path,
    clock: Clock,
    refusals: list[dict[str, Any]],
    one: dict[str, Any],
    visible: set[str],
) -> None:
    publish(simulator)
    osv(tmp_path / "osv", "PyPI", "MAL-2026-1", "2.0")
    if one["kind"] == "known-bad":
        one = {**one, "folder": str(tmp_path / "osv")}
    async with serving(tmp_path / "data", repositories(simulator), clock=clock, policy=[one]) as mirror:
        assert await filenames(mirror) == visible
        html = (await mirror.get("simple/acme/")).text
        legacy = (await mirror.get("pypi/acme/json")).json()
        shown = {file["filename"] for files in legacy["releases"].values() for file in files}
        assert shown == visible
        for filename in sorted(OLD | NEW):
            assert (f">{filename}<" in html) == (filename in visible)
            reply = await mirror.get(f"packages/acme/{filename}")
            assert reply.status == (200 if filename in visible else 403)
            if filename.endswith(".whl"):
                sidecar = await mirror.get(f"packages/acme/{filename}.metadata")
                assert sidecar.status == reply.status
            if filename not in visible:
                assert one["name"] in reply.text
                assert one["reason"] in reply.text
                assert reply.headers["Content-Type"].startswith("text/plain")
                assert any(line["filename"] == filename and line["rule"] == one["name"] for line in refusals)
                assert simulator.count("GET", f"*/{filename}") == 0


@pytest.mark.parametrize(
    ("one", "visible"),
    [
        (COOLDOWN, {"1.0"}),
        (rule("deny", versions=">= 2"), {"1.0"}),
        (rule("allow", versions="< 2"), {"1.0"}),
        (rule("files", platforms=["x86_64-linux*"]), {"1.0", "2.0"}),
        (rule("size", largest="1 B", unknown="hide"), set()),
        (rule("known-bad"), {"1.0"}),
        (rule("deny", projects=["other"]), {"1.0", "2.0", "2.0-java"}),
    ],
    ids=lambda value: value.get("kind") if isinstance(value, dict) else "",
)
async def test_a_rule_holds_on_every_ruby_url(
    simulator: Simulator,
    tmp_path: Path,
    clock: Clock,
    refusals: list[dict[str, Any]],
    one: dict[str, Any],
    visible: set[str],
) -> None:
    publish(simulator)
    osv(tmp_path / "osv", "RubyGems", "MAL-2026-1", "2.0")
    if one["kind"] == "known-bad":
        one = {**one, "folder": str(tmp_path / "osv")}
    async with serving(tmp_path / "data", repositories(simulator), clock=clock, policy=[one]) as mirror:
        await mirror.get("versions")
        assert set(await numbers(mirror)) == visible
        assert await listed(mirror) == visible
        shown = await mirror.get("api/v1/versions/acme.json")
        assert ({one["number"] for one in shown.json()} if shown.status == 200 else set()) == {
            number.partition("-")[0] for number in visible
        }
        for number in ("1.0", "2.0", "2.0-java"):
            refused = 403 if one["kind"] != "size" else 200  # an unknown size hides, and so does not refuse
            expected = 200 if number in visible else refused
            for url in (f"gems/acme-{number}.gem", f"quick/Marshal.4.8/acme-{number}.gemspec.rz"):
                reply = await mirror.get(url)
                assert reply.status == expected, url
                if expected == 403:
                    assert one["reason"] in reply.text
        assert (zlib.decompress((await mirror.get("specs.4.8.gz")).body, 31).count(b"2.0") > 0) == ("2.0" in visible)


async def test_a_gem_leaves_its_cooldown_by_itself_and_as_a_small_append(
    simulator: Simulator, tmp_path: Path, clock: Clock
) -> None:
    publish(simulator)
    for number in range(50):
        simulator.push(gem(f"other-{number}", "1.0"), created=ago(100))
    async with serving(tmp_path / "data", repositories(simulator), clock=clock, policy=[COOLDOWN]) as mirror:
        await mirror.get("versions")
        assert await numbers(mirror) == ["1.0"]
        before = (await mirror.get("versions")).body
        clock.now = ago(2).timestamp() + 3 * DAY - 1
        assert (await mirror.get("versions")).body == before
        clock.now += 1
        reply = await mirror.get("versions", Range=f"bytes={len(before) - 1}-")
        assert reply.status == 206
        assert len(reply.body) < 200
        assert b"acme 2.0,2.0-java " in reply.body
        assert await numbers(mirror) == ["1.0", "2.0", "2.0-java"]


async def test_what_upstream_pushes_is_hidden_before_anybody_asks_for_it(
    simulator: Simulator, tmp_path: Path, clock: Clock
) -> None:
    publish(simulator)
    simulator.push(gem("new", "0.9"), created=ago(30))
    async with serving(tmp_path / "data", repositories(simulator), clock=clock, policy=[COOLDOWN]) as mirror:
        await mirror.get("versions")
        simulator.push(gem("new", "1.0"), created=START)
        simulator.push(gem("brand-new", "1.0"), created=START)
        clock.now += 100
        said = (await mirror.get("versions", Cache_Control="no-cache")).text
        assert "new 1.0" not in said
        assert await listed(mirror, "new") == {"0.9"}
        assert await listed(mirror, "brand-new") == set()
        clock.now += 3 * DAY
        assert await listed(mirror, "new") == {"0.9", "1.0"}
        assert await listed(mirror, "brand-new") == {"1.0"}


async def test_a_change_waits_while_upstream_cannot_say_what_it_is(
    simulator: Simulator, tmp_path: Path, clock: Clock
) -> None:
    from tests.simulator import Status

    simulator.push(gem("new", "0.9"), created=ago(30))
    async with serving(
        tmp_path / "data", repositories(simulator), clock=clock, policy=[COOLDOWN], network={"retries": 0}
    ) as mirror:
        await mirror.get("versions")
        simulator.push(gem("new", "1.0"), created=START)
        simulator.inject("/info/*", Status(500))
        clock.now += 100
        await mirror.get("versions", Cache_Control="no-cache")
        assert await listed(mirror, "new") == {"0.9"}
        simulator.heal()
        clock.now += 4 * DAY
        await mirror.get("versions", Cache_Control="no-cache")
        clock.now += 100
        await mirror.get("versions", Cache_Control="no-cache")
        assert await listed(mirror, "new") == {"0.9", "1.0"}


async def test_what_is_hidden_stays_hidden_over_a_restart_and_leaves_on_time(
    simulator: Simulator, tmp_path: Path, clock: Clock
) -> None:
    publish(simulator)
    async with serving(tmp_path / "data", repositories(simulator), clock=clock, policy=[COOLDOWN]) as mirror:
        await mirror.get("versions")
        await numbers(mirror)
        before = (await mirror.get("versions")).body
    async with serving(tmp_path / "data", repositories(simulator), clock=clock, policy=[COOLDOWN]) as mirror:
        assert (await mirror.get("versions")).body == before
        clock.now += DAY
        assert await listed(mirror) == {"1.0", "2.0", "2.0-java"}


async def test_new_records_take_effect_without_a_restart(simulator: Simulator, tmp_path: Path, clock: Clock) -> None:
    publish(simulator)
    folder = tmp_path / "osv"
    folder.mkdir()
    bad = rule("known-bad", folder=str(folder))
    async with serving(tmp_path / "data", repositories(simulator), clock=clock, policy=[bad]) as mirror:
        assert await filenames(mirror) == OLD | NEW
        await mirror.get("versions")
        assert await listed(mirror) == {"1.0", "2.0", "2.0-java"}
        osv(folder, "PyPI", "MAL-2026-1", "2.0")
        osv(folder, "RubyGems", "MAL-2026-2", "2.0")
        await mirror.mirror.policies.check_folders()
        assert await filenames(mirror) == OLD
        refused = await mirror.get("packages/acme/acme-2.0.tar.gz")
        assert (refused.status, "MAL-2026-1" in refused.text) == (403, True)
        assert await numbers(mirror) == ["1.0"]
        assert await listed(mirror) == {"1.0"}


async def test_a_folder_that_lost_most_records_at_once_is_believed_minutes_later(
    simulator: Simulator, tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    publish(simulator)
    folder = tmp_path / "osv"
    osv(folder, "PyPI", "MAL-2026-1", "2.0")
    for number in range(20):
        osv(folder, "PyPI", f"MAL-2026-X{number}", "7.0")
    bad = rule("known-bad", folder=str(folder))
    async with serving(tmp_path / "data", repositories(simulator), clock=clock, policy=[bad]) as mirror:
        assert await filenames(mirror) == OLD
        for record in folder.iterdir():
            record.unlink()
        for seconds in (0, CONFIRMED_AFTER_SECONDS - 1):
            clock.now += seconds
            await mirror.mirror.policies.check_folders()
            assert await filenames(mirror) == OLD
        assert "lacks 21 of 21 OSV records" in caplog.text
        clock.now += 1
        await mirror.mirror.policies.check_folders()
        assert await filenames(mirror) == OLD | NEW


async def test_a_page_that_policy_cannot_judge_is_the_fault_of_upstream_and_the_last_one_goes_on(
    simulator: Simulator, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.publish(wheel("acme", "1.0"), uploaded=ago(9))
    simulator.publish(wheel("odd", "9.0"), uploaded=ago(9))

    def judge(policy: Any, project: Any, now: float, **options: Any) -> Any:
        if any(file.version == "9.0" for file in project.files):
            raise OverflowError("a value that nobody thought of")
        return verdicts.apply(policy, project, now, **options)

    monkeypatch.setattr("mirror.index.repository.apply", judge)
    rested = rule("cooldown", age="3 days")
    async with serving(tmp_path / "data", repositories(simulator), clock=clock, policy=[rested]) as mirror:
        before = await filenames(mirror)
        assert before == {"acme-1.0-py3-none-any.whl"}
        assert (await mirror.get("simple/odd/")).status == 502
        simulator.publish(wheel("acme", "9.0"), uploaded=ago(9))
        clock.now += DAY
        assert await filenames(mirror) == before
        assert (await mirror.get(f"packages/acme/{before.pop()}")).status == 200


# As of a date


@pytest.mark.parametrize(
    ("date", "versions"),
    [
        ("2026-07-24", {"1.0"}),  # ten days ago at 10 o'clock is within the day
        ("2026-07-31", {"1.0"}),
        ("2026-08-01", {"1.0", "2.0"}),
        ("2026-08-01T09:59:59Z", {"1.0"}),
        ("2026-08-01T10:00:00Z", {"1.0", "2.0"}),
        ("2026-07-23", set()),
    ],
)
@pytest.mark.parametrize("mount", ["", "team/"])
async def test_an_index_is_shown_as_of_a_date(
    simulator: Simulator, tmp_path: Path, clock: Clock, mount: str, date: str, versions: set[str]
) -> None:
    publish(simulator)
    where = {"mount": f"/{mount.rstrip('/')}"}
    upstreams = repositories(simulator, pypi=where, rubygems=where)
    async with serving(tmp_path / "data", upstreams, clock=clock) as mirror:
        root = f"{mount}at/{date}/"
        shown = await filenames(mirror, root=root)
        assert shown == {one for one in OLD | NEW if one.split("-")[1][:3] in versions}
        assert {one.partition("-")[0] for one in await numbers(mirror, root=root)} == versions
        for filename in shown:
            assert (await mirror.get(f"{root}packages/acme/{filename}")).status == 200
        legacy = await mirror.get(f"{root}pypi/acme/json")
        assert legacy.status == (200 if versions else 404)
        if versions:
            assert legacy.json()["info"]["version"] == max(versions)
        redirected = await mirror.get(f"{root}simple/Acme/")
        assert (redirected.status, redirected.headers["Location"]) == (301, f"/{root}simple/acme/")
        assert "acme 1.0" in (await mirror.get(f"{root}versions")).text


async def test_a_date_that_is_none_is_refused_with_a_hint(simulator: Simulator, tmp_path: Path) -> None:
    publish(simulator)
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        reply = await mirror.get("at/yesterday/simple/acme/")
        assert reply.status == 400
        assert "2026-08-01" in reply.text


# Removed upstream

WHEEL, SDIST = "acme-2.0-py3-none-any.whl", "acme-2.0.tar.gz"


async def hold(mirror: Client) -> None:
    """Fetch both files of 2.0, and the gem."""
    for filename in (WHEEL, SDIST):
        assert (await mirror.get(f"packages/acme/{filename}")).status == 200
    await mirror.get("versions")
    assert (await mirror.get("gems/acme-2.0.gem")).status == 200


@pytest.mark.parametrize(
    ("setting", "shown", "status"), [("keep", True, 200), ("hide", False, 200), ("block", False, 403)]
)
async def test_a_held_file_that_upstream_removes_is_kept_hidden_or_blocked(
    simulator: Simulator, tmp_path: Path, clock: Clock, setting: str, shown: bool, status: int
) -> None:
    publish(simulator)
    upstreams = repositories(simulator)
    policies = {"removed": setting}
    async with serving(tmp_path / "data", upstreams, clock=clock, policies=policies) as mirror:
        await hold(mirror)
        simulator.remove("acme", WHEEL)
        simulator.yank_gem("acme", "2.0")
        clock.now += 3600
        await mirror.get("versions", Cache_Control="no-cache")
        for again in range(2):
            assert (WHEEL in await filenames(mirror)) == shown, again
            assert SDIST in await filenames(mirror)
            assert ("2.0" in await numbers(mirror)) == shown
            assert (await mirror.get(f"packages/acme/{WHEEL}")).status == status
            assert (await mirror.get(f"packages/acme/{SDIST}")).status == 200
            assert (await mirror.get("gems/acme-2.0.gem")).status == status
        report = await mirror.mirror.catalog.removed.report()
        assert {one.file.filename: one.file.why for one in report} == {WHEEL: "file", "acme-2.0.gem": "file"}
        fetched = {one.file.filename: [fetch.fetches for fetch in one.fetches] for one in report}
        assert fetched == ({WHEEL: [2], "acme-2.0.gem": [2]} if status == 200 else {WHEEL: [], "acme-2.0.gem": []})
    await simulator.go_down()
    async with serving(tmp_path / "data", upstreams, clock=clock, policies=policies, offline=True) as mirror:
        assert (await mirror.get(f"packages/acme/{WHEEL}")).status == status
        assert (await mirror.get("gems/acme-2.0.gem")).status == status
        assert (WHEEL in await filenames(mirror)) == shown


async def test_a_project_that_is_gone_upstream_can_still_be_installed_from_a_lock(
    simulator: Simulator, tmp_path: Path, clock: Clock
) -> None:
    publish(simulator)
    upstreams = repositories(simulator)
    async with serving(tmp_path / "data", upstreams, clock=clock) as mirror:
        await hold(mirror)
        simulator.remove("acme")
        clock.now += 3600
        assert (await mirror.get("simple/acme/")).status == 404
        assert (await mirror.get(f"packages/acme/{WHEEL}")).status == 200
        assert (await mirror.get("packages/acme/acme-1.0.tar.gz")).status == 404  # was never held
        assert {one.file.why for one in await mirror.mirror.catalog.removed.report()} == {"project"}
    await simulator.go_down()
    async with serving(tmp_path / "data", upstreams, clock=clock, offline=True) as mirror:
        assert (await mirror.get(f"packages/acme/{WHEEL}")).status == 200
        assert (await mirror.get("simple/acme/")).status in (404, 503)


async def test_what_upstream_puts_back_is_as_if_it_had_never_gone(
    simulator: Simulator, tmp_path: Path, clock: Clock
) -> None:
    publish(simulator)
    async with serving(tmp_path / "data", repositories(simulator), clock=clock) as mirror:
        await hold(mirror)
        simulator.remove("acme", WHEEL)
        clock.now += 3600
        assert WHEEL not in await filenames(mirror)
        simulator.publish(wheel("acme", "2.0"), uploaded=ago(2))
        clock.now += 3600
        assert WHEEL in await filenames(mirror)
        assert await mirror.mirror.catalog.removed.report() == []


async def test_a_quarantined_project_is_blocked_and_reported(
    simulator: Simulator, tmp_path: Path, clock: Clock, refusals: list[dict[str, Any]]
) -> None:
    publish(simulator)
    async with serving(tmp_path / "data", repositories(simulator), clock=clock) as mirror:
        await hold(mirror)
        simulator.set_status("acme", "quarantined")
        clock.now += 3600
        assert await filenames(mirror) == set()
        refused = await mirror.get(f"packages/acme/{WHEEL}")
        assert (refused.status, "quarantine" in refused.text) == (403, True)
        assert refusals[-1]["rule"] == "quarantined"
        report = await mirror.mirror.catalog.removed.report()
        assert {one.file.filename: one.file.why for one in report} == {WHEEL: "quarantine", SDIST: "quarantine"}


# Explain


async def test_explain_says_who_answers_and_what_becomes_of_each_file(
    simulator: Simulator, tmp_path: Path, clock: Clock
) -> None:
    publish(simulator)
    async with serving(tmp_path / "data", repositories(simulator), clock=clock, policy=[COOLDOWN]) as mirror:
        await mirror.get("packages/acme/acme-1.0.tar.gz")
        lines = (await mirror.get("-/explain/pypi/Acme")).text.splitlines()
        assert lines[0].startswith("acme in pypi: The first upstream that has it wins.")
        assert any(line.startswith("acme-1.0.tar.gz: ") and ", held" in line for line in lines)
        assert any("blocked until 2026-08-04T10:00:00Z by the rule 'cooldown'" in line for line in lines)
        reply = await mirror.get("-/explain/rubygems/acme/2.0", Accept="application/json")
        said = reply.json()
        assert {file["filename"] for file in said["files"]} == {"acme-2.0.gem", "acme-2.0-java.gem"}
        for file in said["files"]:
            assert (file["state"], file["rule"], file["held"]) == ("blocked", "cooldown", False)
            assert file["until"] == ago(2).timestamp() + 3 * DAY
            assert file["age"] == 2 * DAY
            assert file["source"] == simulator.url
        assert (await mirror.get("-/explain/pypi/unheard-of")).status == 404
        assert (await mirror.get("-/explain/nowhere/acme")).status == 404


async def test_the_page_for_people_says_who_answers_and_why_a_file_is_withheld(
    simulator: Simulator, tmp_path: Path, clock: Clock
) -> None:
    publish(simulator)
    async with serving(tmp_path / "data", repositories(simulator), clock=clock, policy=[COOLDOWN]) as mirror:
        page = (await mirror.get("-/projects/pypi/acme/?version=2.0", Accept="text/html")).text
        assert "The first upstream that has it wins." in page
        assert "By the rule “cooldown”: For a reason called cooldown. (until 2026-08-04T10:00:00Z)" in page


async def test_explain_tells_nobody_what_they_may_not_read(simulator: Simulator, tmp_path: Path) -> None:
    publish(simulator)
    closed = {"rules": [{"projects": ["acme"], "read": ["alice"]}]}
    async with serving(tmp_path / "data", repositories(simulator), auth=closed) as mirror:
        assert (await mirror.get("-/explain/pypi/acme")).status == 404
        assert simulator.count("GET", "/simple/acme/") == 0


async def command(data: Path, *words: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", *words, "--config", str(data.with_suffix(".toml")),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    return printed


async def test_the_commands_explain_and_report_with_a_server_and_without(simulator: Simulator, tmp_path: Path) -> None:
    for version in ("1.0", "2.0"):
        simulator.publish(sdist("acme", version))
        simulator.push(gem("acme", version))
    data = tmp_path / "data"
    no_two = rule("deny", versions="==2.0", repositories=["pypi"])
    async with spawned(data, repositories(simulator), policy=[no_two], pages={"fresh": 0}) as mirror:
        assert (await mirror.get("packages/acme/acme-1.0.tar.gz")).status == 200
        simulator.remove("acme", "acme-1.0.tar.gz")
        await mirror.get("simple/acme/", Cache_Control="no-cache")
        assert (await mirror.get("packages/acme/acme-1.0.tar.gz")).status == 200
        said = await command(data, "explain", "acme==2.0", "--url", mirror.url)
        assert "blocked by the rule 'deny': For a reason called deny." in said
        assert "in rubygems" not in said
        both = await command(data, "explain", "acme", "2.0", "--url", mirror.url)
        assert both.count("acme in ") == 2
        report = await command(data, "report", "removed")
        assert "acme-1.0.tar.gz: upstream no longer lists it" in report
        assert "by anonymous from 127.0.0.1, once" in report
        assert await mirror.end() == 0
    simulator.forget()
    said = await command(data, "explain", "acme", "1.0")
    assert "acme-1.0.tar.gz: " in said
    assert ", held, removed upstream" in said
    assert "hidden by the rule 'removed'" in said
    assert simulator.requests == []


async def test_a_rule_that_names_a_gem_is_in_the_log_before_anybody_asks(
    simulator: Simulator, tmp_path: Path, clock: Clock
) -> None:
    publish(simulator)
    upstreams = repositories(simulator)
    async with serving(tmp_path / "data", upstreams, clock=clock) as mirror:
        await mirror.get("versions")
        assert await listed(mirror) == {"1.0", "2.0", "2.0-java"}
    bad = rule("deny", projects=["acme"], versions="2.0", repositories=["rubygems"])
    async with serving(tmp_path / "data", upstreams, clock=clock, policy=[bad]) as mirror:
        async with asyncio.timeout(20):
            while await listed(mirror) != {"1.0"}:
                continue


async def test_an_exemption_that_ends_takes_a_version_away_again(
    simulator: Simulator, tmp_path: Path, clock: Clock
) -> None:
    publish(simulator)
    until = START + timedelta(hours=1)
    exempt = [{"projects": ["acme"], "versions": "== 2.0", "until": until}]
    bad = rule("deny", versions=">= 2", exempt=[{**exempt[0], "versions": "= 2.0"}], repositories=["rubygems"])
    worse = rule("deny", versions=">= 2", exempt=exempt, repositories=["pypi"]) | {"name": "python"}
    async with serving(tmp_path / "data", repositories(simulator), clock=clock, policy=[bad, worse]) as mirror:
        await mirror.get("versions")
        assert await numbers(mirror) == ["1.0", "2.0", "2.0-java"]
        assert await filenames(mirror) == OLD | NEW
        assert (await mirror.get(f"packages/acme/{SDIST}")).status == 200
        clock.now += 3600
        assert await listed(mirror) == {"1.0"}
        assert await numbers(mirror) == ["1.0"]
        assert await filenames(mirror) == OLD
        assert (await mirror.get(f"packages/acme/{SDIST}")).status == 403  # though we hold it


async def test_provenance_of_a_blocked_file_is_refused(simulator: Simulator, tmp_path: Path, clock: Clock) -> None:
    simulator.publish(wheel("acme", "2.0"), uploaded=ago(2), provenance=True)
    simulator.publish(wheel("acme", "1.0"), uploaded=ago(10), provenance=True)
    async with serving(tmp_path / "data", repositories(simulator), clock=clock, policy=[COOLDOWN]) as mirror:
        for version, status in (("1.0", 200), ("2.0", 403)):
            url = f"integrity/acme/{version}/acme-{version}-py3-none-any.whl/provenance"
            assert (await mirror.get(url)).status == status


async def test_a_mirror_does_not_start_without_the_records_that_it_is_to_obey(
    simulator: Simulator, tmp_path: Path
) -> None:
    bad = rule("known-bad", folder=str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="nowhere"):
        async with serving(tmp_path / "data", repositories(simulator), policy=[bad]):
            pass


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('kind = "deny"\nversions = "=>2"\n', ":2: policy[0]: Policy rule 'r', in repository 'pypi': "),
        (
            'kind = "deny"\nversions = ">=2"\nage = "3 days"\n',
            ":2: policy[0]: has `age`, which a rule of the kind deny does not have",
        ),
        ('kind = "cooldown"\n', ":2: policy[0]: has no `age`, which a rule of the kind cooldown needs"),
        ('kind = "cooldown"\nage = "3 dyas"\n', ":6: policy[0].age: should be a duration"),
        ('kind = "deny"\nrepositories = ["nowhere"]\n', "'nowhere' fits none of the repositories"),
    ],
)
def test_a_rule_that_is_none_is_reported_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    file = tmp_path / "mirror.toml"
    file.write_text(f'data_dir = "{tmp_path}"\n[[policy]]\nname = "r"\nreason = "Because."\n{text}')
    assert main(["check-config", str(file)]) == 2
    assert said in capsys.readouterr().err
