"""Platforms, versions and requirements, each against what Ruby makes of it."""

import json
from pathlib import Path

import pytest

from mirror.rubygems.names import normal_platform, platform_parts
from mirror.rubygems.versions import matches, version_key
from tests.rubygems.agreement import EARLIER, PLATFORMS, SCRIPT, SIZE

TABLE = json.loads((Path(__file__).parent / "data" / "agreement.json").read_text())
LETTERS = {-1: "<", 0: "=", 1: ">"}


def ours() -> dict[str, object]:
    """The table as this project would make it."""
    versions = TABLE["versions"]
    keys = [version_key(version) for version in versions]
    platforms = []
    for platform in PLATFORMS:
        parts = platform_parts(platform)
        platforms.append([platform, None if parts is None else list(parts), normal_platform(platform)])
    return {
        "platforms": platforms,
        "order": ["".join(LETTERS[(one > other) - (one < other)] for other in keys) for one in keys],
        "matches": ["".join("ny"[matches(text, one)] for one in versions) for text in TABLE["requirements"]],
    }


def test_the_table_is_large_and_of_the_rules_of_today() -> None:
    assert len(TABLE["platforms"]) >= 91
    assert len(TABLE["versions"]) == len(TABLE["requirements"]) == SIZE
    assert numbers(TABLE["gem"]) >= (3, 7)
    assert len({*PLATFORMS} - EARLIER) >= 91


@pytest.mark.parametrize("what", ["platforms", "order", "matches"])
def test_what_ruby_says_is_said_here(what: str) -> None:
    mine = ours()[what]
    assert isinstance(mine, list)
    assert [pair for pair in zip(mine, TABLE[what], strict=True) if pair[0] != pair[1]] == []


def test_the_rubies_that_are_here_still_say_it(newer_ruby) -> None:
    answer = newer_ruby(SCRIPT, {"platforms": PLATFORMS, **{one: TABLE[one] for one in ("versions", "requirements")}})
    otherwise = EARLIER if numbers(answer["gem"]) < (3, 7) else set()
    pairs = list(zip(answer["platforms"], TABLE["platforms"], strict=True))
    assert {theirs[0] for theirs, expected in pairs if theirs != expected} == otherwise
    for what in ("versions", "order", "requirements", "matches"):
        assert answer[what] == TABLE[what]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
