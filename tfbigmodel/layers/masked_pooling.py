"""From the numbers of many steps to those of a text."""

from typing import Any, Literal

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfbigmodel")
class MaskedPooling(keras.layers.Layer):
    """The mean or the largest of each number over the real steps; zeros where there is no real step.

    `keras.layers.GlobalMaxPooling1D` takes padding into account, and `GlobalAveragePooling1D` gives NaN where all is
    padding.

    Args:
        mode: `mean` or `max`.
        **kwargs: as for any Keras layer.

    Input shape:
        `(batch_size, length, dim)`, and a mask `(batch_size, length)`, True for real steps.

    Output shape:
        `(batch_size, dim)`.

    Example:
        >>> MaskedPooling("mean")(tf.constant([[[1.0], [3.0], [9.0]]]), mask=tf.constant([[True, True, False]]))
        <tf.Tensor: shape=(1, 1), dtype=float32, numpy=array([[2.]], dtype=float32)>
    """

    def __init__(self, mode: Literal["mean", "max"], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if mode not in ("mean", "max"):
            raise ValueError(f"mode is mean or max; received {mode!r}")
        self.mode = mode

    def call(self, inputs: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """The pooled numbers.

        Args:
            inputs: `(batch_size, length, dim)`.
            mask: bool, True for real steps, `(batch_size, length)`.
        """
        real = tf.cast(mask, tf.bool)[:, :, None]
        if self.mode == "max":
            largest = tf.reduce_max(tf.where(real, inputs, inputs.dtype.min), axis=1)
            return tf.where(tf.reduce_any(real, axis=1), largest, tf.zeros_like(largest))
        # A sum over many steps in bfloat16 would lose the later ones.
        total = tf.reduce_sum(tf.where(real, tf.cast(inputs, tf.float32), 0.0), axis=1)
        count = tf.reduce_sum(tf.cast(real, tf.float32), axis=1)
        return tf.cast(total / tf.maximum(count, 1.0), inputs.dtype)

    def compute_mask(self, inputs: tf.Tensor, previous_mask: tf.Tensor | None = None) -> None:
        """None: a text has no steps any more."""
        return None

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """`(batch_size, dim)`."""
        return input_shape[0], input_shape[2]

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return super().get_config() | {"mode": self.mode}
