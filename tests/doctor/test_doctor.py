"""`mirror doctor`: it finds nothing wrong with a mirror that is right, and of an index that is not, exactly what is."""

import asyncio
import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from multidict import CIMultiDict
from yarl import URL

import mirror.pypi.doctor
import mirror.rubygems.doctor
from mirror.cli import main
from mirror.config import Settings
from mirror.doctor import ExamineOptions, Finding, IndexClient, machine, open_session
from mirror.upstream import Outgoing
from tests.builders import gem, wheel
from tests.serving import repositories, serving, spawned
from tests.simulator import (
    Body,
    Corrupt,
    Cut,
    EmptyPartial,
    Fault,
    GzipDespiteRange,
    Headers,
    IgnoreRange,
    RangeNotSatisfiable,
    RotateEtag,
    SimulatedResponse,
    Simulator,
    Status,
    WrongOverlap,
    no_digest,
    wrong_content_type,
)
from tests.uploading import make_token

WHEEL = wheel("Six-x", "1.16")
GEM = gem("rack", "3.0")
PUBLIC = {"rubygems/self-heal", "rubygems/file-cache-control"}
"""What the public gem index, and so the simulator, does not do."""


def fill(simulator: Simulator) -> None:
    for version in (f"1.{number}" for number in range(4, 16)):
        simulator.publish(wheel("Six-x", version, size=200))
    simulator.publish(wheel("other", "1"))
    simulator.publish(WHEEL)
    simulator.push(gem("rack", "2.0"))
    simulator.push(GEM)
    simulator.push(gem("rake", "13.0", platform="java"))


async def examine(form: str, url: str, options: ExamineOptions | None = None) -> list[Finding]:
    examined = mirror.pypi.doctor.examine if form == "pypi" else mirror.rubygems.doctor.examine
    async with open_session(Outgoing(URL(url))) as session:
        found = await examined(IndexClient(session), URL(url), options or ExamineOptions())
    assert found is not None
    return found


def failing(found: list[Finding]) -> set[str]:
    return {one.name for one in found if one.verdict == "fails"}


class Edited(Fault):
    """A page with other content."""

    def __init__(self, edit: Callable[[dict[str, Any]], object]) -> None:
        self.edit = edit

    def spoil(self, answer: SimulatedResponse) -> None:
        body = bytes(answer.body)
        packed = answer.headers.get("Content-Encoding") == "gzip"
        document = gzip.decompress(body) if packed else body
        if answer.status == 200 and document.startswith(b"{"):
            page = json.loads(document)
            self.edit(page)
            document = json.dumps(page).encode()
            answer.body = gzip.compress(document) if packed else document


class BeyondEnd(Fault):
    """An empty 206 for a range from behind the end."""

    def hide(self, headers: CIMultiDict[str]) -> None:
        self.ranged = "Range" in headers and "If-None-Match" not in headers

    def spoil(self, answer: SimulatedResponse) -> None:
        if self.ranged and answer.status == 200:
            EmptyPartial().spoil(answer)


Spoil = Callable[[Simulator], object]


def mode(**changes: Any) -> Spoil:
    return lambda simulator: simulator.pypi.configure(**changes)


def gem_mode(**changes: Any) -> Spoil:
    return lambda simulator: simulator.rubygems.configure(**changes)


def fault(pattern: str, wrong: Fault, method: str | None = None) -> Spoil:
    return lambda simulator: simulator.inject(pattern, wrong, method=method)


def listed(**changes: Any) -> Spoil:
    """The one file of the project, with a wrong digest or size."""
    return lambda simulator: simulator.publish(WHEEL, **changes)


PAGE = "/simple/six-x/"
FILE = "*.whl"


def take_back_but_serve(simulator: Simulator) -> None:
    line = type(simulator.rubygems.lines[0])
    simulator.rubygems.lines.append(line("rack", ("-2.0",), simulator.rubygems.md5("rack")))


PYPI: dict[str, tuple[Spoil, set[str]]] = {
    "nothing": (lambda simulator: None, set()),
    "HTML only": (mode(html_only=True), {"pypi/json", "pypi/serials"}),
    "no Accept but JSON": (mode(refuse_json=True), {"pypi/json", "pypi/serials"}),
    "no ETag": (mode(etag=False), {"pypi/etag"}),
    "an ETag that changes": (fault(PAGE, RotateEtag()), {"pypi/etag"}),
    "no hashes": (mode(hashes=()), {"pypi/digests"}),
    "MD5 alone": (mode(hashes=("md5",)), {"pypi/digests"}),
    "no sizes": (mode(sizes=False), {"pypi/api-version"}),
    "an honest 1.0": (mode(sizes=False, api_version="1.0"), set()),
    "no upload times": (mode(upload_times=False), {"pypi/upload-time"}),
    "no serials": (mode(serials=False), {"pypi/serials"}),
    "no JSON API": (mode(legacy_json=False), {"pypi/json-api"}),
    "no max-age": (mode(max_age=None), {"pypi/cache-control"}),
    "no Vary": (fault(PAGE, Headers({"Vary": None})), {"pypi/vary"}),
    "no type": (fault(PAGE, Headers({"Content-Type": ""})), {"pypi/content-type"}),
    "a wrong type": (fault(PAGE, wrong_content_type()), {"pypi/content-type"}),
    "an unknown project that is a page": (fault("/simple/no-*", Status(200)), {"pypi/unknown-project"}),
    "an unknown project that is an error": (fault("/simple/no-*", Status(500)), {"pypi/unknown-project"}),
    "a page that is not JSON": (fault(PAGE, Body(b"{no")), {"pypi/page"}),
    "a page that is an error": (fault(PAGE, Status(500)), {"pypi/page"}),
    "a page that is cut": (fault(PAGE, Cut(after=20)), {"pypi/page"}),
    "a query behind files": (
        fault(PAGE, Edited(lambda page: [file.update(url=file["url"] + "?t=1") for file in page["files"]])),
        {"pypi/file-urls", "pypi/metadata", "pypi/metadata-agrees"},
    ),
    "a file without the key hashes": (
        fault(PAGE, Edited(lambda page: page["files"][0].pop("hashes"))), {"pypi/hashes", "pypi/digests"}
    ),
    "no versions": (fault(PAGE, Edited(lambda page: page.pop("versions"))), {"pypi/api-version"}),
    "an unknown version": (mode(api_version="2.0"), {"pypi/page"}),
    "metadata under the old key": (
        fault(PAGE, Edited(lambda page: page["files"][0].update({"dist-info-metadata": {"sha256": "0" * 64}}))),
        {"pypi/metadata-key"},
    ),
    "other spellings that are not known": (fault("/simple/SIX_X/", Status(404)), {"pypi/normalised-name"}),
    "no page without the slash": (fault("/simple/six-x", Status(404)), {"pypi/slash"}),
    "no list without the slash": (fault("/simple", Status(404)), {"pypi/slash"}),
    "no ranges": (
        mode(ranges=False),
        {"pypi/file-accept-ranges", "pypi/file-range", "pypi/file-range-open", "pypi/file-range-suffix",
         "pypi/file-range-beyond", "pypi/file-if-range"},
    ),
    "ranges that are ignored": (
        fault(FILE, IgnoreRange()),
        {"pypi/file-range", "pypi/file-range-open", "pypi/file-range-suffix", "pypi/file-range-beyond",
         "pypi/file-if-range"},
    ),
    "ranges that are refused": (
        fault(FILE, RangeNotSatisfiable()),
        {"pypi/file-range", "pypi/file-range-open", "pypi/file-range-suffix", "pypi/file-if-range"},
    ),
    "ranges that begin wrongly": (
        fault(FILE, WrongOverlap()),
        {"pypi/file-range", "pypi/file-range-open", "pypi/file-range-suffix"},
    ),
    "no ETag on files": (mode(file_etag=False), {"pypi/file-etag", "pypi/file-if-range"}),
    "no HEAD of files": (mode(head=False), {"pypi/file-head"}),
    "a file that is damaged": (fault(FILE, Corrupt(offset=50)), {"pypi/file-digest"}),
    "a file that is cut": (fault(FILE, Cut(after=20)), {"pypi/answers"}),
    "a file that is another": (listed(digests={"sha256": "0" * 64}), {"pypi/file-digest"}),
    "a file that is gone": (fault(FILE, Status(404)), {"pypi/file-digest"}),
    "a file that may not be kept": (fault(FILE, Headers({"Cache-Control": "no-store"})), {"pypi/file-cache-control"}),
    "a file that is said to be packed": (fault(FILE, Headers({"Content-Encoding": "x"})), {"pypi/file-encoding"}),
    "metadata that is another": (listed(metadata=b"Metadata-Version: 2.1\nName: six-x\nVersion: 1.16\n"),
                                 {"pypi/metadata-agrees"}),
    "metadata that is missing": (fault("*.metadata", Status(404)), {"pypi/metadata"}),
    "metadata that is damaged": (fault("*.metadata", Corrupt()), {"pypi/metadata", "pypi/metadata-agrees"}),
}  # fmt: skip

INFO = "/info/rack"

RUBYGEMS: dict[str, tuple[Spoil, set[str]]] = {
    "nothing": (lambda simulator: None, set()),
    "no compact index": (gem_mode(legacy_only=True), {"rubygems/compact-index"}),
    "no ETag": (
        gem_mode(etag=False),
        {"rubygems/etag", "rubygems/if-none-match", "rubygems/304-over-range"}
        | {"rubygems/file-etag", "rubygems/file-if-range"},
    ),
    "an ETag that is no MD5": (
        fault(INFO, Headers({"ETag": '"abc"'})),
        {"rubygems/etag", "rubygems/if-none-match", "rubygems/304-over-range"},
    ),
    "no digest headers": (gem_mode(digest=None), {"rubygems/digests", "rubygems/range"}),
    "no digest headers on parts": (fault(INFO, no_digest()), {"rubygems/digests", "rubygems/range"}),
    "digests that only some can read": (gem_mode(digest="quoted"), {"rubygems/digests", "rubygems/range"}),
    "no ranges": (
        gem_mode(ranges=False),
        {"rubygems/accept-ranges", "rubygems/range", "rubygems/versions-range", "rubygems/file-accept-ranges"}
        | {"rubygems/file-range", "rubygems/file-range-open", "rubygems/file-range-suffix"}
        | {"rubygems/file-range-beyond", "rubygems/file-if-range"},
    ),
    "416": (gem_mode(refuse_ranges_past_end=True), {"rubygems/never-416", "rubygems/versions-never-416"}),
    "an empty 206": (fault(INFO, BeyondEnd()), {"rubygems/never-416"}),
    "a wrong overlap": (fault(INFO, WrongOverlap()), {"rubygems/range"}),
    "gzip in spite of Range": (fault(INFO, GzipDespiteRange()), {"rubygems/range-identity", "rubygems/range"}),
    "an MD5 that is another": (
        lambda simulator: simulator.rubygems.lines.append(
            type(simulator.rubygems.lines[0])("rack", ("3.0",), "0" * 31 + "1")
        ),
        {"rubygems/info-md5"},
    ),
    "an unknown gem that is an error": (fault("/info/no-*", Status(500)), {"rubygems/unknown-gem"}),
    "no HEAD": (fault("/", Status(405), "HEAD"), {"rubygems/head"}),
    "no HEAD of /versions": (fault("/versions", Status(500), "HEAD"), {"rubygems/head", "rubygems/etag"}),
    "no names": (fault("/names", Status(404)), {"rubygems/names"}),
    "no legacy index": (gem_mode(legacy_index=False), {"rubygems/specs"}),
    "a legacy index that is none": (fault("/specs.4.8.gz", Body(b"no")), {"rubygems/specs"}),
    "no gemspecs": (gem_mode(gemspecs=False), {"rubygems/gemspec"}),
    "a gemspec that is none": (fault("/quick/*", Body(b"no")), {"rubygems/gemspec"}),
    "a gem that is damaged": (fault("/gems/*", Corrupt()), {"rubygems/file-digest"}),
    "a listed gem without a page": (fault("/info/rake", Status(404)), {"rubygems/listed-page"}),
    "a yanked gem that can be loaded": (take_back_but_serve, {"rubygems/yanked"}),
    "a gem that is gone": (fault("/gems/*", Status(404)), {"rubygems/file-digest"}),
}


@pytest.mark.parametrize("name", PYPI)
async def test_the_faults_of_a_python_index_are_named(simulator: Simulator, name: str) -> None:
    fill(simulator)
    spoil, expected = PYPI[name]
    spoil(simulator)
    assert failing(await examine("pypi", simulator.url, ExamineOptions(project="Six.X"))) == expected


async def test_a_yanked_gem_that_is_gone_is_right(simulator: Simulator) -> None:
    fill(simulator)
    simulator.rubygems.yank("rack", "2.0")
    found = await examine("rubygems", simulator.url, ExamineOptions(project="rack"))
    assert {one.name for one in found if one.verdict == "ok"} > {"rubygems/yanked", "rubygems/listed-page"}


@pytest.mark.parametrize("name", RUBYGEMS)
async def test_the_faults_of_a_gem_index_are_named(simulator: Simulator, name: str) -> None:
    fill(simulator)
    spoil, expected = RUBYGEMS[name]
    spoil(simulator)
    found = failing(await examine("rubygems", simulator.url, ExamineOptions(project="rack")))
    assert found - PUBLIC == expected


async def test_what_an_index_does_not_have_cannot_be_checked_and_is_no_fault(simulator: Simulator) -> None:
    simulator.pypi.configure(metadata=False)
    fill(simulator)
    found = await examine("pypi", simulator.simple_url, ExamineOptions(project="six-x"))
    assert failing(found) == set()
    assert {one.name for one in found if one.verdict == "unknown"} == {"pypi/metadata"}
    found = await examine("rubygems", simulator.url, ExamineOptions(project="absent"))
    assert [(one.name, one.verdict, one.seen) for one in found] == [
        ("rubygems/page", "unknown", "There is no gem absent. Name another with --gem."),
        ("rubygems/answers", "ok", ""),
    ]


async def test_one_project_and_one_gem_stand_for_the_index(simulator: Simulator) -> None:
    for number in range(50):
        simulator.publish(wheel(f"project-{number}", "1"))
        simulator.push(gem(f"gem-{number}", "1"))
    await examine("pypi", simulator.url)
    await examine("rubygems", simulator.url)
    pages = {request.path for request in simulator.requests if request.path.lower().startswith("/simple/project-")}
    assert len({page.lower().strip("/").replace("_", "-") for page in pages}) <= 4
    assert len({request.path for request in simulator.requests if request.path.startswith("/info/gem-")}) <= 8
    assert len(simulator.requests) < 120
    simulator.forget()
    await examine("pypi", simulator.url, ExamineOptions(project="project-7"))
    assert simulator.count("GET", "/packages/*") == simulator.count("GET", "/packages/*project_7-1-*")


async def test_a_password_is_sent_to_its_own_host_only(
    simulator: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(simulator)
    simulator.require_login("someone", "s3cret")
    simulator.pypi.configure(files_elsewhere=True)
    url = simulator.url.replace("//", "//someone:s3cret@")
    report, text = await doctor(capsys, url, "--project", "six-x", status=1)
    assert names(report, "fails") == {"pypi/file-host", *PUBLIC}
    assert "s3cret" not in text
    sent = {request.port for request in simulator.requests if "Authorization" in request.headers}
    assert sent == {simulator.port}
    assert any(request.port == simulator.other_port for request in simulator.requests)


Report = dict[str, Any]


async def doctor(capsys: pytest.CaptureFixture[str], *words: str | Path, status: int = 0) -> tuple[Report, str]:
    """The report of `mirror doctor`, parsed and as it stands."""
    capsys.readouterr()
    ended = await asyncio.to_thread(main, ["doctor", "--json", *map(str, words)])
    said = capsys.readouterr()
    assert ended == status, said
    return json.loads(said.out), said.out


def names(report: Report, verdict: str) -> set[str]:
    return {one["name"] for part in report["sections"] for one in part["findings"] if one["verdict"] == verdict}


async def test_it_passes_against_a_mirror_with_uploads_and_again(
    simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(simulator)
    async with serving(tmp_path / "data", repositories(simulator)) as served:
        token = tmp_path / "token"
        token.write_text(await make_token(served) + "\n")
        before = simulator.count()
        words = (served.url, "--token-file", token, "--upload-project", "doctor-probe", "--project", "six-x")
        for _ in range(2):
            report, _ = await doctor(capsys, *words)
            assert names(report, "fails") == names(report, "unknown") == set()
            assert names(report, "ok") > {"pypi/upload-other", "rubygems/push-other", "rubygems/self-heal"}
            assert [part["about"].split()[0] for part in report["sections"]] == ["Python", "Ruby"]
        assert before < simulator.count() < 40, "a mirror that holds things asks for them once"
        for name in ("pypi", "rubygems"):
            left = (await served.mirror.repositories[name].project("doctor-probe")).project.files
            assert [file.version for file in left] == ["0.0.1"]


async def test_a_mirror_that_must_be_read_with_a_token_is_looked_at_with_it(
    simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(simulator)
    async with serving(tmp_path / "data", repositories(simulator), auth={"rules": [{"read": []}]}) as served:
        token = tmp_path / "token"
        token.write_text(await make_token(served, rights=["read"]))
        report, _ = await doctor(capsys, served.url, "--token-file", token, "--project", "six-x")
        assert names(report, "fails") == set()
        assert names(report, "ok") > {"pypi/metadata-agrees", "rubygems/self-heal"}
        report, text = await doctor(capsys, served.url, status=1)
        assert names(report, "fails") == {"index/serves"}
        assert "log in" in text


async def test_without_a_url_it_looks_at_this_mirror_and_its_machine(
    simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(simulator)
    async with spawned(tmp_path / "data", repositories(simulator)) as served:
        await served.get(f"/packages/six-x/{WHEEL.filename}")
        await served.get(f"/gems/{GEM.filename}")
        settings = (tmp_path / "data").with_suffix(".toml")
        report, _ = await doctor(capsys, "--config", settings)
        assert names(report, "fails") == names(report, "unknown") == set()
        assert names(report, "ok") >= {
            *("mirror/settings", "mirror/running", "mirror/ready", "mirror/data-dir", "mirror/one-file-system"),
            *("mirror/catalog", "mirror/clock", "mirror/upstream", "mirror/versions"),
            *("pypi/metadata-agrees", "rubygems/self-heal"),
        }
        assert not simulator.asked("GET", "/simple/other/"), "what is held is looked at"
        await simulator.go_down()
        report, _ = await doctor(capsys, "--config", settings, status=1)
        assert "mirror/upstream" in names(report, "fails")
    report, _ = await doctor(capsys, "--config", settings, status=1)
    assert names(report, "fails") == {"mirror/running", "mirror/upstream"}
    for beside in ("catalog.sqlite-wal", "catalog.sqlite-shm"):
        (tmp_path / "data" / beside).unlink(missing_ok=True)
    (tmp_path / "data" / "catalog.sqlite").write_bytes(b"SQLite format 3\0" + b"\xff" * 8192)
    report, _ = await doctor(capsys, "--config", settings, status=1)
    assert "mirror/catalog" in names(report, "fails")


async def test_settings_that_are_wrong_are_the_first_thing_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "mirror.toml"
    wrong.write_text("listen = 7\nofline = true\n")
    report, text = await doctor(capsys, "--config", wrong, status=1)
    assert names(report, "fails") == {"mirror/settings"}
    assert "ofline" in text


async def test_where_there_is_no_index_it_says_so(simulator: Simulator, capsys: pytest.CaptureFixture[str]) -> None:
    report, _ = await doctor(capsys, f"{simulator.url}absent/", status=1)
    assert names(report, "fails") == {"index/serves"}
    await simulator.go_down()
    report, text = await doctor(capsys, simulator.url, status=1)
    assert names(report, "fails") == {"index/serves"}
    assert "failed" in text


async def test_what_it_prints_names_the_fault_and_whom_it_hurts(
    simulator: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(simulator)
    simulator.inject("*.whl", Corrupt(offset=50))
    capsys.readouterr()
    assert await asyncio.to_thread(main, ["doctor", simulator.simple_url, "--project", "six-x"]) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "  fails  pypi/file-digest: A file has the digest" in said
    assert "      seen: sha256 is " in said
    assert "      hurts every installer: " in said
    assert said.endswith("1 fail, 0 cannot be checked\n")


async def test_uploading_takes_a_token_and_a_url_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(main, ["doctor", "http://localhost:1/", "--upload-project", "x"]) == 1
    assert "--token-file" in capsys.readouterr().err
    assert await asyncio.to_thread(main, ["doctor", "ftp://localhost/"]) == 1
    assert "begins with http" in capsys.readouterr().err
    empty = tmp_path / "token"
    empty.write_text("\n")
    assert await asyncio.to_thread(main, ["doctor", "http://localhost:1/", "--token-file", str(empty)]) == 1
    assert "holds no token" in capsys.readouterr().err


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"files": [{"filename": "six_x-1.16-py3-none-any.whl", "url": "http://[/six_x-1.16-py3-none-any.whl"}]}',
        b'{"files": [], "name": "six-x", "urls": [{"url": "http://[/"}], "info": {}}',
        b"<a " * 30_000,
        b"<a >" + b" " * 100_000,
        b"\x00" * 5000,
    ],
    ids=["deep", "no URL", "numbers", "unclosed", "blank", "zeros"],
)
async def test_an_index_that_answers_nonsense_everywhere_is_looked_at_in_peace(
    simulator: Simulator, capsys: pytest.CaptureFixture[str], body: bytes
) -> None:
    fill(simulator)
    simulator.pypi.configure(gzip=False)
    simulator.inject("*", Body(body), method="GET")
    await doctor(capsys, simulator.url, "--project", "six-x", "--gem", "rack", status=1)


async def test_an_index_cannot_make_the_report_say_more_than_it_means(
    simulator: Simulator, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(simulator)
    simulator.inject(PAGE, Headers({"Cache-Control": "\x1b[31m" + "x" * 5000}))
    found = await examine("pypi", simulator.url, ExamineOptions(project="six-x"))
    (seen,) = [one.seen for one in found if one.name == "pypi/cache-control"] or [""]
    assert "\x1b" not in seen
    assert len(seen) < 400


# --- the machine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disk", "limit", "expected"),
    [
        (machine.Disk(free=10 << 30, total=20 << 30), None, set()),
        (machine.Disk(free=1 << 20, total=20 << 30), None, {"mirror/space"}),
        (machine.Disk(free=10 << 30, total=20 << 30), 15 << 30, {"mirror/limit"}),
        (machine.Disk(free=10 << 30, total=20 << 30, held=6 << 30), 15 << 30, set()),
        (machine.Disk(free=10 << 30, total=20 << 30, inodes=10**6, inodes_free=9), None, {"mirror/inodes"}),
    ],
)
def test_what_is_short_on_the_disk_is_named(disk: machine.Disk, limit: int | None, expected: set[str]) -> None:
    assert failing(machine.check_space(disk, limit)) == expected


def test_a_wrong_clock_is_ours_when_most_upstreams_say_so() -> None:
    assert failing(machine.check_clock(1000, {"one": 1, "other": -3}, 900)) == set()
    assert failing(machine.check_clock(1000, {"one": 4000, "other": 4001, "third": 0}, None)) == {"mirror/clock"}
    assert failing(machine.check_clock(1000, {"one": 4000, "other": 0}, None)) == set()
    assert failing(machine.check_clock(1000, {}, 5000)) == {"mirror/clock-back"}


def test_a_certificate_that_ends_soon_or_has_another_key_is_named(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority, other = trustme.CA(), trustme.CA()
    issued = authority.issue_cert("localhost", not_after=now + timedelta(days=30))
    (tmp_path / "cert.pem").write_bytes(issued.cert_chain_pems[0].bytes())
    (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (tmp_path / "other.pem").write_bytes(other.issue_cert("localhost").private_key_pem.bytes())

    def found(key: str, at: datetime) -> set[str]:
        tls = {"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / key)}
        return failing(machine.check_certificate(Settings.model_validate({"tls": tls}), at))

    assert found("key.pem", now) == set()
    assert found("key.pem", now + timedelta(days=20)) == {"mirror/certificate"}
    assert found("other.pem", now) == {"mirror/certificate"}


def test_an_upstream_that_refuses_or_fails_is_named() -> None:
    assert failing([machine.check_upstreams({"a": "", "b": ""}, False)]) == set()
    assert failing([machine.check_upstreams({"a": "", "b": "it answers 503"}, False)]) == {"mirror/upstream"}
    assert machine.check_upstreams({}, True).verdict == "unknown"


def test_a_data_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = Settings.model_validate({"data_dir": str(tmp_path / "absent")})
    assert failing(machine.check_storage(settings)) == {"mirror/data-dir"}
