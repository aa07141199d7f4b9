"""Corpora: documents without labels, larger than memory, to learn a language from."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipelines.config import CorpusConfig, TokenizerConfig
from pipelines.data import SPLITS, Data, DatasetInfo, Split, TextInfo
from pipelines.errors import UserError
from pipelines.files import user_cache
from pipelines.splits import divide
from pipelines.text.cleaning import clean_counted
from pipelines.text.corpus_data import CorpusData
from pipelines.text.corpus_examples import (
    ExampleMaker,
    LanguageModelExamples,
    PretrainingExamples,
    SequenceToSequenceExamples,
)
from pipelines.text.corpus_store import (
    DocumentTexts,
    SampleSentences,
    part_files,
    text_key,
    texts_key,
    token_type,
    tokens_key,
    write_texts,
    write_tokens,
)
from pipelines.text.masking import Masking, num_predictions_of
from pipelines.text.pairs import Pairs
from pipelines.text.preprocess import Packing, TextPreprocessor
from pipelines.text.store import Store, StoreWriter, cached
from pipelines.text.tokenizer import Tokenizer
from pipelines.text.vocabulary import load_tokenizer, make_tokenizer
from pipelines.text.windows import Continuations, Windows

_PACKING: Mapping[str, Packing] = {
    "masked_language_model": "bert",
    "language_model": "prompt",
    "sequence_to_sequence": "bert_prompt",
}
_TOKENIZER_FOLDER = "tokenizer"


def load(config: CorpusConfig) -> Data:
    """Reads a corpus, or finds it in the cache, and divides its documents among the splits.

    The first time, the texts are cleaned and written to the cache, a vocabulary is learned from the training documents,
    and the texts are written as token ids. Then batches are read from the ids. The cache's folders are named by what
    their content depends on: the files' content, cleaning, what is kept out, the vocabulary or what it is learned from.

    Raises:
        UserError: anything that is wrong in the files; the message names file and line or row.
    """
    folder = config.cache_dir if config.cache_dir is not None else user_cache("corpus")
    tokenizer_config = config.tokenizer or TokenizerConfig()
    files = part_files(config)
    origin = str(files[0][0]) if len(files) == 1 and len(files[0]) == 1 else f"{files[0][0]} and others"
    kept_out = _kept_out(config)

    texts_name = texts_key(config, files, kept_out)
    texts = cached(folder / texts_name, lambda folder: write_texts(folder, config, files, kept_out))
    divided = divide(len(texts), config.split, origin=origin, train_examples=config.train_examples)
    division: dict[Split, np.ndarray] = {split: divided[split] for split in SPLITS}
    tokens, tokenizer, tokens_name = _tokens(folder, texts_name, texts, division["train"], tokenizer_config, config)

    sequence_length = tokenizer_config.sequence_length
    makers = {split: _maker(split, tokens, division[split], tokenizer, sequence_length, config) for split in SPLITS}
    preprocess = TextPreprocessor(tokenizer, sequence_length, _PACKING[config.task], config.cleaning)
    inputs = _inputs(config, sequence_length)
    info = DatasetInfo(
        task=config.task,
        inputs=inputs,
        input_dtypes=dict.fromkeys(inputs, "int32"),
        counts={},
        label_name="text",
        fingerprint=_fingerprint(tokens_name, division, sequence_length, config),
        text=TextInfo(
            vocabulary_size=len(tokenizer.vocabulary),
            sequence_length=sequence_length,
            special_ids=dict(tokenizer.special_ids),
            mean_tokens=makers["train"].mean_tokens,
            cleaning={
                **texts.description["cleaning"],
                "too_short": sum(maker.num_left_out for maker in makers.values()),
            },
        ),
    )
    return CorpusData(info, preprocess, makers, lambda split: DocumentTexts(texts, division[split]), config, origin)


def _kept_out(config: CorpusConfig) -> set[bytes]:
    """The texts of other runs' splits, cleaned as this corpus is."""
    from pipelines.loading import load as load_data

    keys: set[bytes] = set()
    for keep_out in config.keep_out:
        data = load_data(keep_out.data)
        if data.info.text is None:
            raise UserError("data.keep_out has data that is no text; give its column of texts as text")
        for split in keep_out.splits:
            texts = list(data.examples(split).features["text"])
            keys.update(text_key(text) for text in clean_counted(texts, config.cleaning, {}))
    return keys


def _tokens(
    folder: Path,
    texts_name: str,
    texts: Store,
    training: np.ndarray,
    tokenizer_config: TokenizerConfig,
    config: CorpusConfig,
) -> tuple[Store, Tokenizer, str]:
    """The corpus as token ids, the tokenizer that made them, and the name of both in the cache."""
    # Pairs of characters are for the models that read texts as they are.
    tokenizer_config = tokenizer_config.model_copy(update={"bigrams": 0})
    given = None
    if tokenizer_config.vocabulary is not None:
        given = make_tokenizer(tokenizer_config, config.data_dir, [])
    name = tokens_key(texts_name, tokenizer_config, given, training)

    def build(folder: Path) -> None:
        tokenizer = given or make_tokenizer(tokenizer_config, config.data_dir, SampleSentences(texts, training))
        (folder / _TOKENIZER_FOLDER).mkdir()
        settings = tokenizer.save(folder / _TOKENIZER_FOLDER)
        types = {"tokens": token_type(len(tokenizer.vocabulary)), "characters": np.uint16}
        with StoreWriter(folder, types, tokenizer={"kind": tokenizer.kind, **settings}) as writer:
            write_tokens(writer, texts, tokenizer)

    store = cached(folder / name, build)
    # Read from the cache always, so that the first run does not differ from the next.
    return store, load_tokenizer(store.folder / _TOKENIZER_FOLDER, store.description["tokenizer"]), name


def _maker(
    split: Split,
    tokens: Store,
    documents: np.ndarray,
    tokenizer: Tokenizer,
    sequence_length: int,
    config: CorpusConfig,
) -> ExampleMaker:
    special_ids = dict(tokenizer.special_ids)
    if config.task == "language_model":
        return LanguageModelExamples(Windows(tokens, documents, special_ids, sequence_length))
    if config.task == "sequence_to_sequence":
        continuations = Continuations(tokens, documents, special_ids, sequence_length, random_cuts=split == "train")
        return SequenceToSequenceExamples(continuations)
    masking = Masking(config.masking, tokenizer.vocabulary, special_ids, sequence_length)
    pairs = Pairs(tokens, documents, special_ids, masking.continues, sequence_length, origin=f"the {split} split")
    return PretrainingExamples(pairs, masking)


def _inputs(config: CorpusConfig, sequence_length: int) -> dict[str, tuple[int | None, ...]]:
    if config.task == "masked_language_model":
        num_predictions = num_predictions_of(config.masking, sequence_length)
        names = ("token_ids", "segment_ids", "padding_mask")
        return {**dict.fromkeys(names, (None,)), "mask_positions": (num_predictions,)}
    decoder = ("token_ids", "padding_mask")
    encoder = ("encoder_token_ids", "encoder_padding_mask", "encoder_segment_ids")
    return dict.fromkeys(decoder if config.task == "language_model" else (*encoder, *decoder), (None,))


def _fingerprint(
    tokens_name: str, division: Mapping[Split, np.ndarray], sequence_length: int, config: CorpusConfig
) -> str:
    """Changes with the texts, the vocabulary, the division, and what examples are made of them."""
    made = {"task": config.task, "sequence_length": sequence_length, "masking": config.masking.model_dump(mode="json")}
    digest = hashlib.sha256(json.dumps([tokens_name, made], sort_keys=True).encode())
    for split in SPLITS:
        digest.update(f"\0{split}\0".encode() + np.ascontiguousarray(division[split], "<i8").tobytes())
    return digest.hexdigest()
