"""A run's configuration: one YAML file, validated and typed, with a unit in every field's description."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from pipelines.config import DataConfig
from pipelines.errors import MissingFileError, UserError
from pipelines.remote import absolute, local
from pipelines.section import Section
from tfbigmodel.chapters import ModelConfig
from tfbigmodel.config_errors import explain, shortened
from tfbigmodel.training.config import TrainingConfig


class CheckpointConfig(Section):
    """When the training state is written."""

    every_steps: PositiveInt | None = None
    """Updates between checkpoints inside an epoch; there is always one at an epoch's end."""
    keep: PositiveInt = 2
    """How many of the newest are kept; the best is kept besides."""
    asynchronous: bool = True
    """Write while training goes on, which takes the host's memory once more for weights and optimizer."""


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
        path: a YAML file, local or remote.
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
    path = local(path)
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
    changes: dict[str, Any] = {"data_dir": absolute(config.data.data_dir)}
    if config.data.shuffle_seed is None:
        changes["shuffle_seed"] = config.training.seed
    config = config.model_copy(update={"data": config.data.model_copy(update=changes)})
    source = config.training.initialise_from
    if source is not None:
        training = config.training.model_copy(update={"initialise_from": absolute(source)})
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
