"""Tensors to and from the wire, compared with TensorFlow's own conversion."""

import time

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow.core.framework import tensor_pb2

from serving.tensors import WIRE_TYPES, dtype_name, from_proto, pack_varints, to_proto, to_proto_bytes

NUMBERS = [wire for wire in WIRE_TYPES if wire.packing != "strings"]
# hypothesis cannot draw bfloat16 itself: its bits are drawn and viewed as such.
DRAWN = {wire.name: np.dtype(np.uint16) if wire.name == "bfloat16" else wire.numpy for wire in NUMBERS}


def same(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(NUMBERS))
def test_what_we_write_tensorflow_and_we_read_back(data, wire):
    drawn = data.draw(hnp.arrays(DRAWN[wire.name], hnp.array_shapes(min_dims=0, min_side=0, max_side=4)))
    array = drawn.view(wire.numpy) if wire.name == "bfloat16" else drawn
    proto = to_proto(array)
    assert not proto.tensor_content
    assert len(getattr(proto, wire.values)) == array.size * (2 if "complex" in wire.name else 1)
    assert same(tf.make_ndarray(proto), array)
    assert same(from_proto(proto), array)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(NUMBERS))
def test_we_read_what_tensorflow_writes_as_content(data, wire):
    drawn = data.draw(hnp.arrays(DRAWN[wire.name], hnp.array_shapes(min_side=1, max_side=4)))
    array = drawn.view(wire.numpy) if wire.name == "bfloat16" else drawn
    proto = tensor_pb2.TensorProto(dtype=wire.dtype_enum, tensor_content=array.tobytes())
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    assert same(from_proto(proto), array)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=6))
def test_strings_both_ways(values):
    array = np.empty(len(values), object)
    array[:] = values
    proto = to_proto(array)
    assert list(proto.string_val) == values
    assert from_proto(proto).tolist() == values


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6))
def test_strings_in_tensor_content(values):
    def varint(value):
        return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])

    content = b"".join(varint(len(value)) for value in values) + b"".join(values)
    proto = tensor_pb2.TensorProto(dtype=7, tensor_content=content)
    proto.tensor_shape.dim.add(size=len(values))
    assert from_proto(proto).tolist() == values
    for broken in (content[:-1], content + b"x", b"\x80" * len(content)):
        proto.tensor_content = broken
        if broken:
            with pytest.raises(ValueError, match="tensor_content"):
                from_proto(proto)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=20))
def test_varints_are_protobuf_s(values):
    proto = tensor_pb2.TensorProto(int64_val=values)
    packed = proto.SerializeToString()
    assert packed.endswith(pack_varints(np.array(values, np.int64)))
    assert list(tensor_pb2.TensorProto.FromString(packed).int64_val) == values


@settings(max_examples=300, deadline=None)
@given(st.builds(
    tensor_pb2.TensorProto,
    dtype=st.integers(0, 40),
    tensor_content=st.binary(max_size=40),
    float_val=st.lists(st.floats(width=32), max_size=4),
    int_val=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    half_val=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    scomplex_val=st.lists(st.floats(width=32), max_size=3),
    string_val=st.lists(st.binary(max_size=3), max_size=3),
), st.lists(st.integers(-2, 2**62), max_size=4) | st.lists(st.integers(0, 3), max_size=70))  # fmt: skip
def test_any_proto_is_a_tensor_or_a_value_error(proto, sizes):
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    try:
        array = from_proto(proto)
    except ValueError:
        return
    assert array.shape == tuple(sizes)


@pytest.mark.parametrize(
    ("fields", "sizes", "expected"),
    [
        ({"dtype": 1, "float_val": [1, 2]}, [4], [1, 2, 2, 2]),
        ({"dtype": 1, "float_val": [1, 2, 3]}, [2], [1, 2]),
        ({"dtype": 1}, [3], [0, 0, 0]),
        ({"dtype": 7, "string_val": [b"a"]}, [2], [b"a", b"a"]),
        ({"dtype": 7}, [2], [b"", b""]),
        ({"dtype": 10, "bool_val": [True]}, [2], [True, True]),
        ({"dtype": 6, "int_val": [300]}, [1], [44]),
        ({"dtype": 8, "scomplex_val": [1, 2, 3]}, [2], [1 + 2j, 1 + 2j]),
        ({"dtype": 1, "tensor_content": b"ignored"}, [0], []),
    ],
)
def test_the_rules_of_typed_fields(fields, sizes, expected):
    proto = tensor_pb2.TensorProto(**fields)
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    assert from_proto(proto).tolist() == expected


@pytest.mark.parametrize(
    ("fields", "sizes", "text"),
    [
        ({"dtype": 0}, [], "unsupported dtype 0"),
        ({"dtype": 20}, [], "unsupported dtype 20"),
        ({"dtype": 1}, [-1], "negative dimension"),
        ({"dtype": 1}, [2**29, 2], "is too large"),
        ({"dtype": 7}, [2**27], "is too large"),
        ({"dtype": 1}, [2**24 + 1], "0 values are to be repeated into 16777217"),
        ({"dtype": 1, "float_val": [1, 2]}, [2**24 + 1], "2 values are to be repeated into 16777217"),
        ({"dtype": 7, "string_val": [b"a"]}, [2**22], "1 values are to be repeated into 4194304"),
        ({"dtype": 1, "tensor_content": b"123"}, [1], "tensor_content has 3 bytes, expected 4"),
        ({"dtype": 10, "tensor_content": b"\x02"}, [1], "a bool must be 0 or 1"),
    ],
)
def test_what_is_no_tensor(fields, sizes, text):
    proto = tensor_pb2.TensorProto(**fields)
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    with pytest.raises(ValueError, match=text):
        from_proto(proto)


def test_a_shape_costs_no_more_than_its_bytes():
    proto = tensor_pb2.TensorProto(dtype=1)
    for _ in range(40_000):
        proto.tensor_shape.dim.add(size=2**62)
    started = time.perf_counter()
    with pytest.raises(ValueError, match="40000 dimensions, at most 64"):
        from_proto(proto)
    assert time.perf_counter() - started < 0.5  # the product of the sizes took 4 seconds


def test_unknown_rank_is_no_tensor():
    proto = tensor_pb2.TensorProto(dtype=1)
    proto.tensor_shape.unknown_rank = True
    with pytest.raises(ValueError, match="unknown rank"):
        from_proto(proto)


def test_a_dtype_that_cannot_travel():
    with pytest.raises(TypeError, match="datetime64"):
        to_proto_bytes(np.array(["2026-01-01"], "datetime64[D]"))


def test_non_contiguous_arrays():
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    np.testing.assert_array_equal(tf.make_ndarray(to_proto(array)), array)


def test_names_are_tensorflow_s():
    assert [dtype_name(number) for number in (1, 2, 9, 14, 19)] == ["float", "double", "int64", "bfloat16", "half"]
    assert dtype_name(99) == "unknown dtype enum (99)"
