"""Images per second of the input pipeline alone: read, decode, resize to 224 × 224, augment, normalise.

    python benchmarks/image_pipeline.py [--images 512] [--epochs 2] [--size 224]

Makes a temporary folder of JPEGs of 500 × 375 pixels, as photographs on the web are, and reads it through `pipelines`
as training does, beside the training step that it feeds. The pictures are smooth, with a little noise, and take about
as many bytes as photographs do.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 500, 375
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "decode, resize": {},
    "+ flip, rotation, crop": {"horizontal_flip": True, "rotation": 15.0, "crop_area": 0.35},
    "+ flip, RandAugment": {"horizontal_flip": True, "rand_augment": {}},
    "+ flip, crop, mixup, cutmix, erasing": {
        "horizontal_flip": True,
        "crop_area": 0.35,
        "mixup": 0.2,
        "cutmix": 1.0,
        "random_erasing": 0.25,
    },
}


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512, help="pictures in the folder")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="height and width that the model sees")
    parser.add_argument("--epochs", type=int, default=3, help="epochs timed for each row; the median counts")
    arguments = parser.parse_args()
    print(f"{'':40}{'images/s':>10}{'least':>9}{'most':>9}{'CPU ms/image':>14}{'/ training':>12}")
    with tempfile.TemporaryDirectory() as folder:
        kilobytes = make_pictures(Path(folder), arguments.images) / arguments.images / 1024
        step = training_rate(arguments.size, arguments.batch_size)
        for name, augmentation in AUGMENTATIONS.items():
            data = load(Path(folder), arguments.size, arguments.batch_size, augmentation)
            rates, cpu = measure(data, arguments.epochs)
            median = statistics.median(rates)
            print(
                f"{name:40}{median:10,.0f}{min(rates):9,.0f}{max(rates):9,.0f}{1e3 * cpu:14.2f}{median / step:11.1f}×"
            )
        print(f"{'ResNet50 training, bfloat16':40}{step:10,.1f}")
    print(f"{WIDTH} × {HEIGHT} pixels to {arguments.size} × {arguments.size}; {kilobytes:.0f} KiB a picture")


def training_rate(size: int, batch_size: int) -> float:
    """Images per second of ResNet50's training step, which the pipeline feeds, without a pipeline."""
    command = [sys.executable, str(Path(__file__).with_name("resnet_training.py")), "--contender", "ours bf16"]
    command += ["--size", str(size), "--batch", str(batch_size)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return 1e3 * batch_size / float(printed[-4])


def make_pictures(folder: Path, number: int) -> int:
    """Writes JPEGs into two folders of classes below `folder/pictures`; returns their bytes in all."""
    import numpy as np
    import tensorflow as tf

    random = np.random.default_rng(0)
    size = 0
    for index in range(number):
        coarse = random.integers(0, 256, (24, 32, 3)).astype(np.float32)
        smooth = tf.image.resize(coarse, [HEIGHT, WIDTH], "bicubic") + random.normal(0, 6, (HEIGHT, WIDTH, 3))
        content = tf.io.encode_jpeg(tf.cast(tf.clip_by_value(smooth, 0, 255), tf.uint8), quality=85).numpy()
        path = folder / "pictures" / f"class {index % 2}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        size += len(content)
    return size


def load(folder: Path, size: int, batch_size: int, augmentation: dict[str, Any]) -> Any:
    """The pictures as `Data`, all of them to train on."""
    import pipelines
    from pipelines.config import ImageFolderConfig

    config = {
        "source": "image_folder",
        "data_dir": folder,
        "path": "pictures",
        "cache_dir": folder / "cache",
        "batch_size": batch_size,
        "split": {"validation": 0.0, "test": 0.0},
        "images": {"size": size, "normalization": "imagenet"},
        "augmentation": augmentation,
    }
    return pipelines.load(ImageFolderConfig.model_validate(config))


def measure(data: Any, epochs: int) -> tuple[list[float], float]:
    """Images per second of every epoch, and the CPU's seconds for one image, in one iterator as training has it."""
    iterator = iter(data.train(epochs=epochs + 1))
    images = data.steps_per_epoch * data.batch_size
    for _ in range(data.steps_per_epoch):  # the number of parallel calls is found on the way
        next(iterator)
    rates, cpu_started = [], time.process_time()
    for _ in range(epochs):
        started = time.perf_counter()
        for _ in range(data.steps_per_epoch):
            next(iterator)
        rates.append(images / (time.perf_counter() - started))
    return rates, (time.process_time() - cpu_started) / images / epochs


if __name__ == "__main__":
    main()
