"""Requests from Python values, and Python values from answers: what goes over the wire, whoever sends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.client.info import (
    ClientError,
    ModelMetadata,
    ModelVersionStatus,
    SignatureInfo,
    TensorInfo,
    signature_info,
    unknown_input,
)
from serving.errors import Code
from serving.messages import client_messages

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class ModelSpec:
    """Which model is meant: the highest version that is available, a version, or the version under a label."""

    name: str
    version: int | None = None
    label: str | None = None
    signature: str | None = None

    def __post_init__(self) -> None:
        """Refuses what the protocol cannot say.

        Raises:
            ClientError: A version and a label.
        """
        if self.version is not None and self.label is not None:
            raise ClientError(f"give a version or a label, not both: {self.version} and {self.label!r}")

    def fill(self, proto: Any) -> None:
        """Writes it into a request's `model_spec`."""
        proto.name = self.name
        if self.version is not None:
            proto.version.value = self.version
        if self.label is not None:
            proto.version_label = self.label
        if self.signature:
            proto.signature_name = self.signature


def predict_request(spec: ModelSpec, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()) -> Any:
    """A PredictRequest.

    Args:
        spec: The model.
        inputs: Arrays of the dtypes they are to be sent with; text as UTF-8.
        outputs: Names of the outputs wanted; empty = all.

    Raises:
        ClientError: An array of a dtype that cannot be sent.
    """
    messages = client_messages()
    request = messages.predict.PredictRequest(output_filter=outputs)
    spec.fill(request.model_spec)
    for name, array in inputs.items():
        try:
            request.inputs[name].MergeFromString(messages.tensors.to_proto_bytes(_encoded(array)))
        except TypeError as error:
            raise ClientError(f"input {name!r}: {error}") from None
    return request


def converted(value: Any, name: str, metadata: ModelMetadata, signature: str | None) -> np.ndarray:
    """A list or scalar as the array that the model's metadata asks for.

    Raises:
        ClientError: The signature or the input is unknown, or the value does not fit.
    """
    import numpy as np

    info = signature_info(metadata, signature)
    if name not in info.inputs:
        raise ClientError(unknown_input(name, info))
    dtypes = {wire.name: wire.numpy for wire in client_messages().tensors.WIRE_TYPES}
    try:
        return np.array(value, dtypes[info.inputs[name].dtype])
    except (ValueError, TypeError, OverflowError, KeyError) as error:
        raise ClientError(f"input {name!r} cannot be {info.inputs[name].dtype}: {error}") from None


def read_prediction(response: Any) -> dict[str, np.ndarray]:
    """The outputs of a PredictResponse."""
    from_proto = client_messages().tensors.from_proto
    return {name: from_proto(proto) for name, proto in response.outputs.items()}


def read_metadata(model: str, response: Any) -> ModelMetadata:
    """A GetModelMetadataResponse."""
    signatures = client_messages().metadata.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    return ModelMetadata(
        model,
        response.model_spec.version.value,
        {key: _signature_info(signature) for key, signature in sorted(signatures.signature_def.items())},
    )


def read_statuses(response: Any) -> list[ModelVersionStatus]:
    """A GetModelStatusResponse."""
    states = client_messages().status.ModelVersionStatus.State
    return [
        ModelVersionStatus(
            row.version, states.Name(row.state), Code(row.status.error_code).name, row.status.error_message
        )
        for row in response.model_version_status
    ]


def reload_request(text: str) -> Any:
    """A ReloadConfigRequest from a config file's text.

    Raises:
        ClientError: It is no ModelServerConfig; says where.
    """
    from google.protobuf import text_format

    request = client_messages().management.ReloadConfigRequest()
    try:
        text_format.Parse(text, request.config)
    except text_format.ParseError as error:
        raise ClientError(f"the configuration is no ModelServerConfig: {error}") from None
    return request


def check_reload(response: Any) -> None:
    """Raises what a ReloadConfigResponse reports.

    Raises:
        ClientError: The server did not take the configuration.
    """
    if response.status.error_code:
        code = Code(response.status.error_code)
        raise ClientError(f"{code.name}: {response.status.error_message}", code)


def fill_examples(proto: Any, examples: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None) -> None:
    """Writes examples into a classification or regression request's `input`.

    Args:
        proto: The `Input`.
        examples: Feature by name, each a value or a list of values: text and bytes, whole numbers, or decimals.
        context: Features that every example has; None = none.

    Raises:
        ClientError: A value that no feature can hold.
    """
    if context is None:
        target = proto.example_list.examples
    else:
        target = proto.example_list_with_context.examples
        _fill_example(proto.example_list_with_context.context, context, "the context")
    for number, example in enumerate(examples, 1):
        _fill_example(target.add(), example, f"example {number}")


def _fill_example(proto: Any, features: Mapping[str, Any], where: str) -> None:
    for name, value in features.items():
        feature = proto.features.feature[name]
        values = value.tolist() if hasattr(value, "tolist") else value
        values = list(values) if isinstance(values, (list, tuple)) else [values]
        if not values:
            continue  # a feature without values is of no kind
        if all(isinstance(item, (str, bytes)) for item in values):
            feature.bytes_list.value.extend(item.encode() if isinstance(item, str) else item for item in values)
        elif all(isinstance(item, int) for item in values):
            try:
                feature.int64_list.value.extend(map(int, values))
            except ValueError:
                raise ClientError(f"{where}, feature {name!r}: {value!r} does not fit int64") from None
        elif all(isinstance(item, (int, float)) for item in values):
            feature.float_list.value.extend(values)
        else:
            raise ClientError(f"{where}, feature {name!r}: {value!r} is neither text nor numbers")


def _signature_info(signature: Any) -> SignatureInfo:
    return SignatureInfo(
        {name: _tensor_info(info) for name, info in sorted(signature.inputs.items())},
        {name: _tensor_info(info) for name, info in sorted(signature.outputs.items())},
        tuple(sorted(signature.defaults)),
    )


def _tensor_info(info: Any) -> TensorInfo:
    shape = info.tensor_shape
    dtype = client_messages().tensors.dtype_name(info.dtype)
    return TensorInfo(dtype, None if shape.unknown_rank else tuple(dimension.size for dimension in shape.dim))


def _encoded(array: np.ndarray) -> np.ndarray:
    """Text arrays as object arrays of UTF-8 bytes; others unchanged."""
    import numpy as np

    if array.dtype.kind not in "USO":
        return array
    encoded = np.empty(array.shape, object)
    # A command line's bytes that are no UTF-8 are sent as they were: what they mean is for the model to say.
    encoded.reshape(-1)[:] = [
        item.encode("utf-8", "surrogateescape") if isinstance(item, str) else item
        for item in array.astype(object).reshape(-1).tolist()
    ]
    return encoded
