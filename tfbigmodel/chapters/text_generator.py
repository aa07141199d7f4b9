"""The text_generator chapter: a Transformer that continues texts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from pipelines.config import Section
from tfbigmodel.chapters.bert import BackboneConfig


class SamplingConfig(Section):
    """How the next token is chosen where a request does not say."""

    max_new_tokens: PositiveInt = 50
    """Tokens to write at most; less where the text ends before."""
    temperature: NonNegativeFloat = 1.0
    """Logits are divided by it; 0 takes the likeliest token always (greedy)."""
    top_k: NonNegativeInt = 0
    """Choose among so many of the likeliest tokens; 0 for all (Fan et al., 2018)."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Choose among the likeliest tokens that have this probability together (Holtzman et al., 2020)."""
    num_beams: PositiveInt = 1
    """Above 1: beam search, which does not sample."""
    repetition_penalty: PositiveFloat = 1.0
    """Above 1 makes tokens that have occurred less likely (Keskar et al., "CTRL", 2019)."""
    seed: NonNegativeInt = 0
    """Fixes what is drawn."""


class TextGeneratorConfig(Section):
    """The layers of the Transformer (Vaswani et al., "Attention Is All You Need", 2017; pre-norm)."""

    chapter: Literal["text_generator"]
    hidden_dim: PositiveInt = 512
    """Width of the residual stream."""
    num_heads: PositiveInt = 8
    """Attention heads; they must divide `hidden_dim`."""
    num_layers: PositiveInt = 2
    """Decoder layers."""
    intermediate_dim: PositiveInt = 2048
    """Width inside the feed-forward blocks."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Share set to zero in training, in the embeddings and in each layer."""
    encoder: BackboneConfig | None = None
    """A BERT encoder that reads the prompt (data.task: sequence_to_sequence); none for a decoder that continues it."""
    encoder_preset: str | None = None
    """A Keras preset folder or Hugging Face folder with the encoder's weights and vocabulary."""
    sampling: SamplingConfig = SamplingConfig()
