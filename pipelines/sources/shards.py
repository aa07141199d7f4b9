"""Files of labelled examples that may be larger than memory: TFRecord, Parquet, ArrayRecord."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from pipelines.config import ShardsConfig, TokenizerConfig
from pipelines.data import SPLITS, Data, DatasetInfo, ImageInfo, Preprocessor, Split, TextInfo
from pipelines.errors import UserError
from pipelines.labels import check_classes, sorted_class_names
from pipelines.names import listing, shorten
from pipelines.shards.array_record import ArrayRecordReader
from pipelines.shards.data import SplitFiles, StreamedData, usual_streams
from pipelines.shards.files import FORMATS, FileSet, check_columns, common_kinds, find, format_of
from pipelines.shards.form import Form, Mapper, choose
from pipelines.shards.order import Division, Places
from pipelines.shards.parquet import ParquetReader
from pipelines.shards.survey import Survey, Surveyed, survey
from pipelines.shards.tfrecord import TFRecordReader
from pipelines.shards.values import Kind, Reader
from pipelines.shards.vocabulary import TrainingTexts, tokenizer_of
from pipelines.sources.arrays import image_preprocessor, refuse_image_options
from pipelines.sources.texts import refuse_text_options
from pipelines.text.preprocess import Packing, TextPreprocessor

# Windows of training examples that are in memory at the same time; see `pipelines.shards.data`.
_WINDOWS = 6


def load(config: ShardsConfig) -> Data:
    """Reads the files once, unless they have not changed since, and prepares to read them again and again.

    Raises:
        UserError: anything that is wrong in the files; the message names file and record.
    """
    files = _files(config)
    format_name = _format(files, config)
    first, kinds = common_kinds(files, format_name)
    form = choose(kinds, config, first, FORMATS[format_name].unusable(first))
    _check_options(form, config, files["train"].origin)
    for each in files.values():
        check_columns(each, format_name, form.kinds, first)
    division = Division.of(config.split, "validation" not in files, "test" not in files)
    found = survey(files, form, format_name, division, config)
    places = {split: _places(found, split, division) for split in SPLITS}
    _check_splits(places, found, files, config)
    _check_memory(found, config, files["train"].origin)
    readers = {split: _reader(format_name, each, form.kinds, config) for split, each in found.sets.items()}
    names, class_of_code = _split_classes(found, config) if config.task == "classification" else ((), np.zeros(0))
    if config.task == "classification":
        counts = _training_counts(found, class_of_code, len(names))
        check_classes(counts, names, origin=files["train"].origin, label_name=config.label)
    else:
        counts = np.zeros(0, np.int64)
    texts = TrainingTexts(readers["train"], places["train"], form.text, config) if form.text is not None else None
    preprocess = _preprocess(form, found, texts, config)
    mean, deviation = found.target
    scaled = config.task == "regression" and config.normalize_target
    inputs = _inputs(preprocess, form)
    info = DatasetInfo(
        task=config.task,
        inputs=inputs,
        input_dtypes=dict.fromkeys(inputs, "int32" if form.text is not None else "float32"),
        counts={split: len(places[split]) for split in SPLITS},
        class_names=names,
        class_counts=tuple(int(count) for count in counts),
        label_name=config.label,
        target_mean=mean if scaled else 0.0,
        # A target that never changes has no spread to divide by.
        target_scale=deviation if scaled and deviation > 1e-12 * max(1.0, abs(mean)) else 1.0,
        fingerprint=_fingerprint(found, form, division, preprocess),
        text=_text_info(preprocess, found) if isinstance(preprocess, TextPreprocessor) else None,
        images=ImageInfo() if form.image is not None else None,
    )
    splits = {
        split: SplitFiles(
            readers.get(split, readers["train"]),
            places[split],
            _labels_of(found.sets.get(split, found.sets["train"]), class_of_code),
            files.get(split, files["train"]).origin,
        )
        for split in SPLITS
    }
    as_indices = config.classes is not None and form.kinds[form.label] == "int"
    mapper = Mapper(form, _raw_inputs(preprocess, form), names, as_indices)
    return StreamedData(info, preprocess, splits, mapper, config, found.bytes_per_example)


def _files(config: ShardsConfig) -> dict[Split, FileSet]:
    paths: dict[Split, str | None] = {
        "train": config.path,
        "validation": config.validation_path,
        "test": config.test_path,
    }
    files = {
        split: find(config.data_dir, path, "data.path" if split == "train" else f"data.{split}_path")
        for split, path in paths.items()
        if path is not None
    }
    of_path: dict[str, FileSet] = {}
    for each in files.values():
        for path in each.paths:
            other = of_path.setdefault(os.path.realpath(path), each)
            if other is not each:
                raise UserError(
                    f"{path} is named in {other.key} ({other.origin}) and in {each.key} ({each.origin}); its examples "
                    "would be in both splits: leave it in one"
                )
    return files


def _format(files: Mapping[Split, FileSet], config: ShardsConfig) -> str:
    formats = {split: format_of(each, config.format) for split, each in files.items()}
    for split, found in formats.items():
        if found != formats["train"]:
            raise UserError(
                f"{files['train'].origin} is {formats['train']} and {files[split].origin} is {found}; all files "
                "must be of one format"
            )
    return formats["train"]


def _check_options(form: Form, config: ShardsConfig, origin: str) -> None:
    if config.train_examples is not None:
        raise UserError(
            "data.train_examples is not for data.source: shards; name fewer files in data.path to train on less"
        )
    if config.service is not None:
        raise UserError(
            "data.service is not for data.source: shards, whose files each worker of the training reads in parallel, "
            "its share of them; leave data.service out"
        )
    twice = [name for name, count in Counter(config.classes or ()).items() if count > 1]
    if twice:
        raise UserError(f'data.classes has "{shorten(twice[0])}" twice; each class has one index')
    if form.image is not None and config.task == "regression":
        raise UserError(f"{origin}: data.task: regression works on numbers and texts, and data.image names images")
    if form.text is None:
        refuse_text_options(config, "data.text names no column of texts")
    if form.image is None:
        refuse_image_options(config, "data.image names no column of images")


def _places(found: Survey, split: Split, division: Division) -> Places:
    code = SPLITS.index(split)
    each = found.sets.get(split, found.sets["train"])
    shared = split not in found.sets or (split == "train" and division.divides)
    return Places(each.blocks.first, each.counts[:, code], division if shared else None, code)


def _check_splits(
    places: Mapping[Split, Places], found: Survey, files: Mapping[Split, FileSet], config: ShardsConfig
) -> None:
    shares: dict[Split, float] = {"validation": config.split.validation, "test": config.split.test}
    for split, share in shares.items():
        if split not in found.sets and share > 0 and not len(places[split]):
            raise UserError(
                f"{files['train'].origin}: the {split} split would be empty: data.split.{split} is {share:g} and there "
                f"are {found.sets['train'].blocks.num_records} examples; raise the share, set it to 0, or add examples"
            )


def _check_memory(found: Survey, config: ShardsConfig, origin: str) -> None:
    """Refuses what would not fit, by the formula of `pipelines.shards.data`."""
    largest = max(int(np.diff(each.blocks.first).max()) for each in found.sets.values())
    streams = config.streams if config.streams is not None else usual_streams(config.batch_size)
    window = max(config.shuffle_window, config.batch_size)
    size = (_WINDOWS * window + streams * largest) * found.bytes_per_example / 2**30
    if size > config.max_memory_gb:
        raise UserError(
            f"{origin}: {_WINDOWS} × {window:,} examples (data.shuffle_window) and {streams} blocks (data.streams) of "
            f"{largest:,} take {size:.3g} GiB of memory, and data.max_memory_gb is {config.max_memory_gb:g}; lower "
            "data.shuffle_window, write Parquet files with smaller row groups, or raise the limit"
        )


def _reader(format_name: str, each: Surveyed, kinds: Mapping[str, Kind], config: ShardsConfig) -> Reader:
    if format_name == "parquet":
        streams = config.streams if config.streams is not None else usual_streams(config.batch_size)
        return ParquetReader(each.blocks, kinds, streams)
    return (TFRecordReader if format_name == "tfrecord" else ArrayRecordReader)(each.blocks, kinds)


def _split_classes(found: Survey, config: ShardsConfig) -> tuple[tuple[str, ...], np.ndarray]:
    """The classes in their order, and each code's class index.

    Raises:
        UserError: a split has a class that training has not.
    """
    trained = [name for name, count in zip(found.classes, found.class_counts[0], strict=True) if count]
    names: Sequence[str] = config.classes if config.classes is not None else sorted_class_names(trained)
    place = {name: at for at, name in enumerate(names)}
    for split, counts in zip(SPLITS, found.class_counts, strict=True):
        for name, count, seen in zip(found.classes, counts, found.class_counts[0], strict=True):
            if count and not seen:
                raise UserError(
                    f'the {split} split has {int(count):,} examples of label "{shorten(name)}", of which there is no '
                    f"training example; training has {listing(trained)}"
                )
    return tuple(names), np.array([place.get(name, -1) for name in found.classes], np.int32)


def _training_counts(found: Survey, class_of_code: np.ndarray, num_classes: int) -> np.ndarray:
    counts = np.zeros(num_classes, np.int64)
    trained = class_of_code >= 0
    np.add.at(counts, class_of_code[trained], found.class_counts[0][trained])
    return counts


def _labels_of(each: Surveyed, class_of_code: np.ndarray):  # type: ignore[no-untyped-def]
    if not len(class_of_code):
        return lambda index: np.asarray(each.labels[index], np.float32)
    return lambda index: class_of_code[each.labels[index]]


def _preprocess(form: Form, found: Survey, texts: TrainingTexts | None, config: ShardsConfig) -> Preprocessor:
    if texts is not None:
        tokenizer = tokenizer_of(texts, found.folder, config)
        length = (config.tokenizer or TokenizerConfig()).sequence_length
        packing: Packing = "bert" if tokenizer.kind == "wordpiece" else "plain"
        return TextPreprocessor(tokenizer, length, packing, config.cleaning)
    if form.image is not None:
        assert found.image is not None, "the survey looked at every image"
        return image_preprocessor(found.image, config.images)
    return found.table_preprocessor()


def _inputs(preprocess: Preprocessor, form: Form) -> dict[str, tuple[int | None, ...]]:
    """The model's inputs, name → shape without the batch dimension."""
    if isinstance(preprocess, TextPreprocessor):
        return dict.fromkeys(preprocess.input_names, (None,))
    if form.image is not None:
        return {"image": preprocess.shape}  # type: ignore[attr-defined]
    return {"features": (len(preprocess.feature_names),)}  # type: ignore[attr-defined]


def _raw_inputs(preprocess: Preprocessor, form: Form) -> Mapping[str, str]:
    """Column → raw input."""
    if form.text is not None:
        return {form.text: "text"}
    return {form.image: "image"} if form.image is not None else preprocess.input_of  # type: ignore[attr-defined]


def _text_info(preprocess: TextPreprocessor, found: Survey) -> TextInfo:
    return TextInfo(
        vocabulary_size=len(preprocess.tokenizer.vocabulary),
        sequence_length=preprocess.sequence_length,
        special_ids=dict(preprocess.tokenizer.special_ids),
        bigram_vocabulary_size=preprocess.bigram_vocabulary_size,
        cleaning=dict(found.cleaning),
    )


def _fingerprint(found: Survey, form: Form, division: Division, preprocess: Preprocessor) -> str:
    """SHA-256 of the files' digests, what is read of them, and how they are divided; nothing is read for it."""
    content = [found.digest, form.label, form.numeric, form.categorical, form.text, form.image, found.classes]
    shares = [division.seed, division.test, division.validation] if division.divides else []
    digest = hashlib.sha256(json.dumps([*content, shares]).encode())
    if isinstance(preprocess, TextPreprocessor):
        # A vocabulary file that changed gives the same texts other ids.
        tokenizer = preprocess.tokenizer
        digest.update("\0".join([*tokenizer.vocabulary, *getattr(tokenizer, "bigrams", ())]).encode())
    return digest.hexdigest()
