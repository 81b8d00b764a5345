"""Settings: what is accepted, where it comes from, and what a fault looks like."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from mirror.config import Address, Settings, load
from mirror.config.loading import line_of
from mirror.config.values import address, mount, seconds, size
from mirror.errors import ConfigError


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the machine that runs the tests shows through, and HOME is empty."""
    import os

    for name in os.environ:
        if name.startswith("MIRROR_") or name in {"STATE_DIRECTORY", "XDG_DATA_HOME", "CREDENTIALS_DIRECTORY"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mirror.toml"
    path.write_text(text)
    return path


def fault(path: Path | None = None, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return str(caught.value)


def repository(lines: str) -> str:
    return f'[repositories.team]\nformat = "pypi"\n{lines}\n'


def test_without_a_file_both_ecosystems_are_mirrored_at_the_root(tmp_path: Path) -> None:
    settings = load()
    assert [str(address) for address in settings.listen] == ["127.0.0.1:8484"]
    assert settings.data_dir == tmp_path / "home/.local/share/mirror"
    assert not settings.offline
    assert {name: (r.format, r.mount, len(r.upstreams)) for name, r in settings.repositories.items()} == {
        "pypi": ("pypi", "/", 1),
        "rubygems": ("rubygems", "/", 1),
    }
    assert all(upstream.url.scheme == "https" for r in settings.repositories.values() for upstream in r.upstreams)


def test_data_goes_where_systemd_or_the_desktop_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "relative is ignored")
    assert load().data_dir == tmp_path / "home/.local/share/mirror"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert load().data_dir == tmp_path / "data/mirror"
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}/state:{tmp_path}/other")
    assert load().data_dir == tmp_path / "state"
    monkeypatch.setenv("MIRROR_DATA_DIR", "~/here")
    assert load().data_dir == tmp_path / "home/here"


def test_command_line_wins_over_environment_over_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = written(tmp_path, 'listen = ["127.0.0.1:1"]\n[network]\nretries = 1\nconnections = 7\n')
    assert load(path).network.retries == 1
    monkeypatch.setenv("MIRROR_NETWORK__RETRIES", "2")
    monkeypatch.setenv("MIRROR_LISTEN", "127.0.0.1:2, [::1]:2, unix:/run/mirror/socket")
    settings = load(path)
    assert (settings.network.retries, settings.network.connections) == (2, 7)
    assert settings.listen == (Address("127.0.0.1", 2), Address("::1", 2), Address(path=Path("/run/mirror/socket")))
    settings = load(path, {"listen": ("127.0.0.1:3",), "network": {"retries": 3}})
    assert settings.listen == (Address("127.0.0.1", 3),)
    assert (settings.network.retries, settings.network.connections) == (3, 7)


def test_a_variable_names_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIRROR_CONFIG", str(written(tmp_path, "offline = true")))
    assert load().offline
    monkeypatch.setenv("MIRROR_CONFIG", str(tmp_path / "none.toml"))
    assert fault() == f"{tmp_path}/none.toml: cannot be read: No such file or directory"


def test_a_variable_changes_one_setting_of_a_default_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRROR_REPOSITORIES__PYPI__UPSTREAMS", "https://a.example/simple,https://b.example/simple/")
    monkeypatch.setenv("MIRROR_REPOSITORIES__RUBYGEMS__PRIVATE", '["acme-*"]')
    monkeypatch.setenv("MIRROR_OFFLINE", "1")
    settings = load()
    assert settings.offline
    urls = [upstream.url for upstream in settings.repositories["pypi"].upstreams]
    assert urls == [URL("https://a.example/simple/"), URL("https://b.example/simple/")]
    assert settings.repositories["rubygems"].private == ("acme-*",)
    assert settings.repositories["rubygems"].upstreams == Settings().repositories["rubygems"].upstreams


def test_a_file_that_names_a_repository_names_all_of_them(tmp_path: Path) -> None:
    settings = load(written(tmp_path, repository("")))
    assert list(settings.repositories) == ["team"]
    assert settings.repositories["team"].upstreams == ()
    assert settings.repositories["team"].mount == "/team"


def test_a_numeric_password_in_a_variable_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRROR_REPOSITORIES__PYPI__UPSTREAMS", '[{"url": "https://a.example/", "password": "123"}]')
    secret = load().repositories["pypi"].upstreams[0].secret()
    assert secret is not None
    assert secret.get_secret_value() == "123"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("datadir = 1", ":1: datadir: is not a setting (did you mean data_dir?)"),
        ("\n[network]\nretrys = 3", ":3: network.retrys: is not a setting (did you mean retries?)"),
        ("[netwrk]\nretries = 3", ":1: netwrk: is not a setting (did you mean network?)"),
        ('offline = "yes"', ":1: offline: should be true or false"),
        ("offline = 1", ":1: offline: should be true or false"),
        ("data_dir = 5", ":1: data_dir: should be a path"),
        ("listen = 8484", ":1: listen: should be a list"),
        ("listen = []", ":1: listen: should name at least one address"),
        ("repositories = 3", ":1: repositories: should be a table"),
        ("[repositories]", ":1: repositories: should name at least one repository"),
        ("[network]\nretries = '3'", ":2: network.retries: should be a whole number"),
        ("[network]\nretries = true", ":2: network.retries: should be a whole number"),
        ("[network]\nretries = -1", ":2: network.retries: should be greater than or equal to 0"),
        ("[log]\nformat = 'xml'", ":2: log.format: should be 'auto', 'text' or 'json'"),
        ("x = [1,\n2\n", ": is not valid TOML: Unclosed array"),
        ("x = 1\ny = \n", ":2: is not valid TOML: Invalid value"),
        ("[repositories.a]\nmount = '/'", ":1: repositories.a.format: is missing"),
        (
            "listen = [\n  '127.0.0.1:1',\n  'nowhere',\n]",
            ':1: listen[1]: should be "host:port", "[::1]:port" or "unix:/path"',
        ),
        (
            repository("upstreams = ['ftp://u:pw@a.example/']"),
            ":3: repositories.team.upstreams[0].url: should be an absolute http:// or https:// URL",
        ),
        (
            repository("[[repositories.team.upstreams]]\nurl = 'https://a.example'\nusr = 'x'"),
            ":5: repositories.team.upstreams[0].usr: is not a setting (did you mean url?)",
        ),
        (
            repository("upstreams = ['https://a.example/simple', 'https://a.example/simple/']"),
            ":3: repositories.team.upstreams: has two upstreams called 'a.example': remove one, or set its `name`",
        ),
        (repository("private = ['a b']"), ":3: repositories.team.private[0]: has characters that it may not have"),
        (
            repository("mount = '/a/simple'"),
            ":3: repositories.team.mount: may not contain 'simple', which the protocols use: set another mount",
        ),
        (
            repository("mount = '/-/x'"),
            ":3: repositories.team.mount: may not contain '-', which the protocols use: set another mount",
        ),
        (
            repository("mount = '/x'\n[repositories.other]\nformat = 'pypi'\nmount = 'x/'"),
            ":1: repositories: has 'team' and 'other', of one format, both mounted at /x",
        ),
    ],
)
def test_a_fault_is_one_line_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    path = written(tmp_path, text)
    assert fault(path) == f"{path}{expected}"


def test_every_fault_has_its_own_line(tmp_path: Path) -> None:
    path = written(tmp_path, "offline = 3\n[pages]\nfresh = 'soon'\n")
    assert [line.split(": ")[1] for line in fault(path).splitlines()] == ["offline", "pages.fresh"]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MIRROR_DATADIR", "x", "MIRROR_DATADIR: is not a setting (did you mean MIRROR_DATA_DIR?)"),
        ("MIRROR_PAGES__FRSH", "1", "MIRROR_PAGES__FRSH: is not a setting (did you mean fresh?)"),
        ("MIRROR_NETWORK__RETRIES", "x", "MIRROR_NETWORK__RETRIES: should be a whole number"),
        ("MIRROR_OFFLINE", "perhaps", "MIRROR_OFFLINE: should be true or false"),
        ("MIRROR_PAGES", "x", "MIRROR_PAGES: should be JSON"),
        ("MIRROR_LISTEN", "x", 'MIRROR_LISTEN[0]: should be "host:port", "[::1]:port" or "unix:/path"'),
        ("MIRROR_LISTEN", "[1", "MIRROR_LISTEN: looks like a JSON array, but is not one"),
        (
            "MIRROR_REPOSITORIES__PYPI__UPSTREAMS",
            "https://a.example,nonsense",
            "MIRROR_REPOSITORIES__PYPI__UPSTREAMS[1].url: should be an absolute http:// or https:// URL",
        ),
    ],
)
def test_a_fault_in_a_variable_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: str
) -> None:
    monkeypatch.setenv(name, value)
    assert fault() == expected


LINKS = {
    "MIRROR_SERVICE_HOST": "10.0.0.7",
    "MIRROR_SERVICE_PORT": "8484",
    "MIRROR_SERVICE_PORT_HTTP": "8484",
    "MIRROR_PORT": "tcp://10.0.0.7:8484",
    "MIRROR_PORT_8484_TCP": "tcp://10.0.0.7:8484",
    "MIRROR_PORT_8484_TCP_PROTO": "tcp",
    "MIRROR_PORT_8484_TCP_PORT": "8484",
    "MIRROR_PORT_8484_TCP_ADDR": "10.0.0.7",
}
"""What a cluster sets for a service that is called `mirror`."""


@pytest.mark.parametrize("service", ["MIRROR_", "MIRROR_CACHE_", "MIRROR_STORE_", "MIRROR_LISTEN_"])
def test_variables_of_a_cluster_are_passed_over(
    service: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in LINKS.items():
        monkeypatch.setenv(name.replace("MIRROR_", service, 1), value)
    monkeypatch.setenv("MIRROR_OLD_NAME", "/app/old")
    monkeypatch.setenv("MIRROR_OLD_ENV_PATH", "/bin")
    monkeypatch.setenv("MIRROR_OFFLINE", "1")
    assert load().offline
    assert caplog.messages == []


def test_other_unknown_variables_are_named_in_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MIRROR_HOME", "/srv/mirror")
    monkeypatch.setenv("MIRROR_PORT", "8080")
    load()
    assert caplog.messages == [f"{name}: is not a setting, and is ignored" for name in ("MIRROR_HOME", "MIRROR_PORT")]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MIRROR_LISTN", "MIRROR_LISTEN"),
        ("MIRROR_NETWROK__RETRIES", "MIRROR_NETWORK__RETRIES"),
        ("MIRROR_STORE_LIMIT", "MIRROR_STORE__LIMIT"),
        ("MIRROR_NETWORK_RETRY", "MIRROR_NETWORK__RETRIES"),
        ("MIRROR_REPOSITORY__PYPI__PRIVATE", "MIRROR_REPOSITORIES__PYPI__PRIVATE"),
    ],
)
def test_a_misspelt_variable_is_an_error(name: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=re.escape(f"{name}: is not a setting (did you mean {meant}?)")):
        load()


def test_a_fault_on_the_command_line_says_so(tmp_path: Path) -> None:
    path = written(tmp_path, 'listen = ["127.0.0.1:1"]')
    assert fault(path, {"listen": ("x",)}).startswith("command line: listen[0]: should be ")


def test_a_directory_that_cannot_be_used_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = written(tmp_path, f'data_dir = "{tmp_path}/file/below"')
    unusable = f"{tmp_path}/file/below cannot be used: {tmp_path}/file is not a directory"
    assert fault(path) == f"{path}:1: data_dir: {unusable}"
    assert fault(None, {"data_dir": tmp_path / "file/below"}) == f"command line: data_dir: {unusable}"
    assert not load(None, {"data_dir": tmp_path / "new/one"}).data_dir.exists(), "reading settings makes nothing"


def test_a_file_that_is_no_text_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "mirror.toml"
    path.write_bytes(b"\xff\xfe")
    assert fault(path) == f"{path}: is not UTF-8 text"
    assert fault(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"


def test_secrets_never_show(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2-file\n")
    upstreams = [
        '"https://me:hunter2-url@a.example/simple"',
        '{ url = "https://b.example/", password = "hunter2-plain" }',
        f'{{ url = "https://c.example/", password_file = "{tmp_path}/token" }}',
        '{ url = "https://d.example/", proxy = "http://u:hunter2-proxy@proxy.example:3128" }',
    ]
    settings = load(written(tmp_path, repository(f"upstreams = [{', '.join(upstreams)}]")))
    team = settings.repositories["team"].upstreams
    assert "hunter2" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert team[0].url == URL("https://a.example/simple/")
    assert team[0].username == "me"
    secrets = [found.get_secret_value() if (found := upstream.secret()) else None for upstream in team]
    assert secrets == ["hunter2-url", "hunter2-plain", "hunter2-file", None]


@pytest.mark.parametrize(
    "upstream",
    [
        '{ url = "https://a.example/", password = ["hunter2"] }',
        '{ url = "https://a.example/", password = "hunter2", password_file = "mirror.toml" }',
        '{ url = "ftp://u:hunter2@a.example/" }',
        '"https://u:hunter2@a.example:port/"',
        '"https://u:hunter2@a.example/?x"',
        '{ url = "https://a.example/", proxy = "socks://u:hunter2@a.example/" }',
    ],
)
def test_a_fault_never_repeats_a_secret(tmp_path: Path, upstream: str) -> None:
    message = fault(written(tmp_path, repository(f"upstreams = [{upstream}]")))
    assert "repositories.team.upstreams[0]" in message
    assert "hunter2" not in message


def test_a_password_comes_from_a_systemd_credential(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = written(tmp_path, repository('upstreams = [{ url = "https://a.example/", credential = "token" }]'))
    assert "systemd has not given any" in fault(path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert fault(path).endswith("repositories.team.upstreams[0]: cannot read the credential 'token'")
    (tmp_path / "token").write_text("\n")
    assert fault(path).endswith("repositories.team.upstreams[0]: finds nothing in the credential 'token'")
    (tmp_path / "token").write_text("s3cret\n")
    secret = load(path).repositories["team"].upstreams[0].secret()
    assert secret is not None
    assert secret.get_secret_value() == "s3cret"


def test_union_true_stands_for_every_name(tmp_path: Path) -> None:
    assert load(written(tmp_path, repository("union = true"))).repositories["team"].union == ("*",)
    assert load(written(tmp_path, repository("union = ['a', 'b-*']"))).repositories["team"].union == ("a", "b-*")


def test_a_repository_changes_only_the_ages_that_it_names(tmp_path: Path) -> None:
    text = '[pages]\nfresh = "1h"\nnegative = 5\n' + repository('[repositories.team.pages]\nnegative = "3d"')
    settings = load(written(tmp_path, text))
    ages = settings.ages("team")
    assert (ages.fresh, ages.negative, ages.stale_while_revalidate) == (3600, 259200, 300)


def test_settings_never_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().offline = True  # type: ignore[misc]


def test_line_of_finds_the_statement() -> None:
    text = 'a = 1\n# remark\nb = [\n  1,\n  2,\n]\n[c.d]\ne = """\nb = 2\n"""\n[[f]]\ng = 1\n[[f]]\ng = 2\n'
    places: list[tuple[str | int, ...]] = [("a",), ("b", 1), ("c", "d"), ("c", "d", "e"), ("f", 1, "g"), ("f", 1, "h")]
    assert [line_of(text, place) for place in places] == [1, 3, 7, 8, 14, 13]
    assert line_of(text, ("nothing",)) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [(3, 3), (0.5, 0.5), ("90", 90), ("10m", 600), ("1h", 3600), ("3d", 259200), ("1.5 s", 1.5), ("500ms", 0.5)],
)
def test_durations(text: object, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [(3, 3), ("64MB", 64_000_000), ("64MiB", 1 << 26), ("4 GB", 4_000_000_000), ("1.5KB", 1500), ("12", 12), ("1B", 1)],
)
def test_sizes(text: object, expected: int) -> None:
    assert size(text) == expected


@pytest.mark.parametrize("text", [-1, True, None, [], "", "m", "1 year", "-3s", "1e9", "\uff11h", "nan", float("nan")])
def test_what_is_no_duration_and_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="should be a duration"):
        seconds(text)
    with pytest.raises(ValueError, match="should be a size"):
        size(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "host",
        "host:",
        "host:65536",
        "[::1]",
        "::1:80",
        "unix:relative",
        "unix:",
        "a b:1",
        "h:\uff11",
        80,
        None,
    ],
)
def test_what_is_no_address_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="should be"):
        address(text)


@given(st.from_regex(r"([a-z0-9.-]{1,20}|\[[0-9a-f:]{2,20}\]):[1-9][0-9]{0,3}|unix:/[a-z/]{1,50}", fullmatch=True))
def test_an_address_is_spelled_as_it_was_written(text: str) -> None:
    assert str(address(text)) == text.replace("unix://", "unix:/") or address(str(address(text))) == address(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("", "/"), ("/", "/"), ("team", "/team"), ("/team/", "/team"), ("//a//b", "/a/b")]
)
def test_mounts_are_normalised(text: str, expected: str) -> None:
    assert mount(text) == expected


@pytest.mark.parametrize("text", ["/..", "/a/../b", "/.", "/a b", "/a?b", "/ä", "/a%2fb", "/-", "/gems", "/at"])
def test_what_is_no_mount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"should be a path|may not contain"):
        mount(text)
