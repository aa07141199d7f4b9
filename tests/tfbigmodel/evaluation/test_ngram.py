"""The 3-gram model against counting by hand."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from pipelines.data import TextInfo
from tfbigmodel.evaluation.ngram import NgramModel, contexts_and_targets, ngram_baseline

PAD, START, END, SIZE = 0, 2, 3, 9
SPECIAL_IDS = {"pad": 0, "unknown": 1, "start": 2, "end": 3, "mask": 4}


def documents(count, seed):
    """Texts of a chain in which a token often follows from the two before it."""
    random, texts = np.random.default_rng(seed), []
    for _ in range(count):
        text = [START]
        while len(text) < 12 and (text[-1] != END):
            likely = 5 + (sum(text[-2:]) % 4)
            text.append(likely if random.random() < 0.7 else int(random.choice([END, 1, 5, 6, 7, 8])))
        texts.append([*text, END] if text[-1] != END else text)
    return texts


def batch(texts):
    """A batch as a language model's data gives it."""
    width = max(map(len, texts)) - 1
    rows = np.array([text + [PAD] * (width + 1 - len(text)) for text in texts], np.int32)
    weights = np.float32([[place < len(text) - 1 for place in range(width)] for text in texts])
    characters = np.float32([len(text) - 2 for text in texts])
    labels = {"token_ids": rows[:, 1:], "weights": weights, "characters": characters}
    return {"token_ids": rows[:, :-1], "padding_mask": np.int32(weights)}, labels


def tokens_of(texts):
    features, labels = batch(texts)
    return contexts_and_targets(features["token_ids"], labels["token_ids"], labels["weights"], PAD)


class Corpus:
    """Splits of texts with the face of `Data`, as far as the baseline looks at it."""

    def __init__(self, **splits):
        self.splits = splits
        text = TextInfo(SIZE, 20, SPECIAL_IDS, mean_tokens=5.0)
        self.info = SimpleNamespace(text=text, counts={name: len(texts) for name, texts in splits.items()})

    def evaluation(self, split):
        texts = self.splits[split]
        for start in range(0, len(texts), 7):
            features, labels = batch(texts[start : start + 7])
            yield tf.nest.map_structure(tf.constant, (features, labels, np.ones(len(features), np.float32)))


def test_contexts_are_the_two_tokens_before():
    contexts, targets = tokens_of([[2, 5, 6, 3], [2, 7, 3]])
    assert contexts.tolist() == [[0, 2], [2, 5], [5, 6], [0, 2], [2, 7]]
    assert targets.tolist() == [5, 6, 3, 7, 3]


def by_hand(train, test, weights):
    """Each test token's probability, with dictionaries."""
    counts = [Counter() for _ in range(3)]
    for text in train:
        padded = [PAD, *text]
        for place in range(2, len(padded)):
            for length in range(3):
                counts[length][(*padded[place - length : place], padded[place])] += 1
    contexts = [Counter() for _ in range(3)]
    for length in range(3):
        for ngram, count in counts[length].items():
            contexts[length][ngram[:-1]] += count
    found = []
    for text in test:
        padded = [PAD, *text]
        for place in range(2, len(padded)):
            parts = [1 / 6]
            for length in range(3):
                context = tuple(padded[place - length : place])
                if contexts[length][context]:
                    parts.append(counts[length][(*context, padded[place])] / contexts[length][context])
                else:
                    parts.append(parts[-1])
            found.append(float(np.dot(parts[::-1], weights)))
    return found


def test_probabilities_are_those_counted_by_hand():
    train, test = documents(20, seed=1), documents(10, seed=2)
    model = NgramModel(SIZE, num_possible=6)
    model.count(*tokens_of(train))
    model.weights = np.array([0.4, 0.3, 0.2, 0.1])
    np.testing.assert_allclose(model.probabilities(*tokens_of(test)), by_hand(train, test, model.weights))


def test_probabilities_of_all_tokens_sum_to_one_after_any_context():
    model = NgramModel(SIZE, num_possible=6)
    model.count(*tokens_of(documents(20, seed=1)))
    for context in ([PAD, START], [5, 6], [8, 1], [3, 3]):  # the last one was never seen
        targets = np.array([1, 3, 5, 6, 7, 8])
        total = model.probabilities(np.tile(np.array([context]), (6, 1)), targets).sum()
        assert total == pytest.approx(1.0)


def test_tuned_weights_are_the_best_there_are():
    model = NgramModel(SIZE, num_possible=6)
    model.count(*tokens_of(documents(200, seed=1)))
    held_out = tokens_of(documents(60, seed=2))
    model.tune(*held_out)
    assert model.weights.sum() == pytest.approx(1.0)
    best = np.log(model.probabilities(*held_out)).mean()
    random = np.random.default_rng(3)
    for _ in range(50):
        model.weights = random.dirichlet(np.ones(4))
        assert np.log(model.probabilities(*held_out)).mean() <= best + 1e-6


def test_the_baseline_counts_the_end_as_a_token_and_not_as_a_character():
    data = Corpus(train=documents(60, 1), validation=documents(20, 2), test=documents(20, 3))
    found = ngram_baseline(data, "test")
    model = NgramModel(SIZE, num_possible=6)
    model.count(*tokens_of(data.splits["train"]))
    model.tune(*tokens_of(data.splits["validation"]))
    surprise = -np.log(by_hand(data.splits["train"], data.splits["test"], model.weights))
    characters = sum(len(text) - 2 for text in data.splits["test"])
    assert found["token_loss"] == pytest.approx(surprise.mean())
    assert found["character_loss"] == pytest.approx(surprise.sum() / characters)
    assert found["perplexity"] == pytest.approx(math.exp(surprise.mean()))
    assert found["character_perplexity"] == pytest.approx(math.exp(surprise.sum() / characters))
    assert found["train_tokens"] == sum(len(text) - 1 for text in data.splits["train"])


def test_without_a_validation_split_the_training_split_lends_a_part():
    data = Corpus(train=documents(100, 1), validation=[], test=documents(20, 3))
    with_one = Corpus(**{**data.splits, "validation": documents(20, 2)})
    found, other = (ngram_baseline(each, "test")["perplexity"] for each in (data, with_one))
    assert found == pytest.approx(other, rel=0.1)
