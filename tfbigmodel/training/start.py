"""Where a run starts: from its last checkpoint, from pretrained weights, or from scratch."""

import sys
from collections.abc import Callable

import keras
import tensorflow as tf

from pipelines.data import DatasetInfo
from pipelines.errors import UserError
from tfbigmodel.chapters import hook
from tfbigmodel.config import RunConfig
from tfbigmodel.model import initialise_from
from tfbigmodel.training.checkpoints import Checkpoint, latest_checkpoint, set_aside, write_variables
from tfbigmodel.training.distribution import is_chief
from tfbigmodel.training.phases import begin_phase, phases_from
from tfbigmodel.training.state import TrainState
from tfbigmodel.workdir import Workdir


def starting_state(
    config: RunConfig,
    workdir: Workdir,
    info: DatasetInfo,
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    steps_per_epoch: int,
    tell: Callable[[str], None],
) -> tuple[TrainState, keras.optimizers.Optimizer, Checkpoint | None]:
    """Resumes where there is a checkpoint; else takes pretrained or another run's weights if asked for; else scratch.

    Args:
        config: the run's configuration.
        workdir: where its checkpoints are.
        info: the data's description.
        model: made under the strategy's scope; its weights are set, and what the phase does not train is frozen.
        strategy: where replicas run.
        steps_per_epoch: updates in an epoch.
        tell: prints a line.

    Returns:
        Where training stands, the optimizer of the phase that it stands in, as it was then, and the checkpoint that
        both are of, if there is one.

    Raises:
        UserError: the checkpoints are damaged, or weights do not fit.
    """
    checkpoint, problems = latest_checkpoint(workdir.checkpoints)
    if problems and checkpoint is None:
        problem = next(iter(problems.values()))
        raise UserError(f"no checkpoint can be used: {problem}; remove {workdir.checkpoints} to start anew")
    for folder, problem in problems.items() if is_chief(strategy) else ():
        aside = set_aside(folder)
        print(f"warning: {problem}; it is kept as {aside.name}, and an older checkpoint is used", file=sys.stderr)
    state = TrainState() if checkpoint is None else TrainState.from_json(checkpoint.state)
    # The last one first: what is wrong with a later phase is told now, and the model is left as this one wants it.
    for phase in reversed(list(phases_from(config.training, state.epoch))):
        optimizer = begin_phase(phase, model, config, strategy, steps_per_epoch)
    if checkpoint is None:
        _initialise(config, info, model, tell)
        return state, optimizer, None
    write_variables(model.variables, checkpoint.model_arrays(), str(checkpoint.folder))
    if state.phase == phase.index:
        write_variables(optimizer.variables, checkpoint.optimizer_arrays(), str(checkpoint.folder))
    else:  # the checkpoint was the last of the phase before, which this one takes nothing but weights from
        state.begin_phase(phase.index)
    if state.stopped == "a callback" and config.training.epochs > state.planned_epochs:
        state.stopped = ""
    return state, optimizer, checkpoint


def _initialise(config: RunConfig, info: DatasetInfo, model: keras.Model, tell: Callable[[str], None]) -> None:
    load_pretrained = hook(config.model.chapter, "load_pretrained")
    if load_pretrained is not None:
        said = load_pretrained(model, config.model, info)
        if said:
            tell(said)
    if config.training.initialise_from is not None:
        tell(initialise_from(model, config.training.initialise_from))
