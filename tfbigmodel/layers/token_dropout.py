"""Dropout of whole tokens."""

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfbigmodel")
class TokenDropout(keras.layers.Layer):
    """Replaces a share of the tokens by the unknown one in training, so that no single one is relied on.

    The model also learns what to make of an unknown token, which in the training data itself is rare.

    Args:
        rate: share of the tokens that are replaced.
        unknown_id: what they are replaced by.
        seed: fixes the choice.
        **kwargs: as for any Keras layer.

    Input shape:
        token ids, integers, `(batch_size, length)`.

    Output shape:
        as the input.

    Example:
        >>> TokenDropout(0.5, unknown_id=1, seed=3)(tf.constant([[7, 8, 9]]), training=True).shape
        TensorShape([1, 3])

    Reference:
        Iyyer et al., "Deep Unordered Composition Rivals Syntactic Methods for Text Classification", 2015 (word
        dropout).
    """

    def __init__(self, rate: float, unknown_id: int, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"rate is a share of the tokens, from 0 to below 1; received {rate}")
        self.rate = rate
        self.unknown_id = unknown_id
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.supports_masking = True

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """The token ids, some of them replaced where `training`.

        Args:
            inputs: integers, `(batch_size, length)`.
            training: whether to replace any.
        """
        if not training or not self.rate:
            return inputs
        draws = keras.random.uniform(keras.ops.shape(inputs), dtype="float32", seed=self.seed_generator)
        return keras.ops.where(draws < self.rate, keras.ops.cast(self.unknown_id, inputs.dtype), inputs)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """As the input's."""
        return input_shape

    def compute_output_spec(self, inputs: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        """As the input's."""
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return super().get_config() | {"rate": self.rate, "unknown_id": self.unknown_id, "seed": self.seed}
