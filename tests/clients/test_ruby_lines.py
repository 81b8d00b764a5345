"""The lines for gem and Bundler that people copy, out of the README and off the pages: run by real clients.

What counts is what they do, not how they end: afterwards the mirror is the only source, and gems come from there.
"""

import re
from pathlib import Path

import pytest
from yarl import URL

from mirror.rubygems import clients
from tests.builders import gem
from tests.clients.ruby import Home, Ruby, rubies
from tests.serving import repositories, spawned
from tests.simulator import Simulator

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

README = (Path(__file__).parents[2] / "README.md").read_text()
PUBLIC = re.findall(r"gem sources --remove (https://\S+/)`", README)[0]
"""The source that the README replaces, which is the one that gem and Gemfiles come with."""


def cells(client: str) -> tuple[list[str], list[str]]:
    """The README's commands for a client: those for once, and those for good."""
    (row,) = re.findall(rf"^\| {client} \|(.*)\|(.*)\|$", README, re.MULTILINE)
    return re.findall(r"`([^`]+)`", row[0]), re.findall(r"`([^`]+)`", row[1])


def lines(origin: str, root: str) -> tuple[list[str], list[str], list[str]]:
    """What to type for `gem` once, for `gem` for good, and for Bundler."""
    if origin == "readme":
        commands = (*cells("gem"), cells("Bundler")[1])
        return tuple([line.replace("http://localhost:8484/", root) for line in some] for some in commands)  # type: ignore[return-value]
    shown = clients.setup_lines(URL(root), [URL(PUBLIC)])
    return (
        [line.text for line in shown if (line.client, line.does) == ("gem", "once")],
        [line.text for line in shown if line.client == "gem" and line.does != "once"],
        [line.text for line in shown if line.client == "Bundler"],
    )


async def type_in(home: Home, *commands: str) -> None:
    for command in commands:
        await home.run("sh", "-c", command.replace("NAME", "tiny"))


@pytest.mark.parametrize("origin", ["readme", "page"])
@pytest.mark.parametrize("ruby", rubies(), ids=str)
async def test_each_line_does_what_it_is_for(simulator: Simulator, tmp_path: Path, ruby: Ruby, origin: str) -> None:
    for version in ("1.0", "2.0"):
        simulator.push(gem("tiny", version))
    async with spawned(tmp_path / "data", repositories(simulator)) as mirror:
        once, for_good, bundler = lines(origin, mirror.url)
        assert len(once) == 1
        assert len(for_good) == 2
        assert len(bundler) == 1
        with ruby.home(PUBLIC) as home:
            (home.place / ".gemrc").write_text("---\ngem: --no-document\n")  # as it comes
            await type_in(home, *once)
            assert "tiny (2.0)" in await home.run("gem", "list")

            await type_in(home, *for_good)
            sources = [line for line in (await home.run("gem", "sources")).splitlines() if ":" in line]
            assert sources == [mirror.url]
            await home.run("gem", "install", "tiny", "-v", "1.0")
            assert "tiny (2.0, 1.0)" in await home.run("gem", "list")

            await type_in(home, *bundler)
            (home.place / "Gemfile").write_text(f'source "{PUBLIC}"\ngem "tiny"\n')
            await home.run("bundle", "install")
            assert home.locked() == {"tiny (2.0)"}
