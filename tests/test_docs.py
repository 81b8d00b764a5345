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
GUIDES = [
    "README.md",
    "config/README.md",
    "config/compose/README.md",
    "systemd/README.md",
    "mirror/airgap/README.md",
    "tests/README.md",
]
DOCUMENTS = [*GUIDES, "mirror/DECISIONS.md", "mirror/CHANGELOG.md", "mirror/SECURITY.md"]
TEXTS = {path: (ROOT / path).read_text() for path in DOCUMENTS}
MANUAL = "\n".join(TEXTS[path] for path in GUIDES)
FRONT_PAGE_LINES = 165
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


def subcommands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """A command and what stands below it, each with the words that call it."""
    if words:
        yield words, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from subcommands(found, (*words, name))


ALL_COMMANDS = dict(subcommands(group))


@pytest.mark.parametrize("words", ALL_COMMANDS, ids=" ".join)
def test_every_command_and_option_stands_in_a_document(words: tuple[str, ...]) -> None:
    command = ALL_COMMANDS[words]
    assert command.help
    assert f"`mirror {' '.join(words)}" in MANUAL or re.search(f"^mirror {' '.join(words)}\\b", MANUAL, re.MULTILINE)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            spellings = [*parameter.opts, *parameter.secondary_opts]
            assert any(re.search(rf"(?<![\w-]){spelling}\b", MANUAL) for spelling in spellings), spellings


def test_every_command_stands_in_the_table_of_the_front_page() -> None:
    assert [name for name in COMMANDS if not re.search(rf"`mirror {name}\b", TEXTS["README.md"])] == []


def commands_in(text: str) -> list[list[str]]:
    """Every `mirror …` that a document shows, as words."""
    spans = re.findall(r"`(mirror [^`]+)`", text)
    blocks = "\n".join(re.findall(r"```(?:sh|console)?\n(.*?)```", text, flags=re.DOTALL))
    lines = re.findall(r"(?:^|&& |/)(mirror [a-z].*?)(?: #.*|&&.*)?$", blocks, flags=re.MULTILINE)
    return [shlex.split(text) for text in spans + lines]


def test_the_documents_show_only_commands_and_options_that_exist() -> None:
    shown = commands_in(MANUAL)
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


def test_the_documents_name_only_settings_that_exist() -> None:
    settings = {setting.name for setting in describe()}
    last_words = {name.rpartition(".")[2] for name in settings}
    for variable in re.findall(r"\bMIRROR_[A-Z_]+", MANUAL):
        word = variable.removeprefix("MIRROR_").split("__")[-1].lower()
        assert variable == "MIRROR_CONFIG" or word in last_words, variable
    blocks = re.findall(r"```toml\n(.*?)```", MANUAL, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        assert set(keys(tomllib.loads(block))) - settings == set(), block


def anchors(path: Path) -> set[str]:
    """The anchors that the headings of a document get."""
    headings = re.findall(r"^#+ +(.+?) *$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_and_anchor_leads_somewhere(name: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", TEXTS[name]):
        file = (ROOT / name).parent / target if target else ROOT / name
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


@pytest.mark.parametrize("name", DOCUMENTS[1:])
def test_every_document_is_linked_from_the_front_page(name: str) -> None:
    assert f"]({name})" in TEXTS["README.md"]


def test_the_front_page_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= FRONT_PAGE_LINES


def test_every_public_module_says_what_it_is_for() -> None:
    for path in sorted((ROOT / "mirror").rglob("*.py")):
        assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"
