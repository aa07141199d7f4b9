"""The `training` section: how batches become updates, and when training stops."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipelines.section import Location, Section

Seed = Annotated[int, Field(ge=0, lt=2**32)]
NonNegative = Annotated[float, Field(ge=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
# Classes are often called 0 and 1, and YAML reads such a key as a number.
ClassName = Annotated[str, BeforeValidator(lambda key: str(key) if type(key) is int else key)]


class OptimizerConfig(Section):
    """How gradients become updates."""

    name: Literal[
        "sgd",
        "momentum",
        "rmsprop",
        "adam",
        "adamw",
        "adagrad",
        "adadelta",
        "adamax",
        "nadam",
        "lion",
        "lamb",
        "adafactor",
        "ftrl",
    ] = "adam"
    """The algorithm; `momentum` is SGD with momentum 0.9 unless `momentum` says otherwise."""
    learning_rate: PositiveFloat = 1e-3
    """Step size; the peak where there is a schedule."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Share of the last update kept in the next (sgd, momentum, rmsprop)."""
    weight_decay: NonNegative | None = None
    """Decoupled weight decay per unit of learning rate (AdamW's is 0.004 where it is not given)."""
    options: dict[str, float | bool] = {}
    """Any other argument of the Keras optimizer, such as `beta_2: 0.98`."""


class ScheduleConfig(Section):
    """How the learning rate changes from step to step."""

    name: Literal["constant", "linear", "cosine", "exponential"] = "constant"
    """After warm-up: stay, fall in a straight line, fall along half a cosine, or by `decay_rate` each epoch."""
    warmup_steps: NonNegativeInt = 0
    """Updates over which the learning rate rises from 0 to its peak."""
    warmup_share: Share = 0.0
    """The same as a share of all updates; the larger of both counts."""
    final_share: Share = 0.0
    """The learning rate of the last update as a share of the peak (linear, cosine)."""
    decay_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.9
    """Factor per epoch (exponential)."""


class EarlyStoppingConfig(Section):
    """When to stop before the last epoch."""

    patience: PositiveInt
    """Epochs without improvement of `training.monitor` before training stops."""
    min_delta: NonNegative = 0.0
    """The least change that counts as improvement."""


class PhaseConfig(Section):
    """A stretch of epochs in which a part of the model is trained, and the rest is frozen."""

    from_epoch: NonNegativeInt
    """The epoch that it begins with, counted from 0; it ends where the next one begins, or with the run, which may be
    too short for it to begin."""
    train: Literal["head", "all"] | PositiveInt
    """The new head alone; the head and so many of the last stages; or the whole model. What is frozen keeps its
    weights; its batch normalisation uses its moving statistics, and does not move them."""
    learning_rate: PositiveFloat | None = None
    """The phase's own; `optimizer.learning_rate` where it is not given. Each phase starts with a fresh optimizer and
    goes through the whole `schedule`."""


class WorkersConfig(Section):
    """How the workers of a `multi_worker` run watch each other; all of it may differ when a run goes on."""

    start_seconds: PositiveFloat = 600.0
    """How long to wait for all workers at the start."""
    silence_seconds: Annotated[float, Field(ge=1.0)] = 30.0
    """How long a worker may be silent before the others give it up: it hangs, or the network to it is cut."""
    health_port_offset: PositiveInt = 1000
    """The chief listens for the others' heartbeats at its TensorFlow port plus this: 3222 where that is 2222."""


class TrainingConfig(Section):
    """How the model is trained."""

    epochs: PositiveInt = 10
    """Passes over the training split. May be raised on a finished run, which then goes on."""
    seed: Seed = 42
    """Fixes initial weights, dropout and the order of the examples."""
    strategy: Literal["default", "mirrored", "multi_worker"] = "default"
    """One device; all GPUs of this machine; or the machines listed in the environment variable TF_CONFIG."""
    workers: WorkersConfig = WorkersConfig()
    virtual_cpus: PositiveInt | None = None
    """Divide the CPU into this many devices, to try `mirrored` on a machine without GPUs."""
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """What layers compute in; weights are float32 under both."""
    jit_compile: bool | Literal["auto"] = "auto"
    """Compile the training step with XLA. `auto` is the choice measured for the chapter; never under a strategy."""
    steps_per_execution: PositiveInt | Literal["auto"] = "auto"
    """Training steps that run in the graph before Python is visited again. `auto` aims at one second."""
    deterministic: bool = False
    """Let TensorFlow use deterministic operations only. On the CPU runs repeat without it; on GPUs it costs speed."""
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    clip_norm: PositiveFloat | None = None
    """Scale all gradients down together when their global L2 norm exceeds this."""
    clip_value: PositiveFloat | None = None
    """Cut every gradient component to this absolute value."""
    gradient_accumulation: PositiveInt = 1
    """Batches whose gradients are averaged for one update: the effective batch is this times `data.batch_size`."""
    class_weights: Literal["balanced"] | dict[ClassName, PositiveFloat] | None = None
    """Weight of each class's examples in the training loss; `balanced` makes every class count the same."""
    monitor: str = "loss"
    """The validation metric that says which epoch is best: loss, accuracy, mae …"""
    validate_every_steps: PositiveInt | None = None
    """Updates between extra validations inside an epoch, shown in TensorBoard; there is always one at its end."""
    early_stopping: EarlyStoppingConfig | None = None
    """With `phases` it counts from the last one's beginning."""
    phases: list[PhaseConfig] = []
    """Train a part of the model first, then more of it, as is usual with pretrained weights (resnet50); the whole model
    all the time where there are none."""
    final_weights: Literal["best", "last"] = "best"
    """The epoch that evaluate, predict and export use: the best one by `monitor`, or the last."""
    initialise_from: Location | None = None
    """A workdir whose final weights are the initial ones here, where names and shapes agree."""

    @model_validator(mode="after")
    def _phases_follow_each_other(self) -> "TrainingConfig":
        starts = [phase.from_epoch for phase in self.phases]
        if starts and (starts[0] != 0 or sorted(set(starts)) != starts):
            raise ValueError(f"phases begin with epochs {starts}; expected 0 first, then higher and higher ones")
        return self
