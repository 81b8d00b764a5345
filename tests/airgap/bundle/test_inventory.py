"""The difference of two inventories: enough, no more than that, and the same every time."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.airgap.bundle.contents import Difference, Inventory, LogMark, common_length, difference, pack, unpack
from mirror.errors import Invalid

WORDS = st.sampled_from(["a", "b", "c", "ü/..", ""])
MARKS = st.sampled_from(["1", "2", "3"])
THREE = st.dictionaries(st.tuples(WORDS, WORDS, WORDS), MARKS, max_size=6)
TWO = st.tuples(WORDS, WORDS)
LOGS = st.dictionaries(TWO, st.builds(LogMark, st.integers(0, 3), MARKS), max_size=4)


@st.composite
def inventories(draw: st.DrawFn) -> Inventory:
    files = draw(THREE)
    return Inventory(
        node=draw(WORDS),
        imported=draw(st.dictionaries(WORDS, st.integers(0, 9), max_size=2)),
        pages=draw(THREE),
        files=files,
        uploads=draw(st.dictionaries(TWO, MARKS, max_size=4)),
        logs=draw(LOGS),
        blobs=frozenset(files.values()) | draw(st.frozensets(MARKS)),
    )


@given(inventories(), inventories())
def test_with_the_difference_one_has_all_that_the_other_one_has(have: Inventory, want: Inventory) -> None:
    lacking = difference(have, want)
    for mine, theirs, brought in (
        (have.pages, want.pages, lacking.pages),
        (have.files, want.files, lacking.files),
        (have.uploads, want.uploads, lacking.uploads),
        (have.logs, want.logs, lacking.logs),
    ):
        after = dict(mine) | {key: theirs[key] for key in brought}  # type: ignore[index]
        assert {key: after[key] for key in theirs} == dict(theirs)
        assert all(mine.get(key) != theirs[key] for key in brought)  # type: ignore[call-overload, index]


@given(inventories(), inventories())
def test_it_does_not_depend_on_the_order(have: Inventory, want: Inventory) -> None:
    backwards = Inventory(
        pages=dict(reversed(want.pages.items())),
        files=dict(reversed(want.files.items())),
        uploads=dict(reversed(want.uploads.items())),
        logs=dict(reversed(want.logs.items())),
    )
    assert difference(have, backwards) == difference(have, want)


@given(inventories())
def test_who_has_everything_lacks_nothing(have: Inventory) -> None:
    assert difference(have, have) == Difference()


@given(inventories(), st.frozensets(st.tuples(WORDS, WORDS, WORDS)))
def test_what_is_gone_is_reported_to_those_who_still_have_it(
    have: Inventory, gone: frozenset[tuple[str, str, str]]
) -> None:
    assert difference(have, Inventory(), gone).gone == gone & have.pages.keys()


@given(inventories())
def test_packed_and_unpacked_it_is_the_same(one: Inventory) -> None:
    assert unpack(pack(one)) == one
    assert pack(unpack(pack(one))) == pack(one)


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_the_tail_of_a_log_is_what_a_mirror_lacks(before: bytes, more: bytes) -> None:
    known = LogMark(len(before), hashlib.sha256(before).hexdigest())
    start = common_length(before + more, known)
    assert start == len(before)
    assert common_length(more, LogMark(len(before), "0" * 64)) == 0
    assert common_length(before, LogMark(len(before) + 1, known.sha256)) == 0


@pytest.mark.parametrize("content", [b"", b"nonsense", pack(Inventory())[:-3], pack(Inventory()) + b"x"])
def test_nonsense_is_no_inventory(content: bytes) -> None:
    with pytest.raises(Invalid, match="That is not an inventory"):
        unpack(content)
