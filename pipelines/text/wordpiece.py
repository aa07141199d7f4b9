"""Pieces of words as tokens, as BERT has them: KerasHub's tokenizer and tensorflow-text's operations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from pipelines.errors import UserError
from pipelines.text.tokens import Untracked, read_tokens, special_ids, tokens_of, write_tokens
from pipelines.text.words import without_extra_spaces

_SUFFIX = "##"


class WordPieceTokenizer(tf.Module):
    """Texts → ids of pieces of words; every Chinese character is a word.

    Args:
        vocabulary: the token of each id, BERT's special ones among them.
        lowercase: write letters small first.
        strip_accents: write letters without accents first.

    Raises:
        UserError: the extra `text` is not installed.

    Example:
        >>> words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "read", "##ing", "书"]
        >>> WordPieceTokenizer(words)(tf.constant(["Reading书"]))
        <tf.RaggedTensor [[5, 6, 7]]>

    Reference:
        Song et al., "Fast WordPiece Tokenization", 2021.
    """

    kind = "wordpiece"

    def __init__(self, vocabulary: Sequence[str], lowercase: bool = True, strip_accents: bool = False) -> None:
        super().__init__(name="wordpiece_tokenizer")
        keras_hub = require_keras_hub()
        self.lowercase = lowercase
        self.strip_accents = strip_accents
        self._untracked = Untracked((tuple(vocabulary), special_ids(vocabulary)))
        # A layer of Keras would bring its own ideas of what an export holds; the operations are all that is needed.
        layer = keras_hub.tokenizers.BertTokenizer(
            vocabulary=list(vocabulary), lowercase=lowercase, strip_accents=strip_accents
        )
        # In a function always: called eagerly, KerasHub takes another path, in Python and with another idea of spaces.
        specification = tf.TensorSpec([None], tf.string)
        self._tokenize = tf.function(layer.tokenize, input_signature=[specification], autograph=False)

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
        return self._tokenize(text)

    def detokenize(self, token_ids: tf.RaggedTensor) -> tf.Tensor:
        """Ids `(batch_size, None)` → texts, string `(batch_size,)`; special tokens other than unknown are left out."""
        pieces = tokens_of(token_ids, self.vocabulary, self.special_ids)
        text = tf.strings.reduce_join(pieces, axis=-1, separator=" ")
        return without_extra_spaces(tf.strings.regex_replace(text, rf" {_SUFFIX}(\S)", r"\1"))

    def save(self, folder: Path) -> Mapping[str, object]:
        """Writes `vocabulary.txt` into `folder` and returns what `load` needs besides."""
        write_tokens(folder, self.vocabulary)
        return {"lowercase": self.lowercase, "strip_accents": self.strip_accents}

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any]) -> "WordPieceTokenizer":
        """The tokenizer whose `save` wrote into `folder` and returned `config`."""
        vocabulary = read_tokens(Path(folder, "vocabulary.txt"))
        return cls(vocabulary, bool(config["lowercase"]), bool(config["strip_accents"]))


def require_keras_hub() -> Any:
    """KerasHub, which is an optional extra with tensorflow-text.

    Raises:
        UserError: one of them is not installed.
    """
    try:
        import keras_hub
        import tensorflow_text  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"data.tokenizer.kind: wordpiece needs KerasHub and tensorflow-text ({error}); install them with "
            'pip install "tfbigmodel[text]", or choose characters or words'
        ) from error
    return keras_hub
