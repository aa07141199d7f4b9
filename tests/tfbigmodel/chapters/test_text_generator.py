"""The text generator: what it refuses, what it sees, what it learns, and that it is served as it was trained."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfbigmodel
from pipelines.data import DatasetInfo, TextInfo
from pipelines.errors import UserError
from tfbigmodel.chapters.text_generator import TextGeneratorConfig, build, prefers_xla, task
from tfbigmodel.predict import main as predict_command
from tfbigmodel.predict import predict
from tfbigmodel.tasks.language_model import LanguageModel
from tfbigmodel.training.config import TrainingConfig
from tfbigmodel.training.distribution import make_strategy
from tfbigmodel.training.loop import UpdateRule, make_train_steps

SPECIAL_IDS = {"pad": 0, "unknown": 1, "start": 2, "end": 3, "mask": 4}
DECODER = ("token_ids", "padding_mask")
ENCODER = ("encoder_token_ids", "encoder_segment_ids", "encoder_padding_mask")
SMALL = {"hidden_dim": 16, "num_heads": 2, "num_layers": 2, "intermediate_dim": 32, "dropout": 0.0}
BERT = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 16,
        "dropout": 0.0}  # fmt: skip
SENTENCES = ["这家酒店很好，下次还来。", "书到得很快，内容也不错。", "太吵了，不会再来第二次。"]


def make_info(data_task="language_model", sequence_length=10):
    names = DECODER if data_task == "language_model" else ENCODER + DECODER
    text = TextInfo(20, sequence_length, SPECIAL_IDS, mean_tokens=4.0)
    return DatasetInfo(data_task, dict.fromkeys(names, (None,)), dict.fromkeys(names, "int32"), {}, text=text)


def config(**values):
    return TextGeneratorConfig.model_validate({"chapter": "text_generator", **SMALL, **values})


def batch(info, rows=4, seed=1):
    random = np.random.default_rng(seed)
    features = {name: random.integers(5, 20, (rows, 8)).astype("int32") for name in info.inputs}
    lengths = random.integers(3, 9, rows)
    for name in info.inputs:
        if name.endswith("mask"):
            features[name] = np.int32(np.arange(8) < lengths[:, None])
        elif name.endswith("segment_ids"):
            features[name][:] = 0
    labels = {
        "token_ids": random.integers(3, 20, (rows, 8)).astype("int32"),
        "weights": np.float32(np.arange(8) < lengths[:, None]),
        "characters": np.float32(lengths - 1),
    }
    return tf.nest.map_structure(tf.constant, (features, labels))


@pytest.mark.parametrize(
    ("data_task", "values", "message"),
    [
        ("classification", {}, "text_generator learns from data.source: corpus .* this data is for classification"),
        ("masked_language_model", {}, "this data is for masked_language_model"),
        ("language_model", {"num_heads": 3}, "model.num_heads: 3 does not divide model.hidden_dim 16"),
        ("language_model", {"encoder": BERT}, "model.encoder: a language_model continues its text and has no encoder"),
        ("language_model", {"encoder_preset": "x"}, "model.encoder_preset: a language_model continues its text"),
        ("sequence_to_sequence", {}, "model.encoder is missing: .* reads the prompt; give its size"),
        (
            "sequence_to_sequence",
            {"encoder": {**BERT, "num_heads": 3}},
            "model.encoder.num_heads: 3 does not divide model.encoder.hidden_dim 8",
        ),
        (
            "sequence_to_sequence",
            {"encoder": {**BERT, "max_sequence_length": 12}},
            "max_sequence_length: 12 positions are too few for data.tokenizer.sequence_length 10, which takes 16",
        ),
    ],
)
def test_what_does_not_fit_is_refused(data_task, values, message):
    with pytest.raises(UserError, match=message):
        task(config(**values), make_info(data_task))


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        ("source: builtin, name: digits", "", "this data is for classification"),
        ("source: corpus, parts: [{builtin: reviews_zh}], task: sequence_to_sequence", "", "model.encoder is missing"),
        (
            "source: corpus, parts: [{builtin: reviews_zh}], task: sequence_to_sequence",
            ", encoder_preset: nowhere/at/all",
            "model.encoder_preset: nowhere/at/all does not exist",
        ),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_the_data_is_read(tmp_path, capsys, data, model, message):
    from tfbigmodel.train import main

    path = tmp_path / "run.yaml"
    path.write_text(f"data: {{{data}}}\nmodel: {{chapter: text_generator{model}}}\n")
    assert main(["--config", str(path), "--workdir", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_task_is_the_next_token():
    assert task(config(), make_info()) == LanguageModel(mean_tokens=4.0)
    assert task(config(encoder=BERT), make_info("sequence_to_sequence")) == LanguageModel(mean_tokens=4.0)
    assert not prefers_xla(config())


@pytest.mark.parametrize(("data_task", "values"), [("language_model", {}), ("sequence_to_sequence", {"encoder": BERT})])
def test_logits_see_what_is_before_them_and_no_padding(data_task, values):
    info = make_info(data_task)
    model = build(config(**values), info, "float32", seed=1)
    for weight in model.trainable_variables:
        weight.assign(weight * 10.0)
    features, _ = batch(info)
    logits = model(features)
    assert logits.shape == (4, 8, 20)
    assert logits.dtype == tf.float32
    changed = dict(features)
    changed["token_ids"] = tf.tensor_scatter_nd_update(
        features["token_ids"], [[0, 2]], [19 - features["token_ids"][0, 2] + 5]
    )
    after = model(changed)
    np.testing.assert_array_equal(logits[0, :2], after[0, :2])
    np.testing.assert_array_equal(logits[1:], after[1:])
    assert not np.allclose(logits[0, 2], after[0, 2])
    for name, mask in (("token_ids", "padding_mask"), ("encoder_token_ids", "encoder_padding_mask")):
        if name in features:
            real = tf.cast(features[mask], tf.bool)
            noisy = model({**features, name: tf.where(real, features[name], 7)})
            seen = tf.cast(features["padding_mask"], tf.bool)
            np.testing.assert_allclose(tf.boolean_mask(logits, seen), tf.boolean_mask(noisy, seen), atol=1e-6)
    if "encoder_token_ids" in features:
        other = model({**features, "encoder_token_ids": features["encoder_token_ids"][::-1]})
        assert not np.allclose(logits, other), "the prompt should matter"


def test_equal_seeds_give_equal_models_and_no_two_layers_start_alike():
    info = make_info("sequence_to_sequence")
    first, again, other = (
        [weight.numpy() for weight in build(config(encoder=BERT), info, "float32", seed).weights] for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    kernels = [array.tobytes() for array in first if array.ndim > 1 and array.any()]
    assert len(set(kernels)) == len(kernels)


def test_the_default_size_is_the_missions():
    model = build(TextGeneratorConfig(chapter="text_generator"), make_info(), "float32", seed=1)
    attention, feed_forward, norms = 4 * (512 * 512 + 512), 2 * 512 * 2048 + 2048 + 512, 2 * 2 * 512
    assert model.count_params() == (20 + 16) * 512 + 2 * (attention + feed_forward + norms) + 2 * 512


def test_bfloat16_stays_near_float32():
    info = make_info()
    exact, half = (build(config(), info, dtype, seed=1) for dtype in ("float32", "mixed_bfloat16"))
    features, _ = batch(info)
    assert half(features).dtype == tf.float32
    np.testing.assert_allclose(exact(features), half(features), atol=0.02)


def test_a_saved_model_is_the_same(tmp_path):
    info = make_info()
    model = build(config(), info, "float32", seed=1)
    model.save(tmp_path / "model.keras")
    features, _ = batch(info)
    np.testing.assert_array_equal(model(features), keras.saving.load_model(tmp_path / "model.keras")(features))


def test_two_replicas_learn_what_one_learns():
    info = make_info()
    losses, weights = [], []
    for strategy in (
        tf.distribute.get_strategy(),
        make_strategy(TrainingConfig(strategy="mirrored", virtual_cpus=2)),  # one for the life of the process
    ):
        with strategy.scope():
            model = build(config(), info, "float32", seed=1)
            optimizer = keras.optimizers.Adam(0.01)
        steps = make_train_steps(model, optimizer, task(config(), info), strategy, UpdateRule(8))
        data = tf.data.Dataset.from_tensors(batch(info, rows=8)).unbatch().batch(8, drop_remainder=True).repeat()
        losses.append(steps(iter(strategy.experimental_distribute_dataset(data)), 6).loss)
        weights.append([weight.numpy() for weight in model.weights])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-4)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run that knows three sentences by heart."""
    folder = tmp_path_factory.mktemp("generator")
    (folder / "corpus.txt").write_text("\n".join(SENTENCES * 8), encoding="utf-8")
    (folder / "run.yaml").write_text(
        f"""
data:
  source: corpus
  task: language_model
  data_dir: {folder}
  cache_dir: {folder}/cache
  parts: [{{path: corpus.txt, documents: line}}]
  tokenizer: {{kind: characters, sequence_length: 20, min_count: 1}}
  batch_size: 6
  split: {{validation: 0.0, test: 0.25}}
model: {{chapter: text_generator, hidden_dim: 32, num_heads: 4, num_layers: 1, intermediate_dim: 64, dropout: 0.0,
  sampling: {{max_new_tokens: 20, temperature: 0.0}}}}
training: {{epochs: 60, optimizer: {{learning_rate: 0.01}}}}
""",
        encoding="utf-8",
    )
    tfbigmodel.train(tfbigmodel.load_config(folder / "run.yaml"), folder / "run")
    return folder / "run"


def test_three_sentences_are_learned_and_written_again(run):
    frame = predict(run, texts=[sentence[:4] for sentence in SENTENCES])
    assert list(frame.columns) == ["text", "prediction"]
    assert [text + rest for text, rest in frame.to_numpy()] == SENTENCES
    beams = predict(run, texts=[sentence[:4] for sentence in SENTENCES], sampling={"num_beams": 3})
    assert (beams["prediction"] == frame["prediction"]).all()
    cut = predict(run, texts=[SENTENCES[0][:4]], sampling={"max_new_tokens": 2})
    assert cut["prediction"][0] == SENTENCES[0][4:6]


def test_it_is_measured_beside_three_grams(run):
    results = tfbigmodel.evaluate(run, data_dir=run.parent)
    metrics, baseline = results["metrics"], results["baselines"]["interpolated_3_gram"]
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["token_loss"]))
    assert metrics["character_perplexity"] == pytest.approx(math.exp(metrics["character_loss"]))
    # Every sentence has 12 characters, and its end is one more token.
    assert metrics["character_loss"] / metrics["token_loss"] == pytest.approx(13 / 12, rel=1e-5)
    assert baseline["character_loss"] / baseline["token_loss"] == pytest.approx(13 / 12, rel=1e-5)
    assert metrics["character_perplexity"] < 2.0
    assert 1.0 < baseline["character_perplexity"] < 5.0


def test_the_command_prints_what_was_written_then_the_prompt(run, capsys):
    texts = [sentence[:4] for sentence in SENTENCES[:2]]
    assert predict_command(["--workdir", str(run), "--text", *texts]) == 0
    assert capsys.readouterr().out == "".join(f"{s[4:]}\t{s[:4]}\n" for s in SENTENCES[:2])
    assert predict_command(["--workdir", str(run), "--text", *texts, "--max_new_tokens", "1", "--top_k", "1"]) == 0
    assert capsys.readouterr().out == "".join(f"{s[4]}\t{s[:4]}\n" for s in SENTENCES[:2])


def test_the_same_seed_writes_the_same(run):
    sampling = {"temperature": 5.0, "top_p": 0.99, "repetition_penalty": 1.2, "seed": 3}
    first, again, other = (
        predict(run, texts=["这家"], sampling={**sampling, "seed": seed})["prediction"][0] for seed in (3, 3, 4)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top_p", "1.5"], "error: top_p: expected less than or equal to 1, received 1.5"),
        (["--num_beams", "0"], "error: num_beams: expected greater than or equal to 1, received 0"),
        (["--temperature", "-1"], "error: temperature: expected greater than or equal to 0, received -1.0"),
        (["--threshold", "0.5"], "is for two classes; this data has none: it is for a model of language; leave it out"),
    ],
)
def test_flags_that_make_no_sense_are_told(run, capsys, arguments, message):
    assert predict_command(["--workdir", str(run), "--text", "这", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_rule_is_told(run):
    with pytest.raises(UserError, match="temprature: unknown key; did you mean temperature"):
        predict(run, texts=["这"], sampling={"temprature": 1.0})


@pytest.mark.slow
def test_an_encoder_decoder_is_trained_and_writes(tmp_path):
    (tmp_path / "corpus.txt").write_text("\n".join(SENTENCES * 8), encoding="utf-8")
    (tmp_path / "run.yaml").write_text(
        f"""
data:
  source: corpus
  task: sequence_to_sequence
  data_dir: {tmp_path}
  cache_dir: {tmp_path}/cache
  parts: [{{path: corpus.txt, documents: line}}]
  tokenizer: {{kind: characters, sequence_length: 24, min_count: 1}}
  batch_size: 6
  split: {{validation: 0.0, test: 0.25}}
model:
  chapter: text_generator
  hidden_dim: 32
  num_heads: 4
  num_layers: 1
  intermediate_dim: 64
  dropout: 0.0
  encoder: {{num_layers: 1, num_heads: 4, hidden_dim: 24, intermediate_dim: 48, max_sequence_length: 24, dropout: 0.0}}
  sampling: {{max_new_tokens: 20, temperature: 0.0}}
training: {{epochs: 80, optimizer: {{learning_rate: 0.005}}}}
""",
        encoding="utf-8",
    )
    tfbigmodel.train(tfbigmodel.load_config(tmp_path / "run.yaml"), tmp_path / "run")
    frame = predict(tmp_path / "run", texts=[sentence[:6] for sentence in SENTENCES])
    assert [text + rest for text, rest in frame.to_numpy()] == SENTENCES
