"""What Classify, Regress and MultiInference share: Examples in, tensors looked up by their names in the signature."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tensorflow.core.framework import types_pb2

from serving.engine import LoadedModel
from serving.errors import Code, ServingError
from serving.inference.call import GraphRun
from serving.inference.predict import DEFAULT_SIGNATURE
from serving.tensors import BY_NUMPY, dtype_name

INPUTS = "inputs"  # the only input of a signature that classifies or regresses


def serialized_examples(examples_input: Any) -> np.ndarray:
    """The examples of a request as the bytes that the graph parses.

    A context is put before each example. Two serialised messages in a row read as one message merged from both, so
    every example has the context's features, and its own where both have one.

    Args:
        examples_input: An `Input`: an `ExampleList` or an `ExampleListWithContext`.

    Returns:
        An object array `(n,)` of bytes, n ≥ 1.

    Raises:
        ServingError: INVALID_ARGUMENT, there is no example.

    Reference:
        `InputToSerializedExampleTensor` of TensorFlow Serving.
    """
    kind = examples_input.WhichOneof("kind")
    chosen = getattr(examples_input, kind) if kind else None
    if chosen is None or not chosen.examples:
        raise ServingError(Code.INVALID_ARGUMENT, "Input is empty.")
    context = chosen.context.SerializeToString() if kind == "example_list_with_context" else b""
    values = np.empty(len(chosen.examples), dtype=object)
    values[:] = [context + example.SerializeToString() for example in chosen.examples]
    return values


def signature_name(spec: Any) -> str:
    """The signature that a `ModelSpec` asks for."""
    return spec.signature_name or DEFAULT_SIGNATURE


def find_signature(model: LoadedModel, name: str) -> Any:
    """A signature for Classify or Regress.

    Raises:
        ServingError: INVALID_ARGUMENT, the model has none of this name.
    """
    if name not in model.signatures:
        raise ServingError(Code.INVALID_ARGUMENT, f"No signature was found with the name: {name}")
    return model.signatures[name]


def examples_run(
    model: LoadedModel, signature_key: str, input_info: Any, fetches: Iterable[str], values: np.ndarray
) -> GraphRun:
    """The run that feeds serialised examples.

    Args:
        model: The loaded version.
        signature_key: What was asked for.
        input_info: `TensorInfo` of the tensor to feed.
        fetches: Names of the tensors to compute; one that comes twice is computed once.
        values: From `serialized_examples`.

    Raises:
        ServingError: INVALID_ARGUMENT, the tensor takes no strings.
    """
    expected = model.input_dtype(input_info)
    if expected != types_pb2.DT_STRING:
        raise ServingError(Code.INVALID_ARGUMENT, f"Expects arg[0] to be {dtype_name(expected)} but string is provided")
    return GraphRun(signature_key, (input_info.name,), tuple(dict.fromkeys(fetches)), [values])


def named_outputs(
    signature: Any, aliases: Sequence[str], run: GraphRun, results: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """What a run fetched, under the names that the signature gives it.

    Args:
        signature: The `SignatureDef`.
        aliases: Names of its outputs that were computed.
        run: The run.
        results: One array for each of the run's fetches.
    """
    by_tensor = dict(zip(run.fetches, results, strict=True))
    return {alias: np.asarray(by_tensor[signature.outputs[alias].name]) for alias in aliases}


def write_model_spec(spec: Any, name: str, version: int, signature: str) -> None:
    """Fills the `ModelSpec` of a response with what answered."""
    spec.name, spec.version.value, spec.signature_name = name, version, signature


def check_method_name(signature: Any, kind: str, expected: str) -> None:
    """Checks that a signature was exported for the kind of call.

    Args:
        signature: The `SignatureDef`.
        kind: The word for it in the error, e.g. `classification`.
        expected: The method name, e.g. `tensorflow/serving/classify`.

    Raises:
        ServingError: INVALID_ARGUMENT, it was exported for another.
    """
    if signature.method_name != expected:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f"Expected {kind} signature method_name to be {expected}. Was: {signature.method_name}",
        )


def check_one_input(signature: Any) -> None:
    """Checks that a signature has one input.

    Raises:
        ServingError: INVALID_ARGUMENT, it has none or several.
    """
    if len(signature.inputs) != 1:
        raise ServingError(Code.INVALID_ARGUMENT, "Expected one input Tensor.")


def check_named(infos: Mapping[str, Any], alias: str, what: str, signature: Any) -> None:
    """Checks that a signature has an input or an output of the name that the protocol gives it.

    Args:
        infos: The signature's inputs or outputs.
        alias: The name, e.g. `inputs`.
        what: The words for it in the error, e.g. `classification inputs`.
        signature: The `SignatureDef`, shown in the error.

    Raises:
        ServingError: INVALID_ARGUMENT, it has not.
    """
    if alias not in infos:
        raise ServingError(Code.INVALID_ARGUMENT, f"No {what} found in SignatureDef: {signature}")


def shape_text(array: np.ndarray) -> str:
    """A shape as TensorFlow prints it, e.g. `[2,3]`."""
    return "[" + ",".join(str(size) for size in array.shape) + "]"


def dtype_text(array: np.ndarray) -> str:
    """A dtype as TensorFlow's enum names it, e.g. `DT_FLOAT`."""
    wire = BY_NUMPY.get(array.dtype)
    return types_pb2.DataType.Name(wire.dtype_enum) if wire else str(array.dtype)
