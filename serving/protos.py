"""Messages of TensorFlow Serving that PyPI's tensorflow-serving-api lacks: monitoring, TLS and batching settings.

They are read from text files only (`--monitoring_config_file`, `--ssl_config_file`, `--batching_parameters_file`), so
their classes are made here from a table of their fields, in TensorFlow Serving's names and numbers.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from serving.errors import UsageError

_PACKAGE = "tensorflow.serving"

# message: {field: (number, type)}; a type that begins with a dot is a message.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "PrometheusConfig": {"enable": (1, "bool"), "path": (2, "string")},
    "MonitoringConfig": {"prometheus_config": (1, ".tensorflow.serving.PrometheusConfig")},
    "SSLConfig": {
        "server_key": (1, "string"),
        "server_cert": (2, "string"),
        "custom_ca": (3, "string"),
        "client_verify": (4, "bool"),
    },
    "BatchingParameters": {
        "max_batch_size": (1, ".google.protobuf.Int64Value"),
        "batch_timeout_micros": (2, ".google.protobuf.Int64Value"),
        "max_enqueued_batches": (3, ".google.protobuf.Int64Value"),
        "num_batch_threads": (4, ".google.protobuf.Int64Value"),
        "thread_pool_name": (5, ".google.protobuf.StringValue"),
        "allowed_batch_sizes": (6, "repeated int64"),
        "pad_variable_length_inputs": (7, "bool"),
        "enable_large_batch_splitting": (8, ".google.protobuf.BoolValue"),
        "max_execution_batch_size": (9, ".google.protobuf.Int64Value"),
    },
}


def read_text_message(path: Path, name: str, flag: str) -> Any:
    """Reads a text file as one of the messages above.

    Args:
        path: The file.
        name: The message, e.g. `SSLConfig`.
        flag: The flag that named the file, for the error.

    Returns:
        The message.

    Raises:
        UsageError: The file cannot be read, or is no such message; says where.
    """
    from google.protobuf import text_format

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--{flag}: cannot read {path}: {error}") from None
    message = _classes()[name]()
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--{flag}: {path} is no text {_PACKAGE}.{name}: {reason}") from None
    return message


@functools.cache
def _classes() -> dict[str, Any]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

    pool = descriptor_pool.DescriptorPool()  # of its own: another package may define these names too
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="tfbigmodel_serving_settings.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    scalars = {"bool": kinds.TYPE_BOOL, "string": kinds.TYPE_STRING, "int64": kinds.TYPE_INT64}
    for message, fields in _MESSAGES.items():
        proto = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            label = kinds.LABEL_REPEATED if kind.startswith("repeated ") else kinds.LABEL_OPTIONAL
            field = proto.field.add(name=name, number=number, label=label)
            kind = kind.removeprefix("repeated ")
            if kind.startswith("."):
                field.type, field.type_name = kinds.TYPE_MESSAGE, kind
            else:
                field.type = scalars[kind]
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }
