"""When a list or page that became shorter is believed."""

import pytest

from mirror.index.losses import CONFIRMED_AFTER_SECONDS, LIST, PAGE, Doubt, Tolerance, doubt, is_great, lost


@pytest.mark.parametrize(
    ("lost", "of", "tolerance", "great"),
    [
        (0, 100, LIST, False),
        (1, 100, LIST, False),
        (4, 10, LIST, False),  # a small list changes in large parts
        (5, 10, LIST, True),
        (3, 3, LIST, True),  # nothing is left
        (0, 0, LIST, False),
        (10, 1000, LIST, False),  # one in a hundred
        (11, 1000, LIST, True),
        (1000, 1_000_000, LIST, False),
        (1001, 1_000_000, LIST, True),
        (1, 8, PAGE, False),
        (60, 300, PAGE, False),
        (148, 300, PAGE, True),
        (1, 1, PAGE, True),
    ],
)
def test_which_losses_are_great(lost: int, of: int, tolerance: Tolerance, great: bool) -> None:
    assert is_great(lost, of, tolerance) is great


def test_what_is_lost_is_named() -> None:
    assert lost(["a", "b", "c"], {"b": 1, "d": 2}) == ["a", "c"]


def test_a_great_loss_is_doubted_until_a_second_answer_minutes_later() -> None:
    first = doubt(None, 50, 100, 1000.0, LIST)
    assert first == Doubt(since=1000.0, lost=50, of=100)
    assert str(first) == "50 of 100"
    again = doubt(first, 60, 100, 1000.0 + CONFIRMED_AFTER_SECONDS - 1, LIST)
    assert again == Doubt(since=1000.0, lost=60, of=100)
    assert doubt(again, 60, 100, 1000.0 + CONFIRMED_AFTER_SECONDS, LIST) is None


def test_a_clock_that_was_set_back_confirms_nothing_early() -> None:
    assert doubt(Doubt(since=2000.0, lost=50, of=100), 50, 100, 1000.0, LIST) == Doubt(since=1000.0, lost=50, of=100)


def test_pages_that_are_gone_confirm_a_loss_at_once() -> None:
    assert doubt(None, 50, 100, 0.0, LIST, gone=48) is None
    assert doubt(None, 50, 100, 0.0, LIST, gone=3) is not None
