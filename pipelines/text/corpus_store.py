"""A corpus from its files to token ids on disk: cleaned once, divided into sentences, cut into tokens once."""

import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.config import CleaningConfig, CorpusConfig, TokenizerConfig
from pipelines.errors import UserError
from pipelines.files import sha256
from pipelines.text.cleaning import clean_counted
from pipelines.text.documents import Document, corpus_files, read_documents
from pipelines.text.sentences import divide_sentences
from pipelines.text.store import FORMAT_VERSION, Store, StoreWriter
from pipelines.text.token_sizes import TokenSizes
from pipelines.text.tokenizer import Tokenizer

# A vocabulary is learned from so many bytes of text at most, spread evenly over the training documents.
LEARN_BYTES = 200_000_000
# Documents and sentences are worked on together until they have so many characters, or are so many.
_CHUNK_CHARACTERS, _CHUNK_SIZE = 500_000, 2_048
# Stands for a line break while cleaning, which makes spaces of line breaks; a character of private use.
_LINE_BREAK = "\ue000"


def texts_key(config: CorpusConfig, files: Sequence[Sequence[Path]], kept_out: set[bytes]) -> str:
    """What the cleaned texts depend on, as a SHA-256 in hexadecimal: the files' content, not their names.

    Args:
        config: the corpus.
        files: the files of each part.
        kept_out: from `text_key`, the texts that are left out.
    """
    parts = [
        {**part.model_dump(mode="json", exclude={"path"}), "suffixes": [path.suffix for path in paths]}
        | {"sha256": [sha256(path) for path in paths]}
        for part, paths in zip(config.parts, files, strict=True)
    ]
    out = hashlib.sha256(b"".join(sorted(kept_out))).hexdigest()
    cleaning = config.cleaning.model_dump(mode="json")
    return _digest({"format": FORMAT_VERSION, "parts": parts, "cleaning": cleaning, "kept_out": out})


def tokens_key(texts: str, config: TokenizerConfig, given: Tokenizer | None, training: np.ndarray) -> str:
    """What the token ids depend on: the texts, and a given vocabulary or the documents that one is learned from.

    Args:
        texts: from `texts_key`.
        config: the tokenizer's configuration.
        given: the tokenizer, where its vocabulary is given.
        training: the training documents, by number.
    """
    settings: dict[str, Any] = {"format": FORMAT_VERSION, "texts": texts, "kind": config.kind}
    if given is None:
        documents = hashlib.sha256(np.ascontiguousarray(training, "<i8").data).hexdigest()
        learned = config.model_dump(mode="json", include={"vocabulary_size", "min_count", "lowercase"})
        return _digest(settings | learned | {"documents": documents})
    with tempfile.TemporaryDirectory() as folder:
        saved = given.save(Path(folder))
    return _digest(settings | {"vocabulary": given.vocabulary, "saved": saved})


def text_key(text: str | bytes) -> bytes:
    """16 bytes that stand for a cleaned text, white space aside."""
    text = text.decode() if isinstance(text, bytes) else text
    return hashlib.sha256(" ".join(text.split()).encode()).digest()[:16]


def write_texts(folder: Path, config: CorpusConfig, files: Sequence[Sequence[Path]], kept_out: set[bytes]) -> None:
    """Writes the cleaned documents of a corpus, sentence by sentence, as UTF-8 into a store's array `text`.

    The store's description has `cleaning`: step → number of documents that it changed or left out.

    Args:
        folder: of the store.
        config: parts and cleaning.
        files: the files of each part.
        kept_out: from `text_key`, the texts that are left out.

    Raises:
        UserError: a file is damaged; a document is empty and may not be; nothing is left.
    """
    counts: dict[str, int] = {}
    left_out = {"empty": 0, "duplicates": 0, "kept_out": 0}
    seen: set[bytes] = set()
    num_left = 0
    with StoreWriter(folder, {"text": np.uint8}) as writer:
        for chunk in _chunks(_all_documents(config, files), lambda document: len(document.text)):
            for document, text in zip(chunk, _cleaned(chunk, config.cleaning, counts), strict=True):
                reason = _reason_to_leave_out(document, text, config.cleaning, seen, kept_out)
                if reason:
                    left_out[reason] += 1
                    continue
                sentences = [sentence.encode() for sentence in divide_sentences(text)]
                if config.cleaning.control_characters:
                    sentences = [sentence.replace(b"\n", b" ") for sentence in sentences]
                writer.add([len(sentence) for sentence in sentences], text=np.frombuffer(b"".join(sentences), np.uint8))
                num_left += 1
        wanted = {
            "empty": config.cleaning.empty == "drop",
            "duplicates": config.cleaning.duplicates == "drop",
            "kept_out": bool(config.keep_out),
        }
        writer.description["cleaning"] = counts | {step: count for step, count in left_out.items() if wanted[step]}
    if not num_left:
        raise UserError(
            f"{files[0][0]}: no document is left ({left_out['empty']:,} empty, {left_out['duplicates']:,} duplicates, "
            f"{left_out['kept_out']:,} kept out); see data.parts, data.cleaning and data.keep_out"
        )


def write_tokens(writer: StoreWriter, texts: Store, tokenizer: Tokenizer) -> None:
    """Writes the token ids of a corpus's texts, and the number of characters that each of them stands for.

    Args:
        writer: of a store with the arrays `tokens` and `characters`; it gets the same documents and sentences.
        texts: from `write_texts`.
        tokenizer: texts → ids.
    """
    tokenize = tf.function(tokenizer.__call__, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    sizes = TokenSizes(tokenizer)
    documents = (list(sentences_of(texts, document)) for document in range(len(texts)))
    for chunk in _chunks(documents, lambda sentences: sum(map(len, sentences))):
        sentences = [sentence for document in chunk for sentence in document]
        tokens = tokenize(tf.constant(sentences, tf.string))
        ids, lengths = tokens.flat_values.numpy(), tokens.row_lengths().numpy()
        characters = sizes.characters(ids, lengths, np.array([len(sentence.decode()) for sentence in sentences]))
        sentence = token = 0
        for document in chunk:
            own = lengths[sentence : sentence + len(document)]
            end = token + int(own.sum())
            writer.add(own, tokens=ids[token:end], characters=characters[token:end])
            sentence, token = sentence + len(document), end


def token_type(vocabulary_size: int) -> Any:
    """The smallest type that holds every id."""
    return np.uint16 if vocabulary_size <= np.iinfo(np.uint16).max + 1 else np.uint32


def sentences_of(texts: Store, document: int) -> Iterator[bytes]:
    """The sentences of a document, UTF-8."""
    bounds = texts.sentence_bounds(document)
    content = texts.arrays["text"][bounds[0] : bounds[-1]].tobytes()
    for start, end in itertools.pairwise((bounds - bounds[0]).tolist()):
        yield content[start:end]


class DocumentTexts:
    """The texts of some documents, one after the other, as often as they are asked for.

    Args:
        texts: from `write_texts`.
        documents: which, by number, `(num_documents,)`.

    Example:
        >>> longest = max(len(text) for text in DocumentTexts(texts, documents))
    """

    def __init__(self, texts: Store, documents: np.ndarray) -> None:
        self._texts, self._documents = texts, documents

    def __len__(self) -> int:
        return len(self._documents)

    def __iter__(self) -> Iterator[str]:
        for document in self._documents:
            yield b"".join(sentences_of(self._texts, int(document))).decode()


class SampleSentences:
    """Sentences to learn a vocabulary from: all, or those of every k-th document where they are too many.

    Args:
        texts: from `write_texts`.
        documents: which, by number, `(num_documents,)`.
        most: bytes at most, about.
    """

    def __init__(self, texts: Store, documents: np.ndarray, most: int = LEARN_BYTES) -> None:
        size = int(texts.lengths()[documents].sum())
        self._texts, self._documents = texts, documents[:: max(-(-size // most), 1)]

    def __iter__(self) -> Iterator[bytes]:
        for document in self._documents:
            yield from sentences_of(self._texts, int(document))


def _all_documents(config: CorpusConfig, files: Sequence[Sequence[Path]]) -> Iterator[Document]:
    for number, (part, paths) in enumerate(zip(config.parts, files, strict=True)):
        for path in paths:
            yield from read_documents(part, path, part_key(number))


def part_key(number: int) -> str:
    """The configuration key of a part of a corpus."""
    return f"data.parts[{number}]"


def part_files(config: CorpusConfig) -> list[list[Path]]:
    """The files of each part.

    Raises:
        UserError: one is missing, or a pattern matches none.
    """
    return [corpus_files(part, config.data_dir, part_key(number)) for number, part in enumerate(config.parts)]


def _cleaned(chunk: Sequence[Document], cleaning: CleaningConfig, counts: dict[str, int]) -> Iterator[str]:
    """Cleaned texts whose line breaks are still there."""
    if not cleaning.control_characters:
        yield from (text.decode() for text in clean_counted([document.text for document in chunk], cleaning, counts))
        return
    # The spaces keep words and addresses on both sides apart.
    marked = [document.text.strip().replace("\n", f" {_LINE_BREAK} ") for document in chunk]
    for text in clean_counted(marked, cleaning, counts):
        yield text.decode().replace(f" {_LINE_BREAK} ", "\n").replace(_LINE_BREAK, "\n").strip()


def _reason_to_leave_out(
    document: Document, text: str, cleaning: CleaningConfig, seen: set[bytes], kept_out: set[bytes]
) -> str:
    if not text.strip():
        if cleaning.empty == "refuse":
            was = " after cleaning" if document.text.strip() else ""
            raise UserError(f"{document.place}: the text is empty{was}; fill it in, or set data.cleaning.empty: drop")
        return "empty"
    if not kept_out and cleaning.duplicates == "keep":
        return ""
    key = text_key(text)
    if key in kept_out:
        return "kept_out"
    if cleaning.duplicates == "drop":
        if key in seen:
            return "duplicates"
        seen.add(key)
    return ""


def _chunks(items: Iterator[Any], size: Any) -> Iterator[list[Any]]:
    chunk: list[Any] = []
    characters = 0
    for item in items:
        chunk.append(item)
        characters += size(item)
        if characters >= _CHUNK_CHARACTERS or len(chunk) == _CHUNK_SIZE:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
