"""The bert_pretraining chapter: masked language model and next-sentence prediction on a corpus."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from pipelines.config import CorpusConfig
from pipelines.errors import UserError
from pipelines.section import Section
from tfbigmodel.chapters.bert import (
    BackboneConfig,
    bert_text,
    build_backbone,
    head_initializer,
    import_keras_hub,
    seeded_layers,
    with_wordpiece,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import keras
    import tensorflow as tf

    from pipelines.data import Data, DatasetInfo, Split
    from pipelines.text.preprocess import TextPreprocessor
    from tfbigmodel.config import RunConfig
    from tfbigmodel.tasks import Task

# The baseline counts tokens in so many training batches, from which they are known well enough.
_COUNTED_BATCHES = 500
_NEEDS = "model.chapter: bert_pretraining learns from data.source: corpus with data.task: masked_language_model"


class BertPretrainingConfig(Section):
    """The encoder, and how its two losses count (Devlin et al., "BERT", 2019)."""

    chapter: Literal["bert_pretraining"]
    backbone: BackboneConfig = BackboneConfig()
    next_sentence_weight: Annotated[float, Field(ge=0.0)] = 1.0
    """Weight of the next-sentence loss beside the masked language model's, which has 1."""


def prefers_xla(config: BertPretrainingConfig) -> bool:
    """No: batches have the length of their longest text, and XLA would compile the step anew for each length."""
    return False


def resolve(config: RunConfig) -> RunConfig:
    """Fills in the tokenizer.

    Raises:
        UserError: the data is no corpus for this chapter, or its tokenizer does not suit.
    """
    assert isinstance(config.model, BertPretrainingConfig)
    if not isinstance(config.data, CorpusConfig):
        raise UserError(f"{_NEEDS}, and data.source is {config.data.source}; for labelled texts choose bert_classifier")
    if config.data.task != "masked_language_model":
        raise UserError(f"{_NEEDS}, and data.task is {config.data.task}; for that choose text_generator")
    return with_wordpiece(config, config.model.backbone)


def task(config: BertPretrainingConfig, info: DatasetInfo) -> Task:
    """Both losses.

    Raises:
        UserError: the data is not masked.
    """
    from tfbigmodel.tasks.masked_language_model import MaskedLanguageModel

    if info.task != "masked_language_model":
        raise UserError(f"{_NEEDS}, and this data's task is {info.task}; choose another chapter")
    text = bert_text(info, config.backbone, "bert_pretraining")
    return MaskedLanguageModel(text.mean_tokens, config.next_sentence_weight)


def build(config: BertPretrainingConfig, info: DatasetInfo, dtype: str, seed: int) -> keras.Model:
    """Builds the encoder and both heads.

    Args:
        config: the `model` section.
        info: the data's vocabulary.
        dtype: the Keras dtype policy, such as `mixed_bfloat16`; logits come out as float32.
        seed: fixes initial weights and dropout.

    Returns:
        A functional model from `token_ids`, `segment_ids` and `padding_mask`, int32 `(batch_size, sequence_length)`
        each, and `mask_positions`, int32 `(batch_size, num_predictions)`, to `masked_logits`, `(batch_size,
        num_predictions, vocabulary_size)`, and `next_logits`, `(batch_size, 2)`. The projection to the vocabulary is
        the token embedding, transposed.

    Reference:
        Press and Wolf, "Using the Output Embedding to Improve Language Models", 2017 (tied embeddings).
    """
    import keras

    text = bert_text(info, config.backbone, "bert_pretraining")
    backbone = build_backbone(config.backbone, text.vocabulary_size, dtype, seed)
    positions = keras.Input((None,), dtype="int32", name="mask_positions")
    encoded = backbone(backbone.input)
    with seeded_layers(seed + 1):
        # As in KerasHub's BertMaskedLM, which can take over these weights.
        masked_logits = import_keras_hub(texts=True).layers.MaskedLMHead(
            token_embedding=backbone.token_embedding,
            intermediate_activation="gelu",
            kernel_initializer=head_initializer(),
            dtype=dtype,
            name="mlm_head",
        )(encoded["sequence_output"], positions)
        next_logits = keras.layers.Dense(2, kernel_initializer=head_initializer(), dtype="float32", name="next_logits")(
            encoded["pooled_output"]
        )
    masked_logits = keras.layers.Activation("linear", dtype="float32", name="masked_logits")(masked_logits)
    inputs = {**backbone.input, "mask_positions": positions}
    outputs = {"masked_logits": masked_logits, "next_logits": next_logits}
    return keras.Model(inputs, outputs, name="bert_pretraining")


def inference_functions(
    model: keras.Model, preprocess: TextPreprocessor, info: DatasetInfo, config: BertPretrainingConfig
) -> dict[str, Callable[..., dict[str, tf.Tensor]]]:
    """What a pretrained model answers to texts.

    Args:
        model: what `build` made, trained.
        preprocess: the preprocessor it was trained with.
        info: the data's special tokens.
        config: the `model` section.

    Returns:
        `serving_default`: `text`, string `(batch_size,)`, → `text`, the same with the likeliest token in place of each
        `[MASK]` (of those within the sequence length); `embedding`: `text` → `embedding`, the pooled output, float32
        `(batch_size, hidden_dim)`.
    """
    import tensorflow as tf

    from tfbigmodel.chapters.mask_filling import fill_masks

    backbone = model.get_layer("backbone")

    def embed(text: tf.Tensor) -> dict[str, tf.Tensor]:
        pooled = backbone(preprocess({"text": text}), training=False)["pooled_output"]
        return {"embedding": tf.cast(pooled, tf.float32)}

    functions = {"serving_default": lambda text: {"text": fill_masks(text, model, preprocess)}, "embedding": embed}
    specification = tf.TensorSpec([None], tf.string, name="text")
    return {
        name: tf.function(function, autograph=False).get_concrete_function(text=specification)
        for name, function in functions.items()
    }


def write_artifacts(
    workdir: Path, model: keras.Model, preprocess: TextPreprocessor, config: BertPretrainingConfig, info: DatasetInfo
) -> None:
    """Writes `preset/`: a Keras preset folder, for `bert_classifier` and for KerasHub by itself.

    KerasHub loads it as `BertBackbone`, `BertTokenizer`, `BertTextClassifier` (which reads as many tokens as this run
    did) and, with its head, `BertMaskedLM`.

    Args:
        workdir: the run's folder; a preset that an earlier end of the run left there is replaced.
        model: what `build` made, trained.
        preprocess: the preprocessor it was trained with.
        config: the `model` section.
        info: the data's vocabulary.
    """
    from pipelines.files import atomic_folder, remove_folder

    hub = import_keras_hub(texts=True)
    text = bert_text(info, config.backbone, "bert_pretraining")
    backbone = build_backbone(config.backbone, text.vocabulary_size, "float32", seed=0)
    tokenizer = hub.models.BertTokenizer(
        vocabulary=list(preprocess.tokenizer.vocabulary),
        lowercase=preprocess.tokenizer.lowercase,  # type: ignore[attr-defined]
        strip_accents=preprocess.tokenizer.strip_accents,  # type: ignore[attr-defined]
    )
    length = text.sequence_length
    masked = hub.models.BertMaskedLM(backbone, hub.models.BertMaskedLMPreprocessor(tokenizer, sequence_length=length))
    trained = {variable.path: variable for variable in model.weights}
    for variable in masked.weights:
        variable.assign(trained[variable.path].value)
    remove_folder(workdir / "preset")
    with atomic_folder(workdir / "preset") as folder:
        masked.save_to_preset(str(folder))
        # Without this KerasHub would give a classifier texts of 512 tokens, which a shorter encoder has no positions
        # for.
        hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=length).save_to_preset(str(folder))


def baselines(data: Data, split: Split, config: BertPretrainingConfig) -> dict[str, Any]:
    """What guessing without looking comes to: each token by its share among masked ones, and the commoner answer.

    Args:
        data: the corpus.
        split: what is measured on.
        config: the `model` section.

    Returns:
        `unigram`, with the metrics of the task.
    """
    import numpy as np

    from tfbigmodel.tasks.masked_language_model import MaskedLanguageModel

    assert data.info.text is not None, "`task` refuses data without texts"
    # One more than there are, so that nothing is impossible.
    tokens, answers = np.ones(data.info.text.vocabulary_size), np.ones(2)
    num_batches = min(data.steps_per_epoch, _COUNTED_BATCHES)
    for _, labels in itertools.islice(data.train(epoch=0), num_batches):
        _count(tokens, labels["masked_ids"].numpy(), labels["masked_weights"].numpy())
        _count(answers, labels["is_next"].numpy(), 1.0)
    seen_tokens, seen_answers = np.zeros_like(tokens), np.zeros_like(answers)
    for _, labels, weights in data.evaluation(split):
        _count(seen_tokens, labels["masked_ids"].numpy(), labels["masked_weights"].numpy() * weights.numpy()[:, None])
        _count(seen_answers, labels["is_next"].numpy(), weights.numpy())
    metrics = {}
    for name, counts, seen in (("mlm", tokens, seen_tokens), ("nsp", answers, seen_answers)):
        metrics[f"{name}_loss"] = float(-(seen * np.log(counts / counts.sum())).sum() / seen.sum())
        metrics[f"{name}_accuracy"] = float(seen[counts.argmax()] / seen.sum())
    derived = MaskedLanguageModel(data.info.text.mean_tokens).derived(metrics)
    return {"unigram": {**metrics, **derived, "train_examples": num_batches * data.batch_size}}


def _count(counts: Any, ids: Any, weights: Any) -> None:
    import numpy as np

    np.add.at(counts, ids, np.broadcast_to(weights, ids.shape))
