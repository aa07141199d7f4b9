"""Runs of BERT's chapters through the commands: from a corpus to a preset, from there to a classifier."""

import shutil

import numpy as np
import pytest

from tfbigmodel.evaluate import evaluate
from tfbigmodel.predict import main as predict
from tfbigmodel.train import main as train

SIZE = "{num_layers: 1, num_heads: 2, hidden_dim: 16, intermediate_dim: 16, max_sequence_length: 32}"
PRETRAINING = f"""
data:
  source: corpus
  task: masked_language_model
  parts: [{{path: corpus.txt, documents: line}}]
  cache_dir: cache
  tokenizer: {{vocabulary_size: 60}}
  batch_size: 8
  split: {{validation: 0.2, test: 0.2}}
model: {{chapter: bert_pretraining, backbone: {SIZE}}}
training: {{epochs: 1, optimizer: {{name: adamw, weight_decay: 0.01}}}}
"""
CLASSIFIER = """
data: {source: table, path: reviews.csv, text: text, label: label, batch_size: 8}
model: {chapter: bert_classifier, preset: pretrained, layer_decay: 0.5, fine_tuning: lora, lora_rank: 2}
training: {epochs: 1, precision: mixed_bfloat16, optimizer: {name: adamw, weight_decay: 0.01}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A corpus and a table of made-up reviews, and nothing in the user's cache."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(60):
        good = bool(random.integers(2))
        opinion = random.choice(["很好", "喜欢"] if good else ["很差", "糟糕"])
        rows.append(
            (f"这本{random.choice(['书', '杂志'])}{opinion}。我{opinion}！送货{random.choice(['快', '慢'])}。", good)
        )
    (tmp_path / "corpus.txt").write_text("\n".join(text for text, _ in rows), encoding="utf-8")
    lines = ["text,label", *(f"{text},{'positive' if good else 'negative'}" for text, good in rows)]
    (tmp_path / "reviews.csv").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "pretraining.yaml").write_text(PRETRAINING)
    (tmp_path / "classifier.yaml").write_text(CLASSIFIER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_from_a_corpus_to_a_classifier(folder, capsys):
    assert train(["--config", "pretraining.yaml", "--workdir", "pretrained"]) == 0
    assert "perplexity" in capsys.readouterr().out
    before = (folder / "pretrained" / "preset" / "model.weights.h5").read_bytes()
    assert train(["--config", "pretraining.yaml", "--workdir", "pretrained", "--set", "training.epochs=2"]) == 0
    assert (folder / "pretrained" / "preset" / "model.weights.h5").read_bytes() != before
    results = evaluate("pretrained")
    assert results["baselines"]["unigram"].keys() >= {"mlm_accuracy", "nsp_accuracy", "perplexity"}
    capsys.readouterr()
    assert predict(["--workdir", "pretrained", "--text", "这本[MASK]很好"]) == 0
    assert "[MASK]很好" not in capsys.readouterr().out.split("\t")[0]

    assert train(["--config", "classifier.yaml", "--workdir", "run"]) == 0
    assert f"loaded 23 weights of {folder}/pretrained/preset" in capsys.readouterr().out
    shutil.rmtree(folder / "pretrained")  # a workdir stands alone
    assert 0 <= evaluate("run")["metrics"]["accuracy"] <= 1
    assert predict(["--workdir", "run", "--text", "这本书很好"]) == 0
    assert capsys.readouterr().out.split("\t")[0] in ("positive", "negative")


def test_a_missing_preset_is_one_line(folder, capsys):
    assert train(["--config", "classifier.yaml", "--workdir", "run", "--set", "model.preset=./nothing"]) == 2
    assert capsys.readouterr().err == (
        "error: model.preset: nothing does not exist; expected a Keras preset folder, a Hugging Face folder, or the "
        "name of a KerasHub preset such as bert_base_zh\n"
    )


def test_pretraining_on_labelled_data_is_one_line(folder, capsys):
    arguments = ["--config", "classifier.yaml", "--workdir", "run", "--set", "model={chapter: bert_pretraining}"]
    assert train(arguments) == 2
    assert capsys.readouterr().err.endswith("and data.source is table; for labelled texts choose bert_classifier\n")
