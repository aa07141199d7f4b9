"""Which models to serve: from the two flags for one model, or from a ModelServerConfig, a text file or a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from serving.errors import Code, ServingError, UsageError
from serving.object_store import RemoteError, cache_folder, check_url, is_remote

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
    """One model: where its versions are, which are wanted, and the labels that name some of them.

    Attributes:
        name: What requests call it.
        base_path: The folder of its versions; of a remote model the one that they are fetched to.
        policy: Which of them are wanted.
        labels: `{label: version}`.
        logging: Its `LoggingConfig` message, which says what requests are logged; None = none.
        url: Of a remote model, such as `gs://bucket/models/dense`; empty = it is local.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = field(default_factory=dict)
    logging: Any = None
    url: str = ""

    @property
    def place(self) -> str:
        """Where its versions are, as the user gave it."""
        return self.url or str(self.base_path)


def single_model(name: str, base_path: str) -> ModelConfig:
    """The model of `--model_name` and `--model_base_path`: its latest version.

    Raises:
        UsageError: No name, or a path that is not absolute.
    """
    if not name:
        raise UsageError("--model_name must not be empty")
    if is_remote(base_path):
        try:
            url = check_url(base_path)
        except RemoteError as error:
            raise UsageError(f"--model_base_path: {error}") from None
        return ModelConfig(name, cache_folder(name, url), url=url)
    path = Path(base_path)
    if not path.is_absolute():
        raise UsageError(f"Expected model {name} to have an absolute path or URI; got base_path()={base_path}")
    return ModelConfig(name, path)


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
    kind = proto.WhichOneof("config")
    if kind == "custom_model_config":
        raise UsageError("ModelServer does not yet support custom model config.")
    if kind is None:
        raise UsageError("the model config is empty: expected model_config_list { config { name: … } }")
    for config in proto.model_config_list.config:
        if not config.model_platform and not config.model_type:
            raise UsageError(
                f'model {config.name} has no model_platform: add model_platform: "{PLATFORM}" to its config'
            )
    try:
        return list_models(proto.model_config_list)
    except ServingError as error:
        raise UsageError(error.message) from None


def list_models(config_list: Any, before: Mapping[str, ModelConfig] | None = None) -> tuple[ModelConfig, ...]:
    """Checks a `ModelConfigList`, in TensorFlow Serving's order and words.

    Args:
        config_list: The message. An empty list is allowed: models may be added later.
        before: The models that are served now.

    Returns:
        The models in the order of the list.

    Raises:
        ServingError: INVALID_ARGUMENT; says which model is wrong, and how.
    """
    names = set()
    for config in config_list.config:
        if not config.name:
            raise _invalid("a model in the model config has no name")
        if config.name in names:
            raise _invalid(f"Illegal to list model {config.name} multiple times in config list")
        names.add(config.name)
    for config in config_list.config:
        if is_remote(config.base_path):
            try:
                check_url(config.base_path)
            except RemoteError as error:
                raise _invalid(f"model {config.name}: {error}") from None
        elif not Path(config.base_path).is_absolute():
            raise _invalid(
                f"Expected model {config.name} to have an absolute path or URI; got base_path()={config.base_path}"
            )
    for config in config_list.config:
        platform = _platform(config)
        if platform == PLATFORM:
            continue
        if before and config.name in before:
            raise _invalid(
                f"Illegal to change a model's platform. For model {config.name} platform was {PLATFORM} "
                f"and new platform requested is {platform}"
            )
        raise _invalid(f"Model {config.name} requests unsupported platform {platform}")
    return tuple(_model(config) for config in config_list.config)


def _model(config: Any) -> ModelConfig:
    url = config.base_path.rstrip("/") if is_remote(config.base_path) else ""
    return ModelConfig(
        config.name,
        cache_folder(config.name, url) if url else Path(config.base_path),
        _policy(config),
        dict(config.version_labels),
        config.logging_config if config.HasField("logging_config") else None,
        url,
    )


def _platform(config: Any) -> str:
    """The platform of a model, in its present or its deprecated spelling (`model_type: TENSORFLOW`)."""
    if config.model_type:
        if config.model_platform:
            raise _invalid(
                "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
            )
        if config.model_type != 1:
            raise _invalid(f"ModelServerConfig::model_type choice {config.model_type} not supported.")
        return PLATFORM
    if not config.model_platform:
        raise _invalid(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
        )
    return str(config.model_platform)


def _policy(config: Any) -> VersionPolicy:
    policy = config.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "all":
        return VersionPolicy("all")
    if kind == "specific":
        if not policy.specific.versions:
            raise _invalid(f"model {config.name}: policy specific names no versions")
        return VersionPolicy("specific", versions=frozenset(policy.specific.versions))
    # An unset num_versions is 0 on the wire and means 1.
    return VersionPolicy("latest", num_versions=policy.latest.num_versions or 1)


def _invalid(message: str) -> ServingError:
    return ServingError(Code.INVALID_ARGUMENT, message)
