"""A server's parts, made from its command line: what can be refused at once, and what needs TensorFlow."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.errors import UsageError
from serving.flags import ServerOptions
from serving.model_config import ModelConfig, read_model_config_file, single_model
from serving.object_store import RemoteError
from serving.remote import check_readable

if TYPE_CHECKING:
    from serving.batching.parameters import BatchingParameters
    from serving.core import Core
    from serving.operations.access_log import AccessLog
    from serving.operations.request_log import RequestLog
    from serving.security.tls import TlsSettings
    from serving.security.tokens import TokensFile

logger = logging.getLogger("serving")

# Nothing here imports TensorFlow or gRPC before `make_core`: a mistake on the command line is told at once.


@dataclass(frozen=True)
class Settings:
    """The files that the command line names, read and checked.

    Attributes:
        models: What to serve.
        batching: TensorFlow Serving's batching; None = ours.
        tls: Key and certificates; None = plain text.
        tokens: Who may come in; None = everyone.
        trusted_keys: Public keys whose signatures of exports count.
        metrics_path: Where Prometheus asks; empty = nowhere.
        warnings: What the user should know.
    """

    models: tuple[ModelConfig, ...]
    batching: BatchingParameters | None
    tls: TlsSettings | None
    tokens: TokensFile | None
    trusted_keys: tuple[bytes, ...]
    metrics_path: str
    warnings: tuple[str, ...]


def read_settings(options: ServerOptions) -> Settings:
    """Reads and checks everything that needs no TensorFlow.

    Raises:
        UsageError: The first mistake that is found.
    """
    from serving.batching.parameters import BatchingParameters, read_batching_parameters
    from serving.operations.metrics import monitoring_path
    from serving.security.exposure import check_exposure
    from serving.security.signing import read_trusted_keys
    from serving.security.tls import read_tls
    from serving.security.tokens import TokensFile

    models = read_models(options)
    warning = check_exposure(
        options.host, bool(options.ssl_config_file), bool(options.auth_tokens_file), options.insecure_public
    )
    if options.batching_parameters_file and not options.enable_batching:
        raise UsageError("--batching_parameters_file has an effect only with --enable_batching; give both or neither")
    batching = None
    if options.enable_batching:
        batching = BatchingParameters()
        if options.batching_parameters_file:
            batching = read_batching_parameters(Path(options.batching_parameters_file))
    return Settings(
        models,
        batching,
        read_tls(Path(options.ssl_config_file)) if options.ssl_config_file else None,
        TokensFile(Path(options.auth_tokens_file)) if options.auth_tokens_file else None,
        read_trusted_keys(options.trusted_keys_file, options.require_signed_manifest),
        monitoring_path(options) or "",
        (warning,) if warning else (),
    )


def read_models(options: ServerOptions) -> tuple[ModelConfig, ...]:
    """The models to serve, with their directories checked.

    Raises:
        UsageError: Neither a base path nor a config file, or one that is wrong, or a directory that is not there.
    """
    if options.model_config_file:
        configs = read_model_config_file(Path(options.model_config_file))
    elif options.model_base_path:
        configs = (single_model(options.model_name, options.model_base_path),)
    else:
        raise UsageError("give --model_base_path=/abs/path (and --model_name), or --model_config_file=… (see --help)")
    for config in configs:
        if config.url:
            try:
                check_readable(config.url)
            except RemoteError as error:
                raise UsageError(f"base path of model {config.name}: {error}") from None
        elif not config.base_path.is_dir():
            what = "is not a directory" if config.base_path.exists() else "does not exist"
            raise UsageError(f"base path {config.base_path} of model {config.name} {what}")
    return configs


def make_core(options: ServerOptions, settings: Settings, access_log: AccessLog) -> Core:
    """Makes the parts that need TensorFlow, which must be imported already. Nothing is loaded yet.

    Args:
        options: The command line.
        settings: From `read_settings`.
        access_log: Open already, because a mistake in it is the user's.
    """
    from serving.batching.runner import Runner
    from serving.core import Core
    from serving.engine import EngineOptions, load_model
    from serving.manager import Manager, ManagerOptions
    from serving.operations.metrics import Metrics
    from serving.operations.request_log import RequestLog
    from serving.security.gate import Gate

    metrics = Metrics()
    engine = EngineOptions(
        tags=tuple(filter(None, options.saved_model_tags.split(","))),
        intra_op_threads=options.tensorflow_intra_op_parallelism or options.tensorflow_session_parallelism,
        inter_op_threads=options.tensorflow_inter_op_parallelism or options.tensorflow_session_parallelism,
        trusted_keys=settings.trusted_keys,
        require_signature=options.require_signed_manifest,
        check_method_names=options.enable_signature_method_name_check,
    )
    manager = Manager(
        settings.models,
        functools.partial(load_model, options=engine),
        options.file_system_poll_wait_seconds,
        # Named after the flags that set them.
        ManagerOptions(**{field.name: getattr(options, field.name) for field in fields(ManagerOptions)}),
        metrics.warm_up,
    )
    runner = Runner(settings.batching, options.adaptive_batching, options.max_queue_seconds, metrics.batch)
    gate = Gate(settings.tokens, options.max_concurrent_requests)
    request_log = RequestLog(engine.tags)
    request_log.configure(_logging(options, settings.models))
    manager.subscribe(functools.partial(_log_requests_of, request_log, options))
    core = Core(manager, runner, gate, metrics, access_log, request_log)
    _add_readings(core)
    return core


def _logging(options: ServerOptions, models: tuple[ModelConfig, ...]) -> dict[str, Any]:
    """What is sampled of each model: by the flags, each into files of its own, or by its own configuration."""
    from serving.operations.request_log import logging_config

    prefix, rate = options.request_log_prefix, options.request_log_sampling_rate
    if prefix and len(models) == 1:
        return {models[0].name: logging_config(prefix, rate)}
    if prefix:
        return {model.name: logging_config(f"{prefix}-{model.name}", rate) for model in models}
    return {model.name: model.logging for model in models if model.logging is not None}


def _log_requests_of(request_log: RequestLog, options: ServerOptions, models: tuple[ModelConfig, ...]) -> None:
    """Follows a new configuration; one that cannot be followed is logged, and the models are served all the same."""
    try:
        request_log.configure(_logging(options, models))
    except UsageError as error:
        logger.error("requests are sampled as before: %s", error)


def _add_readings(core: Core) -> None:
    from serving.version_table import State

    metrics = core.metrics

    def available() -> Iterator[tuple[dict[str, str], float]]:
        for name in core.manager.models():
            states = [status.state for status in core.manager.statuses(name)]
            yield {"model_name": name}, states.count(State.AVAILABLE)

    def memory() -> Iterator[tuple[dict[str, str], float]]:
        for servable in core.manager.loaded():
            labels = {"model_name": servable.name, "version": str(servable.version)}
            yield labels, servable.model.resident_bytes

    def states() -> Iterator[tuple[dict[str, str], float]]:
        for name in core.manager.models():
            for status in core.manager.statuses(name):
                yield {"model_name": name, "version": str(status.version), "state": status.state.name}, 1

    metrics.gauge("queue_depth", "Requests that wait for a run of their model.", core.runner.queue_depths)
    metrics.gauge("requests_in_flight", "Requests under way.", lambda: [({}, core.gate.in_flight)])
    metrics.gauge("model_available_versions", "Versions that answer; 0 is trouble.", available)
    metrics.gauge("model_resident_memory_bytes", "What a version's load added to the process's memory.", memory)
    metrics.gauge("model_version_state", "1 for the state that each version is in.", states)
    metrics.counter(
        "access_log_entries_dropped_total", "Entries that were not written.", lambda: [({}, core.access_log.dropped)]
    )
    metrics.counter(
        "request_log_records_dropped_total", "Samples that were not written.", lambda: [({}, core.request_log.dropped)]
    )
