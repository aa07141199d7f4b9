"""The choice between shared and separate runs."""

from serving.batching.sharing import SharingChoice


def shares(choice, times=49):
    return [choice.share() for _ in range(times)]


def test_sharing_is_tried_first():
    assert all(shares(SharingChoice(), 10))


def test_what_costs_less_is_done_and_the_other_tried_now_and_then():
    for shared_seconds, better in ((0.02, True), (0.09, False)):
        choice = SharingChoice()
        choice.note(True, 8, shared_seconds, 1)
        choice.note(False, 1, 0.01, 1)
        decisions = shares(choice, 100)
        assert decisions.count(better) == 98


def test_runs_at_the_same_time_share_the_machine():
    choice = SharingChoice()
    choice.note(True, 8, 0.028, 1)  # 3.5 ms a row
    choice.note(False, 1, 0.0055, 2)  # 5.5 ms, but two at once: 2.75 ms a row
    assert not any(shares(choice))


def test_it_follows_a_change():
    choice = SharingChoice()
    choice.note(True, 8, 0.02, 1)
    choice.note(False, 1, 0.01, 1)
    for _ in range(30):
        choice.note(True, 8, 0.2, 1)
    assert not any(shares(choice))
