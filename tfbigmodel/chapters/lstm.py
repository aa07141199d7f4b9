"""The lstm chapter: embedding → LSTM → classes, on token ids."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from pipelines.config import Section

Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]


class LstmConfig(Section):
    """The layers of a recurrent network (Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997)."""

    chapter: Literal["lstm"]
    embedding_dim: PositiveInt = 256
    """Numbers that stand for a token."""
    units: PositiveInt = 512
    """Units of each LSTM layer, and of each direction."""
    num_layers: PositiveInt = 1
    """LSTM layers on top of each other."""
    bidirectional: bool = False
    """Read the text from both ends."""
    pooling: Literal["last", "max", "mean"] = "last"
    """What of the last layer's steps is classified: the last real one, the largest or the mean of each unit."""
    embedding_dropout: Dropout = 0.0
    """Share of the embeddings' numbers set to zero in training."""
    dropout: Dropout = 0.0
    """Share of each LSTM layer's outputs set to zero in training."""
