"""The bert_pretraining chapter: masked language model and next-sentence prediction on a corpus."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipelines.config import Section
from tfbigmodel.chapters.bert import BackboneConfig


class BertPretrainingConfig(Section):
    """The encoder, and how its two losses count (Devlin et al., "BERT", 2019)."""

    chapter: Literal["bert_pretraining"]
    backbone: BackboneConfig = BackboneConfig()
    next_sentence_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the next-sentence loss beside the masked language model's, which has 1."""
