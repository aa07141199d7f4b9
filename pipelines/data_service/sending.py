"""What of a function can be sent to another process: graph operations, and memory up to a limit."""

from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from pipelines.errors import UserError

# A message of protobuf cannot be larger than 2 GiB; the rest of the graph needs some of it.
_LARGEST = 2**31 - 2**24
_PYTHON_OPERATIONS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}


def check_sendable(function: Any) -> None:
    """Checks that other processes can run a function.

    Args:
        function: a concrete function.

    Raises:
        UserError: it calls Python, or holds more memory than a message can.
    """
    graph = function.graph.as_graph_def()
    nodes = [graph.node, *(one.node_def for one in graph.library.function)]
    if any(node.op in _PYTHON_OPERATIONS for part in nodes for node in part):
        raise UserError(
            "data.service: this source reads its examples in Python, which cannot be sent to a tf.data worker; leave "
            "data.service out (corpora and sharded files are read in parallel by each worker of the training anyway)"
        )
    size = sum(map(_size, function.captured_inputs))
    if size > _LARGEST:
        raise UserError(
            f"data.service: the training examples in memory, {size / 2**30:.1f} GiB, are sent to the tf.data workers, "
            "and more than 2 GiB cannot be; leave data.service out"
        )


def _size(tensor: Any) -> int:
    """The bytes of a tensor; 0 for what is no memory, such as a table of words, which comes as its own operations."""
    if not isinstance(tensor, tf.Tensor) or tensor.dtype in (tf.resource, tf.variant):
        return 0
    if tensor.dtype == tf.string:
        return _total(tf.strings.length(tensor).numpy().ravel().tolist()) + 8 * int(tf.size(tensor))
    return int(tf.size(tensor, tf.int64)) * int(tensor.dtype.size)


def _total(sizes: Iterable[int]) -> int:
    return sum(sizes)
