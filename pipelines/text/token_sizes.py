"""How many characters of a text a token stands for: what perplexity per character is measured by."""

import numpy as np

from pipelines.text.tokenizer import Tokenizer

_LARGEST_COUNT = np.iinfo(np.uint16).max


class TokenSizes:
    """The characters that tokens stand for.

    Args:
        tokenizer: made the tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        words = tokenizer.kind != "characters"
        vocabulary = tokenizer.vocabulary
        self._lengths = np.array([len(token.removeprefix("##")) if words else 1 for token in vocabulary], np.int64)
        self._begins = np.array([not (words and token.startswith("##")) for token in vocabulary])
        self._unknown = tokenizer.special_ids["unknown"]
        if words:
            self._lengths[self._unknown] = 0

    def characters(self, ids: np.ndarray, lengths: np.ndarray, characters: np.ndarray) -> np.ndarray:
        """The sentence's characters given to its tokens, so that they add up.

        Each token has its own length. What is left is given to the unknown tokens, and to the words, as the spaces
        before them, where there is none.

        Args:
            ids: tokens of all sentences, `(num_tokens,)`.
            lengths: tokens of each sentence.
            characters: characters of each sentence.
        """
        row = np.repeat(np.arange(len(lengths)), lengths)
        own = self._lengths[ids]
        left = characters - _row_sums(own, lengths)
        if not left.any():
            return np.minimum(own, _LARGEST_COUNT)
        unknown = (ids == self._unknown).astype(np.int64)
        weights = np.where(_row_sums(unknown, lengths)[row] > 0, unknown, self._begins[ids].astype(np.int64))
        # A sentence cut within a word has no beginning; one whose accents were removed is shorter than its tokens.
        weights = np.where(_row_sums(weights, lengths)[row] > 0, weights, 1)
        shrunk = left[row] < 0
        weights = np.where(shrunk, np.maximum(own, 1), weights)
        given = _spread(np.where(left < 0, characters, left), weights, lengths)
        return np.minimum(np.where(shrunk, given, own + given), _LARGEST_COUNT)


def _spread(amounts: np.ndarray, weights: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Whole numbers that add up to each row's amount, in proportion to the weights, `(num_tokens,)`."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    totals = _row_sums(weights, lengths)[row]
    running = np.cumsum(weights) - np.repeat(np.cumsum(_row_sums(weights, lengths)), lengths) + totals
    amount = amounts[row]
    spread: np.ndarray = amount * running // totals - amount * (running - weights) // totals
    return spread


def _row_sums(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    running = np.concatenate([[0], np.cumsum(values)])
    ends = np.cumsum(lengths)
    sums: np.ndarray = running[ends] - running[ends - lengths]
    return sums
