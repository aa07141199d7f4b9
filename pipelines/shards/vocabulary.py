"""Vocabularies learned from the training texts of files, or from an evenly spread part of them; kept in the cache."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipelines.config import ShardsConfig, TokenizerConfig
from pipelines.files import read_json, user_cache, write_json
from pipelines.shards.changed import told
from pipelines.shards.order import Places
from pipelines.shards.values import Reader
from pipelines.text.cleaning import clean_counted
from pipelines.text.store import cached_folder
from pipelines.text.tokenizer import Tokenizer
from pipelines.text.vocabulary import load_tokenizer, make_tokenizer

# Texts that are read together.
_CHUNK = 1_024
_SETTINGS = "tokenizer.json"


class TrainingTexts:
    """The cleaned texts of a training split, read each time they are iterated.

    Args:
        reader: reads the files.
        places: where the split's examples are.
        column: the texts.
        config: cleaning, and how many texts are read at most.
    """

    def __init__(self, reader: Reader, places: Places, column: str, config: ShardsConfig) -> None:
        self._places = places
        self._cleaning = config.cleaning
        self._most = config.vocabulary_examples
        self._read = tf.function(
            lambda place: reader.columns(reader.read(places.index(place)))[column],
            input_signature=[tf.TensorSpec([None], tf.int64)],
            autograph=False,
        )

    def __iter__(self) -> Iterator[bytes]:
        for first in self._starts():
            place = np.arange(first, min(first + _CHUNK, len(self._places)))
            with told():
                texts = self._read(tf.constant(place, tf.int64)).numpy().tolist()
            yield from clean_counted(texts, self._cleaning, {})

    def _starts(self) -> list[int]:
        """Where the chunks that are read begin: all of them, or evenly spread ones."""
        starts = np.arange(0, len(self._places), _CHUNK)
        wanted = max(1, self._most // _CHUNK)
        if wanted < len(starts):
            starts = starts[np.linspace(0, len(starts) - 1, wanted).round().astype(np.int64)]
        return [int(start) for start in starts]


def tokenizer_of(texts: TrainingTexts, survey: Path, config: ShardsConfig) -> Tokenizer:
    """The configured tokenizer.

    Args:
        texts: to learn a vocabulary from, where none is given.
        survey: the folder of the files' survey, by whose name a vocabulary is kept.
        config: the run's configuration.

    Raises:
        UserError: the vocabulary's file is missing or wrong, or nothing can be learned from the texts.
    """
    tokenizer_config = config.tokenizer or TokenizerConfig()
    if tokenizer_config.vocabulary is not None:
        return make_tokenizer(tokenizer_config, config.data_dir, texts)

    def build(folder: Path) -> None:
        tokenizer = make_tokenizer(tokenizer_config, config.data_dir, texts)
        write_json(folder / _SETTINGS, {"kind": tokenizer.kind, **tokenizer.save(folder)})

    question = [
        survey.parent.name,
        tokenizer_config.model_dump(mode="json"),
        config.vocabulary_examples,
    ]
    key = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:32]
    root = config.cache_dir if config.cache_dir is not None else user_cache("shards")
    folder = cached_folder(root / f"vocabulary-{key}", build, "vocabulary")
    return load_tokenizer(folder, read_json(folder / _SETTINGS))
