"""Pretrained encoders on disk: found, read, checked, loaded."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.errors import UserError
from tfbigmodel.chapters.bert import BackboneConfig
from tfbigmodel.chapters.presets import (
    check_vocabulary,
    find_preset,
    load_backbone,
    load_into,
    merged_backbone,
    read_preset,
)

SIZE = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16, "max_sequence_length": 16}
KERAS_FILES = "config.json, model.weights.h5, tokenizer.json, assets/tokenizer/vocabulary.txt"


@pytest.fixture
def copied(preset, tmp_path):
    """A preset that the test may damage."""
    return Path(shutil.copytree(preset, tmp_path / "copied"))


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """KerasHub's cache, empty; without a network."""
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    return tmp_path / "cache"


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.get("config", config).update(changes)
    path.write_text(json.dumps(config))


def message_of(function, *arguments, **keywords):
    with pytest.raises(UserError) as caught:
        function(*arguments, **keywords)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_sizes_are_read_from_both_formats(keras_preset, hugging_face_preset):
    keras, hugging_face = read_preset(keras_preset), read_preset(hugging_face_preset)
    assert keras.backbone == BackboneConfig(**SIZE)
    assert hugging_face.backbone == BackboneConfig(**SIZE, dropout=0.2)
    assert keras.vocabulary_size == hugging_face.vocabulary_size == 22
    assert (keras.lowercase, hugging_face.lowercase) == (True, False)
    assert (keras.format, hugging_face.format) == ("keras", "hugging_face")


def test_a_task_has_its_encoder_inside(keras_preset, tmp_path):
    folder = Path(shutil.copytree(keras_preset, tmp_path / "task"))
    encoder = json.loads((folder / "config.json").read_text())
    task = {"class_name": "BertTextClassifier", "registered_name": "x", "config": {"backbone": encoder}}
    (folder / "config.json").write_text(json.dumps(task))
    assert read_preset(folder).backbone == BackboneConfig(**SIZE)
    assert len(load_backbone(read_preset(folder)).weights) == 39


def test_weights_are_those_of_plain_keras_hub(preset, plain_backbone, tokens):
    loaded = load_backbone(read_preset(preset))
    for name, expected in plain_backbone(tokens).items():
        np.testing.assert_allclose(loaded(tokens)[name], expected, atol=1e-6)


def test_finding_reads_no_tensorflow(keras_preset):
    code = (
        "import sys; from pathlib import Path; from tfbigmodel.chapters.presets import *; "
        f"read_preset(find_preset({str(keras_preset)!r})); "
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'keras_hub')))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_paths_become_absolute(keras_preset, monkeypatch):
    monkeypatch.chdir(keras_preset.parent)
    assert find_preset("preset") == keras_preset
    assert find_preset("./preset") == keras_preset


def test_a_workdir_stands_for_the_preset_in_it(keras_preset, tmp_path):
    (tmp_path / "config.yaml").write_text("")
    assert message_of(find_preset, str(tmp_path)) == (
        f"model.preset: {tmp_path} is a run that has written no preset; let a bert_pretraining run finish there"
    )
    shutil.copytree(keras_preset, tmp_path / "preset")
    assert find_preset(str(tmp_path)) == tmp_path / "preset"


def test_names_are_looked_up_in_keras_hubs_cache(keras_preset, cache):
    versions = cache / "models/keras/bert/keras/bert_base_zh"
    for version in ("3", "9", "10"):
        shutil.copytree(keras_preset, versions / version)
    (versions / "11").mkdir()  # a download that was broken off
    shutil.copy(keras_preset / "config.json", versions / "11")
    assert find_preset("bert_base_zh") == versions / "10"
    assert find_preset("bert_base_zh", download=True) == versions / "10", "what is there is not downloaded"


def test_a_name_that_is_not_there_says_where_to_get_it(cache):
    assert message_of(find_preset, "bert_base_zh") == (
        f"model.preset: there is no folder bert_base_zh here and no preset of that name in {cache}/models; set "
        "model.download: true to let KerasHub download it, or fetch the Kaggle model keras/bert/keras/bert_base_zh on "
        f"another machine (files {KERAS_FILES}) and put them into {cache}/models/keras/bert/keras/bert_base_zh/1, or "
        "into any folder and set model.preset to that"
    )


def test_a_download_without_a_network_is_one_line(cache):
    message = message_of(find_preset, "bert_tiny_en_uncased", download=True)
    assert message.startswith("model.preset: KerasHub could not download bert_tiny_en_uncased: ")
    assert message.endswith(
        f"; fetch the Kaggle model keras/bert/keras/bert_tiny_en_uncased on another machine (files {KERAS_FILES}) and "
        f"put them into {cache}/models/keras/bert/keras/bert_tiny_en_uncased/3, or into any folder and set "
        "model.preset to that"
    )


def test_a_name_that_nobody_knows(cache):
    message = message_of(find_preset, "bert_base_zn", download=True)
    assert message == "model.preset: KerasHub has no BERT preset bert_base_zn; did you mean bert_base_zh?"
    assert "it has all_minilm_" in message_of(find_preset, "zzz", download=True)


def test_paths_that_are_no_folder(tmp_path):
    assert message_of(find_preset, str(tmp_path / "nothing")) == (
        f"model.preset: {tmp_path}/nothing does not exist; expected a Keras preset folder, a Hugging Face folder, or "
        "the name of a KerasHub preset such as bert_base_zh"
    )
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file is no folder" in message_of(find_preset, str(tmp_path / "file"))


def test_folders_that_hold_something_else(tmp_path):
    assert message_of(read_preset, tmp_path) == (
        f"model.preset: {tmp_path}/config.json is missing; expected a Keras preset folder (files {KERAS_FILES}) or a "
        "Hugging Face folder (config.json, model.safetensors, vocab.txt)"
    )
    for text, told in [
        ("{}", "is neither KerasHub's nor Hugging Face's: it has no class_name and no model_type"),
        ("[]", "holds no object"),
        ('{"model_type": "gpt2"}', "describes a model of type gpt2; expected bert"),
        ('{"class_name": "GPT2Backbone", "config": {}}', "describes a GPT2Backbone; expected a BertBackbone"),
        ('{"class_name": "BertBackbone"}', "does not say the encoder's sizes"),
        ('{"model_type": "bert", "type_vocab_size": 1}', "has type_vocab_size 1; expected 2, as BERT has"),
        ('{"model_type": "bert", "position_embedding_type": "relative_key"}', "expected absolute, as BERT has"),
    ]:
        (tmp_path / "config.json").write_text(text)
        assert told in message_of(read_preset, tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "is not valid JSON" in message_of(read_preset, tmp_path)


def test_damaged_sizes(copied):
    name = "num_layers" if read_preset(copied).format == "keras" else "num_hidden_layers"
    change_config(copied, **{name: -1})
    assert message_of(read_preset, copied) == (
        f"model.preset: {copied}/config.json: num_layers: Input should be greater than 0, received -1"
    )
    path = copied / "config.json"
    path.write_text(path.read_text().replace(f'"{name}"', '"other"'))
    assert message_of(read_preset, copied) == f"model.preset: {copied}/config.json does not say num_layers"


def test_a_vocabulary_size_that_is_none(copied):
    change_config(copied, **{"vocabulary_size": "many", "vocab_size": "many"})
    assert "does not say the vocabulary's size; it has 'many'" in message_of(read_preset, copied)


def test_other_numbers_of_segments(keras_preset, tmp_path):
    folder = Path(shutil.copytree(keras_preset, tmp_path / "copied"))
    change_config(folder, num_segments=4)
    assert "has 4 segments; expected 2, as BERT has" in message_of(read_preset, folder)


def test_weights_that_are_missing_damaged_or_of_another_size(copied, tmp_path):
    found = read_preset(copied)
    file = copied / ("model.weights.h5" if found.format == "keras" else "model.safetensors")
    content = file.read_bytes()
    file.write_bytes(content[:1000])
    assert message_of(load_backbone, found).startswith(f"{file} cannot be loaded as {copied}/config.json describes it:")
    file.write_bytes(content)
    change_config(copied, hidden_dim=16, hidden_size=16)
    assert message_of(load_backbone, read_preset(copied)).startswith(f"{file} cannot be loaded as")
    change_config(copied, hidden_dim=8, hidden_size=8, num_layers=3, num_hidden_layers=3)
    assert message_of(load_backbone, read_preset(copied)).startswith(f"{file} cannot be loaded as")
    file.unlink()
    assert message_of(load_backbone, found) == f"{file} is missing: the weights should be there"


def test_weights_that_can_hold_code_are_not_read(hugging_face_preset, tmp_path):
    folder = Path(shutil.copytree(hugging_face_preset, tmp_path / "copied"))
    os.rename(folder / "model.safetensors", folder / "pytorch_model.bin")
    assert "pytorch_model.bin, which can hold code" in message_of(load_backbone, read_preset(folder))


def test_weights_outside_of_the_folder_are_not_read(hugging_face_preset, tmp_path):
    folder = Path(shutil.copytree(hugging_face_preset, tmp_path / "copied"))
    index = folder / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"x": "../other/model.safetensors"}}')
    assert message_of(load_backbone, read_preset(folder)) == (
        f"{index} names a file outside of its folder: ../other/model.safetensors"
    )


def test_classes_named_in_a_preset_are_not_made(keras_preset, tmp_path):
    folder = Path(shutil.copytree(keras_preset, tmp_path / "copied"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"module": "subprocess", "registered_name": "subprocess>Popen"}
    config["config"] |= {"name": "evil", "dtype": {"module": "subprocess", "class_name": "Popen", "config": {}}}
    (folder / "config.json").write_text(json.dumps(config))
    assert load_backbone(read_preset(folder)).name == "backbone"


def test_vocabularies_must_have_as_many_tokens_as_the_weights(preset, hugging_face_preset, tmp_path, plain_backbone):
    found = read_preset(preset)
    check_vocabulary(found, preset)
    check_vocabulary(found, hugging_face_preset / "vocab.txt")
    short = tmp_path / "vocabulary.txt"
    short.write_text("[PAD]\n[UNK]\n")
    assert message_of(check_vocabulary, found, short) == (
        f"{short} has 2 tokens, and the weights of {preset} are for 22 ({preset}/config.json); use the vocabulary that "
        "belongs to the weights"
    )
    assert "preprocessor/vocabulary.txt in the workdir) has 23 tokens, and the weights" in message_of(
        load_into, plain_backbone, found, 23
    )


def test_vocabularies_must_have_the_tokens_that_the_weights_were_trained_with(preset, tmp_path):
    """As many tokens in another order would give every text the wrong embeddings."""
    found = read_preset(preset)
    own = next(preset / name for name in ("assets/tokenizer/vocabulary.txt", "vocab.txt") if (preset / name).is_file())
    tokens = own.read_text(encoding="utf-8").splitlines()
    other = tmp_path / "vocabulary.txt"
    other.write_bytes("\r\n".join(tokens).encode("utf-8-sig"))
    check_vocabulary(found, other)
    tokens[7], tokens[8] = tokens[8], tokens[7]
    other.write_text("\n".join(tokens), encoding="utf-8")
    assert message_of(check_vocabulary, found, other) == (
        f'{other}: token 7 is "{tokens[7]}", and "{tokens[8]}" in {own}, which the weights were trained with; use the '
        "vocabulary that belongs to the weights"
    )


def test_vocabularies_of_fast_tokenizers(hugging_face_preset, tmp_path):
    found = read_preset(hugging_face_preset)
    assert "has no vocabulary: none of assets/tokenizer/vocabulary.txt" in message_of(check_vocabulary, found, tmp_path)
    assert "missing: the vocabulary (data.tokenizer.vocabulary)" in message_of(check_vocabulary, found, tmp_path / "x")
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    assert f"{file} holds no vocabulary; expected model.vocab" in message_of(check_vocabulary, found, tmp_path)
    tokenizer = {
        "model": {"vocab": {str(i): i for i in range(20)}},
        "added_tokens": [{"content": "0", "id": 0}, {"content": "x", "id": 20}],
    }
    file.write_text(json.dumps(tokenizer))
    assert f"{file} has 21 tokens" in message_of(check_vocabulary, found, tmp_path)


def test_a_configuration_may_change_the_dropout_only(keras_preset):
    found = read_preset(keras_preset)
    assert merged_backbone(found, None) == found.backbone
    assert merged_backbone(found, BackboneConfig(dropout=0.3)) == BackboneConfig(**SIZE, dropout=0.3)
    assert merged_backbone(found, BackboneConfig(**SIZE)) == found.backbone
    assert message_of(merged_backbone, found, BackboneConfig(num_layers=6)) == (
        f"model.backbone.num_layers is 6, and 2 in {keras_preset}/config.json; leave it out, since the preset decides"
    )
