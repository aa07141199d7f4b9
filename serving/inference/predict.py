"""Predict: from a PredictRequest to a PredictResponse, with TensorFlow Serving's checks, in its order, in its words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tensorflow_serving.apis import predict_pb2

from serving.engine import LoadedModel
from serving.errors import Code, ServingError
from serving.inference.call import GraphRun, Respond
from serving.tensors import BY_ENUM, BY_NUMPY, dtype_name, from_proto, to_proto_bytes

DEFAULT_SIGNATURE = "serving_default"


def predict_call(name: str, version: int, model: LoadedModel, request: Any) -> tuple[GraphRun, Respond]:
    """Reads a PredictRequest.

    Args:
        name: The model's name, for the response.
        version: The version that answers.
        model: The loaded version.
        request: A `PredictRequest`, untrusted.

    Returns:
        The run of the graph, and what makes the `PredictResponse` from its results. The response names the model, the
        version and the signature that answered, never the label.

    Raises:
        ServingError: One of the contract's errors.
    """
    signature_name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = model.signatures.get(signature_name)
    if signature is None:
        raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{signature_name}" not found.')
    _check_input_count(signature, request)
    aliases, values = _inputs(signature, request)
    outputs = _output_aliases(signature, request.output_filter)
    run = make_run(model, signature_name, dict(zip(aliases, values, strict=True)), outputs)

    def respond(results: list[np.ndarray]) -> Any:
        response = predict_pb2.PredictResponse()
        response.model_spec.name = name
        response.model_spec.version.value = version
        response.model_spec.signature_name = signature_name
        for alias, result in zip(outputs, results, strict=True):
            _write_output(response.outputs[alias], alias, result)
        return response

    return run, respond


def make_run(
    model: LoadedModel, signature_name: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> GraphRun:
    """The run of a signature on arrays.

    Args:
        model: The loaded version.
        signature_name: One of its signatures.
        inputs: `{input name: array}` for every input of the signature, in sorted order of the names.
        outputs: Names of the outputs to compute.

    Raises:
        ServingError: INVALID_ARGUMENT, an array has another dtype than the graph expects.
    """
    signature = model.signatures[signature_name]
    _check_dtypes(model, signature, inputs)
    return GraphRun(
        signature_name,
        tuple(signature.inputs[alias].name for alias in inputs),
        tuple(signature.outputs[alias].name for alias in outputs),
        list(inputs.values()),
    )


def _check_input_count(signature: Any, request: Any) -> None:
    sent, expected = set(request.inputs), set(signature.inputs)
    if len(sent) > len(expected) or (len(sent) < len(expected) and not signature.defaults):
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"input size does not match signature: {len(sent)}!={len(expected)} len({_names(sent)}) != "
            f"len({_names(expected)}). Sent extra: {_names(sent - expected)}. "
            f"Missing but required: {_names(expected - sent)}.",
        )


def _inputs(signature: Any, request: Any) -> tuple[list[str], list[np.ndarray]]:
    """The signature's input names and the arrays sent for them, or their defaults, in the same order."""
    aliases, values, used = sorted(signature.inputs), [], []
    for alias in aliases:
        if alias in request.inputs:
            proto = request.inputs[alias]
            used.append(alias)
        elif alias in signature.defaults:
            proto = signature.defaults[alias]
        else:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"Signature input alias: {alias}(feed name: {signature.inputs[alias].name}) not found in request and "
                f"no default value provided. Inputs expected to be in the request {_names(request.inputs)}, or "
                f"default input alias set: {_joined(signature.defaults)}",
            )
        try:
            values.append(from_proto(proto))
        except ValueError:
            raise ServingError(Code.INVALID_ARGUMENT, f"tensor parsing error: {alias}") from None
    if len(used) != len(request.inputs):
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"Inputs contains invalid name. Used request inputs: {_joined(used)}, "
            f"request input: {_joined(request.inputs)}",
        )
    return aliases, values


def _output_aliases(signature: Any, output_filter: Iterable[str]) -> list[str]:
    """The outputs to compute: those of the filter, or all. Sorted, so that one callable serves every order."""
    wanted: set[str] = set()
    for alias in output_filter:
        if alias not in signature.outputs:
            raise ServingError(
                Code.INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
                f"{_names(signature.outputs)}.",
            )
        if alias in wanted:
            raise ServingError(Code.INVALID_ARGUMENT, f"duplicate output tensor alias: {alias}")
        wanted.add(alias)
    return sorted(wanted or signature.outputs)


def _check_dtypes(model: LoadedModel, signature: Any, inputs: Mapping[str, np.ndarray]) -> None:
    # The callable would refuse a wrong dtype too, but in other words than those clients know.
    for index, (alias, value) in enumerate(inputs.items()):
        expected, sent = model.input_dtype(signature.inputs[alias]), BY_NUMPY[value.dtype]
        if sent is not BY_ENUM.get(expected):
            raise ServingError(
                Code.INVALID_ARGUMENT, f"Expects arg[{index}] to be {dtype_name(expected)} but {sent.name} is provided"
            )


def _write_output(proto: Any, alias: str, result: Any) -> None:
    try:
        proto.MergeFromString(to_proto_bytes(np.asarray(result)))
    except TypeError as error:
        raise ServingError(Code.UNIMPLEMENTED, f"output {alias}: {error}") from None


def _names(names: Iterable[str]) -> str:
    return "{" + _joined(names) + "}"


def _joined(names: Iterable[str]) -> str:
    return ",".join(sorted(names))
