"""The dense chapter: fully connected layers on flattened images or on a table's columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from pipelines.errors import UserError
from pipelines.section import Section

if TYPE_CHECKING:
    import keras

    from pipelines.data import DatasetInfo
    from tfbigmodel.tasks import Task

NonNegative = Annotated[float, Field(ge=0.0)]


class DenseConfig(Section):
    """The layers of a dense network."""

    chapter: Literal["dense"]
    hidden_units: list[PositiveInt] = [128]
    """Units of each hidden layer, from input to output; an empty list is a linear model."""
    activation: Literal["relu", "sigmoid", "tanh", "leaky_relu"] = "relu"
    """Between the layers; leaky ReLU has a slope of 0.2 below zero."""
    initializer: Literal[
        "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal",
        "random_normal", "random_uniform", "truncated_normal", "orthogonal",
    ] = "glorot_uniform"  # fmt: skip
    """Distribution of the initial kernels; biases start at zero."""
    l1: NonNegative = 0.0
    """Sum of absolute kernel weights is added to the loss, times this."""
    l2: NonNegative = 0.0
    """Sum of squared kernel weights is added to the loss, times this."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of each hidden layer's units set to zero in training."""
    batch_norm: bool = False
    """Normalise each hidden layer before its activation, over the whole batch of all replicas."""


def prefers_xla(config: DenseConfig) -> bool:
    """Whether XLA makes the training step faster.

    784-500-10, 64 examples, two cores (benchmarks/dense_training.py): 1.69 ms a step with XLA, 2.53 ms without; with
    dropout, whose random numbers XLA makes slowly on the CPU, 10.06 and 2.97 ms.
    """
    return config.dropout == 0.0


def task(config: DenseConfig, info: DatasetInfo) -> Task:
    """Classification or regression, on images or numbers.

    Raises:
        UserError: the data is text, or has no labels.
    """
    from tfbigmodel.tasks.labelled import labelled_task

    if info.text is not None:
        raise UserError("model.chapter: dense reads images and numbers, and this data is text; choose lstm or another")
    return labelled_task(info, "dense")


def build(config: DenseConfig, info: DatasetInfo, dtype: str, seed: int) -> keras.Model:
    """Builds the network.

    Args:
        config: the `model` section.
        info: the data's inputs and classes.
        dtype: the Keras dtype policy of the hidden layers, such as `mixed_bfloat16`; logits are float32.
        seed: fixes initial weights and dropout.

    Returns:
        A functional model from a dict of inputs, `(batch_size, …)` each, to logits `(batch_size, num_classes)`, or to
        values `(batch_size, 1)` for regression.
    """
    import keras

    inputs = {name: keras.Input(shape, dtype=info.input_dtypes[name], name=name) for name, shape in info.inputs.items()}
    flat = [keras.layers.Flatten(dtype=dtype, name=f"flatten_{name}")(tensor) for name, tensor in inputs.items()]
    x = keras.layers.Concatenate(dtype=dtype, name="concatenate")(flat) if len(flat) > 1 else flat[0]
    # Every layer has a seed of its own: equal seeds would make layers of equal shape start with equal weights.
    for number, units in enumerate(config.hidden_units, start=1):
        # Batch norm has an offset of its own, and takes a bias before it away again.
        x = _dense(config, units, not config.batch_norm, seed + 2 * number, dtype, f"dense_{number}")(x)
        if config.batch_norm:
            x = keras.layers.BatchNormalization(synchronized=True, dtype=dtype, name=f"batch_norm_{number}")(x)
        x = _activation(config.activation, dtype, f"activation_{number}")(x)
        if config.dropout:
            x = keras.layers.Dropout(config.dropout, seed=seed + 2 * number + 1, dtype=dtype, name=f"dropout_{number}")(
                x
            )
    outputs = _dense(config, info.num_classes or 1, True, seed, "float32", "logits")(x)
    return keras.Model(inputs, outputs, name="dense")


def _dense(config: DenseConfig, units: int, use_bias: bool, seed: int, dtype: str, name: str) -> keras.layers.Dense:
    import keras

    return keras.layers.Dense(
        units,
        use_bias=use_bias,
        kernel_initializer=keras.initializers.get({"class_name": config.initializer, "config": {"seed": seed}}),
        kernel_regularizer=keras.regularizers.L1L2(config.l1, config.l2) if config.l1 or config.l2 else None,
        dtype=dtype,
        name=name,
    )


def _activation(activation: str, dtype: str, name: str) -> keras.layers.Layer:
    import keras

    if activation == "leaky_relu":
        return keras.layers.LeakyReLU(negative_slope=0.2, dtype=dtype, name=name)
    return keras.layers.Activation(activation, dtype=dtype, name=name)
