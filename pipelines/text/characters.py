"""Characters as tokens, and pairs of neighbouring ones."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.errors import UserError
from pipelines.names import shorten
from pipelines.text.tokenizer import SPECIAL_TOKENS
from pipelines.text.tokens import Untracked, lookup, read_tokens, special_ids, tokens_of, write_tokens

BIGRAMS_FILE = "bigrams.txt"
# Ids of pairs: 0 for padding, 1 for unknown ones, then the known ones.
BIGRAM_UNKNOWN = 1
_FIRST_BIGRAM = 2
_CODE_POINT_BITS = 21


class CharacterTokenizer(tf.Module):
    """Texts → one id for each character; tabs and line breaks count as spaces.

    Args:
        vocabulary: the token of each id: `SPECIAL_TOKENS` and single characters.
        lowercase: write letters small first.
        bigrams: pairs of characters that have an id of their own, for `with_bigrams`.

    Example:
        >>> tokenizer = CharacterTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "好"])
        >>> tokenizer(tf.constant(["好A!"]))
        <tf.RaggedTensor [[6, 5, 1]]>
    """

    kind = "characters"

    def __init__(self, vocabulary: Sequence[str], lowercase: bool = True, bigrams: Sequence[str] = ()) -> None:
        super().__init__(name="character_tokenizer")
        self.lowercase = lowercase
        self._untracked = Untracked((tuple(vocabulary), special_ids(vocabulary), tuple(bigrams)))
        special = set(SPECIAL_TOKENS.values())
        characters = {ord(token): index for index, token in enumerate(vocabulary) if token not in special}
        pairs = {_pair(*map(ord, pair)): index for index, pair in enumerate(bigrams, start=_FIRST_BIGRAM)}
        self._tables = Untracked((_sorted(characters), _sorted(pairs)))

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The token of each id."""
        return self._untracked.value[0]

    @property
    def special_ids(self) -> Mapping[str, int]:
        """The ids of `pad`, `unknown`, `start`, `end` and `mask`."""
        return self._untracked.value[1]

    @property
    def bigrams(self) -> tuple[str, ...]:
        """The known pairs; the id of the first one is 2."""
        return self._untracked.value[2]

    @property
    def bigram_vocabulary_size(self) -> int:
        """Different ids of pairs, those for padding and unknown pairs included; 0 where no pair is known."""
        return _FIRST_BIGRAM + len(self.bigrams) if self.bigrams else 0

    def __call__(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Valid UTF-8 texts, string `(batch_size,)`, → int32 ids `(batch_size, None)`, without special tokens."""
        return self._ids(code_points(text, self.lowercase))

    def with_bigrams(self, text: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        """Ids of the characters, and of each character with the one after it.

        Args:
            text: valid UTF-8, string `(batch_size,)`.

        Returns:
            Two int32 tensors `(batch_size, None)` of equal lengths; the last character of a text makes an unknown pair.
        """
        points = code_points(text, self.lowercase)
        keys, known = self._tables.value[1]
        return self._ids(points), points.with_flat_values(lookup(pairs_of(points), keys, known, BIGRAM_UNKNOWN))

    def detokenize(self, token_ids: tf.RaggedTensor) -> tf.Tensor:
        """Ids `(batch_size, None)` → texts, string `(batch_size,)`; special tokens other than unknown are left out."""
        return tf.strings.reduce_join(tokens_of(token_ids, self.vocabulary, self.special_ids), axis=-1)

    def save(self, folder: Path) -> Mapping[str, object]:
        """Writes `vocabulary.txt`, and `bigrams.txt` where there are any, and returns what `load` needs besides."""
        write_tokens(folder, self.vocabulary)
        if self.bigrams:
            write_tokens(folder, self.bigrams, BIGRAMS_FILE)
        return {"lowercase": self.lowercase, "bigrams": len(self.bigrams)}

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> "CharacterTokenizer":
        """The tokenizer whose `save` wrote into `folder` and returned `config`."""
        vocabulary = read_characters(Path(folder, "vocabulary.txt"))
        bigrams: list[str] = []
        if config["bigrams"]:
            path = Path(folder, BIGRAMS_FILE)
            bigrams = path.read_bytes().decode().removesuffix("\n").split("\n") if path.is_file() else []
            if len(bigrams) != config["bigrams"] or any(len(pair) != 2 for pair in bigrams):
                raise UserError(f"{path} is missing or damaged: {config['bigrams']} pairs were expected; train again")
        return cls(vocabulary, bool(config["lowercase"]), bigrams)

    def _ids(self, points: tf.RaggedTensor) -> tf.RaggedTensor:
        keys, known = self._tables.value[0]
        values = tf.cast(points.flat_values, tf.int64)
        return points.with_flat_values(lookup(values, keys, known, self.special_ids["unknown"]))


def code_points(text: tf.Tensor, lowercase: bool) -> tf.RaggedTensor:
    """Texts, string `(batch_size,)` → code points, int32 `(batch_size, None)`; tabs and line breaks are spaces."""
    if lowercase:
        text = tf.strings.lower(text, encoding="utf-8")
    points = tf.strings.unicode_decode(text, "UTF-8")
    values = points.flat_values
    return points.with_flat_values(tf.where((values >= ord("\t")) & (values <= ord("\r")), ord(" "), values))


def pairs_of(points: tf.RaggedTensor) -> tf.Tensor:
    """For each character one int64 that stands for it and the next one, and -1 at the end of a text; `(num,)`."""
    values = tf.cast(points.flat_values, tf.int64)
    following = tf.concat([values[1:], tf.zeros([1], tf.int64)], axis=0)[: tf.size(values)]
    number = tf.range(tf.size(values, tf.int64))
    is_last = tf.equal(tf.gather(points.row_limits(), points.value_rowids()), number + 1)
    return tf.where(is_last, tf.constant(-1, tf.int64), _pair(values, following))


def pair_text(key: int) -> str:
    """The two characters that a number of `pairs_of` stands for."""
    return chr(key >> _CODE_POINT_BITS) + chr(key & (1 << _CODE_POINT_BITS) - 1)


def read_characters(path: Path, key: str = "") -> list[str]:
    """A vocabulary file of single characters and the special tokens.

    Raises:
        UserError: it is no vocabulary, or a token is longer than one character.
    """
    tokens = read_tokens(path, key)
    special = set(SPECIAL_TOKENS.values())
    for number, token in enumerate(tokens, start=1):
        if len(token) > 1 and token not in special:
            raise UserError(
                f'{path} line {number}: "{shorten(token)}" is more than one character; data.tokenizer.kind: characters '
                "needs one character per line (or set the kind to words or wordpiece)"
            )
    return tokens


def _pair(first: Any, second: Any) -> Any:
    return first * (1 << _CODE_POINT_BITS) + second


def _sorted(index_of: Mapping[int, int]) -> tuple[np.ndarray, np.ndarray]:
    keys = np.array(sorted(index_of), np.int64)
    return keys, np.array([index_of[key] for key in keys.tolist()], np.int32)
