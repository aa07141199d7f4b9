"""Which models to serve: from the two flags for one model, or from a ModelServerConfig text file for several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from serving.errors import UsageError

PLATFORM = "tensorflow"


@dataclass(frozen=True)
class VersionPolicy:
    """Which of the versions on disk are wanted.

    `latest`: the `num_versions` highest; `all`: every one; `specific`: those in `versions`.
    """

    kind: Literal["latest", "all", "specific"] = "latest"
    num_versions: int = 1
    versions: frozenset[int] = frozenset()


@dataclass(frozen=True)
class ModelConfig:
    """One model: where its versions are, which are wanted, and the labels that name some of them."""

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)


def single_model(name: str, base_path: str) -> ModelConfig:
    """The model of `--model_name` and `--model_base_path`: its latest version.

    Raises:
        UsageError: No name, or a path that is not absolute.
    """
    if not name:
        raise UsageError("--model_name must not be empty")
    return ModelConfig(name, _absolute(name, base_path))


def read_model_config_file(path: Path) -> tuple[ModelConfig, ...]:
    """Reads `--model_config_file`, a text `tensorflow.serving.ModelServerConfig`.

    Args:
        path: The file, e.g. with
            `model_config_list { config { name: "dense" base_path: "/models/dense" model_platform: "tensorflow" } }`.

    Returns:
        The models in the order of the file.

    Raises:
        UsageError: The file cannot be read or parsed, or names something that cannot be served.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--model_config_file: cannot read {path}: {error}") from None
    return parse_model_config(text)


def parse_model_config(text: str) -> tuple[ModelConfig, ...]:
    """The models of a ModelServerConfig in text format; see `read_model_config_file`."""
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    proto = model_server_config_pb2.ModelServerConfig()
    try:
        text_format.Parse(text, proto)
    except text_format.ParseError as error:
        # TensorFlow Serving's own words, which its users' scripts look for.
        reason = " ".join(str(error).split())
        raise UsageError(f"Error parsing text-format tensorflow.serving.ModelServerConfig: {reason}") from None
    if proto.WhichOneof("config") == "custom_model_config":
        raise UsageError("ModelServer does not yet support custom model config.")
    models: dict[str, ModelConfig] = {}
    for config in proto.model_config_list.config:
        if config.name in models:
            raise UsageError(f"Illegal to list model {config.name} multiple times in config list")
        models[config.name] = _model(config)
    if not models:
        raise UsageError("the model config names no model: expected model_config_list { config { name: … } }")
    return tuple(models.values())


def _model(config: Any) -> ModelConfig:
    """One `ModelConfig` message as our dataclass."""
    if not config.name:
        raise UsageError("a model in the model config has no name")
    # model_type TENSORFLOW = 1 is the deprecated spelling of the platform.
    platform = config.model_platform or (PLATFORM if config.model_type == 1 else "")
    if not platform:
        raise UsageError(f'model {config.name} has no model_platform: add model_platform: "{PLATFORM}" to its config')
    if platform != PLATFORM:
        raise UsageError(f"model {config.name} has model_platform {platform!r}: only {PLATFORM!r} can be served")
    return ModelConfig(
        config.name, _absolute(config.name, config.base_path), _policy(config), dict(config.version_labels)
    )


def _policy(config: Any) -> VersionPolicy:
    policy = config.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return VersionPolicy("all")
    if kind == "specific":
        if not policy.specific.versions:
            raise UsageError(f"model {config.name}: policy specific names no versions")
        return VersionPolicy("specific", versions=frozenset(policy.specific.versions))
    # An unset num_versions is 0 on the wire and means 1.
    return VersionPolicy("latest", num_versions=policy.latest.num_versions or 1)


def _absolute(name: str, base_path: str) -> Path:
    path = Path(base_path)
    if not path.is_absolute():
        raise UsageError(f"Expected model {name} to have an absolute path; got base_path()={base_path}")
    return path
