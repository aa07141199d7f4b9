"""What an estimate consists of: plain figures, which JSON can hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Operations:
    """Floating-point operations of one update over all replicas; a multiplication and an addition are two.

    Attributes:
        forward: of the forward pass alone.
        training: of the whole update: forward, backward, optimizer; of all batches that are accumulated for it.
        products: the part of `training` that is matrix products and convolutions.
        not_counted: what could not be counted, in words.
    """

    forward: int
    training: int
    products: int
    not_counted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        weights: of the model.
        optimizer: of the optimizer's state, and of gradients that are accumulated.
        gradients: of all trained weights.
        activations: what the forward pass makes and the backward pass reads.
        temporary: what is needed besides at the worst moment.
        batch: the input batch.
        longer_batches: what longer batches need besides, where they are padded to their longest text: in proportion.
        measured: what the measured updates took at most above weights and optimizer; None where none were measured.
    """

    weights: int
    optimizer: int
    gradients: int
    activations: int
    temporary: int
    batch: int
    longer_batches: int = 0
    measured: int | None = None

    @property
    def step(self) -> int:
        """What an update with a batch of the usual size takes above weights and optimizer."""
        return self.gradients + self.activations + self.temporary

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.optimizer + self.step + self.batch + self.longer_batches


@dataclass(frozen=True)
class Timing:
    """Seconds, measured.

    Attributes:
        first: the first update, with tracing and compiling.
        update: one update after that.
        updates_measured: how many that is the mean of.
        validation_batch: one batch of a validation; 0 where there is nothing to measure on.
        copy: copying weights and optimizer state for a checkpoint; the rest of saving it goes on beside training.
    """

    first: float
    update: float
    updates_measured: int
    validation_batch: float
    copy: float


@dataclass(frozen=True)
class PhaseCost:
    """A stretch of epochs that trains the same weights: a phase, or the whole run where there are none.

    Attributes:
        epochs: how many.
        trainable: weights that are trained.
        operations: of one update.
        memory: of one device.
        checkpoint_bytes: a checkpoint on disk.
        timing: measured; None where the update would not fit in memory.
        epoch_seconds: an epoch, with its validations and checkpoints; None where nothing was measured.
        checkpoint_share: the share of the epoch that copying for checkpoints takes; None likewise.
    """

    epochs: int
    trainable: int
    operations: Operations
    memory: Memory
    checkpoint_bytes: int
    timing: Timing | None
    epoch_seconds: float | None
    checkpoint_share: float | None


@dataclass(frozen=True)
class Sample:
    """What training begins with.

    Attributes:
        examples: the first training examples, each as name → text: as they are in the data, and as the model sees them.
        batch: name → shape, type and range of the first training batch of a replica.
    """

    examples: tuple[dict[str, str], ...]
    batch: dict[str, str]


@dataclass(frozen=True)
class Cost:
    """What a run will cost.

    Attributes:
        chapter: the model's kind.
        parameters: numbers in the model's weights.
        examples: split → examples.
        batch_size: examples of a batch over all replicas.
        accumulation: batches for one update.
        updates_per_epoch: updates in an epoch.
        epochs: passes over the training split.
        precision: what layers compute in.
        xla: whether the update is compiled by XLA.
        replicas: devices that train together.
        workers: processes that train together.
        device: `CPU` or `GPU`.
        device_memory: bytes that one GPU has, or the machine, for all its replicas.
        memory_needed: bytes that are needed of that; on a CPU with what the process takes besides.
        phases: the run's stretches; one where the configuration has no phases.
        seconds: the whole run, to the end of its final measuring; None where nothing was measured.
        sample: the data.
        warnings: what to think about before the run is started.
    """

    chapter: str
    parameters: int
    examples: dict[str, int]
    batch_size: int
    accumulation: int
    updates_per_epoch: int
    epochs: int
    precision: str
    xla: bool
    replicas: int
    workers: int
    device: str
    device_memory: int
    memory_needed: int
    phases: tuple[PhaseCost, ...]
    seconds: float | None
    sample: Sample
    warnings: tuple[str, ...]

    @property
    def updates(self) -> int:
        """Updates in the whole run."""
        return self.updates_per_epoch * self.epochs

    @property
    def fits(self) -> bool:
        """Whether there is memory enough."""
        return self.memory_needed <= self.device_memory

    def to_json(self) -> dict[str, Any]:
        """This object as values that JSON can hold."""
        return {**asdict(self), "updates": self.updates, "fits": self.fits}
