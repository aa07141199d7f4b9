"""Which requests the adaptive queue puts together, and for how long it lets them gather."""

import numpy as np

from serving.batching.batch import Task
from serving.batching.queues import AdaptiveQueue


class Waiting:
    """The future of a request that somebody waits for."""

    def done(self):
        return False


def text(length):
    return Task([np.array([b"x" * length], object)], 1, Waiting(), None, 0.0, shapes=((),))


def queue_of(*tasks):
    queue = AdaptiveQueue(True, 5.0)
    queue.shareable = True
    for task in tasks:
        queue.offer(task, "m", 0.0)
    return queue


def lengths(tasks):
    return [task.size for task in tasks]


def test_texts_share_a_run_with_texts_of_about_their_length():
    queue = queue_of(text(40), text(400), text(44), text(380), text(46))
    assert lengths(queue.take()) == [40, 44, 46]  # the graph pads to the longest of a run
    assert lengths(queue.take()) == [400, 380]
    assert len(queue) == 0


def test_encoded_images_share_a_run_whatever_their_size():
    assert lengths(queue_of(text(9_000), text(90_000)).take()) == [9_000, 90_000]


def looks(queue):
    """How often the runner looks again before it starts a run."""
    count = 0
    while queue.gathers():
        count += 1
    return count


def test_a_lone_request_runs_at_once_and_a_crowd_gathers():
    queue = queue_of(text(5))
    looks(queue)  # the first is curious: whether it is alone is not known yet
    queue.take()
    queue.offer(text(5), "m", 0.0)
    assert queue.is_calm
    assert looks(queue) == 0
    queue.take()
    for _ in range(4):
        queue.offer(text(5), "m", 0.0)
    assert not queue.is_calm
    assert looks(queue) > 4
    assert len(queue.take()) == 4
    queue.offer(text(5), "m", 0.0)
    assert not queue.is_calm  # the others of the crowd may be on their way
    assert looks(queue) > 4


def test_a_crowd_that_has_gone_is_forgotten():
    queue = queue_of(*(text(5) for _ in range(4)))
    queue.take()
    calm = []
    for _ in range(20):
        queue.offer(text(5), "m", 0.0)
        calm.append(queue.is_calm)
        queue.take()
    assert not calm[0]
    assert any(calm)
