"""An LSTM that trains faster on the CPU than `keras.layers.LSTM`, with the same numbers."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfbigmodel")
class LSTM(keras.layers.Layer):
    """Long short-term memory, in one direction or both.

    It computes what `keras.layers.LSTM` computes, from weights of the same layout, and differs in how: the inputs of all steps are projected in one matrix product before the loop, and the gradient of the
    recurrent kernel is one matrix product after the backward loop, not a sum over steps. Under `mixed_bfloat16` matrix
    products are in bfloat16, and the cell state, which adds up over many steps, is float32.

    A step that is masked out changes nothing: output and cell state are carried over it. So the last output is that of
    the last real step, and the other direction starts there, wherever padding stands.

    Args:
        units: numbers in the output and in the cell state, of each direction.
        bidirectional: also read from the end; the two directions' outputs stand side by side.
        return_sequences: give the outputs of all steps; the last one of each direction where not.
        seed: fixes the initial weights.
        **kwargs: as for any Keras layer.

    Input shape:
        `(batch_size, length, dim)`, and a mask `(batch_size, length)`, True for real steps, or none.

    Output shape:
        `(batch_size, length, units)`, or `(batch_size, units)` without sequences; `2 * units` for both directions.

    Example:
        >>> layer = LSTM(512, bidirectional=True, seed=1)
        >>> layer(tf.ones([8, 20, 256]), mask=tf.ones([8, 20], tf.bool)).shape
        TensorShape([8, 20, 1024])

    Reference:
        Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997.
    """

    def __init__(
        self,
        units: int,
        bidirectional: bool = False,
        return_sequences: bool = True,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.bidirectional = bidirectional
        self.return_sequences = return_sequences
        self.seed = seed
        self.supports_masking = True
        # Keras' `fit` would compile it anew for every length of text that it meets.
        self.supports_jit = False

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights of `keras.layers.LSTM`, for each direction.

        Args:
            input_shape: `(batch_size, length, dim)`.
        """
        self.directions = [
            self._direction_weights(name, input_shape[-1], None if self.seed is None else self.seed + 2 * number)
            for number, name in enumerate(("forward", "backward") if self.bidirectional else ("forward",))
        ]

    def _direction_weights(self, name: str, dim: int | None, seed: int | None) -> tuple[keras.Variable, ...]:
        def bias(shape: tuple[int, ...], dtype: str) -> tf.Tensor:
            # The forget gate starts open (Jozefowicz et al., 2015), as in Keras.
            return tf.concat([tf.zeros([self.units]), tf.ones([self.units]), tf.zeros([2 * self.units])], axis=0)

        next_seed = None if seed is None else seed + 1
        return (
            self.add_weight(
                shape=(dim, 4 * self.units),
                initializer=keras.initializers.GlorotUniform(seed),
                name=f"{name}_kernel",
            ),
            self.add_weight(
                shape=(self.units, 4 * self.units),
                initializer=keras.initializers.Orthogonal(seed=next_seed),
                name=f"{name}_recurrent_kernel",
            ),
            self.add_weight(shape=(4 * self.units,), initializer=bias, name=f"{name}_bias"),
        )

    def call(self, inputs: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
        """The outputs.

        Args:
            inputs: `(batch_size, length, dim)`.
            mask: bool, True for real steps, `(batch_size, length)`; None where all are.

        Returns:
            As the class says, in the compute dtype.
        """
        steps = tf.transpose(inputs, [1, 0, 2])
        real = tf.ones(tf.shape(steps)[:2], tf.bool) if mask is None else tf.transpose(tf.cast(mask, tf.bool))
        outputs = [
            _run(steps, real, kernel, recurrent_kernel, bias, reverse=number == 1)
            for number, (kernel, recurrent_kernel, bias) in enumerate(self.directions)
        ]
        if not self.return_sequences:
            return tf.concat([outputs[0][-1], *(backward[0] for backward in outputs[1:])], axis=-1)
        return tf.transpose(tf.concat(outputs, axis=-1), [1, 0, 2])

    def compute_mask(self, inputs: tf.Tensor, previous_mask: tf.Tensor | None = None) -> tf.Tensor | None:
        """The inputs', as long as there are steps."""
        return previous_mask if self.return_sequences else None

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """As the class says."""
        width = self.units * (2 if self.bidirectional else 1)
        return (*input_shape[:2], width) if self.return_sequences else (input_shape[0], width)

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return super().get_config() | {
            "units": self.units,
            "bidirectional": self.bidirectional,
            "return_sequences": self.return_sequences,
            "seed": self.seed,
        }


def _run(
    steps: tf.Tensor,
    real: tf.Tensor,
    kernel: keras.Variable,
    recurrent_kernel: keras.Variable,
    bias: keras.Variable,
    reverse: bool,
) -> tf.Tensor:
    """One direction's outputs, `(length, batch_size, units)`.

    Args:
        steps: `(length, batch_size, dim)`.
        real: bool, `(length, batch_size)`.
        kernel: `(dim, 4 * units)`; gates in the order input, forget, cell, output.
        recurrent_kernel: `(units, 4 * units)`.
        bias: `(4 * units,)`.
        reverse: start at the last step.
    """
    kernel, recurrent_kernel, bias = (tf.convert_to_tensor(weight) for weight in (kernel, recurrent_kernel, bias))
    projected = tf.einsum("tbd,dg->tbg", steps, kernel) + bias
    return _recurrence(projected, recurrent_kernel, real, reverse)


def _recurrence(projected: tf.Tensor, recurrent_kernel: tf.Tensor, real: tf.Tensor, reverse: bool) -> tf.Tensor:
    units = recurrent_kernel.shape[0]
    dtype = projected.dtype
    length, batch_size = tf.shape(projected)[0], tf.shape(projected)[1]

    def array(width: int, of: tf.DType) -> tf.TensorArray:
        return tf.TensorArray(of, length, element_shape=[projected.shape[1], width])

    def place(number: tf.Tensor) -> tf.Tensor:
        return length - 1 - number if reverse else number

    @tf.custom_gradient
    def run(projected: tf.Tensor, recurrent_kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        def step(
            number: tf.Tensor, output: tf.Tensor, cell: tf.Tensor, arrays: tuple[tf.TensorArray, ...]
        ) -> tuple[Any, ...]:
            time = place(number)
            gates = tf.cast(projected[time] + tf.matmul(tf.cast(output, dtype), recurrent_kernel), tf.float32)
            i, f, g, o = tf.split(gates, 4, axis=1)
            i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
            is_real = real[time][:, None]
            new_cell = f * cell + i * g
            new_output = tf.where(is_real, o * tf.tanh(new_cell), output)
            new_cell = tf.where(is_real, new_cell, cell)
            outputs, cells, all_gates = arrays
            arrays = (
                outputs.write(time, tf.cast(new_output, dtype)),
                cells.write(time, new_cell),
                all_gates.write(time, tf.concat([i, f, g, o], axis=1)),
            )
            return number + 1, new_output, new_cell, arrays

        zeros = tf.zeros([batch_size, units])
        arrays = (array(units, dtype), array(units, tf.float32), array(4 * units, tf.float32))
        arrays = tf.while_loop(lambda number, *_: number < length, step, (0, zeros, zeros, arrays))[-1]
        outputs, cells, gates = (written.stack() for written in arrays)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            def before(values: tf.Tensor) -> tf.Tensor:
                start = tf.zeros_like(values[:1])
                return tf.concat([values[1:], start] if reverse else [start, values[:-1]], axis=0)

            transposed = tf.transpose(recurrent_kernel)
            cells_before = before(cells)

            def step(
                number: tf.Tensor, d_output: tf.Tensor, d_cell: tf.Tensor, d_gates: tf.TensorArray
            ) -> tuple[Any, ...]:
                time = place(length - 1 - number)
                i, f, g, o = tf.split(gates[time], 4, axis=1)
                is_real = tf.cast(real[time][:, None], tf.float32)
                d_output += tf.cast(upstream[time], tf.float32)
                squashed = tf.tanh(cells[time])
                d_new_output = d_output * is_real
                d_new_cell = d_cell * is_real + d_new_output * o * (1 - squashed * squashed)
                d_gate = tf.cast(
                    tf.concat(
                        [
                            d_new_cell * g * i * (1 - i),
                            d_new_cell * cells_before[time] * f * (1 - f),
                            d_new_cell * i * (1 - g * g),
                            d_new_output * squashed * o * (1 - o),
                        ],
                        axis=1,
                    ),
                    dtype,
                )
                d_output += tf.cast(tf.matmul(d_gate, transposed), tf.float32) - d_new_output
                d_cell = d_new_cell * f + d_cell * (1 - is_real)
                return number + 1, d_output, d_cell, d_gates.write(time, d_gate)

            d_gates = tf.while_loop(
                lambda number, *_: number < length, step, (0, zeros, zeros, array(4 * units, dtype))
            )[-1].stack()
            flat = [tf.reshape(values, [-1, values.shape[-1]]) for values in (before(outputs), d_gates)]
            return d_gates, tf.matmul(flat[0], flat[1], transpose_a=True)

        return outputs, gradient

    return run(projected, recurrent_kernel)
