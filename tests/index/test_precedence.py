"""Which sources may answer for a name."""

import itertools

import msgspec
import pytest

from mirror.index.precedence import Permission, Precedence, Reply, SourceReply, choose, chosen, permission


def test_a_later_source_is_asked_only_where_all_before_it_are_missing_the_project_and_never_had_it() -> None:
    replies = [SourceReply(now, had) for now in Reply for had in (False, True)]
    for earlier in itertools.chain([()], itertools.product(replies, repeat=1), itertools.product(replies, repeat=2)):
        free = all(reply == SourceReply(Reply.MISSING) for reply in earlier)
        assert (permission(earlier) is Permission.ASK) == free, earlier


def test_while_an_earlier_source_is_silent_a_later_one_gives_what_it_gave() -> None:
    silent, missing = SourceReply(Reply.SILENT), SourceReply(Reply.MISSING)
    assert permission([silent]) is permission([missing, silent]) is permission([silent, missing]) is Permission.HELD


def test_what_any_earlier_source_had_is_never_given_by_a_later_one() -> None:
    for had in (SourceReply(Reply.SILENT, True), SourceReply(Reply.MISSING, True), SourceReply(Reply.HAS)):
        assert permission([had]) is permission([SourceReply(Reply.SILENT), had]) is Permission.NOT


@pytest.mark.parametrize(
    ("name", "uploaded", "rule", "upstream", "union"),
    [
        ("acme-core", False, "private", False, False),  # before the first upload already
        ("acme-core", True, "private", False, False),
        ("acme-torch", True, "private", False, False),  # private beats union
        ("torch", False, "union", True, True),
        ("torch", True, "union", True, True),
        ("requests", True, "uploaded", False, False),
        ("requests", False, "first", True, False),
        ("Acme-core", False, "first", True, False),  # case counts
    ],
)
def test_who_may_answer(name: str, uploaded: bool, rule: str, upstream: bool, union: bool) -> None:
    choice = choose(name, Precedence(private=("acme-*",), union=("torch", "*-torch")), uploaded=uploaded)
    assert (choice.rule, choice.upstream, choice.union) == (rule, upstream, union)


def test_the_choice_is_explained_with_the_sources_that_show() -> None:
    first = choose("a", Precedence(), uploaded=False)
    assert chosen(first, ["one", "two"]).endswith("Shown: one (rule 'first').")
    assert chosen(msgspec.structs.replace(first, union=True), ["one", "two"]).endswith(
        "Shown: one, two (rule 'first')."
    )
    assert "no source has it" in chosen(first, [])
