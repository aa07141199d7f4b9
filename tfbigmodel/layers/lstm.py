"""An LSTM that trains faster on the CPU than `keras.layers.LSTM`, with the same numbers."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

_SATURATING = 1e4


@keras.saving.register_keras_serializable("tfbigmodel")
class LSTM(keras.layers.Layer):
    """Long short-term memory, in one direction or both.

    It computes what `keras.layers.LSTM` computes, from weights of the same layout. What it does otherwise, for speed:

    - a step is one matrix product, of all weights with inputs and outputs one above the other, examples in columns, so
      that the four gates are neighbouring rows, which need no copy;
    - the gradient of the weights is one large matrix product after the backward loop, not a sum over steps.

    Under `mixed_bfloat16` matrix products are in bfloat16, and the cell state, which adds up over many steps, and all
    else that is done inside a step are float32.

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
        outputs = [
            _run(inputs, mask, number == 1, *(tf.convert_to_tensor(weight) for weight in weights))
            for number, weights in enumerate(self.directions)
        ]
        if not self.return_sequences:
            return tf.transpose(tf.concat([outputs[0][-1], *(backward[0] for backward in outputs[1:])], axis=0))
        return tf.transpose(tf.concat(outputs, axis=1), [2, 0, 1])

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
    inputs: tf.Tensor,
    mask: tf.Tensor | None,
    reverse: bool,
    kernel: tf.Tensor,
    recurrent_kernel: tf.Tensor,
    bias: tf.Tensor,
) -> tf.Tensor:
    """One direction's outputs, `(length, units, batch_size)`.

    Args:
        inputs: `(batch_size, length, dim)`.
        mask: `(batch_size, length)`, or None.
        reverse: start at the last step.
        kernel: `(dim, 4 * units)`; gates in the order input, forget, cell, output.
        recurrent_kernel: `(units, 4 * units)`.
        bias: `(4 * units,)`.
    """
    steps = tf.transpose(inputs, [1, 2, 0])
    inputs_and_one, weights = [steps, tf.ones_like(steps[:, :1])], [recurrent_kernel, kernel, bias[None]]
    masked = None
    if mask is not None:
        masked = tf.transpose(1 - tf.cast(mask, tf.float32))[:, None, :]
        # A masked step shuts the input and output gates and opens the forget gate, each by a number so large that the
        # sigmoid is exactly 0 or 1: the cell state is carried, and the gates' gradients vanish.
        inputs_and_one.append(tf.cast(masked, steps.dtype))
        closed_or_open = tf.constant([-_SATURATING, _SATURATING, 0.0, -_SATURATING], steps.dtype)
        weights.append(tf.repeat(closed_or_open, recurrent_kernel.shape[0])[None])
    return _recurrence(tf.concat(inputs_and_one, axis=1), tf.transpose(tf.concat(weights, axis=0)), masked, reverse)


def _recurrence(inputs: tf.Tensor, weights: tf.Tensor, masked: tf.Tensor | None, reverse: bool) -> tf.Tensor:
    """The loop over steps, and its gradient.

    Args:
        inputs: `(length, dim, batch_size)`.
        weights: `(4 * units, units + dim)`: for the output of the step before, then for the inputs.
        masked: 1.0 for steps that carry the output over, float32, `(length, 1, batch_size)`; None where none does.
        reverse: start at the last step.

    Returns:
        Outputs in the dtype of the inputs, `(length, units, batch_size)`.
    """
    dtype, dim, units = inputs.dtype, inputs.shape[1], weights.shape[0] // 4
    length, batch_size = tf.shape(inputs)[0], tf.shape(inputs)[2]

    def array(width: int, of: tf.DType = tf.float32) -> tf.TensorArray:
        return tf.TensorArray(of, length, element_shape=[width, inputs.shape[2]])

    def loop(step: Callable[..., tuple[Any, ...]], *arrays: tf.TensorArray, backwards: bool) -> list[tf.TensorArray]:
        """Runs `step(time, output, cell)`, which gives the next output and cell, and a value for each array."""

        def body(number: tf.Tensor, output: tf.Tensor, cell: tf.Tensor, *arrays: tf.TensorArray) -> tuple[Any, ...]:
            time = length - 1 - number if backwards else number
            output, cell, values = step(time, output, cell)
            return number + 1, output, cell, *(a.write(time, v) for a, v in zip(arrays, values, strict=True))

        zeros = tf.zeros([units, batch_size])
        return tf.while_loop(lambda number, *_: number < length, body, (0, zeros, zeros, *arrays))[3:]

    @tf.custom_gradient
    def run(inputs: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
        def step(time: tf.Tensor, output: tf.Tensor, cell: tf.Tensor) -> tuple[Any, ...]:
            column = tf.concat([tf.cast(output, dtype), inputs[time]], axis=0)
            i, f, g, o = (tf.cast(gate, tf.float32) for gate in tf.split(tf.matmul(weights, column), 4))
            i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
            new_cell = f * cell + i * g
            squashed = tf.tanh(new_cell)
            new_output = o * squashed
            if masked is not None:
                new_output += output * masked[time]
            return new_output, new_cell, (tf.cast(new_output, dtype), column, cell, squashed, i, f, g, o)

        outputs, columns, *states = loop(
            step, array(units, dtype), array(units + dim, dtype), *(array(units) for _ in range(6)), backwards=reverse
        )
        outputs = outputs.stack()

        def gradient(d_outputs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            transposed = tf.transpose(weights)

            def step(time: tf.Tensor, d_output: tf.Tensor, d_cell: tf.Tensor) -> tuple[Any, ...]:
                cell, squashed, i, f, g, o = (state.read(time) for state in states)
                d_output += tf.cast(d_outputs[time], tf.float32)
                d_cell += _tanh_gradient(squashed, d_output * o)
                d_gates = (
                    _sigmoid_gradient(i, d_cell * g),
                    _sigmoid_gradient(f, d_cell * cell),
                    _tanh_gradient(g, d_cell * i),
                    _sigmoid_gradient(o, d_output * squashed),
                )
                d_gates = tf.concat([tf.cast(gate, dtype) for gate in d_gates], axis=0)
                d_column = tf.matmul(transposed, d_gates)
                d_before = tf.cast(d_column[:units], tf.float32)
                if masked is not None:
                    d_before += d_output * masked[time]
                return d_before, d_cell * f, (d_gates, d_column[units:])

            d_gates, d_inputs = loop(step, array(4 * units, dtype), array(dim, dtype), backwards=not reverse)
            # Sums over steps and examples, which stand side by side here.
            d_gates = tf.reshape(tf.transpose(d_gates.stack(), [1, 0, 2]), [4 * units, -1])
            all_columns = tf.reshape(tf.transpose(columns.stack(), [0, 2, 1]), [-1, units + dim])
            return d_inputs.stack(), tf.matmul(d_gates, all_columns)

        return outputs, gradient

    return run(inputs, weights)


def _sigmoid_gradient(sigmoid: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.SigmoidGrad(y=sigmoid, dy=upstream)


def _tanh_gradient(tanh: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.TanhGrad(y=tanh, dy=upstream)
