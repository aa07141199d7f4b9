"""Tokens and their places as vectors, and vectors as logits over the tokens again."""

from typing import Any

import keras


@keras.saving.register_keras_serializable("tfbigmodel")
class TextEmbedding(keras.layers.Layer):
    """The sum of a token's and of its position's embedding; reversed, the tied projection to the vocabulary.

    Args:
        vocabulary_size: different token ids.
        num_positions: positions that have an embedding.
        dim: numbers that stand for a token.
        dropout: share of the numbers set to zero in training.
        seed: fixes the initial weights and dropout.
        **kwargs: as for any Keras layer.

    Input shape:
        Token ids, int32 `(batch_size, length)`; reversed, hidden states `(batch_size, length, dim)` or
        `(batch_size, dim)`.

    Output shape:
        `(batch_size, length, dim)`; reversed, float32 logits `(…, vocabulary_size)`.

    Example:
        >>> embedding = TextEmbedding(vocabulary_size=4000, num_positions=128, dim=512, seed=1)
        >>> hidden = embedding(tf.constant([[2, 7, 9]]))
        >>> embedding(hidden, reverse=True).shape
        TensorShape([1, 3, 4000])

    Reference:
        Press and Wolf, "Using the Output Embedding to Improve Language Models", 2017.
    """

    def __init__(
        self,
        vocabulary_size: int,
        num_positions: int,
        dim: int,
        dropout: float = 0.0,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.num_positions = num_positions
        self.dim = dim
        self.dropout_rate = dropout
        self.seed = seed
        # Where no seed is given, Keras draws one.
        seeds = [None] * 3 if seed is None else [seed, seed + 1, seed + 2]
        self.tokens = keras.layers.Embedding(
            vocabulary_size, dim, keras.initializers.RandomNormal(stddev=0.02, seed=seeds[0]),
            dtype=self.dtype_policy, name="tokens",
        )  # fmt: skip
        self.positions = keras.layers.Embedding(
            num_positions, dim, keras.initializers.RandomNormal(stddev=0.02, seed=seeds[1]),
            dtype=self.dtype_policy, name="positions",
        )  # fmt: skip
        self.dropout = keras.layers.Dropout(dropout, seed=seeds[2], dtype=self.dtype_policy, name="dropout")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes both tables.

        Args:
            input_shape: `(batch_size, length)`.
        """
        self.tokens.build(input_shape)
        self.positions.build(input_shape)

    def call(self, inputs: Any, positions: Any = None, reverse: bool = False, training: bool | None = None) -> Any:
        """Embeds tokens, or projects hidden states.

        Args:
            inputs: token ids, or hidden states if `reverse`.
            positions: the tokens' places, int32, as `inputs` or `(length,)`; 0, 1, 2, … where None.
            reverse: hidden states → logits.
            training: whether dropout acts.
        """
        if reverse:
            # The product is computed in the layer's dtype, and what is summed up over the vocabulary in float32.
            table = keras.ops.transpose(self.tokens.embeddings)
            return keras.ops.cast(keras.ops.matmul(keras.ops.cast(inputs, self.compute_dtype), table), "float32")
        if positions is None:
            positions = keras.ops.arange(keras.ops.shape(inputs)[1], dtype="int32")
        return self.dropout(self.tokens(inputs) + self.positions(positions), training=training)

    def compute_output_spec(
        self, inputs: Any, positions: Any = None, reverse: bool = False, training: bool | None = None
    ) -> keras.KerasTensor:
        """The symbolic output, which differs for the two directions."""
        if reverse:
            return keras.KerasTensor((*inputs.shape[:-1], self.vocabulary_size), dtype="float32")
        return keras.KerasTensor((*inputs.shape, self.dim), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The arguments that make an equal layer."""
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "num_positions": self.num_positions,
            "dim": self.dim,
            "dropout": self.dropout_rate,
            "seed": self.seed,
        }
