"""All that a run does, on a handful of batches: what would go wrong at the end of the last epoch does so at once."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from pipelines.data import SPLITS, Data
from pipelines.errors import UserError
from tfbigmodel.command_line import say
from tfbigmodel.config import RunConfig, resolve
from tfbigmodel.cost.limited import LimitedData
from tfbigmodel.evaluate import evaluate
from tfbigmodel.export import export
from tfbigmodel.measuring import LABELLED
from tfbigmodel.model import load_data
from tfbigmodel.train import train
from tfbigmodel.training.checkpoints import latest_checkpoint
from tfbigmodel.training.cluster import VARIABLE, cluster_of_environment
from tfbigmodel.training.signals import Interrupted
from tfbigmodel.workdir import Workdir

_TEXT = "一 a"


class _Stopped(Interrupted):
    """The run was left where it is to be gone on with."""


class StopOnce(keras.callbacks.Callback):
    """Leaves a run where its second epoch would begin, the first time that it gets there."""

    def __init__(self) -> None:
        super().__init__()
        self.done = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Leaves, or not."""
        if epoch == 1 and not self.done:
            self.done = True
            raise _Stopped(signal.SIGTERM, 0)


def fast_dev_run(config: RunConfig, batches: int = 2, quiet: bool = False) -> list[str]:
    """Trains, validates, saves, stops, resumes, measures, reports and exports, in a folder that is removed.

    Args:
        config: the run's configuration.
        batches: updates in an epoch, and batches of each other split, at most. There is an epoch for each phase, and
            two where there are no phases: the run is stopped after the first one and gone on with. Several workers go
            through without a stop.
        quiet: print nothing.

    Returns:
        What was done, in words; nothing on the workers of a multi-worker run that are not its chief.

    Raises:
        UserError: what the whole run would raise, sooner.

    Example:
        >>> fast_dev_run(load_config("configs/dense.yaml"))[0]
        'training: 2 epochs of 2 updates'
    """
    config = _shortened(resolve(config))
    cluster = cluster_of_environment(config.training.strategy)
    chief = cluster is None or cluster.is_chief

    def tell(text: str) -> None:
        if chief and not quiet:
            say(text)

    def limit(data: Data) -> Data:
        return LimitedData(data, batches, batches * config.training.gradient_accumulation)

    with _temporary_folder(chief) as folder:
        workdir = Workdir(folder / "run")
        done = []
        callbacks = [StopOnce()] if cluster is None else []
        try:
            train(config, workdir.path, callbacks, progress=not quiet, limit=limit)
        except _Stopped:
            tell("stopped on purpose, to go on from the checkpoint")
            train(config, workdir.path, callbacks, progress=not quiet, limit=limit)
        if not chief:
            return []
        done += _checked(workdir, config, stopped=cluster is None)
        counts = workdir.info().counts
        split = next(split for split in reversed(SPLITS) if counts[split])
        results = evaluate(workdir.path, split, limit=limit)
        baselines = f" beside {', '.join(results['baselines'])}" if results["baselines"] else ""
        done.append(f"measuring on {', '.join(s for s in SPLITS if counts[s])}, and a report on {split}{baselines}")
        version = Path(export(workdir.path, folder / "exported"))
        size = sum(path.stat().st_size for path in version.rglob("*") if path.is_file())
        done.append(f"an export of {size / 2**20:.1f} MiB")
        done.append(f"an answer of the export to {_asked(version, workdir, limit(load_data(config)))}")
    for line in done:
        tell(f"done: {line}")
    tell("all of it works on a few batches; the figures mean nothing, and nothing was kept")
    return done


def _shortened(config: RunConfig) -> RunConfig:
    """The same run in as few epochs as go through all of its phases, and with a checkpoint in mid-epoch."""
    training = config.training
    phases = [phase.model_copy(update={"from_epoch": number}) for number, phase in enumerate(training.phases)]
    stopping = training.early_stopping
    # There may be no more than an update in a phase, or two without phases: one of them is left to warm up with.
    warmup = 0 if len(phases) > 1 or not (training.schedule.warmup_steps or training.schedule.warmup_share) else 1
    changes = {
        "schedule": training.schedule.model_copy(update={"warmup_steps": warmup, "warmup_share": 0.0}),
        "epochs": max(2, len(phases)),
        "phases": phases,
        "validate_every_steps": training.validate_every_steps and 1,
        # The validation of the second epoch must not end what is to be gone on with.
        "early_stopping": stopping and stopping.model_copy(update={"patience": max(2, len(phases))}),
    }
    return config.model_copy(
        update={
            "training": training.model_copy(update=changes),
            "checkpoints": config.checkpoints.model_copy(update={"every_steps": 1}),
            "tensorboard": config.tensorboard.model_copy(update={"every_steps": 1}),
        }
    )


@contextmanager
def _temporary_folder(chief: bool) -> Iterator[Path]:
    """A folder for the time of the run; of several workers of one machine it has one name, and the chief removes it."""
    cluster = os.environ.get(VARIABLE)
    if cluster is None:
        with tempfile.TemporaryDirectory(prefix="tfbigmodel-") as name:
            yield Path(name)
        return
    # The part that all workers have in common, the addresses, names it.
    common = hashlib.sha256(cluster.partition('"task"')[0].encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir(), f"tfbigmodel-{common}-{os.getuid()}")
    if chief:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(mode=0o700)  # not another user's: what is exported there is loaded again
        except FileExistsError as error:
            raise UserError(f"{folder} is in the way, and is not ours to remove; remove it") from error
    try:
        yield folder
    finally:
        if chief:
            shutil.rmtree(folder, ignore_errors=True)


def _checked(workdir: Workdir, config: RunConfig, stopped: bool) -> list[str]:
    """What training and resuming came to; what else than that would be a mistake of ours."""
    checkpoint, problems = latest_checkpoint(workdir.checkpoints)
    epochs = config.training.epochs
    if checkpoint is None or problems or checkpoint.state["epoch"] != epochs:
        raise RuntimeError(f"the run did not get to its end: {problems or (checkpoint and checkpoint.state)}")
    updates = checkpoint.state["updates"] // epochs
    phases = f" in {len(config.training.phases)} phases" if config.training.phases else ""
    validation = "with validation" if workdir.info().counts["validation"] else "without validation: the split is empty"
    lines = [f"training: {epochs} epochs of {updates} updates{phases}, {validation} and checkpoints"]
    return [*lines, "stopping and going on from a checkpoint"] if stopped else lines


def _asked(version: Path, workdir: Workdir, data: Data) -> str:
    """Asks the exported model for an answer, in this process; says to what."""
    preprocess = workdir.load_preprocessor()
    name, raw = "serving_default", {"text": tf.constant([_TEXT])}
    if data.info.task in LABELLED:
        examples = data.examples("train")
        names = set(examples.features)
        name = next(name for name, specs in preprocess.signatures.items() if set(specs) == names)
        specs = preprocess.signatures[name]
        raw = {key: tf.constant(values[:1], specs[key].dtype) for key, values in examples.features.items()}
    answers = tf.saved_model.load(str(version)).signatures[name](**raw)
    if not answers or any(len(answer) != 1 for answer in answers.values()):
        raise RuntimeError(f"the exported model answered one example with {answers}")
    return f"one example ({name}): {', '.join(answers)}"
