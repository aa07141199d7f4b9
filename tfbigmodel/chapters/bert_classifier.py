"""The bert_classifier chapter: a BERT encoder with a new head."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from pipelines.config import Section
from tfbigmodel.chapters.bert import BackboneConfig

Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]


class BertClassifierConfig(Section):
    """Where the encoder comes from and what of it is trained."""

    chapter: Literal["bert_classifier"]
    preset: str | None = None
    """A Keras preset folder, a Hugging Face folder, or a preset's name such as `bert_base_zh`, which must have been
    downloaded before unless `download` is set; random weights and a learned vocabulary where it is not given."""
    download: bool = False
    """Let KerasHub download a preset that is given by name. Nothing is ever downloaded otherwise."""
    backbone: BackboneConfig | None = None
    """The encoder's size; the preset's own where there is a preset."""
    fine_tuning: Literal["full", "frozen", "lora"] = "full"
    """Train all weights; the head only; or the head and low-rank additions to the attention's projections (Hu et al.,
    "LoRA", 2021)."""
    lora_rank: PositiveInt = 8
    """Rank of those additions."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Each encoder layer's learning rate as a share of that of the layer above it (Sun et al., "How to Fine-Tune BERT",
    2019); 1 for equal rates."""
    dropout: Dropout = 0.1
    """Share of the pooled output set to zero before the head in training; the encoder's own is `backbone.dropout`."""
