"""Randomness that differs from replica to replica."""

from collections.abc import Callable

import keras
import tensorflow as tf


def separate_random_seeds(model: keras.Model) -> None:
    """Lets every replica draw random numbers of its own, in dropout for instance.

    Keras' seed generators are variables, which replicas share: without this, row `i` of each replica's share would be
    masked alike, and eight replicas would see an eighth of the masks that one sees. The state in the checkpoint stays
    one for all.

    Args:
        model: its seed generators are changed in place, once; on the first replica they give what they gave before.
    """
    for layer in model._flatten_layers():
        for generator in layer._seed_generators:
            if "next" not in vars(generator):  # each phase of training comes here
                generator.next = _for_replica(generator.next)


def _for_replica(draw: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    def next_seed(ordered: bool = True) -> tf.Tensor:
        seed = draw(ordered)
        context = tf.distribute.get_replica_context()
        if context is None:
            return seed
        # Seeds are pairs: the first word tells generators apart, the second one counts. Replicas are told apart by
        # the highest bits of the first, which no count reaches.
        replica = tf.cast(context.replica_id_in_sync_group, seed.dtype)
        return seed + tf.stack([replica * 2**20, tf.zeros_like(replica)])

    return next_seed
