"""The servers' own text files, and README.md: what it names exists."""

import re
from pathlib import Path

import pytest

from serving.errors import UsageError
from serving.flags import ServerOptions, parse_flags
from serving.model_config import parse_model_config, read_model_config_file
from serving.operations.metrics import DEFAULT_PATH, monitoring_path
from serving.protos import read_text_message

REPOSITORY = Path(__file__).resolve().parents[3]
DEPLOY = REPOSITORY / "serving" / "deploy"
CONFIG = DEPLOY / "config"


def test_models():
    (model,) = read_model_config_file(CONFIG / "models.config")
    assert (model.name, str(model.base_path), model.policy.kind) == ("dense", "/models/dense", "latest")


def test_the_canary_in_its_comment():
    text = re.sub(r"(?m)^    # (?=model_version_policy|version_labels)", "    ", (CONFIG / "models.config").read_text())
    (model,) = parse_model_config(text)
    assert model.policy.versions == {1, 2}
    assert model.labels == {"stable": 1, "canary": 2}


def test_batching():
    message = read_text_message(CONFIG / "batching_parameters.txt", "BatchingParameters", "batching_parameters_file")
    sizes = list(message.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == message.max_batch_size.value == 32
    assert not message.pad_variable_length_inputs


def test_monitoring():
    assert monitoring_path(ServerOptions(monitoring_config_file=str(CONFIG / "monitoring.config"))) == DEFAULT_PATH


def test_a_slip_in_them_would_be_found(tmp_path):
    file = tmp_path / "file"
    file.write_text((CONFIG / "batching_parameters.txt").read_text().replace("max_batch_size", "max_batchsize"))
    with pytest.raises(UsageError, match="max_batchsize"):
        read_text_message(file, "BatchingParameters", "batching_parameters_file")
    with pytest.raises(UsageError, match="Error parsing text-format"):
        parse_model_config((CONFIG / "models.config").read_text().replace("base_path", "basepath"))


def readme():
    return (DEPLOY / "README.md").read_text("utf-8")


def test_every_path_that_the_readme_names_exists():
    names = set(re.findall(r"`([\w./-]+/[\w.-]*|[\w-]+\.(?:py|md|yaml|yml|config|txt))`", readme()))
    # URLs, an image's name, what the reader makes, and what is in an export.
    others = ("/", "tensorflow/", "secrets/", "exported/", "assets.extra/")
    files = {name for name in names if not name.startswith(others)}
    assert len(files) > 10
    for name in files:
        places = [DEPLOY / name, DEPLOY / "config" / name, DEPLOY / "tfbigmodel" / name]
        assert any(place.exists() for place in places), name
    for path in set(re.findall(r"(serving/deploy/[\w./-]+)", readme())) - {"serving/deploy/tfbigmodel/secrets"}:
        assert (REPOSITORY / path).exists(), path


def test_every_flag_and_module_that_the_readme_names_exists():
    text = readme()
    ours = re.findall(r"`(--[a-z_]+(?:=\S+?)?)`", text)
    assert len(ours) >= 5
    for flag in ours:
        with_value = flag if "=" in flag or parse_boolean(flag) else f"{flag}=1"
        parse_flags([with_value])
    for module in re.findall(r"python -m (serving[\w.]+)", text):
        path = REPOSITORY / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def parse_boolean(flag):
    return isinstance(getattr(ServerOptions(), flag.removeprefix("--"), None), bool)
