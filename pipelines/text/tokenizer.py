"""What every tokenizer offers: texts → token ids in the graph, and back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import tensorflow as tf

# The first entries of every vocabulary that is learned here, in this order; padding must be 0. A preset's vocabulary
# has them (by BERT's names) at places of its own.
SPECIAL_TOKENS: Mapping[str, str] = {
    "pad": "[PAD]",
    "unknown": "[UNK]",
    "start": "[CLS]",
    "end": "[SEP]",
    "mask": "[MASK]",
}


class Tokenizer(Protocol):
    """Texts → token ids, in graph operations only; a `tf.Module`, so that an export tracks its tables.

    Attributes:
        kind: `characters`, `words` or `wordpiece`, which is also the key in `preprocessor.json`.
        vocabulary: the token of each id.
        special_ids: the ids of `pad`, `unknown`, `start`, `end` and `mask`.
    """

    kind: str
    vocabulary: tuple[str, ...]
    special_ids: Mapping[str, int]

    def __call__(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Valid UTF-8 texts, string `(batch_size,)`, → int32 ids `(batch_size, None)`, without special tokens."""
        ...

    def detokenize(self, token_ids: tf.RaggedTensor) -> tf.Tensor:
        """Ids `(batch_size, None)` → texts, string `(batch_size,)`; special tokens other than unknown are left out."""
        ...

    def save(self, folder: Path) -> Mapping[str, object]:
        """Writes `vocabulary.txt` into `folder` and returns the JSON values that `load` needs besides."""
        ...
