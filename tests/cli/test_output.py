"""What commands print of strangers' texts."""

import re
from pathlib import Path

import pytest

from mirror.cli.output import overwrite, safe, say, say_marked

ROOT = Path(__file__).parents[2] / "mirror" / "cli"
HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202e\u009b31m\r"


def test_what_steers_a_terminal_is_shown_as_escapes() -> None:
    shown = safe(f"a{HOSTILE}b")
    assert shown.isprintable()
    assert shown == "a\\x1b]0;owned\\x07\\x1b[2J\\u202e\\x9b31m\\rb"


def test_lines_columns_and_letters_stay() -> None:
    assert safe("one\ttwo\nthrée\n") == "one\ttwo\nthrée\n"


def test_only_our_own_marks_have_colours(capsys: pytest.CaptureFixture[str]) -> None:
    say(HOSTILE)
    say_marked("\x1b[31mmirror:\x1b[0m ", HOSTILE, colour=True)
    overwrite(HOSTILE)
    written = capsys.readouterr()
    assert written.out.count("\x1b") == 2
    assert "\u202e" not in written.out + written.err


def test_commands_print_by_nothing_else() -> None:
    for path in ROOT.glob("*.py"):
        if path.name == "output.py":
            continue
        text = path.read_text()
        assert not re.search(r"click\.(echo|secho)\(|\bprint\((?!table)|sys\.std(out|err)\.write", text), path.name
        if ".print(table)" in text:
            assert "add_row(*map(safe, row))" in text, path.name
            assert not re.search(r"add_row\((?!\*map\(safe|safe\()", text), path.name
