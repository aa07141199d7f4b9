"""The BERT classifier: KerasHub's hidden states, and what each way of fine-tuning changes."""

import shutil

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from pipelines.errors import UserError
from tfbigmodel import build_model, load_config
from tfbigmodel.chapters.bert import BackboneConfig
from tfbigmodel.chapters.bert_classifier import (
    BertClassifierConfig,
    build,
    learning_rate_scales,
    load_pretrained,
    prefers_xla,
    resolve,
    task,
)
from tfbigmodel.config import validate_config
from tfbigmodel.inference import InferenceModule
from tfbigmodel.tasks.classification import Classification
from tfbigmodel.training.checkpoints import read_variables, write_variables
from tfbigmodel.training.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from tfbigmodel.training.distribution import make_strategy
from tfbigmodel.training.loop import UpdateRule, make_train_steps
from tfbigmodel.training.optimizers import make_optimizer

SIZE = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 16}
LABELS = np.int32([0, 1, 2])
TABLE = {"source": "table", "path": "texts.csv", "text": "text", "label": "label"}


def config_of(**values):
    values = {"backbone": BackboneConfig(**SIZE)} | values
    return BertClassifierConfig(chapter="bert_classifier", **values)


def run_config(data=None, **model):
    values = {"data": TABLE | (data or {}), "model": {"chapter": "bert_classifier"} | model}
    return validate_config(values, "test")


def train(model, tokens, num_steps=3, strategy=None, scales=None, **optimizer_config):
    """Trains on three texts, again and again."""
    strategy = strategy or tf.distribute.get_strategy()
    optimizer_config = {"name": "adamw", "learning_rate": 0.01, "weight_decay": 0.1} | optimizer_config
    with strategy.scope():
        optimizer = make_optimizer(
            OptimizerConfig(**optimizer_config), ScheduleConfig(), model.trainable_variables,
            steps_per_epoch=1, total_steps=num_steps, scales=scales,
        )  # fmt: skip
    rows = len(next(iter(tokens.values())))
    dataset = tf.data.Dataset.from_tensors((tokens, LABELS[np.arange(rows) % 3])).unbatch().batch(rows).repeat()
    if strategy.num_replicas_in_sync > 1:
        dataset = strategy.experimental_distribute_dataset(dataset)
    steps = make_train_steps(model, optimizer, Classification(("a", "b", "c")), strategy, UpdateRule(rows))
    return steps(iter(dataset), num_steps)


def values_of(model):
    return {variable.path: variable.numpy() for variable in model.weights}


def changed(model, before):
    return {path for path, value in values_of(model).items() if not np.array_equal(value, before[path])}


@pytest.mark.parametrize("fine_tuning", ["full", "frozen", "lora"])
def test_a_loaded_encoder_is_plain_keras_hubs(preset, plain_backbone, tokens, bert_info, fine_tuning):
    config = config_of(preset=str(preset), fine_tuning=fine_tuning)
    model = build(config, bert_info(), "float32", seed=1)
    assert load_pretrained(model, config, bert_info()) == f"loaded 39 weights of {preset}"
    hidden = model.get_layer("backbone")(tokens)
    expected = plain_backbone(tokens)
    for name in expected:
        np.testing.assert_allclose(hidden[name], expected[name], atol=1e-6)
    head = model.get_layer("logits")
    np.testing.assert_allclose(
        model(tokens), expected["pooled_output"] @ head.kernel.numpy() + head.bias.numpy(), atol=1e-5
    )


def test_weights_are_float32_in_bfloat16(keras_preset, plain_backbone, tokens, bert_info):
    config = config_of(preset=str(keras_preset))
    model = build(config, bert_info(), "mixed_bfloat16", seed=1)
    load_pretrained(model, config, bert_info())
    assert {variable.dtype for variable in model.weights} == {"float32"}
    for variable in plain_backbone.weights:
        np.testing.assert_array_equal(values_of(model)[variable.path], variable.numpy())
    pooled = model.get_layer("backbone")(tokens)["pooled_output"]
    assert pooled.dtype == tf.bfloat16
    assert model(tokens).dtype == tf.float32


def test_padding_does_not_matter(bert_info, tokens):
    model = build(config_of(), bert_info(), "float32", seed=1)
    wider = {name: np.pad(values, [(0, 0), (0, 5)]) for name, values in tokens.items()}
    np.testing.assert_allclose(model(wider), model(tokens), atol=1e-5)
    alone = {name: values[2:, :2] for name, values in tokens.items()}
    np.testing.assert_allclose(model(alone), model(tokens)[2:], atol=1e-5)


@pytest.mark.parametrize("fine_tuning", ["full", "lora"])
def test_a_seed_fixes_weights_and_dropout(bert_info, tokens, fine_tuning):
    config = config_of(fine_tuning=fine_tuning)
    first, second = (build(config, bert_info(), "float32", seed=5) for _ in range(2))
    for a, b in zip(first.variables, second.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    np.testing.assert_array_equal(first(tokens, training=True), second(tokens, training=True))
    other = build(config, bert_info(), "float32", seed=6)
    assert not np.array_equal(other.get_layer("logits").kernel, first.get_layer("logits").kernel)
    layers = [values_of(first)[f"transformer_layer_{i}/feedforward_output_dense/kernel"] for i in range(2)]
    assert not np.array_equal(*layers), "layers of one shape start differently"


def test_building_leaves_the_random_numbers_of_others_alone(bert_info):
    keras.utils.set_random_seed(1)
    expected = keras.layers.Dense(3).kernel_initializer((2, 2)).numpy()
    keras.utils.set_random_seed(1)
    build(config_of(), bert_info(), "float32", seed=5)
    np.testing.assert_array_equal(keras.layers.Dense(3).kernel_initializer((2, 2)), expected)


def test_names_of_weights_are_the_same_in_every_model(bert_info):
    first, second = (build(config_of(fine_tuning="lora"), bert_info(), "float32", seed=5) for _ in range(2))
    assert read_variables(first.variables).keys() == read_variables(second.variables).keys()
    assert "token_embedding/embeddings" in values_of(first)
    assert "transformer_layer_1/self_attention_layer/query/lora_kernel_a" in values_of(first)


def test_full_fine_tuning_changes_all_weights(bert_info, tokens):
    model = build(config_of(), bert_info(), "float32", seed=1)
    before = values_of(model)
    results = train(model, tokens, num_steps=20)
    assert changed(model, before) == set(before)
    assert results.loss[-1] < 0.7 * results.loss[0]


def test_a_frozen_encoder_stays_as_it_is(bert_info, tokens):
    model = build(config_of(fine_tuning="frozen", dropout=0.0), bert_info(), "float32", seed=1)
    before = values_of(model)
    np.testing.assert_array_equal(model(tokens, training=True), model(tokens))
    train(model, tokens)
    assert changed(model, before) == {"logits/kernel", "logits/bias"}


def test_lora_trains_the_additions_and_the_head(keras_preset, bert_info, tokens):
    config = config_of(preset=str(keras_preset), fine_tuning="lora", lora_rank=2)
    model = build(config, bert_info(), "float32", seed=1)
    load_pretrained(model, config, bert_info())
    before = values_of(model)
    train(model, tokens)
    trained = changed(model, before)
    assert trained == {variable.path for variable in model.trainable_variables}
    assert {path.rpartition("/")[2] for path in trained} == {"lora_kernel_a", "lora_kernel_b", "kernel", "bias"}
    assert {path for path in trained if "lora" not in path} == {"logits/kernel", "logits/bias"}
    assert {path.split("/")[2] for path in trained if "lora" in path} == {"query", "value"}


def test_lora_goes_through_a_checkpoint_and_an_export(bert_info, bert_preprocess, tokens, tmp_path):
    config = config_of(fine_tuning="lora", lora_rank=2)
    model = build(config, bert_info(), "float32", seed=1)
    train(model, tokens)
    again = build(config, bert_info(), "float32", seed=2)
    write_variables(again.variables, read_variables(model.variables), "test")
    np.testing.assert_array_equal(again(tokens), model(tokens))

    def answer(text):
        return {"logits": again(bert_preprocess({"text": text}), training=False)}

    specification = tf.TensorSpec([None], tf.string, name="text")
    function = tf.function(answer, autograph=False).get_concrete_function(text=specification)
    module = InferenceModule(again, bert_preprocess, {"serving_default": function})
    tf.saved_model.save(module, str(tmp_path), signatures=module.functions)
    texts = tf.constant(["我喜欢这本书", "bad", ""])
    served = tf.saved_model.load(str(tmp_path)).signatures["serving_default"](text=texts)["logits"]
    np.testing.assert_allclose(served, model(bert_preprocess({"text": texts})), atol=1e-6)


def test_layer_decay_by_hand(bert_info):
    model = build(config_of(layer_decay=0.5), bert_info(), "float32", seed=1)
    scales = learning_rate_scales(model, config_of(layer_decay=0.5))
    expected = {
        "token_embedding": 0.25, "position_embedding": 0.25, "segment_embedding": 0.25, "embeddings_layer_norm": 0.25,
        "transformer_layer_0": 0.5, "transformer_layer_1": 1.0, "pooled_dense": 1.0,
    }  # fmt: skip
    assert {path.split("/")[0]: scale for path, scale in scales.items()} == expected
    assert scales.keys() <= {variable.path for variable in model.trainable_variables}
    assert learning_rate_scales(model, config_of()) == {}


def test_layer_decay_slows_lower_layers(bert_info, tokens):
    def moved(layer_decay):
        config = config_of(layer_decay=layer_decay)
        model = build(config, bert_info(), "float32", seed=1)
        before = values_of(model)
        train(model, tokens, num_steps=1, scales=learning_rate_scales(model, config), name="sgd", weight_decay=0.0)
        return {path: value - before[path] for path, value in values_of(model).items()}

    even, decayed = moved(1.0), moved(0.5)
    for path, scale in {
        "token_embedding/embeddings": 0.25,
        "transformer_layer_0/self_attention_layer/value/kernel": 0.5,
        "transformer_layer_1/feedforward_output_dense/kernel": 1.0,
        "logits/kernel": 1.0,
    }.items():
        np.testing.assert_allclose(decayed[path], scale * even[path], atol=2e-7, err_msg=path)


def test_two_replicas_equal_one(bert_info, tokens):
    one_layer = BackboneConfig(**SIZE | {"num_layers": 1}, dropout=0.0)
    config = config_of(dropout=0.0, backbone=one_layer, layer_decay=0.8)
    four = {name: np.concatenate([values, values[:1]]) for name, values in tokens.items()}

    def trained(strategy):
        with strategy.scope():
            model = build(config, bert_info(), "float32", seed=1)
        train(model, four, 5, strategy, learning_rate_scales(model, config), learning_rate=1e-3)
        return read_variables(model.weights)

    mirrored = make_strategy(TrainingConfig(strategy="mirrored", virtual_cpus=2))
    one, two = trained(tf.distribute.get_strategy()), trained(mirrored)
    for path, value in one.items():
        np.testing.assert_allclose(two[path], value, atol=2e-5, err_msg=path)


def test_regression_has_one_output(bert_info, tokens):
    info = bert_info(task="regression")
    model = build(config_of(), info, "float32", seed=1)
    assert model(tokens).shape == (3, 1)
    assert type(task(config_of(), info)).__name__ == "Regression"


def test_the_task_is_told_by_the_data(bert_info):
    assert task(config_of(), bert_info()) == Classification(("a", "b", "c"))
    assert not prefers_xla(config_of())


# What resolve makes of configurations.


def test_a_preset_fills_in_size_and_tokenizer(preset, monkeypatch):
    monkeypatch.chdir(preset.parent)
    config = resolve(run_config(preset=preset.name))
    assert config.model.preset == str(preset)
    dropout = 0.1 if preset.name == "preset" else 0.2
    assert config.model.backbone == BackboneConfig(**SIZE, dropout=dropout)
    tokenizer = config.data.tokenizer
    assert (tokenizer.kind, str(tokenizer.vocabulary), tokenizer.sequence_length) == ("wordpiece", str(preset), 16)
    assert tokenizer.lowercase == (preset.name == "preset")
    assert resolve(config) == config


def test_what_is_given_stays(keras_preset):
    vocabulary = keras_preset / "assets" / "tokenizer" / "vocabulary.txt"
    tokenizer = {"sequence_length": 8, "vocabulary": str(vocabulary)}
    config = resolve(run_config({"tokenizer": tokenizer}, preset=str(keras_preset), backbone={"dropout": 0.3}))
    assert config.data.tokenizer.sequence_length == 8
    assert config.data.tokenizer.vocabulary == vocabulary
    assert config.model.backbone.dropout == 0.3
    assert config.model.backbone.num_layers == 2


def test_a_filled_in_configuration_needs_no_preset(keras_preset, tmp_path, bert_info):
    folder = shutil.copytree(keras_preset, tmp_path / "moved")
    config = resolve(run_config(preset=str(folder)))
    shutil.rmtree(folder)
    assert resolve(config) == config
    assert build_model(config, bert_info()).count_params() > 0
    with pytest.raises(UserError, match=f"model.preset: {folder} does not exist"):
        load_pretrained(None, config.model, bert_info())


def test_without_a_preset_a_vocabulary_is_learned():
    config = resolve(run_config({"tokenizer": {"vocabulary_size": 500}}, backbone=SIZE))
    tokenizer = config.data.tokenizer
    assert (tokenizer.kind, tokenizer.vocabulary, tokenizer.vocabulary_size) == ("wordpiece", None, 500)
    assert tokenizer.sequence_length == 16
    assert resolve(run_config()).model.backbone == BackboneConfig()
    assert resolve(run_config()).data.tokenizer.sequence_length == 128


def test_images_are_told_from_texts():
    config = {"data": {"source": "builtin", "name": "digits"}, "model": {"chapter": "bert_classifier"}}
    with pytest.raises(UserError, match="bert_classifier reads texts, and builtin digits are images; choose dense"):
        resolve(validate_config(config, "test"))


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        ({"tokenizer": {"kind": "characters"}}, {}, "data.tokenizer.kind: bert_classifier reads wordpiece, received "
         "characters; leave it out, or choose lstm"),
        ({"tokenizer": {"sequence_length": 32}}, {"backbone": SIZE}, "data.tokenizer.sequence_length: 32 tokens are "
         "more than the encoder's 16 positions (model.backbone.max_sequence_length); lower it"),
        ({"text": None}, {}, "data.text is missing: bert_classifier reads texts; name the column of texts.csv that "
         "holds them"),
    ],
)  # fmt: skip
def test_configurations_that_do_not_go_together(data, model, message):
    with pytest.raises(UserError) as caught:
        resolve(run_config(data, **model))
    assert str(caught.value) == message


def test_a_corpus_is_for_another_chapter(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "data: {source: corpus, parts: [{builtin: reviews_zh}], task: masked_language_model}\n"
        "model: {chapter: bert_classifier}\n"
    )
    config = load_config(path)
    with pytest.raises(UserError) as caught:
        resolve(config)
    assert str(caught.value) == (
        "model.chapter: bert_classifier learns from labels, and data.source: corpus has none; choose bert_pretraining, "
        "or a table with a label"
    )


def test_a_vocabulary_that_does_not_belong_to_the_weights(keras_preset, tmp_path):
    short = tmp_path / "vocabulary.txt"
    short.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    data = {"tokenizer": {"vocabulary": "vocabulary.txt"}, "data_dir": str(tmp_path)}
    with pytest.raises(UserError) as caught:
        resolve(run_config(data, preset=str(keras_preset)))
    assert str(caught.value) == (
        f"{short} has 5 tokens, and the weights of {keras_preset} are for 22 ({keras_preset}/config.json); use the "
        "vocabulary that belongs to the weights"
    )


def test_data_that_does_not_suit(bert_info):
    images = {"inputs": {"image": (8, 8, 1)}, "input_dtypes": {"image": "uint8"}, "text": None}
    info = bert_info()
    for changes, told in [
        (images, "bert_classifier reads texts, and this data has none; choose dense"),
        ({"inputs": {"token_ids": (None,)}}, "bert_classifier reads token_ids, segment_ids, padding_mask, and the data "
         "has token_ids; set data.tokenizer.kind: wordpiece"),
        ({"task": "language_model"}, "bert_classifier learns from labels, and data.task is language_model"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=told):
            task(config_of(), type(info)(**{**vars(info), **changes}))
    with pytest.raises(UserError, match="32 tokens are more than the encoder's 16 positions"):
        build(config_of(), bert_info(sequence_length=32), "float32", seed=1)
    with pytest.raises(UserError, match="num_heads 3 does not divide hidden_dim 8"):
        build(config_of(backbone=BackboneConfig(**SIZE | {"num_heads": 3})), bert_info(), "float32", seed=1)
    with pytest.raises(UserError, match=r"model\.backbone is not filled in from model.preset"):
        build(config_of(preset="x", backbone=None), bert_info(), "float32", seed=1)


def test_the_backbone_is_keras_hubs(bert_info):
    model = build(config_of(), bert_info(), "float32", seed=1)
    assert isinstance(model.get_layer("backbone"), keras_hub.models.BertBackbone)
    assert sorted(tensor.name for tensor in model.inputs) == ["padding_mask", "segment_ids", "token_ids"]
