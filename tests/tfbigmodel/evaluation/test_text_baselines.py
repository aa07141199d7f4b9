import json
import warnings

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from pipelines.errors import UserError
from tfbigmodel.evaluation.baselines import baselines
from tfbigmodel.evaluation.text_baselines import text_baselines

NAMES = ["negative", "positive"]


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def reviews(count, good="好看喜欢", bad="差坏失望", neutral="的书我看了这本很", seed=0, joined=""):
    """Texts of random characters, most of which that judge agree with the label."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    texts = []
    for label in labels:
        judging = good if (rng.random() < 0.9) == bool(label) else bad
        texts.append(joined.join([*rng.choice(list(neutral), 6), *rng.choice(list(judging), 2)]))
    return texts, labels


ENGLISH = {"good": ("great", "fine"), "bad": ("poor", "dull"), "neutral": ("film", "plot", "it", "a"), "joined": " "}


def test_chinese_reviews():
    result = text_baselines(*reviews(400), *reviews(200, seed=1), NAMES)
    assert list(result) == ["majority_class", "tfidf_logistic_regression"]
    assert result["majority_class"]["accuracy"] == 0.5
    assert result["tfidf_logistic_regression"]["accuracy"] == pytest.approx(0.9, abs=0.05)
    json.dumps(result, allow_nan=False)


def test_keys_are_those_of_the_other_baselines():
    inputs, labels = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 2
    others = baselines("classification", inputs, labels, inputs, labels, NAMES)
    texts = text_baselines(*reviews(40), *reviews(40), NAMES)
    assert texts["majority_class"].keys() == others["majority_class"].keys()
    assert texts["tfidf_logistic_regression"].keys() == others["logistic_regression"].keys()


@pytest.mark.parametrize(
    ("style", "analyzer", "ngrams"), [({}, "char", (1, 3)), (ENGLISH, "word", (1, 2))], ids=["Chinese", "English"]
)
def test_probabilities_are_those_of_scikit_learn(monkeypatch, style, analyzer, ngrams):
    """With one strength to choose from, it is a vectoriser and a regression, written out."""
    monkeypatch.setattr("tfbigmodel.evaluation.text_baselines._STRENGTHS", (3.0,))
    (texts, labels), (test_texts, test_labels) = reviews(100, **style), reviews(60, seed=1, **style)
    vectorizer = TfidfVectorizer(
        analyzer=analyzer,
        ngram_range=ngrams,
        sublinear_tf=True,
        min_df=2,
        token_pattern=r"\w+" if analyzer == "word" else None,
        dtype=np.float32,
    )
    model = LogisticRegression(C=3.0, max_iter=60).fit(vectorizer.fit_transform(texts), labels)
    probabilities = model.predict_proba(vectorizer.transform(test_texts))
    log_loss = -np.log(probabilities[np.arange(60), test_labels]).mean()
    result = text_baselines(texts, labels, test_texts, test_labels, NAMES)["tfidf_logistic_regression"]
    assert result["log_loss"] == pytest.approx(log_loss, rel=1e-4)


def test_uses_a_stratified_sample_of_the_seed():
    arguments = (*reviews(300), *reviews(100, seed=1), NAMES)
    first = text_baselines(*arguments, max_examples=100)
    assert first["tfidf_logistic_regression"]["train_examples"] == 100
    assert first["majority_class"]["train_examples"] == 300
    assert text_baselines(*arguments, max_examples=100) == first
    assert text_baselines(*arguments, max_examples=100, seed=1) != first


def test_long_texts_are_fitted_on_fewer_rows(monkeypatch):
    monkeypatch.setattr("tfbigmodel.evaluation.text_baselines._MAX_CHARACTERS", 400)
    result = text_baselines(*reviews(200), *reviews(40), NAMES)
    assert result["tfidf_logistic_regression"]["train_examples"] == 50, "400 characters, 8 in a text"


def test_one_class_only_is_noted():
    texts, _ = reviews(20)
    result = text_baselines(texts, np.zeros(20, int), texts, np.zeros(20, int), NAMES)
    assert result["tfidf_logistic_regression"] == {"note": "not fitted: the training examples are all of one class"}
    assert result["majority_class"]["accuracy"] == 1.0


@pytest.mark.parametrize("texts", [["", ""], ["甲", "乙"], ["cat", "dog"], ["😀", "😡"]])
def test_texts_that_share_nothing_are_noted(texts):
    result = text_baselines(texts, [0, 1], texts, [0, 1], NAMES)["tfidf_logistic_regression"]
    assert list(result) == ["note"]
    assert result["note"].startswith("not fitted: no ")
    assert result["note"].endswith(" occurs in two training texts")


def test_a_class_that_training_lacks():
    texts, labels = reviews(60)
    result = text_baselines(texts, labels, [*texts, "好"], [*labels, 2], [*NAMES, "mixed"])
    assert 0.8 < result["tfidf_logistic_regression"]["accuracy"] < 1.0
    json.dumps(result, allow_nan=False)


def test_no_test_texts():
    with pytest.raises(UserError, match="no "):
        text_baselines(*reviews(10), [], np.zeros(0, int), NAMES)
