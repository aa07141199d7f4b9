"""What is known of a traced graph before it runs: shapes, values, the trips of its loops, and what of it runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TypeAlias

import numpy as np
import tensorflow as tf

Shape: TypeAlias = tuple[int | None, ...]

LOOPS = ("While", "StatelessWhile")
# Attributes that name the functions an operation calls.
_CALLS = {
    "PartitionedCall": ("f",),
    "StatefulPartitionedCall": ("f",),
    "If": ("then_branch", "else_branch"),
    "StatelessIf": ("then_branch", "else_branch"),
}
# Output `i` is input `i`, as far as its shape and its memory go.
SAME = frozenset({"Identity", "IdentityN", "StopGradient", "PreventGradient"})
_SAME_SHAPE = SAME | {"Cast", "ZerosLike", "OnesLike", "Neg", "Tanh", "Sigmoid", "Relu", "TensorListSetItem"}
_ARITHMETIC = {
    "AddV2": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "FloorDiv": np.floor_divide,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
}


class Frame:
    """A traced function, and the operation that calls it.

    TensorFlow's own inference stops at loops: the number of their trips, and so the size of what they leave, is a value
    and no shape. Here values are followed where they are made of constants, through calls and loops.

    Args:
        graph: of a concrete function, or of one that it calls.
        call: the operation that calls it; None for the outermost.
        outer: where that operation is.

    Example:
        >>> function = tf.function(lambda x: tf.transpose(x)).get_concrete_function(tf.TensorSpec([2, 3]))
        >>> frame = Frame(function.graph)
        >>> frame.shape(function.outputs[0])
        (3, 2)
    """

    def __init__(self, graph: tf.Graph, call: tf.Operation | None = None, outer: Frame | None = None) -> None:
        self.graph = graph
        self._call = call
        self._outer = outer
        self._places = {tensor.name: place for place, tensor in enumerate(graph.inputs)}
        self._shapes: dict[str, Shape | None] = {}
        self._frames: dict[tuple[str, str], Frame] = {}

    def operations(self) -> list[tf.Operation]:
        """The operations that run: those that an output or a change of a variable needs, in the order of tracing."""
        needed = self.needed_by([*(tensor.op for tensor in self.graph.outputs), *self.graph.control_outputs])
        return [operation for operation in self.graph.get_operations() if operation.name in needed]

    def needed_by(self, operations: Iterable[tf.Operation], order: bool = True) -> set[str]:
        """The names of operations, and of all that they depend on.

        Args:
            operations: of this graph.
            order: also of those that must merely have run before.
        """
        found: set[str] = set()
        stack = list(operations)
        while stack:
            operation = stack.pop()
            if operation.name not in found:
                found.add(operation.name)
                stack += [tensor.op for tensor in operation.inputs]
                if order:
                    stack += operation.control_inputs
        return found

    def called(self, operation: tf.Operation) -> list[Frame]:
        """The functions that an operation calls: a function, the branches of a condition; a loop's test and body."""
        if operation.type in LOOPS:
            return [self._inner(operation, "cond"), self._inner(operation, "body")]
        if operation.type == "Case":
            return [self._frame(operation, function.name) for function in operation.get_attr("branches")]
        return [self._inner(operation, attribute) for attribute in _CALLS.get(operation.type, ())]

    def shape(self, tensor: tf.Tensor) -> Shape | None:
        """A tensor's shape, None for what is not known of it."""
        if tensor.name not in self._shapes:
            rank = tensor.shape.rank
            known = None if rank is None else tuple(tensor.shape.as_list())
            if known is None or None in known:
                known = self._followed_shape(tensor) or known
            self._shapes[tensor.name] = known
        return self._shapes[tensor.name]

    def size(self, tensor: tf.Tensor) -> int | None:
        """How many numbers a tensor has; for a list of tensors (as loops fill them) those of all its elements."""
        if tensor.dtype == tf.variant:
            found = self._list(tensor)
            shape = None if found is None else (found[0], *found[1])
        else:
            shape = self.shape(tensor)
        return None if shape is None or None in shape else math.prod(shape)  # type: ignore[arg-type]

    def num_bytes(self, tensor: tf.Tensor) -> int | None:
        """The memory that a tensor takes, or a list of tensors; None where it is not known."""
        if tensor.dtype in (tf.resource, tf.string):
            return 0  # a handle; and texts never come near a model
        dtype = self._element_dtype(tensor) if tensor.dtype == tf.variant else tensor.dtype
        size = self.size(tensor)
        return None if size is None or dtype is None else size * dtype.size

    def value(self, tensor: tf.Tensor) -> np.ndarray | None:
        """A tensor's value where it is made of constants; else None."""
        known = tf.get_static_value(tensor)
        if known is not None:
            return np.asarray(known)
        operation = tensor.op
        if self._outer and self._call and tensor.name in self._places:
            # What a loop changes is another value in each trip.
            place = self._places[tensor.name]
            return None if self._changes(place) else self._outer.value(self._call.inputs[place])
        if operation.type in SAME:
            return self.value(operation.inputs[tensor.value_index])
        if operation.type in LOOPS:
            return self._value_after(operation, tensor.value_index)
        if operation.type == "Shape":
            shape = self.shape(operation.inputs[0])
            return None if shape is None or None in shape else np.asarray(shape)
        if operation.type in _ARITHMETIC or operation.type in ("StridedSlice", "Pack"):
            values = [value for each in operation.inputs if (value := self.value(each)) is not None]
            if len(values) < len(operation.inputs):
                return None
            if operation.type in _ARITHMETIC:
                return np.asarray(_ARITHMETIC[operation.type](*values))
            if operation.type == "Pack":
                return np.stack(values)
            return _sliced(operation, values)
        return None

    def trips(self, loop: tf.Operation) -> int | None:
        """How often a loop's body runs, where a counter decides it."""
        test = self._inner(loop, "cond")
        counts = [count for less in _comparisons(test.graph.outputs[0]) if (count := self._counted(loop, test, less))]
        return min((count[1] for count in counts), default=None)

    def _counted(self, loop: tf.Operation, test: Frame, less: tf.Operation) -> tuple[int, int] | None:
        """The place of the counter that a comparison bounds, and the trips that it allows."""
        counter, bound = (_unwrapped(tensor) for tensor in less.inputs)
        place = test._places.get(counter.name)
        if place is None:
            return None
        start, limit, step = self.value(loop.inputs[place]), test.value(bound), self._step(loop, place)
        if start is None or limit is None or step is None:
            return None
        beyond = 1 if less.type == "LessEqual" else 0
        return place, max(0, -(-(int(limit) + beyond - int(start)) // step))

    def _step(self, loop: tf.Operation, place: int) -> int | None:
        """What each trip adds to a loop's variable; None where it does something else."""
        body = self._inner(loop, "body")
        added = _unwrapped(body.graph.outputs[place]).op
        if added.type not in ("AddV2", "Add"):
            return None
        names = [_unwrapped(tensor).name for tensor in added.inputs]
        if body.graph.inputs[place].name not in names:
            return None
        step = body.value(added.inputs[1 - names.index(body.graph.inputs[place].name)])
        return None if step is None or int(step) < 1 else int(step)

    def _value_after(self, loop: tf.Operation, place: int) -> np.ndarray | None:
        start, step, trips = self.value(loop.inputs[place]), self._step(loop, place), self.trips(loop)
        body = self._inner(loop, "body")
        if start is None or _unwrapped(body.graph.outputs[place]).name == body.graph.inputs[place].name:
            return start
        return None if step is None or trips is None else start + step * trips

    def _changes(self, place: int) -> bool:
        """Whether the call is a loop that gives its variable at this place another value."""
        if self._call is None or self._outer is None or self._call.type not in LOOPS:
            return False
        body = self._outer._inner(self._call, "body")
        return _unwrapped(body.graph.outputs[place]).name != body.graph.inputs[place].name

    def _followed_shape(self, tensor: tf.Tensor) -> Shape | None:
        operation = tensor.op
        if self._outer and self._call and tensor.name in self._places:
            return self._outer.shape(self._call.inputs[self._places[tensor.name]])
        if operation.type in _SAME_SHAPE:
            return self.shape(operation.inputs[tensor.value_index])
        if operation.type in LOOPS:
            return self.shape(operation.inputs[tensor.value_index])
        if operation.type == "TensorListStack":
            found = self._list(operation.inputs[0])
            return None if found is None else (found[0], *found[1])
        if operation.type in ("StridedSliceGrad", "Fill", "BroadcastTo"):  # told by a value: of what was sliced, say
            values = self.value(operation.inputs[1 if operation.type == "BroadcastTo" else 0])
            return None if values is None else tuple(int(side) for side in values)
        if operation.type in ("Transpose", "Reshape"):
            shape, values = self.shape(operation.inputs[0]), self.value(operation.inputs[1])
            if shape is None or values is None:
                return None
            if operation.type == "Transpose":
                return tuple(shape[axis] for axis in values)
            return _reshaped(shape, [int(side) for side in values])
        return None

    def _list(self, tensor: tf.Tensor) -> tuple[int | None, Shape] | None:
        """The number of elements of a list of tensors, and the shape of each."""
        origin = self._list_origin(tensor)
        if origin is None:
            return None
        frame, operation, loop = origin
        if operation.type == "TensorListFromTensor":
            shape = frame.shape(operation.inputs[0])
            return None if not shape else (shape[0], shape[1:])
        element = frame.value(operation.inputs[0])
        shape = None if element is None or element.ndim == 0 else tuple(None if n < 0 else int(n) for n in element)
        if operation.type == "TensorListReserve":
            number = frame.value(operation.inputs[1])
            return None if number is None or shape is None else (int(number), shape)
        # An empty list, which a loop's trips make longer by one element each.
        if loop is None:
            return None
        where, filled, place = loop
        body = where._inner(filled, "body")
        pushed = _unwrapped(body.graph.outputs[place]).op
        if pushed.type != "TensorListPushBack":
            return None
        shape = body.shape(pushed.inputs[1])
        return None if shape is None else (where.trips(filled), shape)

    def _list_origin(
        self, tensor: tf.Tensor
    ) -> tuple[Frame, tf.Operation, tuple[Frame, tf.Operation, int] | None] | None:
        """The operation that made a list, where it is, and the last loop that it went through with its place there."""
        frame, loop = self, None
        while True:
            operation = tensor.op
            if frame._outer and frame._call and tensor.name in frame._places:
                tensor, frame = frame._call.inputs[frame._places[tensor.name]], frame._outer
            elif operation.type in LOOPS:
                loop = loop or (frame, operation, tensor.value_index)
                tensor = operation.inputs[tensor.value_index]
            elif operation.type in SAME:
                tensor = operation.inputs[tensor.value_index]
            elif operation.type in ("TensorListSetItem", "TensorListPushBack", "TensorListResize"):
                tensor = operation.inputs[0]
            elif operation.type in ("TensorListReserve", "TensorListFromTensor", "EmptyTensorList"):
                return frame, operation, loop
            else:
                return None

    def _element_dtype(self, tensor: tf.Tensor) -> tf.DType | None:
        origin = self._list_origin(tensor)
        return None if origin is None else tf.as_dtype(origin[1].get_attr("element_dtype"))

    def _inner(self, operation: tf.Operation, attribute: str) -> Frame:
        return self._frame(operation, operation.get_attr(attribute).name)

    def _frame(self, operation: tf.Operation, name: str) -> Frame:
        key = (operation.name, name)
        if key not in self._frames:
            self._frames[key] = Frame(self.graph._get_function(name).graph, operation, self)
        return self._frames[key]


def _unwrapped(tensor: tf.Tensor) -> tf.Tensor:
    while tensor.op.type in SAME:
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def _comparisons(test: tf.Tensor) -> Iterator[tf.Operation]:
    """The comparisons of a counter with its bound, all of which must hold."""
    operation = _unwrapped(test).op
    if operation.type == "LogicalAnd":
        for tensor in operation.inputs:
            yield from _comparisons(tensor)
    elif operation.type in ("Less", "LessEqual"):
        yield operation


def _sliced(operation: tf.Operation, values: list[np.ndarray]) -> np.ndarray | None:
    """One number, or a stretch, of a vector."""
    vector, begin, end, strides = values
    masks = [operation.get_attr(name) for name in ("begin_mask", "end_mask", "shrink_axis_mask")]
    if vector.ndim != 1 or len(begin) != 1:
        return None
    if masks[2]:
        return np.asarray(vector[begin[0]])
    return vector[slice(None if masks[0] else begin[0], None if masks[1] else end[0], strides[0])]


def _reshaped(shape: Shape, wanted: list[int]) -> Shape | None:
    if -1 not in wanted:
        return tuple(wanted)
    if None in shape:
        return tuple(None if side < 0 else side for side in wanted)
    rest = math.prod(side for side in wanted if side >= 0)
    size = math.prod(shape)  # type: ignore[arg-type]
    return tuple((size // rest if rest else 0) if side < 0 else side for side in wanted)
