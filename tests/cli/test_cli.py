"""The commands, run as a user runs them: output, standard error and exit status."""

import asyncio
import json
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.request import urlopen

import click
import pytest

from mirror import __version__
from mirror.catalog import Catalog, HeldFile
from mirror.catalog.sqlite import SQLite
from mirror.cli import COMMANDS, group, main
from mirror.cli.serve import client_hints
from mirror.config import load

STATUS = {
    "running": True,
    "projects": 3,
    "files": 1234,
    "bytes": 5_000_000,
    "hits": {"hit": 3, "miss": 1, "stale": 0},
    "bytes_served": 2000,
    "bytes_saved": 1500,
    "upstreams": [{"name": "index.example", "state": "down", "last_error": "connection refused"}],
}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from outside; data below a directory of this test; no mirror of this machine is asked."""
    for name in os.environ:
        if name.startswith("MIRROR_") or name in {"STATE_DIRECTORY", "XDG_DATA_HOME", "NO_COLOR"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MIRROR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MIRROR_LISTEN", "127.0.0.1:0")


class Answers(BaseHTTPRequestHandler):
    """A mirror as far as `status` can see."""

    content = json.dumps(STATUS).encode()

    def do_GET(self) -> None:
        found = self.path == "/-/status"
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(self.content if found else b"")

    def address_string(self) -> str:
        return "a Unix socket has no address"

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def answering(server: socketserver.BaseServer) -> Iterator[socketserver.BaseServer]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def port() -> Iterator[int]:
    for server in answering(socketserver.TCPServer(("127.0.0.1", 0), Answers)):
        yield server.server_address[1]  # type: ignore[misc]


def python(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | variables
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, env=environment)


def test_the_help_is_light_and_names_every_command() -> None:
    code = "import sys; from mirror.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    result = python("-c", code)
    assert all(re.search(rf"^  {name} ", result.stdout, re.MULTILINE) for name in COMMANDS)
    imported = set(result.stderr.split())
    assert {"aiohttp", "pydantic", "rich", "asyncio"} & imported == set()
    assert not [name for name in imported if name.startswith("mirror.cli.")], "no command is needed to name them all"


SLOW_IMPORTS = {"aiohttp", "sqlite3", "prometheus_client", "jinja2", "cryptography", "pydantic", "rich.console"}


@pytest.mark.parametrize("module", sorted({entry.module for entry in COMMANDS.values()}))
def test_the_help_of_every_command_is_light(module: str) -> None:
    names = [name for name, entry in COMMANDS.items() if entry.module == module]
    code = "import sys; from mirror.cli import main; [main([name, '--help']) for name in sys.argv[1:]]"
    result = python("-c", f"{code}; print(*sys.modules, file=sys.stderr)", *names)
    assert all(f"Usage: mirror {name} " in result.stdout for name in names)
    imported = set(result.stderr.split())
    assert imported & SLOW_IMPORTS == set()
    assert not [name for name in imported if name.startswith(("mirror.service", "mirror.config"))]


def test_the_table_names_every_command_with_the_module_that_has_it() -> None:
    for name, entry in COMMANDS.items():
        command = group.get_command(click.Context(group), name)
        assert command is not None
        assert command.name == name
        assert command.callback is not None
        assert command.callback.__module__ == f"mirror.cli.{entry.module}"
        assert entry.help.endswith(".")


def test_a_shell_completes_commands_without_importing_them() -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); from mirror.cli import main"
    )
    result = python("-c", f"{code}; main([])", _MIRROR_COMPLETE="bash_complete", COMP_WORDS="mirror un", COMP_CWORD="1")
    assert result.stdout == "plain,unyank\n"
    assert "mirror.cli.uploads" not in result.stderr.split()


def test_settings_are_read_without_the_server_or_the_terminal_library() -> None:
    code = "import sys; from mirror.cli import main; main(['check-config']); print(*sys.modules, file=sys.stderr)"
    assert {"aiohttp", "rich", "sqlite3"} & set(python("-c", code).stderr.split()) == set()


def test_an_ecosystem_is_imported_without_settings_or_an_http_client() -> None:
    code = "import sys; import mirror.pypi, mirror.rubygems; print(*sys.modules)"
    assert {"aiohttp", "pydantic", "packaging.metadata", "yaml"} & set(python("-c", code).stdout.split()) == set()


def test_the_status_of_a_stopped_mirror_is_read_without_the_server() -> None:
    assert main(["token", "list"]) == 0  # makes a catalog
    code = "import sys; from mirror.cli import main; main(['status']); print(*sys.modules, file=sys.stderr)"
    result = python("-c", code)
    assert "state: not running" in result.stdout
    assert {"aiohttp", "prometheus_client"} & set(result.stderr.split()) == set()


def test_the_module_is_the_command() -> None:
    result = python("-m", "mirror", "--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"mirror {__version__}\n", "")


def test_wrong_usage_is_exit_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serf"]) == 2
    assert "No such command 'serf'" in capsys.readouterr().err
    assert main(["serve", "--colour"]) == 2


def test_a_right_configuration_is_said_to_be_right(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "mirror.toml"
    file.write_text('[repositories.team]\nformat = "pypi"\nupstreams = ["https://u:hunter2@index.example/simple/"]\n')
    assert main(["check-config", str(file)]) == 0
    output = capsys.readouterr()
    assert output.out == f"{file}: right\n  team: pypi at /team, from index.example\n"
    assert output.err == ""
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", ["check-config", "serve"])
def test_a_wrong_configuration_is_one_line_and_exit_status_2(command: str, tmp_path: Path) -> None:
    file = tmp_path / "mirror.toml"
    file.write_text("[pages]\nfrsh = 3\n")
    option = ["--config"] if command == "serve" else []
    result = python("-m", "mirror", command, *option, str(file))
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == f"mirror: {file}:2: pages.frsh: is not a setting (did you mean fresh?)\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--listen", "nowhere"], 'command line: listen[0]: should be "host:port", "[::1]:port" or "unix:/path"'),
        (["--config", "none.toml"], "none.toml: cannot be read: No such file or directory"),
        (
            ["--data-dir", "/dev/null/below"],
            "command line: data_dir: /dev/null/below cannot be used: /dev/null is not a directory",
        ),
    ],
)
def test_serve_refuses_what_it_cannot_use(capsys: pytest.CaptureFixture[str], words: list[str], expected: str) -> None:
    assert main(["serve", *words]) == 2
    assert capsys.readouterr().err == f"mirror: {expected}\n"


def test_a_port_that_is_taken_is_one_line(port: int) -> None:
    result = python("-m", "mirror", "serve", "--listen", f"127.0.0.1:{port}")
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert f"127.0.0.1:{port}" in line


def test_serve_says_where_it_is_answers_status_and_stops_on_sigterm(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mirror", "serve", "--listen", "127.0.0.1:0", "--data-dir", str(tmp_path / "here")]
    with subprocess.Popen([*words, "--offline"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        shown = ""
        while (line := process.stderr.readline()) and "bundle config" not in line:
            shown += line
        found = re.search(r"The mirror is ready: (http://127\.0\.0\.1:\d+)", shown)
        try:
            assert found, shown
            assert f"pip install --index-url {found[1]}/simple/ NAME" in shown
            with urlopen(f"{found[1]}/health") as answer:
                assert answer.status == 200
            asked = python("-m", "mirror", "status", "--json", "--url", found[1])
            assert asked.returncode == 0, asked.stderr
            assert json.loads(asked.stdout)["files"] == 0
        finally:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert (tmp_path / "here").is_dir()


def test_status_asks_the_running_mirror(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    monkeypatch.setenv("MIRROR_LISTEN", f"127.0.0.1:{port}")
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == STATUS
    assert main(["status"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "projects: 3",
        "files: 1,234",
        "bytes held: 5.0 MB",
        "bytes served: 2.0 kB",
        "bytes saved: 1.5 kB",
        "hit: 3 (75%)",
        "miss: 1 (25%)",
        "upstream index.example: down: connection refused",
    ]


def test_status_asks_through_a_unix_socket(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    monkeypatch.setenv("MIRROR_LISTEN", f"unix:{path}")
    for _ in answering(socketserver.UnixStreamServer(str(path), Answers)):
        assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


def test_status_reads_the_catalog_when_no_mirror_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 0
    assert not (tmp_path / "data").exists(), "asking makes nothing"

    async def hold() -> None:
        database = SQLite(load().catalog_file)
        await database.open()
        catalog = Catalog(database)
        await catalog.files.add(HeldFile(source="s", project="six", filename="six.whl", digest="0" * 64, size=42))
        await catalog.counters.add({"requests.hit": 7})
        await catalog.close()

    (tmp_path / "data").mkdir()
    asyncio.run(hold())
    assert main(["status", "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert (status["running"], status["files"], status["bytes"], status["hits"]["hit"]) == (False, 1, 42, 7)
    assert main(["status"]) == 0
    assert "state: not running, read from the catalog" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [b"", b"[]", b"not json", b'{"files": "many"}'])
def test_what_is_no_mirror_is_not_believed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, port: int, answer: bytes
) -> None:
    monkeypatch.setattr(Answers, "content", answer)
    assert main(["status", "--url", f"http://127.0.0.1:{port}"]) == 1
    assert capsys.readouterr().err == f"mirror: No mirror answers at http://127.0.0.1:{port}.\n"


def test_status_of_a_url_where_nothing_listens_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert main(["status", "--url", f"http://127.0.0.1:{port}/"]) == 1
    assert main(["status", "--url", "ftp://127.0.0.1"]) == 1
    assert "begins with http:// or https://" in capsys.readouterr().err


def test_colours_are_for_terminals_only(port: int) -> None:
    result = python("-m", "mirror", "status", "--url", f"http://127.0.0.1:{port}")
    failed = python("-m", "mirror", "serve", "--listen", "nowhere")
    assert "\x1b" not in result.stdout + failed.stderr


def test_a_terminal_gets_a_table(port: int) -> None:
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    words = [sys.executable, "-m", "mirror", "status", "--url", f"http://127.0.0.1:{port}"]
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80"}
    subprocess.run(words, stdout=follower, stderr=follower, env=environment, timeout=60, check=True)
    os.close(follower)
    shown = os.read(leader, 65536).decode()
    os.close(leader)
    assert "\x1b[" in shown
    assert "index.example" in shown


def test_hints_name_every_repository_for_its_clients(tmp_path: Path) -> None:
    file = tmp_path / "mirror.toml"
    file.write_text(
        '[repositories.team]\nformat = "pypi"\n[repositories.rubygems]\nformat = "rubygems"\n'
        'upstreams = ["https://u:hunter2@gems.example/"]\n'
    )
    lines = client_hints(load(file), ["http://127.0.0.1:8484", "http+unix://%2Frun%2Fmirror"])
    assert "  pip install --index-url http://127.0.0.1:8484/team/simple/ NAME\n" in lines
    assert "  export UV_DEFAULT_INDEX=http://127.0.0.1:8484/team/simple/\n" in lines
    assert "  gem install --clear-sources --source http://127.0.0.1:8484/ NAME\n" in lines
    assert lines.endswith("  bundle config set --global mirror.https://gems.example/ http://127.0.0.1:8484/")
    assert "hunter2" not in lines


def test_hints_for_other_machines_name_this_one_and_trust_it() -> None:
    lines = client_hints(load(), ["http://0.0.0.0:8484"])
    host = socket.gethostname()
    assert f"--index-url http://{host}:8484/simple/ --trusted-host {host} NAME" in lines
