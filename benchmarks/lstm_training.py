"""Training and inference of the lstm chapter (256/512, length 128, batch 64) beside Keras' LSTM and eager PyTorch.

    python benchmarks/lstm_training.py [--torch_python /path/to/python/with/torch] [--rounds 3] [--both] [--threads 1]

Every contender runs in a process of its own, one after the other, round by round, so that they meet the same machine.
All train on one batch that stays in memory, without padding, which PyTorch would not skip either; ours through the
product's own loop, Keras' layer in the same loop in place of ours. Prints medians by the clock, and in processor time,
which means more where the machine is shared; `--threads 1` makes both comparable there, since PyTorch's threads burn
time waiting for each other.

Measured so on a busy machine (one thread, milliseconds of processor time): a training step of ours takes 280–304 in
bfloat16 and 695–716 in float32; of eager PyTorch 271–308 and 765–801; of Keras' LSTM in our loop 780–811 and 950–979.
An inference takes 80 and 218–227; 55–60 and 195; 239–257 and 219.
"""

import argparse
import sys
import time
from pathlib import Path

from contenders import show, side_by_side

BATCH, LENGTH, VOCABULARY = 64, 128, 10_000


def main() -> None:
    """Runs all contenders and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", default=sys.executable, help="an interpreter that has torch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="steps timed in one round")
    parser.add_argument("--both", action="store_true", help="bidirectional")
    parser.add_argument("--threads", type=int, default=0, help="threads of each contender; 0 for its own choice")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        measure(arguments.contender, arguments.steps, arguments.both, arguments.threads)
        return
    commands = {}
    for precision in ("fp32", "bf16"):
        for layer in ("ours", "keras"):
            name = "tfbigmodel" if layer == "ours" else "Keras' LSTM, our loop"
            command = [sys.executable, __file__, "--contender", f"{layer} {precision}", "--steps", str(arguments.steps)]
            command += ["--threads", str(arguments.threads), *(["--both"] if arguments.both else [])]
            commands[f"{name}, {precision}"] = command
        peer = [arguments.torch_python, str(Path(__file__).with_name("torch_lstm.py")), precision, str(arguments.steps)]
        peer += ["both" if arguments.both else "one", *([str(arguments.threads)] if arguments.threads else [])]
        commands[f"PyTorch eager, {precision}"] = peer
    show(side_by_side(commands, arguments.rounds), by_clock=arguments.threads != 1)


def measure(contender: str, steps: int, both: bool, threads: int) -> None:
    """Prints milliseconds by the clock and in processor time, of a training step and of an inference."""
    import keras
    import numpy as np
    import tensorflow as tf

    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)

    from pipelines.data import DatasetInfo, TextInfo
    from tfbigmodel.chapters.lstm import LstmConfig, build, task
    from tfbigmodel.training.loop import UpdateRule, make_train_steps

    layer, precision = contender.split()
    special_ids = {"pad": 0, "unknown": 1, "start": 2, "end": 3, "mask": 4}
    names = ("token_ids", "padding_mask")
    info = DatasetInfo(
        task="classification",
        inputs=dict.fromkeys(names, (None,)),
        input_dtypes=dict.fromkeys(names, "int32"),
        counts={},
        class_names=("negative", "positive"),
        text=TextInfo(VOCABULARY, LENGTH, special_ids),
    )
    config = LstmConfig(chapter="lstm", bidirectional=both)
    dtype = "mixed_bfloat16" if precision == "bf16" else "float32"
    model = build(config, info, dtype, 1) if layer == "ours" else keras_model(both, dtype)
    optimizer = keras.optimizers.Adam(1e-3)
    strategy = tf.distribute.get_strategy()
    train_steps = make_train_steps(model, optimizer, task(config, info), strategy, UpdateRule(BATCH))
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, VOCABULARY, (BATCH, LENGTH), np.int32)
    features = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    dataset = tf.data.Dataset.from_tensors((features, np.arange(BATCH, dtype=np.int32) % 2)).repeat()
    iterator = iter(dataset)

    @tf.function
    def infer(count: tf.Tensor) -> tf.Tensor:
        logits = tf.zeros([BATCH, 2])
        for _ in tf.range(count):
            logits = model(next(iterator)[0], training=False)
        return logits

    for run in (lambda count: train_steps(iterator, count), lambda count: infer(tf.constant(count)).numpy()):
        run(2)
        started, used = time.perf_counter(), time.process_time()
        run(steps)
        print(1e3 * (time.perf_counter() - started) / steps, 1e3 * (time.process_time() - used) / steps)


def keras_model(both: bool, dtype: str):
    """The same network with Keras' own LSTM."""
    import keras

    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in ("token_ids", "padding_mask")}
    x = keras.layers.Embedding(VOCABULARY, 256)(inputs["token_ids"])
    lstm = keras.layers.LSTM(512, dtype=dtype)
    x = keras.layers.Bidirectional(lstm, dtype=dtype)(x) if both else lstm(x)
    return keras.Model(inputs, keras.layers.Dense(2, dtype="float32")(x))


if __name__ == "__main__":
    main()
