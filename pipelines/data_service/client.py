"""A dataset whose elements other processes make, in the order that this process would make them in.

The service's dynamic sharding gives each number to one worker, whichever asks for one; so workers of any speed help,
and may come and go. Elements then come in about their order: they carry their numbers, and wait until it is their turn.
The service makes no element twice: those that a worker had and took with it when it died never come. What has not come
when many later ones have is made here.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from pipelines.config import ServiceConfig
from pipelines.data_service.calls import ready_workers
from pipelines.data_service.sending import check_sendable
from pipelines.data_service.watch import watch

# How many elements may wait for an earlier one, for each worker. A worker works on so many at a time as it has cores.
_WAITING = 32


def distributed(first: int, last: int, make: Callable[[tf.Tensor], Any], service: ServiceConfig) -> tf.data.Dataset:
    """`Dataset.range(first, last).map(make)`, made by the workers of a tf.data service.

    Args:
        first: the first element's number.
        last: the number after the last one's.
        make: from a number, int64 `()`, to an element: a structure of tensors, by graph operations alone.
        service: where the dispatcher is.

    Raises:
        UserError: nobody answers there, or `make` cannot be sent.
        OutageError: nobody answers there, and this is not where a run begins.

    Reference:
        Audibert et al., "tf.data service: A Case for Disaggregating ML Input Data Processing", 2023; its dynamic
        sharding is meant for training that does not mind the order.
    """
    spec = tf.data.Dataset.range(1).map(make).element_spec
    parts_spec = tf.nest.flatten(spec)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.int64)])
    def packed(number: tf.Tensor) -> tf.Tensor:
        # As strings, elements of different shapes can be kept side by side.
        return tf.stack([tf.io.serialize_tensor(part) for part in tf.nest.flatten(make(number))])

    def unpacked(parts: tf.Tensor) -> Any:
        tensors = [
            tf.ensure_shape(tf.io.parse_tensor(part, one.dtype), one.shape)
            for part, one in zip(tf.unstack(parts, len(parts_spec)), parts_spec, strict=True)
        ]
        return tf.nest.pack_sequence_as(spec, tensors)

    pack = packed.get_concrete_function()
    check_sendable(pack)
    # A run that goes on: where a cluster started it again over an outage that lasts, the next attempt may do better.
    waiting = _WAITING * len(ready_workers(service, in_between=first > 0))
    watch(service)

    def numbered(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return number, tf.cond(number < last, lambda: pack(number), lambda: tf.fill([len(parts_spec)], ""))

    # The empty elements after the last one show that it will not come any more, should it not have come.
    made_elsewhere = tf.data.Dataset.range(first, last + 2 * waiting)
    made_elsewhere = made_elsewhere.map(numbered, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    received = made_elsewhere.apply(
        tf.data.experimental.service.distribute(
            processing_mode=tf.data.experimental.service.ShardingPolicy.DYNAMIC, service=service.address
        )
    )
    elements = _in_order(received, first, last, pack, len(parts_spec), waiting)
    elements = elements.map(unpacked, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    options.deterministic = True
    return elements.prefetch(tf.data.AUTOTUNE).with_options(options)


def _in_order(
    received: tf.data.Dataset, first: int, last: int, make: Any, num_parts: int, waiting: int
) -> tf.data.Dataset:
    """The elements `first` to `last` - 1, each once.

    Args:
        received: `(number, parts)`, in any order, each number once at most, and beyond `last`.
        first: the first element's number.
        last: the number after the last one's.
        make: makes an element's parts of its number, where it has not come.
        num_parts: parts of an element.
        waiting: how far later elements may run ahead of one that has not come.
    """
    # Element n waits in place n modulo `waiting`; `numbers` says which one is there.
    numbers = tf.fill([waiting], tf.constant(-1, tf.int64))
    places = tf.raw_ops.TensorListReserve(
        element_shape=tf.constant([num_parts]), num_elements=waiting, element_dtype=tf.string
    )

    def read(places: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
        return tf.raw_ops.TensorListGetItem(
            input_handle=places, index=place, element_shape=tf.constant([num_parts]), element_dtype=tf.string
        )

    def arrived(state: tuple[tf.Tensor, ...], element: tuple[tf.Tensor, tf.Tensor]) -> Any:
        next_number, numbers, places = state
        number, parts = element
        # What must go now, come or not, so that this one has a place.
        due = tf.minimum(number - waiting + 1, last)

        def is_ready(one: tf.Tensor) -> tf.Tensor:
            return numbers[one % waiting] == one

        def take(one: tf.Tensor, taken: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            place = tf.cast(one % waiting, tf.int32)
            value = tf.cond(is_ready(one), lambda: read(places, place), lambda: make(one))
            return one + 1, taken.write(taken.size(), tf.ensure_shape(value, [num_parts]))

        taken = tf.TensorArray(tf.string, 0, dynamic_size=True, element_shape=[num_parts])
        next_number, taken = tf.while_loop(lambda one, _: one < due, take, (next_number, taken))
        # One that comes after all has been made here already.
        is_new = tf.logical_and(number >= next_number, number < last)
        place = tf.cast(number % waiting, tf.int32)
        numbers = tf.where(is_new, tf.tensor_scatter_nd_update(numbers, [[place]], [number]), numbers)
        places = tf.cond(
            is_new,
            lambda: tf.raw_ops.TensorListSetItem(input_handle=places, index=place, item=parts),
            lambda: places,
        )
        next_number, taken = tf.while_loop(lambda one, _: is_ready(one), take, (next_number, taken))
        return (next_number, numbers, places), taken.stack()

    state = (tf.constant(first, tf.int64), numbers, places)
    elements = received.scan(state, arrived).unbatch().take(last - first)
    return elements.apply(tf.data.experimental.assert_cardinality(last - first))
