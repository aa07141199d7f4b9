"""TensorFlow Serving's command line: its flag names, its forms, and what to say about a mistake.

Python's argparse is not used because the forms differ: `--flag` and `--flag=true` for booleans, and flags that belong
to TensorFlow Serving but mean nothing here must be accepted with a warning while others are refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from serving.errors import UsageError


def _flag(default: Any, help_text: str, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field that is a flag: its type is the type of its default."""
    return field(default=default, metadata={"help": help_text, "low": low, "high": high})


@dataclass(frozen=True)
class ServerOptions:
    """Every flag that has an effect, under TensorFlow Serving's names where it has them.

    Ours are host, insecure_public, adaptive_batching, max_queue_seconds and the other limits (max_…), auth_tokens_file,
    trusted_keys_file, require_signed_manifest, access_log_file, request_log_… and drain_timeout_seconds.
    """

    port: int = _flag(8500, "TCP port for gRPC; 0 picks a free one and prints it.", 0, 65535)
    rest_api_port: int = _flag(0, "TCP port for REST; 0 = no REST, -1 = a free one.", -1, 65535)
    host: str = _flag("127.0.0.1", "Address to listen on. Loopback unless you say otherwise (0.0.0.0 = every network).")
    insecure_public: bool = _flag(False, "Allow a --host beyond this machine without TLS and tokens.")
    grpc_socket_path: str = _flag("", "Listen for gRPC on this UNIX socket too.")
    grpc_channel_arguments: str = _flag("", "gRPC server arguments, e.g. grpc.max_connection_age_ms=2000,name=value.")
    model_name: str = _flag("default", "Name of the model (ignored with --model_config_file).")
    model_base_path: str = _flag(
        "", "Absolute directory (or gs://, s3://) of numbered version folders; ignored with a config file."
    )
    model_config_file: str = _flag("", "Text ModelServerConfig with several models and their version policies.")
    model_config_file_poll_wait_seconds: float = _flag(0.0, "Seconds between looks at that file; 0 = read once.", 0)
    file_system_poll_wait_seconds: float = _flag(1.0, "Seconds between looks for new versions; 0 = only once.", 0)
    saved_model_tags: str = _flag("serve", "Comma-separated tags of the graph to load from the SavedModel.")
    max_num_load_retries: int = _flag(5, "How often to try again a version that failed to load.", 0)
    load_retry_interval_micros: int = _flag(60_000_000, "Microseconds between such tries.", 0)
    num_load_threads: int = _flag(0, "Threads that load versions; 0 = one.", 0)
    enable_signature_method_name_check: bool = _flag(
        False, "Let Classify and Regress take only signatures that were exported for them (TensorFlow 2 exports none)."
    )
    enable_model_warmup: bool = _flag(True, "Replay a version's tf_serving_warmup_requests before it is available.")
    num_request_iterations_for_warmup: int = _flag(1, "How often each of them is replayed.", 1)
    allow_version_labels_for_unavailable_models: bool = _flag(
        False, "Accept a label's first assignment to a version that is not available yet."
    )
    force_allow_any_version_labels_for_unavailable_models: bool = _flag(
        False, "Accept any label for a version that is not available."
    )
    enable_batching: bool = _flag(False, "Batch requests as TensorFlow Serving does, by --batching_parameters_file.")
    batching_parameters_file: str = _flag("", "Text BatchingParameters; needs --enable_batching.")
    adaptive_batching: bool = _flag(
        True, "Without --enable_batching: let requests that wait for a busy model share its next run."
    )
    max_queue_seconds: float = _flag(5.0, "Refuse a request that would wait longer than this for its model.", 0.001)
    max_concurrent_requests: int = _flag(1000, "Refuse requests beyond so many at once.", 1)
    max_request_bytes: int = _flag(100_000_000, "Largest REST body, in bytes.", 1024)
    rest_api_timeout_in_ms: int = _flag(30_000, "Time for a REST request, from its first byte to its answer.", 1)
    rest_api_enable_cors_support: bool = _flag(False, "Answer browsers of other origins.")
    max_connections: int = _flag(4096, "Connections at once on each port; further ones are refused.", 1)
    tensorflow_session_parallelism: int = _flag(
        0, "Threads for TensorFlow in all: sets the two flags below that are not given.", 0
    )
    tensorflow_intra_op_parallelism: int = _flag(0, "Threads in one op; 0 = chosen by TensorFlow.", 0)
    tensorflow_inter_op_parallelism: int = _flag(
        0, "Ops of one request that run at once; 0 = in the request's own thread.", 0
    )
    ssl_config_file: str = _flag("", "Text SSLConfig with key and certificates inline: TLS on both ports.")
    auth_tokens_file: str = _flag("", "JSON file of hashed bearer tokens (python -m serving.security.tokens).")
    trusted_keys_file: str = _flag("", "PEM public keys (Ed25519) whose signatures of exports are trusted.")
    require_signed_manifest: bool = _flag(False, "Load only versions with a manifest signed by a trusted key.")
    monitoring_config_file: str = _flag("", "Text MonitoringConfig: path of the Prometheus metrics, or none.")
    access_log_file: str = _flag("", "Write one JSON line for each request to this file; - = standard output.")
    request_log_prefix: str = _flag("", "Write samples of requests and answers to files that begin like this.")
    request_log_sampling_rate: float = _flag(0.01, "Share of the requests to write.", 0, 1)
    drain_timeout_seconds: float = _flag(30.0, "On SIGTERM, seconds that requests under way may still take.", 0)
    version: bool = _flag(False, "Print the versions and exit.")
    help: bool = _flag(False, "Print this text and exit.")


# Flags of TensorFlow Serving that are accepted and have no effect (yet), so that its command lines start this server.
IGNORED_BOOLEANS = frozenset(
    {
        "enable_grpc_healthcheck_service",
        "enable_per_model_batching_parameters",
        "enable_profiler",
        "enable_serialization_as_tensor_content",
        "enforce_session_run_timeout",
        "flush_filesystem_caches",
        "prefer_tflite_model",
        "remove_unused_fields_from_bundle_metagraph",
        "skip_initialize_tpu",
        "use_tflite_model",
        "xla_cpu_compilation_enabled",
    }
)
IGNORED_VALUES = frozenset(
    {
        "grpc_max_threads",
        "mixed_precision",
        "num_tflite_interpreters",
        "num_tflite_interpreters_per_pool",
        "num_tflite_pools",
        "num_unload_threads",
        "per_process_gpu_memory_fraction",
        "platform_config_file",
        "rest_api_num_threads",
        "tensorflow_session_config_file",
        "thread_pool_factory_config_file",
    }
)
# In --help, before the flag of that name.
_HEADINGS = {
    "port": "Where it listens",
    "model_name": "Models",
    "enable_batching": "Batching",
    "max_concurrent_requests": "Limits and REST",
    "tensorflow_session_parallelism": "TensorFlow",
    "ssl_config_file": "Security",
    "monitoring_config_file": "Watching",
    "drain_timeout_seconds": "Ending and help",
}
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def parse_flags(arguments: Sequence[str]) -> tuple[ServerOptions, list[str]]:
    """Reads a command line.

    Args:
        arguments: The words after the command, `--name=value`, `--name value` or, for booleans, `--name`.

    Returns:
        The options, and warnings to print (flags without effect).

    Raises:
        UsageError: An unknown flag, a bad value, a word that is no flag.

    Example:
        >>> parse_flags(["--port=0", "--model_name=dense"])[0].model_name
        'dense'
    """
    known = {item.name: item for item in fields(ServerOptions)}
    values: dict[str, Any] = {}
    warnings: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word.strip("-") == "":
            raise UsageError(f"unexpected argument {word!r}: flags are written --name=value (see --help)")
        name, has_value, text = word.lstrip("-").partition("=")
        is_boolean = name in IGNORED_BOOLEANS or (name in known and isinstance(known[name].default, bool))
        if name not in known and name not in IGNORED_BOOLEANS and name not in IGNORED_VALUES:
            raise UsageError(f"unknown flag --{name}{_suggestion(name)} (see --help)")
        if not has_value and not is_boolean:
            if not words or words[0].startswith("--"):
                raise UsageError(f"--{name} needs a value: --{name}=…")
            text = words.pop(0)
        if name in known:
            values[name] = _value(known[name], text if has_value or not is_boolean else "true")
        else:
            warnings.append(f"--{name} is a flag of TensorFlow Serving that has no effect here; it is ignored")
    return ServerOptions(**values), warnings


def help_text() -> str:
    """The text of `--help`: every flag with its default, then the names that are accepted and ignored."""
    lines = [
        "python -m serving.server --model_name=dense --model_base_path=/abs/path [--flag=value …]",
        "",
        "Serves SavedModels over gRPC and REST as TensorFlow Serving does. Versions are numbered folders under the",
        "base path; a new number is loaded while the old one still answers, then takes over.",
    ]
    for item in fields(ServerOptions):
        if item.name in _HEADINGS:
            lines += ["", f"{_HEADINGS[item.name]}:"]
        default = item.default
        shown = "" if default == "" or default is False else f" (default {default})"
        # Names longer than the column push their text to the right; a space always stands between.
        lines.append(f"  --{item.name:<35} {item.metadata['help']}{shown}")
    ignored = ", ".join(sorted(IGNORED_BOOLEANS | IGNORED_VALUES))
    return "\n".join([*lines, "", f"Accepted with a warning, without effect: {ignored}."])


def _suggestion(name: str) -> str:
    names = [item.name for item in fields(ServerOptions)] + sorted(IGNORED_BOOLEANS | IGNORED_VALUES)
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean --{near[0]}?" if near else ""


def _value(item: Any, text: str) -> Any:
    """The flag's text as its type, checked against its range."""
    if isinstance(item.default, bool):
        if text.lower() not in _BOOLEANS:
            raise UsageError(f"--{item.name} must be true or false, but {text!r} was given")
        return _BOOLEANS[text.lower()]
    if isinstance(item.default, str):
        return text
    low, high = item.metadata["low"], item.metadata["high"]
    kind = "a whole number" if isinstance(item.default, int) else "a number"
    limits = f"{kind} of at least {low}" if high is None else f"{kind} from {low} to {high}"
    try:
        number = type(item.default)(text)
    except ValueError:
        raise UsageError(f"--{item.name} must be {limits}, but {text!r} was given") from None
    # Written so that NaN, which compares false with everything, is refused too.
    if not (number >= low and (number <= high if high is not None else number < float("inf"))):
        raise UsageError(f"--{item.name} must be {limits}, but {text!r} was given")
    return number
