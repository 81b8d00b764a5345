"""The lines that people copy to point Python clients at the mirror."""

from yarl import URL

from mirror.index.ecosystem import ClientAccess
from mirror.pypi import clients

ROOT = URL("https://mirror.example/team/")


def test_the_lines_to_copy_name_this_host_and_mount() -> None:
    access: ClientAccess = clients
    texts = [line.text for line in (*access.setup_lines(ROOT, []), *access.upload_lines(ROOT))]
    assert len(texts) == 9
    assert all(" https://mirror.example/team/" in text or "=https://mirror.example/team/" in text for text in texts)
    assert not any("trust" in text.lower() or "verify" in text for text in texts)


def test_the_lines_for_plain_http_make_clients_trust_the_host() -> None:
    plain = [line.text for line in clients.setup_lines(URL("http://box.example:8484/"), [])]
    assert "pip config set global.trusted-host box.example" in plain
    assert plain[-4:] == [
        "pdm config pypi.url http://box.example:8484/simple/",
        "pdm config pypi.verify_ssl false",
        "export PIPENV_PYPI_MIRROR=http://box.example:8484/simple/",
        "export PIP_TRUSTED_HOST=box.example",
    ]


def test_a_line_to_copy_runs_nothing_that_a_name_smuggles_in() -> None:
    hostile = clients.install_lines(URL("http://localhost/"), "a", "1;rm -rf /")
    assert [line.text.rpartition(" 'a==")[2] for line in hostile] == ["1;rm -rf /'"] * 2
