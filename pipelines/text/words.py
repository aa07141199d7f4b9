"""Words as tokens: split at spaces and punctuation; every Chinese or Japanese character is a word."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from pipelines.text.tokenizer import SPECIAL_TOKENS
from pipelines.text.tokens import Untracked, read_tokens, special_ids, tokens_of, write_tokens

# Characters that are a token by themselves: scripts without spaces, punctuation, symbols such as emoji.
_ALONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{P}\p{S}]"
# RE2's \s is ASCII only; control characters separate words as in BERT.
_SPACE = r"[\s\p{Z}\p{Cc}\p{Cf}]+"
_WITHOUT_SPACES = r"[\p{Han}\p{Hiragana}\p{Katakana}\x{3000}-\x{303F}\x{FF00}-\x{FFEF}]"


class WordTokenizer(tf.Module):
    """Texts → one id for each word and punctuation mark.

    Args:
        vocabulary: the token of each id, `SPECIAL_TOKENS` among them.
        lowercase: write letters small first.

    Example:
        >>> tokenizer = WordTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "书", "!"])
        >>> tokenizer(tf.constant(["Good book! 书书"]))
        <tf.RaggedTensor [[5, 1, 7, 6, 6]]>
    """

    kind = "words"

    def __init__(self, vocabulary: Sequence[str], lowercase: bool = True) -> None:
        super().__init__(name="word_tokenizer")
        self.lowercase = lowercase
        self._untracked = Untracked((tuple(vocabulary), special_ids(vocabulary)))
        # A text cannot hold special tokens: "[MASK]" is three words.
        words = [(token, index) for index, token in enumerate(vocabulary) if token not in SPECIAL_TOKENS.values()]
        keys = tf.constant([token for token, _ in words], tf.string)
        values = tf.constant([index for _, index in words], tf.int32)
        self._table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(keys, values), self.special_ids["unknown"]
        )

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The token of each id."""
        return self._untracked.value[0]

    @property
    def special_ids(self) -> Mapping[str, int]:
        """The ids of `pad`, `unknown`, `start`, `end` and `mask`."""
        return self._untracked.value[1]

    def __call__(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Valid UTF-8 texts, string `(batch_size,)`, → int32 ids `(batch_size, None)`, without special tokens."""
        words = split_words(text, self.lowercase)
        return words.with_flat_values(self._table.lookup(words.flat_values))

    def detokenize(self, token_ids: tf.RaggedTensor) -> tf.Tensor:
        """Ids `(batch_size, None)` → texts, string `(batch_size,)`; special tokens other than unknown are left out."""
        words = tokens_of(token_ids, self.vocabulary, self.special_ids)
        return without_extra_spaces(tf.strings.reduce_join(words, axis=-1, separator=" "))

    def save(self, folder: Path) -> Mapping[str, object]:
        """Writes `vocabulary.txt` into `folder` and returns what `load` needs besides."""
        write_tokens(folder, self.vocabulary)
        return {"lowercase": self.lowercase}

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> "WordTokenizer":
        """The tokenizer whose `save` wrote into `folder` and returned `config`."""
        return cls(read_tokens(Path(folder, "vocabulary.txt")), bool(config["lowercase"]))


def split_words(text: tf.Tensor, lowercase: bool) -> tf.RaggedTensor:
    """Texts, string `(batch_size,)` → words, string `(batch_size, None)`."""
    if lowercase:
        text = tf.strings.lower(text, encoding="utf-8")
    text = tf.strings.regex_replace(text, _SPACE, " ")
    return tf.strings.split(tf.strings.regex_replace(text, _ALONE, r" \0 "))


def without_extra_spaces(text: tf.Tensor) -> tf.Tensor:
    """Words with spaces between them → with spaces where people write them; string `(batch_size,)`."""
    text = tf.strings.regex_replace(text, rf" ({_WITHOUT_SPACES})", r"\1")
    text = tf.strings.regex_replace(text, rf"({_WITHOUT_SPACES}) ", r"\1")
    text = tf.strings.regex_replace(text, r" ([,.!?;:%)\]}])", r"\1")
    text = tf.strings.regex_replace(text, r"([(\[{]) ", r"\1")
    return tf.strings.regex_replace(text, r"([A-Za-z]) (['’]) (s|t|re|ve|ll|d|m)\b", r"\1\2\3")
