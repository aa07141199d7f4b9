"""MultiInference: several classifications and regressions of the same examples, from one run of the graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tensorflow_serving.apis import inference_pb2

from serving.engine import LoadedModel
from serving.errors import Code, ServingError
from serving.inference import classify, regress
from serving.inference.call import GraphRun, Respond
from serving.inference.examples import (
    INPUTS,
    examples_run,
    named_outputs,
    serialized_examples,
    signature_name,
    write_model_spec,
)


@dataclass(frozen=True)
class _Method:
    """What a task can ask for: the check of its signature, and what writes which field of its result."""

    find_outputs: Callable[[Any, bool], list[str]]
    field: str
    write: Callable[[Any, dict[str, np.ndarray], int], None]


_METHODS = {
    classify.METHOD_NAME: _Method(
        classify.classification_outputs, "classification_result", classify.write_classifications
    ),
    regress.METHOD_NAME: _Method(regress.regression_outputs, "regression_result", regress.write_regressions),
}


@dataclass(frozen=True)
class _Task:
    key: str
    signature: Any
    aliases: list[str]
    method: _Method


def multi_inference_spec(request: Any) -> Any:
    """The `ModelSpec` that says which version answers all tasks: the first task's.

    Args:
        request: A `MultiInferenceRequest`, untrusted.

    Raises:
        ServingError: INVALID_ARGUMENT, there is no task, or the first one names no model.
    """
    if not request.tasks or not request.tasks[0].model_spec.name:
        raise ServingError(Code.INVALID_ARGUMENT, "ModelSpec has no name specified.")
    return request.tasks[0].model_spec


def multi_inference_call(name: str, version: int, model: LoadedModel, request: Any) -> tuple[GraphRun, Respond]:
    """Reads a MultiInferenceRequest.

    Args:
        name: The model's name, for the response.
        version: The version that answers.
        model: The loaded version.
        request: A `MultiInferenceRequest`, untrusted.

    Returns:
        One run of the graph for all tasks, and what makes the `MultiInferenceResponse`, with a result for each task
        in their order.

    Raises:
        ServingError: One of the contract's errors.
    """
    multi_inference_spec(request)
    tasks = _read_tasks(model, request)
    examples = serialized_examples(request.input)
    run = examples_run(
        model,
        ",".join(task.key for task in tasks),
        tasks[0].signature.inputs[INPUTS],
        sorted(task.signature.outputs[alias].name for task in tasks for alias in task.aliases),
        examples,
    )

    def respond(results: list[np.ndarray]) -> Any:
        response = inference_pb2.MultiInferenceResponse()
        for task in tasks:
            result = response.results.add()
            write_model_spec(result.model_spec, name, version, task.key)
            outputs = named_outputs(task.signature, task.aliases, run, results)
            task.method.write(getattr(result, task.method.field), outputs, len(examples))
        return response

    return run, respond


def _read_tasks(model: LoadedModel, request: Any) -> list[_Task]:
    """Checks each task fully before the next, as TensorFlow Serving does, so that the first mistake is told."""
    tasks: list[_Task] = []
    for message in request.tasks:
        if not message.model_spec.name:
            raise ServingError(Code.INVALID_ARGUMENT, "Found ModelSpec with an empty model name.")
        if message.model_spec.name != request.tasks[0].model_spec.name:
            raise ServingError(
                Code.INVALID_ARGUMENT, "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        key = signature_name(message.model_spec)
        if any(task.key == key for task in tasks):
            raise ServingError(Code.INVALID_ARGUMENT, f"Duplicate evaluation of signature: {key}")
        if key not in model.signatures:
            raise ServingError(Code.INVALID_ARGUMENT, f"Requested signature not found in model graph: {key}")
        if message.method_name not in _METHODS:
            raise ServingError(Code.UNIMPLEMENTED, f"Unsupported signature method_name: {message.method_name}")
        signature, method = model.signatures[key], _METHODS[message.method_name]
        aliases = method.find_outputs(signature, model.checks_method_names)
        if tasks and signature.inputs[INPUTS].name != tasks[0].signature.inputs[INPUTS].name:
            raise ServingError(Code.INVALID_ARGUMENT, "Input tensor must be the same for all Signatures.")
        tasks.append(_Task(key, signature, aliases, method))
    return tasks
