"""From a configuration to a model, and from a workdir to a trained one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import UserError
from tfbigmodel.chapters import CHAPTERS, hook
from tfbigmodel.config import RunConfig
from tfbigmodel.mirror import readable

if TYPE_CHECKING:
    import keras

    from pipelines.data import Data, DatasetInfo
    from tfbigmodel.tasks import Task
    from tfbigmodel.training.checkpoints import Checkpoint
    from tfbigmodel.workdir import Workdir


def load_data(config: RunConfig) -> Data:
    """Reads the data that a configuration names.

    Args:
        config: a run's configuration.

    Returns:
        Its splits as model-ready batches, with `info` and `preprocess`.

    Raises:
        UserError: the data is missing or malformed; the message says where.

    Example:
        >>> data = load_data(load_config("configs/dense.yaml"))
        >>> data.info.num_classes
        10
    """
    import pipelines

    return pipelines.load(fill_in_preset(config).data)


def build_model(config: RunConfig, info: DatasetInfo) -> keras.Model:
    """Builds a plain functional Keras model, which user code can compile, fit, save and build on.

    Args:
        config: a run's configuration. Its seed alone fixes the initial weights: equal calls give equal models.
        info: the data's description, `data.info`.

    Returns:
        A model from a dict of features, `(batch_size, …)` each, to logits `(batch_size, num_classes)`, or to values
        `(batch_size, 1)` for regression.

    Example:
        >>> config = load_config("configs/dense.yaml")
        >>> data = load_data(config)
        >>> model = build_model(config, data.info)
        >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("adam", loss, metrics=["accuracy"])
        >>> model.fit(data.train(), validation_data=data.validation())
    """
    config = fill_in_preset(config)
    chapter = CHAPTERS[config.model.chapter]
    return chapter.build(config.model, info, dtype=config.training.precision, seed=config.training.seed)


def fill_in_preset(config: RunConfig) -> RunConfig:
    """The configuration with what its model's preset folder says: sizes and vocabulary; nothing else is read there.

    What is filled in already stays, so that a workdir needs the preset no more.

    Raises:
        UserError: the preset is not there, or is damaged.
    """
    resolve = hook(config.model.chapter, "resolve")
    return resolve(config) if resolve is not None else config


def make_task(config: RunConfig, info: DatasetInfo) -> Task:
    """The loss, metrics and answers that a chapter has for the data.

    Raises:
        UserError: the chapter cannot learn from such data.
    """
    task: Task = CHAPTERS[config.model.chapter].task(config.model, info)
    return task


def final_checkpoint(workdir: Workdir, config: RunConfig) -> Checkpoint:
    """The checkpoint that evaluate, predict and export use, by `training.final_weights`.

    Raises:
        UserError: there is none, or it is damaged.
    """
    from tfbigmodel.training.checkpoints import best_checkpoint, latest_checkpoint

    wants_best = config.training.final_weights == "best"
    checkpoint, problems = best_checkpoint(workdir.checkpoints) if wants_best else (None, {})
    if checkpoint is None:
        checkpoint, more = latest_checkpoint(workdir.checkpoints)
        problems = {**problems, **more}
    if checkpoint is None:
        reason = next(iter(problems.values()), "its training has not reached the first one")
        raise UserError(f"{workdir} has no usable checkpoint: {reason}")
    for problem in problems.values():
        print(f"warning: {problem}; {checkpoint.folder.name} is used", file=sys.stderr)
    return checkpoint


def load_model(workdir: Path | str) -> keras.Model:
    """A trained run's model: a plain functional Keras model with the final weights, from model inputs to logits.

    Args:
        workdir: a trained run.

    Raises:
        UserError: the folder is not a workdir, has no checkpoint, or it does not fit.

    Example:
        >>> model = load_model("runs/dense")
        >>> model.predict(load_data(load_config("runs/dense/config.yaml")).test()).shape
        (359, 10)
    """
    from tfbigmodel.workdir import Workdir

    return load_trained(Workdir(readable(workdir), str(workdir)))[0]


def load_trained(workdir: Workdir) -> tuple[keras.Model, Checkpoint]:
    """Rebuilds a run's model and loads its final weights; returns the checkpoint, too, that they are from.

    Raises:
        UserError: the folder is not a workdir, has no checkpoint, or it does not fit.
    """
    from tfbigmodel.training.checkpoints import latest_checkpoint, write_variables

    config = workdir.config()
    model = build_model(config, workdir.info())
    checkpoint = final_checkpoint(workdir, config)
    state = latest_checkpoint(workdir.checkpoints)[0]
    if state and not state.state["stopped"] and state.state["epoch"] < config.training.epochs:
        told = f"{workdir} is not finished: {state.state['epoch']} of {config.training.epochs} epochs are done"
        print(f"warning: {told}", file=sys.stderr)
    write_variables(model.variables, checkpoint.model_arrays(), str(checkpoint.folder))
    return model, checkpoint


def initialise_from(model: keras.Model, source: Path | str) -> str:
    """Gives a model another run's final weights, where names and shapes agree.

    Args:
        model: its weights are changed in place.
        source: the other run's workdir.

    Returns:
        One line that says what was taken and what was not.

    Raises:
        UserError: the folder is not a trained run's workdir, or none of its weights fits.
    """
    from tfbigmodel.workdir import Workdir

    workdir = Workdir(readable(source), str(source))
    arrays = final_checkpoint(workdir, workdir.config()).model_arrays()
    fitting = [v for v in model.weights if v.path in arrays and arrays[v.path].shape == tuple(v.shape)]
    if not fitting:
        raise UserError(
            f"training.initialise_from: no weight of {source} has the name and shape of one of this model's; "
            f"it has {', '.join(sorted(arrays)[:3])} …"
        )
    for variable in fitting:
        variable.assign(arrays[variable.path])
    left = [v.path for v in model.weights if not any(v is taken for taken in fitting)]
    rest = f"; new here: {', '.join(left)}" if left else ""
    return f"initialised {len(fitting)} of {len(model.weights)} weights from {source}{rest}"
