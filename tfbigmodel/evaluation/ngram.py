"""What a text generator has to beat: an interpolated model of the last two tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipelines.data import Data, Split

ORDER = 3
# 160 MB for each array of numbers; more text than that changes counts of three tokens little.
_MAX_TOKENS = 20_000_000
_MAX_ITERATIONS = 200
_TOLERANCE = 1e-6


class NgramModel:
    """Jelinek-Mercer interpolation of counts: of a token after the two before it, after the one before it, by itself,
    and of a uniform distribution.

    It works on token ids, so it sees the same symbols as the network that it stands beside: with a character tokenizer
    it is a model of characters. A character that the vocabulary lacks is the unknown token for both, one symbol that is
    predicted like every other and counts as one character. The uniform floor is over every token that can come next:
    all but padding, start and mask. The end of a text is a token, and no character, for both.

    Args:
        vocabulary_size: different token ids.
        num_possible: tokens that can come next, over which the floor is uniform.

    Attributes:
        weights: of the four distributions, from the longest context to the uniform one, `(4,)`; `tune` sets them.

    Example:
        >>> model = NgramModel(vocabulary_size=4000, num_possible=3997)
        >>> model.count(contexts, targets)
        >>> model.tune(validation_contexts, validation_targets)
        >>> np.exp(-np.log(model.probabilities(test_contexts, test_targets)).mean())

    Reference:
        Jelinek and Mercer, "Interpolated Estimation of Markov Source Parameters from Sparse Data", 1980.
    """

    def __init__(self, vocabulary_size: int, num_possible: int) -> None:
        self.vocabulary_size = vocabulary_size
        self.num_possible = num_possible
        self.weights: NDArray[np.float64] = np.full(ORDER + 1, 1.0 / (ORDER + 1))
        # Number → count, sorted by number, for contexts and for contexts with their token, by length of the context.
        self._contexts: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._ngrams: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []

    def count(self, contexts: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        """Counts the training text.

        Args:
            contexts: the two tokens before each, `(num_tokens, 2)`; padding where there is none.
            targets: the tokens, `(num_tokens,)`.
        """
        self._contexts, self._ngrams = [], []
        for context, ngram in self._numbers(contexts, targets):
            self._contexts.append(_counted(context))
            self._ngrams.append(_counted(ngram))

    def tune(self, contexts: NDArray[np.int64], targets: NDArray[np.int64]) -> None:
        """Sets the weights to those that make a text likeliest, by expectation maximisation.

        Args:
            contexts: as for `count`, of a text that was not counted.
            targets: its tokens.
        """
        parts = self._parts(contexts, targets)
        for _ in range(_MAX_ITERATIONS):
            shares = parts * self.weights
            weights = (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
            change = np.abs(weights - self.weights).max()
            self.weights = weights
            if change < _TOLERANCE:
                break

    def probabilities(self, contexts: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.float64]:
        """The probability of each token after its context, `(num_tokens,)`."""
        return self._parts(contexts, targets) @ self.weights

    def _parts(self, contexts: NDArray[np.int64], targets: NDArray[np.int64]) -> NDArray[np.float64]:
        """The probability of each token by each distribution, `(num_tokens, 4)`.

        After a context that was never seen, a distribution is that of the next shorter one, so that each sums to 1.
        """
        parts = [np.full(len(targets), 1.0 / self.num_possible)]
        tables = zip(self._numbers(contexts, targets), self._contexts, self._ngrams, strict=True)
        for (context, ngram), seen, ngrams in reversed(list(tables)):
            times = _lookup(context, *seen)
            parts.append(np.where(times > 0, _lookup(ngram, *ngrams) / np.maximum(times, 1), parts[-1]))
        return np.stack(parts[::-1], axis=1)

    def _numbers(
        self, contexts: NDArray[np.int64], targets: NDArray[np.int64]
    ) -> Iterable[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """One number for each context, and for it with its token, from the longest context to none."""
        for length in range(ORDER - 1, -1, -1):
            context = np.zeros(len(targets), np.int64)
            for place in range(ORDER - 1 - length, ORDER - 1):
                context = context * self.vocabulary_size + contexts[:, place]
            yield context, context * self.vocabulary_size + targets


def ngram_baseline(data: Data, split: Split) -> dict[str, Any]:
    """Counts the training split, tunes on the validation split and measures on another one.

    Without a validation split a tenth of the training split takes its place while the weights are tuned.

    Args:
        data: of a language model: batches with `token_ids`, and labels `token_ids`, `weights` and `characters`.
        split: what to measure on.

    Returns:
        `token_loss` and `character_loss` (nats), `perplexity`, `character_perplexity`, `train_tokens`, and the weights
        from the longest context to the uniform distribution.
    """
    text = data.info.text
    assert text is not None, "a language model's data is text"
    model = NgramModel(text.vocabulary_size, text.vocabulary_size - len({"pad", "start", "mask"}))
    training, _ = _tokens(data, "train", text.special_ids["pad"])
    if data.info.counts["validation"]:
        model.count(*training)
        model.tune(*_tokens(data, "validation", text.special_ids["pad"])[0])
    else:
        most = len(training[1]) * 9 // 10
        model.count(training[0][:most], training[1][:most])
        model.tune(training[0][most:], training[1][most:])
        model.count(*training)
    (contexts, targets), characters = _tokens(data, split, text.special_ids["pad"])
    loss = -float(np.log(model.probabilities(contexts, targets)).sum())
    means = {"token_loss": loss / max(len(targets), 1), "character_loss": loss / max(characters, 1.0)}
    return {
        **means,
        "perplexity": float(np.exp(means["token_loss"])),
        "character_perplexity": float(np.exp(means["character_loss"])),
        "train_tokens": len(training[1]),
        "note": "weights " + ", ".join(f"{weight:.3f}" for weight in model.weights),
    }


def _tokens(data: Data, split: Split, pad: int) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], float]:
    """A split's contexts and targets, the first `_MAX_TOKENS` of them or so, and the characters they stand for."""
    contexts, targets, characters = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)], 0.0
    num_tokens = 0
    for features, labels, _ in data.evaluation(split):
        context, target = contexts_and_targets(
            features["token_ids"].numpy(), labels["token_ids"].numpy(), labels["weights"].numpy(), pad
        )
        contexts.append(context)
        targets.append(target)
        characters += float(labels["characters"].numpy().sum())
        num_tokens += len(target)
        if num_tokens >= _MAX_TOKENS:
            break
    return (np.concatenate(contexts), np.concatenate(targets)), characters


def contexts_and_targets(
    token_ids: NDArray[Any], targets: NDArray[Any], weights: NDArray[Any], pad: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What a batch of a language model says of each predicted token.

    Args:
        token_ids: the model's inputs, `(batch_size, length)`: each one's target is the token after it.
        targets: `(batch_size, length)`.
        weights: above 0 for what is predicted, `(batch_size, length)`.
        pad: the id of padding.

    Returns:
        The two tokens before each target, padding where a row has not begun, `(num_tokens, 2)`; the targets.
    """
    before = np.pad(token_ids, [[0, 0], [1, 0]], constant_values=pad)[:, :-1]
    predicted = np.asarray(weights) > 0
    contexts = np.stack([before[predicted], token_ids[predicted]], axis=1)
    return contexts.astype(np.int64), np.asarray(targets)[predicted].astype(np.int64)


def _counted(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.unique(numbers, return_counts=True)


def _lookup(numbers: NDArray[np.int64], keys: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    places = np.minimum(np.searchsorted(keys, numbers), len(keys) - 1)
    return np.where(keys[places] == numbers, counts[places], 0)
