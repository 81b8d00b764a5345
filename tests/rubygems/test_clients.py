"""The lines that people copy to point Ruby clients at the mirror."""

from yarl import URL

from mirror.index.ecosystem import ClientAccess
from mirror.rubygems import clients


def test_bundler_is_led_from_the_source_in_a_gemfile_to_the_mirror() -> None:
    access: ClientAccess = clients
    lines = access.setup_lines(URL("https://mirror.example/team/"), [URL("https://gems.example/")])
    command = "bundle config set --global mirror.https://gems.example/ https://mirror.example/team/"
    assert command in [line.text for line in lines]


def test_a_line_to_copy_runs_nothing_that_a_name_smuggles_in() -> None:
    (gem,) = clients.install_lines(URL("http://localhost/"), "a", "$(id)")
    assert gem.text.endswith(" a --version '$(id)'")
