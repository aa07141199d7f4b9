"""Regress: from a RegressionRequest to one number for each example, with TensorFlow Serving's checks, in its words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorflow_serving.apis import regression_pb2

from serving.engine import LoadedModel
from serving.errors import Code, ServingError
from serving.inference.call import GraphRun, Respond
from serving.inference.examples import (
    INPUTS,
    check_method_name,
    check_named,
    check_one_input,
    dtype_text,
    examples_run,
    find_signature,
    named_outputs,
    serialized_examples,
    shape_text,
    signature_name,
    write_model_spec,
)

METHOD_NAME = "tensorflow/serving/regress"
OUTPUTS = "outputs"


def regress_call(name: str, version: int, model: LoadedModel, request: Any) -> tuple[GraphRun, Respond]:
    """Reads a RegressionRequest.

    Args:
        name: The model's name, for the response.
        version: The version that answers.
        model: The loaded version.
        request: A `RegressionRequest`, untrusted.

    Returns:
        The run of the graph, and what makes the `RegressionResponse` from its results.

    Raises:
        ServingError: One of the contract's errors.
    """
    key = signature_name(request.model_spec)
    signature = find_signature(model, key)
    aliases = regression_outputs(signature, model.checks_method_names)
    examples = serialized_examples(request.input)
    run = examples_run(model, key, signature.inputs[INPUTS], [signature.outputs[OUTPUTS].name], examples)

    def respond(results: list[np.ndarray]) -> Any:
        response = regression_pb2.RegressionResponse()
        write_model_spec(response.model_spec, name, version, key)
        write_regressions(response.result, named_outputs(signature, aliases, run, results), len(examples))
        return response

    return run, respond


def regression_outputs(signature: Any, checks_method_name: bool) -> list[str]:
    """Checks that a signature can regress.

    Args:
        signature: The `SignatureDef`.
        checks_method_name: Whether it must have been exported for Regress.

    Returns:
        Which outputs to compute: `outputs`.

    Raises:
        ServingError: INVALID_ARGUMENT, it cannot.
    """
    if checks_method_name:
        check_method_name(signature, "regression", METHOD_NAME)
    check_one_input(signature)
    if len(signature.outputs) != 1:
        raise ServingError(Code.INVALID_ARGUMENT, "Expected one output Tensor.")
    check_named(signature.inputs, INPUTS, "regression inputs", signature)
    check_named(signature.outputs, OUTPUTS, "regression outputs", signature)
    return [OUTPUTS]


def write_regressions(result: Any, outputs: Mapping[str, np.ndarray], examples: int) -> None:
    """Fills a `RegressionResult`.

    Args:
        result: The message to fill.
        outputs: `outputs` `(n,)` or `(n, 1)` of float32.
        examples: n, how many examples were sent.

    Raises:
        ServingError: INVALID_ARGUMENT, the model computed another shape or dtype.
    """
    output = outputs[OUTPUTS]
    if output.ndim != 1 and output.shape[1:] != (1,):
        raise ServingError(
            Code.INVALID_ARGUMENT,
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got " + shape_text(output),
        )
    if len(output) != examples:
        raise ServingError(
            Code.INVALID_ARGUMENT, f"Input batch size did not match output batch size: {examples} vs. {len(output)}"
        )
    if dtype_text(output) != "DT_FLOAT":
        raise ServingError(Code.INVALID_ARGUMENT, f"Expected output Tensor of DT_FLOAT.  Got: {dtype_text(output)}")
    for value in output.ravel().tolist():
        result.regressions.add(value=value)
