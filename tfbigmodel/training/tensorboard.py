"""What TensorBoard shows of a run: curves, the graph, histograms, images, hyperparameters.

`<workdir>/tensorboard/train` and `…/validation` hold the same tags, so that their curves share a chart; `loss`,
`accuracy` … are drawn over updates, `epoch_loss`, `epoch_accuracy` … over epochs.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins.hparams import api as hparams

from tfbigmodel.training.loop import StepResults


def take_back(folder: Path, state: Mapping[str, Any]) -> None:
    """Removes the points that were written after a checkpoint: the run that goes on from there writes them again.

    Args:
        folder: `<workdir>/tensorboard`, which nothing writes to.
        state: the checkpoint's.
    """
    sizes = state.get("event_files")
    if sizes is None:  # it was written before this was kept
        return
    for name, path in _event_files(folder).items():
        if name not in sizes:
            path.unlink()
        elif path.stat().st_size > sizes[name]:
            os.truncate(path, sizes[name])


def _event_files(folder: Path) -> dict[str, Path]:
    paths = [path for split in ("train", "validation") for path in folder.glob(f"{split}/events.out.tfevents.*")]
    return {path.relative_to(folder).as_posix(): path for path in paths}


class TensorBoard:
    """Writes event files below one folder.

    Args:
        folder: `<workdir>/tensorboard`.
        every_steps: updates between two points of the training curves; each point is the mean since the last.
        histograms: write every weight's histogram at the end of each epoch.

    Attributes:
        window: what the next point of the training curves will be the mean of, name → [weighted total, total weight].
    """

    def __init__(self, folder: Path, every_steps: int, histograms: bool) -> None:
        self.folder = folder
        self._every_steps = every_steps
        self._histograms = histograms
        self._train = tf.summary.create_file_writer(str(folder / "train"))
        self._validation = tf.summary.create_file_writer(str(folder / "validation"))
        self.window: dict[str, list[float]] = {}

    def start(self, config: Mapping[str, Any], model: keras.Model, inputs: Mapping[str, tf.TensorSpec]) -> None:
        """Writes hyperparameters and the model's graph, once at the start of a run.

        Args:
            config: the configuration, as nested values.
            model: a plain model, not made under a strategy.
            inputs: a spec for each of its inputs.
        """
        with tf.summary.create_file_writer(str(self.folder)).as_default():
            hparams.hparams(dict(_scalars(config)))
        graph = tf.function(lambda features: model(features, training=False)).get_concrete_function(dict(inputs)).graph
        with self._train.as_default():
            tf.summary.graph(graph.as_graph_def())

    def steps(self, updates: int, results: StepResults, learning_rate: float, examples_per_second: float) -> None:
        """Adds an execution's steps to the training curves.

        Args:
            updates: updates done after the execution.
            results: the execution's steps.
            learning_rate: of the next update.
            examples_per_second: training throughput of the execution.
        """
        first = updates - len(results.loss)
        with self._train.as_default():
            for index in range(len(results.loss)):
                self._count("loss", results.loss[index], 1.0)
                self._count("gradient_norm", results.gradient_norm[index], 1.0)
                for name in results.totals:
                    self._count(name, results.totals[name][index], results.counts[name][index])
                if (first + index + 1) % self._every_steps == 0:
                    self._write_window(first + index + 1)
            if updates // self._every_steps > first // self._every_steps:
                tf.summary.scalar("learning_rate", learning_rate, updates)
                tf.summary.scalar("examples_per_second", examples_per_second, updates)

    def validation(self, updates: int, metrics: Mapping[str, float]) -> None:
        """Adds a point to the validation curves over updates."""
        with self._validation.as_default():
            for name, value in metrics.items():
                tf.summary.scalar(name, value, updates)

    def epoch(self, epoch: int, updates: int, logs: Mapping[str, float], model: keras.Model) -> None:
        """Adds an epoch's means to the curves over epochs, and weight histograms.

        Args:
            epoch: the epoch that ended, from 0.
            updates: updates done.
            logs: losses and metrics; those of validation start with `val_`.
            model: the model, for histograms.
        """
        validation = {name.removeprefix("val_"): value for name, value in logs.items() if name.startswith("val_")}
        self.validation(updates, validation)
        with self._validation.as_default():
            for name, value in validation.items():
                tf.summary.scalar(f"epoch_{name}", value, epoch)
        with self._train.as_default():
            for name, value in logs.items():
                if not name.startswith("val_"):
                    tf.summary.scalar(f"epoch_{name}", value, epoch)
            if self._histograms:
                for weight in model.weights:
                    tf.summary.histogram(weight.path, keras.ops.convert_to_numpy(weight), epoch)
        self.flush()

    def image(self, name: str, image: np.ndarray, step: int, of_training: bool = False) -> None:
        """Shows an image.

        Args:
            name: its tag.
            image: uint8, `(height, width, channels)`.
            step: the update it belongs to.
            of_training: it is of the training split, and goes with its curves.
        """
        with (self._train if of_training else self._validation).as_default():
            tf.summary.image(name, image[None], step)
        self.flush()

    def flush(self) -> None:
        """Makes everything written so far visible to TensorBoard."""
        self._train.flush()
        self._validation.flush()

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of the curves; they reach as far as it does, whatever happens next."""
        self.flush()
        sizes = {name: path.stat().st_size for name, path in _event_files(self.folder).items()}
        return {"tensorboard": self.window, "event_files": sizes}

    def close(self) -> None:
        """Closes the event files."""
        self._train.close()
        self._validation.close()

    def _count(self, name: str, total: float, weight: float) -> None:
        before = self.window.get(name, [0.0, 0.0])
        self.window[name] = [before[0] + float(total), before[1] + float(weight)]

    def _write_window(self, updates: int) -> None:
        for name, (total, weight) in self.window.items():
            if weight:
                tf.summary.scalar(name, total / weight, updates)
        self.window = {}


def _scalars(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, bool | float | str]]:
    # TensorBoard compares numbers, truth values and texts; what is unset says nothing.
    pairs: list[tuple[str, bool | float | str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            pairs.extend(_scalars(value, f"{prefix}{key}."))
        elif value is not None:
            pairs.append((prefix + key, value if isinstance(value, (bool, int, float, str)) else str(value)))
    return pairs
