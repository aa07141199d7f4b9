"""How long a step of data-parallel training takes on many GPUs: closed forms, and a simulation that checks them.

The cost of a message of b bytes is α + b / B: a latency, and a bandwidth (Hockney's model). All-reducing S bytes over
n workers in a ring takes 2 (n - 1) such messages of S / n bytes, one after the other (Patarasu and Yuan, "Bandwidth
optimal all-reduce algorithms for clusters of workstations", 2009):

    seconds(S, n)    = 2 (n - 1) α + 2 (n - 1) / n · S / B
    bytes(S, n)      = 2 (n - 1) / n · S                       sent by each worker, and as many received

In a cluster of m machines with g GPUs each, n = m g, NCCL's ring enters and leaves every machine once, so that the
network card of a machine carries what one worker of the ring does, and the slower link sets the pace:

    seconds(S, m, g) = 2 (n - 1) α + 2 (n - 1) / n · S / min(B_inside, B_between)

An all-reduce in two levels (scatter inside, ring between machines, gather inside) moves less through the network card:

    seconds(S, m, g) = 2 (g - 1) α_in + 2 (g - 1) / g · S / B_in  +  2 (m - 1) α_between + 2 (m - 1) / m · S / B_between

Without overlap a step takes the forward pass, the backward pass and the all-reduce: F + R + seconds(S). With overlap
the gradients are reduced in buckets while the backward pass goes on. For k equal buckets, each of which takes R / k to
compute and t to reduce, the step takes

    F + max(R + t, R / k + k t)

and otherwise what `overlapped_step` adds up bucket by bucket. With weak scaling (the batch per GPU stays) the
efficiency is (F + R) / step, and the speed-up n times that.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """A connection between two neighbours of the ring.

    Attributes:
        bytes_per_second: of payload, in one direction; both directions work at once.
        latency: seconds for a message without content.
    """

    bytes_per_second: float
    latency: float


@dataclass(frozen=True)
class Cluster:
    """Machines with GPUs.

    Attributes:
        machines: how many.
        gpus: in each of them.
        inside: the links between a machine's GPUs.
        between: the network card of a machine, which its GPUs share.
    """

    machines: int
    gpus: int
    inside: Link
    between: Link

    @property
    def workers(self) -> int:
        """All GPUs."""
        return self.machines * self.gpus


@dataclass(frozen=True)
class Layer:
    """A part of the model whose gradients become known together.

    Attributes:
        name: for people.
        size: bytes of its gradients.
        seconds: what its backward pass takes.
    """

    name: str
    size: float
    seconds: float


def bytes_sent(size: float, workers: int) -> float:
    """What each worker of a ring sends to all-reduce `size` bytes; it receives as much.

    Example:
        >>> bytes_sent(100e6, 2), bytes_sent(100e6, 8)
        (100000000.0, 175000000.0)
    """
    return 2 * (workers - 1) / workers * size


def ring_seconds(size: float, workers: int, link: Link) -> float:
    """The time of a ring all-reduce of `size` bytes."""
    return 2 * (workers - 1) * link.latency + bytes_sent(size, workers) / link.bytes_per_second


def flat_seconds(size: float, cluster: Cluster) -> float:
    """The time of one ring through all GPUs, machine after machine, as NCCL builds it."""
    if cluster.machines == 1:
        return ring_seconds(size, cluster.gpus, cluster.inside)
    pace = min(cluster.inside.bytes_per_second, cluster.between.bytes_per_second)
    return ring_seconds(size, cluster.workers, Link(pace, max(cluster.inside.latency, cluster.between.latency)))


def hierarchical_seconds(size: float, cluster: Cluster) -> float:
    """The time of an all-reduce in two levels: inside the machines, between them, and inside again."""
    # Each of a machine's GPUs reduces its share of the gradients with the other machines; the shares use one card.
    return ring_seconds(size, cluster.gpus, cluster.inside) + ring_seconds(size, cluster.machines, cluster.between)


def network_bytes(size: float, cluster: Cluster, hierarchical: bool = False) -> float:
    """What a machine's network card sends for an all-reduce of `size` bytes; 0 on a single machine."""
    if cluster.machines == 1:
        return 0.0
    return bytes_sent(size, cluster.machines if hierarchical else cluster.workers)


def buckets(layers: Sequence[Layer], bucket_size: float) -> list[Layer]:
    """Packs layers, in the order in which the backward pass ends with them, into buckets of `bucket_size` bytes.

    This is TensorFlow's rule (`bytes_per_pack`): a bucket is closed when it has more; 0 makes one bucket of all.

    Args:
        layers: in the order of the forward pass.
        bucket_size: bytes; 0 for a single bucket.
    """
    packs: list[list[Layer]] = []
    for layer in reversed(layers):
        if not packs or (bucket_size and sum(other.size for other in packs[-1]) > bucket_size):
            packs.append([])
        packs[-1].append(layer)
    return [Layer(pack[0].name, sum(x.size for x in pack), sum(x.seconds for x in pack)) for pack in packs]


def overlapped_step(forward: float, packs: Sequence[Layer], reduce: Callable[[float], float]) -> float:
    """Seconds of a step in which a bucket is reduced as soon as it is whole and the one before it is done.

    Args:
        forward: seconds of the forward pass.
        packs: the buckets, in the order of the backward pass.
        reduce: seconds to all-reduce so many bytes.
    """
    computed = reduced = forward
    for pack in packs:
        computed += pack.seconds
        reduced = max(computed, reduced) + reduce(pack.size)
    return max(computed, reduced)


def uniform_step(forward: float, backward: float, count: int, reduce_one: float) -> float:
    """The closed form of `overlapped_step` for `count` equal buckets."""
    return forward + max(backward + reduce_one, backward / count + count * reduce_one)


def simulate(
    forward: float,
    packs: Sequence[Layer],
    workers: int,
    link: Link,
    jitter: float = 0.0,
    steps: int = 1,
    seed: int = 0,
) -> float:
    """Simulates workers that exchange messages in a ring, and returns the mean seconds of a step.

    Nothing of the closed forms is in it: each worker computes its buckets one after the other, and sends a message to
    its right neighbour when it has computed the bucket, has received the message that the next one builds on, and its
    link is free. Buckets are reduced in order. The step ends when the slowest worker has everything.

    Args:
        forward: seconds of the forward pass.
        packs: the buckets, in the order of the backward pass.
        workers: in the ring.
        link: between neighbours.
        jitter: standard deviation of the computing time of a worker in a step, as a share of it.
        steps: how many to average.
        seed: of the jitter.
    """
    chance = random.Random(seed)
    total = 0.0
    for _ in range(steps):
        pace = [max(0.0, chance.gauss(1.0, jitter)) for _ in range(workers)]
        total += _simulate_step(forward, packs, workers, link, pace)
    return total / steps


def _simulate_step(forward: float, packs: Sequence[Layer], workers: int, link: Link, pace: Sequence[float]) -> float:
    ready = []  # of each worker: when it has computed each bucket
    for slowness in pace:
        computed, times = slowness * forward, []
        for pack in packs:
            computed += slowness * pack.seconds
            times.append(computed)
        ready.append(times)
    end = max(times[-1] if times else slowness * forward for times, slowness in zip(ready, pace, strict=True))
    rounds = 2 * (workers - 1)  # first the sums go round, then the results
    if not rounds or not packs:
        return end
    # The next message of each worker: bucket and round; and how many messages have come from its left neighbour.
    bucket, turn = [0] * workers, [0] * workers
    received = [0] * workers
    busy = [False] * workers
    events: list[tuple[float, int, str]] = [(ready[worker][0], worker, "computed") for worker in range(workers)]
    heapq.heapify(events)
    while events:
        now, worker, what = heapq.heappop(events)
        if what == "arrived":
            # Sending and arriving end together: the link of the left neighbour is free again.
            received[worker] += 1
            left = (worker - 1) % workers
            busy[left] = False
            end = max(end, now)
            candidates: tuple[int, ...] = (left, worker)
        else:
            candidates = (worker,)
        for sender in candidates:
            if busy[sender] or bucket[sender] == len(packs) or now < ready[sender][bucket[sender]]:
                continue
            # A message builds on the one that came in the round before; the first of a bucket on all of the last one.
            if received[sender] < bucket[sender] * rounds + turn[sender]:
                continue
            seconds = link.latency + packs[bucket[sender]].size / workers / link.bytes_per_second
            heapq.heappush(events, (now + seconds, (sender + 1) % workers, "arrived"))
            busy[sender] = True
            turn[sender] += 1
            if turn[sender] == rounds:
                bucket[sender], turn[sender] = bucket[sender] + 1, 0
                if bucket[sender] < len(packs):
                    heapq.heappush(events, (max(now, ready[sender][bucket[sender]]), sender, "computed"))
    return end
