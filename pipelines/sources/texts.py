"""From texts with labels to `Data`: cleaning, division, vocabulary, lengths; what all sources of texts share."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from pipelines.config import CleaningConfig, TextConfig, TokenizerConfig
from pipelines.data import SPLITS, Data, Examples, Split, Task, TextInfo
from pipelines.errors import UserError
from pipelines.labels import encode_classes, sorted_class_names
from pipelines.sources.arrays import classification_data, refuse_image_options, regression_data
from pipelines.splits import divide
from pipelines.text.cleaning import add_counts, clean_rows, encoded
from pipelines.text.preprocess import Packing, TextPreprocessor
from pipelines.text.vocabulary import make_tokenizer

_CHUNK = 512


@dataclasses.dataclass(frozen=True)
class TextRows:
    """The rows of one file or TFDS split, as they were read.

    Attributes:
        texts: `str` or `bytes`.
        labels: names of classes (`str`), class indices (whole numbers) or targets, `(num_rows,)`.
        rows: each row's place in its origin, `(num_rows,)`.
        origin: the file.
        place: from an index to file and row, for messages.
    """

    texts: Sequence[str | bytes]
    labels: np.ndarray
    rows: np.ndarray
    origin: str
    place: Callable[[int], str]

    def at(self, index: np.ndarray) -> "TextRows":
        """Some of the rows."""
        indices = index.tolist()
        texts = [self.texts[i] for i in indices]
        return TextRows(texts, self.labels[index], self.rows[index], self.origin, lambda i: self.place(indices[i]))


@dataclasses.dataclass(frozen=True)
class TextSource:
    """Texts with labels, not divided yet.

    Attributes:
        given: `train`, and `validation` and `test` where they come by themselves.
        label_name: the name of what is predicted.
        task: `classification` or `regression`.
        class_names: the classes where labels are indices; None where labels are the classes' names.
        normalize_target: regression: train on the target's z-score.
    """

    given: Mapping[Split, TextRows]
    label_name: str
    task: Task = "classification"
    class_names: tuple[str, ...] | None = None
    normalize_target: bool = True


@dataclasses.dataclass(frozen=True)
class DividedTexts:
    """Texts in their splits.

    Attributes:
        rows: as they were read, with class indices or targets as labels.
        cleaned: the same texts after cleaning, as the tokenizer gets them.
        class_names: the classes; empty for regression.
        counts: what cleaning did: step → texts changed or left out.
    """

    rows: Mapping[Split, TextRows]
    cleaned: Mapping[Split, list[bytes]]
    class_names: tuple[str, ...]
    counts: Mapping[str, int]


def text_data(source: TextSource, config: TextConfig) -> Data:
    """Cleans, divides and prepares texts; everything learned is learned from the training split.

    Raises:
        UserError: a text is empty, a label is wrong, a split would be, or the vocabulary cannot be had.
    """
    refuse_image_options(config, f"{source.given['train'].origin} holds texts")
    divided = divide_texts(source, config)
    tokenizer_config = config.tokenizer or TokenizerConfig()
    tokenizer = make_tokenizer(tokenizer_config, config.data_dir, divided.cleaned["train"])
    packing: Packing = "bert" if tokenizer.kind == "wordpiece" else "plain"
    preprocess = TextPreprocessor(tokenizer, tokenizer_config.sequence_length, packing, config.cleaning)
    splits: dict[str, Examples] = {split: _examples(rows) for split, rows in divided.rows.items()}
    inputs = dict.fromkeys(preprocess.input_names, (None,))
    info = TextInfo(
        vocabulary_size=len(tokenizer.vocabulary),
        sequence_length=tokenizer_config.sequence_length,
        special_ids=dict(tokenizer.special_ids),
        bigram_vocabulary_size=preprocess.bigram_vocabulary_size,
        cleaning=dict(divided.counts),
    )
    lengths = token_counts(preprocess, splits["train"].features["text"]) if config.bucket_batches else None
    name = source.label_name
    if source.task == "regression":
        data = regression_data(splits, name, preprocess, inputs, source.normalize_target, config, info, lengths)
    else:
        data = classification_data(splits, divided.class_names, name, preprocess, inputs, config, info, lengths)
    # A vocabulary file that changed gives the same texts other ids.
    fingerprint = hashlib.sha256(data.info.fingerprint.encode())
    fingerprint.update("\0".join([*tokenizer.vocabulary, *getattr(tokenizer, "bigrams", ())]).encode())
    data.info = dataclasses.replace(data.info, fingerprint=fingerprint.hexdigest())
    return data


def divide_texts(source: TextSource, config: TextConfig) -> DividedTexts:
    """Cleans the rows, leaves out those that are to be left out, and divides the others.

    Raises:
        UserError: a text is empty, a label was not seen in training, or a split would be empty.
    """
    given: dict[Split, TextRows] = {}
    cleaned: dict[Split, list[bytes]] = {}
    counts: list[Mapping[str, int]] = []
    seen: set[bytes] = set()
    for split in SPLITS:
        if split in source.given:
            rows = source.given[split]
            # A text of the training file is a duplicate in the test file too.
            result = clean_rows(rows.texts, config.cleaning, rows.place, seen)
            given[split], cleaned[split] = rows.at(result.kept), result.texts
            counts.append(result.counts)
    class_names = source.class_names or ()
    if source.task == "classification" and source.class_names is None:
        class_names = sorted_class_names(given["train"].labels.tolist())
    given = {split: _with_encoded_labels(rows, source, class_names) for split, rows in given.items()}
    train = given["train"]
    division = divide(
        len(train.texts),
        config.split,
        origin=train.origin,
        classes=train.labels if class_names else None,
        class_names=class_names,
        with_validation="validation" not in given,
        with_test="test" not in given,
        train_examples=config.train_examples,
    )
    rows_of: dict[Split, TextRows] = {}
    cleaned_of: dict[Split, list[bytes]] = {}
    for split in SPLITS:
        if split in given and split != "train":
            rows_of[split], cleaned_of[split] = given[split], cleaned[split]
        else:
            rows_of[split] = train.at(division[split])
            cleaned_of[split] = [cleaned["train"][i] for i in division[split].tolist()]
    return DividedTexts(rows_of, cleaned_of, class_names, add_counts(*counts))


def token_counts(preprocess: TextPreprocessor, texts: Sequence[bytes]) -> np.ndarray:
    """How many tokens the model sees of each text, int32 `(num_texts,)`.

    Args:
        preprocess: texts → model inputs.
        texts: as they were read.
    """
    signature = tf.TensorSpec([None], tf.string)
    count = tf.function(
        lambda text: tf.reduce_sum(preprocess({"text": text})["padding_mask"], axis=1),
        input_signature=[signature],
        autograph=False,
    )
    chunks = [count(tf.constant(list(texts[i : i + _CHUNK]), tf.string)) for i in range(0, len(texts), _CHUNK)]
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int32)


def refuse_text_options(config: TextConfig, what: str) -> None:
    """Refuses options about texts for data of another kind.

    Args:
        config: of the source.
        what: the data, for the message.

    Raises:
        UserError: such an option is set.
    """
    options = {
        "tokenizer": config.tokenizer is not None,
        "cleaning": config.cleaning != CleaningConfig(),
    }
    for name, is_set in options.items():
        if is_set:
            raise UserError(f"data.{name} is for texts, and {what}; remove it")


def _with_encoded_labels(rows: TextRows, source: TextSource, class_names: tuple[str, ...]) -> TextRows:
    if source.task == "regression":
        return dataclasses.replace(rows, labels=rows.labels.astype(np.float32))
    if source.class_names is not None:
        return dataclasses.replace(rows, labels=rows.labels.astype(np.int32))
    labels = encode_classes(rows.labels.tolist(), class_names, column=source.label_name, place=rows.place)
    return dataclasses.replace(rows, labels=labels)


def _examples(rows: TextRows) -> Examples:
    texts = np.empty(len(rows.texts), object)
    texts[:] = [encoded(text) for text in rows.texts]
    return Examples({"text": texts}, rows.labels, rows.origin, rows.rows)
