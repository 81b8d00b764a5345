"""`mirror token` and `mirror user`: what they print, keep and change, also beside a running mirror."""

import base64
import io
import json
import logging
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirror.auth.passwords import hash_password, verify_password
from mirror.cli import main
from mirror.config import load
from tests.builders import wheel
from tests.serving import Serving, repositories, serving, write_settings
from tests.simulator import Simulator

SECRET = re.compile(r"mirror_[0-9a-f]{64}")


class Command:
    """Runs commands on one data directory, as `main` does, and keeps their output."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self.out = self.err = ""

    def __call__(self, *words: str, typed: str = "") -> int:
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        self._capsys.readouterr()
        status = main([*words, "--data-dir", str(self.directory)])
        self.out, self.err = self._capsys.readouterr()
        return status

    def listed(self, kind: str) -> list[dict[str, Any]]:
        assert self(kind, "list", "--json") == 0
        entries: list[dict[str, Any]] = json.loads(self.out)
        return entries


@pytest.fixture(autouse=True)
def nothing_of_the_process_changes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings from outside, and the log that commands set up goes with the test."""
    for name in os.environ:
        if name.startswith("MIRROR_"):
            monkeypatch.delenv(name)
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raising


@pytest.fixture
def mirror(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    return Command(tmp_path / "data", capsys, monkeypatch)


def test_a_token_is_shown_once_and_kept_as_its_digest(mirror: Command) -> None:
    assert mirror("token", "create", "--name", "ci", "--project", "acme-*", "--right", "upload", "--right", "yank",
                  "--repository", "pypi", "--expires", "90d") == 0  # fmt: skip
    secret = mirror.out.strip()
    assert SECRET.fullmatch(secret), "alone on standard output"
    assert secret not in mirror.err
    (entry,) = mirror.listed("token")
    assert entry["grants"] == [{"rights": ["upload", "yank"], "repositories": ["pypi"], "projects": ["acme-*"]}]
    assert entry["expires"] - entry["created"] == pytest.approx(90 * 86400)
    kept = b"".join(path.read_bytes() for path in mirror.directory.iterdir())
    assert b"ci" in kept
    assert secret.encode() not in kept
    assert secret.removeprefix("mirror_").encode() not in kept
    assert mirror("token", "list") == 0
    assert "upload, yank on acme-* in pypi" in mirror.out


def test_every_change_leaves_an_audit_line(mirror: Command) -> None:
    changes = [
        (("token", "create", "--name", "ci"), "token", "create"),
        (("token", "revoke", "ci"), "token", "revoke"),
        (("user", "add", "rita"), "user", "add"),
        (("user", "passwd", "rita"), "user", "passwd"),
        (("user", "change", "rita", "--group", "team"), "user", "change"),
        (("user", "remove", "rita"), "user", "remove"),
    ]
    for words, what, action in changes:
        assert mirror(*words, typed="a long password\n") == 0
        line = next(json.loads(line) for line in mirror.err.splitlines() if "mirror.audit" in line)
        assert (line["what"], line["action"]) == (what, action)
        assert "(command line)" in line["who"]
        assert "long password" not in mirror.err


@pytest.mark.parametrize(
    ("words", "rights", "said"),
    [
        ([], ["read"], "--project '*'"),
        (["--project", "*"], ["read", "upload"], ""),
        (["--project", "acme-*"], ["read", "upload"], ""),
        (["--right", "upload"], ["upload"], "every project"),
        (["--right", "read"], ["read"], ""),
    ],
)
def test_a_token_uploads_every_project_only_where_that_was_said(
    mirror: Command, words: list[str], rights: list[str], said: str
) -> None:
    assert mirror("token", "create", "--name", "ci", *words) == 0
    assert said in mirror.err
    assert bool(said) == ("--project" in mirror.err)
    (token,) = mirror.listed("token")
    assert sorted(token["grants"][0]["rights"]) == rights


def test_a_revoked_token_is_gone_and_an_unknown_one_is_a_failure(mirror: Command) -> None:
    mirror("token", "create", "--name", "ci")
    secret = mirror.out.strip()
    assert mirror("token", "revoke", secret) == 1
    assert secret not in mirror.err, "a secret that was given by mistake is not repeated"
    assert mirror("token", "revoke", "ci", "none") == 1
    assert "'none'" in mirror.err
    assert mirror.listed("token") == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["token", "create", "--repository", "pipy"], "pypi"),
        (["token", "create", "--project", "a b"], "pattern"),
        (["token", "create", "--expires", "soon"], "--expires"),
        (["token", "create", "--name", "a/b"], "name"),
        (["token", "create", "--user", "nobody"], "mirror user add nobody"),
        (["user", "add", "everyone"], "meaning"),
        (["user", "add", "@team"], "name"),
        (["user", "add", "rita", "--project", "x"], "--right"),
        (["user", "passwd", "nobody"], "no user"),
        (["user", "change", "nobody", "--no-rights"], "no user"),
    ],
)
def test_what_cannot_be_is_one_sentence(mirror: Command, words: list[str], message: str) -> None:
    assert mirror(*words, typed="a long password\n") == 1
    assert message in mirror.err
    assert mirror.out == ""
    assert mirror.listed("token") == mirror.listed("user") == []


def test_a_name_is_given_once(mirror: Command) -> None:
    for words in (["token", "create", "--name", "ci"], ["user", "add", "rita"]):
        assert mirror(*words, typed="a long password\n") == 0
        assert mirror(*words, typed="a long password\n") == 1
        assert "already" in mirror.err


@pytest.mark.parametrize("typed", ["", "\n", "short\n", "x" * 2000 + "\n"])
def test_a_password_that_is_none_adds_no_one(mirror: Command, typed: str) -> None:
    assert mirror("user", "add", "rita", typed=typed) == 1
    assert "8 to 1000 characters" in mirror.err
    assert mirror.listed("user") == []


def test_a_change_replaces_what_it_names_and_leaves_the_rest(mirror: Command) -> None:
    mirror("user", "add", "rita", "--group", "a", "--group", "b", "--right", "upload", typed="a long password\n")
    before = {"name": "rita", "groups": ["a", "b"], "kept_in": "catalog"}
    given = [{"rights": ["upload"], "repositories": ["*"], "projects": ["*"]}]
    (user,) = mirror.listed("user")
    assert user == before | {"grants": given, "created": user["created"]}
    mirror("user", "change", "rita", "--group", "c")
    (user,) = mirror.listed("user")
    assert (user["groups"], user["grants"]) == (["c"], given)
    mirror("user", "change", "rita", "--no-groups", "--no-rights")
    (user,) = mirror.listed("user")
    assert (user["groups"], user["grants"]) == ([], [])


def test_removing_a_user_removes_their_tokens(mirror: Command) -> None:
    mirror("user", "add", "rita", typed="a long password\n")
    mirror("token", "create", "--user", "rita")
    mirror("token", "create", "--name", "ci")
    assert mirror("user", "remove", "rita") == 0
    assert [token["name"] for token in mirror.listed("token")] == ["ci"]


@pytest.mark.parametrize(
    ("kind", "verb", "unknown"),
    [
        ("user", "remove", "There is no user 'none'."),
        ("token", "revoke", "'none' is no token: `mirror token list` lists them."),
    ],
)
def test_each_name_that_cannot_be_removed_is_reported_with_the_reason(
    mirror: Command, tmp_path: Path, kind: str, verb: str, unknown: str
) -> None:
    file = tmp_path / "mirror.toml"
    users = f"[auth.users.fixed]\npassword_hash = '{hash_password('a long password')}'\n"
    file.write_text(users if kind == "user" else f"[auth.tokens.fixed]\nsha256 = '{'0' * 64}'\n")
    mirror("user", "add", "kept", typed="a long password\n")
    mirror("token", "create", "--name", "kept")
    assert mirror(kind, verb, "kept", "fixed", "none", "--config", str(file)) == 1
    assert [line for line in mirror.err.splitlines() if line.startswith("mirror: ")] == [
        "mirror: fixed stands in the configuration file: remove it there.",
        f"mirror: {unknown}",
    ]
    assert mirror.listed(kind) == [], "the others are removed all the same"


def test_what_is_printed_for_the_file_is_right_in_the_file(
    mirror: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror("token", "create", "--for-file", "--name", "ci", "--project", "acme-*", "--expires", "1h")
    table = mirror.err[: mirror.err.index("Token ci")]
    assert not (mirror.directory / "catalog.sqlite").exists(), "nothing is kept"
    monkeypatch.setattr(sys, "stdin", io.StringIO("a long password\n"))
    assert main(["user", "hash"]) == 0
    table += f'[auth.users.rita]\npassword_hash = "{capsys.readouterr().out.strip()}"\n'
    tomllib.loads(table)
    file = tmp_path / "mirror.toml"
    file.write_text(table)
    auth = load(file).auth
    assert auth.tokens["ci"].projects == ("acme-*",)
    assert verify_password("a long password", auth.users["rita"].password_hash.get_secret_value())
    assert "argon2" not in repr(auth), "a hash is not shown either"
    assert main(["token", "revoke", "ci", "--config", str(file), "--data-dir", str(mirror.directory)]) == 1
    assert "remove it there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[auth.users.rita]\npassword_hash = "in the clear"\n', "mirror user hash"),
        ("[auth.users.everyone]\npassword_hash = '$argon2id$'\n", "everyone"),
        ("[[auth.rules]]\nprojects = ['x']\n", "should name who"),
        ("[[auth.rules]]\nrepositories = ['pipy']\nread = []\n", "pipy"),
        ("[[auth.rules]]\nreads = []\n", "did you mean read"),
        ("[auth.tokens.ci]\nsha256 = 'x'\n", "sha256"),
        ("[auth.tokens.ci]\nsha_256 = 'x'\n", "did you mean sha256"),
    ],
)
def test_a_fault_in_the_file_has_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    file = tmp_path / "mirror.toml"
    file.write_text(text)
    assert main(["check-config", str(file)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "in the clear" not in err


async def test_a_running_mirror_notices_what_commands_change(simulator: Simulator, tmp_path: Path) -> None:
    simulator.pypi.publish(wheel("six", "1.0"))
    data = tmp_path / "data"
    rules = {"rules": [{"repositories": ["pypi"], "read": ["authenticated"]}]}
    file = write_settings(data, repositories(simulator))

    def run(*words: str, typed: str = "") -> str:
        # A process of its own, as on the machine of the one who does it.
        done = subprocess.run(
            [sys.executable, "-m", "mirror", *words, "--config", str(file)],
            input=typed, capture_output=True, text=True, timeout=60, check=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        return done.stdout.strip()

    async with serving(data, repositories(simulator), auth=rules) as mirror:
        clock = [0.0]
        mirror.mirror.guard._clock = lambda: clock[0]

        async def status(shown: str) -> int:
            clock[0] += 2.0
            return (await mirror.get("/simple/six/", Authorization=shown)).status

        token = run("token", "create", "--name", "ci")
        run("user", "add", "rita", typed="a long password\n")
        rita = "Basic " + base64.b64encode(b"rita:a long password").decode()
        assert (await status(token), await status(rita)) == (200, 200)
        run("token", "revoke", "ci")
        run("user", "passwd", "rita", typed="another password\n")
        assert (await status(token), await status(rita)) == (401, 401)
        assert_no_secret(mirror, token)


def assert_no_secret(mirror: Serving, secret: str) -> None:
    for path in mirror.mirror.settings.data_dir.glob("catalog.sqlite*"):
        assert secret.encode() not in path.read_bytes()
