"""A run's configuration: one YAML file, validated and typed, with a unit in every field's description."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from pipelines.config import DataConfig
from pipelines.errors import MissingFileError, UserError
from pipelines.section import Section
from tfbigmodel.chapters import ModelConfig
from tfbigmodel.config_errors import explain, shortened

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


class TrainingConfig(Section):
    """How the model is trained."""

    epochs: PositiveInt = 10
    """Passes over the training split. May be raised on a finished run, which then goes on."""
    seed: Seed = 42
    """Fixes initial weights, dropout and the order of the examples."""
    strategy: Literal["default", "mirrored", "multi_worker"] = "default"
    """One device; all GPUs of this machine; or the machines listed in the environment variable TF_CONFIG."""
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
    final_weights: Literal["best", "last"] = "best"
    """The epoch that evaluate, predict and export use: the best one by `monitor`, or the last."""
    initialise_from: Annotated[Path, Field(strict=False)] | None = None
    """A workdir whose final weights are the initial ones here, where names and shapes agree."""


class CheckpointConfig(Section):
    """When the training state is written."""

    every_steps: PositiveInt | None = None
    """Updates between checkpoints inside an epoch; there is always one at an epoch's end."""
    keep: PositiveInt = 2
    """How many of the newest are kept; the best is kept besides."""


class TensorboardConfig(Section):
    """What TensorBoard shows."""

    every_steps: PositiveInt = 50
    """Updates between two points of the training curves."""
    histograms: bool = False
    """Weight histograms every epoch (slow for large models)."""


class EvaluationConfig(Section):
    """How the finished model is judged."""

    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Two classes: the probability of the second class from which on it is predicted; the likelier class if null."""
    baseline_examples: PositiveInt = 10_000
    """Training examples that the logistic-regression baseline sees at most."""
    train_examples: PositiveInt = 20_000
    """Training examples that the finished model is measured on at most; the other splits are measured whole."""
    worst_errors: NonNegativeInt = 20
    """Wrong examples listed, the most confident first."""


class RunConfig(Section):
    """Everything that determines a run."""

    data: DataConfig
    model: ModelConfig
    training: TrainingConfig = TrainingConfig()
    checkpoints: CheckpointConfig = CheckpointConfig()
    tensorboard: TensorboardConfig = TensorboardConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _check_together(self) -> RunConfig:
        training = self.training
        if training.virtual_cpus and training.strategy != "mirrored":
            raise ValueError(f"training.virtual_cpus needs training.strategy: mirrored, received {training.strategy}")
        if training.jit_compile is True and training.strategy != "default":
            raise ValueError(f"training.jit_compile cannot be used with training.strategy: {training.strategy}")
        return self


def load_config(path: Path | str, overrides: Iterable[str] = ()) -> RunConfig:
    """Reads and validates a configuration file.

    Args:
        path: a YAML file.
        overrides: `section.key=value` texts, as after `--set`; values are YAML. They win over the file.

    Returns:
        The configuration, with `data.data_dir` made absolute and `data.shuffle_seed` filled in.

    Raises:
        MissingFileError: there is no such file.
        UserError: the YAML or a value is wrong; the message names the key, what was received and expected.

    Example:
        >>> config = load_config("configs/dense.yaml", ["training.epochs=3"])
        >>> config.training.epochs
        3
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file; a YAML file was expected")
    if not path.is_file():
        similar = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*.yaml")], n=1)
        hint = f"; did you mean {path.parent / similar[0]}?" if similar else ""
        raise MissingFileError(f"no configuration file {path}{hint}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except PermissionError as error:
        raise UserError(f"no permission to read {path}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from error
    values = _parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected sections such as `data:` and `model:`, received {shortened(values)}")
    for override in overrides:
        _apply_override(values, override)
    return resolve(validate_config(values, str(path)))


def validate_config(values: Mapping[str, Any], origin: str) -> RunConfig:
    """The configuration that plain values make.

    Args:
        values: sections as nested dictionaries, as they come from YAML.
        origin: where they are from, for messages.

    Raises:
        UserError: a key is unknown or missing, or a value has a wrong type or range.
    """
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{origin}: {explain(error, values, RunConfig)}") from error


def resolve(config: RunConfig) -> RunConfig:
    """Fills in what depends on the place and on other sections, so that a workdir's copy stands alone."""
    changes: dict[str, Any] = {"data_dir": config.data.data_dir.expanduser().absolute()}
    if config.data.shuffle_seed is None:
        changes["shuffle_seed"] = config.training.seed
    config = config.model_copy(update={"data": config.data.model_copy(update=changes)})
    source = config.training.initialise_from
    if source is not None:
        training = config.training.model_copy(update={"initialise_from": source.expanduser().absolute()})
        config = config.model_copy(update={"training": training})
    return config


def dump_config(config: RunConfig) -> str:
    """The configuration as YAML text that `load_config` reads back as an equal one."""
    import ruamel.yaml

    stream = io.StringIO()
    yaml = ruamel.yaml.YAML()
    yaml.default_flow_style = False
    yaml.dump(_quoted(config.model_dump(mode="json")), stream)
    return stream.getvalue()


def _quoted(value: Any) -> Any:
    # In double quotes every character can be written as an escape; the emitter's own choice loses some line breaks.
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, Mapping):
        return {_quoted(key): _quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    return DoubleQuotedScalarString(value) if isinstance(value, str) and not value.isprintable() else value


def changed_keys(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """The keys in which two configurations differ: full key → (old value, new value)."""
    before, after = _flatten(old.model_dump(mode="json")), _flatten(new.model_dump(mode="json"))
    return {
        key: (before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    }


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


def _parse_yaml(text: str, origin: str) -> Any:
    # YAML 1.2, which ruamel reads: 1e-5 is a number, and `no` is a word rather than false.
    import ruamel.yaml

    try:
        return ruamel.yaml.YAML(typ="safe", pure=True).load(text)
    except ruamel.yaml.error.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = " ".join((error.problem or error.context or "malformed").split())
        raise UserError(f"{origin}: not valid YAML{place}: {problem}") from error
    except (ruamel.yaml.error.YAMLError, ValueError) as error:  # ValueError: such as the date 2024-02-30
        raise UserError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise UserError(f"{origin}: nested too deeply to be a configuration") from None


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    parts = key.strip().split(".")
    if not separator or not all(parts):
        raise UserError(f"--set {override}: expected section.key=value, such as --set training.epochs=3")
    for part in parts[:-1]:
        child = values.setdefault(part, {})
        if child is None:
            child = values[part] = {}
        if not isinstance(child, dict):
            raise UserError(f"--set {override}: {part} holds {shortened(child)} and has no key {parts[-1]}")
        values = child
    values[parts[-1]] = _parse_yaml(text, f"--set {override}")


def json_schema() -> dict[str, Any]:
    """The JSON schema of a configuration file, for editors (see `python -m tfbigmodel.schema`)."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **RunConfig.model_json_schema()}
