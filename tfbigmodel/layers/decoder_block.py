"""A layer of a Transformer that writes."""

from typing import Any

import keras
import tensorflow as tf

from tfbigmodel.layers.cached_attention import CachedAttention, KeysAndValues

# Seeds that one block needs: three for each attention, two for the feed-forward layers, three for dropout.
NUM_SEEDS = 11


@keras.saving.register_keras_serializable("tfbigmodel")
class DecoderBlock(keras.layers.Layer):
    """Causal self-attention, attention to an encoder if there is one, feed-forward; each normalised before (pre-norm).

    Two paths compute the same: `call` a whole text at once, as in training; `prefill` and `step` a text's beginning and
    then token by token, with the keys and values of what was there kept in a cache.

    Args:
        dim: width of the hidden states.
        num_heads: attention heads, which divide `dim`.
        intermediate_dim: width inside the feed-forward layers, which have GELU between them.
        encoder_dim: width of the encoder's states; None where there is no encoder.
        dropout: share of each part's output set to zero in training.
        seed: fixes the initial weights and dropout; a block uses `NUM_SEEDS` from there on.
        **kwargs: as for any Keras layer.

    Input shape:
        Hidden states `(batch_size, length, dim)`, padding mask `(batch_size, length)`, 1 or True for what is no
        padding; with an encoder, its states `(batch_size, encoder_length, encoder_dim)` and its padding mask.

    Output shape:
        `(batch_size, length, dim)`.

    Example:
        >>> block = DecoderBlock(dim=512, num_heads=8, intermediate_dim=2048, seed=1)
        >>> block(tf.ones([8, 20, 512]), tf.ones([8, 20], tf.int32)).shape
        TensorShape([8, 20, 512])

    Reference:
        Vaswani et al., "Attention Is All You Need", 2017; pre-norm and GELU as in Radford et al., "Language Models are
        Unsupervised Multitask Learners", 2019.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        intermediate_dim: int,
        encoder_dim: int | None = None,
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dim = dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.encoder_dim = encoder_dim
        self.dropout_rate = dropout
        self.seed = seed
        seeds = [None if seed is None else seed + number for number in range(NUM_SEEDS)]
        policy = self.dtype_policy
        self.attention_norm = self._norm("attention_norm")
        self.attention = CachedAttention(dim, num_heads, seeds[0], dtype=policy, name="attention")
        self.attention_dropout = keras.layers.Dropout(dropout, seed=seeds[8], dtype=policy, name="attention_dropout")
        if encoder_dim is not None:
            self.cross_norm = self._norm("cross_norm")
            self.cross_attention = CachedAttention(dim, num_heads, seeds[3], dtype=policy, name="cross_attention")
            self.cross_dropout = keras.layers.Dropout(dropout, seed=seeds[10], dtype=policy, name="cross_dropout")
        self.feed_forward_norm = self._norm("feed_forward_norm")
        self.intermediate = self._dense(intermediate_dim, "gelu", seeds[6], "intermediate")
        self.output_dense = self._dense(dim, None, seeds[7], "output")
        self.output_dropout = keras.layers.Dropout(dropout, seed=seeds[9], dtype=policy, name="output_dropout")

    def _norm(self, name: str) -> keras.layers.LayerNormalization:
        return keras.layers.LayerNormalization(epsilon=1e-5, dtype=self.dtype_policy, name=name)

    def _dense(self, units: int, activation: str | None, seed: int | None, name: str) -> keras.layers.Dense:
        initializer = keras.initializers.RandomNormal(stddev=0.02, seed=seed)
        return keras.layers.Dense(units, activation, kernel_initializer=initializer, dtype=self.dtype_policy, name=name)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights.

        Args:
            input_shape: `(batch_size, length, dim)`.
        """
        shape = (*input_shape[:-1], self.dim)
        self.attention_norm.build(shape)
        self.attention.build([shape, shape])
        if self.encoder_dim is not None:
            self.cross_norm.build(shape)
            self.cross_attention.build([shape, (None, None, self.encoder_dim)])
        self.feed_forward_norm.build(shape)
        self.intermediate.build(shape)
        self.output_dense.build((*input_shape[:-1], self.intermediate_dim))
        self.built = True

    def call(
        self,
        hidden: Any,
        padding_mask: Any,
        encoder_states: Any = None,
        encoder_padding_mask: Any = None,
        training: bool | None = None,
    ) -> Any:
        """A whole text; each token sees itself and those before it."""
        memory = None if encoder_states is None else self.cross_attention.keys_and_values(encoder_states)
        return self.prefill(hidden, padding_mask, memory, encoder_padding_mask, training)[0]

    def prefill(
        self,
        hidden: Any,
        padding_mask: Any,
        memory: KeysAndValues | None = None,
        memory_mask: Any = None,
        training: bool | None = None,
    ) -> tuple[Any, KeysAndValues]:
        """A text's beginning.

        Args:
            hidden: `(batch_size, length, dim)`.
            padding_mask: `(batch_size, length)`.
            memory: the encoder's states as `cross_attention.keys_and_values` gives them.
            memory_mask: the encoder's padding mask, `(batch_size, encoder_length)`.
            training: whether dropout acts.

        Returns:
            What `call` returns, and the keys and values, `(batch_size, num_heads, length, dim / num_heads)` each.
        """
        normed = self.attention_norm(hidden)
        keys, values = self.attention.keys_and_values(normed)
        places = keras.ops.arange(keras.ops.shape(hidden)[1])
        mask = (places[None, :] <= places[:, None]) & keras.ops.cast(padding_mask, "bool")[:, None, None, :]
        hidden = hidden + self.attention_dropout(self.attention(normed, keys, values, mask), training=training)
        return self._after_attention(hidden, memory, memory_mask, training), (keys, values)

    def step(
        self,
        hidden: tf.Tensor,
        cache: KeysAndValues,
        slot: tf.Tensor,
        visible: tf.Tensor,
        memory: KeysAndValues | None = None,
        memory_mask: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, KeysAndValues]:
        """One more token of each text.

        Args:
            hidden: the tokens' states, `(batch_size, 1, dim)`.
            cache: keys and values of the tokens before, `(batch_size, num_heads, num_slots, dim / num_heads)` each.
            slot: where in the cache this token's go, int32 scalar.
            visible: the slots that it sees, its own among them, bool `(batch_size, num_slots)`.
            memory: as for `prefill`.
            memory_mask: as for `prefill`.

        Returns:
            The new states, `(batch_size, 1, dim)`, and the cache with the token's keys and values in it.
        """
        normed = self.attention_norm(hidden)
        new = self.attention.keys_and_values(normed)
        keys, values = (_written(old, states, slot) for old, states in zip(cache, new, strict=True))
        hidden = hidden + self.attention(normed, keys, values, visible[:, None, None, :])
        return self._after_attention(hidden, memory, memory_mask, False), (keys, values)

    def _after_attention(
        self, hidden: Any, memory: KeysAndValues | None, memory_mask: Any, training: bool | None
    ) -> Any:
        if memory is not None:
            mask = keras.ops.cast(memory_mask, "bool")[:, None, None, :]
            read = self.cross_attention(self.cross_norm(hidden), *memory, mask)
            hidden = hidden + self.cross_dropout(read, training=training)
        output = self.output_dense(self.intermediate(self.feed_forward_norm(hidden)))
        return hidden + self.output_dropout(output, training=training)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal layer."""
        return {
            **super().get_config(),
            "dim": self.dim,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "encoder_dim": self.encoder_dim,
            "dropout": self.dropout_rate,
            "seed": self.seed,
        }


def _written(cache: tf.Tensor, states: tf.Tensor, slot: tf.Tensor) -> tf.Tensor:
    """A cache `(batch_size, num_heads, num_slots, head_dim)` with states `(…, 1, head_dim)` in one slot.

    A scatter writes in place where nobody else holds the tensor, as in a loop; 1.5 times as fast as `tf.where`, and as
    cutting off the slots that are still empty.
    """
    batch_size, num_heads = tf.shape(cache)[0], cache.shape[1]
    rows, heads = tf.meshgrid(tf.range(batch_size), tf.range(num_heads), indexing="ij")
    indices = tf.stack([rows, heads, tf.fill(tf.shape(rows), slot)], axis=-1)
    return tf.tensor_scatter_nd_update(cache, indices, states[:, :, 0])
