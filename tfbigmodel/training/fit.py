"""The host's side of training: epochs, validation, checkpoints, callbacks, stopping."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeAlias

import keras
import tensorflow as tf

from pipelines.data import Data
from pipelines.errors import UserError
from tfbigmodel.config import RunConfig
from tfbigmodel.tasks import Task
from tfbigmodel.training import checkpoints
from tfbigmodel.training.distribution import agree, is_chief, is_multi_worker
from tfbigmodel.training.loop import StepResults, UpdateRule, make_evaluate, make_train_steps
from tfbigmodel.training.phases import Phase, begin_phase, phases_from
from tfbigmodel.training.state import TrainState, check_finite_validation
from tfbigmodel.training.tensorboard import TensorBoard

# `steps_per_execution: auto` aims at this many seconds between two visits to Python: long enough that they cost
# nothing, short enough that progress moves and Ctrl-C is answered.
_EXECUTION_SECONDS = 1.0
TrainSteps: TypeAlias = Callable[[Iterator, int], StepResults]
# Workers must agree on the number of steps, which a measured time does not guarantee.
_MULTI_WORKER_STEPS = 10


class Interrupted(Exception):
    """Training was asked to stop by a signal, and its state is saved.

    Attributes:
        signal_number: the signal.
    """

    def __init__(self, signal_number: int, updates: int) -> None:
        super().__init__(f"stopped after update {updates}; the same command goes on from there")
        self.signal_number = signal_number


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

    Returns:
        The state at the end.

    Raises:
        UserError: training diverged, or a checkpoint cannot be written.
        Interrupted: SIGTERM or SIGINT arrived; a checkpoint was written.
    """
    training = config.training
    state.planned_epochs = training.epochs
    _check_monitor(config, data, task)
    evaluate = make_evaluate(model, task, strategy)
    steps_per_epoch = data.steps_per_epoch // rule.accumulation
    # Batches at an epoch's end that do not make a whole update.
    left_over = data.steps_per_epoch - steps_per_epoch * rule.accumulation
    listeners = _callback_list(model, optimizer, callbacks, training.epochs, steps_per_epoch, progress)

    num_validation = data.info.counts["validation"]
    if num_validation:
        # One iterator for all validations: making one takes 0.1 s under a strategy.
        held_out = iter(strategy.distribute_datasets_from_function(lambda context: data.validation(context).repeat()))

    def validate() -> dict[str, float]:
        return evaluate(held_out, -(-num_validation // data.batch_size)) if num_validation else {}

    def save(monitor: float | None) -> None:
        # All workers read, one writes: reading is a collective operation.
        arrays = checkpoints.read_variables(model.variables), checkpoints.read_variables(optimizer.variables)
        if is_chief(strategy):
            contents = {**state.to_json(), "monitor": monitor}
            checkpoints.save_checkpoint(checkpoint_folder, state.updates, *arrays, contents)
            checkpoints.prune_checkpoints(checkpoint_folder, config.checkpoints.keep)

    def run_steps(train_steps: TrainSteps, iterator: Iterator, pace: _Pace, caught: list[int]) -> None:
        """The rest of an epoch's updates."""
        while state.step < steps_per_epoch:
            num_steps = min(pace.steps, steps_per_epoch - state.step)
            for interval in (config.checkpoints.every_steps, training.validate_every_steps):
                if interval:
                    num_steps = min(num_steps, interval - state.updates % interval)
            listeners.on_train_batch_begin(state.step)
            started = time.perf_counter()
            results = train_steps(iterator, num_steps)
            seconds = time.perf_counter() - started
            state.add(results)
            pace.adapt(num_steps, seconds)
            if tensorboard:
                rate = num_steps * rule.batch_size * rule.accumulation / seconds
                tensorboard.steps(state.updates, results, _learning_rate(optimizer), rate)
            listeners.on_train_batch_end(state.step - 1, state.means())
            inside = state.step < steps_per_epoch
            if inside and _due(training.validate_every_steps, state.updates):
                measured = validate()  # by all workers together
                if tensorboard:
                    tensorboard.validation(state.updates, measured)
            # Several workers only stop where they agree on it, at the epoch's end: one that left this loop alone
            # would meet the others' gradients with its validation.
            if model.stop_training and not is_multi_worker(strategy):
                return
            # At an epoch's end the state is saved with what the validation says of it.
            if inside and (caught or _due(config.checkpoints.every_steps, state.updates)):
                save(None)
            if inside and caught:
                raise Interrupted(caught[0], state.updates)
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

    with _caught_signals(not is_multi_worker(strategy)) as caught:
        listeners.on_train_begin()
        for phase in phases_from(training, state.epoch):
            if state.stopped:
                break
            if phase.index != state.phase:
                model.optimizer = optimizer = begin_phase(phase, model, config, strategy, steps_per_epoch)
                state.begin_phase(phase.index)
            train_steps = make_train_steps(model, optimizer, task, strategy, rule)
            pace = _Pace(training.steps_per_execution, is_multi_worker(strategy))
            iterator = _batches(data, strategy, state, rule, phase.end_epoch)
            while state.epoch < phase.end_epoch and not state.stopped:
                listeners.on_epoch_begin(state.epoch)
                run_steps(train_steps, iterator, pace, caught)
                end_epoch(phase)
                if caught and state.epoch < training.epochs and not state.stopped:
                    raise Interrupted(caught[0], state.updates)
        listeners.on_train_end()
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


@contextmanager
def _caught_signals(enabled: bool) -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that training stops between two executions; a second one acts as usual."""
    caught: list[int] = []
    previous: dict[int, Callable | int] = {}

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        for each, handler in previous.items():
            signal.signal(each, handler)

    if enabled and threading.current_thread() is threading.main_thread():
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            previous[number] = signal.getsignal(number) or signal.SIG_DFL
            signal.signal(number, catch)
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
