"""The memory that a step's tensors take: what the backward pass keeps, and the most that is alive at a time."""

from __future__ import annotations

import collections
from collections.abc import Collection
from dataclasses import dataclass, field

import tensorflow as tf

from tfbigmodel.cost.flops import ELEMENTWISE
from tfbigmodel.cost.graph import LOOPS, SAME, Frame

# What makes no new memory: another view of the first input, or a variable's own.
_VIEWS = SAME | {"Reshape", "ExpandDims", "Squeeze", "TensorListFromTensor", "TensorListSetItem", "TensorListPushBack"}
# Some of their outputs are the backward pass's room on a GPU, of a size that only the GPU's library knows.
_RESERVING = ("FusedBatchNormV3", "FusedBatchNormGradV3")
_VARIABLES = frozenset({"ReadVariableOp", "VarHandleOp", "Placeholder"})


@dataclass
class StepMemory:
    """Bytes of the tensors that a step makes; not the weights, and not the batch.

    Attributes:
        kept: results of the forward pass that the backward pass reads (activations).
        peak: the most that is alive at a time, if operations run one after the other as they were traced.
        unknown: tensors whose size is not known.
    """

    kept: int = 0
    peak: int = 0
    unknown: list[str] = field(default_factory=list)


def step_memory(frame: Frame, forward: Collection[str]) -> StepMemory:
    """Follows the tensors of a traced step from the operation that makes them to the last one that reads them.

    As in TensorFlow, an operation that works number by number writes over an input that nobody else reads any more.

    Args:
        frame: a traced training step.
        forward: the names of the forward pass's operations.
    """
    memory = StepMemory()
    operations = _as_run(frame.operations())
    owner: dict[str, str] = {}  # a tensor → the tensor whose memory it is in
    sizes: dict[str, int] = {}
    last_read: dict[str, int] = {}
    kept: set[str] = set()
    for place, operation in enumerate(operations):
        for index, tensor in enumerate(operation.outputs):
            source = _source(operation, index)
            if source is not None:
                root = owner[tensor.name] = owner[source.name]
                if tensor.dtype == tf.variant:  # a list that a loop has made longer
                    sizes[root] = max(sizes[root], frame.num_bytes(tensor) or 0)
                continue
            owner[tensor.name] = tensor.name
            num_bytes = 0 if operation.type in _VARIABLES else frame.num_bytes(tensor)
            if num_bytes is None and tensor.dtype.is_floating and operation.type not in _RESERVING:
                memory.unknown.append(f"the size of {operation.type} {operation.name}")
            sizes[tensor.name] = num_bytes or 0
        for tensor in operation.inputs:
            root = owner[tensor.name]
            last_read[root] = place
            if operation.name not in forward and _operation_name(root) in forward:
                kept.add(root)
    for tensor in frame.graph.outputs:
        last_read[owner[tensor.name]] = len(operations)
    constants = {tensor.name for each in operations if each.type == "Const" for tensor in each.outputs}
    memory.kept = sum(sizes[name] for name in kept - constants)
    alive = sum(sizes[name] for name in constants)  # these stay from step to step
    memory.peak = alive
    for place, operation in enumerate(operations):
        ending = {owner[tensor.name] for tensor in operation.inputs}
        ending = {name for name in ending if last_read[name] == place and name not in constants}
        made = [t.name for t in operation.outputs if owner[t.name] == t.name and t.name not in constants]
        new = sum(sizes[name] for name in made)
        reused = 0
        if operation.type in ELEMENTWISE and any(sizes[name] == new for name in ending):
            reused = new
        inside = max((step_memory(inner, ()).peak for inner in frame.called(operation)), default=0)
        memory.peak = max(memory.peak, alive + new - reused + inside)
        alive += new - sum(sizes[name] for name in ending)
        alive -= sum(sizes[name] for name in made if name not in last_read)  # nobody reads it
    return memory


def _as_run(operations: list[tf.Operation]) -> list[tf.Operation]:
    """Operations in the order in which they become ready, as TensorFlow runs them, rather than that of tracing.

    So the temporary values of an optimizer are those of all weights at once.
    """
    readers: dict[str, list[tf.Operation]] = {}
    waiting: dict[str, int] = {}
    ready: collections.deque[tf.Operation] = collections.deque()
    for operation in operations:
        before = {tensor.op.name for tensor in operation.inputs} | {each.name for each in operation.control_inputs}
        waiting[operation.name] = len(before)
        for name in before:
            readers.setdefault(name, []).append(operation)
        if not before:
            ready.append(operation)
    order = []
    while ready:
        operation = ready.popleft()
        order.append(operation)
        for reader in readers.get(operation.name, ()):
            waiting[reader.name] -= 1
            if not waiting[reader.name]:
                ready.append(reader)
    return order


def _source(operation: tf.Operation, index: int) -> tf.Tensor | None:
    """The input whose memory an output is in; None where the output has its own."""
    if operation.type in _VIEWS and len(operation.inputs):
        return operation.inputs[index if operation.type in SAME else 0]
    if operation.type in LOOPS and operation.outputs[index].dtype == tf.variant:
        return operation.inputs[index]
    return None


def _operation_name(tensor_name: str) -> str:
    return tensor_name.rpartition(":")[0]
