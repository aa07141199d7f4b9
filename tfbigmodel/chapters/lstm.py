"""The lstm chapter: embedding → LSTM → classes, on token ids."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from pipelines.errors import UserError
from pipelines.section import Section

if TYPE_CHECKING:
    import keras

    from pipelines.data import DatasetInfo
    from tfbigmodel.tasks import Task

Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]


class LstmConfig(Section):
    """The layers of a recurrent network (Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997)."""

    chapter: Literal["lstm"]
    embedding_dim: PositiveInt = 256
    """Numbers that stand for a token; a pair of characters (`data.tokenizer.bigrams`) has so many of its own."""
    units: PositiveInt = 512
    """Units of each LSTM layer, and of each direction."""
    num_layers: PositiveInt = 1
    """LSTM layers on top of each other."""
    bidirectional: bool = False
    """Read the text from both ends."""
    pooling: Literal["last", "max", "mean"] = "last"
    """What of the last layer's steps is classified: the last real one (of the direction that reads from the end, the
    first), the largest or the mean of each unit."""
    embedding_skip: bool = False
    """Show the mean of the embeddings to the last layer, too, beside what the LSTM makes of them."""
    token_dropout: Dropout = 0.0
    """Share of the tokens (and of the pairs of characters) taken for unknown ones in training."""
    embedding_dropout: Dropout = 0.0
    """Share of the embeddings' numbers set to zero in training."""
    dropout: Dropout = 0.0
    """Share of each LSTM layer's outputs set to zero in training; after pooling for the last one."""


def prefers_xla(config: LstmConfig) -> bool:
    """Whether XLA makes the training step faster: it would compile it anew for every length of text."""
    return False


def task(config: LstmConfig, info: DatasetInfo) -> Task:
    """Classification or regression, on texts.

    Raises:
        UserError: the data is no text, or has no labels.
    """
    from tfbigmodel.tasks.labelled import labelled_task

    if info.text is None:
        raise UserError(
            "model.chapter: lstm reads texts, and this data is images or numbers; name the column of texts "
            "(data.text), or choose dense or another"
        )
    return labelled_task(info, "lstm")


def build(config: LstmConfig, info: DatasetInfo, dtype: str, seed: int) -> keras.Model:
    """Builds the network.

    Args:
        config: the `model` section.
        info: the data's inputs, vocabulary and classes.
        dtype: the Keras dtype policy of the LSTM layers, such as `mixed_bfloat16`; embeddings, whose gradients are sums
            over all places of a token, and logits are float32.
        seed: fixes initial weights and dropout.

    Returns:
        A functional model from a dict of `token_ids`, `padding_mask` and, where the data has them, `bigram_ids` (int32,
        `(batch_size, length)` each; `segment_ids` are not looked at) to logits `(batch_size, num_classes)`, or to
        values `(batch_size, 1)` for regression. How far a text is padded changes nothing.
    """
    import keras

    from pipelines.text.characters import BIGRAM_UNKNOWN
    from tfbigmodel.layers.lstm import LSTM
    from tfbigmodel.layers.masked_pooling import MaskedPooling
    from tfbigmodel.layers.token_dropout import TokenDropout

    assert info.text is not None, "`task` refuses data without texts"
    inputs = {name: keras.Input(shape, dtype=info.input_dtypes[name], name=name) for name, shape in info.inputs.items()}
    mask = inputs["padding_mask"]
    vocabularies = {"token": info.text.vocabulary_size}
    if info.text.bigram_vocabulary_size:
        vocabularies["bigram"] = info.text.bigram_vocabulary_size
    # Every layer has a seed of its own: equal seeds would make layers of equal shape start with equal weights.
    seeds = itertools.count(seed)
    embedded = []
    for name, size in vocabularies.items():
        ids = inputs[f"{name}_ids"]
        if config.token_dropout:
            unknown = BIGRAM_UNKNOWN if name == "bigram" else info.text.special_ids["unknown"]
            ids = TokenDropout(config.token_dropout, unknown, next(seeds), dtype="int32", name=f"{name}_dropout")(ids)
        initializer = keras.initializers.RandomUniform(-0.05, 0.05, next(seeds))
        embed = keras.layers.Embedding(size, config.embedding_dim, initializer, name=f"{name}_embedding")
        embedded.append(embed(ids))
    x = keras.layers.Concatenate(name="embedding")(embedded) if len(embedded) > 1 else embedded[0]
    if config.embedding_dropout:
        x = keras.layers.Dropout(config.embedding_dropout, seed=next(seeds), name="embedding_dropout")(x)
    pooled_embedding = MaskedPooling("mean", name="embedding_pooling")(x, mask) if config.embedding_skip else None
    for number in range(1, config.num_layers + 1):
        is_last = number == config.num_layers
        x = LSTM(
            config.units,
            config.bidirectional,
            return_sequences=not is_last or config.pooling != "last",
            seed=next(seeds),
            dtype=dtype,
            name=f"lstm_{number}",
        )(x, mask=mask)
        if is_last and config.pooling != "last":
            x = MaskedPooling(config.pooling, dtype=dtype, name="pooling")(x, mask)
        if is_last and pooled_embedding is not None:
            x = keras.layers.Concatenate(dtype=dtype, name="skip")([x, pooled_embedding])
        if config.dropout:
            x = keras.layers.Dropout(config.dropout, seed=next(seeds), dtype=dtype, name=f"dropout_{number}")(x)
    initializer = keras.initializers.GlorotUniform(next(seeds))
    head = keras.layers.Dense(info.num_classes or 1, kernel_initializer=initializer, dtype="float32", name="logits")
    return keras.Model(inputs, head(x), name="lstm")
