"""A client for any server that speaks TensorFlow Serving's gRPC protocol.

As a library:

    >>> with Client("127.0.0.1:8500") as client:
    ...     client.predict("dense", {"x": np.float32([[1.0], [2.0]])})
    {'y': array([[3.], [5.]], dtype=float32)}

As a command, `python -m serving.client --help`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.errors import Code, UsageError
from serving.messages import client_messages

# numpy, gRPC and the protocol's classes are imported where they are used, so that --help answers at once.
if TYPE_CHECKING:
    import numpy as np

DEFAULT_SIGNATURE = "serving_default"
DEFAULT_TIMEOUT_SECONDS = 30.0


class ClientError(UsageError):
    """A request that was not answered: one line that says why, and the server's code."""

    def __init__(self, message: str, code: Code = Code.INVALID_ARGUMENT) -> None:
        """Keeps the line and the code; errors found before anything was sent are INVALID_ARGUMENT."""
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a signature.

    `dtype` is TensorFlow's name (`float`, `string`, …); `shape` has -1 for free sizes and is None if the rank is free.
    """

    dtype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class SignatureInfo:
    """What one signature takes and gives; `optional_inputs` have defaults on the server."""

    inputs: Mapping[str, TensorInfo]
    outputs: Mapping[str, TensorInfo]
    optional_inputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelMetadata:
    """A model's version and its signatures by name."""

    model: str
    version: int
    signatures: Mapping[str, SignatureInfo]


@dataclass(frozen=True)
class ModelVersionStatus:
    """A version's state (`START`, `LOADING`, `AVAILABLE`, `UNLOADING`, `END`) and the error that ended it, if any."""

    version: int
    state: str
    error_code: str
    error_message: str


class Client:
    """A connection to one server; safe to use from many threads. Closes as a context manager or with `close`."""

    def __init__(self, target: str) -> None:
        """Connects when first used.

        Args:
            target: `host:port` or `unix:/path/of/socket`.
        """
        import grpc

        # gRPC's own limit of 4 MB for answers is the usual surprise of TensorFlow Serving's users.
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.target = target
        self._channel = grpc.insecure_channel(target, options=unlimited)
        self._calls: dict[str, Any] = {}
        self._metadata: dict[tuple[str, int | None], ModelMetadata] = {}

    def __enter__(self) -> Client:
        """The client itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Closes the connection."""
        self.close()

    def close(self) -> None:
        """Closes the connection; requests under way fail."""
        self._channel.close()

    def predict(
        self,
        model: str,
        inputs: Mapping[str, Any],
        signature: str | None = None,
        version: int | None = None,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> dict[str, np.ndarray]:
        """Asks a model.

        Args:
            model: Its name on the server.
            inputs: `{input name: array (batch_size, …)}`. Arrays are sent with the dtype they have (text as UTF-8);
                lists and scalars are converted to the dtype that the model's metadata names.
            signature: None = `serving_default`.
            version: None = the highest available.
            timeout: Seconds to wait for the answer.

        Returns:
            `{output name: array}`; strings as an object array of bytes.

        Raises:
            ClientError: The server cannot be reached, or refused; its `code` says which.
        """
        import numpy as np

        messages = client_messages()
        request = messages.predict.PredictRequest()
        self._fill_spec(request.model_spec, model, version)
        request.model_spec.signature_name = signature or ""
        for name, value in inputs.items():
            array = value if isinstance(value, np.ndarray) else self._convert(model, version, signature, name, value)
            try:
                request.inputs[name].MergeFromString(messages.tensors.to_proto_bytes(_encoded(array)))
            except TypeError as error:
                raise ClientError(f"input {name!r}: {error}") from None
        response = self._call(
            "/tensorflow.serving.PredictionService/Predict", request, messages.predict.PredictResponse, timeout
        )
        return {name: messages.tensors.from_proto(proto) for name, proto in response.outputs.items()}

    def metadata(
        self, model: str, version: int | None = None, timeout: float = DEFAULT_TIMEOUT_SECONDS
    ) -> ModelMetadata:
        """What a model's signatures take and give.

        Args:
            model: Its name on the server.
            version: None = the highest available.
            timeout: Seconds to wait for the answer.

        Raises:
            ClientError: The server cannot be reached, or does not have the model.
        """
        messages = client_messages().metadata
        request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._fill_spec(request.model_spec, model, version)
        response = self._call(
            "/tensorflow.serving.PredictionService/GetModelMetadata",
            request,
            messages.GetModelMetadataResponse,
            timeout,
        )
        signatures = messages.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return ModelMetadata(
            model,
            response.model_spec.version.value,
            {key: _signature_info(signature) for key, signature in sorted(signatures.signature_def.items())},
        )

    def status(
        self, model: str, version: int | None = None, timeout: float = DEFAULT_TIMEOUT_SECONDS
    ) -> list[ModelVersionStatus]:
        """The states of a model's versions, highest first.

        Args:
            model: Its name on the server.
            version: None = all.
            timeout: Seconds to wait for the answer.

        Raises:
            ClientError: The server cannot be reached, or does not know the model or version.
        """
        messages = client_messages().status
        request = messages.GetModelStatusRequest()
        self._fill_spec(request.model_spec, model, version)
        response = self._call(
            "/tensorflow.serving.ModelService/GetModelStatus",
            request,
            messages.GetModelStatusResponse,
            timeout,
        )
        states = messages.ModelVersionStatus.State
        return [
            ModelVersionStatus(
                row.version, states.Name(row.state), Code(row.status.error_code).name, row.status.error_message
            )
            for row in response.model_version_status
        ]

    def _fill_spec(self, spec: Any, model: str, version: int | None) -> None:
        spec.name = model
        if version is not None:
            spec.version.value = version

    def _convert(self, model: str, version: int | None, signature: str | None, name: str, value: Any) -> np.ndarray:
        """A list or scalar as the array that the model's metadata asks for; the metadata is asked for once."""
        import numpy as np

        if (model, version) not in self._metadata:
            self._metadata[model, version] = self.metadata(model, version)
        info = signature_info(self._metadata[model, version], signature)
        if name not in info.inputs:
            raise ClientError(unknown_input(name, info))
        dtypes = {wire.name: wire.numpy for wire in client_messages().tensors.WIRE_TYPES}
        try:
            return np.array(value, dtypes[info.inputs[name].dtype])
        except (ValueError, TypeError, OverflowError, KeyError) as error:
            raise ClientError(f"input {name!r} cannot be {info.inputs[name].dtype}: {error}") from None

    def _call(self, path: str, request: Any, response_class: Any, timeout: float) -> Any:
        import grpc

        if path not in self._calls:
            self._calls[path] = self._channel.unary_unary(
                path,
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=response_class.FromString,
            )
        try:
            return self._calls[path](request, timeout=timeout)
        except grpc.RpcError as error:
            code, details = Code(error.code().value[0]), " ".join((error.details() or "").split())
            details = details.partition(" [[{{")[0]  # where in the graph it happened: for the model's makers
            reasons = {
                Code.UNAVAILABLE: f"server {self.target} cannot be reached (is one running there?): {details}",
                Code.DEADLINE_EXCEEDED: f"server {self.target} did not answer within {timeout:g} s",
                Code.NOT_FOUND: f"model not found on server {self.target}: {details}",
            }
            raise ClientError(reasons.get(code, f"{code.name}: {details}"), code) from None


def signature_info(metadata: ModelMetadata, signature: str | None) -> SignatureInfo:
    """One signature of a model's metadata.

    Raises:
        ClientError: The model does not have it; names those it has.
    """
    name = signature or DEFAULT_SIGNATURE
    if name not in metadata.signatures:
        known = ", ".join(metadata.signatures)
        raise ClientError(f"model {metadata.model!r} has no signature {name!r}; it has: {known}")
    return metadata.signatures[name]


def unknown_input(name: str, info: SignatureInfo) -> str:
    """What to say of an input name that a signature does not have."""
    return f"unknown input {name!r}; the model's inputs are: {', '.join(info.inputs)}"


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


if __name__ == "__main__":
    import sys

    from serving.client_command import main

    sys.exit(main())
