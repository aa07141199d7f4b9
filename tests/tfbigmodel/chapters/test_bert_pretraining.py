"""BERT pretraining: two heads on one encoder, a preset that others load, masks that are filled in."""

import itertools

import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from pipelines.errors import UserError
from tfbigmodel.chapters.bert import BackboneConfig
from tfbigmodel.chapters.bert_pretraining import (
    BertPretrainingConfig,
    baselines,
    build,
    inference_functions,
    prefers_xla,
    resolve,
    task,
    write_artifacts,
)
from tfbigmodel.config import validate_config
from tfbigmodel.tasks.masked_language_model import MaskedLanguageModel
from tfbigmodel.training.config import OptimizerConfig, ScheduleConfig
from tfbigmodel.training.loop import UpdateRule, make_train_steps
from tfbigmodel.training.optimizers import make_optimizer

SIZE = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 16}
CONFIG = BertPretrainingConfig(chapter="bert_pretraining", backbone=BackboneConfig(**SIZE))
CORPUS = {"source": "corpus", "parts": [{"path": "x.txt"}], "task": "masked_language_model"}
TEXTS = tf.constant(["我喜欢这本书", "这是好书，很好。" * 5, "", "bad reading"])


@pytest.fixture
def info(bert_info):
    return bert_info("mask_positions", task="masked_language_model")


@pytest.fixture
def model(info, plain_backbone):
    """With an encoder whose weights are not as they start."""
    model = build(CONFIG, info, "float32", seed=1)
    weights = {variable.path: variable for variable in model.weights}
    for variable in plain_backbone.weights:
        weights[variable.path].assign(variable.value)
    weights["mlm_head/output_bias"].assign(np.linspace(-1, 1, 22))
    return model


@pytest.fixture
def features(tokens):
    return {**tokens, "mask_positions": np.int32([[1, 8], [4, 0], [1, 0]])}


def labels_of(features):
    return {
        "masked_ids": np.int32([[6, 7], [8, 0], [9, 0]]),
        "masked_weights": np.float32([[1, 1], [1, 0], [1, 0]]),
        "is_next": np.int32([0, 1, 0]),
    }


def gelu(x):
    return np.asarray(tf.nn.gelu(x, approximate=False))


def test_heads_by_hand(model, features, plain_backbone):
    weights = {variable.path: variable.numpy() for variable in model.weights}
    tokens = {name: values for name, values in features.items() if name != "mask_positions"}
    hidden = {name: values.numpy() for name, values in plain_backbone(tokens).items()}
    chosen = np.take_along_axis(hidden["sequence_output"], features["mask_positions"][..., np.newaxis], axis=1)
    x = gelu(chosen @ weights["mlm_head/intermediate_dense/kernel"] + weights["mlm_head/intermediate_dense/bias"])
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    logits = x @ weights["token_embedding/embeddings"].T + weights["mlm_head/output_bias"]
    outputs = model(features)
    np.testing.assert_allclose(outputs["masked_logits"], logits, atol=1e-5)
    expected = hidden["pooled_output"] @ weights["next_logits/kernel"] + weights["next_logits/bias"]
    np.testing.assert_allclose(outputs["next_logits"], expected, atol=1e-5)


def test_training_learns_both(info, features):
    model = build(CONFIG, info, "float32", seed=1)
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=0.02), ScheduleConfig(), model.trainable_variables,
        steps_per_epoch=1, total_steps=60,
    )  # fmt: skip
    dataset = tf.data.Dataset.from_tensors((features, labels_of(features))).repeat()
    steps = make_train_steps(
        model, optimizer, task(CONFIG, info), tf.distribute.get_strategy(), UpdateRule(batch_size=3)
    )
    results = steps(iter(dataset), 60)
    assert results.totals["mlm_accuracy"][-1] == 4
    assert results.totals["nsp_accuracy"][-1] == 3
    assert results.loss[-1] < 0.3 * results.loss[0]


def test_bfloat16_gives_float32_logits(info, features):
    outputs = build(CONFIG, info, "mixed_bfloat16", seed=1)(features)
    assert {name: values.dtype for name, values in outputs.items()} == {
        "masked_logits": tf.float32, "next_logits": tf.float32
    }  # fmt: skip


def test_a_seed_fixes_the_weights(info):
    first, second = (build(CONFIG, info, "float32", seed=4) for _ in range(2))
    for a, b in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_the_preset_is_plain_keras_hubs(model, info, features, bert_preprocess, tmp_path):
    for _ in range(2):  # a finished run may go on, and finish again
        write_artifacts(tmp_path, model, bert_preprocess, CONFIG, info)
    folder = tmp_path / "preset"
    assert [path.name for path in tmp_path.iterdir()] == ["preset"]
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "config.json", "model.weights.h5", "tokenizer.json", "assets/tokenizer/vocabulary.txt", "preprocessor.json",
        "metadata.json", "task.json", "task.weights.h5",
    }  # fmt: skip
    tokens = {name: values for name, values in features.items() if name != "mask_positions"}
    expected = model.get_layer("backbone")(tokens)
    loaded = keras_hub.models.BertBackbone.from_preset(str(folder))
    for name in expected:
        np.testing.assert_allclose(loaded(tokens)[name], expected[name], atol=1e-6)
    masked = keras_hub.models.BertMaskedLM.from_preset(str(folder))
    np.testing.assert_allclose(masked(features), model(features)["masked_logits"], atol=1e-5)


def test_plain_keras_hub_reads_texts_as_we_do(model, info, bert_preprocess, tmp_path):
    write_artifacts(tmp_path, model, bert_preprocess, CONFIG, info)
    folder = str(tmp_path / "preset")
    tokenizer = keras_hub.models.BertTokenizer.from_preset(folder)
    assert tuple(tokenizer.vocabulary) == bert_preprocess.tokenizer.vocabulary
    assert tokenizer.lowercase
    classifier = keras_hub.models.BertTextClassifier.from_preset(folder, num_classes=2)
    packed = tf.function(classifier.preprocessor)(TEXTS)
    assert packed["token_ids"].shape == (4, 16), "not KerasHub's 512, for which there are no positions"
    ours = bert_preprocess({"text": TEXTS})
    for name, values in ours.items():
        np.testing.assert_array_equal(tf.cast(packed[name], tf.int32)[:, : values.shape[1]], values)
    expected = model.get_layer("backbone")(ours)["pooled_output"]
    np.testing.assert_allclose(classifier.backbone(packed)["pooled_output"], expected, atol=1e-5)
    assert classifier.predict(["我喜欢这本书"], verbose=0).shape == (1, 2)


def filled(model, info, bert_preprocess, texts):
    functions = inference_functions(model, bert_preprocess, info, CONFIG)
    return [text.decode() for text in functions["serving_default"](text=tf.constant(texts))["text"].numpy()]


def test_masks_are_filled_by_the_likeliest_token(model, info, bert_preprocess):
    vocabulary = np.array(bert_preprocess.tokenizer.vocabulary)
    # 我 [MASK] 书 [MASK] 。 with the special tokens around it.
    ids = [2, 5, 4, 8, 4, vocabulary.tolist().index("。"), 3]
    features = {
        "token_ids": np.int32([ids]),
        "segment_ids": np.zeros((1, 7), np.int32),
        "padding_mask": np.ones((1, 7), np.int32),
        "mask_positions": np.int32([[2, 4]]),
    }
    logits = model(features)["masked_logits"].numpy()[0]
    logits[:, :5] = -np.inf
    first, second = (token.removeprefix("##") for token in vocabulary[logits.argmax(axis=-1)])
    texts = ["我[MASK]书[MASK]。", "没有 Masks", "", "我[MASK]书[MASK]。"]
    assert filled(model, info, bert_preprocess, texts) == [
        f"我{first}书{second}。",
        "没有 Masks",
        "",
        f"我{first}书{second}。",
    ]


def test_special_tokens_are_never_filled_in(model, info, bert_preprocess):
    bias = np.zeros(22, np.float32)
    bias[:5], bias[9] = 1000.0, 500.0
    next(v for v in model.weights if v.path == "mlm_head/output_bias").assign(bias)
    token = bert_preprocess.tokenizer.vocabulary[9]
    assert filled(model, info, bert_preprocess, ["[MASK]a", "[mask] [MASK]"]) == [f"{token}a", f"[mask] {token}"]


def test_masks_beyond_the_sequence_length_stay(model, info, bert_preprocess):
    answer = filled(model, info, bert_preprocess, ["[MASK]" * 20, "我" * 100_000 + "[MASK]"])
    assert answer[0].endswith("[MASK]" * 6)
    assert answer[0].count("[MASK]") == 6
    assert answer[1] == "我" * 100_000 + "[MASK]"


def test_texts_that_are_no_utf8(model, info, bert_preprocess):
    functions = inference_functions(model, bert_preprocess, info, CONFIG)
    answer = functions["serving_default"](text=tf.constant([b"\xff\xfe[MASK]", "😀😀".encode()]))["text"].numpy()
    assert answer[0].decode().startswith("\ufffd\ufffd")
    assert answer[1].decode() == "😀😀"


def test_embeddings_are_the_pooled_output(model, info, bert_preprocess):
    functions = inference_functions(model, bert_preprocess, info, CONFIG)
    embedding = functions["embedding"](text=TEXTS)["embedding"]
    expected = model.get_layer("backbone")(bert_preprocess({"text": TEXTS}))["pooled_output"]
    np.testing.assert_allclose(embedding, expected, atol=1e-6)


class Batches:
    """Stands for a corpus: the same batches for every split."""

    def __init__(self, info, labels):
        self.info, self.labels = info, labels
        self.batch_size, self.steps_per_epoch = 3, 2

    def train(self, epoch=0):
        return itertools.repeat(({}, {name: tf.constant(values) for name, values in self.labels.items()}), 2)

    def evaluation(self, split):
        features, labels = next(self.train())
        return [(features, labels, tf.constant([1.0, 1.0, 0.0]))]


def test_guessing_without_looking(info, features):
    labels = labels_of(features) | {"masked_ids": np.int32([[6, 6], [8, 0], [9, 0]])}
    found = baselines(Batches(info, labels), "test", CONFIG)["unigram"]
    # Two batches with 6, 6, 8, 9, and once each of 22 tokens: 30 counts. Measured are 6, 6, 8.
    loss = -np.log([5 / 30, 5 / 30, 3 / 30]).mean()
    assert found["mlm_loss"] == pytest.approx(loss)
    assert found["perplexity"] == pytest.approx(np.exp(loss))
    assert found["mlm_accuracy"] == pytest.approx(2 / 3)
    # Two batches with 0, 1, 0 and once each: 5 and 3. Measured are 0 and 1.
    assert found["nsp_loss"] == pytest.approx(-np.log([5 / 8, 3 / 8]).mean())
    assert found["nsp_accuracy"] == 0.5
    assert found["train_examples"] == 6


def test_task_and_tokenizer(info):
    assert task(CONFIG, info) == MaskedLanguageModel(2.0, 1.0)
    assert not prefers_xla(CONFIG)
    config = validate_config({"data": CORPUS, "model": {"chapter": "bert_pretraining", "backbone": SIZE}}, "test")
    tokenizer = resolve(config).data.tokenizer
    assert (tokenizer.kind, tokenizer.sequence_length, tokenizer.vocabulary) == ("wordpiece", 16, None)
    assert resolve(resolve(config)) == resolve(config)


NEEDS = "model.chapter: bert_pretraining learns from data.source: corpus with data.task: masked_language_model, and "


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"source": "builtin", "name": "reviews_zh"}, NEEDS + "data.source is builtin; for labelled texts choose "
         "bert_classifier"),
        (CORPUS | {"task": "language_model"}, NEEDS + "data.task is language_model; for that choose text_generator"),
        (CORPUS | {"tokenizer": {"kind": "words"}}, "data.tokenizer.kind: bert_pretraining reads wordpiece, received "
         "words; leave it out, or choose lstm"),
        (CORPUS | {"tokenizer": {"sequence_length": 32}}, "data.tokenizer.sequence_length: 32 tokens are more than the "
         "encoder's 16 positions (model.backbone.max_sequence_length); lower it"),
    ],
)  # fmt: skip
def test_configurations_that_do_not_go_together(data, message):
    config = validate_config({"data": data, "model": {"chapter": "bert_pretraining", "backbone": SIZE}}, "test")
    with pytest.raises(UserError) as caught:
        resolve(config)
    assert str(caught.value) == message


def test_data_with_labels_is_for_another_chapter(bert_info):
    with pytest.raises(UserError, match=NEEDS + "this data's task is classification; choose another chapter"):
        task(CONFIG, bert_info())
