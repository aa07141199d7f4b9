"""What saving costs: training steps of BERT-base with and without a checkpoint every N steps.

    python benchmarks/checkpointing.py [--steps 50] [--rounds 3] [--batch_size 16] [--length 128] [--precision bf16]

Stretches of `--steps` updates are made in turn: without saving, with a checkpoint written by a thread while they go on,
and with one that training waits for. All are in one process and through the product's own graph and `CheckpointSaver`;
AdamW, 110 million weights, so that a checkpoint has 1.3 GB. Prints the time of a stretch of each kind, what saving adds
to it, and what the step waits for (the copy); by the clock, and in processor time, which means more where other work
shares the machine. With a smaller batch the stretches are shorter and the share is larger
than it would be; the seconds that a checkpoint adds do not depend on the batch.

Measured so (two cores with nothing else on them, --rounds 1): fifty updates of 16 x 128 take 154.3 s, 155.3 s with a
checkpoint in a thread (0.7 % more) and 156.7 s with one that is waited for (1.5 %); the copy takes 0.3 s. With
--steps 20 --rounds 2 --batch_size 4 --length 64 a checkpoint took 3.7 s of processor time, beside other work.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Runs the stretches in turn and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=50, help="updates between two checkpoints")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--num_layers", type=int, default=12, help="12 are BERT-base")
    parser.add_argument("--folder", help="where checkpoints are written; a temporary folder if not given")
    arguments = parser.parse_args()

    folder = Path(tempfile.mkdtemp(dir=arguments.folder, prefix="checkpointing-"))
    try:
        measure(arguments, folder)
    finally:
        shutil.rmtree(folder)


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Trains, and prints what was measured."""
    import keras
    import numpy as np
    import tensorflow as tf

    from pipelines.data import DatasetInfo, TextInfo
    from tfbigmodel.chapters.bert import BackboneConfig
    from tfbigmodel.chapters.bert_classifier import BertClassifierConfig, build, task
    from tfbigmodel.training.loop import UpdateRule, make_train_steps
    from tfbigmodel.training.saving import CheckpointSaver

    names = ("token_ids", "segment_ids", "padding_mask")
    special_ids = {"pad": 0, "unknown": 100, "start": 101, "end": 102, "mask": 103}
    info = DatasetInfo(
        task="classification",
        inputs=dict.fromkeys(names, (None,)),
        input_dtypes=dict.fromkeys(names, "int32"),
        counts={},
        class_names=("negative", "positive"),
        text=TextInfo(30_522, arguments.length, special_ids),
    )
    backbone = BackboneConfig(num_layers=arguments.num_layers)
    config = BertClassifierConfig(chapter="bert_classifier", backbone=backbone)
    model = build(config, info, "mixed_bfloat16" if arguments.precision == "bf16" else "float32", 1)
    optimizer = keras.optimizers.AdamW(2e-5)
    rule = UpdateRule(arguments.batch_size)
    train_steps = make_train_steps(model, optimizer, task(config, info), tf.distribute.get_strategy(), rule)
    random = np.random.default_rng(1)
    shape = (arguments.batch_size, arguments.length)
    features = {
        "token_ids": tf.constant(random.integers(1_000, 30_000, shape), tf.int32),
        "segment_ids": tf.zeros(shape, tf.int32),
        "padding_mask": tf.ones(shape, tf.int32),
    }
    labels = tf.constant(random.integers(0, 2, arguments.batch_size), tf.int32)
    batches = iter(tf.data.Dataset.from_tensors((features, labels)).cache().repeat())
    train_steps(batches, 2)

    updates, waits = 0, []
    seconds: dict[str, list[tuple[float, float]]] = {"none": [], "in a thread": [], "waited for": []}
    savers = {
        "in a thread": CheckpointSaver(folder / "thread", keep=2),
        "waited for": CheckpointSaver(folder / "waited", keep=2, asynchronous=False),
    }
    for saver in savers.values():  # the first one makes the memory for the copies, once in a run
        saver.save(updates, saver.read(model.variables, optimizer.variables), {"monitor": None})
        saver.wait()
    size = sum(path.stat().st_size for path in folder.glob("thread/step-*/*"))
    for _ in range(arguments.rounds):
        for kind in seconds:
            started, processor = time.perf_counter(), time.process_time()
            updates += 1
            if kind in savers:
                arrays = savers[kind].read(model.variables, optimizer.variables)
                if kind == "in a thread":
                    waits.append(time.perf_counter() - started)
                savers[kind].save(updates, arrays, {"monitor": None})
            train_steps(batches, arguments.steps)
            if kind in savers:
                savers[kind].wait()
            seconds[kind].append((time.perf_counter() - started, time.process_time() - processor))
    stretch = f"{arguments.steps} updates of {arguments.batch_size} x {arguments.length}, {arguments.precision}"
    print(f"{model.count_params():,} weights, {size / 1e9:.2f} GB a checkpoint; {stretch}; {arguments.rounds} rounds")
    print(f"{'checkpoint':16}{'seconds':>10}{'added':>10}{'share':>10}{'processor':>12}{'added':>10}{'share':>10}")
    for kind, values in seconds.items():
        line = f"{kind:16}"
        for place, width in ((0, 10), (1, 12)):
            plain = statistics.median(none[place] for none in seconds["none"])
            # Of the stretches that followed each other, since a machine's speed drifts.
            added = statistics.median(
                value[place] - none[place] for value, none in zip(values, seconds["none"], strict=True)
            )
            line += (
                f"{statistics.median(value[place] for value in values):{width}.2f}{added:10.2f}{added / plain:10.2%}"
            )
        print(line)
    print(f"the step waits for the copy: {statistics.median(waits):.2f} s")


if __name__ == "__main__":
    main()
