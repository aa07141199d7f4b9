"""Examples of language models: windows of documents, and documents cut into a prompt and what follows it."""

import dataclasses

import numpy as np

from pipelines.stateless import random_keys, random_uniform
from pipelines.text.pairs import rounded_up
from pipelines.text.store import Store

# In training a prompt is this share of its document's tokens, drawn evenly between them; half of them in evaluation.
SHORTEST_PROMPT, LONGEST_PROMPT = 0.2, 0.8


@dataclasses.dataclass(frozen=True)
class WindowBatch:
    """Tokens to predict, and what is read before them.

    Attributes:
        token_ids: int32 `(rows, tokens)`, padded: the decoder's input.
        padding_mask: int32 `(rows, tokens)`: 1 for what is no padding.
        targets: int32 `(rows, tokens)`: the token that follows each.
        characters: float32 `(rows,)`: characters that the targets stand for; the end of a text is none.
    """

    token_ids: np.ndarray
    padding_mask: np.ndarray
    targets: np.ndarray
    characters: np.ndarray


class Windows:
    """Documents as `[CLS] tokens [SEP]`, cut into consecutive windows of `sequence_length + 1` tokens at most.

    A window begins with the last token of the one before it, which is context only: every token of a document, and its
    end, is predicted exactly once.

    Args:
        store: token ids in the array `tokens`, and the characters that each stands for in `characters`.
        documents: the documents to take, by number, `(num_documents,)`; those without tokens are left out.
        special_ids: ids of `pad`, `start` and `end`.
        sequence_length: tokens that are predicted in a window at most.
    """

    def __init__(self, store: Store, documents: np.ndarray, special_ids: dict[str, int], sequence_length: int) -> None:
        lengths = store.lengths()[documents]
        self.num_left_out = int((lengths == 0).sum())
        self._store, self._special_ids, self._window = store, special_ids, sequence_length
        self._documents, self._lengths = documents[lengths > 0], lengths[lengths > 0]
        self._starts = np.concatenate([[0], np.cumsum(-(-(self._lengths + 1) // sequence_length))])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def mean_tokens(self) -> float:
        """Mean number of predicted tokens."""
        return float((self._lengths + 1).sum() / max(len(self), 1))

    def lengths(self, index: np.ndarray) -> np.ndarray:
        """Tokens that are predicted in these windows."""
        place = self._place(index)
        return np.minimum(self._lengths[place] + 1 - (index - self._starts[place]) * self._window, self._window)

    def batch(self, index: np.ndarray) -> WindowBatch:
        """The windows of these indices, `(rows,)`, padded to the longest rounded up to a multiple of 8."""
        rows, characters = [], []
        for number in index:
            place = int(self._place(number))
            document = int(self._documents[place])
            first, last = self._store.bounds(document)
            # Places within [CLS] tokens [SEP], where the document's first token has the place 1.
            begin = int(number - self._starts[place]) * self._window
            to_end = begin + self._window > last - first
            stop = last if to_end else first + begin + self._window
            before = [self._special_ids["start"]] if begin == 0 else []
            tokens = self._store.arrays["tokens"][first + max(begin - 1, 0) : stop].tolist()
            rows.append([*before, *tokens, *([self._special_ids["end"]] if to_end else [])])
            characters.append(self._store.arrays["characters"][first + begin : stop].sum(dtype=np.int64))
        return _window_batch(rows, characters, self._special_ids["pad"])

    def _place(self, index: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts, index, side="right") - 1


class Continuations:
    """Documents cut in two: what is given, `[CLS] prompt [SEP]`, and what is to be predicted, `continuation [SEP]`.

    In training the cut is at a random place that depends on (seed, epoch, index) alone; in evaluation in the middle.
    Of a prompt that is too long the end is kept, of a continuation the beginning. Documents of one token are left out.

    Args:
        store: as for `Windows`.
        documents: the documents to take, by number, `(num_documents,)`.
        special_ids: ids of `pad`, `start` and `end`.
        sequence_length: tokens of a prompt, special ones included, and of a continuation at most.
        random_cuts: for training; otherwise every document is cut in the middle.
    """

    def __init__(
        self,
        store: Store,
        documents: np.ndarray,
        special_ids: dict[str, int],
        sequence_length: int,
        random_cuts: bool,
    ) -> None:
        lengths = store.lengths()[documents]
        self.num_left_out = int((lengths < 2).sum())
        self._store, self._special_ids, self._longest = store, special_ids, sequence_length
        self._documents, self._lengths = documents[lengths > 1], lengths[lengths > 1]
        self._random_cuts = random_cuts

    def __len__(self) -> int:
        return len(self._documents)

    @property
    def mean_tokens(self) -> float:
        """Mean number of predicted tokens, for cuts in the middle."""
        rest = self._lengths - self._lengths // 2
        return float(np.minimum(rest + 1, self._longest).sum() / max(len(self), 1))

    def lengths(self, index: np.ndarray) -> np.ndarray:
        """Tokens of these documents, as far as they are read."""
        return np.minimum(self._lengths[index], 2 * self._longest)

    def batch(self, index: np.ndarray, seed: int, epoch: int) -> tuple[WindowBatch, np.ndarray, np.ndarray]:
        """The documents of these indices, `(rows,)`, each side padded to its longest rounded up to a multiple of 8.

        Returns:
            What the decoder reads and predicts; the prompts, int32 `(rows, prompt tokens)`; 1 for what is no padding.
        """
        share = np.full(len(index), 0.5)
        if self._random_cuts:
            draw = random_uniform(random_keys(seed, epoch, index), 1)[:, 0]
            share = SHORTEST_PROMPT + (LONGEST_PROMPT - SHORTEST_PROMPT) * draw
        start, end = self._special_ids["start"], self._special_ids["end"]
        prompts, rows, characters = [], [], []
        for number, part in zip(index, share, strict=True):
            first, last = self._store.bounds(int(self._documents[number]))
            cut = first + min(max(int(part * (last - first)), 1), last - first - 1)
            stop = min(last, cut + self._longest)
            tokens = self._store.arrays["tokens"]
            prompts.append([start, *tokens[max(first, cut - (self._longest - 2)) : cut].tolist(), end])
            rows.append([start, *tokens[cut:stop].tolist(), end][: self._longest + 1])
            characters.append(self._store.arrays["characters"][cut:stop].sum(dtype=np.int64))
        pad = self._special_ids["pad"]
        return _window_batch(rows, characters, pad), *padded(prompts, pad)


def padded(rows: list[list[int]], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists of ids as int32 `(rows, tokens)`, and 1 for what is no padding."""
    width = rounded_up(max(map(len, rows), default=0))
    token_ids = np.full((len(rows), width), pad, np.int32)
    mask = np.zeros((len(rows), width), np.int32)
    for row, tokens in enumerate(rows):
        token_ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return token_ids, mask


def _window_batch(rows: list[list[int]], characters: list[np.int64], pad: int) -> WindowBatch:
    inputs, mask = padded([row[:-1] for row in rows], pad)
    targets, _ = padded([row[1:] for row in rows], pad)
    return WindowBatch(inputs, mask, targets, np.array(characters, np.float32))
