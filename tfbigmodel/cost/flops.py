"""Floating-point operations of a traced graph: matrix products and convolutions by their formulas, the rest by size."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import tensorflow as tf

from tfbigmodel.cost.graph import LOOPS, Frame

# One operation for each number that comes out. Others move numbers, make random ones, or handle whole numbers.
ELEMENTWISE = frozenset(
    {
        *("Add", "AddV2", "Sub", "Mul", "RealDiv", "Div", "DivNoNan", "Pow", "Maximum", "Minimum", "SquaredDifference"),
        *("Neg", "Abs", "Sign", "Square", "Sqrt", "Rsqrt", "Reciprocal", "Exp", "Expm1", "Log", "Log1p", "Erf", "Erfc"),
        *("Sigmoid", "Tanh", "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "Sin", "Cos"),
        *("SigmoidGrad", "TanhGrad", "ReluGrad", "Relu6Grad", "LeakyReluGrad", "EluGrad", "SeluGrad", "SoftplusGrad"),
        *("RsqrtGrad", "SqrtGrad", "ReciprocalGrad", "SelectV2", "Select", "BiasAdd", "Softmax", "LogSoftmax"),
        *("FusedBatchNormV3", "FusedBatchNormGradV3", "ClipByValue"),
    }
)
# One operation for each number that goes in.
_REDUCTIONS = frozenset(
    {
        *("Sum", "Mean", "Prod", "Max", "Min", "Cumsum", "L2Loss", "BiasAddGrad", "UnsortedSegmentSum", "AddN"),
        *("SparseSoftmaxCrossEntropyWithLogits", "SoftmaxCrossEntropyWithLogits"),
        *("AvgPool", "AvgPoolGrad", "MaxPool", "MaxPoolGrad", "AssignAddVariableOp", "AssignSubVariableOp"),
    }
)


@dataclass
class Flops:
    """A count of floating-point operations; a multiplication and an addition are two.

    Attributes:
        products: of matrix products and convolutions.
        other: of everything else, an operation for each number of an output (or of what is added up).
        unknown: operations that could not be counted, since their size, or a loop's trips, is not known.
    """

    products: int = 0
    other: int = 0
    unknown: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Products and the rest."""
        return self.products + self.other

    def add(self, other: Flops, times: int = 1) -> None:
        """Adds another count, so many times."""
        self.products += times * other.products
        self.other += times * other.other
        self.unknown += other.unknown


def count_flops(frame: Frame, only: Collection[str] | None = None) -> Flops:
    """Counts the operations of a graph, with those of the functions that it calls, and loops by their trips.

    Args:
        frame: a traced function. Every shape must follow from its inputs': trace it with whole shapes.
        only: the names of the operations to count; all that run where None.

    Example:
        >>> function = tf.function(tf.matmul).get_concrete_function(tf.TensorSpec([2, 3]), tf.TensorSpec([3, 4]))
        >>> count_flops(Frame(function.graph)).products
        48
    """
    total = Flops()
    for operation in frame.operations():
        if only is None or operation.name in only:
            total.add(_of(frame, operation))
    return total


def _of(frame: Frame, operation: tf.Operation) -> Flops:
    called = [count_flops(inner) for inner in frame.called(operation)]
    if operation.type in LOOPS:
        flops, trips = Flops(), frame.trips(operation)
        if trips is None:
            flops.unknown.append(f"the trips of the loop {operation.name}, which counts once")
        for each in called:
            flops.add(each, 1 if trips is None else trips)
        return flops
    if called:
        return max(called, key=lambda flops: flops.total)  # of a condition the dearer branch
    formula = _PRODUCTS.get(operation.type)
    if formula is not None:
        try:
            return Flops(products=formula(frame, operation))
        except _Unknown:
            return Flops(unknown=[f"the sizes of {operation.type} {operation.name}"])
    if operation.type not in ELEMENTWISE and operation.type not in _REDUCTIONS:
        return Flops()
    tensors = operation.inputs if operation.type in _REDUCTIONS else operation.outputs[:1]
    return Flops(other=sum(frame.size(t) or 0 for t in tensors if t.dtype.is_floating))


class _Unknown(Exception):
    """A shape that does not follow from the inputs'."""


def _shape(frame: Frame, tensor: tf.Tensor) -> tuple[int, ...]:
    shape = frame.shape(tensor)
    if shape is None or None in shape:
        raise _Unknown
    return shape  # type: ignore[return-value]


def _product(transposed: str) -> Callable[[Frame, tf.Operation], int]:
    def count(frame: Frame, operation: tf.Operation) -> int:
        first, second = (_shape(frame, tensor) for tensor in operation.inputs[:2])
        inner = first[-2] if operation.get_attr(f"{transposed}{_LETTER[transposed][0]}") else first[-1]
        rows = math.prod(first[-2:]) // max(inner, 1)
        columns = math.prod(second[-2:]) // max(inner, 1)
        batch = math.prod(tf.broadcast_static_shape(tf.TensorShape(first[:-2]), tf.TensorShape(second[:-2])).as_list())
        return 2 * batch * rows * inner * columns

    return count


_LETTER = {"transpose_": "a", "adj_": "x"}


def _einsum(frame: Frame, operation: tf.Operation) -> int:
    """Every combination of the letters is one product, added to its sum."""
    sides = operation.get_attr("equation").decode().partition("->")[0].split(",")
    if len(sides) < 2:
        return 0
    lengths: dict[str, int] = {}
    for side, tensor in zip(sides, operation.inputs, strict=True):
        shape = _shape(frame, tensor)
        before, ellipsis, after = side.partition("...")
        hidden = len(shape) - len(before) - len(after)
        for number, length in enumerate(shape[len(before) : len(before) + hidden] if ellipsis else ()):
            name = f"...{number - hidden}"
            lengths[name] = max(length, lengths.get(name, 1))
        lengths.update(zip(before, shape, strict=False))
        lengths.update(zip(after, shape[len(shape) - len(after) :], strict=True))
    return 2 * math.prod(lengths.values())


def _convolution(large: int | str, kernel: int | str, per: slice) -> Callable[[Frame, tf.Operation], int]:
    """For each number of the convolution's output as many products as its filter has numbers for one of them.

    Args:
        large: the convolution's output: the operation's input of this index, or its `output`.
        kernel: the filter, likewise.
        per: the sides of the filter that a number of the output adds up over.
    """

    def count(frame: Frame, operation: tf.Operation) -> int:
        outputs, weights = (
            _shape(frame, operation.outputs[0] if place == "output" else operation.inputs[place])
            for place in (large, kernel)
        )
        return 2 * math.prod(outputs) * math.prod(weights[per])

    return count


_ALL_BUT_LAST, _SPATIAL = slice(None, -1), slice(None, -2)
_PRODUCTS: dict[str, Callable[[Frame, tf.Operation], int]] = {
    "MatMul": _product("transpose_"),
    "BatchMatMul": _product("adj_"),
    "BatchMatMulV2": _product("adj_"),
    "BatchMatMulV3": _product("adj_"),
    "Einsum": _einsum,
    **{
        name: formula
        for dimensions in ("Conv2D", "Conv3D")
        for version in ("", "V2")
        for name, formula in (
            (dimensions + version, _convolution("output", 1, _ALL_BUT_LAST)),
            (f"{dimensions}BackpropInput{version}", _convolution(2, 1, _ALL_BUT_LAST)),
            (f"{dimensions}BackpropFilter{version}", _convolution(2, "output", _ALL_BUT_LAST)),
        )
    },
    "DepthwiseConv2dNative": _convolution("output", 1, _SPATIAL),
    "DepthwiseConv2dNativeBackpropInput": _convolution(2, 1, _SPATIAL),
    "DepthwiseConv2dNativeBackpropFilter": _convolution(2, "output", _SPATIAL),
}
