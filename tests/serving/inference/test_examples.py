"""Examples on their way into the graph; after TensorFlow Serving's util_test.cc."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import input_pb2

from serving.errors import Code, ServingError
from serving.inference.examples import dtype_text, serialized_examples, shape_text


@pytest.fixture
def known(example):
    return example(a=[11]), example(b=[22]), example(c=[33])


def read(examples_input):
    values = serialized_examples(examples_input)
    assert (values.dtype, values.ndim) == (object, 1)
    return [tf.train.Example.FromString(value) for value in values]


def test_a_list_is_passed_on(known):
    sent = input_pb2.Input()
    sent.example_list.examples.extend(known[:2])
    assert read(sent) == list(known[:2])


def test_one_example(known):
    sent = input_pb2.Input()
    sent.example_list.examples.append(known[0])
    assert read(sent) == [known[0]]


def test_a_context_is_added_to_each_example(known, example):
    sent = input_pb2.Input()
    sent.example_list_with_context.examples.extend(known[:2])
    sent.example_list_with_context.context.CopyFrom(known[2])
    assert read(sent) == [example(a=[11], c=[33]), example(b=[22], c=[33])]


def test_the_context_s_bytes_come_before_the_example_s(known):
    sent = input_pb2.Input()
    sent.example_list_with_context.examples.append(known[0])
    sent.example_list_with_context.context.CopyFrom(known[2])
    context, own = (message.SerializeToString() for message in (known[2], known[0]))
    assert serialized_examples(sent).tolist() == [context + own]


def test_an_example_overrides_its_context(known, example):
    sent = input_pb2.Input()
    sent.example_list_with_context.examples.extend([known[0], example(c=[64])])
    sent.example_list_with_context.context.CopyFrom(known[2])
    assert read(sent) == [example(a=[11], c=[33]), example(c=[64])]


def test_a_context_may_be_missing(known):
    sent = input_pb2.Input()
    sent.example_list_with_context.examples.extend(known[:2])
    assert read(sent) == list(known[:2])


def test_empty_examples_are_examples():
    sent = input_pb2.Input()
    sent.example_list.examples.add()
    sent.example_list.examples.add()
    assert serialized_examples(sent).tolist() == [b"", b""]


def empty_inputs():
    yield "no kind", input_pb2.Input()
    yield "no examples", input_pb2.Input(example_list=input_pb2.ExampleList())
    yield "no examples with context", input_pb2.Input(example_list_with_context=input_pb2.ExampleListWithContext())
    only_context = input_pb2.Input()
    only_context.example_list_with_context.context.features.feature["c"].int64_list.value.append(33)
    yield "only a context", only_context
    yield "a kind of the future", input_pb2.Input.FromString(b"\x1a\x00")


@pytest.mark.parametrize("sent", [pytest.param(sent, id=name) for name, sent in empty_inputs()])
def test_no_example_is_an_error(sent):
    with pytest.raises(ServingError) as caught:
        serialized_examples(sent)
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, "Input is empty.")


@pytest.mark.parametrize(
    ("array", "shape", "dtype"),
    [
        (np.float32(1), "[]", "DT_FLOAT"),
        (np.zeros((2, 0, 3), np.int64), "[2,0,3]", "DT_INT64"),
        (np.array([b"a"], object), "[1]", "DT_STRING"),
        (np.zeros(1, np.float16), "[1]", "DT_HALF"),
        (np.zeros(1, "S2"), "[1]", "|S2"),
    ],
)
def test_shapes_and_dtypes_are_named_as_tensorflow_does(array, shape, dtype):
    assert (shape_text(np.asarray(array)), dtype_text(np.asarray(array))) == (shape, dtype)
