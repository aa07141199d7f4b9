"""Training and inference of ResNet50 (224 × 224, batch 16, ten classes, Adam) beside plain Keras and eager PyTorch.

    python benchmarks/resnet_training.py [--torch_python /path/to/python/with/torch] [--rounds 3] [--batch 16]

Every contender runs in a process of its own, one after the other, round by round, so that they meet the same machine.
All train on one batch that stays in memory: ours through the product's own loop; plain Keras is KerasHub's
`ResNetImageClassifier`, compiled and fitted; PyTorch is torch_resnet.py. Prints medians by the clock, and in processor
time. What takes the time: `ONEDNN_VERBOSE=1 python benchmarks/resnet_training.py --contender "ours bf16" | \
python benchmarks/onednn_times.py`.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from contenders import show, side_by_side

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
CLASSES = 10


def main() -> None:
    """Runs all contenders and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch_python", default=sys.executable, help="an interpreter that has torch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="steps timed in one round")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--contender", help='run one alone: ours or keras, fp32 or bf16, such as "ours bf16"')
    arguments = parser.parse_args()
    if arguments.contender:
        measure(arguments.contender, arguments.steps, arguments.batch, arguments.size)
        return
    numbers = [str(arguments.steps), str(arguments.batch), str(arguments.size)]
    options = [text for pair in zip(("--steps", "--batch", "--size"), numbers, strict=True) for text in pair]
    commands = {}
    for precision in ("bf16", "fp32"):
        for name, contender in (("tfbigmodel", "ours"), ("plain Keras fit", "keras")):
            commands[f"{name}, {precision}"] = [
                *(sys.executable, __file__, "--contender", f"{contender} {precision}"), *options
            ]  # fmt: skip
        peer = str(Path(__file__).with_name("torch_resnet.py"))
        commands[f"PyTorch eager, {precision}"] = [arguments.torch_python, peer, precision, *numbers]
    show(side_by_side(commands, arguments.rounds), by_clock=True)


def measure(contender: str, steps: int, batch: int, size: int) -> None:
    """Prints milliseconds by the clock and in processor time, of a training step and of an inference."""
    import numpy as np
    import tensorflow as tf

    layer, precision = contender.split()
    dtype = "mixed_bfloat16" if precision == "bf16" else "float32"
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, size, size, 3)).astype(np.float32)
    labels = rng.integers(0, CLASSES, batch).astype(np.int32)
    dataset = tf.data.Dataset.from_tensors(({"image": images}, labels)).repeat()
    train, model = ours(dataset, batch, size, dtype) if layer == "ours" else plain_keras(dataset, size, dtype)
    batches = iter(dataset)

    @tf.function
    def infer(count: tf.Tensor) -> tf.Tensor:
        logits = tf.zeros([batch, CLASSES])
        for _ in tf.range(count):
            logits = model(next(batches)[0], training=False)
        return logits

    for run in (train, lambda count: infer(tf.constant(count)).numpy()):
        run(2)
        started, used = time.perf_counter(), time.process_time()
        run(steps)
        print(1e3 * (time.perf_counter() - started) / steps, 1e3 * (time.process_time() - used) / steps)


def ours(dataset, batch: int, size: int, dtype: str):
    """The chapter in the product's own training graph."""
    import keras
    import tensorflow as tf

    from pipelines.data import DatasetInfo
    from tfbigmodel.chapters.resnet50 import ResNet50Config, build, task
    from tfbigmodel.training.loop import UpdateRule, make_train_steps

    info = DatasetInfo(
        task="classification",
        inputs={"image": (size, size, 3)},
        input_dtypes={"image": "float32"},
        counts={},
        class_names=tuple("0123456789"),
    )
    config = ResNet50Config(chapter="resnet50")
    model = build(config, info, dtype, 1)
    strategy = tf.distribute.get_strategy()
    train_steps = make_train_steps(model, keras.optimizers.Adam(1e-3), task(config, info), strategy, UpdateRule(batch))
    iterator = iter(dataset)
    return lambda count: train_steps(iterator, count), model


def plain_keras(dataset, size: int, dtype: str):
    """KerasHub's network as a user would fit it."""
    import keras
    import keras_hub

    from tfbigmodel.chapters.resnet50 import ARCHITECTURE

    backbone = keras_hub.models.ResNetBackbone(**ARCHITECTURE, image_shape=(size, size, 3), dtype=dtype)
    image = keras.Input((size, size, 3), name="image")
    x = keras.layers.GlobalAveragePooling2D(dtype=dtype)(backbone(image))
    model = keras.Model({"image": image}, keras.layers.Dense(CLASSES, dtype="float32")(x))
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return lambda count: model.fit(dataset, steps_per_epoch=count, verbose=0), model


if __name__ == "__main__":
    main()
