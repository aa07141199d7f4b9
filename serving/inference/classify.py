"""Classify: from a ClassificationRequest to labels and scores, with TensorFlow Serving's checks, in its words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorflow_serving.apis import classification_pb2

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

METHOD_NAME = "tensorflow/serving/classify"
CLASSES, SCORES = "classes", "scores"


def classify_call(name: str, version: int, model: LoadedModel, request: Any) -> tuple[GraphRun, Respond]:
    """Reads a ClassificationRequest.

    Args:
        name: The model's name, for the response.
        version: The version that answers.
        model: The loaded version.
        request: A `ClassificationRequest`, untrusted.

    Returns:
        The run of the graph, and what makes the `ClassificationResponse` from its results.

    Raises:
        ServingError: One of the contract's errors.
    """
    key = signature_name(request.model_spec)
    signature = find_signature(model, key)
    aliases = classification_outputs(signature, model.checks_method_names)
    examples = serialized_examples(request.input)
    fetches = [signature.outputs[alias].name for alias in aliases]
    run = examples_run(model, key, signature.inputs[INPUTS], fetches, examples)

    def respond(results: list[np.ndarray]) -> Any:
        response = classification_pb2.ClassificationResponse()
        write_model_spec(response.model_spec, name, version, key)
        write_classifications(response.result, named_outputs(signature, aliases, run, results), len(examples))
        return response

    return run, respond


def classification_outputs(signature: Any, checks_method_name: bool) -> list[str]:
    """Checks that a signature can classify.

    Args:
        signature: The `SignatureDef`.
        checks_method_name: Whether it must have been exported for Classify.

    Returns:
        Which outputs to compute: `classes`, `scores` or both.

    Raises:
        ServingError: INVALID_ARGUMENT, it cannot.
    """
    if checks_method_name:
        check_method_name(signature, "classification", METHOD_NAME)
    check_one_input(signature)
    if len(signature.outputs) not in (1, 2):
        raise ServingError(Code.INVALID_ARGUMENT, f"Expected one or two output Tensors, found {len(signature.outputs)}")
    check_named(signature.inputs, INPUTS, "classification inputs", signature)
    aliases = [alias for alias in (CLASSES, SCORES) if alias in signature.outputs]
    if not aliases:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            f'Expected classification signature outputs to contain at least one of "{CLASSES}" or "{SCORES}". '
            f"Signature was: {signature}",
        )
    return aliases


def write_classifications(result: Any, outputs: Mapping[str, np.ndarray], examples: int) -> None:
    """Fills a `ClassificationResult`.

    Args:
        result: The message to fill.
        outputs: `classes` `(n, k)` of strings, `scores` `(n, k)` of float32, or one of them.
        examples: n, how many examples were sent.

    Raises:
        ServingError: INVALID_ARGUMENT, the model computed other shapes or dtypes, or labels that are no text.
    """
    for alias, expected in ((CLASSES, "DT_STRING"), (SCORES, "DT_FLOAT")):
        if alias in outputs:
            _check_output(alias, outputs[alias], expected, examples)
    if len({output.shape[1] for output in outputs.values()}) > 1:
        raise ServingError(
            Code.INVALID_ARGUMENT,
            "Tensors class and score should match in dim_size(1). Got "
            f"{outputs[CLASSES].shape[1]} vs. {outputs[SCORES].shape[1]}",
        )
    shape = next(iter(outputs.values())).shape
    # What the model does not compute keeps its default, which is absent on the wire. As Python lists, because reading
    # the elements of an array one by one takes several times as long.
    labels = outputs.get(CLASSES, np.full(shape, "")).tolist()
    scores = outputs.get(SCORES, np.zeros(shape)).tolist()
    try:
        for row_labels, row_scores in zip(labels, scores, strict=True):
            classes = result.classifications.add().classes
            for label, score in zip(row_labels, row_scores, strict=True):
                classes.add(label=label, score=score)
    except UnicodeDecodeError as error:
        raise ServingError(Code.INVALID_ARGUMENT, f"classes must be UTF-8 text, but one is {error.object!r}") from error


def _check_output(alias: str, output: np.ndarray, expected: str, examples: int) -> None:
    if output.ndim != 2:
        text = f"Expected Tensor shape: [batch_size num_classes] but got {shape_text(output)}"
    elif dtype_text(output) != expected:
        text = f"Expected {alias} Tensor of {expected}. Got: {dtype_text(output)}"
    elif len(output) != examples:
        text = f"Expected {alias} output batch size of {examples}. Got: {len(output)}"
    else:
        return
    raise ServingError(Code.INVALID_ARGUMENT, text)
