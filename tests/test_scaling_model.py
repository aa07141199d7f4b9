"""The model of scaling: closed forms against the simulation, limits, TensorFlow's own packs, and published figures."""

import math
import random
import sys
from pathlib import Path

import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import scaling
import scaling_measured
from scaling_model import (
    Cluster,
    Layer,
    Link,
    buckets,
    bytes_sent,
    flat_seconds,
    hierarchical_seconds,
    network_bytes,
    overlapped_step,
    ring_seconds,
    simulate,
    uniform_step,
)
from scaling_published import MACHINES, ONE_MACHINE

LINK = Link(1e9, 1e-4)
FAST = Link(math.inf, 0.0)


def random_layers(seed, count=12):
    chance = random.Random(seed)
    return [Layer(str(i), chance.uniform(0, 5e7), chance.uniform(0, 0.02)) for i in range(count)]


def test_bytes_by_hand():
    # Two workers send each other half, then the other half's sum: the whole size. Three: four messages of a third.
    assert [bytes_sent(12, n) for n in (1, 2, 3, 4)] == [0, 12, 16, 18]
    cluster = Cluster(4, 8, FAST, LINK)
    assert network_bytes(32, cluster) == 62
    assert network_bytes(32, cluster, hierarchical=True) == 48
    assert network_bytes(32, Cluster(1, 8, FAST, LINK)) == 0


@pytest.mark.parametrize("workers", [1, 2, 3, 8, 32])
@pytest.mark.parametrize("size", [0.0, 1e3, 1e8])
def test_a_simulated_all_reduce_takes_what_the_ring_s_formula_says(workers, size):
    assert simulate(0.0, [Layer("all", size, 0.0)], workers, LINK) == pytest.approx(ring_seconds(size, workers, LINK))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("bucket", [0, 1e6, 3e7])
def test_the_simulated_step_is_the_formula_s(seed, bucket):
    packs = buckets(random_layers(seed), bucket)
    workers = 2 + seed % 7
    expected = overlapped_step(0.03, packs, lambda size: ring_seconds(size, workers, LINK))
    assert simulate(0.03, packs, workers, LINK) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [1e5, 1e7, 1e9])
@pytest.mark.parametrize("count", [1, 2, 10])
def test_equal_buckets_have_a_closed_form(size, count):
    packs = [Layer("x", size / count, 0.2 / count)] * count
    reduce_one = ring_seconds(size / count, 4, LINK)
    expected = uniform_step(0.1, 0.2, count, reduce_one)
    assert overlapped_step(0.1, packs, lambda _: reduce_one) == pytest.approx(expected)
    assert simulate(0.1, packs, 4, LINK) == pytest.approx(expected)


def test_without_overlap_the_times_add_up():
    layers = random_layers(1)
    size, backward = sum(x.size for x in layers), sum(x.seconds for x in layers)
    step = simulate(0.05, buckets(layers, 0), 8, LINK)
    assert step == pytest.approx(0.05 + backward + ring_seconds(size, 8, LINK))
    overlapping = simulate(0.05, buckets(layers, 2e7), 8, LINK)
    assert 0.05 + backward < overlapping < step


def test_nothing_is_lost_alone_or_over_an_infinitely_fast_network():
    layers = random_layers(2)
    computing = 0.05 + sum(x.seconds for x in layers)
    assert simulate(0.05, buckets(layers, 1e7), 1, LINK) == pytest.approx(computing)
    assert simulate(0.05, buckets(layers, 1e7), 16, FAST) == pytest.approx(computing)
    assert simulate(0.05, [], 4, LINK) == 0.05
    cluster = Cluster(4, 8, FAST, FAST)
    assert flat_seconds(1e9, cluster) == hierarchical_seconds(1e9, cluster) == 0


def test_two_levels_and_one_ring():
    inside, between = Link(1e11, 1e-5), Link(3.125e9, 3e-5)
    cluster = Cluster(4, 8, inside, between)
    flat, hierarchical = flat_seconds(1e8, cluster), hierarchical_seconds(1e8, cluster)
    assert flat == pytest.approx(62 * 3e-5 + 62 / 32 * 1e8 / 3.125e9)
    assert hierarchical == pytest.approx(14e-5 + 14 / 8 * 1e8 / 1e11 + 6 * 3e-5 + 6 / 4 * 1e8 / 3.125e9)
    one = Cluster(1, 8, inside, between)
    assert flat_seconds(1e8, one) == hierarchical_seconds(1e8, one) == ring_seconds(1e8, 8, inside)


def test_one_slow_worker_holds_up_all():
    packs = buckets(random_layers(3), 1e7)
    even = simulate(0.1, packs, 16, FAST)
    uneven = simulate(0.1, packs, 16, FAST, jitter=0.05, steps=50)
    # The mean of the slowest of 16 normal draws is 1.77 standard deviations above the mean.
    assert uneven / even == pytest.approx(1 + 1.77 * 0.05, abs=0.01)
    assert simulate(0.1, packs, 16, FAST, jitter=0.05, steps=50) == uneven


@pytest.mark.parametrize("bytes_per_pack", [0, 1, 4000, 10**9])
def test_tensorflow_packs_gradients_as_the_model_does(bytes_per_pack):
    """And so all of them at once, after the whole backward pass, where nothing else is asked for."""
    sizes = [10, 1000, 20, 300, 2000, 5, 700]
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=bytes_per_pack)

    @tf.function
    def reduce():
        def once():
            values = [tf.ones([size]) for size in sizes]
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values, options)

        return strategy.run(once)

    nodes = [node for node in reduce.get_concrete_function().graph.get_operations() if "CollectiveReduce" in node.type]
    by_device = [node for node in nodes if node.device.endswith("CPU:0")]
    packed = [node.inputs[0].shape.num_elements() for node in by_device]
    expected = buckets([Layer("", 4 * size, 0.0) for size in sizes], bytes_per_pack)
    assert packed == [pack.size / 4 for pack in expected]
    assert bytes_per_pack or len(packed) == 1


def test_eight_gpus_are_published_as_seven_times_one_and_more():
    assert [x.model for x in ONE_MACHINE if x.speed_up < 7] == ["BERT large, length 512"]
    assert {x.model.partition(",")[0] for x in ONE_MACHINE if x.speed_up >= 7} == {"ResNet50", "BERT large"}


def test_the_model_is_near_what_was_published_and_above_it():
    shares = {name: scaling.fitted_share(name) for name in ("tcp", "rdma")}
    assert 0.4 < shares["tcp"] < shares["rdma"] < 1
    for line in ONE_MACHINE:
        modelled = scaling.published_step(line, scaling._one_machine())
        assert 0.8 < line.speed_up / modelled < 1.0
    for line in MACHINES:
        modelled = scaling.published_step(line, scaling._pascal(shares[line.hardware[-4:].strip().lower()]))
        assert 0.85 < line.speed_up / modelled < 1.001
    assert all(0.85 < factor < 1 for factor in scaling.left_out(shares))


def test_latency_and_bandwidth_are_found_again():
    seconds = [(size, ring_seconds(size, 2, LINK)) for size in (4, 10**5, 10**7)]
    latency, rate = scaling_measured.fit(seconds)
    assert latency == pytest.approx(LINK.latency)
    assert rate == pytest.approx(LINK.bytes_per_second)


@pytest.mark.slow
def test_the_tables(capsys):
    scaling.main(["--transport", "rdma", "--jitter", "0.01"])
    text = capsys.readouterr().out
    one, several = text.split("\n4 machines of 8")
    for table, least in ((one, 7.0), (several, 15.0)):
        row = next(line for line in table.splitlines() if line.startswith("resnet50, 224"))
        assert float(row.split()[-1].rstrip("×")) > least
        # Gradients of 25,557,032 weights; 2 (n - 1) / n of them are sent.
        assert "102.23" in row
    assert "437.94" in one  # BERT base: 109,483,778 weights with the head
    assert "178.90" in one
    assert "198.07" in several


@pytest.mark.slow
def test_two_workers_send_what_the_formula_says():
    found = scaling_measured.measure(units=1024, updates=20)
    # Other traffic on the loopback device and TCP's headers add to it; nothing takes away.
    assert 1.0 < found["bytes"] / (2 * bytes_sent(found["gradients"], 2)) < 1.1
