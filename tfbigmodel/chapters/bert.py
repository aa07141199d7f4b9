"""What the chapters built on BERT share: the encoder's size, the encoder, and the tokens that it reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PositiveInt

from pipelines.config import BuiltinConfig, ImageFolderConfig, ShardsConfig, TableConfig, TextConfig, TokenizerConfig
from pipelines.errors import UserError
from pipelines.section import Section
from tfbigmodel.chapters.hub import import_keras_hub, seeded_layers

if TYPE_CHECKING:
    import keras
    import keras_hub

    from pipelines.data import DatasetInfo, TextInfo
    from tfbigmodel.config import RunConfig

INPUTS = ("token_ids", "segment_ids", "padding_mask")


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


def build_backbone(
    config: BackboneConfig, vocabulary_size: int, dtype: str, seed: int
) -> keras_hub.models.BertBackbone:
    """Builds KerasHub's BERT encoder with random weights.

    Args:
        config: its size.
        vocabulary_size: different token ids.
        dtype: the Keras dtype policy, such as `mixed_bfloat16`; weights are float32 under all.
        seed: fixes weights and dropout.

    Returns:
        A functional model called `backbone`, from `token_ids`, `segment_ids` and `padding_mask`, int32
        `(batch_size, sequence_length)` each, to a dict of `sequence_output`, `(batch_size, sequence_length,
        hidden_dim)`, and `pooled_output`, `(batch_size, hidden_dim)`.

    Raises:
        UserError: the heads do not divide the width, or KerasHub is not installed.

    Reference:
        Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2019.
    """
    if config.hidden_dim % config.num_heads:
        raise UserError(
            f"model.backbone: num_heads {config.num_heads} does not divide hidden_dim {config.hidden_dim}; "
            "choose two numbers of which the first divides the second"
        )
    hub = import_keras_hub(texts=True)
    with seeded_layers(seed):
        return hub.models.BertBackbone(
            vocabulary_size=vocabulary_size, **config.model_dump(), dtype=dtype, name="backbone"
        )


def head_initializer() -> keras.initializers.Initializer:
    """How BERT's dense layers start."""
    import keras

    return keras.initializers.TruncatedNormal(stddev=0.02)


def bert_text(info: DatasetInfo, backbone: BackboneConfig | None, chapter: str) -> TextInfo:
    """What is known of the data's texts, if they are cut into BERT's tokens.

    Args:
        info: the data's description.
        backbone: the encoder's size, where it is known.
        chapter: for messages.

    Raises:
        UserError: the data is no text, is cut into other tokens, or its texts are longer than the encoder reads.
    """
    if info.text is None:
        raise UserError(f"model.chapter: {chapter} reads texts, and this data has none; choose dense")
    if not set(INPUTS) <= set(info.inputs):
        raise UserError(
            f"model.chapter: {chapter} reads {', '.join(INPUTS)}, and the data has {', '.join(info.inputs)}; "
            "set data.tokenizer.kind: wordpiece"
        )
    if backbone is not None:
        _check_length(info.text.sequence_length, backbone)
    return info.text


def text_section(config: RunConfig) -> TextConfig:
    """The `data` section of a chapter that reads texts.

    Raises:
        UserError: the source holds images.
    """
    data, chapter = config.data, config.model.chapter
    if isinstance(data, ImageFolderConfig):
        raise UserError(f"model.chapter: {chapter} reads texts, and data.source: image_folder has images; use resnet50")
    if isinstance(data, BuiltinConfig) and data.name == "digits":
        raise UserError(f"model.chapter: {chapter} reads texts, and builtin digits are images; choose dense")
    return data


def with_wordpiece(config: RunConfig, backbone: BackboneConfig, **from_preset: Any) -> RunConfig:
    """A configuration whose texts are cut into BERT's tokens.

    Args:
        config: the run's configuration; its tokenizer need not be given.
        backbone: the encoder's size.
        **from_preset: fields of the tokenizer that a preset decides on.

    Raises:
        UserError: another kind of tokenizer is asked for, texts longer than the encoder reads, a table without a column
            of texts, or images.
    """
    data, chapter = text_section(config), config.model.chapter
    if isinstance(data, TableConfig | ShardsConfig) and data.text is None:
        raise UserError(f"data.text is missing: {chapter} reads texts; name the column of {data.path} that holds them")
    tokenizer = data.tokenizer or TokenizerConfig()
    given = data.tokenizer.model_fields_set if data.tokenizer else set()
    if "kind" in given and tokenizer.kind != "wordpiece":
        raise UserError(
            f"data.tokenizer.kind: {chapter} reads wordpiece, received {tokenizer.kind}; leave it out, or choose lstm"
        )
    changes: dict[str, Any] = {"kind": "wordpiece", **from_preset}
    if "sequence_length" in given:
        _check_length(tokenizer.sequence_length, backbone)
    else:
        changes["sequence_length"] = min(tokenizer.sequence_length, backbone.max_sequence_length)
    tokenizer = tokenizer.model_copy(update=changes)
    return config.model_copy(update={"data": data.model_copy(update={"tokenizer": tokenizer})})


def _check_length(sequence_length: int, backbone: BackboneConfig) -> None:
    if sequence_length > backbone.max_sequence_length:
        raise UserError(
            f"data.tokenizer.sequence_length: {sequence_length} tokens are more than the encoder's "
            f"{backbone.max_sequence_length} positions (model.backbone.max_sequence_length); lower it"
        )
