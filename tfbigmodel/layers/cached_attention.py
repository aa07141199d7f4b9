"""Attention whose keys and values may have been computed before."""

from typing import Any, TypeAlias

import keras
import tensorflow as tf

KeysAndValues: TypeAlias = tuple[Any, Any]


@keras.saving.register_keras_serializable("tfbigmodel")
class CachedAttention(keras.layers.Layer):
    """Multi-head attention in two parts: `keys_and_values` of what is read, and the attention itself.

    What is read need be projected only once, however often it is attended to: the tokens before, by each new token; an
    encoder's output, by all of them.

    Args:
        dim: width of the queries' and the output's hidden states.
        num_heads: attention heads, which divide `dim`.
        seed: fixes the initial weights.
        **kwargs: as for any Keras layer.

    Input shape:
        Queries `(batch_size, num_queries, dim)`, keys and values `(batch_size, num_heads, num_keys, dim / num_heads)`,
        mask (bool) that can be broadcast to `(batch_size, num_heads, num_queries, num_keys)`, True for what is seen.

    Output shape:
        `(batch_size, num_queries, dim)`.

    Example:
        >>> attention = CachedAttention(dim=512, num_heads=8, seed=1)
        >>> attention.build([(None, None, 512), (None, None, 512)])
        >>> keys, values = attention.keys_and_values(tf.ones([2, 7, 512]))
        >>> attention(tf.ones([2, 3, 512]), keys, values, tf.ones([2, 1, 3, 7], tf.bool)).shape
        TensorShape([2, 3, 512])

    Reference:
        Vaswani et al., "Attention Is All You Need", 2017, section 3.2.
    """

    def __init__(self, dim: int, num_heads: int, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if dim % num_heads:
            raise ValueError(f"num_heads must divide dim; received num_heads={num_heads}, dim={dim}")
        self.dim = dim
        self.num_heads = num_heads
        self.seed = seed
        self.query = self._dense(dim, 0, "query")
        # One product for both is faster than two.
        self.key_value = self._dense(2 * dim, 1, "key_value")
        self.output_projection = self._dense(dim, 2, "output")

    def _dense(self, units: int, number: int, name: str) -> keras.layers.Dense:
        seed = None if self.seed is None else self.seed + number
        initializer = keras.initializers.RandomNormal(stddev=0.02, seed=seed)
        return keras.layers.Dense(units, kernel_initializer=initializer, dtype=self.dtype_policy, name=name)

    def build(self, input_shape: list[tuple[int | None, ...]]) -> None:
        """Makes the weights.

        Args:
            input_shape: those of the queries and of what is read, `(batch_size, length, dim)`.
        """
        queries, source = input_shape
        self.query.build(queries)
        self.key_value.build(source)
        self.output_projection.build(queries)
        self.built = True

    def keys_and_values(self, source: Any) -> KeysAndValues:
        """What is to be read, projected: `(batch_size, length, …)` → two of `(batch_size, num_heads, length, …)`."""
        keys, values = keras.ops.split(self.key_value(source), 2, axis=-1)
        return self._heads(keys), self._heads(values)

    def call(self, queries: Any, keys: Any, values: Any, mask: Any) -> Any:
        """Reads the values by the likeness of queries and keys.

        Args:
            queries: hidden states, not projected.
            keys: of `keys_and_values`.
            values: of `keys_and_values`.
            mask: which keys each query may see; at least one.
        """
        query = self._heads(self.query(queries)) * (self.dim // self.num_heads) ** -0.5
        scores = keras.ops.cast(keras.ops.matmul(query, keras.ops.swapaxes(keys, -1, -2)), "float32")
        weights = tf.nn.softmax(keras.ops.where(mask, scores, -1e9))  # Keras' warns where there is one key only
        read = keras.ops.matmul(keras.ops.cast(weights, self.compute_dtype), values)
        length = keras.ops.shape(queries)[1]
        return self.output_projection(keras.ops.reshape(keras.ops.swapaxes(read, 1, 2), (-1, length, self.dim)))

    def _heads(self, states: Any) -> Any:
        shape = (-1, keras.ops.shape(states)[1], self.num_heads, self.dim // self.num_heads)
        return keras.ops.swapaxes(keras.ops.reshape(states, shape), 1, 2)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal layer."""
        return {**super().get_config(), "dim": self.dim, "num_heads": self.num_heads, "seed": self.seed}
