"""What the chapters built on BERT share: the encoder's size."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from pipelines.config import Section


class BackboneConfig(Section):
    """The size of a BERT encoder, as KerasHub's `BertBackbone` takes it; the vocabulary's is the tokenizer's."""

    num_layers: PositiveInt = 12
    """Transformer layers."""
    num_heads: PositiveInt = 12
    """Attention heads; they must divide `hidden_dim`."""
    hidden_dim: PositiveInt = 768
    """Width of the residual stream."""
    intermediate_dim: PositiveInt = 3072
    """Width inside the feed-forward blocks."""
    max_sequence_length: PositiveInt = 512
    """Positions that have an embedding."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share set to zero in training, in the embeddings and in each layer."""
