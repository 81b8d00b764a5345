"""Every setting and every command stands in the documents, and nothing else does."""

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from mirror.cli import COMMANDS, group
from mirror.config import Settings, describe, load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
REFERENCE = ROOT / "config/mirror.toml"
BY_NAME = {"repositories.", "auth.users.", "auth.tokens."}
"""Tables whose keys are names that the operator chose."""
ONLY_EXAMPLES = r"\[\]\.|NAME\.pages|^auth\.|^policy$|^sync$"
"""Settings that a file without them does not have at all."""


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in os.environ:
        if name.startswith("MIRROR_") or name in {"STATE_DIRECTORY", "XDG_DATA_HOME"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def keys(table: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The settings of a parsed file, as `describe` names them."""
    for key, value in table.items():
        name = f"{prefix}NAME" if prefix in BY_NAME else f"{prefix}{key}"
        if isinstance(value, dict):
            yield from keys(value, f"{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            yield name
            yield from (found for item in value for found in keys(item, f"{name}[]."))
        else:
            yield name


def with_examples(text: str) -> str:
    """The reference with its examples switched on: a setting behind a `#` without a space."""
    return re.sub(r"^#(?=[\w\[])", "", text, flags=re.MULTILINE)


def test_the_reference_names_every_setting_and_no_other() -> None:
    shown = set(keys(tomllib.loads(with_examples(REFERENCE.read_text()))))
    assert shown == {setting.name for setting in describe()}


def test_the_reference_shows_the_defaults() -> None:
    assert load(REFERENCE) == Settings()


def test_the_reference_shows_every_default_that_there_is() -> None:
    switched_on = set(keys(tomllib.loads(REFERENCE.read_text())))
    with_default = {s.name for s in describe() if s.default is not None and not re.search(ONLY_EXAMPLES, s.name)}
    assert with_default - switched_on == set()


def test_every_setting_says_what_it_does() -> None:
    assert [setting.name for setting in describe() if len(setting.text) < 10] == []


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.toml")), ids=lambda path: path.name)
def test_every_example_is_right_and_says_what_it_is_for(path: Path) -> None:
    load(path)
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_stands_in_the_readme(name: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    assert f"`mirror {name}" in README
    assert command.help


def commands_in_readme() -> list[list[str]]:
    """Every `mirror …` that the README shows, as words."""
    spans = re.findall(r"`(mirror [^`]+)`", README)
    blocks = "\n".join(re.findall(r"```(?:sh|console)?\n(.*?)```", README, flags=re.DOTALL))
    lines = re.findall(r"(?:^|&& |/)(mirror [a-z].*?)(?: #.*|&&.*)?$", blocks, flags=re.MULTILINE)
    return [shlex.split(text) for text in spans + lines]


def test_the_readme_shows_only_commands_and_options_that_exist() -> None:
    shown = commands_in_readme()
    assert len(shown) >= len(COMMANDS)
    for _, *words in shown:
        command: click.Command = group
        if not words[0].startswith("-"):
            assert words[0] in COMMANDS, f"mirror {words[0]} does not exist"
            found = group.get_command(click.Context(group), words[0])
            assert found is not None
            command = found
        if isinstance(command, click.Group) and len(words) > 1 and not words[1].startswith("-"):
            assert words[1] in command.commands, f"mirror {words[0]} {words[1]} does not exist"
            command = command.commands[words[1]]
        known = {"--help"} | {option for parameter in command.params for option in parameter.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, words


def test_the_readme_names_only_settings_that_exist() -> None:
    names = {setting.name.rpartition(".")[2] for setting in describe()}
    for variable in re.findall(r"\bMIRROR_[A-Z_]+", README):
        assert variable == "MIRROR_CONFIG" or variable.removeprefix("MIRROR_").split("__")[-1].lower() in names, (
            variable
        )


def test_what_the_readme_links_to_exists() -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_every_public_module_says_what_it_is_for() -> None:
    for path in sorted((ROOT / "mirror").rglob("*.py")):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"
