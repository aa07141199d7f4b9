"""The host's side of training: epochs, validation, checkpoints, callbacks, stopping."""

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import keras
import tensorflow as tf

from pipelines.data import Data
from pipelines.errors import UserError
from tfbigmodel.config import RunConfig
from tfbigmodel.tasks import Task
from tfbigmodel.training.checkpoints import Checkpoint, write_variables
from tfbigmodel.training.distribution import agree, is_chief, is_multi_worker
from tfbigmodel.training.host_state import CallbackStates, read_random_state, write_random_state
from tfbigmodel.training.loop import TrainSteps, UpdateRule, make_evaluate, make_train_steps
from tfbigmodel.training.phases import Phase, begin_phase, phases_from
from tfbigmodel.training.saving import CheckpointSaver
from tfbigmodel.training.signals import Interrupted, caught_signals
from tfbigmodel.training.state import TrainState, check_finite_validation
from tfbigmodel.training.tensorboard import TensorBoard

# `steps_per_execution: auto` aims at this many seconds between two visits to Python: long enough that they cost
# nothing, short enough that progress moves and Ctrl-C is answered.
_EXECUTION_SECONDS = 1.0
# Workers must agree on the number of steps, which a measured time does not guarantee.
_MULTI_WORKER_STEPS = 10


def fit(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    data: Data,
    task: Task,
    strategy: tf.distribute.Strategy,
    config: RunConfig,
    rule: UpdateRule,
    state: TrainState,
    checkpoint_folder: Path,
    tensorboard: TensorBoard | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    progress: bool = False,
    resumed_from: Checkpoint | None = None,
    publish: Callable[[], None] | None = None,
) -> TrainState:
    """Trains from `state` to the last epoch, or until it is stopped.

    Args:
        model: with the weights to start from, made under the strategy's scope.
        optimizer: with its variables as they were at `state`; later phases make their own.
        data: the splits.
        task: loss and metrics.
        strategy: where replicas run.
        config: the run's configuration.
        rule: how a batch becomes an update.
        state: where training stands; it is changed in place.
        checkpoint_folder: where checkpoints are written (by the chief only).
        tensorboard: what writes the curves; None for none.
        callbacks: ordinary Keras callbacks; batch hooks are called once per execution.
        progress: show Keras' progress bar.
        resumed_from: the checkpoint that `state` is of, for what it says of callbacks and curves; None for none.
        publish: called when a checkpoint is on the disk, by the thread that wrote it.

    Returns:
        The state at the end.

    Raises:
        UserError: training diverged, or a checkpoint cannot be written.
        Interrupted: SIGTERM or SIGINT arrived; a checkpoint was written.
    """
    training, multi_worker = config.training, is_multi_worker(strategy)
    state.planned_epochs = training.epochs
    _check_monitor(config, data, task)
    evaluate = make_evaluate(model, task, strategy)
    steps_per_epoch = data.steps_per_epoch // rule.accumulation
    # Batches at an epoch's end that do not make a whole update.
    left_over = data.steps_per_epoch - steps_per_epoch * rule.accumulation
    callback_states = CallbackStates(callbacks)
    listeners = _callback_list(model, optimizer, callbacks, training.epochs, steps_per_epoch, progress)
    saver = CheckpointSaver(checkpoint_folder, config.checkpoints.keep, config.checkpoints.asynchronous, publish)

    num_validation = data.info.counts["validation"]
    if num_validation:
        # One iterator for all validations: making one takes 0.1 s under a strategy.
        held_out = iter(strategy.distribute_datasets_from_function(lambda context: data.validation(context).repeat()))

    def validate() -> dict[str, float]:
        return evaluate(held_out, -(-num_validation // data.batch_size)) if num_validation else {}

    def save(monitor: float | None) -> None:
        # All workers read, one writes: reading is a collective operation.
        arrays = saver.read(model.variables, optimizer.variables)
        if not is_chief(strategy):
            return
        contents = {**state.to_json(), "monitor": monitor}
        if tensorboard:
            contents |= tensorboard.state()
        contents["callbacks"], extra = callback_states.read()
        saver.save(state.updates, arrays, contents, {**extra, **read_random_state()})

    def must_stop(votes: Sequence[float]) -> tuple[bool, bool]:
        """Whether a signal was caught, and whether a callback wants to stop."""
        # Several workers stop where all of them know of it, which was when the execution began: one that left alone
        # would meet the others' gradients with its validation.
        return (votes[0] > 0, votes[1] > 0) if multi_worker else (bool(caught), model.stop_training)

    def interrupt() -> NoReturn:
        saver.wait()
        agree(strategy, 0)  # nobody leaves the chief while it is writing
        raise Interrupted(caught[0] if caught else int(signal.SIGTERM), state.updates)

    def run_steps(train_steps: TrainSteps, iterator: Iterator, pace: _Pace) -> None:
        """The rest of an epoch's updates."""
        while state.step < steps_per_epoch:
            num_steps = min(pace.steps, steps_per_epoch - state.step)
            for interval in (config.checkpoints.every_steps, training.validate_every_steps):
                if interval:
                    num_steps = min(num_steps, interval - state.updates % interval)
            listeners.on_train_batch_begin(state.step)
            started = time.perf_counter()
            votes = (bool(caught), bool(model.stop_training)) if multi_worker else ()
            results = train_steps(iterator, num_steps, votes)
            seconds = time.perf_counter() - started
            state.add(results)
            pace.adapt(num_steps, seconds)
            if tensorboard:
                rate = num_steps * rule.batch_size * rule.accumulation / seconds
                tensorboard.steps(state.updates, results, _learning_rate(optimizer), rate)
            listeners.on_train_batch_end(state.step - 1, state.means())
            saver.check()
            inside = state.step < steps_per_epoch
            if inside and _due(training.validate_every_steps, state.updates):
                measured = validate()  # by all workers together
                if tensorboard:
                    tensorboard.validation(state.updates, measured)
            interrupted, unwanted = must_stop(results.votes)
            if unwanted:
                return
            # At an epoch's end the state is saved with what the validation says of it.
            if inside and (interrupted or _due(config.checkpoints.every_steps, state.updates)):
                save(None)
            if inside and interrupted:
                interrupt()
        for _ in range(left_over):
            next(iterator)

    def end_epoch(phase: Phase) -> None:
        """Validates, decides whether to stop, and saves."""
        epoch, logs = state.epoch, state.means()
        logs |= task.derived(logs)
        validation = validate()
        check_finite_validation(validation, state.updates)
        logs |= {f"val_{name}": value for name, value in validation.items()}
        monitor = _monitored(validation, training.monitor, task)
        stopping = training.early_stopping
        state.end_epoch(logs, monitor, stopping.min_delta if stopping else 0.0)
        if tensorboard:
            tensorboard.epoch(epoch, state.updates, logs, model)
        listeners.on_epoch_end(epoch, logs)
        if stopping is not None and phase.is_last and state.epochs_without_improvement >= stopping.patience:
            state.stopped = "early stopping"
        elif any(agree(strategy, int(model.stop_training))):
            state.stopped = "a callback"
        save(monitor)
        if any(agree(strategy, len(caught))) and state.epoch < training.epochs and not state.stopped:
            interrupt()

    def begin() -> None:
        """Lets callbacks begin; what that does to a run that goes on was done before, and must not be done twice."""
        before = saver.read(model.variables, optimizer.variables) if resumed_from is not None and callbacks else None
        listeners.on_train_begin()
        callback_states.begun()
        if state.step:
            listeners.on_epoch_begin(state.epoch)
        if resumed_from is None:
            return
        arrays = resumed_from.host_arrays()
        if callback_states.restore(resumed_from.state.get("callbacks", []), arrays) and before is not None:
            for variables, values in zip((model.variables, optimizer.variables), before, strict=True):
                write_variables(variables, values, str(resumed_from.folder))
        write_random_state(arrays)
        if tensorboard:
            tensorboard.window = resumed_from.state.get("tensorboard", {})

    with saver, caught_signals() as caught:
        begin()
        for phase in phases_from(training, state.epoch):
            if state.stopped:
                break
            if phase.index != state.phase:
                model.optimizer = optimizer = begin_phase(phase, model, config, strategy, steps_per_epoch)
                state.begin_phase(phase.index)
            train_steps = make_train_steps(model, optimizer, task, strategy, rule)
            pace = _Pace(training.steps_per_execution, multi_worker)
            iterator = _batches(data, strategy, state, rule, phase.end_epoch)
            while state.epoch < phase.end_epoch and not state.stopped:
                if not state.step:
                    listeners.on_epoch_begin(state.epoch)
                run_steps(train_steps, iterator, pace)
                end_epoch(phase)
        listeners.on_train_end()
        saver.wait()
        # Asked since the last epoch's end was near: what is left is to measure, which the next start does.
        if any(agree(strategy, len(caught))):
            interrupt()
    return state


class _Pace:
    """How many steps the next execution has."""

    def __init__(self, configured: int | str, multi_worker: bool) -> None:
        self.adaptive = configured == "auto" and not multi_worker
        self.steps = configured if isinstance(configured, int) else 1 if self.adaptive else _MULTI_WORKER_STEPS
        self.traced = False

    def adapt(self, num_steps: int, seconds: float) -> None:
        # The first execution's time is that of tracing and compiling.
        if self.adaptive and self.traced:
            self.steps = max(1, min(4 * self.steps, int(num_steps * _EXECUTION_SECONDS / max(seconds, 1e-6))))
        self.traced = True


def _batches(
    data: Data, strategy: tf.distribute.Strategy, state: TrainState, rule: UpdateRule, epochs: int
) -> Iterator:
    def share(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return data.train(state.epoch, state.step * rule.accumulation, context, epochs - state.epoch)

    return iter(strategy.distribute_datasets_from_function(share))


def _due(interval: int | None, updates: int) -> bool:
    return interval is not None and updates % interval == 0


def _learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    return float(keras.ops.convert_to_numpy(optimizer.learning_rate))


def _check_monitor(config: RunConfig, data: Data, task: Task) -> None:
    names = ("loss", *task.metric_names, *task.derived(dict.fromkeys(task.metric_names, 1.0)))
    if config.training.monitor not in names:
        raise UserError(f"training.monitor: expected one of {', '.join(names)}, received {config.training.monitor!r}")
    if config.training.early_stopping and not data.info.counts["validation"]:
        raise UserError("training.early_stopping needs validation examples; set data.split.validation above 0")


def _monitored(validation: dict[str, float], name: str, task: Task) -> float | None:
    if not validation:
        return None
    return -validation[name] if name in task.higher_is_better else validation[name]


def _callback_list(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    callbacks: Sequence[keras.callbacks.Callback],
    epochs: int,
    steps: int,
    progress: bool,
) -> keras.callbacks.CallbackList:
    # Callbacks such as ReduceLROnPlateau reach the optimizer through the model, which is not compiled here.
    model.optimizer = optimizer
    model.stop_training = False
    return keras.callbacks.CallbackList(
        list(callbacks), add_progbar=progress, model=model, epochs=epochs, steps=steps, verbose=1
    )
