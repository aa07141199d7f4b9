"""What all vocabularies have: special tokens, a file of one token per line, and lookups that are not tracked."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.errors import UserError
from pipelines.files import write_text
from pipelines.lookup import require_file
from pipelines.names import shorten
from pipelines.text.tokenizer import SPECIAL_TOKENS

VOCABULARY_FILE = "vocabulary.txt"


class Untracked:
    """Hides a value from `tf.Module`, which would wrap the containers it finds."""

    def __init__(self, value: Any) -> None:
        self.value = value


def read_tokens(path: Path, key: str = "") -> list[str]:
    """The tokens of a vocabulary file: line n has the token of id n - 1.

    Args:
        path: UTF-8, one token per line.
        key: the configuration key it comes from, for messages.

    Raises:
        UserError: the file is missing, empty or no UTF-8; a line is empty, or a token is there twice.
    """
    content = require_file(path, key).read_bytes().removeprefix(b"\xef\xbb\xbf")
    tokens = []
    # Not by `splitlines`, which would take other characters than these for line breaks; a space is a token.
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        try:
            tokens.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError:
            raise UserError(f"{path} line {number} is not UTF-8; a vocabulary has one token per line") from None
    check_vocabulary(tokens, lambda index: f"{path} line {index + 1}", str(path))
    return tokens


def write_tokens(folder: Path, tokens: Sequence[str], name: str = VOCABULARY_FILE) -> None:
    """Writes tokens into a file of `folder`, one per line."""
    write_text(Path(folder, name), "".join(f"{token}\n" for token in tokens))


def check_vocabulary(tokens: Sequence[str], place: Any, origin: str) -> None:
    """Refuses what no vocabulary can be.

    Args:
        tokens: in the order of their ids.
        place: from an id to its file and line, for messages.
        origin: the file, for messages.

    Raises:
        UserError: it is empty, a token is empty or there twice, or a special token is not there.
    """
    if not any(tokens):
        raise UserError(f"{origin} is empty; a vocabulary has one token per line")
    first: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if not token:
            raise UserError(f"{place(index)} is empty; a vocabulary has one token per line and no blank lines")
        if token in first:
            raise UserError(f'{place(index)}: the token "{shorten(token)}" was there before ({place(first[token])})')
        first[token] = index
    absent = [token for token in SPECIAL_TOKENS.values() if token not in first]
    if absent:
        raise UserError(
            f"{place(0)} to {len(tokens)}: the vocabulary has no {' and no '.join(absent)}; every vocabulary needs "
            f"{', '.join(SPECIAL_TOKENS.values())}, one line each"
        )


def special_ids(vocabulary: Sequence[str]) -> dict[str, int]:
    """The ids of `pad`, `unknown`, `start`, `end` and `mask`.

    Raises:
        ValueError: one of them is not there.
    """
    return {name: list(vocabulary).index(token) for name, token in SPECIAL_TOKENS.items()}


def lookup(keys: tf.Tensor, known: np.ndarray, ids: np.ndarray, unknown: int) -> tf.Tensor:
    """Ids of whole numbers, without a table that an export would have to track.

    Args:
        keys: int64 `(num_keys,)`.
        known: int64, ascending.
        ids: int32, the id of each known key.
        unknown: the id of all other keys.

    Returns:
        int32 `(num_keys,)`.
    """
    if not len(known):
        return tf.fill(tf.shape(keys), tf.constant(unknown, tf.int32))
    known_keys = tf.constant(known, tf.int64)
    place = tf.minimum(tf.searchsorted(known_keys, keys), len(known) - 1)
    found = tf.equal(tf.gather(known_keys, place), keys)
    return tf.where(found, tf.gather(tf.constant(ids, tf.int32), place), unknown)


def tokens_of(token_ids: tf.RaggedTensor, vocabulary: Sequence[str], special: Mapping[str, int]) -> tf.RaggedTensor:
    """Ids `(batch_size, None)` → tokens, string `(batch_size, None)`, without special tokens other than unknown."""
    left_out = tf.constant([index for name, index in special.items() if name != "unknown"], token_ids.dtype)
    shown = tf.reduce_all(tf.not_equal(token_ids.flat_values[:, tf.newaxis], left_out), axis=1)
    kept = tf.ragged.boolean_mask(token_ids, token_ids.with_flat_values(shown))
    return kept.with_flat_values(tf.gather(tf.constant(vocabulary), kept.flat_values))
