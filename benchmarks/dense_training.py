"""Training throughput of the dense chapter (784-500-10, batch 64, Adam) beside plain Keras and eager PyTorch.

    python benchmarks/dense_training.py [--torch_python /path/to/python/with/torch] [--rounds 5]

Every contender runs in a process of its own, one after the other, round by round, so that they meet the same machine.
PyTorch trains on one batch that stays in memory (benchmarks/torch_dense.py); ours and Keras' `fit` read theirs through
the whole pipeline, from 60,000 random images in memory: gather, scale, shuffle. Prints medians.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

BATCH = 64
EXAMPLES = 60_000


def main() -> None:
    """Runs all contenders and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", default=sys.executable, help="an interpreter that has torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000, help="steps timed in one round")
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        print(CONTENDERS[arguments.contender](arguments.steps))
        return
    commands = {name: [sys.executable, __file__, "--contender", name] for name in CONTENDERS}
    commands = {name: [*command, "--steps", str(arguments.steps)] for name, command in commands.items()}
    peer = str(Path(__file__).with_name("torch_dense.py"))
    for precision in ("fp32", "bf16"):
        commands[f"PyTorch eager, {precision}"] = [arguments.torch_python, peer, precision, str(arguments.steps)]
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(arguments.rounds):
        for name, command in commands.items():
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode == 0:
                times[name].append(float(result.stdout.split()[0]))
    print(f"{'':36}{'ms/step':>9}{'least':>9}{'most':>9}{'examples/s':>13}{'vs PyTorch fp32':>17}")
    peer_times = times["PyTorch eager, fp32"]
    for name, values in times.items():
        if not values:
            print(f"{name:36}  not measured: {commands[name][0]} lacks what it needs")
            continue
        median = statistics.median(values)
        ratio = f"{statistics.median(peer_times) / median:16.2f}×" if peer_times else ""
        print(f"{name:36}{median:9.2f}{min(values):9.2f}{max(values):9.2f}{1e3 * BATCH / median:13,.0f}{ratio}")


def ours(steps: int, jit_compile: bool, dropout: float = 0.0, precision: str = "float32") -> float:
    """Milliseconds of our loop's step."""
    import tensorflow as tf

    from tfbigmodel.config import validate_config
    from tfbigmodel.model import build_model, make_task
    from tfbigmodel.training.loop import make_train_steps
    from tfbigmodel.training.optimizers import make_optimizer
    from tfbigmodel.training.rule import make_rule

    config = validate_config(
        {
            "data": {"source": "builtin", "name": "digits"},  # replaced by random images of MNIST's size
            "model": {"chapter": "dense", "hidden_units": [500], "dropout": dropout},
            "training": {"jit_compile": jit_compile, "precision": precision},
        },
        "benchmark",
    )
    data = random_images()
    strategy = tf.distribute.get_strategy()
    model = build_model(config, data.info)
    optimizer = make_optimizer(
        config.training.optimizer,
        config.training.schedule,
        model.trainable_variables,
        steps_per_epoch=1,
        total_steps=1,
    )
    rule = make_rule(config, data.info, strategy)
    train_steps = make_train_steps(model, optimizer, make_task(config, data.info), strategy, rule)
    iterator = iter(data.train(epochs=1000))
    train_steps(iterator, 50)
    started = time.perf_counter()
    train_steps(iterator, steps)
    return 1e3 * (time.perf_counter() - started) / steps


def keras_fit(steps: int, jit_compile: bool) -> float:
    """Milliseconds of a step of `keras.Model.fit`, on the same pipeline."""
    import keras

    data = random_images()
    model = keras.Sequential(
        [keras.layers.Flatten(), keras.layers.Dense(500, activation="relu"), keras.layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"], jit_compile=jit_compile, steps_per_execution=50)
    dataset = data.train(epochs=1000).map(lambda features, label: (features["image"], label))
    model.fit(dataset, steps_per_epoch=50, verbose=0)
    started = time.perf_counter()
    model.fit(dataset, steps_per_epoch=steps, verbose=0)
    return 1e3 * (time.perf_counter() - started) / steps


def random_images():
    """60,000 random images of MNIST's size as `Data`."""
    import numpy as np

    from pipelines.config import BuiltinConfig
    from pipelines.data import Examples
    from pipelines.sources.arrays import image_data

    rng = np.random.default_rng(0)
    config = BuiltinConfig(source="builtin", name="digits", batch_size=BATCH)

    def examples(count: int) -> Examples:
        pixels = rng.integers(0, 256, (count, 28, 28, 1), np.uint8)
        labels = np.arange(count, dtype=np.int32) % 10
        return Examples({"pixels": pixels}, labels, "random", np.arange(count))

    splits = {"train": examples(EXAMPLES), "validation": examples(100), "test": examples(100)}
    return image_data(splits, [str(digit) for digit in range(10)], "label", config)


CONTENDERS = {
    "tfbigmodel, XLA (its choice)": lambda steps: ours(steps, True),
    "tfbigmodel, no XLA": lambda steps: ours(steps, False),
    "tfbigmodel, XLA, bfloat16": lambda steps: ours(steps, True, precision="mixed_bfloat16"),
    "tfbigmodel, dropout, no XLA (choice)": lambda steps: ours(steps, False, 0.2),
    "tfbigmodel, dropout, XLA": lambda steps: ours(steps, True, 0.2),
    "Keras fit, XLA": lambda steps: keras_fit(steps, True),
    "Keras fit, no XLA": lambda steps: keras_fit(steps, False),
}

if __name__ == "__main__":
    main()
