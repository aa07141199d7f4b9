"""The tensors of a step: closed forms, and what TensorFlow's allocator counts when the step runs."""

import keras
import pytest
import tensorflow as tf

from pipelines.errors import UserError
from tfbigmodel.cost.graph import Frame
from tfbigmodel.cost.machine import PeakMemory, host_memory, host_memory_in_use
from tfbigmodel.cost.memory import step_memory

FLOAT = 4
MIB = 2**20


def gradients_of(model, inputs):
    """A traced step whose first result is the loss, with what it depends on, and the concrete function."""

    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(model(x, training=True)))
        return loss, tape.gradient(loss, model.trainable_variables)

    model(inputs)
    concrete = tf.function(step, autograph=False).get_concrete_function(inputs)
    frame = Frame(concrete.graph)
    return step_memory(frame, frame.needed_by([concrete.outputs[0].op], order=False)), concrete


def test_what_the_backward_pass_reads_is_kept():
    model = keras.Sequential([keras.layers.Dense(50, "tanh"), keras.layers.Dense(20, "tanh"), keras.layers.Dense(5)])
    memory, _ = gradients_of(model, tf.ones([64, 30]))
    # The two layers' outputs, for their own gradients and the next layer's; the last one's for the square's.
    assert memory.kept == 64 * (50 + 20 + 5) * FLOAT
    assert memory.unknown == []


def test_the_most_that_is_alive_is_found():
    @tf.function(autograph=False)
    def chain(x):
        a = tf.transpose(x)  # new memory each: no two of them are needed together with a third
        b = tf.transpose(a)
        c = tf.transpose(b)
        return tf.reduce_sum(c)

    memory = step_memory(Frame(chain.get_concrete_function(tf.TensorSpec([100, 100])).graph), ())
    constants = 2 * 4 + 3 * 2 * 4  # the axes to add up over, the orders of the axes
    assert memory.peak == pytest.approx(2 * 100 * 100 * FLOAT, abs=constants + 16)


def test_simple_operations_write_over_what_nobody_reads_any_more():
    chain = tf.function(lambda x: tf.tanh(tf.exp(tf.sin(x))), autograph=False)
    memory = step_memory(Frame(chain.get_concrete_function(tf.TensorSpec([100, 100])).graph), ())
    assert memory.peak == 100 * 100 * FLOAT


def test_a_loops_lists_are_as_long_as_it_runs():
    @tf.function(autograph=False)
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            last = tf.while_loop(lambda i, _: i < 9, lambda i, m: (i + 1, tf.tanh(m)), (0, x))[1]
            loss = tf.reduce_sum(last)
        return loss, tape.gradient(loss, x)

    concrete = step.get_concrete_function(tf.TensorSpec([100, 100]))
    frame = Frame(concrete.graph)
    memory = step_memory(frame, frame.needed_by([concrete.outputs[0].op], order=False))
    assert memory.unknown == []
    assert memory.kept == pytest.approx(9 * 100 * 100 * FLOAT, rel=0.01)


def test_what_is_counted_is_what_the_allocator_counts():
    # Gradients, and what is kept: no more, no less than when it runs, within a fifth.
    model = keras.Sequential([keras.layers.Dense(1000, "tanh") for _ in range(8)])
    inputs = tf.ones([4000, 1000])
    memory, concrete = gradients_of(model, inputs)
    assert memory.kept == pytest.approx(8 * 4000 * 1000 * FLOAT, rel=0.01)
    concrete(inputs)
    taken = []
    for _ in range(5):  # the order in which independent operations run, and with it the peak, is chance
        peak = PeakMemory()
        results = concrete(inputs)
        taken.append(peak.read())
        del results
    assert memory.peak / min(taken) == pytest.approx(1.0, abs=0.2)


def test_peak_memory_begins_anew():
    @tf.function(autograph=False)
    def take(num_bytes, seed):
        return tf.reduce_sum(tf.random.stateless_uniform([num_bytes // FLOAT], seed))

    first = PeakMemory()
    take(tf.constant(64 * MIB), tf.constant([1, 2]))
    assert first.read() >= 64 * MIB
    second = PeakMemory()
    take(tf.constant(8 * MIB), tf.constant([1, 2]))
    assert 8 * MIB <= second.read() < 64 * MIB


def machine(root, meminfo="MemTotal:       1000 kB\n", cgroup="0::/\n", **limits):
    for path, text in {"proc/meminfo": meminfo, "proc/self/cgroup": cgroup, **limits}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


@pytest.mark.parametrize(
    ("cgroup", "limits", "expected"),
    [
        ("0::/\n", {}, 1_024_000),
        ("0::/pod/container\n", {"sys/fs/cgroup/pod/container/memory.max": "max\n"}, 1_024_000),
        ("0::/pod/container\n", {"sys/fs/cgroup/pod/memory.max": "5000\n"}, 5000),
        # Inside a container the mount's top is the container's own group.
        ("0::/\n", {"sys/fs/cgroup/memory.max": "7000\n"}, 7000),
        ("4:memory:/job\n1:cpu:/x\n", {"sys/fs/cgroup/memory/job/memory.limit_in_bytes": "6000\n"}, 6000),
        ("4:memory:/\n", {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2**63 - 1}\n"}, 1_024_000),
    ],
)
def test_a_containers_limit_is_the_machines_memory(tmp_path, cgroup, limits, expected):
    assert host_memory(machine(tmp_path, cgroup=cgroup, **limits)) == expected


def test_this_machine_has_more_memory_than_this_process():
    assert 0 < host_memory_in_use() < host_memory()


def test_a_machine_that_tells_nothing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"memory cannot be read: .*; a Linux machine is expected"):
        host_memory(tmp_path)
