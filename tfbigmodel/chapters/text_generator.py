"""The text_generator chapter: a Transformer that continues texts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from pipelines.errors import UserError
from pipelines.remote import join, local
from pipelines.section import Section
from tfbigmodel.chapters.bert import BackboneConfig, build_backbone, text_section, with_wordpiece
from tfbigmodel.chapters.preset_folders import is_gone, lasting_name
from tfbigmodel.chapters.presets import check_vocabulary, find_preset, load_into, merged_backbone, read_preset

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from pipelines.data import Data, DatasetInfo, Split
    from pipelines.text.preprocess import TextPreprocessor
    from tfbigmodel.config import RunConfig
    from tfbigmodel.tasks import Task

_PRESET = "model.encoder_preset"


class SamplingConfig(Section):
    """How the next token is chosen where a request does not say."""

    max_new_tokens: PositiveInt = 50
    """Tokens to write at most; less where the text ends before. Prompt and new tokens together are no more than
    `data.tokenizer.sequence_length`: the prompt is cut from the left, to a quarter of it at most; then fewer tokens are
    written."""
    temperature: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0
    """Logits are divided by it; 0 takes the likeliest token always (greedy)."""
    top_k: NonNegativeInt = 0
    """Choose among so many of the likeliest tokens; 0 for all (Fan et al., 2018)."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Choose among the likeliest tokens that have this probability together (Holtzman et al., 2020)."""
    num_beams: Annotated[int, Field(ge=1, le=16)] = 1
    """Above 1: beam search, which does not sample."""
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10.0)] = 1.0
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


def prefers_xla(config: TextGeneratorConfig) -> bool:
    """No: batches are padded to their longest text, and XLA compiles anew for every length."""
    return False


def resolve(config: RunConfig) -> RunConfig:
    """Fills in the encoder's size and the tokenizer from the preset, so that a workdir needs it no more.

    Raises:
        UserError: the preset is missing or damaged, or the data is none that the chapter can learn from.
    """
    model = config.model
    assert isinstance(model, TextGeneratorConfig)
    _check_task(getattr(config.data, "task", "classification"), model)
    if model.encoder_preset is None:
        return config
    tokenizer = text_section(config).tokenizer
    if model.encoder and tokenizer and tokenizer.vocabulary and is_gone(model.encoder_preset):
        # A workdir's configuration, which was filled in before: only a run that starts needs the preset.
        return with_wordpiece(config, model.encoder)
    preset = read_preset(find_preset(model.encoder_preset, key=_PRESET), _PRESET)
    encoder = merged_backbone(preset, model.encoder, "model.encoder")
    name = lasting_name(model.encoder_preset, preset.folder)
    vocabulary = (tokenizer and tokenizer.vocabulary) or name
    check_vocabulary(preset, local(join(config.data.data_dir, vocabulary)))
    config = with_wordpiece(config, encoder, vocabulary=vocabulary, lowercase=preset.lowercase)
    changes = {"encoder_preset": str(name), "encoder": encoder}
    return config.model_copy(update={"model": model.model_copy(update=changes)})


def _check_task(data_task: str, config: TextGeneratorConfig) -> None:
    if data_task not in ("language_model", "sequence_to_sequence"):
        raise UserError(
            "model.chapter: text_generator learns from data.source: corpus with data.task: language_model or "
            f"sequence_to_sequence, and this data is for {data_task}"
        )
    key = "encoder" if config.encoder is not None else "encoder_preset" if config.encoder_preset is not None else ""
    if data_task == "language_model" and key:
        raise UserError(
            f"model.{key}: a language_model continues its text and has no encoder; remove it, or set data.task: "
            "sequence_to_sequence"
        )
    if data_task == "sequence_to_sequence" and not key:
        raise UserError(
            "model.encoder is missing: data.task sequence_to_sequence has one that reads the prompt; give its size, "
            "such as {num_layers: 2, num_heads: 4, hidden_dim: 256, intermediate_dim: 1024}, or model.encoder_preset"
        )


def task(config: TextGeneratorConfig, info: DatasetInfo) -> Task:
    """The next token, of a text or of what follows a prompt.

    Raises:
        UserError: the data is for another task, or the configuration does not fit it.
    """
    from tfbigmodel.tasks.language_model import LanguageModel

    _check_task(info.task, config)
    assert info.text is not None, "the language tasks are those of texts"
    _check_heads("model.", config.num_heads, config.hidden_dim)
    if config.encoder is not None:
        _check_heads("model.encoder.", config.encoder.num_heads, config.encoder.hidden_dim)
        longest = _rounded_up(info.text.sequence_length)
        if config.encoder.max_sequence_length < longest:
            raise UserError(
                f"model.encoder.max_sequence_length: {config.encoder.max_sequence_length} positions are too few for "
                f"data.tokenizer.sequence_length {info.text.sequence_length}, which takes {longest}; raise it, or "
                "lower the other"
            )
    return LanguageModel(info.text.mean_tokens)


def _check_heads(section: str, num_heads: int, dim: int) -> None:
    if dim % num_heads:
        raise UserError(
            f"{section}num_heads: {num_heads} does not divide {section}hidden_dim {dim}; choose a divisor of it"
        )


def _rounded_up(length: int) -> int:
    """The longest batch of texts of at most that length: batches are padded to a multiple of 8 tokens."""
    return -(-length // 8) * 8


def build(config: TextGeneratorConfig, info: DatasetInfo, dtype: str, seed: int) -> keras.Model:
    """Builds the network.

    Args:
        config: the `model` section.
        info: the data's inputs and vocabulary.
        dtype: the Keras dtype policy of all layers, such as `mixed_bfloat16`; logits are float32.
        seed: fixes initial weights and dropout.

    Returns:
        A functional model from a dict of int32 inputs, `(batch_size, length)` each, to the logits of each next token,
        float32 `(batch_size, length, vocabulary_size)`. Inputs are `token_ids` and `padding_mask`; with an encoder
        `encoder_token_ids`, `encoder_segment_ids` and `encoder_padding_mask` besides.
    """
    import keras

    from tfbigmodel.layers.decoder_block import NUM_SEEDS, DecoderBlock
    from tfbigmodel.layers.text_embedding import TextEmbedding

    assert info.text is not None, "task() has refused data that is no text"
    inputs = {name: keras.Input(shape, dtype=info.input_dtypes[name], name=name) for name, shape in info.inputs.items()}
    encoder_states, encoder_mask, encoder_dim = None, None, None
    if config.encoder is not None:
        encoder_states, encoder_mask = _encode(config.encoder, info, inputs, dtype, seed)
        encoder_dim = config.encoder.hidden_dim
    num_positions = _rounded_up(info.text.sequence_length)
    embedding = TextEmbedding(
        info.text.vocabulary_size, num_positions, config.hidden_dim, config.dropout, seed, dtype=dtype, name="embedding"
    )
    hidden = embedding(inputs["token_ids"])
    for number in range(config.num_layers):
        block = DecoderBlock(
            config.hidden_dim, config.num_heads, config.intermediate_dim, encoder_dim, config.dropout,
            seed=seed + 3 + number * NUM_SEEDS, dtype=dtype, name=f"decoder_{number + 1}",
        )  # fmt: skip
        hidden = block(hidden, inputs["padding_mask"], encoder_states, encoder_mask)
    hidden = keras.layers.LayerNormalization(epsilon=1e-5, dtype=dtype, name="norm")(hidden)
    return keras.Model(inputs, embedding(hidden, reverse=True), name="text_generator")


def _encode(
    config: BackboneConfig, info: DatasetInfo, inputs: dict[str, keras.KerasTensor], dtype: str, seed: int
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The prompt's states, `(batch_size, encoder_length, encoder_dim)`, and its padding mask."""
    assert info.text is not None, "task() has refused data that is no text"
    encoder = build_backbone(config, info.text.vocabulary_size, dtype, seed)
    names = {"token_ids", "segment_ids", "padding_mask"}
    prompt = {name: inputs[f"encoder_{name}"] for name in names}
    return encoder(prompt)["sequence_output"], prompt["padding_mask"]


def load_pretrained(model: keras.Model, config: TextGeneratorConfig, info: DatasetInfo) -> str:
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
    if config.encoder_preset is None:
        return ""
    assert info.text is not None, "task() has refused data that is no text"
    preset = read_preset(find_preset(config.encoder_preset, key=_PRESET), _PRESET)
    return load_into(model.get_layer("backbone"), preset, info.text.vocabulary_size)


def inference_functions(
    model: keras.Model, preprocess: TextPreprocessor, info: DatasetInfo, config: TextGeneratorConfig
) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    """What `predict` calls and what is exported: `serving_default` and `generate`, from text to text.

    Args:
        model: with the weights to write with.
        preprocess: the preprocessor it was trained with.
        info: the data's vocabulary and length.
        config: the `model` section, with `sampling` for requests that do not say how.

    Returns:
        See `tfbigmodel.generation.serving.signatures`.
    """
    from tfbigmodel.generation.serving import signatures

    assert info.text is not None, "task() has refused data that is no text"
    return signatures(model, preprocess, info.text, config.sampling.model_dump())


def baselines(data: Data, split: Split, config: TextGeneratorConfig) -> dict[str, dict[str, Any]]:
    """An interpolated model of the last two tokens, on the same tokens.

    Args:
        data: the splits.
        split: what the network was measured on.
        config: the `model` section.
    """
    from tfbigmodel.evaluation.ngram import ngram_baseline

    return {"interpolated_3_gram": ngram_baseline(data, split)}
