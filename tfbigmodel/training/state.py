"""Where training stands: all of it that is not a tensor."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.errors import UserError
from tfbigmodel.training.loop import StepResults

_REMEDY = (
    "lower training.optimizer.learning_rate or set training.clip_norm, in a new workdir, or look for extreme values in "
    "the data; no checkpoint was written since"
)


@dataclass
class TrainState:
    """A run's position, as it is kept in a checkpoint.

    Attributes:
        epoch: the epoch that the next update belongs to, from 0.
        step: updates done in that epoch.
        updates: updates done in all.
        sums: loss and metrics of the epoch so far, name → [weighted total, total weight].
        best: the best value of the monitored metric so far, lower is better (accuracies are negated).
        epochs_without_improvement: how long `best` has not improved.
        planned_epochs: the configured number of epochs when the state was saved.
        phase: the phase that the optimizer's state is of, from 0.
        stopped: what ended the run before its last epoch: `early stopping`, `a callback`, or nothing.
        history: each finished epoch's losses and metrics.
    """

    epoch: int = 0
    step: int = 0
    updates: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)
    best: float | None = None
    epochs_without_improvement: int = 0
    planned_epochs: int = 0
    phase: int = 0
    stopped: str = ""
    history: list[dict[str, float]] = field(default_factory=list)

    def add(self, results: StepResults) -> None:
        """Counts an execution's steps in.

        Raises:
            UserError: a loss or gradient is not finite; the message names the update.
        """
        check_finite(results, self.updates)
        num_steps = len(results.loss)
        self._add("loss", math.fsum(results.loss.tolist()), num_steps)
        for name in results.totals:
            self._add(name, math.fsum(results.totals[name].tolist()), math.fsum(results.counts[name].tolist()))
        self.step += num_steps
        self.updates += num_steps

    def means(self) -> dict[str, float]:
        """Loss and metrics of the epoch so far."""
        return {name: total / weight for name, (total, weight) in self.sums.items() if weight}

    def begin_phase(self, phase: int) -> None:
        """Goes over to another phase; early stopping counts anew."""
        if phase != self.phase:
            self.phase = phase
            self.epochs_without_improvement = 0

    def end_epoch(self, logs: dict[str, float], monitor: float | None, min_delta: float) -> None:
        """Closes an epoch.

        Args:
            logs: the epoch's losses and metrics.
            monitor: the monitored metric, lower is better; None where there is nothing to validate on.
            min_delta: the least change that counts as improvement.
        """
        if monitor is not None:
            improved = self.best is None or monitor < self.best - min_delta
            self.epochs_without_improvement = 0 if improved else self.epochs_without_improvement + 1
            # As in Keras: gains too small to count do not move the mark that later ones are measured by.
            self.best = monitor if improved else self.best
        self.history.append(logs)
        self.epoch += 1
        self.step = 0
        self.sums = {}

    def to_json(self) -> dict[str, Any]:
        """This state as values that JSON can hold; floats come back bit-equal."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "TrainState":
        """The state that `to_json` made `value` of; keys of a checkpoint that are not the state's are left out."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})

    def _add(self, name: str, total: float, weight: float) -> None:
        before = self.sums.get(name, [0.0, 0.0])
        self.sums[name] = [before[0] + total, before[1] + weight]


def check_finite(results: StepResults, updates: int) -> None:
    """Checks an execution's losses and gradients.

    Args:
        results: the steps.
        updates: updates done before them.

    Raises:
        UserError: one is NaN or infinite; the message says at which update.
    """
    for step, (loss, norm) in enumerate(zip(results.loss.tolist(), results.gradient_norm.tolist(), strict=True)):
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"the loss became {loss}" if not math.isfinite(loss) else f"the gradient's norm became {norm}"
            raise UserError(f"training diverged: {what} at update {updates + step + 1}; {_REMEDY}")


def check_finite_validation(validation: Mapping[str, float], updates: int) -> None:
    """Checks the metrics of a validation: a model that gives NaN must not become a checkpoint, let alone the best.

    Args:
        validation: the metrics.
        updates: updates done.

    Raises:
        UserError: one is NaN or infinite.
    """
    for name, value in validation.items():
        if not math.isfinite(value):
            raise UserError(f"training diverged: the validation {name} became {value} at update {updates}; {_REMEDY}")
