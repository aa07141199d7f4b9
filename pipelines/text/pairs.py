"""Pairs of segments for next-sentence prediction: what follows in the document, or a part of another one."""

import dataclasses

import numpy as np

from pipelines.errors import UserError
from pipelines.stateless import random_keys, random_uniform
from pipelines.text.store import Store

# Share of the pairs that are made shorter than they could be, so that the model knows short ones too.
SHORT_SHARE = 0.1
_SPECIAL_TOKENS = 3  # [CLS] A [SEP] B [SEP]
# A negative's second segment is looked for in so many documents at most, among those nearest in length.
_PARTNERS = 16
_NEAREST_SHARE, _NEAREST_LEAST = 0.05, 64


@dataclasses.dataclass(frozen=True)
class PairBatch:
    """Pairs, before masking.

    Attributes:
        token_ids: int32 `(rows, tokens)`: [CLS] A [SEP] B [SEP], padded.
        segment_ids: int32 `(rows, tokens)`: 1 for B and the [SEP] behind it.
        padding_mask: int32 `(rows, tokens)`: 1 for what is no padding.
        is_next: int32 `(rows,)`: 1 where B follows A in its document.
    """

    token_ids: np.ndarray
    segment_ids: np.ndarray
    padding_mask: np.ndarray
    is_next: np.ndarray


@dataclasses.dataclass(frozen=True)
class Segments:
    """Where a pair comes from: its documents, and its places among the corpus's tokens."""

    document: int
    first: tuple[int, int]
    partner: int
    second: tuple[int, int]

    @property
    def is_next(self) -> bool:
        """Whether both are of one document, one behind the other."""
        return self.document == self.partner


class Pairs:
    """The pairs of a set of documents; which pair an index stands for depends on (seed, epoch, index) alone.

    A document gives as many pairs as it fills sequences, at least one. A pair begins at a sentence, takes sentences
    until the sequence is full (one in ten: a shorter length) or the document ends, and is divided at one of the
    sentences between. That is a positive. With probability ½ its second segment is replaced: by a run of sentences of
    another document of about the same length, of the kind that was there (up to the document's end, or not; cut at the
    sequence's end, or not) and of the length nearest to it. So neither lengths nor ends tell the label.

    A document of one sentence is divided between two words, and paired with documents like it, so that every document
    of two words or more gives positives and negatives alike. Documents of one word give no pair.

    Where a pair is too long, the longer segment is shortened: the first loses its beginning and the second its end, so
    that what stands side by side stays so.

    Args:
        store: token ids in the array `tokens`.
        documents: the documents to take, by number, `(num_documents,)`.
        special_ids: ids of `pad`, `start` and `end`.
        continues: which ids continue a word, bool `(vocabulary_size,)`; no word is divided.
        sequence_length: tokens of a pair at most, special ones included; 5 or more.
        origin: what the documents are, for messages.

    Raises:
        UserError: there is one document only, so that there are no negatives.
    """

    def __init__(
        self,
        store: Store,
        documents: np.ndarray,
        special_ids: dict[str, int],
        continues: np.ndarray,
        sequence_length: int,
        origin: str,
    ) -> None:
        if sequence_length < _SPECIAL_TOKENS + 2:
            raise UserError(
                f"data.tokenizer.sequence_length is {sequence_length}; a pair of segments takes "
                f"{_SPECIAL_TOKENS + 2} tokens at least"
            )
        self._store, self._tokens = store, store.arrays["tokens"]
        self._special_ids, self._continues = special_ids, continues
        self._budget = sequence_length - _SPECIAL_TOKENS
        lengths = store.lengths()[documents]
        divided = _num_sentences(store)[documents] > 1
        usable = divided | (lengths > 1)
        for index in np.flatnonzero(usable & ~divided):
            usable[index] = len(self._units(int(documents[index]))) > 2
        self.num_left_out = int(len(documents) - usable.sum())
        # By kind and length: neighbours can be exchanged without showing it.
        order = np.lexsort((lengths, divided, ~usable))[: int(usable.sum())]
        self._documents, self._lengths = documents[order], lengths[order]
        self._num_undivided = int((usable & ~divided).sum())
        self._starts = np.concatenate([[0], np.cumsum(-(-self._lengths // self._budget))])
        if len(order) == 1:
            raise UserError(
                f"{origin} of the corpus has one document of two words or more, and next-sentence prediction needs "
                "parts of other documents too (see data.parts[].documents for what separates documents)"
            )

    def __len__(self) -> int:
        return int(self._starts[-1])

    def lengths(self, index: np.ndarray) -> np.ndarray:
        """Tokens of these pairs, about: what is known without reading them."""
        return np.minimum(self._lengths[self._place(index)], self._budget) + _SPECIAL_TOKENS

    def batch(self, index: np.ndarray, seed: int, epoch: int) -> PairBatch:
        """The pairs of these indices, padded to the longest, and that rounded up to a multiple of 8.

        Args:
            index: int64 `(rows,)`, each from 0 to `len(self) - 1`.
            seed: fixes the pairs of all epochs.
            epoch: other pairs each.
        """
        pairs = self.segments(index, seed, epoch)
        rows = []
        start, end = self._special_ids["start"], self._special_ids["end"]
        for pair in pairs:
            first, second = self._tokens[slice(*pair.first)], self._tokens[slice(*pair.second)]
            rows.append((np.concatenate([[start], first, [end], second, [end]]), len(first) + 2))
        width = rounded_up(max((len(tokens) for tokens, _ in rows), default=0))
        token_ids = np.full((len(rows), width), self._special_ids["pad"], np.int32)
        segment_ids, padding_mask = np.zeros_like(token_ids), np.zeros_like(token_ids)
        for row, (tokens, second_from) in enumerate(rows):
            token_ids[row, : len(tokens)] = tokens
            padding_mask[row, : len(tokens)] = 1
            segment_ids[row, second_from : len(tokens)] = 1
        return PairBatch(token_ids, segment_ids, padding_mask, np.array([pair.is_next for pair in pairs], np.int32))

    def segments(self, index: np.ndarray, seed: int, epoch: int) -> list[Segments]:
        """Where the pairs of these indices come from."""
        places = self._place(index)
        keys = random_keys(seed, epoch, index)
        draws = random_uniform(keys, 5 + 2 * _PARTNERS)
        return [
            self._pair(int(place), int(number - self._starts[place]), draw)
            for place, number, draw in zip(places, index, draws, strict=True)
        ]

    def _place(self, index: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._starts, index, side="right") - 1

    def _units(self, document: int) -> np.ndarray:
        """Where a document's sentences (words, where there is one sentence) begin, and its end."""
        bounds = np.unique(self._store.sentence_bounds(document))  # a sentence may have no tokens
        if len(bounds) > 2:
            return bounds
        first, last = self._store.bounds(document)
        starts = first + np.flatnonzero(~self._continues[self._tokens[first:last]])
        return np.unique(np.concatenate([[first], starts, [last]]))

    def _pair(self, place: int, slot: int, draw: np.ndarray) -> Segments:
        document = int(self._documents[place])
        units = self._units(document)
        target = self._budget
        if draw[0] < SHORT_SHARE:
            target = 2 + int(draw[1] * (self._budget - 1))
        # Each of the document's pairs begins in its own part of it, and leaves a full sequence behind it if it can.
        slots = int(self._starts[place + 1] - self._starts[place])
        spare = max(units[-1] - units[0] - target, 0)
        begin = units[0] + int((slot + draw[2]) / slots * (spare + 1))
        first_unit = min(int(np.searchsorted(units, begin, side="right")) - 1, len(units) - 3)
        end_unit = max(int(np.searchsorted(units, units[first_unit] + target)), first_unit + 2)
        end_unit = min(end_unit, len(units) - 1)
        middle = first_unit + 1 + int(draw[3] * (end_unit - first_unit - 1))
        first, second = _shortened(int(units[first_unit]), int(units[middle]), int(units[end_unit]), target)
        if draw[4] < 0.5:
            return Segments(document, first, document, second)
        to_end, cut = second[1] == units[-1], second[1] < units[end_unit]
        partner, (start, end) = self._other(place, second[1] - second[0], to_end, cut, draw[5:])
        # Where the other one is shorter or longer by a few tokens, the first segment makes up for it if it can.
        end = min(end, start + target - 1)
        first = (max(int(units[first_unit]), first[1] - (target - (end - start))), first[1])
        return Segments(document, first, partner, (start, end))

    def _other(self, place: int, length: int, to_end: bool, cut: bool, draw: np.ndarray) -> tuple[int, tuple[int, int]]:
        """A run of another document, of this length if there is one."""
        low, high = self._neighbours(place)
        best, difference = (-1, (0, 0)), -1
        for number in range(_PARTNERS):
            other = low + int(draw[2 * number] * (high - low - 1))
            other += other >= place  # never the same document
            document = int(self._documents[other])
            run = _run(self._units(document), length, to_end, cut, draw[2 * number + 1])
            missing = abs(run[1] - run[0] - length)
            if difference < 0 or missing < difference:
                best, difference = (document, run), missing
            if not missing:
                break
        return best

    def _neighbours(self, place: int) -> tuple[int, int]:
        """Documents of about the same length and of the same kind: two at least, `place` among them."""
        total, undivided = len(self._documents), self._num_undivided
        low, high = (0, undivided) if place < undivided else (undivided, total)
        if high - low < 2:
            low, high = 0, total
        reach = max(_NEAREST_LEAST, int(_NEAREST_SHARE * (high - low)))
        return max(low, place - reach), min(high, place + reach + 1)


def rounded_up(length: int) -> int:
    """The next multiple of 8: fewer different shapes, so fewer traces and better use of the hardware."""
    return -(-length // 8) * 8


def _num_sentences(store: Store) -> np.ndarray:
    """The sentences of each document that have tokens, `(num_documents,)`."""
    before = np.concatenate([[0], np.cumsum(np.diff(store.sentence_offsets) > 0)])
    return np.diff(before[store.document_offsets])


def _shortened(first: int, middle: int, last: int, target: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Both segments, the longer one shortened until they have `target` tokens together."""
    excess = last - first - target
    if excess > 0:
        longer = (middle - first) - (last - middle)
        # Level the longer one first, then both in turn.
        from_first = min(max(longer, 0), excess)
        from_second = min(max(-longer, 0), excess)
        rest = excess - from_first - from_second
        from_first += rest - rest // 2
        from_second += rest // 2
        first, last = first + from_first, last - from_second
    return (first, middle), (middle, last)


def _run(units: np.ndarray, length: int, to_end: bool, cut: bool, draw: float) -> tuple[int, int]:
    """A run of units that is no document's beginning, like the one it replaces, of the length nearest to it."""
    starts, last = units[1:-1], int(units[-1])
    if to_end:
        missing = np.abs(last - starts - length)
        nearest = starts[missing == missing.min()]
        return int(nearest[int(draw * len(nearest))]), last
    long_enough = starts[last - starts > length]
    if not len(long_enough):
        return int(starts[0]), last
    start = int(long_enough[int(draw * len(long_enough))])
    if cut:
        return start, start + length
    ends = units[units > start]
    ends = ends[:-1] if len(ends) > 1 else ends
    return start, int(ends[np.abs(ends - start - length).argmin()])
