"""What runs that were made tell of those to come."""

import pytest

from serving.batching.profile import Profile


def learned(runs):
    profile = Profile()
    profile.note(1, 5.0)  # the first run of a graph is slow and counts for nothing
    for rows, seconds in runs:
        profile.note(rows, seconds)
    return profile


def test_a_line_is_found_exactly():
    profile = learned([(rows, 0.01 + 0.002 * rows) for rows in (1, 4, 9, 2, 7)])
    assert profile.seconds(20) == pytest.approx(0.05)
    # 50 ms may be spent: (0.05 - 0.01) / 0.002
    assert profile.shared_rows() in (19, 20)


def test_it_follows_a_change():
    profile = learned([(rows, 0.01) for rows in (1, 2, 3) * 10] + [(rows, 0.1) for rows in (1, 2, 3) * 30])
    assert profile.seconds(2) == pytest.approx(0.1, rel=0.01)


def test_rows_that_cost_nothing_more_are_shared_by_hundreds():
    assert learned([(1, 0.2), (30, 0.2), (4, 0.2)]).shared_rows() == 512


def test_rows_that_cost_as_much_as_the_first_are_shared_by_two_at_most():
    assert learned([(1, 0.2), (2, 0.4), (4, 0.8)]).shared_rows() == 2


def test_before_sizes_differ_a_few_are_tried_together():
    assert 2 < learned([(1, 0.2)] * 5).shared_rows() < 10


def test_nothing_is_refused_on_the_word_of_a_few_runs():
    assert Profile().seconds(100) == 0.0
    assert Profile().shared_rows() == 32
    assert not learned([(1, 9.0)] * 3).is_trusted
    assert learned([(1, 9.0)] * 20).is_trusted
