"""Vocabularies learned from texts, and the tokenizer that a configuration describes."""

import collections
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.config import TokenizerConfig
from pipelines.errors import UserError
from pipelines.remote import join, local
from pipelines.text.characters import CharacterTokenizer, code_points, pair_text, pairs_of, read_characters
from pipelines.text.presets import Vocabulary, read_vocabulary
from pipelines.text.tokenizer import SPECIAL_TOKENS, Tokenizer
from pipelines.text.tokens import read_tokens
from pipelines.text.wordpiece import WordPieceTokenizer, require_keras_hub
from pipelines.text.words import WordTokenizer, split_words

KINDS: Mapping[str, Any] = {
    "characters": CharacterTokenizer,
    "words": WordTokenizer,
    "wordpiece": WordPieceTokenizer,
}

_CHUNK = 1_024
# The characters that BERT takes for words by themselves:
# https://github.com/google-research/bert/blob/master/tokenization.py
_CHINESE = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
_CHINESE_PATTERN = "[" + "".join(rf"\x{{{first:x}}}-\x{{{last:x}}}" for first, last in _CHINESE) + "]"


def make_tokenizer(config: TokenizerConfig, data_dir: Path | str, texts: Iterable[str | bytes]) -> Tokenizer:
    """The tokenizer that a configuration describes.

    Args:
        config: its kind, and where the vocabulary comes from.
        data_dir: what `config.vocabulary` is relative to.
        texts: valid UTF-8, cleaned, to learn a vocabulary from where none is given; iterated twice at most.

    Raises:
        UserError: the vocabulary's file is missing or wrong, or nothing can be learned from the texts.
    """
    if config.bigrams and config.kind != "characters":
        raise UserError(
            f"data.tokenizer.bigrams is for characters, and data.tokenizer.kind is {config.kind}; set it to 0"
        )
    path = None if config.vocabulary is None else local(join(data_dir, config.vocabulary))
    key = "data.tokenizer.vocabulary"
    if config.kind == "wordpiece":
        require_keras_hub()
        given = Vocabulary(learn_wordpieces(texts, config)) if path is None else read_vocabulary(path, key)
        lowercase = config.lowercase if given.lowercase is None else given.lowercase
        return WordPieceTokenizer(given.tokens, lowercase, bool(given.strip_accents))
    if config.kind == "words":
        words = learn_words(texts, config) if path is None else read_tokens(path, key)
        return WordTokenizer(words, config.lowercase)
    characters = learn_characters(texts, config) if path is None else read_characters(path, key)
    bigrams = learn_bigrams(texts, config) if config.bigrams else []
    return CharacterTokenizer(characters, config.lowercase, bigrams)


def load_tokenizer(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer whose `save` wrote into `folder`.

    Args:
        folder: of a preprocessor.
        config: `kind`, and what `save` returned.
    """
    tokenizer: Tokenizer = KINDS[config["kind"]].load(folder, config)
    return tokenizer


def learn_characters(texts: Iterable[str | bytes], config: TokenizerConfig) -> list[str]:
    """Special tokens, then the most frequent characters, ties in the order of code points.

    Args:
        texts: valid UTF-8.
        config: size, least count, and whether letters are made small.

    Raises:
        UserError: no character occurs often enough.
    """
    counts: collections.Counter[str] = collections.Counter()
    for chunk in _chunks(texts):
        values, numbers = np.unique(code_points(chunk, config.lowercase).flat_values, return_counts=True)
        counts.update(dict(zip(map(chr, values.tolist()), numbers.tolist(), strict=True)))
    return _with_special_tokens(counts, config)


def learn_bigrams(texts: Iterable[str | bytes], config: TokenizerConfig) -> list[str]:
    """The most frequent pairs of neighbouring characters, ties in the order of code points; at most `config.bigrams`.

    Args:
        texts: valid UTF-8.
        config: how many, least count, and whether letters are made small.
    """
    counts: collections.Counter[int] = collections.Counter()
    for chunk in _chunks(texts):
        keys, numbers = np.unique(pairs_of(code_points(chunk, config.lowercase)), return_counts=True)
        counts.update(dict(zip(keys.tolist(), numbers.tolist(), strict=True)))
    pairs = {pair_text(key): number for key, number in counts.items() if key >= 0}
    return _most_frequent(pairs, config.bigrams, config.min_count)


def learn_words(texts: Iterable[str | bytes], config: TokenizerConfig) -> list[str]:
    """Special tokens, then the most frequent words and punctuation marks, ties in the order of code points.

    Args:
        texts: valid UTF-8.
        config: size, least count, and whether letters are made small.

    Raises:
        UserError: no word occurs often enough.
    """
    counts: collections.Counter[bytes] = collections.Counter()
    for chunk in _chunks(texts):
        counts.update(split_words(chunk, config.lowercase).flat_values.numpy().tolist())
    return _with_special_tokens({word.decode(): number for word, number in counts.items()}, config)


def learn_wordpieces(texts: Iterable[str | bytes], config: TokenizerConfig) -> list[str]:
    """Special tokens, then the most frequent Chinese characters, then pieces of the other words.

    The pieces are learned by KerasHub's `compute_word_piece_vocabulary`. Chinese characters are words by themselves, of
    which there is nothing to learn but their number; KerasHub would learn a thousand of them only, and each a second
    time as the end of a word. They take three quarters of the room at most, where there are other words.

    Args:
        texts: valid UTF-8; iterated twice.
        config: size (the result may be smaller), least count (of Chinese characters), and whether letters are made
            small.

    Raises:
        UserError: there is nothing to learn from.
    """
    keras_hub = require_keras_hub()
    characters: collections.Counter[str] = collections.Counter()
    with_others = False
    for chunk in _chunks(texts):
        values, numbers = np.unique(tf.strings.unicode_decode(chunk, "UTF-8").flat_values, return_counts=True)
        for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
            if any(first <= value <= last for first, last in _CHINESE):
                characters[chr(value)] += number
        without = tf.strings.regex_replace(chunk, rf"{_CHINESE_PATTERN}|[\s\p{{Cc}}\p{{Cf}}]", "")
        with_others = with_others or bool(tf.reduce_any(tf.not_equal(without, "")))
    room = config.vocabulary_size - len(SPECIAL_TOKENS)
    chinese = _most_frequent(characters, room * 3 // 4 if with_others else room, config.min_count)
    special = list(SPECIAL_TOKENS.values())
    pieces: list[str] = []
    if with_others:
        signature = tf.TensorSpec([None], tf.string)
        dataset = tf.data.Dataset.from_generator(lambda: _chunks(texts), output_signature=signature)
        pieces = keras_hub.tokenizers.compute_word_piece_vocabulary(
            dataset.map(lambda text: tf.strings.regex_replace(text, _CHINESE_PATTERN, " ")),
            config.vocabulary_size - len(chinese),
            lowercase=config.lowercase,
            split_on_cjk=False,
            reserved_tokens=special,
        )
    vocabulary = list(dict.fromkeys([*special, *chinese, *pieces]))
    if len(vocabulary) == len(special):
        raise _nothing_to_learn(config)
    return vocabulary


def _chunks(texts: Iterable[str | bytes]) -> Iterator[tf.Tensor]:
    chunk: list[str | bytes] = []
    for text in texts:
        chunk.append(text)
        if len(chunk) == _CHUNK:
            yield tf.constant(chunk, tf.string)
            chunk = []
    if chunk:
        yield tf.constant(chunk, tf.string)


def _most_frequent(counts: Mapping[str, int], size: int, min_count: int) -> list[str]:
    frequent = [token for token, number in counts.items() if number >= min_count]
    return sorted(frequent, key=lambda token: (-counts[token], token))[:size]


def _with_special_tokens(counts: Mapping[str, int], config: TokenizerConfig) -> list[str]:
    special = list(SPECIAL_TOKENS.values())
    learned = _most_frequent(counts, config.vocabulary_size - len(special), config.min_count)
    if not learned:
        raise _nothing_to_learn(config)
    return special + learned


def _nothing_to_learn(config: TokenizerConfig) -> UserError:
    return UserError(
        f"no token occurs {config.min_count} times in the training texts, so that there is no vocabulary to learn; "
        "lower data.tokenizer.min_count, or add texts"
    )
