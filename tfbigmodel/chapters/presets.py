"""Pretrained BERT encoders on disk: reading their size, loading their weights.

Two formats are read: KerasHub's preset folders, which `bert_pretraining` writes too, and Hugging Face folders. The
files may be other people's. Nothing in them is run: sizes are read from JSON, layers are made by our own code, and
weights come from `model.weights.h5` (arrays only) or `model.safetensors`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from pipelines.errors import MissingFileError, UserError
from tfbigmodel.chapters.bert import BackboneConfig, build_backbone
from tfbigmodel.chapters.hub import import_keras_hub
from tfbigmodel.chapters.preset_folders import (
    CONFIG,
    KERAS_WEIGHTS,
    SAFETENSORS,
    PresetKind,
    load_keras_weights,
    one_line,
    require,
)
from tfbigmodel.chapters.preset_folders import find_preset as find_folder
from tfbigmodel.chapters.preset_folders import read_object as read_json_object

if TYPE_CHECKING:
    import keras_hub

KERAS_TOKENIZER, KERAS_VOCABULARY = "tokenizer.json", "assets/tokenizer/vocabulary.txt"
SAFETENSORS_INDEX = "model.safetensors.index.json"
BERT = PresetKind(
    backbone="BertBackbone",
    tokenizer="BertTokenizer",
    kaggle="keras/bert/keras",
    files=(CONFIG, KERAS_WEIGHTS, KERAS_TOKENIZER, KERAS_VOCABULARY),
    example="bert_base_zh",
    other_format=f"a Hugging Face folder (config.json, {SAFETENSORS}, vocab.txt)",
    written_by="bert_pretraining",
)
# The names by which a Hugging Face config.json calls a backbone's sizes.
_HUGGING_FACE_NAMES = {
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "hidden_dim": "hidden_size",
    "intermediate_dim": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "dropout": "hidden_dropout_prob",
}


@dataclass(frozen=True)
class Preset:
    """A pretrained encoder on disk.

    Attributes:
        folder: where it is.
        format: who wrote it.
        backbone: the encoder's size.
        vocabulary_size: rows of its token embedding.
        lowercase: whether its tokenizer writes letters small first.
    """

    folder: Path
    format: Literal["keras", "hugging_face"]
    backbone: BackboneConfig
    vocabulary_size: int
    lowercase: bool


def find_preset(preset: str, download: bool = False, key: str = "model.preset") -> Path:
    """The folder of a BERT preset; see `preset_folders.find_preset`."""
    return find_folder(preset, BERT, download, key)


def read_preset(folder: Path, key: str = "model.preset") -> Preset:
    """Reads what kind of encoder a folder holds, from its JSON files.

    Args:
        folder: a Keras preset folder or a Hugging Face folder.
        key: the configuration's key, for messages.

    Raises:
        UserError: a file is missing or malformed, or the folder holds another kind of model.
    """
    config = _read_object(folder / CONFIG, key)
    if "registered_name" in config or "class_name" in config:
        return _read_keras(folder, config, key)
    if "model_type" in config:
        return _read_hugging_face(folder, config, key)
    raise UserError(f"{key}: {folder / CONFIG} is neither KerasHub's nor Hugging Face's: it has no class_name and no "
                    "model_type")  # fmt: skip


def merged_backbone(preset: Preset, given: BackboneConfig | None, key: str = "model.backbone") -> BackboneConfig:
    """A preset's size, with the dropout that a configuration asks for.

    Args:
        preset: what is there.
        given: what the configuration says, if anything.
        key: the configuration's key, for messages.

    Raises:
        UserError: the configuration asks for another size than the preset has.
    """
    wanted = {name: getattr(given, name) for name in given.model_fields_set} if given else {}
    for name, value in wanted.items():
        if name != "dropout" and value != getattr(preset.backbone, name):
            raise UserError(
                f"{key}.{name} is {value}, and {getattr(preset.backbone, name)} in {preset.folder / CONFIG}; "
                "leave it out, since the preset decides"
            )
    return preset.backbone.model_copy(update=wanted)


def check_vocabulary(preset: Preset, vocabulary: Path) -> None:
    """Checks that a tokenizer's vocabulary is the one that the preset's token embedding was trained with.

    Args:
        preset: the encoder.
        vocabulary: a file of one token per line, or a folder that holds a vocabulary.

    Raises:
        UserError: it is missing, its size is another one, or the preset's own has other tokens; the message names both
            files.
    """
    file, tokens = _vocabulary(vocabulary)
    if len(tokens) != preset.vocabulary_size:
        raise UserError(
            f"{file} has {len(tokens)} tokens, and the weights of {preset.folder} are for {preset.vocabulary_size} "
            f"({preset.folder / CONFIG}); use the vocabulary that belongs to the weights"
        )
    # Weights may come without a vocabulary; then the size is all that can be compared.
    if _vocabulary_file(preset.folder) in (None, file):
        return
    own_file, own = _vocabulary(preset.folder)
    for index, (token, expected) in enumerate(zip(tokens, own, strict=False)):
        if token != expected:
            raise UserError(
                f'{file}: token {index} is "{token}", and "{expected}" in {own_file}, which the weights were trained '
                "with; use the vocabulary that belongs to the weights"
            )


def load_backbone(preset: Preset) -> keras_hub.models.BertBackbone:
    """The pretrained encoder, in float32.

    Raises:
        UserError: a file of weights is missing or damaged, or does not fit config.json.
    """
    weights = _weights(preset)
    try:
        if preset.format == "hugging_face":
            hub = import_keras_hub(texts=True)
            return hub.models.BertBackbone.from_preset(str(preset.folder), dtype="float32", name="backbone")
        backbone = build_backbone(preset.backbone, preset.vocabulary_size, "float32", seed=0)
        load_keras_weights(backbone, weights)
        return backbone
    except UserError:
        raise
    except Exception as error:  # of h5py, safetensors, Keras and KerasHub, each in its own words
        raise UserError(
            f"{weights} cannot be loaded as {preset.folder / CONFIG} describes it: {one_line(error)}"
        ) from error


def load_into(backbone: keras_hub.models.BertBackbone, preset: Preset, vocabulary_size: int) -> str:
    """Gives an encoder a preset's weights.

    Args:
        backbone: an encoder of the preset's size, of any dtype policy, with or without low-rank additions.
        preset: where the weights are.
        vocabulary_size: different token ids of the data, for the message.

    Returns:
        One line that says what was loaded.

    Raises:
        UserError: the sizes differ, or the weights cannot be loaded.
    """
    if vocabulary_size != preset.vocabulary_size:
        raise UserError(
            f"the data's vocabulary (preprocessor/vocabulary.txt in the workdir) has {vocabulary_size} tokens, and the "
            f"weights of {preset.folder} are for {preset.vocabulary_size} ({preset.folder / CONFIG}); use the "
            "vocabulary that belongs to the weights"
        )
    source = load_backbone(preset)
    # By path, and not by Keras' own loading: that would set both factors of a low-rank addition to zero, from where no
    # gradient leads away.
    targets = {variable.path: variable for variable in backbone.weights}
    for variable in source.weights:
        targets[variable.path].assign(variable.value)
    return f"loaded {len(source.weights)} weights of {preset.folder}"


def _read_keras(folder: Path, config: dict[str, Any], key: str) -> Preset:
    # A task's configuration has the encoder's inside.
    described = config
    if described.get("class_name") != "BertBackbone" and isinstance(described.get("config"), dict):
        described = described["config"].get("backbone") or described
    if not isinstance(described, dict) or described.get("class_name") != "BertBackbone":
        raise UserError(f"{key}: {folder / CONFIG} describes a {config.get('class_name')}; expected a BertBackbone")
    sizes = described.get("config")
    if not isinstance(sizes, dict):
        raise UserError(f"{key}: {folder / CONFIG} does not say the encoder's sizes")
    if sizes.get("num_segments", 2) != 2:
        raise UserError(f"{key}: {folder / CONFIG} has {sizes['num_segments']} segments; expected 2, as BERT has")
    tokenizer = _read_object(folder / KERAS_TOKENIZER, key).get("config") or {}
    backbone = _backbone(folder, {name: sizes[name] for name in BackboneConfig.model_fields if name in sizes}, key)
    size = _vocabulary_size(folder, sizes.get("vocabulary_size"), key)
    return Preset(folder, "keras", backbone, size, bool(tokenizer.get("lowercase", False)))


def _read_hugging_face(folder: Path, config: dict[str, Any], key: str) -> Preset:
    if config["model_type"] != "bert":
        raise UserError(f"{key}: {folder / CONFIG} describes a model of type {config['model_type']}; expected bert")
    for name, expected in (("position_embedding_type", "absolute"), ("type_vocab_size", 2), ("is_decoder", False)):
        if config.get(name, expected) != expected:
            raise UserError(f"{key}: {folder / CONFIG} has {name} {config[name]}; expected {expected}, as BERT has")
    sizes = {ours: config[theirs] for ours, theirs in _HUGGING_FACE_NAMES.items() if theirs in config}
    settings = folder / "tokenizer_config.json"
    lowercase = _read_object(settings, key).get("do_lower_case", True) if settings.is_file() else True
    size = _vocabulary_size(folder, config.get("vocab_size"), key)
    return Preset(folder, "hugging_face", _backbone(folder, sizes, key), size, bool(lowercase))


def _backbone(folder: Path, sizes: dict[str, Any], key: str) -> BackboneConfig:
    # What is missing would be guessed otherwise, and the weights would not fit.
    missing = BackboneConfig.model_fields.keys() - sizes.keys() - {"dropout"}
    if missing:
        raise UserError(f"{key}: {folder / CONFIG} does not say {', '.join(sorted(missing))}")
    sizes["dropout"] = float(sizes["dropout"]) if isinstance(sizes.get("dropout"), int) else sizes.get("dropout", 0.1)
    try:
        return BackboneConfig.model_validate(sizes)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{key}: {folder / CONFIG}: {first['loc'][0]}: {first['msg']}, received {first['input']!r}"
        ) from error


def _vocabulary_size(folder: Path, size: Any, key: str) -> int:
    if type(size) is not int or size < 1:
        raise UserError(f"{key}: {folder / CONFIG} does not say the vocabulary's size; it has {size!r}")
    return size


def _vocabulary_file(folder: Path) -> Path | None:
    candidates = [folder / name for name in (KERAS_VOCABULARY, "vocab.txt", "tokenizer.json")]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _vocabulary(path: Path) -> tuple[Path, list[str]]:
    """The file of a vocabulary, and its tokens in the order of their ids."""
    file = _vocabulary_file(path) if path.is_dir() else path
    if file is None:
        raise MissingFileError(f"{path} has no vocabulary: none of {KERAS_VOCABULARY}, vocab.txt, tokenizer.json")
    require(file, "the vocabulary (data.tokenizer.vocabulary)")
    if file.suffix == ".json":
        tokenizer = _read_object(file, "data.tokenizer.vocabulary")
        try:
            added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", ())}
            ids: dict[str, int] = {**tokenizer["model"]["vocab"], **added}
            return file, sorted(ids, key=lambda token: ids[token])
        except (KeyError, TypeError) as error:
            raise UserError(f"{file} holds no vocabulary; expected model.vocab, as Hugging Face writes it") from error
    lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").removesuffix(b"\n").split(b"\n")
    return file, [line.removesuffix(b"\r").decode(errors="replace") for line in lines]


def _weights(preset: Preset) -> Path:
    """The file of the weights, or the one that names the files; none is outside of the folder."""
    folder = preset.folder
    if preset.format == "keras":
        require(folder / KERAS_WEIGHTS, "the weights")
        return folder / KERAS_WEIGHTS
    index = folder / SAFETENSORS_INDEX
    if index.is_file():
        names = _read_object(index, "model.preset").get("weight_map")
        files = set(names.values()) if isinstance(names, dict) else set()
        for name in files:
            if not isinstance(name, str) or Path(name).name != name:
                raise UserError(f"{index} names a file outside of its folder: {name}")
        return index
    weights = folder / SAFETENSORS
    if not weights.is_file() and (folder / "pytorch_model.bin").is_file():
        raise UserError(
            f"{folder} has its weights in pytorch_model.bin, which can hold code; write {SAFETENSORS} with "
            "transformers' save_pretrained, or fetch that file"
        )
    require(weights, "the weights")
    return weights


def _read_object(path: Path, key: str) -> dict[str, Any]:
    return read_json_object(path, key, BERT)
