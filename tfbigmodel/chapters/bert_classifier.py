"""The bert_classifier chapter: a BERT encoder with a new head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from pipelines.config import CorpusConfig
from pipelines.errors import UserError
from pipelines.remote import join, local
from pipelines.section import Section
from tfbigmodel.chapters.bert import (
    BackboneConfig,
    bert_text,
    build_backbone,
    head_initializer,
    seeded_layers,
    text_section,
    with_wordpiece,
)
from tfbigmodel.chapters.preset_folders import is_gone, lasting_name
from tfbigmodel.chapters.presets import check_vocabulary, find_preset, load_into, merged_backbone, read_preset

if TYPE_CHECKING:
    import keras

    from pipelines.data import DatasetInfo
    from tfbigmodel.config import RunConfig
    from tfbigmodel.tasks import Task

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


def prefers_xla(config: BertClassifierConfig) -> bool:
    """No: batches have the length of their longest text, and XLA would compile the step anew for each length."""
    return False


def resolve(config: RunConfig) -> RunConfig:
    """Fills in the encoder's size and the tokenizer from the preset, so that a workdir needs it no more.

    Raises:
        UserError: the preset is missing or damaged, or does not go with the rest of the configuration.
    """
    model = config.model
    assert isinstance(model, BertClassifierConfig)
    if isinstance(config.data, CorpusConfig):
        raise UserError(
            "model.chapter: bert_classifier learns from labels, and data.source: corpus has none; choose "
            "bert_pretraining, or a table with a label"
        )
    if model.preset is None:
        backbone = model.backbone or BackboneConfig()
        config = with_wordpiece(config, backbone)
        return config.model_copy(update={"model": model.model_copy(update={"backbone": backbone})})
    tokenizer = text_section(config).tokenizer
    if model.backbone and tokenizer and tokenizer.vocabulary and is_gone(model.preset):
        # A workdir's configuration, which was filled in before: only a run that starts needs the preset.
        return with_wordpiece(config, model.backbone)
    preset = read_preset(find_preset(model.preset, model.download))
    backbone = merged_backbone(preset, model.backbone)
    name = lasting_name(model.preset, preset.folder)
    vocabulary = (tokenizer and tokenizer.vocabulary) or name
    check_vocabulary(preset, local(join(config.data.data_dir, vocabulary)))
    config = with_wordpiece(config, backbone, vocabulary=vocabulary, lowercase=preset.lowercase)
    changes = {"preset": str(name), "backbone": backbone}
    return config.model_copy(update={"model": model.model_copy(update=changes)})


def task(config: BertClassifierConfig, info: DatasetInfo) -> Task:
    """Classification or regression of texts.

    Raises:
        UserError: the data is no text, or has no labels.
    """
    from tfbigmodel.tasks.labelled import labelled_task

    found = labelled_task(info, "bert_classifier")
    bert_text(info, config.backbone, "bert_classifier")
    return found


def build(config: BertClassifierConfig, info: DatasetInfo, dtype: str, seed: int) -> keras.Model:
    """Builds the encoder and the head, with random weights.

    Args:
        config: the `model` section.
        info: the data's vocabulary and classes.
        dtype: the Keras dtype policy of the encoder, such as `mixed_bfloat16`; logits are float32.
        seed: fixes initial weights and dropout.

    Returns:
        A functional model from `token_ids`, `segment_ids` and `padding_mask`, int32 `(batch_size, sequence_length)`
        each, to logits `(batch_size, num_classes)`, or to values `(batch_size, 1)` for regression.
    """
    import keras

    if config.backbone is None and config.preset is not None:
        raise UserError("model.backbone is not filled in from model.preset; call tfbigmodel.build_model")
    size = config.backbone or BackboneConfig()
    text = bert_text(info, size, "bert_classifier")
    if config.fine_tuning == "frozen":
        # A frozen encoder says the same of a text each time; noise would only blur what the head learns from.
        size = size.model_copy(update={"dropout": 0.0})
    backbone = build_backbone(size, text.vocabulary_size, dtype, seed)
    if config.fine_tuning == "frozen":
        backbone.trainable = False
    elif config.fine_tuning == "lora":
        with seeded_layers(seed + 1):
            _add_low_rank(backbone, config.lora_rank)
    x = backbone(backbone.input)["pooled_output"]
    with seeded_layers(seed + 2):
        x = keras.layers.Dropout(config.dropout, dtype=dtype, name="dropout")(x)
        outputs = keras.layers.Dense(
            info.num_classes or 1, kernel_initializer=head_initializer(), dtype="float32", name="logits"
        )(x)
    return keras.Model(backbone.input, outputs, name="bert_classifier")


def load_pretrained(model: keras.Model, config: BertClassifierConfig, info: DatasetInfo) -> str:
    """Gives the encoder its preset's weights, if it has a preset.

    Args:
        model: what `build` made.
        config: the `model` section.
        info: the data's vocabulary.

    Returns:
        One line that says what was loaded; nothing without a preset.

    Raises:
        UserError: the preset is missing or damaged, or its vocabulary has another size than the data's.
    """
    if config.preset is None:
        return ""
    preset = read_preset(find_preset(config.preset, config.download))
    text = bert_text(info, preset.backbone, "bert_classifier")
    return load_into(model.get_layer("backbone"), preset, text.vocabulary_size)


def learning_rate_scales(model: keras.Model, config: BertClassifierConfig) -> dict[str, float]:
    """Each weight's share of the learning rate: 1 for the head and the top layer, less the deeper a layer is.

    Args:
        model: what `build` made.
        config: the `model` section.

    Returns:
        Weight path → share; empty where all have the same rate.
    """
    if config.layer_decay == 1.0:
        return {}
    backbone = model.get_layer("backbone")

    def layers_above(path: str) -> int:
        layer = path.partition("/")[0]
        if layer.startswith("transformer_layer_"):
            return backbone.num_layers - 1 - int(layer.rpartition("_")[2])
        return 0 if layer == "pooled_dense" else backbone.num_layers

    return {v.path: config.layer_decay ** layers_above(v.path) for v in backbone.trainable_variables}


def _add_low_rank(backbone: keras.Model, rank: int) -> None:
    backbone.enable_lora(rank)
    # Keras leaves the biases of the layers that it adds to trainable.
    for variable in backbone.trainable_variables:
        variable.trainable = variable.name.startswith("lora_kernel")
