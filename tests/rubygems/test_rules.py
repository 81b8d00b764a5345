"""The rules of the compact index stand in one place, and comments refer to them by number."""

import re
from pathlib import Path

import mirror
from mirror.rubygems import routes


def test_each_rule_that_a_comment_names_is_listed() -> None:
    listed = re.findall(r"^ ?(\d+)\. ", routes.__doc__ or "", re.MULTILINE)
    assert listed == [str(number) for number in range(1, 11)]
    sources = [*Path(mirror.__file__).parent.rglob("*.py"), *Path(__file__).parents[1].rglob("*.py")]
    named = {
        path: set(re.findall(r"\(rule (\d+)\)", text))
        for path in sources
        if "(rule " in (text := path.read_text(encoding="utf-8"))
    }
    assert len(named) >= 4, "the search looks in the wrong place"
    assert {path: numbers for path, numbers in named.items() if not numbers <= set(listed)} == {}
